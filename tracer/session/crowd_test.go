package session

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// crowd is a session beside so many open connections, each of a process of its own.
type crowd struct {
	s    *Session
	now  time.Duration
	next uint64
}

func newCrowd(t testing.TB, open int) *crowd {
	t.Helper()
	c := &crowd{s: New(Config{Show: func(*conn.Connection, verdict.Verdict) error { return nil }}), now: time.Hour}
	c.s.live = true
	for i := range open {
		for _, e := range c.opened(uint32(1000 + i)) {
			c.event(t, e)
		}
	}
	c.tick(t)
	return c
}

// opened is how a process opens a connection.
func (c *crowd) opened(pid uint32) []event.Event {
	c.next++
	e := event.Event{
		Has: event.HasTuple | event.HasPreempt | event.HasTCP | event.HasSocket | event.HasTask | event.HasSyscall, Family: event.IPv4, NetNS: 1,
		Sock: c.next << 8, Conn: c.next, PID: pid, TID: pid, Comm: event.CommOf("p"), Context: event.ContextProcess, Call: event.CallConnect,
		Local:  netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(c.next >> 24), byte(c.next >> 16), byte(c.next >> 8)}), uint16(1024+c.next%256)),
		Remote: netip.MustParseAddrPort("192.0.2.1:80"), WriteSeq: uint32(c.next), SndUna: uint32(c.next), SndNxt: uint32(c.next),
	}
	begin, done := e, e
	begin.Hook, begin.State, begin.ToState = event.HookSetState, event.Close, event.SynSent
	done.Hook, done.State, done.ToState, done.Context = event.HookSetState, event.SynSent, event.Established, event.ContextSoftirq
	connect := e
	connect.Hook, connect.State = event.HookConnect, event.SynSent
	return []event.Event{begin, connect, done}
}

func (c *crowd) event(t testing.TB, e event.Event) {
	c.now += 2 * time.Microsecond
	e.Time = c.now
	if err := c.s.Event(e); err != nil {
		t.Fatal(err)
	}
}

func (c *crowd) tick(t testing.TB) {
	c.now += 100 * time.Millisecond
	if err := c.s.Tick(c.now); err != nil {
		t.Fatal(err)
	}
}

// steps are what once cost as much as there are open connections: each takes the
// n-th of them, so that what one costs does not depend on what came before.
func (c *crowd) steps() map[string]func(t testing.TB, n int) {
	pid := func(n int) uint32 { return uint32(1000 + n) }
	return map[string]func(testing.TB, int){
		"exit": func(t testing.TB, n int) {
			c.event(t, event.Event{Hook: event.HookExit, Has: event.HasTask, PID: pid(n), TID: pid(n), Context: event.ContextProcess})
		},
		"SIGPIPE of a pipe": func(t testing.TB, n int) {
			c.event(t, event.Event{Hook: event.HookSignal, Has: event.HasTask, PID: pid(n), TID: pid(n), Arg: 13, Context: event.ContextProcess})
		},
		"loss": func(t testing.TB, n int) {
			if err := c.s.Lose(c.now, c.now, 1); err != nil {
				t.Fatal(err)
			}
		},
		"tick": func(testing.TB, int) {},
	}
}

// BenchmarkBesideOpen is what an exit, a SIGPIPE and a loss cost, each with the tick
// that places it, beside others that are open.
func BenchmarkBesideOpen(b *testing.B) {
	for _, open := range []int{100, 50_000} {
		for name := range newCrowd(b, 0).steps() {
			b.Run(fmt.Sprintf("%s, %d open", name, open), func(b *testing.B) {
				var c *crowd
				var step func(testing.TB, int)
				n := open
				for b.Loop() {
					if n == open { // nobody exits twice
						b.StopTimer()
						c, n = newCrowd(b, open), 0
						step = c.steps()[name]
						b.StartTimer()
					}
					step(b, n)
					c.tick(b)
					n++
				}
			})
		}
	}
}

// TestCostIsOwn: what an exit, a SIGPIPE and a loss cost does not grow with what
// others have open.
func TestCostIsOwn(t *testing.T) {
	few, many := newCrowd(t, 100), newCrowd(t, 50_000)
	for name := range few.steps() {
		// The best of several: the machine has others to serve.
		best := func(c *crowd) time.Duration {
			step, least := c.steps()[name], time.Hour
			for n := range 50 {
				begin := time.Now()
				for i := range 10 {
					step(t, (10*n+i)%100)
					c.tick(t)
				}
				least = min(least, time.Since(begin)/10)
			}
			return least
		}
		a, b := best(few), best(many)
		t.Logf("%s and a tick: %v beside 100 open, %v beside 50,000", name, a, b)
		// A walk over them takes a hundred times as long.
		if b > 10*a+5*time.Microsecond {
			t.Errorf("%s: %v beside 100 open connections, %v beside 50,000", name, a, b)
		}
	}
}
