package scenario

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/demo/harness"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// movingAddr is a second address of the home namespace, which can be taken away.
var movingAddr = netip.MustParseAddr("10.77.0.9")

// nobodyAddr is an address of the link to the second host that nobody has.
var nobodyAddr = netip.MustParseAddrPort("10.77.0.99:80")

// onLink does something with an interface.
func onLink(name string, f func(netlink.Link) error) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return f(link)
}

// MovingAddress gives the home namespace its second address, or takes it away.
func (w *World) MovingAddress(here bool) {
	w.far()
	w.In(w.Home, "move an address", func() error {
		return onLink("near", func(l netlink.Link) error {
			a := &netlink.Addr{IPNet: network(movingAddr.AsSlice(), 32-8)}
			if here {
				return netlink.AddrAdd(l, a)
			}
			return netlink.AddrDel(l, a)
		})
	})
}

// MovingPair connects a client with the second address to the second host.
func (w *World) MovingPair() (client, server *Sock) {
	w.MovingAddress(true)
	l := w.FarPuppet("server").Listen(16)
	client = w.Puppet("client").socket(unix.IPPROTO_TCP, 0)
	client.bind(netip.AddrPortFrom(movingAddr, 0))
	client.connect("client", l)
	return client, l.Accept("server")
}

// NoWay gives the home namespace a route that says no to the second host; kind is
// unix.RTN_UNREACHABLE, RTN_PROHIBIT or RTN_BLACKHOLE.
func (w *World) NoWay(kind int) {
	w.In(w.Home, "close the way", func() error {
		return netlink.RouteAdd(&netlink.Route{Dst: network(farAddr.AsSlice(), 32), Type: kind})
	})
}

// DeafToARP makes the second host answer no ARP request, and the home namespace
// forget its link address and ask only once.
func (w *World) DeafToARP() {
	far := w.far()
	for name, value := range map[string]string{"mcast_solicit": "1", "ucast_solicit": "1", "retrans_time_ms": "50"} {
		w.Sysctl("net.ipv4.neigh.near."+name, value)
	}
	w.In(far, "make the second host deaf to ARP", func() error { return onLink("far", netlink.LinkSetARPOff) })
	w.In(w.Home, "forget a neighbor", func() error {
		return onLink("near", func(l netlink.Link) error {
			err := netlink.NeighDel(&netlink.Neigh{LinkIndex: l.Attrs().Index, Family: unix.AF_INET, IP: net.IP(farAddr.AsSlice())})
			if errors.Is(err, unix.ENOENT) {
				return nil
			}
			return err
		})
	})
}

// DropOutput makes the home namespace's packet filter drop what is sent to a port.
func (w *World) DropOutput(port uint16) {
	w.In(w.Home, "drop what is sent", func() error { return dropOutput(port) })
}

// FarReject makes the second host's packet filter reject segments to a port.
func (w *World) FarReject(port uint16, how uint32) {
	w.In(w.far(), "filter packets at the second host", func() error { return rejectPort(port, how) })
}

// FarDropLarge makes the second host's packet filter drop packets above a size.
func (w *World) FarDropLarge(bytes uint32) {
	w.In(w.far(), "filter packets at the second host", func() error { return dropLarge(bytes) })
}

// addTransient makes a second host that can be taken away: the oracle has nothing in
// it, and sees its segments on the way.
func (w *World) addTransient() *harness.Space {
	ns, err := w.AddUnwatched()
	if err == nil {
		w.transient = ns
		err = connect(w.Home.Netns, ns.Netns)
	}
	if err != nil {
		w.Fail("cannot make a host that goes: %w", err)
		return w.Home
	}
	return ns
}

// removeTransient removes that namespace, in which no process is any more, and
// waits until the kernel has done so.
func (w *World) removeTransient() {
	if w.Err != nil {
		return
	}
	w.transient.Remove()
	// The worker that cleans namespaces up says nothing when it is done, but does
	// one batch after the other: when a second namespace, which was given up
	// after the first one's link had gone, has lost its link, the first is done.
	for i := range 2 {
		w.Until("the link of the removed namespace to go", func() (bool, string) {
			err := w.Home.Do(func() error { return onLink("near", func(netlink.Link) error { return nil }) })
			var gone netlink.LinkNotFoundError
			return errors.As(err, &gone), fmt.Sprint(err)
		})
		if i == 1 || w.Err != nil {
			return
		}
		next, err := harness.NewNetns()
		if err == nil {
			err = connect(w.Home.Netns, next)
			next.Close()
		}
		if err != nil {
			w.Fail("cannot make another namespace: %w", err)
			return
		}
	}
}

