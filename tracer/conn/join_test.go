package conn

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tcpbye/tcpbye/tracer/event"
)

const ms = time.Millisecond

var (
	client = netip.MustParseAddrPort("127.0.0.1:40000")
	server = netip.MustParseAddrPort("127.0.0.1:80")
)

// sock writes the events of one socket.
type sock struct {
	sock, gen     uint64
	local, remote netip.AddrPort
	state         event.State
	pid           uint32
	out           *[]event.Event
}

func (s *sock) event(at time.Duration, e event.Event) {
	e.Time, e.Sock, e.Conn, e.Family, e.NetNS = at, s.sock, s.gen, event.IPv4, 1
	e.Local, e.Remote, e.State = s.local, s.remote, s.state
	e.Has |= event.HasTuple | event.HasPreempt
	e.PID, e.TID, e.Comm = s.pid, s.pid, event.CommOf(fmt.Sprint("task", s.pid))
	if e.Context == event.ContextUnknown {
		e.Context = event.ContextSoftirq
	}
	*s.out = append(*s.out, e)
	if e.Hook == event.HookSetState {
		s.state = e.ToState
	}
}

func (s *sock) to(at time.Duration, state event.State) {
	s.event(at, event.Event{Hook: event.HookSetState, ToState: state})
}

func (s *sock) act(at time.Duration, hook event.Hook) {
	s.event(at, event.Event{Hook: hook, Context: event.ContextProcess})
}

// stories makes n connections, of which both ends are local, end in many ways.
func stories(r *rand.Rand, n int) []event.Event {
	var all []event.Event
	for i := range n {
		at := time.Duration(i)*37*ms + time.Duration(r.IntN(1000))*ms
		step := func() time.Duration {
			at += time.Duration(r.IntN(3_000_000))
			if r.IntN(4) == 0 {
				at += time.Duration(r.IntN(700)) * ms
			}
			return at
		}
		gen := uint64(i + 1)
		a := &sock{0x10000 + uint64(i)*16, gen, netip.AddrPortFrom(client.Addr(), uint16(40000+i%5)), server, event.Close, uint32(100 + i%3), &all}
		b := &sock{0x90000 + uint64(i)*16, gen, a.remote, a.local, event.Listen, uint32(200 + i%3), &all}
		a.to(step(), event.SynSent)
		b.to(step(), event.SynRecv)
		a.to(step(), event.Established)
		b.to(step(), event.Established)
		if r.IntN(3) > 0 {
			b.act(step(), event.HookAccept)
		}
		switch r.IntN(4) {
		case 0: // an abort
			a.act(step(), event.HookClose)
			a.to(step(), event.Close)
			a.event(step(), event.Event{Hook: event.HookDestroy})
			b.to(step(), event.Close)
			b.act(step(), event.HookClose)
			b.event(step(), event.Event{Hook: event.HookDestroy})
		case 1: // orderly, with a mini-socket
			a.act(step(), event.HookClose)
			a.to(at, event.FinWait1)
			b.to(step(), event.CloseWait)
			a.to(step(), event.FinWait2)
			a.event(at, event.Event{Hook: event.HookTimeWait, Arg: int32(event.FinWait2)})
			a.to(at, event.Close)
			a.event(at, event.Event{Hook: event.HookDestroy})
			b.act(step(), event.HookClose)
			b.to(at, event.LastAck)
			b.to(step(), event.Close)
			if r.IntN(2) == 0 {
				b.event(step(), event.Event{Hook: event.HookDestroy})
			}
		case 2: // one end leaks
			a.act(step(), event.HookShutdown)
			a.to(at, event.FinWait1)
			b.to(step(), event.CloseWait)
		case 3: // a reset that is heard of late
			b.to(step(), event.Close)
			b.event(step(), event.Event{Hook: event.HookSendReset, Has: event.HasSegment})
			b.event(step(), event.Event{Hook: event.HookDestroy})
			a.act(step(), event.HookStreamError)
		}
	}
	slices.SortStableFunc(all, func(x, y event.Event) int { return int(x.Time - y.Time) })
	return all
}

