package conn

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/tracer/event"
)

// lossy is a story told to a join as a live run tells it.
type lossy struct {
	j   *Joiner
	out map[uint64]*Connection // by generation
	all []event.Event
}

func newLossy() *lossy {
	l := &lossy{out: map[uint64]*Connection{}}
	l.j = New(Options{Done: func(c *Connection) { l.out[c.Gen] = c }})
	return l
}

func (l *lossy) until(at time.Duration) {
	for _, e := range l.all {
		l.j.Add(e)
	}
	l.all = l.all[:0]
	l.j.Advance(at)
}

// TestBornInALoss: of what is first heard of after a loss, and was not seen to
// begin, nobody knows what was lost; unless the snapshot found it after the loss.
func TestBornInALoss(t *testing.T) {
	for _, x := range []struct {
		name   string
		seeded time.Duration // 0: not
		fresh  bool
		want   bool
	}{
		{"its birth was not seen", 0, false, true},
		{"its birth was seen", 0, true, false},
		{"the snapshot found it before the loss", 10 * ms, false, true},
		{"the snapshot found it after the loss", 300 * ms, false, false},
	} {
		l := newLossy()
		if x.seeded != 0 {
			l.j.Seed(Seed{Time: x.seeded, NetNS: 1, Local: client, Remote: server, State: event.Established})
		}
		l.j.Lose(100*ms, 200*ms)
		l.until(250 * ms)
		a := &sock{sock: 1, gen: uint64(400 * ms), local: client, remote: server, state: event.Established, pid: 1, out: &l.all}
		if x.fresh {
			a.state = event.Close
			a.to(400*ms, event.SynSent)
			a.to(401*ms, event.Established)
		}
		a.act(402*ms, event.HookClose)
		a.to(403*ms, event.FinWait1)
		a.to(404*ms, event.Close)
		a.event(405*ms, event.Event{Hook: event.HookDestroy})
		l.until(time.Minute)
		if c := l.out[a.gen]; c == nil || c.Lossy != x.want {
			t.Errorf("%s: %+v, want lossy %v", x.name, c, x.want)
		}
	}
}

// TestAddressUsedAgain: a socket whose address is another's is not open any more,
// however its end was missed.
func TestAddressUsedAgain(t *testing.T) {
	next := netip.AddrPortFrom(client.Addr(), 41000)
	for _, x := range []struct {
		name     string
		end      func(*sock)
		gen      uint64 // of the second; the kernel half may not have noticed
		born     bool
		replaced bool
		lossy    bool
	}{
		{"a birth, another generation", nil, uint64(500 * ms), true, true, true},
		{"a birth, the same generation", nil, uint64(100 * ms), true, true, true},
		{"no birth, the same generation", nil, uint64(100 * ms), false, true, true},
		{"only the end of the memory was missed", func(s *sock) {
			s.act(200*ms, event.HookClose)
			s.to(201*ms, event.FinWait1)
			s.to(202*ms, event.Close)
		}, uint64(500 * ms), true, false, true},
		{"a socket that connects again", func(s *sock) { s.to(202*ms, event.Close) }, uint64(500 * ms), true, false, false},
	} {
		l := newLossy()
		var first, second *Connection
		n := 0
		l.j.opts.Done = func(c *Connection) {
			if n++; c.Local == client {
				first = c
			} else {
				second = c
			}
		}
		a := &sock{sock: 1, gen: uint64(100 * ms), local: client, remote: server, state: event.Close, pid: 1, out: &l.all}
		a.to(100*ms, event.SynSent)
		a.to(101*ms, event.Established)
		if x.end != nil {
			x.end(a)
		}
		b := &sock{sock: 1, gen: x.gen, local: next, remote: server, state: event.Established, pid: 1, out: &l.all}
		if x.born {
			b.state = event.Close
			b.to(500*ms, event.SynSent)
			b.to(501*ms, event.Established)
		}
		b.act(502*ms, event.HookClose)
		b.to(503*ms, event.FinWait1)
		b.to(504*ms, event.Close)
		b.event(505*ms, event.Event{Hook: event.HookDestroy})
		l.until(time.Minute)
		l.j.Flush()
		if n != 2 || first == nil || second == nil {
			t.Errorf("%s: %d ends", x.name, n)
			continue
		}
		if first.Replaced != x.replaced || first.Lossy != x.lossy {
			t.Errorf("%s: replaced %v, lossy %v", x.name, first.Replaced, first.Lossy)
		}
		if second.Replaced || second.Lossy == x.born {
			t.Errorf("%s: the second: replaced %v, lossy %v", x.name, second.Replaced, second.Lossy)
		}
	}
}

