package report

import (
	"fmt"
	"io"
	"strconv"
	"strings"
)

// MermaidSink writes each connection as a Mermaid sequence diagram in a fenced
// block, which is Markdown: several fit in one file, and forges draw them.
type MermaidSink struct {
	pairing
	out   output
	o     Options
	shown int
}

// NewMermaid is a sink for documents.
func NewMermaid(w io.Writer, o Options) *MermaidSink {
	s := &MermaidSink{out: output{w: w}, o: o}
	s.show = s.draw
	return s
}

// Close implements Sink.
func (s *MermaidSink) Close() error {
	if err := s.flush(); err != nil {
		return err
	}
	return s.out.err
}

func (s *MermaidSink) draw(a, b *Judged) error {
	p := pen{}
	st := newStory(a, b, p)
	names, addrs := st.heads(p)
	var doc strings.Builder
	if s.shown++; s.shown > 1 {
		doc.WriteByte('\n')
	}
	doc.WriteString("```mermaid\nsequenceDiagram\n")
	who := [2]string{"L", "R"}
	for n := range names {
		fmt.Fprintf(&doc, "    participant %s as %s<br/>%s\n", who[n], mermaid(strings.Join(strings.Fields(names[n]), " ")), mermaid(addrs[n]))
	}
	for n := range st.rows {
		r := &st.rows[n]
		if r.wire == nil {
			for side, i := range r.items {
				if i != nil {
					fmt.Fprintf(&doc, "    Note over %s: %s %s\n", who[side], st.stamp(r.at), mermaid(p.says(i)))
				}
			}
			continue
		}
		w := r.wire
		head := "->>"
		if w.kind == segRst {
			head = "-x"
		}
		text := w.segment.String()
		if from := r.items[w.from]; from != nil {
			text = strings.TrimSuffix(text+", "+p.says(from), ", ")
		}
		switch w.phase {
		case departed:
			text += " (on its way)"
		case arrived:
			text += " (arrives)"
		}
		fmt.Fprintf(&doc, "    %s%s%s: %s %s\n", who[w.from], head, who[w.from.other()], st.stamp(r.at), mermaid(text))
		if to := r.items[w.from.other()]; to != nil {
			fmt.Fprintf(&doc, "    Note over %s: %s\n", who[w.from.other()], mermaid(p.says(to)))
		}
	}
	f := st.findings(p)
	last := f.class + ": " + f.cause + f.tail
	if a.Scenario != "" {
		last = p.text(a.Scenario) + " · " + last
	}
	fmt.Fprintf(&doc, "    Note over L,R: %s\n```\n", mermaid(last))
	return s.out.string(doc.String())
}

// mermaid escapes what the language or Markdown would read as its own, as
// Mermaid's numbered entities.
func mermaid(s string) string {
	var b strings.Builder
	for _, r := range s {
		switch r {
		case '#', ';', '<', '>', '`', '"', '&', '{', '}', '%', '\\':
			b.WriteString("#" + strconv.Itoa(int(r)) + ";")
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}
