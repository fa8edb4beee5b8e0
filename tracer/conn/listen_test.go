package conn

import (
	"net/netip"
	"testing"
	"time"

	"github.com/tcpbye/tcpbye/tracer/event"
)

// TestService: who sent the SYN tells which port is the service's, at either end;
// of what is older, the listeners and the other connections do.
func TestService(t *testing.T) {
	high, low := netip.MustParseAddrPort("10.0.0.1:43211"), netip.MustParseAddrPort("10.0.0.1:32768")
	listener := func(addr string) Seed {
		return Seed{Time: ms, NetNS: 1, Local: netip.MustParseAddrPort(addr), State: event.Listen, Owner: &Process{PID: 5, Comm: "srv"}}
	}
	for _, x := range []struct {
		name  string
		seeds []Seed
		open  bool // the SYN was seen
		want  Side // of the end with the higher port
	}{
		{"nothing tells", nil, false, NoSide},
		{"a listener on any address", []Seed{listener("0.0.0.0:43211")}, false, ThisSide},
		{"a listener on its address", []Seed{listener("10.0.0.1:43211")}, false, ThisSide},
		{"a listener on any address of both families", []Seed{listener("[::]:43211")}, false, ThisSide},
		{"a listener on another address", []Seed{listener("127.0.0.1:43211")}, false, NoSide},
		{"a listener at the other end", []Seed{listener("0.0.0.0:32768")}, false, OtherSide},
		{"many connections on that port", []Seed{
			{Time: ms, NetNS: 1, Local: high, Remote: netip.MustParseAddrPort("10.0.0.1:1000"), State: event.Established},
			{Time: ms, NetNS: 1, Local: high, Remote: netip.MustParseAddrPort("10.0.0.1:1001"), State: event.Established}}, false, ThisSide},
		{"the SYN", []Seed{listener("0.0.0.0:43211")}, true, OtherSide},
	} {
		var all []event.Event
		s := &sock{1, 1, high, low, event.Established, 9, &all}
		if x.open {
			s.state = event.Close
			s.to(5*ms, event.SynSent)
			s.to(6*ms, event.Established)
		}
		s.to(10*ms, event.CloseWait)
		s.to(11*ms, event.LastAck)
		s.to(12*ms, event.Close)
		j := New(Options{})
		for _, seed := range x.seeds {
			j.Seed(seed)
		}
		for _, e := range all {
			j.Add(e)
		}
		if c := j.Flush(); len(c) != 1 || c[0].Service() != x.want {
			t.Errorf("%s: side %d, want %d", x.name, c[0].Service(), x.want)
		}
	}
}

// TestListenersElsewhere: who is refused learns who listens on the port on another
// address, at that moment.
func TestListenersElsewhere(t *testing.T) {
	local, remote := netip.MustParseAddrPort("[::1]:40000"), netip.MustParseAddrPort("[::1]:3004")
	v4, v6 := netip.MustParseAddrPort("127.0.0.1:3004"), netip.MustParseAddrPort("[2001:db8::1]:3004")
	var all []event.Event
	listen := func(at time.Duration, id uint64, on netip.AddrPort) *sock {
		s := &sock{id, id, on, netip.AddrPort{}, event.Close, uint32(id), &all}
		s.event(at, event.Event{Hook: event.HookSetState, ToState: event.Listen, Context: event.ContextProcess})
		return s
	}
	listen(1*ms, 7, v4)
	listen(2*ms, 8, v6).to(3*ms, event.Close) // it is gone by then
	s := &sock{1, 1, local, remote, event.Close, 9, &all}
	s.to(5*ms, event.SynSent)
	s.to(6*ms, event.Close)
	listen(7*ms, 9, v6) // and this one came later
	j := New(Options{Hold: true})
	j.Seed(Seed{NetNS: 2, Local: v6, State: event.Listen}) // of another namespace
	for _, e := range all {
		j.Add(e)
	}
	for _, c := range j.Flush() {
		if c.Sock == 1 && (len(c.Listeners) != 1 || c.Listeners[0].Local != v4 || c.Listeners[0].Owner == nil || c.Listeners[0].Owner.PID != 7) {
			t.Errorf("%+v", c.Listeners)
		}
	}
}

// TestAcceptor: who accepts is not always who listens; and of a connection that was
// given up in the queue it is known who should have.
func TestAcceptor(t *testing.T) {
	at, client := netip.MustParseAddrPort("10.0.0.1:80"), netip.MustParseAddrPort("10.0.0.2:4000")
	for _, x := range []struct {
		name    string
		accepts []uint32
		want    uint32 // 0: not known
	}{
		{"the listener's own", nil, 5},
		{"a child that got it", []uint32{6}, 6},
		{"the last of several", []uint32{6, 7}, 7},
	} {
		j := New(Options{})
		j.Seed(Seed{Time: ms, NetNS: 1, Local: netip.MustParseAddrPort("0.0.0.0:80"), State: event.Listen, Owner: &Process{PID: 5, Comm: "srv"}})
		for i, pid := range x.accepts {
			j.Add(event.Event{Time: time.Duration(2+i) * ms, Hook: event.HookAccept, Context: event.ContextProcess, Call: event.CallOther, PID: pid, TID: pid,
				Sock: uint64(100 + i), Conn: uint64(100 + i), Has: event.HasTuple, Local: at, Remote: netip.AddrPortFrom(client.Addr(), uint16(5000+i)), NetNS: 1, State: event.Established})
		}
		var all []event.Event
		s := &sock{1, 1, at, client, event.Listen, 0, &all}
		s.to(10*ms, event.SynRecv)
		s.to(11*ms, event.Established)
		s.to(1500*ms, event.CloseWait)
		for _, e := range all {
			e.Has |= event.HasSocket
			j.Add(e)
		}
		var got *Connection
		for _, c := range j.Flush() {
			if c.Remote == client {
				got = c
			}
		}
		switch {
		case got == nil || got.Acceptor == nil:
			t.Errorf("%s: nobody is known who accepts", x.name)
		case got.Acceptor.PID != x.want:
			t.Errorf("%s: %d accepts, want %d", x.name, got.Acceptor.PID, x.want)
		}
	}
}
