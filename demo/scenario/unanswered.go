package scenario

import (
	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// unansweredBoth marks both ends of a story in which the service gave no answer.
func unansweredBoth(ends map[string]Expect) map[string]Expect {
	for name, x := range ends {
		x.Unanswered = true
		ends[name] = x
	}
	return ends
}

var unanswered = []Scenario{
	{
		Name:        "unanswered-close",
		Title:       "the server reads the request and closes without an answer",
		Description: "The server has read all of the request and closes, as a filter's rule or a caught error does it. On the wire the end is polite; the client reads the end of the stream where an answer was due.",
		Run: func(w *World) {
			c, s := w.Pair()
			c.Send(78)
			c.WaitAcked()
			s.Recv(78)
			s.Close()
			followUp(s, c)
		},
		Ends: unansweredBoth(politely("server", verdict.ActClose).pair("server", first, "client", then)),
	},
	{
		Name:        "unanswered-killed",
		Title:       "the server is killed (SIGKILL) with a request that it has read",
		Description: "SIGKILL takes the server between the request and its answer. Everything was read, so the kernel says goodbye with a FIN, and the client reads the end of the stream.",
		Run: func(w *World) {
			c, s := w.Pair()
			c.Send(24)
			c.WaitAcked()
			s.Recv(24)
			s.p.Kill(unix.SIGKILL)
			followUp(s, c)
		},
		Ends: unansweredBoth(killedBy("server", unix.SIGKILL).pair("server", first, "client", then)),
	},
}