// unsendable is a timeout for which this host alone is to blame. What it could not
// send, the capture did not see.
func unsendable(x Expect) Expect {
	x.Deaf = true
	return gaveUp(verdict.SendFailed).local(x)
}

// oneGivenUp are the counters of a kernel that gave an open connection up.
var oneGivenUp = map[string]int64{"EstabResets": 1, "TCPAbortOnTimeout": 1}

// goesOut makes a scenario in which, after an exchange, something of this host
// fails, and then 500 bytes are sent.
func goesOut(name, title, story string, needs []Feature, fail func(w *World, c, s *Sock), saw string) Scenario {
	return Scenario{
		Name: name, Title: title, Description: story, Needs: needs,
		Run: func(w *World) {
			w.Sysctl("net.ipv4.tcp_retries2", "2")
			c, s := w.RemotePair()
			c.Exchange(s, 100, 200)
			fail(w, c, s)
			c.Send(500)
			c.RecvFails(map[string]unix.Errno{"ETIMEDOUT": unix.ETIMEDOUT, "EHOSTUNREACH": unix.EHOSTUNREACH}[saw])
			c.Close()
			w.WaitOrphan(s.end, event.Established)
		},
		Ends: map[string]Expect{
			"client": unsendable(Expect{AppSaw: []string{saw}, Lost: Lost{Unsent: 500}}),
			"server": open(verdict.StillOpen, Expect{}),
		},
		Counters: oneGivenUp,
		Verify:   nothingAfter(100),
	}
}

// nothingAfter says that no payload beyond n bytes left the client's host.
func nothingAfter(n int64) func(*Outcome) error {
	return func(o *Outcome) error {
		if f := o.Flow(o.Ends["client"]); f.Sent > n {
			return fmt.Errorf("%d bytes of the client's were seen on the wire, more than %d", f.Sent, n)
		}
		return nil
	}
}

