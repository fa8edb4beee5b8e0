package scenario

import (
	"net/netip"

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
		Name:     "close-unread",
		Title:    "the server closes with part of the request unread",
		Story:    "The client sends 1000 bytes. The server reads 700 and closes. The kernel does not say goodbye over unread data: it resets (RFC 2525), and the client, whose bytes were all acknowledged, reads ECONNRESET.",
		Groups:   []string{"abort"},
		Families: everyFamily,
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
		Name:     "linger-zero",
		Title:    "the server closes with SO_LINGER set to zero",
		Story:    "The server has read and answered everything, and closes with SO_LINGER on and a time of 0. That is an abort: a reset instead of a FIN.",
		Groups:   []string{"abort"},
		Families: bothIP,
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
		Name:   "disconnect",
		Title:  "the client disconnects with connect(AF_UNSPEC)",
		Story:  "The client dissolves the association by connect(2) to AF_UNSPEC. The peer is reset; the client keeps its descriptor, and could connect again.",
		Groups: []string{"abort"},
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
		Name:     "listener-close",
		Title:    "the listener is closed with three connections in its queue",
		Story:    "Three clients' connections are complete but not accepted; one has sent 10 bytes. The server closes its listener, and the kernel resets all three.",
		Groups:   []string{"abort"},
		Families: bothIP,
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
		Name:     "sock-destroy",
		Title:    "an administrator destroys the client's socket (ss -K)",
		Story:    "Another process asks the kernel to destroy the client's socket. The client reads ECONNABORTED, the server is reset. No application closed anything.",
		Groups:   []string{"abort", "admin"},
		Families: everyFamily,
		Needs:    []Feature{HasDiagDestroy},
		Run: func(w *World) {
			c, s := w.Pair()
			c.Exchange(s, 100, 200)
			w.Puppet("admin").Destroy(c.end)
			c.RecvFails(unix.ECONNABORTED)
			wasReset(s)
			c.Close()
		},
		Ends: ending{class: verdict.Aborted, cause: verdict.SockDestroy, act: verdict.ActDestroy, actor: "admin", ender: verdict.Admin}.pair(
			"client", Expect{AppSaw: []string{"ECONNABORTED"}, RST: 1}, "server", reset),
		Counters: aborts,
	},
}

// listenerKey is what a listener is called in sock_diag: no remote.
func listenerKey(l *Sock) (local, remote netip.AddrPort) {
	zero := netip.IPv4Unspecified()
	if l.at.Addr().Is6() {
		zero = netip.IPv6Unspecified()
	}
	return l.at, netip.AddrPortFrom(zero, 0)
}