// TestTooLate: an event that comes too late is counted, lowers what lived at its
// time, and begins nothing where its socket was judged.
func TestTooLate(t *testing.T) {
	l := newLossy()
	a := &sock{sock: 1, gen: uint64(100 * ms), local: client, remote: server, state: event.Close, pid: 1, out: &l.all}
	a.to(100*ms, event.SynSent)
	a.to(101*ms, event.Established)
	a.to(102*ms, event.Close)
	a.event(103*ms, event.Event{Hook: event.HookDestroy})
	b := &sock{sock: 2, gen: uint64(110 * ms), local: netip.AddrPortFrom(client.Addr(), 41000), remote: server, state: event.Close, pid: 1, out: &l.all}
	b.to(110*ms, event.SynSent)
	l.until(time.Second)
	a.act(102*ms, event.HookClose) // of the judged one
	l.until(2 * time.Second)
	b.to(2*time.Second, event.Established)
	b.to(2*time.Second+ms, event.Close)
	b.event(2*time.Second+ms, event.Event{Hook: event.HookDestroy})
	l.until(time.Minute)
	l.j.Flush()
	if len(l.out) != 2 || l.out[a.gen] == nil || l.out[a.gen].Lossy || !l.out[b.gen].Lossy || l.j.Late() != 1 {
		t.Errorf("%d ends, %d late: %+v", len(l.out), l.j.Late(), l.out)
	}
}

// TestPipe: the SIGPIPE of a pipe is no connection's.
func TestPipe(t *testing.T) {
	l := newLossy()
	a := &sock{sock: 1, gen: uint64(100 * ms), local: client, remote: server, state: event.Close, pid: 7, out: &l.all}
	a.to(100*ms, event.SynSent)
	a.to(101*ms, event.Established)
	a.event(102*ms, event.Event{Hook: event.HookStreamError, Context: event.ContextProcess, Arg: -32, Arg2: 1})
	for range 2 {
		l.all = append(l.all, event.Event{Time: 103 * ms, Hook: event.HookSignal, Context: event.ContextProcess, PID: 7, TID: 7, Arg: 13, CPU: uint32(len(l.all))})
	}
	l.until(time.Second)
	n := 0
	for _, c := range l.j.Flush() {
		for _, e := range c.Events {
			if e.Hook == event.HookSignal {
				n++
			}
		}
	}
	l.j.Open(func(*Connection) bool { return true })
	for _, c := range l.out {
		for _, e := range c.Events {
			if e.Hook == event.HookSignal {
				n++
			}
		}
	}
	if n != 1 {
		t.Errorf("%d signals, want the one that send(2) caused", n)
	}
}

// TestQueue: whatever comes in whatever order is taken in the order of time, and
// equal times in that of arrival.
func TestQueue(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	var q queue
	var last time.Duration
	seen := map[time.Duration]uint32{}
	for i := range uint32(20_000) {
		a := q.room()
		a.Time, a.CPU = last+time.Duration(r.IntN(50)), i
		q.put(a)
		for q.len() > r.IntN(3000) {
			a := q.take()
			if a.Time < last || a.Time == last && a.CPU < seen[last] {
				t.Fatalf("%v after %v", a.Time, last)
			}
			last = a.Time
			seen[last] = a.CPU
			q.give(a)
		}
	}
}

