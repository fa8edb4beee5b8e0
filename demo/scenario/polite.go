package scenario

import (
	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// politely is an orderly close by a process.
func politely(actor string, act verdict.Act) ending {
	return ending{class: verdict.Graceful, cause: verdict.OrderlyClose, act: act, actor: actor}
}

// halfClosed is a half-close by a process.
func halfClosed(actor string) ending {
	return ending{class: verdict.Graceful, cause: verdict.HalfClose, act: verdict.ActShutWr, actor: actor}
}

func killedBy(actor string, sig unix.Signal) ending {
	e := politely(actor, verdict.ActKilled)
	e.signal = int(sig)
	return e
}

var (
	first = Expect{TimeWait: true, FIN: 1}          // who closes first keeps the TIME_WAIT
	then  = Expect{AppSaw: []string{"EOF"}, FIN: 1} // who reads the end and follows
)

// followUp is the passive side's goodbye, up to the last trace of both ends.
func followUp(active, passive *Sock) {
	passive.RecvEOF()
	passive.Close()
	active.p.w.WaitMini(active.end, event.TimeWait)
	active.p.w.WaitGone(passive.end)
}

var polite = []Scenario{
	{
		Name:     "close",
		Title:    "the client is done and closes; the server follows",
		Story:    "A request and its answer are exchanged. The client closes; the server reads the end of the stream and closes too. Nothing is lost; the client keeps the TIME_WAIT because it closed first.",
		Groups:   []string{"polite"},
		Families: everyFamily,
		Run: func(w *World) {
			c, s := w.Pair()
			c.Exchange(s, 100, 200)
			c.Close()
			followUp(c, s)
		},
		Ends: politely("client", verdict.ActClose).pair("client", first, "server", then),
	},
	{
		Name:     "shutdown-wr",
		Title:    "the client says that it is done sending, and reads on",
		Story:    "The client sends a request and shuts down its sending side: a half-close. The server reads the end of the request, answers, and closes. The client reads the answer and its end, and closes a socket that is already finished.",
		Groups:   []string{"polite"},
		Families: bothIP,
		Run: func(w *World) {
			c, s := w.Pair()
			c.Send(100)
			c.Shutdown(unix.SHUT_WR)
			s.Recv(100)
			s.RecvEOF()
			s.Send(200)
			s.Close()
			c.Recv(200)
			c.RecvEOF()
			w.WaitMini(c.end, event.TimeWait)
			w.WaitGone(s.end)
			c.Close()
		},
		Ends: halfClosed("client").pair(
			"client", Expect{TimeWait: true, HalfClose: true, AppSaw: []string{"EOF"}, FIN: 1},
			"server", Expect{HalfClose: true, AppSaw: []string{"EOF"}, FIN: 1}),
	},
	{
		Name:   "exit",
		Title:  "the client's process exits without a close",
		Story:  "The client exits with its socket open and everything read. The kernel closes the socket for it: an ordinary FIN.",
		Groups: []string{"polite"},
		Run: func(w *World) {
			c, s := w.Pair()
			c.Exchange(s, 100, 200)
			c.p.Exit(0)
			followUp(c, s)
		},
		Ends: politely("client", verdict.ActExit).pair("client", first, "server", then),
	},
	{
		Name:   "killed",
		Title:  "the client's process is killed (SIGKILL)",
		Story:  "SIGKILL takes the client. Everything was read, so the kernel still says goodbye with a FIN; the server cannot tell this from a close.",
		Groups: []string{"polite"},
		Run: func(w *World) {
			c, s := w.Pair()
			c.Exchange(s, 100, 200)
			c.p.Kill(unix.SIGKILL)
			followUp(c, s)
		},
		Ends: killedBy("client", unix.SIGKILL).pair("client", first, "server", then),
	},
}
