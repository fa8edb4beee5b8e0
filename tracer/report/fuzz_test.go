package report

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"io"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/clipperhouse/displaywidth"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// source gives numbers out of a fuzzer's bytes, then zeros.
type source struct{ b []byte }

func (s *source) n(below uint64) uint64 {
	var v [8]byte
	s.b = s.b[copy(v[:], s.b):]
	return binary.LittleEndian.Uint64(v[:]) % below
}

func (s *source) byte() byte {
	if len(s.b) == 0 {
		return 0
	}
	b := s.b[0]
	s.b = s.b[1:]
	return b
}

func (s *source) text() string {
	n := int(s.byte() % 16)
	t := string(s.b[:min(n, len(s.b))])
	s.b = s.b[len(t):]
	return t
}

func (s *source) count() *uint64 {
	if s.byte()%3 == 0 {
		return nil
	}
	n := s.n(1 << 62)
	return &n
}

func (s *source) process() *conn.Process {
	if s.byte()%4 == 0 {
		return nil
	}
	return &conn.Process{PID: uint32(s.byte() % 3), Comm: s.text(), Exe: s.text()}
}

func (s *source) connection() *conn.Connection {
	c := &conn.Connection{ID: s.text(), Open: conn.Open(s.byte() % 4), Owner: s.process(), Opener: s.process(), Lossy: s.byte()%2 == 0}
	if s.byte()%4 != 0 {
		c.Local = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, s.byte()}), uint16(s.byte()))
		c.Remote = netip.AddrPortFrom(netip.AddrFrom16([16]byte{0: 0x20, 15: s.byte()}), uint16(s.byte()))
	}
	t := time.Duration(s.n(1 << 50))
	for range s.byte() % 40 {
		t += time.Duration(s.byte()) * []time.Duration{time.Microsecond, 30 * time.Microsecond, time.Second, -time.Microsecond}[s.byte()%4]
		e := event.Event{Time: t, Hook: event.Hook(s.byte() % 30), Has: event.Group(s.byte()), Sock: uint64(s.byte() % 3),
			Context: event.Context(s.byte() % 5), Call: event.Call(s.byte() % 16), PID: uint32(s.byte() % 3), TID: uint32(s.byte() % 3),
			Comm: event.CommOf(s.text()), TaskFlags: uint32(s.byte()) * 4, ExitCode: uint32(s.byte()) * 3,
			State: event.State(s.byte() % 14), ToState: event.State(s.byte() % 14), Err: event.Errno(s.byte()),
			Arg: int32(int8(s.byte())), Arg2: int32(s.byte()%4) - 1, Refs: int32(int8(s.byte())), Retransmits: s.byte() % 3, ProbesOut: s.byte() % 3,
			Segment: event.Segment{Flags: event.TCPFlags(s.byte()), Len: uint32(s.byte())}}
		if s.byte()%5 == 0 {
			c.Elsewhere = append(c.Elsewhere, e)
		} else {
			c.Events = append(c.Events, e)
		}
		if c.First == 0 || e.Time < c.First {
			c.First = e.Time
		}
		c.Last = max(c.Last, e.Time)
	}
	switch s.byte() % 3 {
	case 0:
		c.Opened, c.Ended = c.First, c.Last
	case 1:
		c.Ended = time.Duration(s.n(1 << 62))
	}
	return c
}

