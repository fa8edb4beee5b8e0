package report

import (
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// quiet is how long, by the events' clock, the repeats of one kind are only
// counted before a line tells of them; each line doubles it, up to longest.
const (
	quiet   = 10 * time.Second
	longest = 10 * time.Minute
)

// maxKinds is how many kinds of resets are told apart at a time.
const maxKinds = 1024

// ResetsSink explains each ending that was not graceful in a block of its own,
// once: where the same cause comes again from the same process and the same
// peer, it is counted, and a line says how often. Graceful and open ends are
// left out. Both ends of a local connection are one block.
type ResetsSink struct {
	out   output
	o     Options
	pen   pen
	zone  *time.Location
	shown int
	pairs pairing
	kinds map[resetKind]*resetCount
	order []resetKind // oldest first
}

// resetKind is what makes two endings the same.
type resetKind struct {
	cause  verdict.Cause
	comm   string
	remote netip.AddrPort // port 0 where the peer picked it
	local  uint16         // the port served, where the peer picked its own
}

type resetCount struct {
	n, told     int           // how often it came, and how many of that were told
	first, last time.Duration // CLOCK_MONOTONIC
	said, wait  time.Duration // when it was told last, and how long to wait from then
	header      string
}

// NewResets is the sink of tcpbye rst.
func NewResets(w io.Writer, o Options) *ResetsSink {
	s := &ResetsSink{out: output{w: w}, o: o, pen: pen{color: o.Color, ascii: o.ASCII}, zone: o.Location,
		kinds: map[resetKind]*resetCount{}}
	if s.zone == nil {
		s.zone = time.Local
	}
	s.pairs.show = s.ended
	return s
}

// ill says whether an ending belongs among the resets.
func ill(j *Judged) bool {
	return j != nil && j.Verdict.Class != verdict.Graceful && j.Verdict.Class != verdict.Open
}

// End implements Sink.
func (s *ResetsSink) End(j Judged) error {
	if j.Conn == nil {
		return errNoConn
	}
	if p := j.Conn.Peer; p != nil && p.Ended == 0 && j.Conn.Ended != 0 {
		if _, waits := s.pairs.held[p]; !waits {
			// The other end lives on, perhaps for days: tell what is known.
			return s.ended(&j, nil)
		}
	}
	return s.pairs.End(j)
}

// Close implements Sink.
func (s *ResetsSink) Close() error {
	if err := s.pairs.flush(); err != nil {
		return err
	}
	for _, k := range s.order {
		if err := s.again(k, s.kinds[k].last); err != nil {
			return err
		}
	}
	return s.out.err
}

func (s *ResetsSink) ended(a, b *Judged) error {
	ends := &story{ends: [2]*Judged{a, b}}
	main := ends.main()
	if !ill(main) {
		if main = ends.other(main); !ill(main) {
			return s.out.err
		}
	}
	c := main.Conn
	at := c.Ended
	if other := ends.other(main); other != nil {
		at = max(at, other.Conn.Ended) // a mini-socket may answer long after its socket was closed
	}
	if at == 0 {
		at = c.Last
	}
	// Who was quiet for long enough is told now.
	for _, k := range s.order {
		if n := s.kinds[k]; at-n.said >= n.wait {
			if err := s.again(k, at); err != nil {
				return err
			}
		}
	}
	kind := kindOf(main)
	if n := s.kinds[kind]; n != nil {
		n.n++
		n.last = at
		if at-n.said >= n.wait {
			return s.again(kind, at)
		}
		return s.out.err
	}
	if len(s.order) >= maxKinds {
		old := s.order[0]
		if err := s.again(old, at); err != nil {
			return err
		}
		s.order = slices.Delete(s.order, 0, 1)
		delete(s.kinds, old)
	}
	n := &resetCount{n: 1, told: 1, first: at, last: at, said: at, wait: quiet, header: s.between(main)}
	s.kinds[kind] = n
	s.order = append(s.order, kind)
	return s.block(newStory(a, b, s.pen), main, at, n)
}

func kindOf(j *Judged) resetKind {
	k := resetKind{cause: j.Verdict.Cause, remote: j.Conn.Remote}
	if who := headOf(j); who != nil {
		k.comm = who.Comm
	}
	if j.Conn.Open != conn.OpenActive && k.remote.IsValid() {
		k.remote = netip.AddrPortFrom(k.remote.Addr(), 0)
		k.local = j.Conn.Local.Port()
	}
	return k
}

// between names the two ends.
func (s *ResetsSink) between(j *Judged) string {
	return s.pen.short(j) + s.pen.glyphs(" → ") + addr(j.Conn.Remote)
}

func (s *ResetsSink) clock(at time.Duration) string {
	return s.o.Clock.Wall(at).In(s.zone).Format("15:04:05")
}

// again tells how often a kind came since it was told.
func (s *ResetsSink) again(k resetKind, now time.Duration) error {
	n := s.kinds[k]
	if n.n == n.told {
		return s.out.err
	}
	count := fmt.Sprintf("×%d in %s", n.n, lasting(n.last-n.first))
	n.told, n.said, n.wait = n.n, now, min(2*n.wait, longest)
	return s.headline(n.last, n.header, s.pen.text(string(k.cause))+" again", s.pen.glyphs(count), plainInk)
}

// lasting is a length of time in words, for a count over it.
func lasting(d time.Duration) string {
	switch {
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < 100*time.Second:
		return fmt.Sprintf("%d s", int(d.Round(time.Second).Seconds()))
	case d < 100*time.Minute:
		return fmt.Sprintf("%d min", int(d.Round(time.Minute).Minutes()))
	}
	return fmt.Sprintf("%d h", int(d.Round(time.Hour).Hours()))
}

// headline is a line with the time, who with whom, what, and an aside.
func (s *ResetsSink) headline(at time.Duration, who, what, aside string, in ink) error {
	limit, clock := s.o.Width, s.clock(at)
	used := width(clock) + 2 + width(who) + 3 + width(what)
	if limit > 0 && used > limit {
		who = cut(who, max(8, width(who)-(used-limit)), s.pen.ellipsis())
		what = cut(what, max(0, limit-(width(clock)+2+width(who)+3)), s.pen.ellipsis())
		used = width(clock) + 2 + width(who) + 3 + width(what)
	}
	out := s.pen.ink(clock, dim) + "  " + s.pen.ink(who, bold) + "   " + s.pen.ink(what, in)
	if aside != "" {
		end := measure
		if limit > 0 {
			end = min(limit, measure)
		}
		if gap := end - used - width(aside); gap >= 2 || limit == 0 {
			out += strings.Repeat(" ", max(2, gap)) + s.pen.ink(aside, yellow)
		} else {
			out += "\n" + strings.Repeat(" ", 10) + s.pen.ink(aside, yellow)
		}
	}
	return s.out.string(out + "\n")
}

func (s *ResetsSink) block(st *story, main *Judged, at time.Duration, n *resetCount) error {
	if s.shown++; s.shown > 1 {
		if err := s.out.string("\n"); err != nil {
			return err
		}
	}
	v := &main.Verdict
	what := map[verdict.Class]string{verdict.Aborted: "reset", verdict.TimedOut: "timed out", verdict.Refused: "refused"}[v.Class]
	if what == "" {
		what = "ended, unknown how,"
	}
	if c := main.Conn; c.Opened != 0 && at > c.Opened {
		what += " after " + seconds(at-c.Opened) + " s"
	}
	if err := s.headline(at, n.header, what, "", classInk(v)); err != nil {
		return err
	}
	p := s.pen
	room := measure
	if s.o.Width > 0 {
		room = min(room, max(s.o.Width, 20))
	}
	var doc strings.Builder
	write := func(label string, lines ...string) {
		for _, l := range lines {
			for _, part := range wrap(l, room-10) {
				doc.WriteString("  " + p.ink(pad(label, 8), dim) + part + "\n")
				label = ""
			}
		}
	}
	if !s.o.Verbose {
		st.proofs = nil // there are no rows that carry their numbers
	}
	f := st.findings(p)
	write("Who", s.who(main, at))
	write("Why", f.sentences...)
	for _, fd := range f.fields {
		label := fd.label
		if label == "Instead" {
			label = "Do"
		}
		write(label, fd.lines...)
	}
	explain := "tcpbye explain " + p.text(string(v.Cause))
	if s.o.Verbose {
		write("Proof", explain)
		doc.WriteByte('\n')
		g := newGrid(st, p, s.o.Width)
		g.heads(&doc, s.o)
		g.render(&doc)
	} else {
		write("Proof", "tcpbye rst -v, or: "+explain)
	}
	return s.out.string(doc.String())
}

// who says whose doing it was, and who had said goodbye before.
func (s *ResetsSink) who(j *Judged, at time.Duration) string {
	p, v := s.pen, &j.Verdict
	text := p.ender(v)
	for _, g := range []struct {
		fin  *verdict.Goodbye
		mine bool
	}{{v.LocalFin, true}, {v.PeerFin, false}} {
		if g.fin == nil || g.fin.At == 0 || g.fin.At > at {
			continue
		}
		if a := g.fin.Actor; a != nil && v.Actor != nil && a.PID == v.Actor.PID && g.fin.Act == v.Act {
			// The act that ended it was the FIN, and the reset only followed.
			text = p.process(a) + " closed first (FIN by " + goodbyeText(g.fin) + "), " + before(at-g.fin.At)
			continue
		}
		name := p.process(g.fin.Actor)
		switch {
		case name == "" && g.mine:
			name = "this end"
		case name == "":
			name = "the peer"
		}
		text += "; " + name + " had sent its FIN " + before(at-g.fin.At)
		if how := goodbyeText(g.fin); how != "" {
			text += ", by " + how
		}
	}
	return text
}

func before(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return "just before"
	case d < time.Second:
		return fmt.Sprintf("%d ms before", d.Milliseconds())
	}
	return seconds(d) + " s before"
}

func goodbyeText(g *verdict.Goodbye) string {
	if g.Act == verdict.ActKilled && g.Signal != 0 {
		return "dying of " + signalName(g.Signal)
	}
	return actText(g.Act, g.Signal)
}

// ender says in words whose doing an ending was.
func (p pen) ender(v *verdict.Verdict) string {
	actor := p.process(v.Actor)
	act := ""
	if v.Act != verdict.NoAct {
		act = ", " + actText(v.Act, v.Signal)
	}
	named := func(otherwise string) string {
		if actor != "" {
			return actor + act
		}
		return otherwise + act
	}
	switch v.Ender {
	case verdict.LocalProcess:
		return named("a process at this end")
	case verdict.PeerProcess:
		return named("the peer's process")
	case verdict.LocalKernel:
		return "the kernel at this end"
	case verdict.PeerKernel:
		return "the kernel at the peer's end"
	case verdict.Peer:
		return "the peer, or something that answers for it"
	case verdict.Path:
		return "something on the path; the peer's own stack did not send the reset"
	case verdict.Admin:
		return named("an administrator")
	}
	return "not known"
}
