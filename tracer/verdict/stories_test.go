package verdict_test

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// then plays acts one after the other, each some time after the one before.
func (w *wire) then(d time.Duration, act func()) *wire {
	w.run(w.now + d)
	act()
	return w
}

// cut drops what an end sends from now on; only RSTs where so said.
func (w *wire) cut(side int, only event.TCPFlags) {
	before := w.lose
	w.lose = func(s *wireSegment) bool {
		return s.from == side && (only == 0 || s.flags&only != 0) || before != nil && before(s)
	}
}

const never = 90 * time.Second

// due is what an end is due.
type due struct {
	cause verdict.Cause
	ender verdict.Ender
	says  string // in the sentence
	not   string // not in the sentence
}

// TestStories are endings in which more than one thing happened: several causes,
// resets that were lost, came late, or met an end that had ended in its own way.
func TestStories(t *testing.T) {
	const ms = time.Millisecond
	abort := func(e *wireEnd) func() { return func() { e.linger = true; e.Close() } }
	for _, x := range []struct {
		name           string
		play           func(w *wire, c, s *wireEnd)
		client, server due
	}{
		{
			"the RST of a close over unread data is lost", func(w *wire, c, s *wireEnd) {
				w.then(10*ms, func() { c.Send(100) }).then(200*ms, func() { w.cut(1, 0); s.Close() }).then(200*ms, func() { c.Send(100) }).run(w.now + never)
			},
			due{verdict.RetransmitTimeout, verdict.LocalKernel, "never acknowledged", "closed"}, due{verdict.CloseUnread, verdict.LocalProcess, "100 bytes", ""},
		},
		{
			"this kernel gives up, and 3 ms later the peer closes over unread data", func(w *wire, c, s *wireEnd) {
				w.then(10*ms, func() { c.Send(100) }).then(900*ms, func() { w.cut(1, 0); c.GiveUp() }).then(3*ms, s.Close).run(w.now + never)
			},
			due{verdict.ZeroWindowTimeout, verdict.LocalKernel, "", ""}, due{verdict.CloseUnread, verdict.LocalProcess, "", ""},
		},
		{
			"this kernel gives up, and 300 ms later the peer closes over unread data", func(w *wire, c, s *wireEnd) {
				w.then(10*ms, func() { c.Send(100) }).then(900*ms, c.GiveUp).then(300*ms, s.Close).run(w.now + never)
			},
			due{verdict.ZeroWindowTimeout, verdict.LocalKernel, "", ""}, due{verdict.CloseUnread, verdict.LocalProcess, "", ""},
		},
		{
			"this kernel gives up, and 5 s later the peer is destroyed", func(w *wire, c, s *wireEnd) {
				w.then(10*ms, func() { c.Send(100) }).then(900*ms, c.GiveUp).then(5*time.Second, s.Destroy).run(w.now + never)
			},
			due{verdict.ZeroWindowTimeout, verdict.LocalKernel, "", ""}, due{verdict.SockDestroy, verdict.Admin, "", ""},
		},
		{
			"both abort, and the RSTs cross", func(w *wire, c, s *wireEnd) {
				w.then(10*ms, abort(c)).then(5*ms, abort(s)).run(w.now + never)
			},
			due{verdict.LingerZero, verdict.LocalProcess, "client", ""}, due{verdict.LingerZero, verdict.LocalProcess, "server", ""},
		},
		{
			"one aborts, the other dissolves the connection before the RST comes", func(w *wire, c, s *wireEnd) {
				w.then(10*ms, abort(c)).then(5*ms, s.Disconnect).run(w.now + never)
			},
			due{verdict.LingerZero, verdict.LocalProcess, "client", ""}, due{verdict.Disconnect, verdict.LocalProcess, "server", ""},
		},
		{
			"a client leaves the accept queue; then the listener is closed", func(w *wire, c, s *wireEnd) {
				w.then(10*ms, func() { c.Send(5) }).then(1500*ms, c.Close).then(2*time.Second, s.Forget).run(w.now + never)
			},
			due{verdict.NeverAccepted, verdict.LocalProcess, "nobody had accepted", ""}, due{verdict.NeverAccepted, verdict.PeerProcess, "5 bytes", ""},
		},
		{
			"a client shuts down in the accept queue, closes later, and then the listener is closed", func(w *wire, c, s *wireEnd) {
				w.then(10*ms, func() { c.Send(5); c.Shutdown(2) }).then(900*ms, c.Close).then(2*time.Second, s.Forget).run(w.now + never)
			},
			due{verdict.NeverAccepted, verdict.LocalProcess, "with shutdown(SHUT_WR) 0.0", " 0.93"}, due{verdict.NeverAccepted, verdict.PeerProcess, "5 bytes", ""},
		},
		{
			"the listener is closed; then a client leaves", func(w *wire, c, s *wireEnd) {
				w.then(10*ms, func() { c.Send(5) }).then(1500*ms, s.Forget).then(5*ms, c.Close).run(w.now + never)
			},
			due{verdict.ListenerClosed, verdict.PeerProcess, "", ""}, due{verdict.ListenerClosed, verdict.LocalProcess, "", ""},
		},
		{
			"a client that only half-closed waits in the queue when the listener is closed", func(w *wire, c, s *wireEnd) {
				w.then(10*ms, func() { c.Send(5); c.Shutdown(2) }).then(1500*ms, s.Forget).run(w.now + never)
			},
			due{verdict.ListenerClosed, verdict.PeerProcess, "", ""}, due{verdict.ListenerClosed, verdict.LocalProcess, "", ""},
		},
		{
			"connect(AF_UNSPEC) in LAST_ACK", func(w *wire, c, s *wireEnd) {
				w.then(0, s.Accept).then(10*ms, c.Close).then(200*ms, func() { w.delay = time.Second; s.Shutdown(2) }).then(100*ms, s.Disconnect).run(w.now + never)
			},
			due{verdict.OrderlyClose, verdict.LocalProcess, "", "RST"}, due{verdict.OrderlyClose, verdict.PeerProcess, "", "RST"},
		},
		{
			"no mini-socket may be kept: the FIN meets nothing", func(w *wire, c, s *wireEnd) {
				w.noMini = true
				w.then(0, s.Accept).then(10*ms, c.Close).then(500*ms, s.Close).run(w.now + never)
			},
			due{verdict.OrderlyClose, verdict.LocalProcess, "both ends had finished", "threw"}, due{verdict.OrderlyClose, verdict.PeerProcess, "both ends had finished", "met a socket"},
		},
		{
			"no mini-socket may be kept: data meets nothing", func(w *wire, c, s *wireEnd) {
				w.noMini = true
				w.then(0, s.Accept).then(10*ms, c.Close).then(500*ms, func() { s.Send(70) }).run(w.now + never)
			},
			due{verdict.DataAfterClose, verdict.LocalProcess, "70 bytes", ""}, due{verdict.DataAfterClose, verdict.PeerProcess, "70 bytes", ""},
		},
		{
			"data meets a closed end, and the other had aborted already", func(w *wire, c, s *wireEnd) {
				w.then(0, s.Accept).then(10*ms, c.Close).then(100*ms, func() { s.Send(70) }).then(5*ms, abort(s)).run(w.now + never)
			},
			due{verdict.DataAfterClose, verdict.LocalProcess, "", ""}, due{verdict.LingerZero, verdict.LocalProcess, "", ""},
		},
		{
			"one end has everything; the other throws away what it has not read", func(w *wire, c, s *wireEnd) {
				w.then(0, s.Accept).then(10*ms, func() { c.Send(80) }).then(100*ms, func() { s.Shutdown(2) }).then(100*ms, c.Close).then(200*ms, s.Close).run(w.now + never)
			},
			due{verdict.HalfClose, verdict.PeerProcess, "", "nothing was lost"}, due{verdict.HalfClose, verdict.LocalProcess, "", "nothing was lost"},
		},
		{
			"a RST of the path, then the peer closes", func(w *wire, c, s *wireEnd) {
				w.then(0, s.Accept).then(10*ms, func() { c.Inject(event.RST | event.ACK) }).then(100*ms, s.Close).run(w.now + never)
			},
			due{verdict.PathReset, verdict.Path, "", ""}, due{verdict.PathReset, verdict.Path, "", ""},
		},
		{
			"a RST of the path, 6 s after an abort whose RST was lost", func(w *wire, c, s *wireEnd) {
				w.then(0, s.Accept).then(10*ms, func() { w.cut(1, 0); abort(s)() }).then(6*time.Second, func() { c.Inject(event.RST) }).run(w.now + never)
			},
			due{verdict.PathReset, verdict.Path, "", ""}, due{verdict.LingerZero, verdict.LocalProcess, "", ""},
		},
		{
			"the peer vanishes; what is sent then is answered", func(w *wire, c, s *wireEnd) {
				w.then(0, s.Accept).then(10*ms, s.Vanish).then(100*ms, func() { c.Send(10) }).run(w.now + never)
			},
			due{verdict.RepairClose, verdict.PeerProcess, "", ""}, due{verdict.RepairClose, verdict.LocalProcess, "", ""},
		},
		{
			"the peer vanishes, and the answer is lost", func(w *wire, c, s *wireEnd) {
				w.then(0, s.Accept).then(10*ms, s.Vanish).then(100*ms, func() { w.cut(1, 0); c.Send(10) }).run(w.now + never)
			},
			due{verdict.RetransmitTimeout, verdict.LocalKernel, "", ""}, due{verdict.RepairClose, verdict.LocalProcess, "", ""},
		},
		{
			"the peer vanishes, and the path resets before anything is sent", func(w *wire, c, s *wireEnd) {
				w.then(0, s.Accept).then(10*ms, s.Vanish).then(100*ms, func() { c.Inject(event.RST) }).run(w.now + never)
			},
			due{verdict.PathReset, verdict.Path, "", ""}, due{verdict.RepairClose, verdict.LocalProcess, "", ""},
		},
		{
			"the abort of one comes to the mini-socket of the other", func(w *wire, c, s *wireEnd) {
				w.then(0, s.Accept).then(10*ms, c.Close).then(2*time.Second, abort(s)).run(w.now + never)
			},
			due{verdict.LingerZero, verdict.PeerProcess, "", ""}, due{verdict.LingerZero, verdict.LocalProcess, "", ""},
		},
		{
			"the abort of one is lost on its way to the mini-socket of the other", func(w *wire, c, s *wireEnd) {
				w.then(0, s.Accept).then(10*ms, c.Close).then(2*time.Second, func() { w.cut(1, event.RST); abort(s)() }).run(w.now + never)
			},
			due{verdict.FinWait2Timeout, verdict.LocalKernel, "", ""}, due{verdict.LingerZero, verdict.LocalProcess, "", ""},
		},
		{
			"an operator destroys one end, and the other closes before it hears of it", func(w *wire, c, s *wireEnd) {
				w.then(0, s.Accept).then(10*ms, c.Destroy).then(5*ms, s.Close).run(w.now + never)
			},
			due{verdict.SockDestroy, verdict.Admin, "", ""}, due{verdict.SockDestroy, verdict.Admin, "", ""},
		},
		{
			"an operator destroys both ends at once", func(w *wire, c, s *wireEnd) {
				w.then(0, s.Accept).then(10*ms, c.Destroy).then(0, s.Destroy).run(w.now + never)
			},
			due{verdict.SockDestroy, verdict.Admin, "socket of client", ""}, due{verdict.SockDestroy, verdict.Admin, "socket of server", ""},
		},
		{
			"the last acknowledgement is lost again and again", func(w *wire, c, s *wireEnd) {
				w.then(0, s.Accept).then(10*ms, c.Close).then(300*ms, func() { w.cut(0, 0); s.Close() }).run(w.now + never)
			},
			due{verdict.OrderlyClose, verdict.LocalProcess, "", ""}, due{verdict.OrphanTimeout, verdict.LocalKernel, "", ""},
		},
		{
			"the FINs cross", func(w *wire, c, s *wireEnd) {
				w.then(0, s.Accept).then(10*ms, c.Close).then(5*ms, s.Close).run(w.now + never)
			},
			due{verdict.SimultaneousClose, verdict.LocalProcess, "", ""}, due{verdict.SimultaneousClose, verdict.LocalProcess, "", ""},
		},
	} {
		t.Run(x.name, func(t *testing.T) {
			w := newWire(20 * ms)
			c, s := w.ends[0], w.ends[1]
			x.play(w, c, s)
			for side, j := range w.judge(nil, verdict.Scope{}) {
				want := []due{x.client, x.server}[side]
				v := j.v
				bad := ""
				switch {
				case v.Cause != want.cause:
					bad = "the cause"
				case want.ender != "" && v.Ender != want.ender:
					bad = "the ender"
				case !strings.Contains(v.Sentence, want.says), want.not != "" && strings.Contains(v.Sentence, want.not):
					bad = "the sentence"
				case ordered(j) != "":
					bad = ordered(j)
				}
				if bad != "" {
					t.Errorf("%s: %s: %s %s by %q, %s: %s\n%s", []string{"client", "server"}[side], bad, v.Class, v.Cause, v.Ender, v.Confidence, v.Sentence, listed(j.c.Events))
				}
				if one := verdict.Judge(alone(j.c), verdict.Scope{}); one.Confidence == verdict.Certain && len(one.Refuted(&v)) > 0 {
					t.Errorf("%s alone is certain of %s %s by %q, which the other end refutes: %s", []string{"client", "server"}[side], one.Class, one.Cause, one.Ender, strings.Join(one.Refuted(&v), ", "))
				}
			}
		})
	}
}

