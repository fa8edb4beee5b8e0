package report

import (
	"fmt"
	"html"
	"io"
	"strings"
)

// SVGSink draws the timelines, one under the other, as one picture that needs
// nothing from elsewhere. Since a picture's size stands at its beginning, it is
// all written by Close.
type SVGSink struct {
	pairing
	out   output
	o     Options
	body  strings.Builder
	width float64
	y     float64
}

// NewSVG is a sink for documents and slides.
func NewSVG(w io.Writer, o Options) *SVGSink {
	s := &SVGSink{out: output{w: w}, o: o, y: svgMargin, width: 320}
	s.show = s.draw
	return s
}

const (
	svgMargin = 24.0
	svgChar   = 7.83 // a column of 13 px monospace
	svgRow    = 30.0
	svgLine   = 20.0
	svgWire   = 190.0 // between the lifelines
)

// Close implements Sink.
func (s *SVGSink) Close() error {
	if err := s.flush(); err != nil {
		return err
	}
	if s.body.Len() == 0 {
		s.text(svgMargin, s.y+svgLine, "", "No connection ended.")
		s.y += svgRow
	}
	var doc strings.Builder
	fmt.Fprintf(&doc, `<?xml version="1.0" encoding="UTF-8"?>
<svg xmlns="http://www.w3.org/2000/svg" width="%.0f" height="%.0f" viewBox="0 0 %.0f %.0f" font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace" font-size="13">
<style>
.paper { fill: #ffffff } text { fill: #1c2128; white-space: pre } .dim { fill: #6a737d } .bold { font-weight: 700 } .fatal { fill: #c1121f } .good { fill: #1a7f37 } .warn { fill: #9a6700 }
.life { stroke: #d8dee4; stroke-width: 2 } .wire { stroke: #6a737d; stroke-width: 1.5; fill: none } .head { fill: #6a737d } .rst .wire { stroke: #c1121f } .rst .head { fill: #c1121f } .rst text { fill: #c1121f; font-weight: 700 } .tint { fill: #fff1f1 }
@media (prefers-color-scheme: dark) { .paper { fill: #0d1117 } text { fill: #e6edf3 } .dim { fill: #8b949e } .fatal { fill: #ff7b72 } .good { fill: #3fb950 } .warn { fill: #d29922 } .life { stroke: #30363d } .rst .wire { stroke: #ff7b72 } .rst .head { fill: #ff7b72 } .rst text { fill: #ff7b72 } .tint { fill: #2d1618 } }
</style>
<rect class="paper" width="100%%" height="100%%"/>
`, s.width, s.y, s.width, s.y)
	doc.WriteString(s.body.String())
	doc.WriteString("</svg>\n")
	return s.out.string(doc.String())
}

// text writes a line of text whose base line is at y, and sees to it that the
// picture is wide enough. The anchor "end" makes x its right end.
func (s *SVGSink) text(x, y float64, class, t string, anchor ...string) {
	if t == "" {
		return
	}
	end := x + float64(width(t))*svgChar
	attrs := ""
	if len(anchor) > 0 {
		attrs = fmt.Sprintf(` text-anchor="%s"`, anchor[0])
		switch anchor[0] {
		case "end":
			end = x
		case "middle":
			end = x + float64(width(t))*svgChar/2
		}
	}
	if class != "" {
		attrs += fmt.Sprintf(` class="%s"`, class)
	}
	s.width = max(s.width, end+svgMargin)
	fmt.Fprintf(&s.body, "<text x=\"%.1f\" y=\"%.1f\"%s>%s</text>\n", x, y, attrs, html.EscapeString(t))
}

