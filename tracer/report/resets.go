package report

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
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

// maxPeers is how many peers have a block each for the same cause, process and
// service; what others bring is counted together.
const maxPeers = 4

// ResetsSink explains each ending that was not graceful in a block of its own,
// once: where the same cause comes again from the same process and the same
// peer, it is counted, and a line says how often, and how old and how idle those
// connections were. Open ends are left out, and graceful ones but for those with
// a harmless reset: whoever does not want them keeps them away. Both ends of a
// local connection are one block.
type ResetsSink struct {
	out   output
	o     Options
	pen   pen
	shown int
	pairs pairing
	kinds map[resetKind]*resetCount
	order []*resetCount     // oldest first
	peers map[resetKind]int // how many have a block; the remote address is not set
	alone partners          // whose other end lived on when they were told of
	now   time.Duration
	days  days
	timed bool // Tick says what time it is, and not the endings
}

// resetCount counts the endings of a kind.
type resetCount struct {
	ends        owners
	kinds       []resetKind   // under which it is found; the first is what it is
	guess       bool          // it may be the second
	n, told     int           // how often it came, and how many of that were told
	first, last time.Duration // CLOCK_MONOTONIC
	said, wait  time.Duration // when it was told last, and how long to wait from then
	header      string
	ages, idles spread
	lost        uint64
	unknown     bool // of some it is not known what was lost
}

// NewResets is the sink of tcpbye rst.
func NewResets(w io.Writer, o Options) *ResetsSink {
	s := &ResetsSink{out: output{w: w}, o: o, pen: pen{color: o.Color, ascii: o.ASCII},
		kinds: map[resetKind]*resetCount{}, peers: map[resetKind]int{}}
	s.pairs.show = s.ended
	return s
}

// ill says whether an ending belongs among the resets.
func ill(j *Judged) bool {
	return j != nil && j.Verdict.Class != verdict.Open && (j.Verdict.Class != verdict.Graceful || j.Verdict.Harmless || j.Verdict.Unanswered != nil)
}

