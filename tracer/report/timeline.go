package report

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/tcpbye/tcpbye/tracer/event"
)

// TimelineSink shows the two ends of a connection side by side in time, then
// the verdict.
type TimelineSink struct {
	pairing
	out   output
	o     Options
	pen   pen
	shown int
}

// NewTimeline is a sink for people.
func NewTimeline(w io.Writer, o Options) *TimelineSink {
	s := &TimelineSink{out: output{w: w}, o: o, pen: pen{color: o.Color, ascii: o.ASCII}}
	s.show = s.print
	return s
}

// Close implements Sink.
func (s *TimelineSink) Close() error {
	if err := s.flush(); err != nil {
		return err
	}
	return s.out.err
}

func (s *TimelineSink) print(a, b *Judged) error {
	var doc strings.Builder
	if s.shown++; s.shown > 1 {
		doc.WriteByte('\n')
	}
	st := newStory(a, b, s.pen)
	g := newGrid(st, s.pen, s.o.Width)
	g.heads(&doc, s.o)
	g.render(&doc)
	if s.o.Verbose {
		st.raw(&doc, s.pen, s.o.Width)
	}
	doc.WriteByte('\n')
	st.findings(s.pen).block(&doc, s.pen, s.o.Width)
	return s.out.string(doc.String())
}

// measure is how wide running text gets: longer lines are hard to read.
const measure = 100

// fleeting is how long a story may be for its times to have microseconds: in milliseconds
// all of it would be at 0.000.
const fleeting = 10 * time.Millisecond

// stamp is a time since the first event.
func (st *story) stamp(t time.Duration) string {
	if n := len(st.rows); n > 0 && st.rows[n-1].at < fleeting {
		return strconv.FormatFloat(t.Seconds(), 'f', 6, 64)
	}
	return seconds(t)
}

// seconds is a length of time.
func seconds(t time.Duration) string {
	return strconv.FormatFloat(t.Seconds(), 'f', 3, 64)
}

// way is a state change as text; the short form leaves the old state out.
func (p pen) way(states []event.State, short bool) string {
	if len(states) == 0 {
		return ""
	}
	from := 0
	if short {
		from = len(states) - 1
	}
	var names []string
	for _, s := range states[from:] {
		names = append(names, s.String())
	}
	text := strings.Join(names, " → ")
	if short {
		text = "→ " + text
	}
	return p.glyphs(text)
}

// arrow is a segment on its way, n columns wide.
func (p pen) arrow(w *wire, n int) string {
	if w == nil {
		return ""
	}
	label := w.segment.String()
	fill := n - width(label) - 2 // a space, and the head
	if fill < 1 {
		fill = 1
	}
	line := strings.Repeat("─", fill)
	head, tail := "►", "◄"
	if w.phase == departed {
		head, tail = "─", "─"
	}
	switch {
	case w.from == left && w.phase == arrived:
		return p.glyphs(line + head + " " + label)
	case w.from == left:
		return p.glyphs(label + " " + line + head)
	case w.phase == arrived:
		return p.glyphs(label + " " + tail + line)
	}
	return p.glyphs(tail + line + " " + label)
}

// line is a row as text, not yet laid out.
type line struct {
	at    string
	fatal bool
	wire  *wire
	sides [2]texts
}

// texts are what one end shows in a line.
type texts struct {
	act   string
	way   string // the state change
	short string // the same, with the old states left out
	text  string
	note  string
	marks string
}

func (t *texts) empty() bool { return t.act == "" && t.way == "" && t.text == "" && t.note == "" }

// grid is the timeline as columns: sign, time, what the left end does, its
// state, the wire, what the right end does and its state.
type grid struct {
	pen
	st    *story
	lines []line
	limit int // columns; 0: none

	time, wire int
	act        int    // of the left end
	side       [2]int // widths
	gap        int
	two        bool // the right end has something to show
	brief      brief
}

// brief is what gives way where the terminal is narrow.
type brief uint8

const (
	briefNot   brief = iota
	briefActs        // an act at the right end goes with the new state only
	briefNotes       // notes are left out
	briefAll         // new states only
)

func newGrid(st *story, p pen, limit int) *grid {
	g := &grid{pen: p, st: st, limit: limit, two: st.ends[right] != nil}
	for _, r := range st.rows {
		l := line{at: st.stamp(r.at), fatal: r.fatal, wire: r.wire}
		for s, i := range r.items {
			if i == nil {
				continue
			}
			t := &l.sides[s]
			t.act = p.glyphs(actOf(i))
			t.way, t.short = p.way(i.states, false), p.way(i.states, true)
			t.text, t.note = p.glyphs(i.text), p.glyphs(i.note)
			t.marks = p.marks(i.marks)
			g.two = g.two || s == int(right)
		}
		g.lines = append(g.lines, l)
	}
	g.layout()
	return g
}

