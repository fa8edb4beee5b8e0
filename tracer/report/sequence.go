package report

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// SequenceSink draws the segments that closed a connection as a sequence
// diagram.
type SequenceSink struct {
	pairing
	out   output
	o     Options
	pen   pen
	shown int
}

// NewSequence is a sink for people.
func NewSequence(w io.Writer, o Options) *SequenceSink {
	s := &SequenceSink{out: output{w: w}, o: o, pen: pen{color: o.Color, ascii: o.ASCII}}
	s.show = s.draw
	return s
}

// Close implements Sink.
func (s *SequenceSink) Close() error {
	if err := s.flush(); err != nil {
		return err
	}
	return s.out.err
}

// pause is how long nothing must happen to be drawn as a gap.
const pause = 50 * time.Millisecond

// closing says whether a row shows a segment that has to do with the end, or
// is the end.
func (r *row) closing() bool {
	return r.fatal || r.wire != nil && r.wire.kind != segSyn && r.wire.kind != segSynAck && !r.items[r.wire.from].is(kOpening) &&
		!r.items[r.wire.from.other()].is(kOpening)
}

// reached is what a row says of an end in few words: the act, or the new state.
func (p pen) reached(i *item) string {
	if i == nil {
		return ""
	}
	text := p.glyphs(i.act)
	if text == "" {
		if text = p.way(i.states, true); text == "" {
			text = p.glyphs(i.text)
		}
	}
	if i.act == "timer" && i.note != "" {
		text += ": " + p.glyphs(i.note)
	}
	return strings.TrimSuffix(text+" "+p.marks(i.marks), " ")
}

func (s *SequenceSink) draw(a, b *Judged) error {
	p := s.pen
	st := newStory(a, b, p)
	names, addrs := st.heads(p)
	timeWidth, leftWidth, rightWidth := 5, 0, max(width(names[right]), width(addrs[right]))
	leftWidth = max(width(names[left]), width(addrs[left]))
	label, closing := 3, 0
	for n := range st.rows {
		r := &st.rows[n]
		if !r.closing() {
			continue
		}
		closing++
		timeWidth = max(timeWidth, width(st.stamp(r.at)))
		leftWidth = max(leftWidth, width(p.reached(r.items[left])))
		rightWidth = max(rightWidth, width(p.reached(r.items[right])))
		if r.wire != nil {
			label = max(label, width(r.wire.segment.String()))
		}
	}
	margin := 1 + 1 + 1 + timeWidth + 2
	span := label + 2 + 16 // between the two lifelines
	if w := s.o.Width; w > 0 {
		if over := margin + leftWidth + 1 + 1 + span + 1 + 1 + rightWidth - w; over > 0 {
			span = max(label+2+6, span-over)
			if over = margin + leftWidth + span + 4 + rightWidth - w; over > 0 {
				rightWidth = max(8, rightWidth-over)
				leftWidth = max(8, min(leftWidth, w-margin-span-4-rightWidth))
			}
		}
	}
	cutTo := func(t string, n int) string { return cutMiddle(t, n, p.ellipsis()) }
	fill := func(t string) string { return strings.Repeat(" ", max(0, leftWidth-width(t))) }

	var doc strings.Builder
	if s.shown++; s.shown > 1 {
		doc.WriteByte('\n')
	}
	title, aside := heading(p, s.o, a, b)
	full := margin + leftWidth + 1 + 1 + span + 1 + 1 + rightWidth
	if s.o.Width > 0 {
		title = cut(title, s.o.Width, p.ellipsis())
		if width(title)+2+width(aside) > s.o.Width {
			aside = ""
		}
	}
	doc.WriteString(p.ink(title, bold))
	if aside != "" {
		doc.WriteString(strings.Repeat(" ", max(2, full-width(title)-width(aside))) + p.ink(aside, dim))
	}
	doc.WriteString("\n\n")
	for n, texts := range [][2]string{names, addrs} {
		in := bold
		if n == 1 {
			in = dim
		}
		l, r := cutTo(texts[left], leftWidth), cutTo(texts[right], rightWidth)
		doc.WriteString(strings.Repeat(" ", margin) + fill(l) + p.ink(l, in) + strings.Repeat(" ", span+4) + p.ink(r, in) + "\n")
	}
	bar := p.glyphs("│")
	gap := func() {
		doc.WriteString(strings.Repeat(" ", margin+leftWidth+1) + p.ink(bar+strings.Repeat(" ", span)+bar, dim) + "\n")
	}
	gap()
	last := time.Duration(-1)
	for n := range st.rows {
		r := &st.rows[n]
		if !r.closing() {
			continue
		}
		if last >= 0 && r.at-last > pause {
			gap()
		}
		last = r.at
		sign, in, arrow := " ", plainInk, dim
		if r.fatal {
			sign, in = p.ink(p.glyphs("✗"), redBold), red
		}
		if r.wire != nil && r.wire.kind == segRst {
			arrow = redBold
		}
		l, rt := cutTo(p.reached(r.items[left]), leftWidth), cutTo(p.reached(r.items[right]), rightWidth)
		line := " " + sign + " " + p.ink(fmt.Sprintf("%*s", timeWidth, st.stamp(r.at)), dim) + "  " + fill(l) + p.ink(l, in) +
			" " + p.ink(p.rung(r.wire, span), arrow) + " " + p.ink(rt, in)
		doc.WriteString(strings.TrimRight(line, " ") + "\n")
	}
	if closing == 0 {
		doc.WriteString(strings.Repeat(" ", margin) + "no segment was seen that closed it\n")
	} else {
		gap()
	}
	f := st.findings(p)
	doc.WriteString("\n " + p.ink("VERDICT", bold) + "   " + p.ink(f.class, f.ink) + ": " + f.cause + f.tail + "\n")
	return s.out.string(doc.String())
}

// rung is an arrow from one lifeline to the other, both included; n columns
// lie between them. What is only sent, or only arrives, is half an arrow.
func (p pen) rung(w *wire, n int) string {
	if w == nil {
		return p.glyphs("│" + strings.Repeat(" ", n) + "│")
	}
	label := " " + w.segment.String() + " "
	free := max(2, n-width(label))
	halves := [2]int{free / 2, free - free/2} // of the line, left and right of the label
	var parts [2]string
	for s := range parts {
		switch sending := side(s) == w.from; {
		case sending && w.phase == arrived, !sending && w.phase == departed:
			parts[s] = strings.Repeat(" ", halves[s])
		case sending:
			parts[s] = strings.Repeat("─", halves[s])
		case side(s) == right:
			parts[s] = strings.Repeat("─", halves[s]-1) + "►"
		default:
			parts[s] = "◄" + strings.Repeat("─", halves[s]-1)
		}
	}
	ends := [2]string{"│", "│"}
	if w.phase != arrived {
		ends[w.from] = [2]string{"├", "┤"}[w.from]
	}
	return p.glyphs(ends[left] + parts[left] + label + parts[right] + ends[right])
}

// heads are the names and addresses of the two ends.
func (st *story) heads(p pen) (names, addrs [2]string) {
	me := st.ends[left]
	names[left], addrs[left] = p.name(me), addr(me.Conn.Local)
	if b := st.ends[right]; b != nil {
		names[right], addrs[right] = p.name(b), addr(b.Conn.Local)
	} else {
		names[right], addrs[right] = "peer", addr(me.Conn.Remote)
		if me.Joint != nil {
			names[right] += "  on " + p.own(me.Joint.Host)
		}
	}
	return names, addrs
}
