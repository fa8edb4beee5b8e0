package scenario

import (
	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/demo/harness"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// RemotePair connects the home puppet client to the puppet server on the other
// host, whose side no judge can see.
func (w *World) RemotePair() (client, server *Sock) {
	l := w.FarPuppet("server").Listen(16)
	client = w.Puppet("client").Connect("client", l)
	return client, l.Accept("server")
}

// fromFar is what an end is due whose ending came from another machine: that it
// was the peer, and no more.
func fromFar(class verdict.Class, cause verdict.Cause, x Expect) Expect {
	return ending{class: class, cause: cause, ender: verdict.Peer}.local(x)
}

// likely marks what one end alone cannot be certain of: something on the path may
// have sent what looks like the peer's reset.
func likely(x Expect) Expect {
	x.Confidence = verdict.Likely
	return x
}

// unseen is the other machine's end: nothing is judged there, but the wire is
// still checked.
func unseen(x Expect) Expect {
	x.Class = verdict.Unknown
	return x
}

var remotes = []Scenario{
	{
		Name:        "remote-close",
		Title:       "a server on another machine closes first",
		Description: "The server closes, the client reads the end of the stream and follows. Why the server closed is known only on its own machine.",
		Needs:       []Feature{HasVeth},
		Remote:      true,
		Run: func(w *World) {
			c, s := w.RemotePair()
			c.Exchange(s, 100, 200)
			s.Close()
			followUp(s, c)
		},
		Ends: map[string]Expect{
			"client": fromFar(verdict.Graceful, verdict.OrderlyClose, then),
			"server": unseen(Expect{FIN: 1}),
		},
	},
	{
		Name:        "remote-closed",
		Title:       "a client closes first, towards another machine",
		Description: "The client closes, and the server on the other machine follows. Everything that matters happened on this machine.",
		Needs:       []Feature{HasVeth},
		Remote:      true,
		Run: func(w *World) {
			c, s := w.RemotePair()
			c.Exchange(s, 100, 200)
			c.Close()
			followUp(c, s)
		},
		Ends: map[string]Expect{
			"client": politely("client", verdict.ActClose).local(first),
			"server": unseen(then),
		},
	},
	{
		Name:        "remote-abort",
		Title:       "a server on another machine aborts",
		Description: "The server closes with a request unread, and its kernel resets. The form of the reset, with an acknowledgement, tells that a process or an operator there aborted a connection that its kernel still knew.",
		Needs:       []Feature{HasVeth},
		Remote:      true,
		Run: func(w *World) {
			c, s := w.RemotePair()
			c.Exchange(s, 100, 200)
			c.Send(60)
			c.WaitAcked()
			s.Close()
			wasReset(c)
		},
		Ends: map[string]Expect{
			"client": fromFar(verdict.Aborted, verdict.PeerAbort, likely(reset)),
			"server": unseen(Expect{Lost: Lost{Unread: 60}, RST: 1}),
		},
		Counters: onClose,
	},
	{
		Name:        "remote-gone",
		Title:       "another machine no longer knows the connection",
		Description: "The server's machine has forgotten the connection, as after a crash. The client's next 50 bytes are answered by a bare reset, without an acknowledgement: nobody there aborted anything, there was nothing left to abort.",
		Needs:       []Feature{HasVeth},
		Remote:      true,
		Run: func(w *World) {
			c, s := w.RemotePair()
			c.Exchange(s, 100, 200)
			s.Vanish()
			w.WaitGone(s.end)
			c.Send(50)
			c.WaitState(event.Close)
			wasReset(c)
		},
		Ends: map[string]Expect{
			"client": fromFar(verdict.Aborted, verdict.PeerGone, likely(Expect{AppSaw: []string{"ECONNRESET"}, Lost: Lost{Unacked: 50}})),
			"server": unseen(Expect{RST: 1}),
		},
		Counters: map[string]int64{"OutRsts": 1, "EstabResets": 2},
	},
	{
		Name:        "remote-forged-reset",
		Title:       "a reset in the name of another machine has a clock that runs backwards",
		Description: "The other machine has sent nothing. Something on the way there resets the connection in its name, with the sequence number, the TTL and the options that are due; but the timestamp is older than what the machine had sent before.",
		Needs:       []Feature{HasVeth},
		Remote:      true,
		Run: func(w *World) {
			c, s := w.RemotePair()
			c.Exchange(s, 100, 200)
			w.FarPuppet("injector").inject(s.end, c.end, forged{Flags: event.RST | event.ACK, Clock: -3_600_000})
			c.WaitState(event.Close)
			wasReset(c)
		},
		Ends: map[string]Expect{
			"client": byPath.local(likely(reset)),
			"server": unseen(Expect{RST: 1}),
		},
		Counters: map[string]int64{"EstabResets": 1},
	},
	{
		Name:        "remote-data-after-close",
		Title:       "data for a server on another machine that has closed",
		Description: "The server said goodbye; the client writes without having looked. The bare reset says that the other side takes no more; the client reads the end of the stream, and its next write fails with EPIPE.",
		Needs:       []Feature{HasVeth},
		Remote:      true,
		Run: func(w *World) {
			c, s := w.RemotePair()
			c.Exchange(s, 100, 200)
			s.Close()
			w.WaitMini(s.end, event.FinWait2)
			writesOn(c)
		},
		Ends: map[string]Expect{
			"client": fromFar(verdict.Aborted, verdict.PeerGone, likely(wroteOn)),
			"server": unseen(Expect{FIN: 1, RST: 1}),
		},
		Counters: map[string]int64{"OutRsts": 1, "EstabResets": 1},
	},
	{
		Name:        "remote-closed-port",
		Title:       "nobody listens on the port of another machine",
		Description: "The other machine answers the SYN with a reset: ECONNREFUSED. Whether its kernel or a packet filter sent it cannot be told from here.",
		Needs:       []Feature{HasVeth},
		Remote:      true,
		Run: func(w *World) {
			l := w.FarPuppet("server").Listen(16)
			l.Close()
			w.Puppet("client").ConnectFails("client", l.at, unix.ECONNREFUSED).Close()
		},
		Ends: map[string]Expect{
			"client": fromFar(verdict.Refused, verdict.PortClosed, likely(Expect{AppSaw: []string{"ECONNREFUSED"}})),
		},
		Counters: map[string]int64{"OutRsts": 1, "AttemptFails": 1},
	},
	{
		Name:        "handshake-reset",
		Title:       "a client on another machine resets before its handshake is complete",
		Description: "The server accepts data with the SYN (TCP Fast Open), so it has a socket before the handshake is over. The client has given up meanwhile, and its machine answers the SYN-ACK with a reset.",
		Needs:       []Feature{HasVeth},
		Remote:      true,
		Run: func(w *World) {
			// The server takes data with a SYN, without a cookie; the client sends it so.
			w.Sysctl("net.ipv4.tcp_fastopen", "0x602")
			w.In(w.far(), "have data sent with a SYN", func() error { return harness.Sysctl("net.ipv4.tcp_fastopen", "5") })
			l := w.Puppet("server").listen(nearAddr, 0, 16, unix.IPPROTO_TCP)
			l.Set(unix.IPPROTO_TCP, unix.TCP_FASTOPEN, 16, "TCP_FASTOPEN")
			c := w.FarPuppet("client").socket(unix.IPPROTO_TCP, unix.SOCK_NONBLOCK)
			c.DropIncoming()
			c.fastOpen("client", l.at, 100)
			s := l.Accept("server")
			s.WaitState(event.SynRecv)
			c.Close()
			s.WaitState(event.Close)
			s.Recv(100)
			wasReset(s)
		},
		Ends: map[string]Expect{
			"server": fromFar(verdict.Refused, verdict.HandshakeReset, likely(reset)),
			"client": unseen(Expect{RST: 1, Lost: Lost{Unacked: 0}}),
		},
		// The request and the socket that was made for it both count.
		Counters: map[string]int64{"OutRsts": 1, "AttemptFails": 2},
	},
}