// BenchmarkOfOne is what an exit, a SIGPIPE, a pipe's and a loss cost beside many
// connections that they do not concern.
func BenchmarkOfOne(b *testing.B) {
	const open = 50_000
	j := New(Options{})
	var all []event.Event
	for i := range uint64(open) {
		local := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 14), 1}), uint16(i%16384+1024))
		s := &sock{i + 1, i + 1, local, server, event.Close, uint32(1000 + i), &all}
		s.event(ms, event.Event{Hook: event.HookSetState, ToState: event.SynSent, Context: event.ContextProcess})
		s.to(2*ms, event.Established)
	}
	for _, e := range all {
		j.Add(e)
	}
	at := time.Second
	j.Advance(at)
	for _, x := range []struct {
		name string
		give func(n uint32)
	}{
		{"exit", func(n uint32) {
			j.Add(event.Event{Time: at, Hook: event.HookExit, Context: event.ContextProcess, PID: 1000 + n%open, TID: 1000 + n%open})
		}},
		{"SIGPIPE", func(n uint32) {
			e := event.Event{Time: at, Hook: event.HookStreamError, Context: event.ContextProcess, Sock: uint64(n%open + 1), Conn: uint64(n%open + 1), PID: 1000 + n%open, TID: 1000 + n%open, Arg: -32, Arg2: 1}
			j.Add(e)
			e.Hook, e.Sock, e.Conn = event.HookSignal, 0, 0
			j.Add(e)
		}},
		{"SIGPIPE of a pipe", func(n uint32) {
			j.Add(event.Event{Time: at, Hook: event.HookSignal, Context: event.ContextProcess, PID: 99, TID: 99, Arg: 13})
		}},
		{"loss", func(n uint32) { j.Lose(at, at) }},
	} {
		b.Run(x.name, func(b *testing.B) {
			n := uint32(0)
			begun := cpuTime(b)
			defer func() { b.ReportMetric(float64(cpuTime(b)-begun)/float64(b.N), "cpu-ns/op") }()
			for b.Loop() {
				x.give(n)
				n++
				at += time.Microsecond
				j.Advance(at + 20*ms)
			}
		})
	}
}