func told(c *Connection) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %v %v ended %v peer %v lossy %v hands %v:", c.ID, c.Local, c.Remote, c.Ended, c.Peer != nil, c.Lossy, len(c.Hands))
	for _, e := range c.Events {
		fmt.Fprintf(&b, " %v@%v", e.Hook, e.Time)
	}
	for _, e := range c.Elsewhere {
		fmt.Fprintf(&b, " (%v@%v)", e.Hook, e.Time)
	}
	return b.String()
}

// TestTicks: what is told, and in which order, is the same however often and
// whenever the join is told the time, and in whatever order within the window
// the events come.
func TestTicks(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 1))
		events := stories(r, 60)
		losses := []time.Duration{events[len(events)/3].Time, events[len(events)/2].Time + 1}
		run := func(every time.Duration, shuffle bool) []string {
			j := New(Options{})
			var out []string
			show := func(cs []*Connection) {
				for _, c := range cs {
					out = append(out, told(c))
				}
			}
			in := slices.Clone(events)
			if shuffle {
				// Up to 15 ms late, within the window of 20 ms.
				type keyed struct {
					event.Event
					at time.Duration
				}
				var k []keyed
				for _, e := range in {
					k = append(k, keyed{e, e.Time + time.Duration(r.Int64N(int64(15*ms)))})
				}
				slices.SortStableFunc(k, func(x, y keyed) int { return int(x.at - y.at) })
				for i := range k {
					in[i] = k[i].Event
				}
			}
			last, lost := time.Duration(0), 0
			for _, e := range in {
				for lost < len(losses) && losses[lost] <= e.Time {
					j.Lose(losses[lost], losses[lost])
					lost++
				}
				for every > 0 && last+every < e.Time {
					last += every
					show(j.Advance(last))
				}
				j.Add(e)
			}
			show(j.Flush())
			if j.Late() != 0 {
				t.Fatalf("%d events were late", j.Late())
			}
			return out
		}
		want := run(0, false)
		if len(want) < 60 {
			t.Fatalf("only %d ends", len(want))
		}
		for _, every := range []time.Duration{ms, 50 * ms, 333 * ms, 10 * time.Second} {
			if d := cmp.Diff(want, run(every, false)); d != "" {
				t.Fatalf("seed %d, ticks every %v:\n%s", seed, every, d)
			}
		}
		// Events of the same time keep their order of arrival, so only what
		// has a time of its own may be shuffled.
		at := map[time.Duration]int{}
		for _, e := range events {
			at[e.Time]++
		}
		events = slices.DeleteFunc(events, func(e event.Event) bool { return at[e.Time] > 1 })
		want = run(0, false)
		if d := cmp.Diff(want, run(50*ms, true)); d != "" {
			t.Fatalf("seed %d, shuffled:\n%s", seed, d)
		}
	}
}

// TestOrder: endings come when their stories are complete, the two ends of a
// pair together, and what has not ended comes last.
func TestOrder(t *testing.T) {
	var events []event.Event
	open := &sock{1, 1, netip.MustParseAddrPort("10.0.0.1:1"), netip.MustParseAddrPort("10.0.0.2:1"), event.Established, 1, &events}
	open.to(1*ms, event.CloseWait)
	held := &sock{2, 2, netip.MustParseAddrPort("10.0.0.1:2"), netip.MustParseAddrPort("10.0.0.2:2"), event.Established, 1, &events}
	held.to(2*ms, event.Close) // its process keeps the descriptor
	a := &sock{3, 3, client, server, event.Established, 1, &events}
	b := &sock{4, 4, server, client, event.Established, 2, &events}
	a.to(3*ms, event.Close)
	a.event(4*ms, event.Event{Hook: event.HookDestroy})
	b.to(5*ms, event.Close)
	b.event(6*ms, event.Event{Hook: event.HookDestroy})
	j := New(Options{})
	for _, e := range events {
		j.Add(e)
	}
	var order []string
	for _, c := range j.Advance(10 * time.Second) {
		order = append(order, c.Local.String())
	}
	order = append(order, "-")
	for _, c := range j.Flush() {
		order = append(order, c.Local.String())
	}
	want := []string{"127.0.0.1:40000", "127.0.0.1:80", "10.0.0.1:2", "-", "10.0.0.1:1"}
	if d := cmp.Diff(want, order); d != "" {
		t.Error(d)
	}
}

