package hosts_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/hosts"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// plainEnd makes the events of an end of a plain connection: the client closes, or aborts.
type plainEnd struct {
	local, remote     netip.AddrPort
	sock              uint64
	snd, rcv          uint32 // initial numbers
	active            bool
	clock             time.Duration // what its host adds to the true time
	open, close, last time.Duration // true times
}

func (p *plainEnd) events(known bool) (all []event.Event) {
	add := func(at time.Duration, hook event.Hook, from, to event.State, sent, received uint64) {
		acked := sent
		una := p.snd + 1 + uint32(sent)
		if p.active {
			acked++
		}
		all = append(all, event.Event{
			Time: at + p.clock, Hook: hook, Has: event.HasTuple | event.HasTCP | event.HasSocket | event.HasPreempt, Sock: p.sock, Conn: uint64(p.open + p.clock),
			Family: event.IPv4, Local: p.local, Remote: p.remote, NetNS: 4026531840, State: from, ToState: to, Context: event.ContextSoftirq,
			SndUna: una, SndNxt: una, WriteSeq: una, RcvNxt: p.rcv + 1 + uint32(received), CopiedSeq: p.rcv + 1 + uint32(received),
			BytesAcked: acked, BytesReceived: received, HasSk: true,
		})
	}
	const flight = 100 * time.Microsecond
	step := event.HookSetState
	if p.active {
		if known {
			add(p.open, step, event.Close, event.SynSent, 0, 0)
			all[0].SndUna, all[0].RcvNxt = 0, 0
			all[0].Context = event.ContextProcess
			add(p.open+2*flight, step, event.SynSent, event.Established, 0, 0)
		}
		add(p.close, step, event.Established, event.FinWait1, 100, 200)
		all[len(all)-1].Context, all[len(all)-1].PID, all[len(all)-1].TID = event.ContextProcess, 77, 77
		add(p.close+2*flight, step, event.FinWait1, event.FinWait2, 101, 200)
		add(p.last+flight, event.HookTimeWait, event.FinWait2, 0, 101, 201)
		all[len(all)-1].Arg = int32(event.TimeWait)
		add(p.last+flight, step, event.FinWait2, event.Close, 101, 201)
		add(p.last+flight, event.HookDestroy, event.Close, 0, 101, 201)
		return all
	}
	if known {
		add(p.open+3*flight, step, event.Listen, event.SynRecv, 0, 0)
		add(p.open+3*flight, step, event.SynRecv, event.Established, 0, 0)
	}
	add(p.close+flight, step, event.Established, event.CloseWait, 200, 101)
	add(p.last, step, event.CloseWait, event.LastAck, 200, 101)
	all[len(all)-1].Context, all[len(all)-1].PID, all[len(all)-1].TID = event.ContextProcess, 77, 77
	add(p.last+2*flight, step, event.LastAck, event.Close, 201, 101)
	add(p.last+2*flight, event.HookDestroy, event.Close, 0, 201, 101)
	return all
}

// TestCrowd: ten thousand connections at once through an address translation, whose few
// ports are used again and again, a tenth of them older than the traces.
func TestCrowd(t *testing.T) {
	const n, ports = 10_000, 400
	r := rand.New(rand.NewPCG(1, 2))
	shift := map[side]time.Duration{client: time.Hour, service: 3700 * time.Millisecond}
	joiners := map[side]*conn.Joiner{client: conn.New(conn.Options{Hold: true}), service: conn.New(conn.Options{Hold: true})}
	pair := map[[2]uint32]int{} // which connection has these numbers
	addr := netip.MustParseAddr
	for i := range n {
		c, s := r.Uint32(), r.Uint32()
		pair[[2]uint32{c, s}] = i
		// Those of one port come one after the other, 10 ms apart.
		open := time.Minute + time.Duration(i/ports)*60*time.Millisecond + time.Duration(r.IntN(int(time.Millisecond)))
		closes := open + 20*time.Millisecond + time.Duration(r.IntN(int(10*time.Millisecond)))
		ends := closes + 5*time.Millisecond + time.Duration(r.IntN(int(10*time.Millisecond)))
		port := uint16(40000 + i%ports)
		nat := uint16(1024 + r.IntN(60000))
		known := i%10 != 0
		for x, e := range map[side]*plainEnd{
			client:  {local: netip.AddrPortFrom(addr("10.0.1.2"), port), remote: netip.AddrPortFrom(addr("10.0.1.1"), 80), snd: c, rcv: s, active: true},
			service: {local: netip.AddrPortFrom(addr("10.0.2.2"), 8080), remote: netip.AddrPortFrom(addr("10.0.2.1"), nat), snd: s, rcv: c},
		} {
			e.sock, e.clock, e.open, e.close, e.last = uint64(i+1)<<8, shift[x], open, closes, ends
			for _, ev := range e.events(known) {
				joiners[x].Add(ev)
			}
		}
	}
	var traces []*hosts.Trace
	for _, x := range []side{client, service} {
		tr := &hosts.Trace{Host: hosts.Host{ID: fmt.Sprint(x), Name: fmt.Sprint("host", x)}, From: shift[x], To: shift[x] + time.Hour}
		for _, c := range joiners[x].Flush() {
			tr.Ends = append(tr.Ends, hosts.End{Conn: c, Verdict: verdict.Judge(c, verdict.Scope{})})
		}
		traces = append(traces, tr)
	}
	begun := time.Now()
	res := hosts.Join(traces)
	took := time.Since(begun)
	seen, off := map[int]bool{}, time.Duration(0)
	for _, e := range res.Ends {
		if e.Conn.Host != "host1" {
			continue
		}
		p := e.Conn.Peer
		if p == nil || p.Host != "host2" {
			t.Errorf("%v has no peer", e.Conn.Local)
			continue
		}
		mine, theirs := e.Conn.Numbers(1<<62), p.Numbers(1<<62)
		s, _ := mine.Received()
		c, _ := theirs.Received()
		i, ok := pair[[2]uint32{c, s}]
		if !ok || seen[i] {
			t.Errorf("%v is joined with %v, which is of another connection", e.Conn.Local, p.Local)
		}
		seen[i] = true
		off = max(off, (e.Joint.Clock.Ahead - (shift[service] - shift[client])).Abs())
		if e.Verdict.Cause != verdict.OrderlyClose || e.Verdict.Ender != verdict.LocalProcess {
			t.Errorf("%v: %s by %s", e.Conn.Local, e.Verdict.Cause, e.Verdict.Ender)
		}
	}
	if len(seen) != n || res.Joined != n || res.Disputed+res.Refuted > 0 {
		t.Errorf("%d of %d pairs, %d joined, %d refuted, %d disputed", len(seen), n, res.Joined, res.Refuted, res.Disputed)
	}
	if off > 200*time.Microsecond {
		t.Errorf("the clocks are wrong by up to %v; a segment takes 100 µs", off)
	}
	t.Logf("%d of %d pairs in %v, the clocks right to %v", len(seen), n, took, off)
}