func (s *source) judged(c *conn.Connection, all ...*conn.Connection) Judged {
	classes := []verdict.Class{verdict.Graceful, verdict.Aborted, verdict.TimedOut, verdict.Refused, verdict.Open, verdict.Unknown, ""}
	causes := []verdict.Cause{verdict.DataAfterClose, verdict.CloseUnread, verdict.AcceptOverflow, "", verdict.Cause(s.text())}
	enders := []verdict.Ender{verdict.LocalProcess, verdict.LocalKernel, verdict.PeerProcess, verdict.PeerKernel, verdict.Peer, verdict.Path, verdict.Admin, ""}
	acts := []verdict.Act{"", verdict.ActClose, verdict.ActShutRd, verdict.ActKilled, verdict.ActDup2, verdict.ActDisconnect, verdict.ActListener}
	pick := func(n int) int { return int(s.byte()) % n }
	j := Judged{Conn: c, Scenario: s.text(), Verdict: verdict.Verdict{
		Class: classes[pick(len(classes))], Cause: causes[pick(len(causes))], Ender: enders[pick(len(enders))],
		Act: acts[pick(len(acts))], Signal: int(s.byte() % 80), Actor: s.process(), Sentence: s.text() + " " + s.text(), Advice: s.text(),
		Harmless: s.byte()%4 == 0, Confidence: []verdict.Confidence{verdict.Certain, verdict.Likely, verdict.NotKnown, ""}[pick(4)],
		Lost:  verdict.Lost{Unread: s.count(), Unsent: s.count(), Unacked: s.count()},
		Bytes: verdict.Bytes{Sent: s.count(), Acked: s.count(), Received: s.count()}, TimeWait: s.byte()%2 == 0}}
	for range s.byte() % 4 {
		j.Verdict.AppSaw = append(j.Verdict.AppSaw, s.text())
		j.Verdict.Missing = append(j.Verdict.Missing, s.text())
		j.Verdict.Evidence = append(j.Verdict.Evidence, verdict.Evidence{Conn: all[pick(len(all))], Elsewhere: s.byte()%3 == 0,
			Index: int(int8(s.byte()))})
	}
	if s.byte()%2 == 0 {
		j.Verdict.LocalFin = &verdict.Goodbye{Act: acts[pick(len(acts))], Signal: int(s.byte()), Actor: s.process(), At: c.Last}
	}
	if s.byte()%2 == 0 {
		half := time.Duration(s.n(1 << 62))
		j.Verdict.HalfClose = &half
	}
	return j
}

// tell gives random ends to every sink and checks what must hold for any.
func tell(t *testing.T, data []byte) {
	s := &source{data}
	a, b := s.connection(), s.connection()
	if s.byte()%3 != 0 {
		a.Peer, b.Peer = b, a
	}
	ends := []Judged{s.judged(a, a, b), s.judged(b, a, b)}
	o := Options{Width: []int{0, 20, 40, 80, 100, 200}[s.byte()%6], ASCII: s.byte()%2 == 0, Verbose: s.byte()%2 == 0, Location: time.UTC}
	for _, f := range append(Formats(), "resets", "summary") {
		var out bytes.Buffer
		var sink Sink
		switch f {
		case "resets":
			sink = NewResets(&out, o)
		case "summary":
			sink = &summarySink{NewSummary(o), &out}
		default:
			sink, _ = New(f, &out, o)
		}
		for _, j := range ends {
			if err := sink.End(j); err != nil {
				t.Fatalf("%s: %v", f, err)
			}
		}
		if err := sink.Close(); err != nil {
			t.Fatalf("%s: %v", f, err)
		}
		for _, r := range out.String() {
			if f.Binary() {
				break
			}
			if r != '\n' && (r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0) {
				t.Fatalf("%s: %U reached the output: %q", f, r, out.String())
			}
		}
		switch f {
		case JSON:
			lines := bytes.Split(bytes.TrimSpace(out.Bytes()), []byte("\n"))
			if len(lines) != 2 {
				t.Fatalf("%d JSON lines", len(lines))
			}
			for n, l := range lines {
				var r Record
				if err := json.Unmarshal(l, &r); err != nil {
					t.Fatalf("%v: %s", err, l)
				}
				if c := ends[n].Conn; len(r.Events) != len(c.Events)+len(c.Elsewhere) {
					t.Fatalf("%d events of %d", len(r.Events), len(c.Events)+len(c.Elsewhere))
				}
			}
		case HTML, SVG:
			wellFormed(t, out.Bytes())
		case Pcapng:
			packets(t, out.Bytes())
		case Table, Timeline, Sequence:
			for l := range strings.Lines(out.String()) {
				if w := displaywidth.String(strings.TrimSuffix(l, "\n")); o.Width >= 80 && w > o.Width {
					t.Fatalf("%s: %d columns of %d: %q", f, w, o.Width, l)
				}
			}
		}
	}
}

func FuzzSinks(f *testing.F) {
	f.Add([]byte{})
	f.Add(bytes.Repeat([]byte{0xff, 0x1b, 7, 90, 3}, 400))
	f.Fuzz(tell)
}

func TestRandomEvents(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		data := make([]byte, r.IntN(6000))
		for i := range data {
			data[i] = byte(r.Uint32())
		}
		tell(t, data)
		if t.Failed() {
			return
		}
	}
}

func BenchmarkSinks(b *testing.B) {
	x, y := closeDemo()
	for _, f := range []Format{JSON, CSV, Table, Timeline} {
		b.Run(string(f), func(b *testing.B) {
			s := sinkOf(b, f, io.Discard)
			b.ReportAllocs()
			for b.Loop() {
				if err := s.End(x); err != nil {
					b.Fatal(err)
				}
				if err := s.End(y); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