// shifted is an end of a recording as the other end of c, some time later or earlier.
func shifted(y, c *conn.Connection, by time.Duration) *conn.Connection {
	out := *y
	out.Local, out.Remote = c.Remote, c.Local
	by += c.First - y.First
	for _, at := range []*time.Duration{&out.First, &out.Opened, &out.Established, &out.Ended, &out.Last} {
		if *at != 0 {
			*at += by
		}
	}
	move := func(events []event.Event) []event.Event {
		events = slices.Clone(events)
		for i := range events {
			e := &events[i]
			e.Time += by
			switch {
			case e.Local == y.Local && e.Remote == y.Remote:
				e.Local, e.Remote = out.Local, out.Remote
			case e.Local == y.Remote && e.Remote == y.Local:
				e.Local, e.Remote = out.Remote, out.Local
			}
		}
		return events
	}
	out.Events, out.Elsewhere = move(y.Events), move(y.Elsewhere)
	return &out
}

// TestEndsOfStrangers puts ends of two recorded endings together, with time
// between them: whatever they have in common, what came after this end, or never
// came to it, did not end it.
func TestEndsOfStrangers(t *testing.T) {
	for _, path := range recordings(t) {
		var ends []*conn.Connection
		for _, r := range readRuns(t, path) {
			for _, x := range r.judge() {
				ends = append(ends, x.c)
			}
		}
		rnd := rand.New(rand.NewPCG(7, uint64(len(ends))))
		told, peers := 0, 0
		for range 4000 {
			x, y := *ends[rnd.IntN(len(ends))], ends[rnd.IntN(len(ends))]
			z := shifted(y, &x, time.Duration(rnd.IntN(4000)-2000)*time.Millisecond)
			x.Peer, z.Peer = z, &x
			for _, c := range []*conn.Connection{&x, z} {
				v := verdict.Judge(c, verdict.Scope{})
				told++
				if v.Ender == verdict.PeerProcess || v.Ender == verdict.PeerKernel {
					peers++
				}
				if bad := ordered(&judged{c, v}); bad != "" {
					t.Fatalf("%s: %v and %v: %s: %s %s by %q: %s\n%s\nthe other:\n%s", path, ends[0].Local, y.Local, bad, v.Class, v.Cause, v.Ender, v.Sentence, listed(c.Events), listed(c.Peer.Events))
				}
			}
		}
		t.Logf("%s: %d verdicts, %d name the other end", path, told, peers)
	}
}