func TestSeed(t *testing.T) {
	owner := &Process{PID: 7, Comm: "old"}
	seed := func(j *Joiner, local, remote netip.AddrPort, netns uint32) {
		j.Seed(Seed{Time: 100 * ms, NetNS: netns, Local: local, Remote: remote, State: event.CloseWait, Owner: owner})
	}
	one := func(t *testing.T, j *Joiner) *Connection {
		t.Helper()
		all := j.Flush()
		if len(all) != 1 {
			t.Fatalf("%d ends, want 1", len(all))
		}
		return all[0]
	}
	for _, tt := range []struct {
		name  string
		netns uint32
		story func(*sock)
		owner string
		state event.State
	}{
		{"first event of an old socket", 1, func(s *sock) { s.state = event.CloseWait; s.to(200*ms, event.LastAck) }, "old", event.CloseWait},
		{"another namespace", 2, func(s *sock) { s.state = event.CloseWait; s.to(200*ms, event.LastAck) }, "", 0},
		{"an act tells more", 1, func(s *sock) { s.state = event.CloseWait; s.act(200*ms, event.HookClose) }, "task9", event.CloseWait},
		{"opened while the snapshot was taken", 1, func(s *sock) {
			s.state = event.Listen
			s.to(50*ms, event.SynRecv)
			s.to(51*ms, event.Established)
		}, "old", 0},
		{"opened later, with the same ports", 1, func(s *sock) {
			s.state = event.Listen
			s.to(150*ms, event.SynRecv)
			s.to(151*ms, event.Established)
		}, "", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			j := New(Options{})
			seed(j, server, client, tt.netns)
			var events []event.Event
			tt.story(&sock{1, 1, server, client, event.Established, 9, &events})
			for _, e := range events {
				j.Add(e)
			}
			c := one(t, j)
			got := ""
			if c.Owner != nil {
				got = c.Owner.Comm
			}
			if got != tt.owner || c.Before != tt.state {
				t.Errorf("owner %q, was %v; want %q and %v", got, c.Before, tt.owner, tt.state)
			}
			left := 0
			j.Seeds(func(Seed) { left++ })
			if want := map[bool]int{true: 1, false: 0}[tt.netns != 1]; left != want {
				t.Errorf("%d seeds are left, want %d", left, want)
			}
		})
	}
}

// halfClosed is a connection of which a has closed, with FIN_WAIT2 at 3 ms, and b has
// not.
func halfClosed(all *[]event.Event) (a, b *sock) {
	a = &sock{1, 1, client, server, event.Close, 3, all}
	b = &sock{2, 2, server, client, event.Listen, 4, all}
	a.to(ms, event.SynSent)
	b.to(ms, event.SynRecv)
	b.to(ms, event.Established)
	a.to(ms, event.Established)
	a.to(2*ms, event.FinWait1)
	b.to(2*ms, event.CloseWait)
	a.to(3*ms, event.FinWait2)
	return a, b
}

// TestMiniUnseen: where tcp_time_wait was not seen, an end that left FIN_WAIT2 for
// CLOSE is a mini-socket that waits for the peer's FIN, and not complete before.
func TestMiniUnseen(t *testing.T) {
	for _, seen := range []bool{true, false} {
		var all []event.Event
		a, b := halfClosed(&all)
		if seen {
			a.event(3*ms, event.Event{Hook: event.HookTimeWait, Arg: int32(event.FinWait2)})
		}
		a.event(3*ms, event.Event{Hook: event.HookSetState, ToState: event.Close, Has: event.HasSocket, SkFlags: event.SockDead})
		a.event(3*ms, event.Event{Hook: event.HookDestroy})
		const later = 5 * time.Second
		b.to(later, event.LastAck)
		a.sock, a.gen = 0, 0 // the mini-socket is another object
		a.event(later, event.Event{Hook: event.HookTwskSchedule, Arg: int32(event.TimeWait)})
		b.to(later+ms, event.Close)
		b.event(later+ms, event.Event{Hook: event.HookDestroy})
		told := 0
		j := New(Options{Done: func(c *Connection) {
			told++
			if last := c.Events[len(c.Events)-1]; c.Open == OpenActive && last.Hook != event.HookTwskSchedule {
				t.Errorf("tcp_time_wait seen %v: the story ends with %v", seen, last.Hook)
			}
		}})
		for _, e := range all {
			j.Add(e)
			j.Advance(e.Time)
		}
		j.Advance(2 * later)
		if told != 2 {
			t.Errorf("tcp_time_wait seen %v: %d ends are complete", seen, told)
		}
	}
}

