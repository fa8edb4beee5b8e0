package report

import (
	"github.com/tcpbye/tcpbye/tracer/annotate"
)

// AnnotationSink makes of each connection what a capture of it can be annotated with.
type AnnotationSink struct {
	pairing
	o  Options
	to func(annotate.Connection)
}

// NewAnnotations gives each connection to a function.
func NewAnnotations(o Options, to func(annotate.Connection)) *AnnotationSink {
	s := &AnnotationSink{o: o, to: to}
	s.show = s.add
	return s
}

// Close implements Sink.
func (s *AnnotationSink) Close() error { return s.flush() }

func (s *AnnotationSink) add(a, b *Judged) error {
	st := newStory(a, b, pen{})
	st.proofs = nil // there are no rows that carry their numbers
	first, last := a.Conn.First, a.Conn.Last
	views := []*Judged{a}
	if b != nil {
		first, last = min(first, b.Conn.First), max(last, b.Conn.Last)
		if b.Conn.Remote != a.Conn.Local || b.Conn.Local != a.Conn.Remote {
			views = append(views, b) // its addresses were translated: a capture has either
		}
	}
	for _, j := range views {
		if !j.Conn.Local.IsValid() || !j.Conn.Remote.IsValid() {
			continue
		}
		c := annotate.Connection{A: j.Conn.Local, B: j.Conn.Remote, First: s.o.Clock.Wall(first), Last: s.o.Clock.Wall(last),
			Verdict: comment(st), Brief: inBrief(st.main())}
		for _, m := range commented(a, b) {
			if m.From != c.A && m.To != c.A {
				continue
			}
			c.Marks = append(c.Marks, annotate.Mark{From: m.From, To: m.To, Seq: m.Seq, Ack: m.Ack, Len: m.Len, Flags: m.Flags,
				Time: s.o.Clock.Wall(m.Time), Comments: m.Comments, Ended: m.Ended, Cut: m.Several})
		}
		s.to(c)
	}
	return nil
}