// End implements Sink.
func (s *ResetsSink) End(j Judged) error {
	if j.Conn == nil {
		return errNoConn
	}
	if cause, told := s.alone.take(j.Conn); told {
		if cause == j.Verdict.Cause || !ill(&j) {
			return s.out.err
		}
		return s.ended(&j, nil) // it came to an end of its own
	}
	if p := j.Conn.Peer; p != nil && p.Ended == 0 && j.Conn.Ended != 0 {
		if _, waits := s.pairs.held[p]; !waits {
			// The other end lives on, perhaps for days: tell what is known.
			s.alone.put(p, j.Verdict.Cause)
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
	for _, n := range s.order {
		if err := s.again(n, n.last); err != nil {
			return err
		}
	}
	return s.out.err
}

// Tick tells of the repeats for which it is time, by CLOCK_MONOTONIC. What is told
// depends on the times and the endings only, and not on how often it is called.
// Where nobody calls it, the endings' own times must do.
func (s *ResetsSink) Tick(now time.Duration) error {
	s.timed = true
	return s.advance(now)
}

func (s *ResetsSink) advance(now time.Duration) error {
	for {
		due, ok := s.Due()
		if !ok || due > now {
			break
		}
		s.now = max(s.now, due)
		if err := s.again(s.next(), due); err != nil {
			return err
		}
	}
	s.now = max(s.now, now)
	return s.out.err
}

// Due is when the next repeats are told of; false: there are none.
func (s *ResetsSink) Due() (time.Duration, bool) {
	n := s.next()
	if n == nil {
		return 0, false
	}
	return n.said + n.wait, true
}

// next is the kind whose repeats are told of next; nil: none.
func (s *ResetsSink) next() (first *resetCount) {
	for _, n := range s.order {
		if n.n > n.told && (first == nil || n.said+n.wait < first.said+first.wait) {
			first = n
		}
	}
	return first
}

func (s *ResetsSink) ended(a, b *Judged) error {
	ends := &story{ends: [2]*Judged{a, b}}
	main := ends.main()
	if !ill(main) {
		if main = ends.other(main); !ill(main) {
			return s.out.err
		}
	}
	other := ends.other(main)
	at := endedAt(main, other)
	if !s.timed {
		if err := s.advance(at); err != nil {
			return err
		}
	}
	kinds := kindsOf(main)
	n := s.counted(kinds, main)
	if n == nil {
		for _, k := range kinds {
			if group := k.anyPeer(); s.peers[group] >= maxPeers {
				kinds = []resetKind{group}
				n = s.counted(kinds, main)
				break
			}
		}
	}
	if n != nil {
		n.add(main, other, at)
		if s.now-n.said >= n.wait {
			return s.again(n, s.now)
		}
		return s.out.err
	}
	if len(s.order) >= maxKinds {
		old := s.order[0]
		if err := s.again(old, s.now); err != nil {
			return err
		}
		s.order = slices.Delete(s.order, 0, 1)
		for _, k := range old.kinds {
			if s.kinds[k] == old {
				delete(s.kinds, k)
			}
		}
		clear(s.peers)
	}
	n = &resetCount{kinds: kinds, guess: len(kinds) > 1, first: at, last: at, said: s.now, wait: quiet}
	n.header, n.ends = s.between(main, kinds[0]), ownersOf(main)
	n.add(main, other, at)
	for _, k := range kinds {
		s.kinds[k] = n
	}
	s.order = append(s.order, n)
	if !kinds[0].remote.IsValid() {
		return s.out.err // its like has been explained for others
	}
	n.told = 1
	for _, k := range kinds {
		s.peers[k.anyPeer()]++
	}
	return s.block(newStory(a, b, s.pen), main, n)
}

// counted finds what counts an ending of one of these kinds; nil: it is the first.
func (s *ResetsSink) counted(kinds []resetKind, main *Judged) *resetCount {
	for _, k := range kinds {
		n := s.kinds[k]
		if n == nil {
			continue
		}
		if n.guess {
			// The port that two of them have is the service's.
			n.guess, n.kinds = false, append([]resetKind{k}, n.kinds...)
			n.header = s.between(main, k)
		}
		return n
	}
	return nil
}

// between names the two ends of an ending of that kind.
func (s *ResetsSink) between(j *Judged, k resetKind) string {
	p := sides(j)
	if k.port != p.service.addr.Port() {
		p = p.swapped()
	}
	return p.between(s.pen, k)
}

// partners remembers a bounded number of ends and why they were told of.
type partners struct {
	causes map[*conn.Connection]verdict.Cause
}

func (e *partners) put(c *conn.Connection, cause verdict.Cause) {
	if e.causes == nil || len(e.causes) >= maxHeld {
		e.causes = map[*conn.Connection]verdict.Cause{}
	}
	e.causes[c] = cause
}

func (e *partners) take(c *conn.Connection) (verdict.Cause, bool) {
	cause, ok := e.causes[c]
	delete(e.causes, c)
	return cause, ok
}

// endedAt is when a connection ended: with the RST that came in, if one did. A
// mini-socket may send it long after its socket was closed.
func endedAt(main, other *Judged) time.Duration {
	at := main.Conn.Ended
	if r := main.Verdict.Reset; r != nil {
		return r.At
	}
	if other != nil {
		if r := other.Verdict.Reset; r != nil {
			return r.At
		}
		at = max(at, other.Conn.Ended)
	}
	if at == 0 {
		at = main.Conn.Last
	}
	return at
}

// add counts an ending; other is the other end, where it is known.
func (n *resetCount) add(j, other *Judged, at time.Duration) {
	n.n++
	// They are not told of in the order in which they ended.
	n.first, n.last = min(n.first, at), max(n.last, at)
	n.ages.add(j.Verdict.Age)
	n.idles.add(j.Verdict.Idle)
	for _, end := range []*Judged{j, other} {
		if end != nil {
			lost, unknown := lostBytes(end.Verdict.Lost)
			n.lost += lost
			n.unknown = n.unknown || unknown
		}
	}
}

func (s *ResetsSink) clock(at time.Duration) string {
	return s.o.wall(at).Format(timeOfDay)
}

// again tells how often a kind came since it was told.
func (s *ResetsSink) again(n *resetCount, now time.Duration) error {
	if n.n == n.told {
		return s.out.err
	}
	count := fmt.Sprintf("×%d", n.n)
	if n.n > 1 && n.last > n.first {
		count += " in " + lasting(n.last-n.first)
	}
	n.told, n.said, n.wait = n.n, now, min(2*n.wait, longest)
	if err := s.headline(n.last, n.header, s.pen.text(n.kinds[0].what())+" again", s.pen.glyphs(count), plainInk); err != nil {
		return err
	}
	var doc strings.Builder
	for _, l := range wrap(s.pen.glyphs(n.alike(n.kinds[0].cause)), s.room()-10) {
		doc.WriteString(strings.Repeat(" ", 10) + l + "\n")
	}
	return s.out.string(doc.String())
}

// alike says what the endings of a kind have in common.
func (n *resetCount) alike(cause verdict.Cause) string {
	var parts []string
	span := verdict.SpanAge
	if cause == verdict.ConnectCancelled || cause == verdict.ConnectTimeout {
		span = verdict.SpanConnect
	}
	if n.ages.n > 0 {
		parts = append(parts, "age "+n.ages.String())
	}
	if n.idles.n > 0 && n.idles.max > 0 {
		parts = append(parts, "idle "+n.idles.String())
	}
	switch {
	case n.unknown && n.lost > 0:
		parts = append(parts, "at least "+bytesText(n.lost)+" lost")
	case n.lost > 0:
		parts = append(parts, bytesText(n.lost)+" lost")
	}
	// What is the same each time is a sentence after the others.
	with := func(sentence string) string {
		if len(parts) == 0 {
			return sentence
		}
		return strings.Join(parts, ", ") + ". " + sentence
	}
	// A connection that was never used is as old as it is idle: the first says it.
	if at, ok := n.idles.fixed(); ok {
		return with(sameTime("silence", verdict.SpanIdle, at, n.ends))
	}
	if at, ok := n.ages.fixed(); ok {
		return with(sameTime("age", span, at, n.ends))
	}
	return strings.Join(parts, ", ")
}

// sameTime says what it means that a time is always the same.
func sameTime(what string, span verdict.Span, at time.Duration, of owners) string {
	text := "The same " + what + " each time is a timer"
	if found := of.find(span, at); len(found) > 0 {
		return text + "; by default so long: " + programs(found) + "."
	}
	if of.here {
		return text + ", of one of the two programs."
	}
	return text + ", of a program or of a device on the path."
}

// owners are the processes at the ends of a connection.
type owners struct {
	names []string
	here  bool // both ends are on this machine
}

func ownersOf(j *Judged) owners {
	p := sides(j)
	o := owners{here: p.client.here && p.service.here}
	for _, end := range []party{p.client, p.service} {
		switch {
		case !end.here:
		case end.who == nil:
			o.names = append(o.names, "")
		default:
			o.names = append(o.names, end.who.Comm)
		}
	}
	return o
}

// find lists whose timers a time can be.
func (o owners) find(span verdict.Span, d time.Duration) []verdict.Timeout {
	return slices.DeleteFunc(verdict.FindTimeouts(span, d), func(t verdict.Timeout) bool { return !t.CanBe(o.here, o.names...) })
}

func programs(found []verdict.Timeout) string {
	var names []string
	for _, t := range found {
		names = append(names, t.Program+" ("+t.Setting+")")
	}
	return strings.Join(names, ", ")
}

func (s *ResetsSink) room() int {
	if s.o.Width > 0 {
		return min(measure, max(s.o.Width, 20))
	}
	return measure
}

// lasting is a length of time in words, for a count over it.
func lasting(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return fmt.Sprintf("%d µs", max(d, 0).Microseconds())
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
	if err := s.out.string(s.days.line(s.pen, s.o.wall(at))); err != nil {
		return err
	}
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
		if gap := end - used - width(aside); gap >= 3 || limit == 0 {
			out += strings.Repeat(" ", max(3, gap)) + s.pen.ink(aside, yellow)
		} else {
			out += "\n" + strings.Repeat(" ", 10) + s.pen.ink(aside, yellow)
		}
	}
	return s.out.string(out + "\n")
}

func (s *ResetsSink) block(st *story, main *Judged, n *resetCount) error {
	if s.shown++; s.shown > 1 {
		if err := s.out.string("\n"); err != nil {
			return err
		}
	}
	v := &main.Verdict
	at := st.ended(main)
	in := classInk(v)
	if unanswered(v) {
		in = yellow
	}
	if err := s.headline(at, n.header, s.pen.glyphs(ended(main, at)), counts(v.Unanswered), in); err != nil {
		return err
	}
	p := s.pen
	room := s.room()
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
	for _, fd := range st.explained(p, main, at, n.ends, s.o.Verbose) {
		write(fd.label, fd.lines...)
	}
	explain := "tcpbye explain " + p.text(whatOf(v.Cause, unanswered(v)))
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

// explained is all that there is to say of an ending; at is when it ended.
func (st *story) explained(p pen, main *Judged, at time.Duration, ends owners, verbose bool) (all []field) {
	add := func(label string, lines ...string) {
		lines = slices.DeleteFunc(lines, func(l string) bool { return l == "" })
		if len(lines) > 0 {
			all = append(all, field{label, lines})
		}
	}
	v := &main.Verdict
	f := st.findings(p)
	add("Who", p.who(main, at))
	add("Why", f.sentences...)
	add("Timer", p.glyphs(timer(v, ends)))
	add("Bytes", moved(st, p, main))
	for _, fd := range f.fields {
		label := fd.label
		if label == "Instead" {
			label = "Do"
		}
		add(label, fd.lines...)
		if label == "Lost" {
			add("Retry", again(p, v))
		}
	}
	if r := v.Reset; r != nil && r.Seen && (verbose || r.Elsewhere()) {
		add("Segment", wireText(main))
	}
	return all
}

// ended is the moment that the timeline marks as the end; where it marks none, that
// of the connection.
func (st *story) ended(main *Judged) time.Duration {
	for n := range st.rows {
		if st.rows[n].fatal {
			return st.zero + st.rows[n].at
		}
	}
	if v := &main.Verdict; unanswered(v) {
		// When the service let go of it, and not when the client followed.
		at := endedAt(main, nil)
		for _, fin := range []*verdict.Goodbye{v.LocalFin, v.PeerFin} {
			if fin != nil && fin.At != 0 {
				at = min(at, fin.At)
			}
		}
		return at
	}
	return endedAt(main, st.other(main))
}

// ended says how and when a connection ended, for a headline.
func ended(j *Judged, at time.Duration) string {
	v, c := &j.Verdict, j.Conn
	what := map[verdict.Class]string{verdict.Aborted: "reset", verdict.TimedOut: "timed out", verdict.Refused: "refused",
		verdict.Graceful: "a late reset, harmless"}[v.Class]
	switch {
	case unanswered(v):
		what = map[verdict.Act]string{verdict.ActKilled: "killed", verdict.ActExit: "exited"}[v.Unanswered.Act]
		if what == "" {
			what = "closed"
		}
		what += " without an answer"
	case v.Probe:
		what = "a health check or a scan, reset"
	case what == "" && v.Reset != nil:
		what = "reset, unknown why"
	case what == "":
		what = "ended, unknown how"
	}
	// As the sentence counts: from the SYN, where both ends are here.
	opened := c.Opened
	if p := c.Peer; p != nil && p.Opened != 0 && (opened == 0 || p.Opened < opened) {
		opened = p.Opened
	}
	if age := at - opened; opened != 0 && age >= 0 {
		if strings.Contains(what, ",") && !v.Probe {
			what += ","
		}
		what += " after " + shortly(age)
	}
	if v.Idle != nil && *v.Idle >= time.Second {
		what += ", the last " + seconds(*v.Idle) + " s idle"
	}
	return what
}

// unanswered says whether that an answer is missing is what is wrong with an ending.
func unanswered(v *verdict.Verdict) bool {
	return v.Unanswered != nil && v.Class == verdict.Graceful && !v.Harmless
}

// counts says for a headline what the service had received and sent.
func counts(u *verdict.Unanswered) string {
	if u == nil || u.Received == nil || u.Sent == nil {
		return ""
	}
	return fmt.Sprintf("received %s, sent %d", bytesText(*u.Received), *u.Sent)
}

// shortly is a time in a headline: seconds as in the timeline, or microseconds.
func shortly(d time.Duration) string {
	if d >= 0 && d < time.Millisecond {
		return itoa(int(d.Microseconds())) + " µs"
	}
	return seconds(d) + " s"
}

// timer says whose default a time is. One time only may be chance.
func timer(v *verdict.Verdict, of owners) string {
	const least = 2 * time.Second // below, too much is of that length by chance
	if v.Idle != nil && *v.Idle >= least {
		if found := of.find(verdict.SpanIdle, *v.Idle); len(found) > 0 {
			return "the silence was as long as a timeout that is the default of " + programs(found)
		}
	}
	span := verdict.SpanAge
	if v.Cause == verdict.ConnectCancelled || v.Cause == verdict.ConnectTimeout {
		span = verdict.SpanConnect
	}
	if v.Age != nil && *v.Age >= least {
		if found := of.find(span, *v.Age); len(found) > 0 {
			return "it took as long as a timeout that is the default of " + programs(found)
		}
	}
	return ""
}

// moved counts the payload each way.
func moved(st *story, p pen, j *Judged) string {
	b := j.Verdict.Bytes
	name := st.label(p, j)
	var lost uint64
	for _, end := range st.ends {
		if end != nil {
			n, _ := lostBytes(end.Verdict.Lost)
			lost += n
		}
	}
	switch {
	case b.Sent != nil && b.Received != nil && *b.Sent == 0 && *b.Received == 0 && lost > 0:
		return "none arrived, either way"
	case b.Sent != nil && b.Received != nil && *b.Sent == 0 && *b.Received == 0:
		return "none, either way"
	case b.Sent != nil && b.Received != nil:
		return name + " sent " + itoa64(*b.Sent) + " and received " + itoa64(*b.Received)
	case b.Received != nil:
		return name + " received " + itoa64(*b.Received)
	}
	return ""
}

func itoa64(n uint64) string { return strconv.FormatUint(n, 10) }

// again says whether what was asked can be asked again.
func again(p pen, v *verdict.Verdict) string {
	if v.RetryWhy == "" {
		return ""
	}
	what := map[verdict.Retry]string{verdict.RetrySafe: "safe", verdict.RetryUnsafe: "not safe"}[v.Retry]
	if what == "" {
		what = "not known to be safe"
	}
	return what + ": " + p.text(v.RetryWhy)
}

// wireText is the RST as it came, beside what the peer sent in the handshake.
func wireText(j *Judged) string {
	r, ttl := j.Verdict.Reset, "TTL"
	if j.Conn.Family == event.IPv6 && !j.Conn.Remote.Addr().Is4() {
		ttl = "hop limit"
	}
	seen := r.Handshake.TTL != 0
	number := func(name string, n, before uint64) string {
		text := name + " " + itoa64(n)
		if seen {
			text += " (handshake " + itoa64(before) + ")"
		}
		return text
	}
	s, h := r.Segment, r.Handshake
	parts := []string{s.Flags.String(), number(ttl, uint64(s.TTL), uint64(h.TTL))}
	if ttl == "TTL" {
		parts = append(parts, number("IP ID", uint64(s.IPID), uint64(h.IPID)))
	}
	parts = append(parts, number("window", uint64(s.Window), uint64(h.Window)))
	switch t := r.Timestamps; {
	case !t.Agreed:
	case t.Carried:
		parts = append(parts, fmt.Sprintf("timestamp %d (last before %d)", t.Value, t.Recent))
	default:
		parts = append(parts, "no timestamp, though the connection has them")
	}
	switch {
	case r.Offset == nil:
	case *r.Offset == 0:
		parts = append(parts, "sequence number as expected")
	default:
		parts = append(parts, fmt.Sprintf("sequence number %+d from the expected one", *r.Offset))
	}
	return strings.Join(parts, ", ")
}

// who says whose doing it was, and who had said goodbye before.
func (p pen) who(j *Judged, at time.Duration) string {
	v := &j.Verdict
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
		return "dying of " + event.SignalName(g.Signal)
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
		if v.Confidence != verdict.Certain {
			return "something on the path, more likely than the peer"
		}
		return "something on the path; the peer's own stack did not send the reset"
	case verdict.Admin:
		return named("an administrator")
	}
	if v.Reset != nil {
		return "the peer, or something that answers for it"
	}
	return "not known"
}