var unsents = []Scenario{
	goesOut("unsent-filter", "this host's own packet filter drops what is sent on an open connection",
		"After an exchange an output rule of the client's host drops its segments, as one does that drops what conntrack calls INVALID. The data is tried again and again, and not one segment leaves the host: ETIMEDOUT, and the server is not to blame.",
		[]Feature{HasVeth, HasNftReject}, func(w *World, c, s *Sock) { w.DropOutput(s.end.Local.Port()) }, "ETIMEDOUT"),
	goesOut("unsent-route", "a route of this host says no",
		"After an exchange the client's host gets a route that makes the server's address unreachable. No segment leaves.",
		[]Feature{HasVeth}, func(w *World, c, s *Sock) { w.NoWay(unix.RTN_UNREACHABLE) }, "ETIMEDOUT"),
	goesOut("unsent-blackhole", "a blackhole route of this host swallows what is sent",
		"After an exchange the client's host gets a blackhole route to the server's address. No segment leaves, and nothing says so.",
		[]Feature{HasVeth}, func(w *World, c, s *Sock) { w.NoWay(unix.RTN_BLACKHOLE) }, "ETIMEDOUT"),
	{
		Name:        "unsent-address",
		Title:       "this host's own address is taken away under a connection",
		Description: "The client's address goes, as when a VPN or a lease ends. Its 500 bytes never leave the host: there is no route from an address that is not there. The server, whose window is open, hears nothing.",
		Needs:       []Feature{HasVeth},
		Run: func(w *World) {
			w.Sysctl("net.ipv4.tcp_retries2", "2")
			c, s := w.MovingPair()
			c.Exchange(s, 100, 200)
			w.MovingAddress(false)
			c.Send(500)
			c.RecvFails(unix.ETIMEDOUT)
			c.Close()
			w.WaitOrphan(s.end, event.Established)
		},
		Ends: map[string]Expect{
			"client": unsendable(Expect{AppSaw: []string{"ETIMEDOUT"}, Lost: Lost{Unsent: 500}}),
			"server": open(verdict.StillOpen, Expect{}),
		},
		Counters: oneGivenUp,
		Verify:   nothingAfter(100),
	},
	{
		Name:        "unsent-repeats",
		Title:       "the way out is closed while data waits for its acknowledgement",
		Description: "The server is deaf when the client's 500 bytes arrive. Before they are sent again, the client's host gets a route that makes the server's address unreachable: no repetition leaves, and the process is told EHOSTUNREACH by its own kernel.",
		Needs:       []Feature{HasVeth},
		Run: func(w *World) {
			w.Sysctl("net.ipv4.tcp_retries2", "2")
			c, s := w.RemotePair()
			c.Exchange(s, 100, 200)
			s.DropIncoming()
			c.Send(500)
			w.NoWay(unix.RTN_UNREACHABLE)
			c.RecvFails(unix.EHOSTUNREACH)
			c.Close()
			w.WaitOrphan(s.end, event.Established)
		},
		Ends: map[string]Expect{
			"client": unsendable(Expect{AppSaw: []string{"EHOSTUNREACH"}, Lost: Lost{Unacked: 500}}),
			"server": open(verdict.StillOpen, Expect{}),
		},
		Counters: oneGivenUp,
	},
	{
		Name:        "unsent-orphan",
		Title:       "a closed connection's rest cannot be sent from this host",
		Description: "The client's address is taken away; then the client sends 500 bytes and closes. Nobody is left to be told, and neither the data nor the FIN ever leaves the host.",
		Needs:       []Feature{HasVeth},
		Run: func(w *World) {
			w.Sysctl("net.ipv4.tcp_orphan_retries", "2")
			c, s := w.MovingPair()
			c.Exchange(s, 100, 200)
			w.MovingAddress(false)
			c.Send(500)
			c.Close()
			w.WaitGone(c.end)
			s.WaitState(event.Established)
		},
		Ends: map[string]Expect{
			"client": unsendable(Expect{Lost: Lost{Unsent: 500}}),
			"server": open(verdict.StillOpen, Expect{}),
		},
		Counters: map[string]int64{"TCPAbortOnTimeout": 1},
		Verify:   nothingAfter(100),
	},
	{
		Name:        "unsent-keepalive",
		Title:       "keepalive probes that never leave this host",
		Description: "The client's address is taken away while the connection is idle. Its keepalive probes, and the reset at the end of them, cannot be sent: the server hears none of it.",
		Needs:       []Feature{HasVeth},
		Run: func(w *World) {
			c, s := w.MovingPair()
			c.Exchange(s, 100, 200)
			w.MovingAddress(false)
			c.Set(unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 1, "TCP_KEEPIDLE")
			c.Set(unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 1, "TCP_KEEPINTVL")
			c.Set(unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 1, "TCP_KEEPCNT")
			c.Set(unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1, "SO_KEEPALIVE")
			c.RecvFails(unix.ETIMEDOUT)
			c.Close()
			w.WaitOrphan(s.end, event.Established)
		},
		Ends: map[string]Expect{
			"client": gaveUp(verdict.SendFailed).local(Expect{AppSaw: []string{"ETIMEDOUT"}}),
			"server": open(verdict.StillOpen, Expect{}),
		},
		Counters: map[string]int64{"EstabResets": 1, "TCPAbortOnTimeout": 1, "TCPKeepAlive": 1, "OutRsts": 1, "TCPAbortFailed": 1},
	},
	{
		Name:        "unsent-syn",
		Title:       "this host's own packet filter drops the SYN",
		Description: "An output rule of the client's host drops the SYN and its repetition. Connect says ETIMEDOUT, as if nobody had answered; but nobody was asked.",
		Needs:       []Feature{HasNftReject},
		Run: func(w *World) {
			quickSYNs(w)
			l := w.Puppet("server").Listen(16)
			w.DropOutput(l.at.Port())
			c := w.Puppet("client").socket(unix.IPPROTO_TCP, 0)
			c.oneRetry()
			c.bind(netip.AddrPortFrom(w.family.loopback(), 0))
			at := c.local()
			c.connectFails("client", l.at, unix.ETIMEDOUT)
			c.end.Local = at
			c.Close()
		},
		Ends: map[string]Expect{
			"client": gaveUp(verdict.SendFailed).local(Expect{AppSaw: []string{"ETIMEDOUT"}}),
		},
		Counters: map[string]int64{"AttemptFails": 1, "TCPAbortOnTimeout": 1},
	},
	{
		Name:        "neighbor-silent",
		Title:       "the neighbor does not answer ARP on an open connection",
		Description: "The server's host stops to answer ARP, as one does whose link is down, and the client's host has forgotten its link address. The segments are thrown away while the kernel looks for it. The process is told EHOSTUNREACH, by its own kernel; no router said anything.",
		Needs:       []Feature{HasVeth},
		Run: func(w *World) {
			w.Sysctl("net.ipv4.tcp_retries2", "2")
			c, s := w.RemotePair()
			c.Exchange(s, 100, 200)
			w.DeafToARP()
			c.Send(500)
			c.RecvFails(unix.EHOSTUNREACH)
			c.Close()
			w.WaitOrphan(s.end, event.Established)
		},
		Ends: map[string]Expect{
			"client": unsendable(Expect{AppSaw: []string{"EHOSTUNREACH"}, Lost: Lost{Unacked: 500}}),
			"server": open(verdict.StillOpen, Expect{}),
		},
		Counters: oneGivenUp,
		Verify:   nothingAfter(100),
	},
	{
		Name:        "neighbor-unknown",
		Title:       "nobody on the link has the address",
		Description: "The client connects to an address of its own network that nobody has. ARP is not answered, and the kernel tells itself that the host is unreachable: EHOSTUNREACH, with not one segment on the wire and no router in sight.",
		Needs:       []Feature{HasVeth},
		Run: func(w *World) {
			w.DeafToARP()
			c := w.Puppet("client").socket(unix.IPPROTO_TCP, 0)
			c.bind(netip.AddrPortFrom(nearAddr, 0))
			at := c.local()
			c.connectFails("client", nobodyAddr, unix.EHOSTUNREACH)
			c.end.Local = at
			c.Close()
		},
		Ends: map[string]Expect{
			"client": ending{class: verdict.Refused, cause: verdict.Unreachable, kernel: true}.local(Expect{AppSaw: []string{"EHOSTUNREACH"}}),
		},
		Counters: map[string]int64{"AttemptFails": 1},
	},
	{
		Name:        "tuple-taken",
		Title:       "the address and port are connected to there already",
		Description: "A second socket is bound to the first one's address and port and connects to the same server: there cannot be two such connections, and connect says EADDRNOTAVAIL. Ports are left, and there is a route.",
		Run: func(w *World) {
			l := w.Puppet("server").Listen(16)
			c := w.Puppet("client").socket(unix.IPPROTO_TCP, 0)
			c.Set(unix.SOL_SOCKET, unix.SO_REUSEADDR, 1, "SO_REUSEADDR")
			c.bind(netip.AddrPortFrom(w.family.loopback(), 0))
			c.connect("client", l)
			s := l.Accept("server")
			again := w.Puppet("client").socket(unix.IPPROTO_TCP, 0)
			again.Set(unix.SOL_SOCKET, unix.SO_REUSEADDR, 1, "SO_REUSEADDR")
			again.bind(c.end.Local)
			again.connectFails("again", l.at, unix.EADDRNOTAVAIL)
			again.end.Local = c.end.Local
			again.Close()
			c.Exchange(s, 100, 200)
			c.Close()
			followUp(c, s)
		},
		Ends: map[string]Expect{
			"again":  shared(ending{class: verdict.Refused, cause: verdict.Unreachable, kernel: true}.local(Expect{})),
			"client": shared(politely("client", verdict.ActClose).local(first)),
			"server": shared(politely("client", verdict.ActClose).remote(then)),
		},
	},
	{
		Name:        "mtu-black-hole",
		Title:       "only full-size segments get no answer",
		Description: "The way to the server's host takes no packets of full size, and says nothing of it. The handshake and a small request come through; the client's 5000 bytes never do, and it gives up.",
		Needs:       []Feature{HasVeth, HasNftReject},
		Remote:      true,
		Run: func(w *World) {
			w.Sysctl("net.ipv4.tcp_retries2", "2")
			c, s := w.RemotePair()
			c.Exchange(s, 100, 200)
			w.FarDropLarge(1400)
			c.Send(5000)
			c.RecvFails(unix.ETIMEDOUT)
			c.Close()
		},
		Ends: map[string]Expect{
			"client": gaveUp(verdict.RetransmitTimeout).local(Expect{AppSaw: []string{"ETIMEDOUT"}, Lost: Lost{Unacked: Measured, Unsent: Measured}, Says: []string{"MTU black hole", "ping -M do"}}),
			"server": unseen(Expect{}),
		},
		Counters: oneGivenUp,
	},
	{
		Name:        "icmp-while-open",
		Title:       "ECONNREFUSED on an open connection",
		Description: "The server's host begins to reject the connection's segments with ICMP \"port unreachable\", as a firewall does after a reload. TCP takes that for a soft error and goes on trying; when it gives up, the process is told ECONNREFUSED instead of ETIMEDOUT.",
		Needs:       []Feature{HasVeth, HasNftReject},
		Remote:      true,
		Run: func(w *World) {
			w.Sysctl("net.ipv4.tcp_retries2", "2")
			c, s := w.RemotePair()
			c.Exchange(s, 100, 200)
			w.FarReject(s.end.Local.Port(), rejectICMP)
			c.Send(500)
			c.RecvFails(unix.ECONNREFUSED)
			c.Close()
		},
		Ends: map[string]Expect{
			"client": gaveUp(verdict.RetransmitTimeout).local(Expect{AppSaw: []string{"ECONNREFUSED"}, Lost: Lost{Unacked: 500}}),
			"server": unseen(Expect{}),
		},
		Counters: oneGivenUp,
	},
	{
		Name:        "user-timeout-orphan",
		Title:       "TCP_USER_TIMEOUT runs out after the close",
		Description: "The server is deaf. The client allows its data 500 ms (TCP_USER_TIMEOUT), sends 500 bytes and closes. The limit counts for a closed socket, too, long before its own retries are used up; nobody is told.",
		Run: func(w *World) {
			c, s := w.Pair()
			c.Exchange(s, 100, 200)
			s.DropIncoming()
			c.Set(unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 500, "TCP_USER_TIMEOUT")
			c.Send(500)
			c.Close()
			w.WaitGone(c.end)
			hearsOfIt(s)
		},
		Ends: gaveUp(verdict.UserTimeout).pair(
			"client", Expect{Lost: Lost{Unacked: 500}, FIN: 1, RST: 1}, "server", leftBehind),
		Counters: map[string]int64{"OutRsts": 1, "EstabResets": 1, "TCPAbortOnTimeout": 1},
	},
	{
		Name:        "fin-wait2-reset",
		Title:       "a RST comes instead of the peer's FIN",
		Description: "The client closes, and its kernel waits for the server's FIN. The server, on another machine, closes with 60 bytes unread: its kernel resets, and the wait is over long before its time.",
		Needs:       []Feature{HasVeth},
		Remote:      true,
		Run: func(w *World) {
			c, s := w.RemotePair()
			c.Exchange(s, 100, 200)
			c.Send(60)
			c.WaitAcked()
			c.Close()
			w.WaitMini(c.end, event.FinWait2)
			s.Close()
			w.WaitGone(c.end)
		},
		Ends: map[string]Expect{
			"client": fromFar(verdict.Aborted, verdict.PeerAbort, likely(Expect{FIN: 1})),
			"server": unseen(Expect{Lost: Lost{Unread: 60}, RST: 1}),
		},
		Counters: map[string]int64{"OutRsts": 1, "EstabResets": 1, "TCPAbortOnClose": 1},
	},
	{
		Name:        "fin-wait2-destroyed",
		Title:       "an operator destroys what waits for the peer's FIN",
		Description: "The client has closed, and its kernel waits for the server's FIN. SOCK_DESTROY (ss -K) takes the mini-socket away, without a packet: the server's end stays in CLOSE_WAIT.",
		Needs:       []Feature{HasDestroyTimeWait},
		Run: func(w *World) {
			c, s := w.Pair()
			c.Exchange(s, 100, 200)
			c.Close()
			s.RecvEOF()
			w.WaitMini(c.end, event.FinWait2)
			w.Puppet("admin").Destroy(c.end)
			w.WaitGone(c.end)
			s.WaitState(event.CloseWait)
		},
		Ends: map[string]Expect{
			"client": ending{class: verdict.Aborted, cause: verdict.SockDestroy, act: verdict.ActDestroy, actor: "admin", ender: verdict.Admin}.local(Expect{FIN: 1}),
			"server": open(verdict.CloseWaitLeak, Expect{AppSaw: []string{"EOF"}}),
		},
	},
	{
		Name:        "namespace-removed",
		Title:       "the network namespace goes while its kernel waits for the peer's FIN",
		Description: "The client, in a namespace of its own as in a container, closes and exits; its kernel waits for the server's FIN. Then the namespace is removed, and the mini-socket with it. No packet says so.",
		Needs:       []Feature{HasVeth},
		Run: func(w *World) {
			there := w.addTransient()
			l := w.Puppet("server").listen(nearAddr, 0, 16, unix.IPPROTO_TCP)
			c := w.puppetIn("client", there).Connect("client", l)
			s := l.Accept("server")
			c.Exchange(s, 100, 200)
			c.Close()
			s.RecvEOF()
			s.WaitState(event.CloseWait)
			c.p.Exit(0)
			w.removeTransient()
		},
		Ends: map[string]Expect{
			"client": gaveAway(verdict.NamespaceRemoved, Expect{Deaf: true}), // the capture is not where it sends
			"server": open(verdict.CloseWaitLeak, Expect{AppSaw: []string{"EOF"}}),
		},
	},
}

// gaveAway is an ending that this host's kernel made without a packet.
func gaveAway(cause verdict.Cause, x Expect) Expect {
	return ending{class: verdict.Aborted, cause: cause, kernel: true}.local(x)
}
