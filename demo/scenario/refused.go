package scenario

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/demo/harness"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// oneRetry lets a connect give up after its first repetition, 3 s.
func (s *Sock) oneRetry() {
	s.Set(unix.IPPROTO_TCP, unix.TCP_SYNCNT, 1, "TCP_SYNCNT")
}

// quickSYNs takes the repetitions at a fixed pace away that 6.5 put before the
// ones that count.
func quickSYNs(w *World) { w.SysctlIfAny("net.ipv4.tcp_syn_linear_timeouts", "0") }

// someNowhere is a port behind the router that knows no way.
var someNowhere = netip.MustParseAddrPort("10.77.9.9:80")

var refused = []Scenario{
	{
		Name:        "closed-port",
		Title:       "nobody listens on the port",
		Description: "The client connects to a port whose listener has just gone. The kernel answers the SYN with a reset: ECONNREFUSED.",
		Families:    everyFamily,
		Run: func(w *World) {
			l := w.Puppet("server").Listen(16)
			l.Close()
			w.Puppet("client").ConnectFails("client", l.at, unix.ECONNREFUSED).Close()
		},
		Ends: map[string]Expect{
			"client": ending{class: verdict.Refused, cause: verdict.PortClosed, kernel: true}.remote(
				Expect{AppSaw: []string{"ECONNREFUSED"}}),
		},
		Counters: map[string]int64{"OutRsts": 1, "AttemptFails": 1},
	},
	{
		Name:        "closed-port-elsewhere",
		Title:       "the service listens on the other address of localhost",
		Description: "The server listens on 127.0.0.1 only, and the client tries ::1, as a name that stands for both makes it do. The kernel refuses, and knows a listener on that port all the same.",
		Families:    []Family{IPv6},
		Needs:       []Feature{HasIPv6},
		Run: func(w *World) {
			l := w.Puppet("server").listen(Mapped.loopback(), 0, 16, unix.IPPROTO_TCP)
			w.Puppet("client").ConnectFails("client", netip.AddrPortFrom(w.family.loopback(), l.at.Port()), unix.ECONNREFUSED).Close()
		},
		Ends: map[string]Expect{
			"client": ending{class: verdict.Refused, cause: verdict.PortClosed, kernel: true}.remote(
				Expect{AppSaw: []string{"ECONNREFUSED"}, Says: []string{"a listener on 127.0.0.1:", "(server/", "localhost"}}),
		},
		Counters: map[string]int64{"OutRsts": 1, "AttemptFails": 1},
	},
	{
		Name:        "accept-overflow",
		Title:       "the accept queue is full, and the SYN is dropped",
		Description: "The server's backlog holds one connection, and it does not accept. The kernel drops the next client's SYN, and its repetition: the client's connect runs into ETIMEDOUT. Later the server accepts the first one, which never knew.",
		Run: func(w *World) {
			quickSYNs(w)
			l := w.Puppet("server").Listen(0)
			c1 := w.Puppet("client").Connect("client#1", l)
			w.WaitOrphan(&End{Name: "server#1", Local: c1.end.Remote, Remote: c1.end.Local, NetNS: c1.end.NetNS}, event.Established)
			c := w.Puppet("client").socket(unix.IPPROTO_TCP, 0)
			c.oneRetry()
			c.connectFails("client", l.at, unix.ETIMEDOUT)
			c.Close()
			s1 := l.Accept("server#1")
			c1.Exchange(s1, 100, 200)
			c1.Close()
			followUp(c1, s1)
		},
		Ends: map[string]Expect{
			"client":   gaveUp(verdict.AcceptOverflow).local(Expect{AppSaw: []string{"ETIMEDOUT"}}),
			"client#1": politely("client", verdict.ActClose).local(first),
			"server#1": politely("client", verdict.ActClose).remote(then),
		},
		Counters: map[string]int64{"ListenOverflows": 2, "ListenDrops": 2, "AttemptFails": 1, "TCPAbortOnTimeout": 1},
	},
	{
		Name:        "accept-overflow-reset",
		Title:       "the accept queue is full at the end of the handshake (tcp_abort_on_overflow)",
		Description: "The server wants to see data before it takes a connection (TCP_DEFER_ACCEPT), so the client is connected while the server has only a request. Another connection takes the last room in the accept queue; then the client's data completes its own. With net.ipv4.tcp_abort_on_overflow the kernel resets: the client, which believed to be connected, reads ECONNRESET.",
		Run: func(w *World) {
			w.Sysctl("net.ipv4.tcp_abort_on_overflow", "1")
			l := w.Puppet("server").Listen(0)
			l.Set(unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, 5, "TCP_DEFER_ACCEPT")
			c := w.Puppet("client").Connect("client", l)
			w.waitRequest(c.end)
			c1 := w.Puppet("client").Connect("client#1", l)
			c1.Send(100)
			w.WaitOrphan(&End{Name: "server#1", Local: c1.end.Remote, Remote: c1.end.Local, NetNS: c1.end.NetNS}, event.Established)
			c.Send(10)
			c.WaitState(event.Close)
			wasReset(c)
			s1 := l.Accept("server#1")
			s1.Recv(100)
			c1.Exchange(s1, 100, 200)
			c1.Close()
			followUp(c1, s1)
		},
		Ends: map[string]Expect{
			"client": ending{class: verdict.Refused, cause: verdict.AcceptOverflow, kernel: true}.remote(
				Expect{AppSaw: []string{"ECONNRESET"}, Lost: Lost{Unacked: 10}}),
			"client#1": politely("client", verdict.ActClose).local(first),
			"server#1": politely("client", verdict.ActClose).remote(then),
		},
		Counters: map[string]int64{"ListenOverflows": 1, "ListenDrops": 1, "OutRsts": 1, "EstabResets": 1},
	},
	{
		Name:        "connect-timeout",
		Title:       "nobody answers the SYN",
		Description: "The server's host is deaf: it neither accepts nor refuses. The SYN is sent twice, then connect says ETIMEDOUT.",
		Run: func(w *World) {
			quickSYNs(w)
			l := w.Puppet("server").Listen(16)
			l.DropIncoming()
			c := w.Puppet("client").socket(unix.IPPROTO_TCP, 0)
			c.oneRetry()
			c.connectFails("client", l.at, unix.ETIMEDOUT)
			c.Close()
		},
		Ends: map[string]Expect{
			"client": gaveUp(verdict.ConnectTimeout).local(Expect{AppSaw: []string{"ETIMEDOUT"}}),
		},
		Counters: map[string]int64{"AttemptFails": 1, "TCPAbortOnTimeout": 1},
	},
	{
		Name:        "connect-cancelled",
		Title:       "the client closes a connect that has not come to anything yet",
		Description: "A non-blocking connect is under way to a host that does not answer. The client loses patience and closes: no packet says so.",
		Run: func(w *World) {
			l := w.Puppet("server").Listen(16)
			l.DropIncoming()
			w.Puppet("client").ConnectStart("client", l.at).Close()
		},
		Ends: map[string]Expect{
			"client": ending{class: verdict.Refused, cause: verdict.ConnectCancelled, act: verdict.ActClose, actor: "client"}.local(Expect{}),
		},
	},
	{
		Name:        "connect-killed",
		Title:       "the client is killed in the middle of its connect",
		Description: "As in connect-cancelled, but the client's process is killed while it waits.",
		Run: func(w *World) {
			l := w.Puppet("server").Listen(16)
			l.DropIncoming()
			c := w.Puppet("client").ConnectStart("client", l.at)
			c.p.Kill(unix.SIGKILL)
		},
		Ends: map[string]Expect{
			"client": ending{class: verdict.Refused, cause: verdict.ConnectCancelled, act: verdict.ActKilled,
				signal: int(unix.SIGKILL), actor: "client"}.local(Expect{}),
		},
	},
	{
		Name:        "unreachable",
		Title:       "a router knows no way to the host",
		Description: "The client connects to an address behind a router that has no route to it. The router says so by ICMP, and connect says EHOSTUNREACH.",
		Needs:       []Feature{HasVeth},
		Run: func(w *World) {
			w.RouteNowhere(unix.RTN_UNREACHABLE)
			w.Puppet("client").ConnectFails("client", someNowhere, unix.EHOSTUNREACH).Close()
		},
		Ends:     map[string]Expect{"client": notThere(Expect{AppSaw: []string{"EHOSTUNREACH"}})},
		Counters: map[string]int64{"AttemptFails": 1},
	},
	{
		Name:        "prohibited",
		Title:       "a router forbids the way to the host",
		Description: "As in unreachable, but the router says \"administratively prohibited\"; the application is told the same.",
		Needs:       []Feature{HasVeth},
		Run: func(w *World) {
			w.RouteNowhere(unix.RTN_PROHIBIT)
			w.Puppet("client").ConnectFails("client", someNowhere, unix.EHOSTUNREACH).Close()
		},
		Ends:     map[string]Expect{"client": notThere(Expect{AppSaw: []string{"EHOSTUNREACH"}})},
		Counters: map[string]int64{"AttemptFails": 1},
	},
	{
		Name:        "icmp-refused",
		Title:       "ECONNREFUSED without a reset",
		Description: "A packet filter answers the client's SYN with ICMP \"port unreachable\". The client is told ECONNREFUSED, as if the port were closed; but it listens, and no reset was ever sent.",
		Families:    bothIP,
		Needs:       []Feature{HasNftReject},
		Run: func(w *World) {
			l := w.Puppet("server").Listen(16)
			w.Reject(l.at.Port(), rejectICMP)
			w.Puppet("client").ConnectFails("client", l.at, unix.ECONNREFUSED).Close()
		},
		// The filter is of the client's host itself, here.
		Ends: map[string]Expect{
			"client": ending{class: verdict.Refused, cause: verdict.Unreachable, kernel: true}.local(Expect{AppSaw: []string{"ECONNREFUSED"}}),
		},
		Counters: map[string]int64{"AttemptFails": 1},
	},
	{
		Name:        "nft-reject-syn",
		Title:       "a packet filter refuses in the server's name",
		Description: "A packet filter answers the client's SYN with a reset. To the client that is a closed port; but the server listens, and its kernel never sent anything.",
		Families:    bothIP,
		Needs:       []Feature{HasNftReject},
		Forged:      1,
		Run: func(w *World) {
			l := w.Puppet("server").Listen(16)
			w.Reject(l.at.Port(), rejectTCPReset)
			w.Puppet("client").ConnectFails("client", l.at, unix.ECONNREFUSED).Close()
		},
		Ends: map[string]Expect{
			// The server may as well live behind another address here (NAT).
			"client": ending{class: verdict.Refused, cause: verdict.PathReset, ender: verdict.Path}.local(
				likely(Expect{AppSaw: []string{"ECONNREFUSED"}})),
		},
		Counters: map[string]int64{"AttemptFails": 1},
		Verify:   resetFrom("client", 1),
	},
	{
		Name:        "half-open-listener-close",
		Title:       "the listener goes away before the handshake is complete",
		Description: "The client's last acknowledgement of the handshake is lost, so that it believes in a connection of which the server has only a request. The server closes its listener, and the request is forgotten without a packet. The client's first data is reset, for want of a socket.",
		Run: func(w *World) {
			l := w.Puppet("server").Listen(16)
			l.drop(filterNotSyn)
			c := w.Puppet("client").Connect("client", l)
			w.waitRequest(c.end)
			l.Close()
			c.Send(10)
			c.WaitState(event.Close)
			wasReset(c)
		},
		Ends: map[string]Expect{
			"client": ending{class: verdict.Aborted, cause: verdict.NoSocket, kernel: true}.remote(
				Expect{AppSaw: []string{"ECONNRESET"}, Lost: Lost{Unacked: 10}}),
		},
		Counters: map[string]int64{"OutRsts": 1, "EstabResets": 1},
	},
}

// notThere is a connect that the path said no to.
func notThere(x Expect) Expect {
	return ending{class: verdict.Refused, cause: verdict.Unreachable, ender: verdict.Path}.local(x)
}

// resetFrom says that this many RSTs came to the end.
func resetFrom(end string, n int) func(*Outcome) error {
	return func(o *Outcome) error {
		e := o.Ends[end]
		if got := o.Flow(&End{Local: e.Remote, Remote: e.Local}).RSTs; got != n {
			return fmt.Errorf("%d RSTs came to %s, not %d", got, end, n)
		}
		return nil
	}
}

// waitRequest waits until the listener has a request for the client's SYN.
func (w *World) waitRequest(client *End) {
	w.waitRow(&End{Name: "the request of " + client.Name, Local: client.Remote, Remote: client.Local, NetNS: client.NetNS},
		"SYN_RECV", func(r harness.Row) bool { return r.State == event.SynRecv })
}