func joinText(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + "  " + b
}

// layout finds the widths: roomy if that fits, else with less said, else cut.
func (g *grid) layout() {
	for _, try := range []struct {
		gap   int
		brief brief
	}{{3, briefNot}, {2, briefNot}, {2, briefActs}, {2, briefNotes}, {2, briefAll}} {
		g.gap, g.brief = try.gap, try.brief
		if g.measure(); g.limit == 0 || g.total() <= g.limit {
			return
		}
	}
	// Too narrow even so: the texts give way, the right one first.
	over := g.total() - g.limit
	for _, s := range []side{right, left} {
		give := min(over, max(0, g.side[s]-8))
		g.side[s] -= give
		over -= give
	}
}

// span is a piece of text with its ink.
type span struct {
	text string
	ink  ink
}

// spans is what one side of a line shows.
func (g *grid) spans(l *line, s side) []span {
	t := &l.sides[s]
	in := plainInk
	if l.fatal {
		in = red
	}
	way := t.way
	if g.brief == briefAll || g.brief >= briefActs && s == right && t.act != "" {
		way = t.short
	}
	body := joinText(way, t.text)
	var all []span
	switch {
	case t.act != "" && body != "" && s == left:
		all = append(all, span{pad(t.act, g.act) + "  " + body, in})
	case t.act != "" && body != "":
		sep := "  "
		if way == t.short && way != "" {
			sep = " "
		}
		all = append(all, span{t.act + sep + body, in})
	case t.act != "":
		all = append(all, span{t.act, in})
	case body != "" && s == left && g.act > 0:
		all = append(all, span{strings.Repeat(" ", g.act+2), plainInk}, span{body, in})
	case body != "":
		all = append(all, span{body, in})
	}
	if t.note != "" && (g.brief < briefNotes || body == "") {
		sep := "  "
		if t.act != "" && body == "" && s == left {
			sep = strings.Repeat(" ", max(2, g.act+2-width(t.act)))
		}
		all = append(all, span{sep, plainInk}, span{t.note, dim})
	}
	if t.marks != "" {
		sep := "  "
		if g.brief > briefNot {
			sep = " "
		}
		all = append(all, span{sep, plainInk}, span{t.marks, cyan})
	}
	return all
}

func spansWidth(all []span) int {
	n := 0
	for _, sp := range all {
		n += width(sp.text)
	}
	return n
}

// measure sets the widths that the lines need.
func (g *grid) measure() {
	g.time, g.wire, g.act = 0, 0, 0
	g.side = [2]int{}
	for n := range g.lines {
		l := &g.lines[n]
		g.time = max(g.time, width(l.at))
		if l.wire != nil {
			g.wire = max(g.wire, width(l.wire.segment.String())+3)
		}
		if t := &l.sides[left]; t.act != "" && (t.way != "" || t.text != "") {
			g.act = max(g.act, width(t.act))
		}
	}
	for n := range g.lines {
		l := &g.lines[n]
		if !l.free() { // else it runs on over the wire
			g.side[left] = max(g.side[left], spansWidth(g.spans(l, left)))
		}
		g.side[right] = max(g.side[right], spansWidth(g.spans(l, right)))
	}
}

// free says whether the wire and the right end are empty.
func (l *line) free() bool { return l.wire == nil && l.sides[right].empty() }

// margin is the sign and the time.
func (g *grid) margin() int { return 1 + 1 + 1 + g.time + 2 }

// start is the column in which a side begins.
func (g *grid) start(s side) int {
	if s == left {
		return g.margin()
	}
	return g.margin() + g.side[left] + g.gap + g.wire + g.gap
}

// total is the width of the widest line.
func (g *grid) total() int {
	n := g.margin() + g.side[left]
	if g.two {
		n = g.start(right) + g.side[right]
	} else if g.wire > 0 {
		n += g.gap + g.wire
	}
	for i := range g.lines {
		if l := &g.lines[i]; l.free() {
			n = max(n, g.margin()+spansWidth(g.spans(l, left)))
		}
	}
	return n
}

// text is one side of a line, cut or filled to n columns.
func (g *grid) text(l *line, s side, n int) string {
	var b strings.Builder
	room := n
	all := g.spans(l, s)
	if over := spansWidth(all) - n; over > 0 && l.sides[s].marks != "" && len(all) > 2 {
		// What proves something stays, whatever else has to go.
		what := &all[len(all)-3]
		what.text = cut(what.text, width(what.text)-over, g.ellipsis())
	}
	for _, sp := range all {
		text := cut(sp.text, room, g.ellipsis())
		room -= width(text)
		if strings.TrimSpace(text) == "" {
			b.WriteString(text)
		} else {
			b.WriteString(g.ink(text, sp.ink))
		}
		if text != sp.text {
			break
		}
	}
	if room > 0 {
		b.WriteString(strings.Repeat(" ", room))
	}
	return b.String()
}

