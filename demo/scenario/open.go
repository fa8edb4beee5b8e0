package scenario

import (
	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// openPair is what both ends are due of a connection that has not ended: act and
// actor are those of the goodbye that was said, if any.
func openPair(cause verdict.Cause, act verdict.Act, actor string, client, server Expect) map[string]Expect {
	client, server = open(cause, client), open(cause, server)
	client.Act, client.Actor = act, actor
	server.Act, server.Actor = act, actor
	return map[string]Expect{"client": client, "server": server}
}

var unfinished = []Scenario{
	{
		Name:        "still-open",
		Title:       "nothing has ended",
		Description: "A request and its answer have been exchanged, and both ends stand.",
		Run: func(w *World) {
			c, s := w.Pair()
			c.Exchange(s, 100, 200)
		},
		Ends: openPair(verdict.StillOpen, "", "", Expect{}, Expect{}),
	},
	{
		Name:        "peer-stopped",
		Title:       "the server's process is stopped",
		Description: "The server is stopped (SIGSTOP), as by a debugger or docker pause. Its kernel goes on acknowledging: the client's request waits in a queue that nobody reads, and both ends stand.",
		Run: func(w *World) {
			c, s := w.Pair()
			c.Exchange(s, 100, 200)
			s.p.Stop()
			c.Send(60)
			c.WaitAcked()
		},
		Ends: openPair(verdict.StillOpen, "", "", Expect{}, Expect{}),
	},
	{
		Name:        "close-wait-leak",
		Title:       "the client has closed; the server reads its goodbye and does nothing",
		Description: "The server has read the end of the stream and forgets to close. Its socket stays in CLOSE_WAIT, which no timer ends.",
		Run: func(w *World) {
			c, s := w.Pair()
			c.Exchange(s, 100, 200)
			c.Close()
			s.RecvEOF()
			w.WaitMini(c.end, event.FinWait2)
			s.WaitState(event.CloseWait)
		},
		Ends: openPair(verdict.CloseWaitLeak, "", "", likely(Expect{FIN: 1}), Expect{AppSaw: []string{"EOF"}}),
	},
	{
		Name:        "fin-wait2-held",
		Title:       "the client has shut down its side and waits for an answer that does not come",
		Description: "The client has shut down its sending side and holds the socket. As long as a process holds it, no timer ends FIN_WAIT2.",
		Run: func(w *World) {
			c, s := w.Pair()
			c.Exchange(s, 100, 200)
			c.Shutdown(unix.SHUT_WR)
			s.WaitState(event.CloseWait)
			c.WaitState(event.FinWait2)
		},
		Ends: openPair(verdict.FinWait2Held, verdict.ActShutWr, "client", Expect{FIN: 1}, Expect{}),
	},
	{
		Name:        "fin-stuck",
		Title:       "the goodbye waits behind data that the peer does not take",
		Description: "The client sends more than the server reads, and closes. The FIN waits behind the queue, before a closed window; nobody holds the socket any more, but the kernel keeps trying.",
		Run: func(w *World) {
			c, s := w.Pair()
			c.Fill(fillLimit)
			c.WaitStuck()
			c.Close()
			w.WaitOrphan(c.end, event.FinWait1)
			s.WaitState(event.Established)
		},
		Ends: openPair(verdict.FinStuck, verdict.ActClose, "client", Expect{}, Expect{}),
	},
	{
		Name:        "never-accepted",
		Title:       "the connection stands, and the server never accepts it",
		Description: "The client's connect succeeded and its 100 bytes were acknowledged: by the kernel. The server's process has not accepted the connection, and knows nothing of it.",
		Run: func(w *World) {
			l := w.Puppet("server").Listen(16)
			c := w.Puppet("client").Connect("client", l)
			w.WaitOrphan(w.Unaccepted("server", c, l), event.Established)
			c.Send(100)
			c.WaitAcked()
		},
		Ends: openPair(verdict.NeverAccepted, "", "", likely(Expect{}), likely(Expect{})),
	},
}