// TestSimultaneousOpen: two SYNs crossed, and one of the two processes aborts before
// the handshake is over. No port was closed, and no byte was sent.
func TestSimultaneousOpen(t *testing.T) {
	w := newWire(20 * time.Millisecond)
	w.events = nil
	for _, e := range w.ends {
		e.tcp.SndUna, e.tcp.BytesAcked = e.tcp.SndNxt-1, 0
		e.state = event.SynSent
		e.see(event.HookSetState, e.byProcess(event.CallConnect), move(event.Close, event.SynSent))
		e.to(event.SynRecv)
	}
	a := w.ends[1]
	a.held, a.linger = true, true
	a.Close()
	w.run(w.now + time.Second)
	ends := w.judge(nil, verdict.Scope{})
	for side, x := range ends {
		v := x.v
		want := []verdict.Ender{verdict.PeerProcess, verdict.LocalProcess}[side]
		if v.Cause != verdict.LingerZero || v.Ender != want || number(v.Lost.Unacked) != "0" || number(v.Bytes.Sent) != "0" {
			t.Errorf("%s %s by %q, %s, lost %s, sent %s: %s", v.Class, v.Cause, v.Ender, v.Confidence, lostText(v.Lost), number(v.Bytes.Sent), v.Sentence)
		}
	}
	if one := verdict.Judge(alone(ends[0].c), verdict.Scope{}); one.Cause != verdict.HandshakeReset || one.Confidence != verdict.Likely {
		t.Errorf("alone: %s, %s: %s", one.Cause, one.Confidence, one.Sentence)
	}
}

