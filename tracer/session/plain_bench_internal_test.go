package session

import (
	"encoding/binary"
	"io"
	"testing"
	"time"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/report"
	"github.com/tcpbye/tcpbye/tracer/story"
	"github.com/tcpbye/tcpbye/tracer/story/model"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// plainRun is a run that shows a table, and connections to feed it with: each is
// the same but for its time and its numbers.
type plainRun struct {
	*Session
	raws [2][]byte
	n    int
}

func newPlainRun(tb testing.TB, f report.Format, o report.Options) *plainRun {
	made, err := report.New(f, io.Discard, o)
	if err != nil {
		tb.Fatal(err)
	}
	sink := made.(report.Brief)
	r := &plainRun{Session: New(Config{
		Show:  func(c *conn.Connection, v verdict.Verdict) error { return sink.End(report.Judged{Conn: c, Verdict: v}) },
		Plain: sink.Brief, Detail: sink.Detail(),
	})}
	r.live = true
	for i, s := range []story.Story{specimen(conn.OpenActive, eofNone), specimen(conn.OpenPassive, eofAlone)} {
		r.raws[i] = model.Wire(&s, 4*time.Millisecond)
	}
	return r
}

// connection feeds both ends of one.
func (r *plainRun) connection(tb testing.TB) {
	le := binary.LittleEndian
	r.n++
	at := uint64(time.Second) + uint64(r.n)*400_000
	for i, raw := range r.raws {
		le.PutUint64(raw, at+112_000_000+uint64(i)) // told
		le.PutUint64(raw[16:], at+uint64(i)*1000)   // born
		// Other initial sequence numbers than the one before.
		own, peer := uint32(7919), uint32(104729)
		if i == 1 {
			own, peer = peer, own
		}
		for k := range story.MaxLooks {
			look := raw[392+k*112:]
			for off := 40; off <= 56; off += 4 {
				more := own
				if off >= 52 {
					more = peer
				}
				le.PutUint32(look[off:], le.Uint32(look[off:])+more)
			}
		}
		if err := r.Story(raw, 4*time.Millisecond, "amd64"); err != nil {
			tb.Fatal(err)
		}
	}
	if r.n%100 == 0 {
		if err := r.Tick(time.Duration(at + 112_000_000)); err != nil {
			tb.Fatal(err)
		}
	}
}

// short are the sinks that take plain endings in the short form.
var short = []struct {
	name   string
	format report.Format
	o      report.Options
}{
	{"table", report.Table, report.Options{Location: time.UTC}},
	{"json", report.JSON, report.Options{}},
	{"json without events", report.JSON, report.Options{NoEvents: true}},
}

// BenchmarkPlain: a connection of two plain ends, from the kernel's form to what is
// written of them.
func BenchmarkPlain(b *testing.B) {
	for _, x := range short {
		b.Run(x.name, func(b *testing.B) {
			r := newPlainRun(b, x.format, x.o)
			b.ReportAllocs()
			for range b.N {
				r.connection(b)
			}
			if got := r.counts.Seen; b.N > 4000 && got < uint64(2*b.N-4000) {
				b.Fatalf("%d ends of %d", got, 2*b.N)
			}
		})
	}
}

// TestPlainAllocatesNothing: a plain ending takes no memory of its own.
func TestPlainAllocatesNothing(t *testing.T) {
	for _, x := range short {
		r := newPlainRun(t, x.format, x.o)
		for range 2000 {
			r.connection(t)
		}
		before := r.counts.Shown
		if n := testing.AllocsPerRun(2000, func() { r.connection(t) }); n > 0 {
			t.Errorf("%s: %v allocations a connection, want none", x.name, n)
		}
		if r.counts.Shown < before+3000 {
			t.Errorf("%s: %d ends shown", x.name, r.counts.Shown-before)
		}
	}
}

// BenchmarkLongWay: the same connections judged one by one.
func BenchmarkLongWay(b *testing.B) {
	for _, f := range []report.Format{report.Table, report.JSON} {
		b.Run(string(f), func(b *testing.B) {
			r := newPlainRun(b, f, report.Options{})
			sink, err := report.New(f, io.Discard, report.Options{Location: time.UTC})
			if err != nil {
				b.Fatal(err)
			}
			r.Session = New(Config{Brief: f == report.Table, Show: func(c *conn.Connection, v verdict.Verdict) error { return sink.End(report.Judged{Conn: c, Verdict: v}) }})
			r.live = true
			b.ReportAllocs()
			for range b.N {
				r.connection(b)
			}
		})
	}
}
