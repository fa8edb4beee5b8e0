package scenario

import (
	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

var answers = []Scenario{
	{
		Name:     "data-to-mini-socket",
		Title:    "the server writes to a client that has closed",
		Story:    "The client closes and its FIN is acknowledged; the kernel keeps only a mini-socket in FIN_WAIT2. The server, unaware, writes 50 bytes: its write succeeds, and is answered by a reset. The server then reads the end of the stream, and its next write fails with EPIPE: never ECONNRESET.",
		Groups:   []string{"answer"},
		Families: everyFamily,
		Run: func(w *World) {
			c, s := w.Pair()
			c.Exchange(s, 100, 200)
			c.Close()
			w.WaitMini(c.end, event.FinWait2)
			s.Send(50)
			s.WaitState(event.Close)
			s.RecvEOF()
			s.SendFails(50, unix.EPIPE)
			s.Close()
			w.WaitGone(c.end)
		},
		Ends: aborted(verdict.DataAfterClose, "client", verdict.ActClose).pair(
			"client", Expect{FIN: 1, RST: 1},
			"server", Expect{AppSaw: []string{"EOF", "EPIPE"}, Lost: Lost{Unacked: 50}}),
		Counters: map[string]int64{"OutRsts": 1, "EstabResets": 1},
	},
}
