package scenario

import (
	"fmt"
	"time"

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

// tookAtLeast says that the call took that long.
func tookAtLeast(end, op string, d time.Duration) func(*Outcome) error {
	return func(o *Outcome) error {
		c, err := o.last(end, op)
		if err == nil && c.End-c.Start < d {
			err = fmt.Errorf("%s on %s took only %v", op, end, c.End-c.Start)
		}
		return err
	}
}

var timeouts = []Scenario{
	{
		Name:        "keepalive",
		Title:       "the peer answers no keepalive probe",
		Description: "The server goes deaf, as a host does whose cable is pulled. The client has SO_KEEPALIVE on, with 1 s of idleness, 1 s between probes and 1 probe. The kernel gives up, and sends a reset that the deaf server does not hear; the client reads ETIMEDOUT. When the server hears again and writes, it is reset for want of a socket.",
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
	{
		Name:        "retransmit-timeout",
		Title:       "the peer acknowledges nothing; the other side never learns",
		Description: "The server is deaf. The client's 500 bytes are sent again and again, until net.ipv4.tcp_retries2 is reached. Then the kernel gives up without a word: no packet says so, and the server still believes in the connection.",
		Run: func(w *World) {
			w.Sysctl("net.ipv4.tcp_retries2", "2")
			c, s := w.Pair()
			c.Exchange(s, 100, 200)
			s.DropIncoming()
			c.Send(500)
			c.RecvFails(unix.ETIMEDOUT)
			c.Close()
			w.WaitOrphan(s.end, event.Established)
		},
		Ends: map[string]Expect{
			"client": gaveUp(verdict.RetransmitTimeout).local(Expect{AppSaw: []string{"ETIMEDOUT"}, Lost: Lost{Unacked: 500}}),
			"server": open(verdict.StillOpen, Expect{}),
		},
		Counters: map[string]int64{"EstabResets": 1, "TCPAbortOnTimeout": 1},
	},
	{
		Name:        "user-timeout",
		Title:       "TCP_USER_TIMEOUT runs out",
		Description: "The server is deaf. The client allows its data 500 ms (TCP_USER_TIMEOUT), then reads ETIMEDOUT. When the server hears again and writes, it is reset for want of a socket.",
		Run: func(w *World) {
			c, s := w.Pair()
			c.Exchange(s, 100, 200)
			s.DropIncoming()
			c.Set(unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 500, "TCP_USER_TIMEOUT")
			c.Send(500)
			c.RecvFails(unix.ETIMEDOUT)
			c.Close()
			hearsOfIt(s)
		},
		Ends: gaveUp(verdict.UserTimeout).pair(
			"client", Expect{AppSaw: []string{"ETIMEDOUT"}, Lost: Lost{Unacked: 500}, RST: 1}, "server", leftBehind),
		Counters: map[string]int64{"OutRsts": 1, "EstabResets": 2, "TCPAbortOnTimeout": 1},
	},
	{
		Name:        "zero-window-timeout",
		Title:       "the peer's window is closed, and then it answers no probe",
		Description: "The server does not read, its window closes, and the client's kernel probes it. Then the server goes deaf, and the probes run out.",
		Run: func(w *World) {
			w.Sysctl("net.ipv4.tcp_retries2", "2")
			c, s := w.Pair()
			c.Fill(fillLimit)
			c.WaitStuck()
			s.DropIncoming()
			c.RecvFails(unix.ETIMEDOUT)
			c.Close()
			w.WaitOrphan(s.end, event.Established)
		},
		Ends: map[string]Expect{
			"client": gaveUp(verdict.ZeroWindowTimeout).local(Expect{AppSaw: []string{"ETIMEDOUT"}, Lost: Lost{Unsent: Measured}}),
			"server": open(verdict.StillOpen, Expect{}),
		},
		Counters: map[string]int64{"EstabResets": 1, "TCPAbortOnTimeout": 1},
		Verify:   somethingLost("client"),
	},
	{
		Name:        "user-timeout-zero-window",
		Title:       "TCP_USER_TIMEOUT runs out while the peer's window is closed",
		Description: "The server answers every window probe, but does not read. With TCP_USER_TIMEOUT set that is not good enough: after a second the client's kernel gives up data that the peer's host was alive to take.",
		Run: func(w *World) {
			c, s := w.Pair()
			c.Fill(fillLimit)
			c.WaitStuck()
			c.Set(unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 1000, "TCP_USER_TIMEOUT")
			c.RecvFails(unix.ETIMEDOUT)
			c.Close()
			s.WaitState(event.Established)
		},
		Ends: map[string]Expect{
			"client": gaveUp(verdict.UserTimeout).local(Expect{AppSaw: []string{"ETIMEDOUT"}, Lost: Lost{Unsent: Measured}}),
			"server": open(verdict.StillOpen, Expect{}),
		},
		Counters: map[string]int64{"EstabResets": 1, "TCPAbortOnTimeout": 1},
		Verify:   somethingLost("client"),
	},
	{
		Name:        "linger-timeout",
		Title:       "a close that waits runs out of time (SO_LINGER one second)",
		Description: "The client closes with SO_LINGER one second and data that the server does not take. The close returns after that second, without an error, and changes nothing: the kernel goes on delivering, and the server reads every byte.",
		Run: func(w *World) {
			c, s := w.Pair()
			n := c.Fill(fillLimit)
			c.Linger(1)
			c.Close()
			if got := s.Drain(0); w.Err == nil && got != n {
				w.Fail("the server read %d of %d bytes", got, n)
			}
			w.waitFINAcked(c.end)
			s.Close()
			w.WaitMini(c.end, event.TimeWait)
			w.WaitGone(s.end)
		},
		Ends: politely("client", verdict.ActClose).pair("client", first, "server", then),
		// The kernel waits in ticks, which an emulated machine catches up on in
		// bursts: the second can be shorter than the clock's.
		Verify: tookAtLeast("client", opClose, 750*time.Millisecond),
	},
	{
		Name:        "orphan-timeout",
		Title:       "the client closes, and the peer never acknowledges the rest",
		Description: "The server is deaf. The client sends 500 bytes and closes; nobody is left to be told when the kernel gives up. This is the loss that nothing reports: send and close had both succeeded.",
		Run: func(w *World) {
			w.Sysctl("net.ipv4.tcp_orphan_retries", "2")
			c, s := w.Pair()
			c.Exchange(s, 100, 200)
			s.DropIncoming()
			c.Send(500)
			c.Close()
			w.WaitGone(c.end)
			hearsOfIt(s)
		},
		Ends: gaveUp(verdict.OrphanTimeout).pair(
			"client", Expect{Lost: Lost{Unacked: 500}, FIN: 1, RST: 1}, "server", leftBehind),
		Counters: map[string]int64{"OutRsts": 1, "EstabResets": 1, "TCPAbortOnTimeout": 1},
	},
	{
		Name:        "fin-wait2-timeout",
		Title:       "the client has closed, and the server never does",
		Description: "The client closes; the server reads the end of the stream and keeps its socket. After TCP_LINGER2, one second here, the client's kernel forgets the connection. The server's side stays in CLOSE_WAIT for ever: a leak.",
		Run: func(w *World) {
			c, s := w.Pair()
			c.Exchange(s, 100, 200)
			c.Set(unix.IPPROTO_TCP, unix.TCP_LINGER2, 1, "TCP_LINGER2")
			c.Close()
			s.RecvEOF()
			w.WaitMini(c.end, event.FinWait2)
			w.WaitGone(c.end)
			s.WaitState(event.CloseWait)
		},
		Ends: map[string]Expect{
			"client": gaveUp(verdict.FinWait2Timeout).local(Expect{FIN: 1}),
			"server": open(verdict.CloseWaitLeak, Expect{AppSaw: []string{"EOF"}}),
		},
	},
	{
		Name:        "fin-wait2-timer-reset",
		Title:       "the wait for the peer's goodbye is cut short by a changed setting",
		Description: "net.ipv4.tcp_fin_timeout is above 60 s when the client closes, so that the kernel keeps the full socket and a timer. Before the timer looks, the setting is lowered: it finds that the wait is over, and resets.",
		Run: func(w *World) {
			w.Sysctl("net.ipv4.tcp_fin_timeout", "61")
			c, s := w.Pair()
			c.Exchange(s, 100, 200)
			c.Close()
			w.WaitOrphan(c.end, event.FinWait2)
			w.Sysctl("net.ipv4.tcp_fin_timeout", "30")
			s.WaitState(event.Close)
			s.RecvEOF()
			s.SendFails(50, unix.EPIPE)
			s.Close()
		},
		Ends: gaveUp(verdict.FinWait2Timeout).pair(
			"client", Expect{FIN: 1, RST: 1},
			"server", Expect{Class: verdict.Aborted, AppSaw: []string{"EOF", "EPIPE"}}),
		Counters: map[string]int64{"OutRsts": 1, "EstabResets": 1},
	},
}
