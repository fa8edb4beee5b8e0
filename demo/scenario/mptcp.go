package scenario

import (
	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// byWorker is the polite end of a subflow: the processes close the MPTCP socket;
// the subflows are closed by the kernel's worker, some time later. A subflow does not
// tell whose doing that was, so it is likely at most that it was the kernel's own.
var byWorker = ending{class: verdict.Graceful, cause: verdict.OrderlyClose, kernel: true, likely: true}

// subflow marks what is due to an end as a subflow's.
func subflow(x Expect) Expect {
	x.Layered = true
	return x
}

// MPTCPPair is Pair with MPTCP sockets; the ends are their first subflows.
func (w *World) MPTCPPair() (client, server *Sock) {
	p := w.Puppet("server")
	l := p.listen(p.host(), 0, 16, unix.IPPROTO_MPTCP)
	client = w.Puppet("client").socket(unix.IPPROTO_MPTCP, 0)
	client.connect("client", l)
	return client, l.Accept("server")
}

// listensWithMPTCP is Pair with a server that listens with MPTCP and a client that
// does not speak it.
func (w *World) listensWithMPTCP() (client, server *Sock) {
	p := w.Puppet("server")
	l := p.listen(p.host(), 0, 16, unix.IPPROTO_MPTCP)
	client = w.Puppet("client").Connect("client", l)
	return client, l.Accept("server")
}

var multipath = []Scenario{
	{
		Name:        "mptcp-close",
		Title:       "an MPTCP connection is closed politely",
		Description: "The client closes an MPTCP socket, and the server follows. The two ends agree over the data stream (DATA_FIN); then a worker of the kernel closes the subflow, an ordinary TCP connection, with FINs of its own. No process touches the subflow.",
		Families:    bothIP,
		Needs:       []Feature{HasMPTCP},
		Run: func(w *World) {
			c, s := w.MPTCPPair()
			c.Exchange(s, 100, 200)
			c.Close()
			s.RecvEOF()
			s.Close()
			w.WaitMini(c.end, event.TimeWait)
			w.WaitGone(s.end)
		},
		Ends: byWorker.pair("client", subflow(first), "server", subflow(then)),
	},
	{
		Name:        "mptcp-abort",
		Title:       "an MPTCP connection is closed with unread data",
		Description: "The server closes an MPTCP socket with 60 bytes unread. MPTCP aborts the whole connection (MP_FASTCLOSE) and resets its subflow.",
		Families:    bothIP,
		Needs:       []Feature{HasMPTCP},
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
			"server", subflow(Expect{Lost: Lost{Unread: 60}, RST: 1}), "client", subflow(reset)),
		Counters: aborts,
	},
	{
		Name:  "mptcp-listener-unread",
		Title: "a server that listens with MPTCP closes a plain connection with data unread",
		Description: "The server listens with MPTCP, as every Go program does since 1.24. The client does not speak it, so what the server accepts is an ordinary TCP socket. " +
			"It reads 700 of 1000 bytes and closes: the kernel resets, and knows to the byte what was not read.",
		Families: bothIP,
		Needs:    []Feature{HasMPTCP},
		Run: func(w *World) {
			c, s := w.listensWithMPTCP()
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
		Name:        "mptcp-listener-close",
		Title:       "a server that listens with MPTCP closes a plain connection politely",
		Description: "The server listens with MPTCP, the client does not speak it. The client closes, the server reads the end of input and follows: as over any TCP connection, and nothing is lost.",
		Families:    bothIP,
		Needs:       []Feature{HasMPTCP},
		Run: func(w *World) {
			c, s := w.listensWithMPTCP()
			c.Exchange(s, 100, 200)
			c.Close()
			followUp(c, s)
		},
		Ends: politely("client", verdict.ActClose).pair("client", first, "server", then),
	},
	{
		Name:        "mptcp-fallback",
		Title:       "an MPTCP client that fell back to TCP closes",
		Description: "The client connects with MPTCP, the server does not speak it: the connection is TCP from then on, under an MPTCP socket that keeps its own queue. The client closes, and inside that call MPTCP shuts the TCP socket down.",
		Needs:       []Feature{HasMPTCP},
		Run: func(w *World) {
			l := w.Puppet("server").Listen(16)
			c := w.Puppet("client").socket(unix.IPPROTO_MPTCP, 0)
			c.connect("client", l)
			s := l.Accept("server")
			c.Exchange(s, 100, 200)
			c.Close()
			followUp(c, s)
		},
		Ends: politely("client", verdict.ActClose).pair("client", subflow(first), "server", then),
	},
	{
		Name:        "mptcp-join-refused",
		Title:       "a further MPTCP subflow is reset; the connection goes on",
		Description: "The client's kernel opens a second subflow from another address of its machine. The server's allows none, and resets it. No process had a hand in this; the connection itself is used and closed as ever, over its first subflow.",
		Needs:       []Feature{HasVeth, HasMPTCP},
		Run:         joinRefused,
		Ends: func() map[string]Expect {
			ends := byWorker.pair("client", subflow(first), "server", subflow(then))
			no := ending{class: verdict.Aborted, cause: verdict.MPTCPReset, kernel: true}
			ends["joined"] = no.local(subflow(resets))
			ends["join"] = no.remote(subflow(resets)) // MPTCP answers the reset with one of its own
			return ends
		}(),
		Counters: map[string]int64{"OutRsts": 2, "EstabResets": 1, "AttemptFails": 1, "MPJoinSynRx": 1},
	},
}

func joinRefused(w *World) {
	far := w.far()
	w.In(w.Home, "allow a second subflow", func() error {
		if err := address("near", secondAddr.AsSlice()); err != nil {
			return err
		}
		if err := limitSubflows(1); err != nil {
			return err
		}
		return joinFrom(secondAddr)
	})
	w.In(far, "forbid a second subflow", func() error { return limitSubflows(0) })
	if w.Err != nil {
		return
	}
	l := w.FarPuppet("server").listen(farAddr, 0, 16, unix.IPPROTO_MPTCP)
	c := w.Puppet("client").socket(unix.IPPROTO_MPTCP, 0)
	c.connect("client", l)
	s := l.Accept("server")
	c.Exchange(s, 100, 200)
	w.Until("the reset of the second subflow", func() (bool, string) {
		for _, seg := range w.Segments() {
			if seg.Dst.Addr() == secondAddr && seg.Flags&event.RST != 0 {
				w.newEnd("join", w.Home, seg.Dst, seg.Src)
				w.newEnd("joined", far, seg.Src, seg.Dst)
				return true, ""
			}
		}
		return false, "none"
	})
	if w.Err == nil {
		w.WaitGone(w.ends["join"])
		w.WaitGone(w.ends["joined"])
	}
	c.Close()
	s.RecvEOF()
	s.Close()
	w.WaitMini(c.end, event.TimeWait)
	w.WaitGone(s.end)
}