// TestMiniAborted: the RST with which the peer aborts comes to a mini-socket a moment
// after the peer's own end is complete; or it is lost, and where the end of a mini-socket
// is told, that is waited for.
func TestMiniAborted(t *testing.T) {
	t.Run("it comes", func(t *testing.T) { miniAborted(t, Options{}, 40*ms) })
	t.Run("it is lost", func(t *testing.T) { miniAborted(t, Options{MiniEnds: true}, 20*time.Second) })
}

func miniAborted(t *testing.T, o Options, killed time.Duration) {
	var all []event.Event
	a, b := halfClosed(&all)
	a.event(3*ms, event.Event{Hook: event.HookTimeWait, Arg: int32(event.FinWait2)})
	// The mini-socket is made before its socket goes to CLOSE.
	sock, gen := a.sock, a.gen
	a.sock, a.gen = 0, 0
	a.event(3*ms, event.Event{Hook: event.HookTwskSchedule, Arg: int32(event.FinWait2)})
	a.sock, a.gen = sock, gen
	a.to(3*ms, event.Close)
	a.event(3*ms, event.Event{Hook: event.HookDestroy})
	const later = 2 * time.Second
	b.to(later, event.Close)
	b.event(later, event.Event{Hook: event.HookDestroy})
	a.sock, a.gen = 0, 0
	a.event(later+killed, event.Event{Hook: event.HookTwskKill, Arg: int32(event.FinWait2)})
	var ends []*Connection
	o.Done = func(c *Connection) { ends = append(ends, c) }
	j := New(o)
	for _, e := range all {
		j.Add(e)
		j.Advance(e.Time)
	}
	j.Advance(2*later + killed)
	if len(ends) != 2 {
		t.Fatalf("%d ends are complete", len(ends))
	}
	for _, c := range ends {
		if last := c.Events[len(c.Events)-1]; c.Open == OpenActive && last.Hook != event.HookTwskKill {
			t.Errorf("the story ends with %v", last.Hook)
		}
		made := slices.ContainsFunc(c.Events, func(e event.Event) bool { return e.Hook == event.HookTwskSchedule })
		if (c.Open == OpenActive) != made {
			t.Errorf("%v: a mini-socket was made: %v", c.Open, made)
		}
	}
}

// TestHeir: where only the states are seen, the owner is who held the socket last,
// and not who destroys it from outside.
func TestHeir(t *testing.T) {
	for call, want := range map[event.Call]uint32{
		event.CallClose: 7, event.CallShutdown: 7, event.CallExec: 7, event.CallIOUring: 7,
		event.CallSend: 3, event.CallUnknown: 3, // ss -K sends a request
	} {
		var all []event.Event
		s := &sock{1, 1, client, server, event.Close, 3, &all}
		s.event(ms, event.Event{Hook: event.HookSetState, ToState: event.SynSent, Context: event.ContextProcess})
		s.to(2*ms, event.Established)
		s.pid = 7
		s.event(3*ms, event.Event{Hook: event.HookSetState, ToState: event.FinWait1, Context: event.ContextProcess, Call: call})
		j := New(Options{Hold: true})
		for _, e := range all {
			j.Add(e)
		}
		c := j.Flush()
		if len(c) != 1 || c[0].Owner == nil || c[0].Owner.PID != want {
			t.Errorf("in the call %v: the owner is %+v, want %d", call, c[0].Owner, want)
		}
	}
}

