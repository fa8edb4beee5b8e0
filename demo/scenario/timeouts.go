package scenario

import (
	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// gaveUp is a timeout of the kernel whose end is judged; the peer, when it hears
// of it, was aborted.
func gaveUp(cause verdict.Cause) ending {
	return ending{class: verdict.TimedOut, cause: cause, kernel: true}
}

// hearsOfIt is how a peer that was left behind learns of it: it writes, and the
// answer is a reset, for want of a socket.
func hearsOfIt(s *Sock) {
	s.Hear()
	s.Send(10)
	s.WaitState(event.Close)
	wasReset(s)
}

// leftBehind is the end of who writes to a connection that the other kernel has
// given up.
var leftBehind = Expect{Class: verdict.Aborted, AppSaw: []string{"ECONNRESET"}, Lost: Lost{Unacked: 10}}

var timeouts = []Scenario{
	{
		Name:   "keepalive",
		Title:  "the peer answers no keepalive probe",
		Story:  "The server goes deaf, as a host does whose cable is pulled. The client has SO_KEEPALIVE on, with 1 s of idleness, 1 s between probes and 1 probe. The kernel gives up, and sends a reset that the deaf server does not hear; the client reads ETIMEDOUT. When the server hears again and writes, it is reset for want of a socket.",
		Groups: []string{"timeout"},
		Run: func(w *World) {
			c, s := w.Pair()
			c.Exchange(s, 100, 200)
			s.DropIncoming()
			c.Set(unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 1, "TCP_KEEPIDLE")
			c.Set(unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 1, "TCP_KEEPINTVL")
			c.Set(unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 1, "TCP_KEEPCNT")
			c.Set(unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1, "SO_KEEPALIVE")
			c.RecvFails(unix.ETIMEDOUT)
			c.Close()
			hearsOfIt(s)
		},
		Ends: gaveUp(verdict.KeepaliveTimeout).pair(
			"client", Expect{AppSaw: []string{"ETIMEDOUT"}, RST: 2}, "server", leftBehind),
		Counters: map[string]int64{"OutRsts": 2, "EstabResets": 2, "TCPAbortOnTimeout": 1, "TCPKeepAlive": 1},
	},
}