func (g *grid) render(doc *strings.Builder) {
	for n := range g.lines {
		l := &g.lines[n]
		sign := " "
		if l.fatal {
			sign = g.ink(g.glyphs("✗"), redBold)
		}
		out := " " + sign + " " + g.ink(fmt.Sprintf("%*s", g.time, l.at), dim) + "  "
		room := g.side[left]
		if l.free() {
			room = spansWidth(g.spans(l, left))
			if g.limit > 0 {
				room = max(1, min(room, g.limit-g.margin()))
			}
		}
		out += g.text(l, left, room)
		if !l.free() {
			in := dim
			if l.wire != nil && l.wire.segment.kind == segRst {
				in = redBold
			}
			arrow := g.arrow(l.wire, g.wire)
			out += strings.Repeat(" ", g.gap) + g.ink(arrow, in) + strings.Repeat(" ", g.wire-width(arrow)+g.gap)
			out += g.text(l, right, g.side[right])
		}
		doc.WriteString(strings.TrimRight(out, " ") + "\n")
	}
}

// heads are the lines above the columns.
func (g *grid) heads(doc *strings.Builder, o Options) {
	names, addrs := g.st.heads(g.pen)
	at := max(g.start(right), g.margin()+max(width(names[left]), width(addrs[left]))+2)
	over := max(width(names[right]), width(addrs[right]))
	if g.limit > 0 && at+over > g.limit {
		at = max(g.margin()+8, g.limit-over)
	}
	end := max(g.total(), at+over)
	if g.limit > 0 {
		end = min(end, g.limit)
	}

	title, aside := heading(g.pen, o, g.st.ends[left], g.st.ends[right])
	if aside != "" && g.limit > 0 && width(title)+2+width(aside) > g.limit {
		aside = ""
	}
	if g.limit > 0 {
		title = cut(title, g.limit, g.ellipsis())
	}
	doc.WriteString(g.ink(title, bold))
	if aside != "" {
		doc.WriteString(strings.Repeat(" ", max(2, end-width(title)-width(aside))) + g.ink(aside, dim))
	}
	doc.WriteString("\n\n")

	for n, texts := range [][2]string{names, addrs} {
		in := bold
		if n == 1 {
			in = dim
		}
		l := cutMiddle(texts[left], at-g.margin()-2, g.ellipsis())
		r := cutMiddle(texts[right], max(1, end-at), g.ellipsis())
		doc.WriteString(strings.Repeat(" ", g.margin()) + g.ink(l, in) +
			strings.Repeat(" ", max(1, at-g.margin()-width(l))) + g.ink(r, in) + "\n")
	}
	doc.WriteString(" " + g.ink(strings.Repeat(g.glyphs("─"), end-1), dim) + "\n")
}

// name is the process that stands for an end.
func (p pen) name(j *Judged) string {
	if host := j.Conn.Host; host != "" {
		return p.nameHere(j) + "  on " + p.own(host)
	}
	return p.nameHere(j)
}

func (p pen) nameHere(j *Judged) string {
	who := headOf(j)
	if who == nil {
		for i := range j.Conn.Events {
			if j.Conn.Events[i].Hook == event.HookChildForget {
				return "never accepted"
			}
		}
		return "process not seen"
	}
	if who.Comm == "" {
		return "pid " + event.PIDText(who.PID)
	}
	return p.own(who.Comm) + "  pid " + event.PIDText(who.PID)
}

// short is NAME/PID of an end, or its address.
func (p pen) short(j *Judged) string {
	if who := headOf(j); who != nil {
		return p.process(who)
	}
	return addr(j.Conn.Local) + p.at(j.Conn.Host)
}

// heading is the title of a connection.
func heading(p pen, o Options, a, b *Judged) (title, aside string) {
	if o.Heading != nil {
		title, aside = o.Heading(a, b)
		return p.text(title), p.text(aside)
	}
	to := addr(a.Conn.Remote)
	if b != nil {
		to = p.short(b)
	}
	title = p.short(a) + p.glyphs(" → ") + to
	if a.Scenario != "" {
		title = p.text(a.Scenario) + p.glyphs(" · ") + title
	}
	return title, o.wall(a.Conn.First).Format("2006-01-02 " + timeOfDay)
}