func (s *SVGSink) draw(a, b *Judged) error {
	p := pen{}
	st := newStory(a, b, p)
	title, aside := heading(p, s.o, a, b)
	names, addrs := st.heads(p)

	lw, tw := max(width(names[left]), width(addrs[left])), 5
	for n := range st.rows {
		tw = max(tw, width(st.stamp(st.rows[n].at)))
		if i := st.rows[n].items[left]; i != nil {
			lw = max(lw, width(p.says(i)))
		}
	}
	time := svgMargin + 2*svgChar + float64(tw)*svgChar // right end of the times
	life := [2]float64{time + 2*svgChar + float64(lw)*svgChar + 12, 0}
	life[right] = life[left] + svgWire
	textAt := [2]float64{life[left] - 12, life[right] + 12}
	anchors := [2][]string{{"end"}, nil}

	s.y += svgLine
	s.text(svgMargin, s.y, "bold", title)
	s.text(svgMargin, s.y+svgLine, "dim", aside)
	s.y += 3 * svgLine
	for n := range names {
		s.text(textAt[n], s.y, "bold", names[n], anchors[n]...)
		s.text(textAt[n], s.y+18, "dim", addrs[n], anchors[n]...)
	}
	top := s.y - 14
	s.y += 18 + svgRow
	// The tint of a fatal row lies under the lifelines, those under the rest.
	rows := s.y
	for n := range st.rows {
		if st.rows[n].fatal {
			y := rows + float64(n)*svgRow
			fmt.Fprintf(&s.body, "<rect class=\"tint\" x=\"%.1f\" y=\"%.1f\" width=\"100%%\" height=\"%.1f\"/>\n", 0.0, y-20, svgRow)
		}
	}
	bottom := rows + float64(len(st.rows)-1)*svgRow + 12
	for _, x := range life {
		fmt.Fprintf(&s.body, "<line class=\"life\" x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\"/>\n", x, top, x, bottom)
	}
	for n := range st.rows {
		r := &st.rows[n]
		class := ""
		if r.fatal {
			class = "fatal"
			s.text(svgMargin, s.y, "fatal bold", "✗")
		}
		s.text(time, s.y, "dim", seconds(r.at), "end")
		for n, i := range r.items {
			if i != nil {
				s.text(textAt[n], s.y, class, p.says(i), anchors[n]...)
			}
		}
		if r.wire != nil {
			s.wire(r.wire, life, s.y)
		}
		s.y += svgRow
	}

	f := st.findings(p)
	class := "warn"
	switch f.ink {
	case green:
		class = "good"
	case redBold:
		class = "fatal"
	}
	s.y += 8
	s.text(svgMargin, s.y+4, "bold "+class, f.class+": "+f.cause+f.tail)
	s.y += svgLine + 6
	line := func(indent int, class, t string) {
		s.text(svgMargin+float64(indent)*svgChar, s.y, class, t)
	}
	room := max(60, int((life[right]-svgMargin)/svgChar)+20)
	for _, t := range f.sentences {
		for _, l := range wrap(t, room) {
			line(0, "", l)
			s.y += svgLine
		}
	}
	s.y += 4
	for _, fd := range f.fields {
		line(0, "dim", fd.label)
		for _, t := range fd.lines {
			for _, l := range wrap(t, room-10) {
				line(10, "", l)
				s.y += svgLine
			}
		}
	}
	s.y += svgMargin
	return s.out.err
}

// wire draws an arrow between the lifelines with its label on it.
func (s *SVGSink) wire(w *wire, life [2]float64, y float64) {
	from, to := life[w.from], life[w.from.other()]
	sign := 1.0
	if w.from == right {
		sign = -1
	}
	mid := (life[left] + life[right]) / 2
	half := float64(width(w.segment.String()))*svgChar/2 + 8
	class := ""
	if w.kind == segRst {
		class = ` class="rst"`
	}
	fmt.Fprintf(&s.body, "<g%s>", class)
	at := y - 4
	if w.phase != arrived {
		fmt.Fprintf(&s.body, `<line class="wire" x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f"/>`, from, at, mid-sign*half, at)
	}
	if w.phase != departed {
		fmt.Fprintf(&s.body, `<line class="wire" x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f"/>`, mid+sign*half, at, to-sign*6, at)
		fmt.Fprintf(&s.body, `<path class="head" d="M%.1f %.1f l%.1f -5 v10 z"/>`, to-sign, at, -sign*9)
	}
	s.text(mid, y, "", w.segment.String(), "middle")
	s.body.WriteString("</g>\n")
}

// says is everything that an item says, for a line of its own.
func (p pen) says(i *item) string {
	var parts []string
	for _, t := range []string{actOf(i), p.way(i.states, false), i.text, i.note, p.marks(i.marks)} {
		if t != "" {
			parts = append(parts, p.glyphs(t))
		}
	}
	return strings.Join(parts, "  ")
}
