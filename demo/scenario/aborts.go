package scenario

import (
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// aborted is an abort by a process.
func aborted(cause verdict.Cause, actor string, act verdict.Act) ending {
	return ending{class: verdict.Aborted, cause: cause, act: act, actor: actor}
}

// wasReset is the end of who reads a reset and then closes what is left.
func wasReset(s *Sock) {
	s.RecvFails(unix.ECONNRESET)
	s.Close()
}

var (
	reset   = Expect{AppSaw: []string{"ECONNRESET"}} // who was reset, and nothing lost
	resets  = Expect{RST: 1}                         // who resets, and nothing lost
	aborts  = map[string]int64{"OutRsts": 1, "EstabResets": 2}
	onClose = map[string]int64{"OutRsts": 1, "EstabResets": 2, "TCPAbortOnClose": 1}
	onData  = map[string]int64{"OutRsts": 1, "EstabResets": 2, "TCPAbortOnData": 1}
)

var abort = []Scenario{
	{
		Name:        "close-unread",
		Title:       "the server closes with part of the request unread",
		Description: "The client sends 1000 bytes. The server reads 700 and closes. The kernel does not say goodbye over unread data: it resets (RFC 2525), and the client, whose bytes were all acknowledged, reads ECONNRESET.",
		Families:    everyFamily,
		Run: func(w *World) {
			c, s := w.Pair()
			c.Send(1000)
			s.Recv(700)
			c.WaitAcked()
			s.Close()
			wasReset(c)
		},
		Ends: aborted(verdict.CloseUnread, "server", verdict.ActClose).pair(
			"server", Expect{Lost: Lost{Unread: 300}, RST: 1}, "client", reset),
		Counters: onClose,
	},
	{
		Name:        "peeked-unread",
		Title:       "the server only looks at the request, and closes",
		Description: "The client sends 24 bytes. The server looks at them with MSG_PEEK, as protocol sniffers do, and closes: it has seen the request, but taken nothing, so the kernel resets.",
		Run: func(w *World) {
			c, s := w.Pair()
			c.Send(24)
			s.Peek(24)
			c.WaitAcked()
			s.Close()
			wasReset(c)
		},
		Ends: aborted(verdict.CloseUnread, "server", verdict.ActClose).pair(
			"server", Expect{Lost: Lost{Unread: 24}, RST: 1}, "client", reset),
		Counters: onClose,
	},
	{
		Name:        "urgent-read",
		Title:       "the server has read everything, the urgent byte with MSG_OOB",
		Description: "The client sends 4 bytes, the last of them urgent. The server reads the urgent one with MSG_OOB and the other three as ever. Nothing is left; but the urgent byte keeps its place in the queue, so the kernel takes it for unread at close, and resets.",
		Run: func(w *World) {
			c, s := w.Pair()
			c.SendUrgent(4)
			s.WaitUnread(4)
			s.RecvUrgent()
			s.Recv(3)
			c.WaitAcked()
			s.Close()
			wasReset(c)
		},
		Ends: aborted(verdict.CloseUnread, "server", verdict.ActClose).pair(
			"server", Expect{RST: 1}, "client", reset),
		Counters: onClose,
	},
	{
		Name:        "linger-zero",
		Title:       "the server closes with SO_LINGER set to zero",
		Description: "The server has read and answered everything, and closes with SO_LINGER on and a time of 0. That is an abort: a reset instead of a FIN.",
		Families:    bothIP,
		Run: func(w *World) {
			c, s := w.Pair()
			c.Exchange(s, 100, 200)
			s.Linger(0)
			s.Close()
			wasReset(c)
		},
		Ends:     aborted(verdict.LingerZero, "server", verdict.ActClose).pair("server", resets, "client", reset),
		Counters: onData,
	},
	{
		Name:        "disconnect",
		Title:       "the client disconnects with connect(AF_UNSPEC)",
		Description: "The client dissolves the association by connect(2) to AF_UNSPEC. The peer is reset; the client keeps its descriptor, and could connect again.",
		Run: func(w *World) {
			c, s := w.Pair()
			c.Exchange(s, 100, 200)
			c.Disconnect()
			wasReset(s)
			c.Close()
		},
		Ends:     aborted(verdict.Disconnect, "client", verdict.ActDisconnect).pair("client", resets, "server", reset),
		Counters: aborts,
	},
	{
		Name:        "listener-close",
		Title:       "the listener is closed with three connections in its queue",
		Description: "Three clients' connections are complete but not accepted; one has sent 10 bytes. The server closes its listener, and the kernel resets all three.",
		Families:    bothIP,
		Run: func(w *World) {
			l := w.Puppet("server").Listen(16)
			p := w.Puppet("client")
			var socks []*Sock
			for _, n := range []string{"#1", "#2", "#3"} {
				c := p.Connect("client"+n, l)
				e := w.Unaccepted("queued"+n, c, l)
				w.WaitOrphan(e, event.Established)
				socks = append(socks, c)
			}
			socks[1].Send(10)
			socks[1].WaitAcked()
			l.Close()
			for _, c := range socks {
				wasReset(c)
			}
		},
		Ends: map[string]Expect{
			"client":   aborted(verdict.ListenerClosed, "server", verdict.ActListener).remote(reset),
			"queued":   aborted(verdict.ListenerClosed, "server", verdict.ActListener).local(resets),
			"queued#2": aborted(verdict.ListenerClosed, "server", verdict.ActListener).local(Expect{Lost: Lost{Unread: 10}, RST: 1}),
		},
		Counters: map[string]int64{"OutRsts": 3, "EstabResets": 6},
	},
	{
		Name:        "sock-destroy",
		Title:       "an administrator destroys the client's socket (ss -K)",
		Description: "Another process asks the kernel to destroy the client's socket. The client reads ECONNABORTED, the server is reset. No application closed anything.",
		Families:    everyFamily,
		Needs:       []Feature{HasDiagDestroy},
		Run: func(w *World) {
			c, s := w.Pair()
			c.Exchange(s, 100, 200)
			w.Puppet("admin").Destroy(c.end)
			c.RecvFails(unix.ECONNABORTED)
			wasReset(s)
			c.Close()
		},
		Ends: destroyed.pair(
			"client", Expect{AppSaw: []string{"ECONNABORTED"}, RST: 1}, "server", reset),
		Counters: aborts,
	},
	{
		Name:        "close-unread-shutdown",
		Title:       "the server shuts down its sending side, then closes with data unread",
		Description: "shutdown(SHUT_WR) and then close, as some do to avoid the reset. It does not help: what the client sent in between is unread at the close. The client has already read the end of the stream; the reset shows only as EPIPE.",
		Run: func(w *World) {
			c, s := w.Pair()
			c.Exchange(s, 100, 200)
			s.Shutdown(unix.SHUT_WR)
			c.RecvEOF()
			c.Send(100)
			c.WaitAcked()
			s.Close()
			c.WaitState(event.Close)
			c.SendFails(50, unix.EPIPE)
			c.Close()
		},
		Ends: aborted(verdict.CloseUnread, "server", verdict.ActClose).pair(
			"server", Expect{Lost: Lost{Unread: 100}, FIN: 1, RST: 1},
			"client", Expect{AppSaw: []string{"EOF", "EPIPE"}}),
		// FIN_WAIT2 does not count as established.
		Counters: map[string]int64{"OutRsts": 1, "EstabResets": 1, "TCPAbortOnClose": 1},
	},
	{
		Name:        "shutdown-rd-unread",
		Title:       "the server shuts down its receiving side; what comes later is unread",
		Description: "shutdown(SHUT_RD) tells nobody anything: the client's 100 bytes are acknowledged and queued. The server closes without reading them, and the kernel resets.",
		Run: func(w *World) {
			c, s := w.Pair()
			c.Exchange(s, 100, 200)
			s.Shutdown(unix.SHUT_RD)
			c.Send(100)
			c.WaitAcked()
			s.Close()
			wasReset(c)
		},
		Ends: aborted(verdict.CloseUnread, "server", verdict.ActClose).pair(
			"server", Expect{Lost: Lost{Unread: 100}, RST: 1}, "client", reset),
		Counters: onClose,
	},
	{
		Name:        "exit-unread",
		Title:       "the server exits with a request unread",
		Description: "The server's process exits while a request waits in its queue. The kernel closes the socket for it, finds unread data, and resets.",
		Run: func(w *World) {
			c, s := w.Pair()
			c.Exchange(s, 100, 200)
			c.Send(60)
			c.WaitAcked()
			s.p.Exit(0)
			wasReset(c)
		},
		Ends: aborted(verdict.CloseUnread, "server", verdict.ActExit).pair(
			"server", Expect{Lost: Lost{Unread: 60}, RST: 1}, "client", reset),
		Counters: onClose,
	},
	{
		Name:        "killed-unread",
		Title:       "the server is killed with a request unread",
		Description: "SIGKILL takes the server while a request waits in its queue: a reset, as after a close with unread data.",
		Run: func(w *World) {
			c, s := w.Pair()
			c.Exchange(s, 100, 200)
			c.Send(60)
			c.WaitAcked()
			s.p.Kill(unix.SIGKILL)
			wasReset(c)
		},
		Ends: ending{class: verdict.Aborted, cause: verdict.CloseUnread, act: verdict.ActKilled, signal: int(unix.SIGKILL), actor: "server"}.pair(
			"server", Expect{Lost: Lost{Unread: 60}, RST: 1}, "client", reset),
		Counters: onClose,
	},
	{
		Name:        "linger-zero-unread",
		Title:       "SO_LINGER zero and unread data: the unread data decides",
		Description: "The server closes with SO_LINGER zero and a request unread. The kernel looks at the queue first, so this counts as a close with unread data.",
		Run: func(w *World) {
			c, s := w.Pair()
			c.Exchange(s, 100, 200)
			c.Send(60)
			c.WaitAcked()
			s.Linger(0)
			s.Close()
			wasReset(c)
		},
		Ends: aborted(verdict.CloseUnread, "server", verdict.ActClose).pair(
			"server", Expect{Lost: Lost{Unread: 60}, RST: 1}, "client", reset),
		Counters: onClose,
	},
	{
		Name:        "linger-zero-killed",
		Title:       "the server is killed with SO_LINGER zero set",
		Description: "The server set SO_LINGER zero long ago, and is killed. At exit the kernel forgets a positive linger time, but zero still means abort.",
		Run: func(w *World) {
			c, s := w.Pair()
			c.Exchange(s, 100, 200)
			s.Linger(0)
			s.p.Kill(unix.SIGKILL)
			wasReset(c)
		},
		Ends: ending{class: verdict.Aborted, cause: verdict.LingerZero, act: verdict.ActKilled, signal: int(unix.SIGKILL), actor: "server"}.pair(
			"server", resets, "client", reset),
		Counters: onData,
	},
	{
		Name:        "linger-zero-queued",
		Title:       "SO_LINGER zero with a full send queue",
		Description: "The server sends until the kernel takes no more, and closes with SO_LINGER zero. What was not sent yet is thrown away; the client reads what it has, then ECONNRESET.",
		Run: func(w *World) {
			c, s := w.Pair()
			s.Fill(fillLimit)
			s.WaitStuck()
			s.Linger(0)
			s.Close()
			c.Drain(unix.ECONNRESET)
			c.Close()
		},
		Ends: aborted(verdict.LingerZero, "server", verdict.ActClose).pair(
			"server", Expect{Lost: Lost{Unsent: Measured}, RST: 1}, "client", reset),
		Counters: onData,
		Verify:   somethingLost("server"),
	},
	{
		Name:        "reset-before-accept",
		Title:       "the client aborts before the server has accepted it",
		Description: "The connection is complete and waits in the accept queue when the client closes it with SO_LINGER zero. accept(2) still returns it; the first read says ECONNRESET.",
		Run: func(w *World) {
			l := w.Puppet("server").Listen(16)
			c := w.Puppet("client").Connect("client", l)
			queued := &End{Name: "server", Local: c.end.Remote, Remote: c.end.Local, NetNS: c.end.NetNS}
			w.WaitOrphan(queued, event.Established)
			c.Linger(0)
			c.Close()
			w.WaitGone(queued)
			wasReset(l.Accept("server"))
		},
		Ends:     aborted(verdict.LingerZero, "client", verdict.ActClose).pair("client", resets, "server", reset),
		Counters: onData,
	},
	{
		Name:        "listener-killed",
		Title:       "the server is killed with a connection in its accept queue",
		Description: "SIGKILL takes the server. Its listener goes with it, and the connection that it had not accepted yet is reset.",
		Run: func(w *World) {
			l := w.Puppet("server").Listen(16)
			c := w.Puppet("client").Connect("client", l)
			w.WaitOrphan(w.Unaccepted("queued", c, l), event.Established)
			l.p.Kill(unix.SIGKILL)
			wasReset(c)
		},
		Ends: ending{class: verdict.Aborted, cause: verdict.ListenerClosed, act: verdict.ActKilled, signal: int(unix.SIGKILL), actor: "server"}.pair(
			"queued", resets, "client", reset),
		Counters: aborts,
	},
	{
		Name:        "listener-shutdown",
		Title:       "the listener is shut down with a connection in its queue",
		Description: "shutdown(SHUT_RD) on a listener stops it, and resets what waits in its queue, while the descriptor stays.",
		Run: func(w *World) {
			l := w.Puppet("server").Listen(16)
			c := w.Puppet("client").Connect("client", l)
			w.WaitOrphan(w.Unaccepted("queued", c, l), event.Established)
			l.Shutdown(unix.SHUT_RD)
			wasReset(c)
			l.Close()
		},
		Ends:     aborted(verdict.ListenerClosed, "server", verdict.ActListener).pair("queued", resets, "client", reset),
		Counters: aborts,
	},
	{
		Name:        "reuseport-close",
		Title:       "one of two listeners on the same port is closed",
		Description: "Two processes share a port by SO_REUSEPORT; the kernel has spread the clients over both queues. One of them closes its listener, as in a rolling restart: its queued connections are reset although the other listener would have taken them.",
		Run:         reuseportClose,
		Ends: map[string]Expect{
			"client": aborted(verdict.ListenerClosed, "old", verdict.ActListener).remote(reset),
			"queued": aborted(verdict.ListenerClosed, "old", verdict.ActListener).local(resets),
			"lucky":  politely("client", verdict.ActClose).local(first),
			"server": politely("client", verdict.ActClose).remote(then),
		},
		Counters: map[string]int64{"OutRsts": 1, "EstabResets": 2},
	},
	{
		Name:        "linger2-negative",
		Title:       "a close that does not wait for the peer's goodbye (TCP_LINGER2 below zero)",
		Description: "The client has said its goodbye by shutdown and waits in FIN_WAIT2. With TCP_LINGER2 below zero its close does not wait any longer, and resets.",
		Run: func(w *World) {
			c, s := w.Pair()
			c.Exchange(s, 100, 200)
			c.Shutdown(unix.SHUT_WR)
			s.RecvEOF()
			c.WaitState(event.FinWait2)
			c.Set(unix.IPPROTO_TCP, unix.TCP_LINGER2, -1, "TCP_LINGER2")
			c.Close()
			s.WaitState(event.Close)
			s.SendFails(50, unix.EPIPE)
			s.Close()
		},
		Ends: aborted(verdict.Linger2Negative, "client", verdict.ActClose).pair(
			"client", Expect{FIN: 1, RST: 1}, "server", Expect{AppSaw: []string{"EOF", "EPIPE"}}),
		Counters: map[string]int64{"OutRsts": 1, "EstabResets": 1, "TCPAbortOnLinger": 1},
	},
	{
		Name:        "linger2-negative-at-once",
		Title:       "TCP_LINGER2 below zero on a connection that is closed in one step",
		Description: "With TCP_LINGER2 below zero the acknowledgement of the client's FIN is answered by a reset: there is no FIN_WAIT2 to be in.",
		Run: func(w *World) {
			c, s := w.Pair()
			c.Exchange(s, 100, 200)
			c.Set(unix.IPPROTO_TCP, unix.TCP_LINGER2, -1, "TCP_LINGER2")
			c.Close()
			s.WaitState(event.Close)
			s.RecvEOF()
			s.SendFails(50, unix.EPIPE)
			s.Close()
		},
		Ends: aborted(verdict.Linger2Negative, "client", verdict.ActClose).pair(
			"client", Expect{FIN: 1, RST: 1}, "server", Expect{AppSaw: []string{"EOF", "EPIPE"}}),
		Counters: map[string]int64{"OutRsts": 1, "EstabResets": 1, "TCPAbortOnData": 1},
	},
	{
		Name:        "orphan-limit",
		Title:       "the machine has too many closed sockets that still have data",
		Description: "The client closes with a full send queue. Usually the kernel would deliver that on its own; but net.ipv4.tcp_max_orphans is reached, so it resets, and the queue is lost.",
		MachineWide: "net.ipv4.tcp_max_orphans is 0 for a moment, so that other connections that are closed just then may be reset",
		Run:         orphanLimit,
		Ends: map[string]Expect{
			"client": ending{class: verdict.Aborted, cause: verdict.OrphanLimit, kernel: true}.local(
				Expect{Lost: Lost{Unsent: Measured}, RST: 1}),
			"server":   ending{class: verdict.Aborted, cause: verdict.OrphanLimit, kernel: true}.remote(reset),
			"client#1": politely("client", verdict.ActClose).local(first),
			"server#1": politely("client", verdict.ActClose).remote(then),
		},
		Counters: map[string]int64{"OutRsts": 1, "EstabResets": 1, "TCPAbortOnMemory": 1},
		Verify:   somethingLost("client"),
	},
	{
		Name:        "sock-destroy-half-closed",
		Title:       "an administrator destroys a half-closed socket",
		Description: "The client has shut down its sending side. Before the server answers, its socket is destroyed: its next write says ECONNABORTED, and the client, which waited for the answer, is reset.",
		Needs:       []Feature{HasDiagDestroy},
		Run: func(w *World) {
			c, s := w.Pair()
			c.Exchange(s, 100, 200)
			c.Shutdown(unix.SHUT_WR)
			s.RecvEOF()
			w.waitFINAcked(c.end)
			w.Puppet("admin").Destroy(s.end)
			s.SendFails(50, unix.ECONNABORTED)
			wasReset(c)
			s.Close()
		},
		Ends: destroyed.pair(
			"server", Expect{AppSaw: []string{"EOF", "ECONNABORTED"}, RST: 1},
			"client", Expect{AppSaw: []string{"ECONNRESET"}, FIN: 1}),
		Counters: map[string]int64{"OutRsts": 1, "EstabResets": 1},
	},
	{
		Name:        "sock-destroy-listener",
		Title:       "an administrator destroys a listener with a connection in its queue",
		Description: "Another process asks the kernel to destroy the server's listener. What waits in its queue is reset.",
		Needs:       []Feature{HasDiagDestroy},
		Run: func(w *World) {
			l := w.Puppet("server").Listen(16)
			c := w.Puppet("client").Connect("client", l)
			w.WaitOrphan(w.Unaccepted("queued", c, l), event.Established)
			zero := netip.AddrPortFrom(netip.IPv4Unspecified(), 0)
			w.Puppet("admin").destroy(w.family.domain(), l.at, zero, 0)
			wasReset(c)
			l.Close()
		},
		Ends: ending{class: verdict.Aborted, cause: verdict.ListenerClosed, act: verdict.ActDestroy, actor: "admin", ender: verdict.Admin}.pair(
			"queued", resets, "client", reset),
		Counters: aborts,
	},
	{
		Name:        "sock-destroy-orphan",
		Title:       "an administrator destroys a closed socket that still has data",
		Description: "The server has closed with a full send queue, and the client reads nothing. An administrator clears the orphan away: the queue is lost, the client is reset.",
		// tcp_abort of 5.10 passes over sockets that no process holds.
		Needs: []Feature{HasDiagDestroy, HasDestroyOrphan},
		Run: func(w *World) {
			c, s := w.Pair()
			s.Fill(fillLimit)
			s.WaitStuck()
			s.Close()
			w.WaitOrphan(s.end, event.FinWait1)
			w.Puppet("admin").Destroy(s.end)
			c.Drain(unix.ECONNRESET)
			c.Close()
		},
		Ends: destroyed.pair(
			"server", Expect{Lost: Lost{Unsent: Measured}, RST: 1}, "client", reset),
		Counters: map[string]int64{"OutRsts": 1, "EstabResets": 1},
		Verify:   somethingLost("server"),
	},
	{
		Name:        "sock-destroy-time-wait",
		Title:       "an administrator destroys a TIME_WAIT",
		Description: "The connection was closed politely; what is destroyed is the mini-socket that remembers it. No packet is sent, nobody notices.",
		// tcp_abort of 5.10 knows no mini-sockets: EOPNOTSUPP.
		Needs: []Feature{HasDiagDestroy, HasDestroyTimeWait},
		Run: func(w *World) {
			c, s := w.Pair()
			c.Exchange(s, 100, 200)
			c.Close()
			followUp(c, s)
			w.Puppet("admin").Destroy(c.end)
			w.WaitGone(c.end)
		},
		Ends: politely("client", verdict.ActClose).pair("client", first, "server", then),
	},
}

// destroyed is the ending by `ss -K`.
var destroyed = ending{class: verdict.Aborted, cause: verdict.SockDestroy, act: verdict.ActDestroy, actor: "admin", ender: verdict.Admin}

// fillLimit is more than the kernel queues at both ends together.
const fillLimit = 64 << 20

// somethingLost says that the end had bytes that never left.
func somethingLost(end string) func(*Outcome) error {
	return func(o *Outcome) error {
		if l := o.Lost(o.Ends[end]); l.Unsent <= 0 || l.Unacked < 0 {
			return fmt.Errorf("%s lost %+v: its send queue was to be full", end, l)
		}
		return nil
	}
}

// WaitStuck waits until the peer has closed its window and nothing is in flight:
// what is queued then stays where it is.
func (s *Sock) WaitStuck() {
	w := s.p.w
	w.Until(s.end.Name+" to be stuck before a closed window", func() (bool, string) {
		window := -1
		for _, seg := range w.Segments() {
			if seg.Src == s.end.Remote && seg.Dst == s.end.Local {
				window = int(seg.Window)
			}
		}
		rows := w.rows(s.end)
		if len(rows) != 1 {
			return false, "no such socket"
		}
		// Timer 4 is the window probe's: nothing waits to be acknowledged.
		return window == 0 && rows[0].Timer == 4, fmt.Sprintf("window %d, timer %d", window, rows[0].Timer)
	})
}

// reuseportClose spreads clients over two listeners until each has one.
func reuseportClose(w *World) {
	share := func(p *Puppet, port uint16) *Sock {
		s := p.socket(unix.IPPROTO_TCP, 0)
		s.Set(unix.SOL_SOCKET, unix.SO_REUSEPORT, 1, "SO_REUSEPORT")
		s.bind(netip.AddrPortFrom(p.host(), port))
		s.listen(16)
		return s
	}
	old := share(w.Puppet("old"), 0)
	young := share(w.Puppet("young"), old.at.Port())
	p := w.Puppet("client")
	for n := 1; w.Err == nil; n++ {
		if n == 64 {
			w.Fail("64 connections in a row met the same listener")
			return
		}
		name := fmt.Sprintf("lucky#%d", n)
		c := p.Connect(name, old)
		at := w.queueOf(old, young)
		if at == old && w.notes["young"] > 0 {
			w.rename(c.end, "client")
			w.Unaccepted("queued", c, old)
			old.Close()
			wasReset(c)
			young.Close()
			return
		}
		if at == young {
			w.notes["young"]++
		}
		s := at.Accept(fmt.Sprintf("server#%d", n))
		c.Exchange(s, 100, 200)
		c.Close()
		followUp(c, s)
	}
}

// orphanLimit: see the story. tcp_max_orphans is one number for the machine.
func orphanLimit(w *World) {
	l := w.Puppet("server").Listen(16)
	p := w.Puppet("client")
	// One orphan that stays, in FIN_WAIT2 as a full socket, without a timer that
	// would look at the limit: from 5.16 on the kernel compares the limit with a
	// count that it takes ten times a second (tcp_orphan_update), so that the
	// socket being closed is not in it.
	c1, s1 := p.Connect("client#1", l), l.Accept("server#1")
	c1.Exchange(s1, 100, 200)
	c1.Set(unix.IPPROTO_TCP, unix.TCP_LINGER2, 120, "TCP_LINGER2")
	c1.Close()
	w.WaitOrphan(c1.end, event.FinWait2)
	c, s := p.Connect("client", l), l.Accept("server")
	c.Fill(fillLimit)
	c.WaitStuck()
	restore := w.SysctlMachine("net.ipv4.tcp_max_orphans", "0")
	w.Dwell(250 * time.Millisecond)
	c.Close()
	w.WaitGone(c.end)
	restore()
	s.Drain(unix.ECONNRESET)
	s.Close()
	followUp(c1, s1)
}