// TestHands: each process that acted is noted once, as it was then.
func TestHands(t *testing.T) {
	var events []event.Event
	s := &sock{1, 1, client, server, event.Close, 9, &events}
	s.event(1*ms, event.Event{Hook: event.HookSetState, ToState: event.SynSent, Context: event.ContextProcess})
	s.to(2*ms, event.Established)
	s.act(3*ms, event.HookShutdown)
	s.pid = 10
	s.act(4*ms, event.HookClose)
	asked := 0
	j := New(Options{Who: func(p *Process, at time.Duration) { asked++; p.Exe = fmt.Sprintf("/%d@%v", p.PID, at) }})
	for _, e := range events {
		j.Add(e)
	}
	c := j.Flush()[0]
	var got []string
	for _, h := range c.Hands {
		got = append(got, h.Exe)
	}
	if d := cmp.Diff([]string{"/9@1ms", "/10@4ms"}, got); d != "" {
		t.Error(d)
	}
	if c.Opener == nil || c.Opener.Exe != "/9@1ms" || c.Owner == nil || c.Owner.Exe != "/10@4ms" {
		t.Errorf("opener %+v, owner %+v", c.Opener, c.Owner)
	}
}

func BenchmarkJoin(b *testing.B) {
	events := stories(rand.New(rand.NewPCG(1, 1)), 2000)
	b.ReportAllocs()
	for b.Loop() {
		j := New(Options{})
		last := time.Duration(0)
		for _, e := range events {
			j.Add(e)
			if e.Time-last > 50*ms {
				last = e.Time
				j.Advance(last)
			}
		}
		j.Flush()
	}
}

// TestOlderAbort: of a connection that is older than the trace, the first event
// of the end that is reset comes after the other end is gone. They are the two
// ends of one connection all the same; two of the same addresses are not, when
// the second was seen to be opened.
func TestOlderAbort(t *testing.T) {
	for _, fresh := range []bool{false, true} {
		var all []event.Event
		a := &sock{sock: 1, gen: 1, local: client, remote: server, state: event.Established, pid: 1, out: &all}
		b := &sock{sock: 2, gen: 2, local: server, remote: client, state: event.Established, pid: 2, out: &all}
		a.act(100*ms, event.HookClose)
		a.to(101*ms, event.Close)
		a.event(102*ms, event.Event{Hook: event.HookDestroy})
		if fresh {
			b.gen, b.state = uint64(300*ms), event.Listen
			b.to(300*ms, event.SynRecv)
			b.to(300*ms, event.Established)
		}
		b.event(310*ms, event.Event{Hook: event.HookReset})
		b.to(311*ms, event.Close)
		b.event(312*ms, event.Event{Hook: event.HookDestroy})
		j := New(Options{})
		for _, s := range []*sock{a, b} {
			j.Seed(Seed{Time: 50 * ms, NetNS: 1, Local: s.local, Remote: s.remote, State: event.Established})
		}
		for _, e := range all {
			j.Add(e)
		}
		got := j.Flush()
		if len(got) != 2 {
			t.Fatalf("%d ends", len(got))
		}
		if paired := got[0].Peer == got[1] && got[1].Peer == got[0]; paired == fresh {
			t.Errorf("the second was seen to be opened: %v; they are a pair: %v", fresh, paired)
		}
	}
}

// TestSeedOfTheDying: of a process that is seen for the first time when it exits
// the seed knows more than its events do.
func TestSeedOfTheDying(t *testing.T) {
	var all []event.Event
	s := &sock{1, 1, server, client, event.Established, 9, &all}
	s.act(200*ms, event.HookClose)
	s.to(201*ms, event.Close)
	j := New(Options{})
	j.Seed(Seed{Time: 100 * ms, NetNS: 1, Local: server, Remote: client, State: event.Established,
		Owner: &Process{PID: 9, TID: 1, Comm: "before", Exe: "/bin/x", Container: "docker/1"}})
	for _, e := range all {
		j.Add(e)
	}
	got := j.Flush()
	if len(got) != 1 || got[0].Owner == nil {
		t.Fatalf("%+v", got)
	}
	if o := got[0].Owner; o.Exe != "/bin/x" || o.Container != "docker/1" || o.Comm != "task9" || o.TID != 9 {
		t.Errorf("%+v", o)
	}
}

