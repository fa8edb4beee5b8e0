package scenario

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// writesOn is who has not noticed the other end's goodbye: the first write
// succeeds and is answered by a reset, then comes the end of the stream, and the
// next write fails.
func writesOn(s *Sock) {
	s.Send(50)
	s.WaitState(event.Close)
	s.RecvEOF()
	s.SendFails(50, unix.EPIPE)
	s.Close()
}

// wroteOn is what its end is due.
var wroteOn = Expect{AppSaw: []string{"EOF", "EPIPE"}, Lost: Lost{Unacked: 50}}

var answers = []Scenario{
	{
		Name:        "data-to-mini-socket",
		Title:       "the server writes to a client that has closed",
		Description: "The client closes and its FIN is acknowledged; the kernel keeps only a mini-socket in FIN_WAIT2. The server, unaware, writes 50 bytes: its write succeeds, and is answered by a reset. The server then reads the end of the stream, and its next write fails with EPIPE: never ECONNRESET.",
		Families:    everyFamily,
		Run: func(w *World) {
			c, s := w.Pair()
			c.Exchange(s, 100, 200)
			c.Close()
			w.WaitMini(c.end, event.FinWait2)
			writesOn(s)
			w.WaitGone(c.end)
		},
		Ends: aborted(verdict.DataAfterClose, "client", verdict.ActClose).pair(
			"client", Expect{FIN: 1, RST: 1}, "server", wroteOn),
		Counters: map[string]int64{"OutRsts": 1, "EstabResets": 1},
	},
	{
		Name:        "sigpipe",
		Title:       "the server is killed by SIGPIPE",
		Description: "As in data-to-mini-socket, but the server does not handle SIGPIPE: its second write kills it.",
		Run: func(w *World) {
			c, s := w.Pair()
			c.Exchange(s, 100, 200)
			c.Close()
			w.WaitMini(c.end, event.FinWait2)
			s.Send(50)
			s.WaitState(event.Close)
			s.SendKilled(50)
			w.WaitGone(c.end)
		},
		Ends: aborted(verdict.DataAfterClose, "client", verdict.ActClose).pair(
			"client", Expect{FIN: 1, RST: 1},
			"server", Expect{AppSaw: []string{"EPIPE", "SIGPIPE"}, Lost: Lost{Unacked: 50}}),
		Counters: map[string]int64{"OutRsts": 1, "EstabResets": 1},
	},
	{
		Name:        "sigpipe-ignored",
		Title:       "the server ignores SIGPIPE",
		Description: "As in sigpipe, but the server ignores the signal, as most do: its second write fails with EPIPE, and no signal tells it anything.",
		Run: func(w *World) {
			c, s := w.Pair()
			c.Exchange(s, 100, 200)
			c.Close()
			w.WaitMini(c.end, event.FinWait2)
			s.Send(50)
			s.WaitState(event.Close)
			s.SendRaises(50)
			s.Close()
			w.WaitGone(c.end)
		},
		Ends: aborted(verdict.DataAfterClose, "client", verdict.ActClose).pair(
			"client", Expect{FIN: 1, RST: 1},
			"server", Expect{AppSaw: []string{"EPIPE"}, Lost: Lost{Unacked: 50}}),
		Counters: map[string]int64{"OutRsts": 1, "EstabResets": 1},
	},
	{
		Name:        "sigpipe-blocked",
		Title:       "the server blocks SIGPIPE",
		Description: "As in sigpipe, but the server has blocked the signal and does not handle it: its second write fails with EPIPE, and the signal waits.",
		Run: func(w *World) {
			c, s := w.Pair()
			c.Exchange(s, 100, 200)
			c.Close()
			w.WaitMini(c.end, event.FinWait2)
			s.Send(50)
			s.WaitState(event.Close)
			s.p.must(nil, &request{Op: opSignalBlock, N: int(unix.SIGPIPE)}, "SIGPIPE")
			s.p.must(nil, &request{Op: opSignalDfl, N: int(unix.SIGPIPE)}, "SIGPIPE")
			s.SendRaises(50)
			s.Close()
			w.WaitGone(c.end)
		},
		Ends: aborted(verdict.DataAfterClose, "client", verdict.ActClose).pair(
			"client", Expect{FIN: 1, RST: 1},
			"server", Expect{AppSaw: []string{"EPIPE"}, Lost: Lost{Unacked: 50}}),
		Counters: map[string]int64{"OutRsts": 1, "EstabResets": 1},
	},
	{
		Name:        "data-to-fin-wait1",
		Title:       "one byte costs the whole send queue",
		Description: "The server sends more than the client reads, and closes: the FIN waits behind the queue. The client sends a single byte. It meets a socket that nobody holds any more; the kernel resets, and throws the queue away.",
		Families:    bothIP,
		Run: func(w *World) {
			c, s := w.Pair()
			s.Fill(fillLimit)
			s.WaitStuck()
			s.Close()
			w.WaitOrphan(s.end, event.FinWait1)
			c.Send(1)
			c.WaitState(event.Close)
			c.Drain(unix.ECONNRESET)
			c.Close()
		},
		Ends: aborted(verdict.DataAfterClose, "server", verdict.ActClose).pair(
			"server", Expect{Lost: Lost{Unsent: Measured}, RST: 1},
			"client", Expect{AppSaw: []string{"ECONNRESET"}, Lost: Lost{Unacked: 1}}),
		Counters: map[string]int64{"OutRsts": 1, "EstabResets": 1, "TCPAbortOnData": 1},
		Verify:   somethingLost("server"),
	},
	{
		Name:        "data-to-fin-wait2",
		Title:       "the server writes to a closed client whose full socket is kept",
		Description: "The client closes with TCP_LINGER2 above 60 s, so the kernel keeps the full socket in FIN_WAIT2. The server's data is answered by a reset of that socket.",
		Run: func(w *World) {
			c, s := w.Pair()
			c.Exchange(s, 100, 200)
			c.Set(unix.IPPROTO_TCP, unix.TCP_LINGER2, 120, "TCP_LINGER2")
			c.Close()
			w.WaitOrphan(c.end, event.FinWait2)
			writesOn(s)
			w.WaitGone(c.end)
		},
		Ends: aborted(verdict.DataAfterClose, "client", verdict.ActClose).pair(
			"client", Expect{FIN: 1, RST: 1}, "server", wroteOn),
		Counters: map[string]int64{"OutRsts": 1, "EstabResets": 1, "TCPAbortOnData": 1},
	},
	{
		Name:        "data-after-fin-wait2",
		Title:       "the server answers after the client's kernel has forgotten",
		Description: "The client closes; TCP_LINGER2 lets its kernel wait one second for the server's goodbye. The server's answer comes later: there is no socket any more, and the kernel resets.",
		Run: func(w *World) {
			c, s := w.Pair()
			c.Exchange(s, 100, 200)
			c.Set(unix.IPPROTO_TCP, unix.TCP_LINGER2, 1, "TCP_LINGER2")
			c.Close()
			w.WaitMini(c.end, event.FinWait2)
			w.WaitGone(c.end)
			writesOn(s)
		},
		Ends: aborted(verdict.DataAfterClose, "client", verdict.ActClose).pair(
			"client", Expect{FIN: 1, RST: 1}, "server", wroteOn),
		Counters: map[string]int64{"OutRsts": 1, "EstabResets": 1},
	},
	{
		Name:        "data-after-shutdown",
		Title:       "the server writes to a client that has shut down both directions",
		Description: "The client shuts down both directions and keeps the descriptor. The server's next write is answered by a reset; the client itself reads ECONNRESET although nobody sent it one.",
		Families:    bothIP,
		Run: func(w *World) {
			c, s := w.Pair()
			c.Exchange(s, 100, 200)
			c.Shutdown(unix.SHUT_RDWR)
			c.WaitState(event.FinWait2)
			s.Send(50)
			s.WaitState(event.Close)
			s.RecvEOF()
			s.SendFails(50, unix.EPIPE)
			s.Close()
			wasReset(c)
		},
		Ends: aborted(verdict.DataAfterShutdown, "client", verdict.ActShutRdWr).pair(
			"client", Expect{AppSaw: []string{"ECONNRESET"}, FIN: 1, RST: 1}, "server", wroteOn),
		Counters: map[string]int64{"OutRsts": 1, "EstabResets": 1, "TCPAbortOnData": 1},
	},
	{
		Name:        "data-to-time-wait",
		Title:       "an old segment reaches a TIME_WAIT: nothing happens",
		Description: "Both ends have said goodbye and keep a TIME_WAIT. A late duplicate of the server's data arrives at the client's: it is acknowledged, and that is all. A true TIME_WAIT never resets.",
		Run: func(w *World) {
			c, s := w.Pair()
			c.Exchange(s, 100, 200)
			crossFINs(c, s)
			c.Close()
			s.Close()
			before := w.acksFrom(c.end)
			w.Inject("injector", s.end, c.end, forged{Flags: event.ACK | event.PSH, SeqOffset: -201, Len: 200})
			w.Until("the TIME_WAIT's acknowledgement", func() (bool, string) {
				n := w.acksFrom(c.end)
				return n > before, fmt.Sprint(n - before)
			})
			w.WaitMini(c.end, event.TimeWait)
			w.WaitMini(s.end, event.TimeWait)
		},
		Ends: map[string]Expect{"client": crossed("client"), "server": crossed("server")},
	},
}
