package scenario

import (
	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// MPTCPPair is Pair with MPTCP sockets; the ends are their first subflows.
func (w *World) MPTCPPair() (client, server *Sock) {
	p := w.Puppet("server")
	l := p.listen(p.host(), 0, 16, unix.IPPROTO_MPTCP)
	client = w.Puppet("client").socket(unix.IPPROTO_MPTCP, 0)
	client.connect("client", l)
	return client, l.Accept("server")
}

var multipath = []Scenario{
	{
		Name:     "mptcp-close",
		Title:    "an MPTCP connection is closed politely",
		Story:    "The client closes an MPTCP socket. The two ends agree over the data stream first (DATA_FIN); then the kernel closes the subflow, an ordinary TCP connection, with FINs of its own.",
		Groups:   []string{"mptcp", "polite"},
		Families: bothIP,
		Needs:    []Feature{HasMPTCP},
		Run: func(w *World) {
			c, s := w.MPTCPPair()
			c.Exchange(s, 100, 200)
			c.Close()
			s.RecvEOF()
			s.Close()
			w.WaitMini(c.end, event.TimeWait)
			w.WaitGone(s.end)
		},
		Ends: politely("client", verdict.ActClose).pair("client", first, "server", then),
	},
	{
		Name:     "mptcp-abort",
		Title:    "an MPTCP connection is closed with unread data",
		Story:    "The server closes an MPTCP socket with 60 bytes unread. MPTCP aborts the whole connection (MP_FASTCLOSE) and resets its subflow.",
		Groups:   []string{"mptcp", "abort"},
		Families: bothIP,
		Needs:    []Feature{HasMPTCP},
		Run: func(w *World) {
			c, s := w.MPTCPPair()
			c.Exchange(s, 100, 200)
			c.Send(60)
			c.WaitAcked()
			s.Close()
			wasReset(c)
			w.WaitGone(c.end)
			w.WaitGone(s.end)
		},
		Ends: aborted(verdict.MPTCPReset, "server", verdict.ActClose).pair(
			"server", Expect{Lost: Lost{Unread: 60}, RST: 1}, "client", reset),
		Counters: aborts,
	},
}