// TestSpareChild: of two sockets that a listener makes for one connection, one is
// thrown away: it is no end, and has no peer.
func TestSpareChild(t *testing.T) {
	for k := range 4 {
		first, late := k&1 == 0, k&2 == 0 // late: both ends are gone when the spare one is thrown away
		var all []event.Event
		c := &sock{sock: 1, gen: 1, local: client, remote: server, state: event.Close, pid: 1, out: &all}
		spare := &sock{sock: 2, gen: 2, local: server, remote: client, state: event.Listen, pid: 2, out: &all}
		child := &sock{sock: 3, gen: 3, local: server, remote: client, state: event.Listen, pid: 2, out: &all}
		c.event(1*ms, event.Event{Hook: event.HookSetState, ToState: event.SynSent, Context: event.ContextProcess})
		c.to(2*ms, event.Established)
		one, two := child, spare
		if first {
			one, two = spare, child
		}
		one.to(3*ms, event.SynRecv)
		if late && !first {
			two.to(38*ms, event.SynRecv)
		} else {
			two.to(4*ms, event.SynRecv)
		}
		child.to(5*ms, event.Established)
		gone := 6 * ms
		if late {
			gone = 40 * ms
		}
		spare.to(gone, event.Close)
		spare.event(gone+ms, event.Event{Hook: event.HookDestroy})
		for i, s := range []*sock{c, child} {
			at := time.Duration(20+10*i) * ms
			s.act(at, event.HookClose)
			s.to(at+ms, event.Close)
			s.event(at+2*ms, event.Event{Hook: event.HookDestroy})
		}
		slices.SortStableFunc(all, func(a, b event.Event) int { return int(a.Time - b.Time) })
		var got []*Connection
		j := New(Options{Done: func(c *Connection) { got = append(got, c) }})
		for _, e := range all {
			j.Add(e)
			j.Advance(e.Time)
		}
		j.Advance(10 * time.Second)
		j.Flush()
		if len(got) != 2 || got[0].Peer != got[1] || got[1].Peer != got[0] {
			t.Errorf("the spare one came first: %v, and ended last: %v; %d ends: %+v", first, late, len(got), got)
		}
	}
}

// TestOver: a connection that had ended before the trace, and whose socket is let
// go of in it, is no end of this trace; unless its end may have been lost.
func TestOver(t *testing.T) {
	last := func(state event.State) []event.Event {
		e := event.Event{Has: event.HasTuple, Sock: 7, Conn: 7, NetNS: 1, State: state,
			Local: netip.MustParseAddrPort("10.0.0.1:80"), Remote: netip.MustParseAddrPort("10.0.0.2:3000")}
		var all []event.Event
		for i, h := range []event.Hook{event.HookFileClose, event.HookClose, event.HookDestroy} {
			e.Time, e.Hook = time.Duration(1+i)*time.Second, h
			if h == event.HookDestroy {
				e.State = event.Close
			}
			all = append(all, e)
		}
		return all
	}
	for _, tt := range []struct {
		name  string
		state event.State
		lost  bool
		seed  bool
		want  int
	}{
		{"over", event.Close, false, false, 0},
		{"its end may have been lost", event.Close, true, false, 1},
		{"it was there when the trace began", event.Close, false, true, 1},
		{"not over", event.Established, false, false, 1},
	} {
		j := New(Options{})
		all := last(tt.state)
		if tt.seed {
			j.Seed(Seed{NetNS: 1, Local: all[0].Local, Remote: all[0].Remote, State: event.Established})
		}
		if tt.lost {
			j.Lose(0, all[0].Time)
		}
		for _, e := range all {
			j.Add(e)
		}
		if got := len(j.Flush()); got != tt.want {
			t.Errorf("%s: %d ends, not %d", tt.name, got, tt.want)
		}
	}
}