// TestUnprompted: a bare RST is an answer. Where everything had been acknowledged
// and nothing had come, there was nothing to answer: that is a sign of the path.
func TestUnprompted(t *testing.T) {
	for _, x := range []struct {
		name  string
		play  func(f *far)
		flags event.TCPFlags
		cause verdict.Cause
	}{
		{"all acknowledged", func(f *far) { f.exchange(5, 0) }, event.RST, verdict.PathReset},
		{"data under way", func(f *far) { f.exchange(5, 0).sends(5) }, event.RST, verdict.PeerGone},
		{"nothing but the handshake", func(f *far) {}, event.RST, verdict.PeerGone},
		{"all acknowledged, and an abort", func(f *far) { f.exchange(5, 0) }, event.RST | event.ACK, verdict.PeerAbort},
	} {
		f := newFar(conn.OpenActive).established(64)
		x.play(f)
		v := f.reset(300*time.Millisecond, event.Established, event.Segment{Seq: f.tcp.RcvNxt, Ack: f.tcp.SndNxt, Flags: x.flags, TTL: 64}, silence(200*time.Millisecond, 300*time.Millisecond))
		if v.Cause != x.cause || v.Confidence != verdict.Likely {
			t.Errorf("%s: %s, %s: %s", x.name, v.Cause, v.Confidence, v.Sentence)
		}
	}
}

// TestLeftQueueOnTracepoints: without the hook on inet_child_forget, a client that
// left the accept queue before its listener is never certain to have been aborted.
func TestLeftQueueOnTracepoints(t *testing.T) {
	w := newWire(20 * time.Millisecond)
	c, s := w.ends[0], w.ends[1]
	w.then(10*time.Millisecond, func() { c.Send(5) }).then(1500*time.Millisecond, c.Close).then(2*time.Second, s.Forget).run(w.now + never)
	rung := rungsOfViews()["typed"]
	for side, x := range w.judge(rung.of, rung.scope) {
		if x.v.Cause != verdict.NeverAccepted || x.v.Confidence != verdict.Likely || !slices.Contains(x.v.Missing, event.HookChildForget.String()) {
			t.Errorf("end %d: %s by %q, %s for want of %v: %s", side, x.v.Cause, x.v.Ender, x.v.Confidence, x.v.Missing, x.v.Sentence)
		}
	}
}
