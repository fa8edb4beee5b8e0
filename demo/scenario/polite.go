package scenario

import (
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/demo/harness"
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

// waitFINAcked waits until the peer has acknowledged the end's FIN. Whoever sends
// the next packet must wait for it: a delayed acknowledgement leaves from a timer,
// perhaps on another CPU, and may be overtaken, even on loopback; it would then
// meet a mini-socket or nothing at all, and be answered.
func (w *World) waitFINAcked(e *End) {
	w.waitRow(e, "the FIN acknowledged", func(r harness.Row) bool { return r.State == event.FinWait2 })
}

// followUp is the passive side's goodbye, up to the last trace of both ends.
func followUp(active, passive *Sock) {
	passive.RecvEOF()
	active.p.w.waitFINAcked(active.end)
	passive.Close()
	active.p.w.WaitMini(active.end, event.TimeWait)
	active.p.w.WaitGone(passive.end)
}

var polite = []Scenario{
	{
		Name:        "self-connect",
		Title:       "a client connects to itself",
		Description: "The client's own port is the one that it connects to, and nobody listens there: the SYN meets the socket that sent it, a simultaneous open with itself. There is one socket, one FIN and one TIME_WAIT.",
		Run: func(w *World) {
			c := w.Puppet("client").socket(unix.IPPROTO_TCP, 0)
			c.bind(netip.AddrPortFrom(w.family.loopback(), 0))
			c.connectTo("client", c.local())
			w.finishConnect(c)
			c.Close()
			w.WaitMini(c.end, event.TimeWait)
		},
		Ends: map[string]Expect{
			"client": ending{class: verdict.Graceful, cause: verdict.SimultaneousClose, act: verdict.ActClose, actor: "client"}.local(
				Expect{TimeWait: true, FIN: 1, Says: []string{"connected to itself", "one TIME_WAIT"}}),
		},
	},
	{
		Name:        "close",
		Title:       "the client is done and closes; the server follows",
		Description: "A request and its answer are exchanged. The client closes; the server reads the end of the stream and closes too. Nothing is lost; the client keeps the TIME_WAIT because it closed first.",
		Families:    everyFamily,
		Run: func(w *World) {
			c, s := w.Pair()
			c.Exchange(s, 100, 200)
			c.Close()
			followUp(c, s)
		},
		Ends: politely("client", verdict.ActClose).pair("client", first, "server", then),
	},
	{
		Name:        "shutdown-wr",
		Title:       "the client says that it is done sending, and reads on",
		Description: "The client sends a request and shuts down its sending side: a half-close. The server reads the end of the request, answers, and closes. The client reads the answer and its end, and closes a socket that is already finished.",
		Families:    bothIP,
		Run: func(w *World) {
			c, s := w.Pair()
			c.Send(100)
			c.Shutdown(unix.SHUT_WR)
			s.Recv(100)
			s.RecvEOF()
			s.Send(200)
			c.Recv(200)
			s.WaitAcked()
			s.Close()
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
		Name:        "splice-eof",
		Title:       "the client reads by splice(2), to the end",
		Description: "The server answers and closes. The client takes the answer by splice(2), as proxies do, and finds the end of the stream with it too: no recv(2) is ever called.",
		Run: func(w *World) {
			c, s := w.Pair()
			c.Send(100)
			s.Recv(100)
			s.Send(200)
			c.Splice(200)
			s.WaitAcked()
			s.Close()
			c.WaitUnread(1)
			c.Splice(0)
			w.waitFINAcked(s.end)
			c.Close()
			w.WaitMini(s.end, event.TimeWait)
			w.WaitGone(c.end)
		},
		Ends: politely("server", verdict.ActClose).pair("server", first, "client", then),
	},
	{
		Name:        "exit",
		Title:       "the client's process exits without a close",
		Description: "The client exits with its socket open and everything read. The kernel closes the socket for it: an ordinary FIN.",
		Run: func(w *World) {
			c, s := w.Pair()
			c.Exchange(s, 100, 200)
			c.p.Exit(0)
			followUp(c, s)
		},
		Ends: politely("client", verdict.ActExit).pair("client", first, "server", then),
	},
	{
		Name:        "killed",
		Title:       "the client's process is killed (SIGKILL)",
		Description: "SIGKILL takes the client. Everything was read, so the kernel still says goodbye with a FIN; the server cannot tell this from a close.",
		Run: func(w *World) {
			c, s := w.Pair()
			c.Exchange(s, 100, 200)
			c.p.Kill(unix.SIGKILL)
			followUp(c, s)
		},
		Ends: killedBy("client", unix.SIGKILL).pair("client", first, "server", then),
	},
	{
		Name:        "server-close",
		Title:       "the server closes first",
		Description: "The server answers and closes at once, as HTTP/1.0 servers do. Now the server keeps the TIME_WAIT.",
		Run: func(w *World) {
			c, s := w.Pair()
			c.Exchange(s, 100, 200)
			s.Close()
			followUp(s, c)
		},
		Ends: politely("server", verdict.ActClose).pair("server", first, "client", then),
	},
	{
		Name:        "shutdown-rdwr",
		Title:       "the client shuts down both directions, then closes",
		Description: "shutdown(SHUT_RDWR) sends the FIN at once and keeps the descriptor. The server reads the end of the stream and closes; the client's later close finds a finished socket.",
		Run: func(w *World) {
			c, s := w.Pair()
			c.Exchange(s, 100, 200)
			c.Shutdown(unix.SHUT_RDWR)
			followUp(c, s)
			c.Close()
		},
		Ends: politely("client", verdict.ActShutRdWr).pair("client", first, "server", then),
	},
	{
		Name:        "shutdown-rd",
		Title:       "the client shuts down its receiving side: nothing happens",
		Description: "shutdown(SHUT_RD) puts nothing on the wire. The server's next 50 bytes are acknowledged, and the client can even read them. The ending is the close that follows.",
		Run: func(w *World) {
			c, s := w.Pair()
			c.Exchange(s, 100, 200)
			c.Shutdown(unix.SHUT_RD)
			s.Send(50)
			c.WaitUnread(50)
			s.WaitAcked()
			c.Recv(50)
			c.Close()
			followUp(c, s)
		},
		Ends: politely("client", verdict.ActClose).pair("client", first, "server", then),
	},
	{
		Name:        "sigterm",
		Title:       "the client's process is terminated (SIGTERM, default action)",
		Description: "The client does not handle SIGTERM and dies of it. Everything was read: an ordinary FIN.",
		Run: func(w *World) {
			c, s := w.Pair()
			c.Exchange(s, 100, 200)
			c.p.Kill(unix.SIGTERM)
			followUp(c, s)
		},
		Ends: killedBy("client", unix.SIGTERM).pair("client", first, "server", then),
	},
	{
		Name:        "crash",
		Title:       "the client's process crashes (SIGSEGV)",
		Description: "The client crashes. Everything was read, so that even a crash says goodbye with a FIN: a FIN proves nothing about the health of who sent it.",
		Run: func(w *World) {
			c, s := w.Pair()
			c.Exchange(s, 100, 200)
			c.p.Crash(unix.SIGSEGV)
			followUp(c, s)
		},
		Ends: killedBy("client", unix.SIGSEGV).pair("client", first, "server", then),
	},
	{
		Name:        "exec",
		Title:       "the client runs another program; its socket is closed on exec",
		Description: "The client replaces itself by another program. The socket is marked close-on-exec, so the exec closes it; by the time TCP hears of it the process has its new name.",
		Run: func(w *World) {
			c, s := w.Pair()
			c.Exchange(s, 100, 200)
			c.p.Exec("successor")
			followUp(c, s)
		},
		Ends: ending{class: verdict.Graceful, cause: verdict.OrderlyClose, act: verdict.ActExec, actor: "client", comm: "successor"}.pair(
			"client", first, "server", then),
	},
	{
		Name:        "simultaneous-close",
		Title:       "both sides close before either hears of it",
		Description: "Both ends are deaf while each shuts down its sending side, and hear again before either FIN is sent again. The FINs cross: both go through CLOSING, and both keep a TIME_WAIT.",
		Families:    bothIP,
		Run: func(w *World) {
			c, s := w.Pair()
			c.Exchange(s, 100, 200)
			crossFINs(c, s)
			c.Close()
			s.Close()
		},
		Ends: map[string]Expect{
			"client": crossed("client"),
			"server": crossed("server"),
		},
	},
	{
		Name:        "close-in-flight",
		Title:       "the client closes while its data is still on the way",
		Description: "The client sends 5000 bytes that do not arrive, and closes. The kernel goes on for it: once the path works again, data and FIN are delivered. close(2) does not lose what the peer is able to take.",
		Run: func(w *World) {
			c, s := w.Pair()
			s.DropIncoming()
			c.Send(5000)
			c.Close()
			w.WaitOrphan(c.end, event.FinWait1)
			s.Hear()
			s.Recv(5000)
			followUp(c, s)
		},
		Ends: politely("client", verdict.ActClose).pair("client", first, "server", then),
	},
	{
		Name:        "shutdown-in-flight",
		Title:       "a half-close with data on the way in both directions",
		Description: "Both ends have sent data that has not arrived when the client shuts down its sending side. Once the path works again everything is delivered, in both directions.",
		Run: func(w *World) {
			c, s := w.Pair()
			c.DropIncoming()
			s.DropIncoming()
			c.Send(3000)
			s.Send(2000)
			c.Shutdown(unix.SHUT_WR)
			c.Hear()
			s.Hear()
			s.Recv(3000)
			s.RecvEOF()
			c.Recv(2000)
			w.waitFINAcked(c.end)
			s.WaitAcked()
			s.Close()
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
		Name:        "half-close-dwell",
		Title:       "a half-close that lasts",
		Description: "The client shuts down its sending side; the server works on the answer for 400 ms before it sends it and closes. That is what a half-close is for.",
		Run: func(w *World) {
			c, s := w.Pair()
			c.Send(100)
			c.Shutdown(unix.SHUT_WR)
			s.Recv(100)
			s.RecvEOF()
			w.Dwell(400 * time.Millisecond)
			s.Send(200)
			c.Recv(200)
			s.WaitAcked()
			s.Close()
			c.RecvEOF()
			w.WaitMini(c.end, event.TimeWait)
			w.WaitGone(s.end)
			c.Close()
		},
		Ends: halfClosed("client").pair(
			"client", Expect{TimeWait: true, HalfClose: true, AppSaw: []string{"EOF"}, FIN: 1},
			"server", Expect{HalfClose: true, AppSaw: []string{"EOF"}, FIN: 1}),
		Verify: func(o *Outcome) error {
			c, s := o.Flow(o.Ends["client"]), o.Flow(o.Ends["server"])
			if d := s.FirstFIN - c.FirstFIN; d < 400*time.Millisecond {
				return fmt.Errorf("the second FIN left %v after the first", d)
			}
			return nil
		},
	},
	{
		Name:        "linger-zero-last-ack",
		Title:       "SO_LINGER zero when there is nothing left to abort",
		Description: "The client has closed its side, the server has sent its own FIN by shutdown and waits for the last acknowledgement, which does not come. Now it closes with SO_LINGER zero. Everything was sent, so the kernel sends no reset; it only forgets the socket, and counts an abort that never was.",
		Run: func(w *World) {
			c, s := w.Pair()
			c.Exchange(s, 100, 200)
			c.Shutdown(unix.SHUT_WR)
			s.RecvEOF()
			s.DropIncoming()
			s.Shutdown(unix.SHUT_WR)
			c.RecvEOF()
			w.WaitMini(c.end, event.TimeWait)
			s.WaitState(event.LastAck)
			s.Linger(0)
			s.Close()
			w.WaitGone(s.end)
			c.Close()
		},
		Ends: halfClosed("client").pair(
			"client", Expect{TimeWait: true, HalfClose: true, AppSaw: []string{"EOF"}, FIN: 1},
			"server", Expect{HalfClose: true, AppSaw: []string{"EOF"}, FIN: 1}),
		Counters: map[string]int64{"TCPAbortOnData": 1},
	},
	{
		Name:        "zerocopy-close",
		Title:       "everything was read without a copy; the close is polite",
		Description: "The server takes the client's page by TCP_ZEROCOPY_RECEIVE and closes. Its receive queue was read without recv(2), but it was read: a FIN.",
		Run: func(w *World) {
			const page = 4096
			c, s := w.Pair()
			c.SendPages(page)
			c.WaitAcked()
			s.RecvPages(page)
			s.Close()
			followUp(s, c)
		},
		Ends: unansweredBoth(politely("server", verdict.ActClose).pair("server", first, "client", then)),
	},
}

// crossFINs makes the FINs of two sockets cross.
func crossFINs(a, b *Sock) {
	a.DropIncoming()
	b.DropIncoming()
	a.Shutdown(unix.SHUT_WR)
	b.Shutdown(unix.SHUT_WR)
	a.WaitState(event.FinWait1)
	b.WaitState(event.FinWait1)
	a.Hear()
	b.Hear()
	a.p.w.WaitMini(a.end, event.TimeWait)
	a.p.w.WaitMini(b.end, event.TimeWait)
	a.RecvEOF()
	b.RecvEOF()
}

// crossed is what each end of a simultaneous close is due: neither was first.
func crossed(role string) Expect {
	return ending{class: verdict.Graceful, cause: verdict.SimultaneousClose, act: verdict.ActShutWr, actor: role}.local(
		Expect{TimeWait: true, HalfClose: true, AppSaw: []string{"EOF"}, FIN: 1})
}
