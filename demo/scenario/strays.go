package scenario

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// ConnectFrom connects from a port that must be free.
func (p *Puppet) ConnectFrom(name string, port uint16, to *Sock) *Sock {
	s := p.socket(unix.IPPROTO_TCP, 0)
	s.Set(unix.SOL_SOCKET, unix.SO_REUSEADDR, 1, "SO_REUSEADDR")
	s.bind(netip.AddrPortFrom(p.host(), port))
	s.connect(name, to)
	return s
}

// vanished is what a TCP_REPAIR close is due, at both ends.
func vanished() ending {
	return ending{class: verdict.Aborted, cause: verdict.RepairClose, act: verdict.ActClose, actor: "client"}
}

// shared marks an expectation of a connection whose addresses another one used.
func shared(x Expect) Expect {
	x.Shared = true
	return x
}

// portReused is the old server end that a new SYN on the same ports brought down.
func portReused(saw ...string) Expect {
	return shared(ending{class: verdict.Aborted, cause: verdict.PortReuse, kernel: true}.remote(Expect{AppSaw: saw}))
}

var strays = []Scenario{
	{
		Name:        "vanished",
		Title:       "the client vanishes without a word; the server's next segment is reset",
		Description: "The client's socket disappears without a packet (TCP_REPAIR), as when a host crashes and comes back, or a load balancer forgets a flow. The server's next 50 bytes meet no socket: reset.",
		Families:    bothIP,
		Run: func(w *World) {
			c, s := w.Pair()
			c.Exchange(s, 100, 200)
			c.Vanish()
			w.WaitGone(c.end)
			s.Send(50)
			s.WaitState(event.Close)
			wasReset(s)
		},
		Ends: vanished().pair("client", Expect{RST: 1},
			"server", Expect{AppSaw: []string{"ECONNRESET"}, Lost: Lost{Unacked: 50}}),
		Counters: map[string]int64{"OutRsts": 1, "EstabResets": 2},
	},
	{
		Name:        "port-reuse-established",
		Title:       "a new connection comes on the ports of an old one that still stands",
		Description: "The client vanishes and comes back, and connects again from the same port. The server's old socket answers the SYN with a challenge acknowledgement; the client's kernel, which waits for something else, resets; the old connection ends with ECONNRESET, and the SYN sent again succeeds.",
		Families:    bothIP,
		Run: func(w *World) {
			l := w.Puppet("server").Listen(16)
			p := w.Puppet("client")
			c := p.Connect("client", l)
			s := l.Accept("server")
			c.Exchange(s, 100, 200)
			c.Vanish()
			w.WaitGone(c.end)
			c2 := p.ConnectFrom("client#2", c.end.Local.Port(), l)
			wasReset(s)
			s2 := l.Accept("server#2")
			c2.Exchange(s2, 100, 200)
			c2.Close()
			followUp(c2, s2)
		},
		Ends: map[string]Expect{
			"client":   shared(vanished().local(Expect{})),
			"server":   portReused("ECONNRESET"),
			"client#2": shared(politely("client", verdict.ActClose).local(first)),
			"server#2": shared(politely("client", verdict.ActClose).remote(then)),
		},
		Counters: map[string]int64{"OutRsts": 1, "EstabResets": 2, "TCPChallengeACK": 1, "TCPSYNChallenge": 1},
		Verify:   resetFrom("server", 1),
	},
	{
		Name:        "port-reuse-close-wait",
		Title:       "a new connection comes on the ports of one that was never closed",
		Description: "The client has said goodbye and is long forgotten; the server leaks its side in CLOSE_WAIT. A new connection from the same port meets the leak: challenge acknowledgement, reset, and the server's next write fails with EPIPE.",
		Run: func(w *World) {
			l := w.Puppet("server").Listen(16)
			p := w.Puppet("client")
			c := p.Connect("client", l)
			s := l.Accept("server")
			c.Exchange(s, 100, 200)
			c.Shutdown(unix.SHUT_WR)
			s.RecvEOF()
			c.WaitState(event.FinWait2)
			c.Vanish()
			w.WaitGone(c.end)
			c2 := p.ConnectFrom("client#2", c.end.Local.Port(), l)
			s.WaitState(event.Close)
			s.SendFails(50, unix.EPIPE)
			s.Close()
			s2 := l.Accept("server#2")
			c2.Exchange(s2, 100, 200)
			c2.Close()
			followUp(c2, s2)
		},
		Ends: map[string]Expect{
			"client":   shared(vanished().local(Expect{})),
			"server":   portReused("EOF", "EPIPE"),
			"client#2": shared(politely("client", verdict.ActClose).local(first)),
			"server#2": shared(politely("client", verdict.ActClose).remote(then)),
		},
		Counters: map[string]int64{"OutRsts": 1, "EstabResets": 1, "TCPChallengeACK": 1, "TCPSYNChallenge": 1},
		Verify:   resetFrom("server", 1),
	},
	{
		Name:        "old-duplicate",
		Title:       "an old segment meets a connection that is over",
		Description: "The connection was closed politely; the client still keeps its TIME_WAIT. A late duplicate of the client's data reaches the server's host, where nothing is left of the connection: reset. It ends the TIME_WAIT early, and harms nobody: both sides had everything.",
		Families:    bothIP,
		Run: func(w *World) {
			c, s := w.Pair()
			c.Exchange(s, 100, 200)
			c.Close()
			followUp(c, s)
			w.Inject("injector", c.end, s.end, forged{Flags: event.ACK | event.PSH, SeqOffset: -101, Len: 100})
			w.WaitGone(c.end)
		},
		Ends: politely("client", verdict.ActClose).pair(
			"client", Expect{TimeWait: true, FIN: 1, Harmless: true},
			"server", Expect{AppSaw: []string{"EOF"}, FIN: 1, RST: 1, Harmless: true}),
		Counters: map[string]int64{"OutRsts": 1},
	},
	{
		Name:        "time-wait-reuse",
		Title:       "a new connection takes over a TIME_WAIT",
		Description: "The server closed first and keeps the TIME_WAIT. The client connects again from the same port: the kernel sees that the SYN is younger than all that came before, gives up the TIME_WAIT, and accepts.",
		Run: func(w *World) {
			l := w.Puppet("server").Listen(16)
			p := w.Puppet("client")
			c := p.Connect("client", l)
			s := l.Accept("server")
			c.Exchange(s, 100, 200)
			s.Close()
			followUp(s, c)
			c2 := p.ConnectFrom("client#2", c.end.Local.Port(), l)
			s2 := l.Accept("server#2")
			c2.Exchange(s2, 100, 200)
			c2.Close()
			followUp(c2, s2)
		},
		Ends: map[string]Expect{
			"server":   shared(politely("server", verdict.ActClose).local(first)),
			"client":   shared(politely("server", verdict.ActClose).remote(then)),
			"client#2": shared(politely("client", verdict.ActClose).local(first)),
			"server#2": shared(politely("client", verdict.ActClose).remote(then)),
		},
		Verify: func(o *Outcome) error {
			// Two connections, each with a FIN from each side, and no reset.
			for _, name := range []string{"client", "server"} {
				if f := o.Flow(o.Ends[name]); f.FINs != 2 || f.RSTs != 0 {
					return fmt.Errorf("%s's address sent %d FINs and %d RSTs", name, f.FINs, f.RSTs)
				}
			}
			return nil
		},
	},
	{
		Name:        "nft-reject",
		Title:       "a packet filter resets a connection in the server's name",
		Description: "A rule that rejects with a reset is put in while the connection stands. The client's next 50 bytes never reach the server; the filter resets the client in the server's name. When the rule is gone and the server writes, it is reset for want of a socket.",
		Families:    bothIP,
		Needs:       []Feature{HasNftReject},
		Forged:      1,
		Run: func(w *World) {
			c, s := w.Pair()
			c.Exchange(s, 100, 200)
			w.Reject(s.end.Local.Port(), rejectTCPReset)
			c.Send(50)
			c.WaitState(event.Close)
			wasReset(c)
			w.RejectNothing()
			s.Send(10)
			s.WaitState(event.Close)
			wasReset(s)
		},
		Ends: byPath.pair(
			"client", Expect{AppSaw: []string{"ECONNRESET"}, Lost: Lost{Unacked: 50}, RST: 1},
			"server", Expect{AppSaw: []string{"ECONNRESET"}, Lost: Lost{Unacked: 10}, RST: 1}),
		Counters: map[string]int64{"OutRsts": 1, "EstabResets": 2},
	},
	{
		Name:        "injected-reset",
		Title:       "a third party resets both ends",
		Description: "A process with a raw socket knows the sequence numbers, and resets both ends, each in the other's name. Neither stack sent anything.",
		Families:    bothIP,
		Forged:      2,
		Run: func(w *World) {
			c, s := w.Pair()
			c.Exchange(s, 100, 200)
			w.Inject("injector", s.end, c.end, forged{Flags: event.RST})
			w.Inject("injector", c.end, s.end, forged{Flags: event.RST})
			wasReset(c)
			wasReset(s)
		},
		Ends: byPath.pair(
			"client", Expect{AppSaw: []string{"ECONNRESET"}, RST: 1},
			"server", Expect{AppSaw: []string{"ECONNRESET"}, RST: 1}),
		Counters: map[string]int64{"EstabResets": 2},
	},
	{
		Name:        "blind-reset",
		Title:       "a forged reset that only nearly fits is not believed",
		Description: "A forged reset has a sequence number inside the server's window, but not the next one. The kernel answers with a challenge acknowledgement (RFC 5961) and goes on: the connection ends as its owners want.",
		Forged:      1,
		Run: func(w *World) {
			c, s := w.Pair()
			c.Exchange(s, 100, 200)
			before := w.acksFrom(s.end)
			w.Inject("injector", c.end, s.end, forged{Flags: event.RST, SeqOffset: 1000})
			w.Until("the challenge acknowledgement", func() (bool, string) {
				n := w.acksFrom(s.end)
				return n > before, fmt.Sprint(n - before)
			})
			c.Exchange(s, 100, 200)
			c.Close()
			followUp(c, s)
		},
		Ends: politely("client", verdict.ActClose).pair(
			"client", Expect{TimeWait: true, FIN: 1, RST: 1}, "server", then),
		Counters: map[string]int64{"TCPChallengeACK": 1},
	},
}

// byPath is a reset that the peer's stack did not send.
var byPath = ending{class: verdict.Aborted, cause: verdict.PathReset, ender: verdict.Path}