// cpuTime is what this process has used: other work on the machine is not in it.
func cpuTime(b *testing.B) time.Duration {
	var r unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// TestConnectsAgain: a socket that connects again is another connection, with a port
// of its own, though the kernel still has the one before when it begins; and one that
// listens then is none, which takes nothing from what it was.
func TestConnectsAgain(t *testing.T) {
	second := netip.AddrPortFrom(client.Addr(), 41000)
	for _, x := range []struct {
		name string
		gen  uint64
	}{{"a new name", uint64(200 * ms)}, {"the same name", uint64(100 * ms)}} {
		l := newLossy()
		var got []*Connection
		l.j.opts.Done = func(c *Connection) { got = append(got, c) }
		a := &sock{sock: 1, gen: uint64(100 * ms), local: netip.AddrPortFrom(client.Addr(), 0), remote: server, state: event.Close, pid: 1, out: &l.all}
		a.to(100*ms, event.SynSent)
		a.local = client
		a.act(100*ms, event.HookConnect)
		a.to(110*ms, event.Close)
		a.gen = x.gen
		a.to(200*ms, event.SynSent) // inet_sport is what it was
		a.local = second
		a.act(200*ms, event.HookConnect)
		a.to(210*ms, event.Established)
		a.to(300*ms, event.Close)
		a.local, a.remote = second, netip.AddrPort{}
		a.to(400*ms, event.Listen)
		l.until(time.Minute)
		l.j.Flush()
		if len(got) != 2 || got[0].Local != client || got[1].Local != second || got[0].Ended != 110*ms || got[1].Ended != 300*ms || got[0].Lossy || got[1].Lossy || got[1].Replaced {
			t.Errorf("%s: %d ends: %+v", x.name, len(got), got)
		}
	}
}

// TestResetOfAnother: a reset that answers a segment which an end cannot have sent is
// not about it, though the addresses are its own.
func TestResetOfAnother(t *testing.T) {
	for _, x := range []struct {
		seq  uint32
		want int
	}{{5000, 1}, {5100, 1}, {0x90000000, 0}} {
		l := newLossy()
		var got *Connection
		l.j.opts.Done = func(c *Connection) { got = c }
		a := &sock{sock: 1, gen: uint64(100 * ms), local: client, remote: server, state: event.Close, pid: 1, out: &l.all}
		a.to(100*ms, event.SynSent)
		tcp := event.Event{Has: event.HasTCP, SndUna: 5000, SndNxt: 5100, BytesAcked: 1, RcvNxt: 9001}
		e := tcp
		e.Hook, e.ToState = event.HookSetState, event.Established
		a.event(101*ms, e)
		l.all = append(l.all, event.Event{Time: 102 * ms, Hook: event.HookSendReset, Has: event.HasTuple | event.HasSegment, Local: server, Remote: client, NetNS: 1,
			Segment: event.Segment{Seq: x.seq, Ack: 9001, Flags: event.ACK | event.PSH, Len: 10}})
		e = tcp
		e.Hook, e.ToState = event.HookSetState, event.Close
		a.event(103*ms, e)
		a.event(104*ms, event.Event{Hook: event.HookDestroy})
		l.until(time.Minute)
		if got == nil || len(got.Elsewhere) != x.want {
			t.Errorf("a segment with the number %#x: %+v", x.seq, got)
		}
	}
}

// TestPutTogether: of a socket whose counters began within its life (TCP_REPAIR) the
// windows say whose end it is.
func TestPutTogether(t *testing.T) {
	for _, x := range []struct {
		rcv  uint32
		want fit
	}{{70_000, fits}, {70_900, fits}, {0x70000000, differs}} {
		a := isns{snd: 69_999, rcv: 19_999, sndKnown: true, rcvKnown: true, moved: true, una: 70_000, nxt: 71_000, rcvNxt: 20_000, at: ms}
		b := isns{snd: 10_000, rcv: 60_000, sndKnown: true, rcvKnown: true, una: 20_000, nxt: 20_000, rcvNxt: x.rcv, at: ms}
		if got := a.against(&b); got != x.want {
			t.Errorf("received up to %d: %v, want %v", x.rcv, got, x.want)
		}
	}
}

// TestNamespacesUntold: two ends with the same addresses at the same time, of which
// nothing tells the namespace, may be taken for each other; where it is told they
// are not, nor is one after the other.
func TestNamespacesUntold(t *testing.T) {
	for _, x := range []struct {
		name   string
		netns  [2]uint32
		second time.Duration // when it begins
		want   bool
	}{
		{"at once, untold", [2]uint32{0, 0}, 150 * ms, true},
		{"at once, told", [2]uint32{1, 2}, 150 * ms, false},
		{"one after the other, untold", [2]uint32{0, 0}, 5 * time.Second, false},
	} {
		l := newLossy()
		begin := []time.Duration{100 * ms, x.second}
		for i := range begin {
			s := &sock{sock: uint64(i + 1), gen: uint64(begin[i]), local: client, remote: server, state: event.Close, pid: 1, out: &l.all}
			s.to(begin[i], event.SynSent)
			s.to(begin[i]+ms, event.Established)
			s.to(begin[i]+200*ms, event.Close)
			s.act(begin[i]+201*ms, event.HookDestroy)
		}
		for i := range l.all {
			e := &l.all[i]
			e.NetNS = x.netns[e.Sock-1]
			if e.NetNS == 0 { // a classic tracepoint tells less
				e.Has &^= event.HasTCP | event.HasSocket
			}
		}
		l.until(time.Minute)
		for i, at := range begin {
			c := l.out[uint64(at)]
			if c == nil || c.Lossy != x.want {
				t.Errorf("%s: end %d: %+v, wanted lossy %v", x.name, i, c, x.want)
			}
		}
	}
}
