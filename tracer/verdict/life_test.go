package verdict_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// far is one end of a connection whose other end is on another machine, as the
// kernel tells of it.
type far struct {
	c   *conn.Connection
	tcp event.Event // its numbers, as they are now
}

const farStart = 100 * time.Second

func newFar(open conn.Open) *far {
	f := &far{c: &conn.Connection{ID: "1", Gen: 1, Family: event.IPv4, Open: open,
		Local: netip.MustParseAddrPort("10.0.0.5:51022"), Remote: netip.MustParseAddrPort("203.0.113.4:443"),
		First: farStart, Opened: farStart, Established: farStart + 30*time.Millisecond,
		Owner: &conn.Process{PID: 812, TID: 812, Comm: "nginx"}}}
	f.tcp = event.Event{Sock: 0xffff888003a40000, WriteSeq: 1001, SndUna: 1001, SndNxt: 1001, RcvNxt: 5001, CopiedSeq: 5001}
	if open == conn.OpenActive {
		f.tcp.BytesAcked = 1 // its SYN
	}
	return f
}

// see adds what the kernel saw at a time since the start.
func (f *far) see(at time.Duration, h event.Hook, change ...func(*event.Event)) *far {
	e := f.tcp
	e.Time, e.Hook, e.Context = farStart+at, h, event.ContextSoftirq
	e.Has = event.HasTuple | event.HasTCP | event.HasSocket | event.HasTask | event.HasPreempt
	e.Local, e.Remote, e.HasSk, e.Arg = f.c.Local, f.c.Remote, true, -1
	for _, c := range change {
		c(&e)
	}
	f.c.Events = append(f.c.Events, e)
	f.c.Last = e.Time
	if e.ToState == event.Close {
		f.c.Ended = e.Time
	}
	return f
}

func move(from, to event.State) func(*event.Event) {
	return func(e *event.Event) { e.State, e.ToState = from, to }
}

func at(s event.State) func(*event.Event) { return func(e *event.Event) { e.State = s } }

func segment(s event.Segment) func(*event.Event) {
	return func(e *event.Event) { e.Segment = s; e.Has |= event.HasSegment }
}

func silence(sent, received time.Duration) func(*event.Event) {
	return func(e *event.Event) { e.SinceSent, e.SinceReceived = sent, received }
}

// established is the handshake: the peer's segment comes with that TTL.
func (f *far) established(ttl uint8) *far {
	from := event.SynRecv
	flags := event.ACK
	if f.c.Open == conn.OpenActive {
		from, flags = event.SynSent, event.SYN|event.ACK
		f.see(0, event.HookSetState, move(event.Close, event.SynSent))
	}
	var change []func(*event.Event)
	if ttl != 0 {
		change = append(change, segment(event.Segment{Seq: 5000, Ack: 1001, Flags: flags, TTL: ttl, Window: 64240}))
	}
	return f.see(30*time.Millisecond, event.HookSetState, append(change, move(from, event.Established))...)
}

// exchange is a request and its answer, all read and acknowledged.
func (f *far) exchange(out, in uint32) *far {
	f.tcp.WriteSeq += out
	f.tcp.SndUna, f.tcp.SndNxt = f.tcp.WriteSeq, f.tcp.WriteSeq
	f.tcp.RcvNxt += in
	f.tcp.CopiedSeq = f.tcp.RcvNxt
	f.tcp.BytesAcked += uint64(out)
	f.tcp.BytesReceived += uint64(in)
	return f
}

// sends is payload that is not acknowledged yet.
func (f *far) sends(n uint32) *far {
	f.tcp.WriteSeq += n
	f.tcp.SndNxt += n
	return f
}

// reset is the end by a RST that came in.
func (f *far) reset(when time.Duration, from event.State, s event.Segment, change ...func(*event.Event)) verdict.Verdict {
	f.see(when, event.HookReset, append(change, at(from), segment(s))...)
	f.see(when+10*time.Microsecond, event.HookSetState, move(from, event.Close), func(e *event.Event) { e.Err = 104 })
	return verdict.Judge(f.c, verdict.Scope{})
}

// finCame is the peer's FIN.
func (f *far) finCame(when time.Duration, change ...func(*event.Event)) *far {
	f.tcp.RcvNxt++
	f.tcp.CopiedSeq++
	f.tcp.BytesReceived++
	f.tcp.SkFlags |= event.SockDone
	return f.see(when, event.HookSetState, append(change, move(event.Established, event.CloseWait))...)
}

func ms(n float64) time.Duration { return time.Duration(n * float64(time.Millisecond)) }

// TestKeepAliveRace: the backend closed an idle connection just as the next
// request left.
func TestKeepAliveRace(t *testing.T) {
	f := newFar(conn.OpenActive).established(57).exchange(200, 900)
	f.finCame(ms(5040), silence(ms(5000), ms(4996)))
	f.sends(312)
	v := f.reset(ms(5041.4), event.CloseWait, event.Segment{Seq: f.tcp.RcvNxt, Flags: event.RST, TTL: 57}, silence(ms(1), ms(4997)))
	if v.Cause != verdict.PeerGone || v.Ender != verdict.Peer {
		t.Fatalf("%s by %s", v.Cause, v.Ender)
	}
	if v.Age == nil || *v.Age != ms(5040) || v.Idle == nil || *v.Idle != ms(4996) {
		t.Errorf("age %v, idle %v", v.Age, v.Idle)
	}
	if v.Retry != verdict.RetrySafe {
		t.Errorf("retry %q: %s", v.Retry, v.RetryWhy)
	}
	r := v.Reset
	if r == nil || !r.Seen || r.AfterFin == nil || *r.AfterFin != ms(1.4) || r.Answers != verdict.AnswerData || r.After == nil || *r.After != ms(1) ||
		r.Offset == nil || *r.Offset != 0 || r.Behind != nil || r.Elsewhere() {
		t.Errorf("reset %+v", r)
	}
	for _, want := range []string{"203.0.113.4:443 finished first (FIN), after 4.996 s without payload either way; data that nginx (pid 812) sent after that was answered with a bare RST, 1 ms after the FIN", "keep-alive"} {
		if !strings.Contains(v.Sentence, want) {
			t.Errorf("%q is not in: %s", want, v.Sentence)
		}
	}
}

// TestRetryOfAnUpload: the peer answered and closed in the middle of a request.
func TestRetryOfAnUpload(t *testing.T) {
	f := newFar(conn.OpenActive).established(57).exchange(65536, 120)
	f.finCame(ms(240), silence(ms(3), ms(1)))
	f.sends(4000)
	v := f.reset(ms(242), event.CloseWait, event.Segment{Seq: f.tcp.RcvNxt, Flags: event.RST, TTL: 57}, silence(ms(1), ms(3)))
	if v.Retry != verdict.RetryUnknown {
		t.Errorf("a request that was read in part: retry %q: %s", v.Retry, v.RetryWhy)
	}
}

// TestRetryAfterClose: this end had closed; what the client sent then was not
// read. Whether it was a new request, the silence before tells.
func TestRetryAfterClose(t *testing.T) {
	for _, x := range []struct {
		sent, received time.Duration
		want           verdict.Retry
	}{
		{ms(5000), ms(5004), verdict.RetrySafe},
		{ms(5000), ms(5000), verdict.RetrySafe},    // asked and answered within a jiffy
		{ms(5004), ms(5000), verdict.RetryUnknown}, // not answered
		{ms(1), ms(3), verdict.RetryUnknown},       // refused in the middle of it
		{0, 0, verdict.RetryUnknown},               // the kernel did not tell
		// Whoever has sent nothing has not answered: this is the handshake's time.
		{ms(5040), ms(5040), verdict.RetryUnknown},
	} {
		out := uint32(900)
		if x.sent == ms(5040) {
			out = 0
		}
		f := newFar(conn.OpenPassive).established(57).exchange(out, 200)
		byProcess := func(e *event.Event) {
			e.Context, e.Call, e.PID, e.TID, e.Comm = event.ContextProcess, event.CallClose, 812, 812, event.CommOf("nginx")
		}
		f.see(ms(5040), event.HookClose, at(event.Established), byProcess, silence(x.sent, x.received))
		f.see(ms(5040.01), event.HookSetState, move(event.Established, event.FinWait1), byProcess, silence(x.sent, x.received))
		f.tcp.SkFlags |= event.SockDead
		f.see(ms(5041), event.HookSetState, move(event.FinWait1, event.FinWait2))
		f.see(ms(5041.01), event.HookTimeWait, at(event.FinWait2), func(e *event.Event) { e.Arg = int32(event.FinWait2) })
		f.see(ms(5041.02), event.HookSetState, move(event.FinWait2, event.Close))
		f.see(ms(5042), event.HookSendReset, at(event.TimeWait), segment(event.Segment{Seq: f.tcp.RcvNxt, Len: 312, Flags: event.ACK | event.PSH, TTL: 57}),
			func(e *event.Event) { e.Arg2 = int32(event.FinWait2); e.Has &^= event.HasTCP | event.HasSocket })
		v := verdict.Judge(f.c, verdict.Scope{})
		if v.Cause != verdict.DataAfterClose || v.Retry != x.want {
			t.Errorf("%v, %v: %s, retry %q, want %q: %s", x.sent, x.received, v.Cause, v.Retry, x.want, v.RetryWhy)
		}
		if (v.Idle == nil) != (x.sent == 0) || v.Age == nil || *v.Age != ms(5040) {
			t.Errorf("%v, %v: idle %v, age %v", x.sent, x.received, v.Idle, v.Age)
		}
	}
}

// TestForgottenFlow: a device on the path forgot an idle connection.
func TestForgottenFlow(t *testing.T) {
	f := newFar(conn.OpenActive).established(57).exchange(200, 900).sends(50)
	v := f.reset(ms(360_000), event.Established, event.Segment{Seq: f.tcp.RcvNxt, Flags: event.RST, TTL: 57}, silence(ms(12), ms(359_900)))
	if v.Cause != verdict.PeerGone || v.Retry != verdict.RetryUnknown || !strings.Contains(v.RetryWhy, "safe if they are the whole request") {
		t.Errorf("%s, retry %q: %s", v.Cause, v.Retry, v.RetryWhy)
	}
	if v.Reset.AfterFin != nil || v.Reset.Answers != verdict.AnswerData || !strings.Contains(v.Sentence, "it answered data of nginx (pid 812), sent 12 ms before, with a bare RST") {
		t.Errorf("%+v: %s", v.Reset, v.Sentence)
	}
}

// TestTTL: a reset from another place than the handshake, and from the same.
func TestTTL(t *testing.T) {
	for _, x := range []struct {
		handshake, reset uint8
		cause            verdict.Cause
	}{
		{57, 57, verdict.PeerAbort},
		{57, 58, verdict.PeerAbort}, // a route that changed
		{57, 55, verdict.PeerAbort},
		{57, 64, verdict.PathReset},
		{57, 54, verdict.PathReset},
		{64, 255, verdict.PathReset},
		{0, 64, verdict.PeerAbort}, // the handshake was not seen
		{57, 0, verdict.PeerAbort},
	} {
		f := newFar(conn.OpenActive).established(x.handshake).exchange(200, 900)
		v := f.reset(ms(400), event.Established, event.Segment{Seq: f.tcp.RcvNxt, Ack: f.tcp.SndNxt, Flags: event.RST | event.ACK, TTL: x.reset}, silence(ms(100), ms(90)))
		if v.Cause != x.cause || v.Confidence != verdict.Likely {
			t.Errorf("TTL %d, then %d: %s, %s", x.handshake, x.reset, v.Cause, v.Confidence)
		}
		if (v.Cause == verdict.PathReset) != (v.Ender == verdict.Path) {
			t.Errorf("%s by %s", v.Cause, v.Ender)
		}
		if v.Cause == verdict.PathReset && len(v.Evidence) != 3 {
			t.Errorf("evidence %v: want the handshake, the reset and the end", v.Evidence)
		}
	}
}

// TestResetWithACK: the ACK of an abort tells what the peer's kernel had got.
func TestResetWithACK(t *testing.T) {
	for behind, want := range map[uint32]string{
		0:   "Its ACK covers all that nginx (pid 812) had sent.",
		312: "Its ACK does not cover the last 312 bytes that nginx (pid 812) had sent.",
	} {
		f := newFar(conn.OpenActive).established(57).exchange(200, 900).sends(312)
		v := f.reset(ms(400), event.Established, event.Segment{Seq: f.tcp.RcvNxt, Ack: f.tcp.SndNxt - behind, Flags: event.RST | event.ACK, TTL: 57},
			silence(ms(2), ms(90)), func(e *event.Event) { e.Text = "no route\x1b[2J" })
		if v.Reset.Behind == nil || *v.Reset.Behind != behind || !strings.Contains(v.Sentence, want) {
			t.Errorf("%d behind: %v: %s", behind, v.Reset.Behind, v.Sentence)
		}
		if v.Reset.Answers != verdict.AnswerNone || !strings.Contains(v.Sentence, `Linux never does: "no route\x1b[2J".`) {
			t.Errorf("%q: %s", v.Reset.Answers, v.Sentence)
		}
	}
	// A device that leaves the field at anything.
	f := newFar(conn.OpenActive).established(57).exchange(200, 900)
	v := f.reset(ms(400), event.Established, event.Segment{Seq: f.tcp.RcvNxt, Ack: 7, Flags: event.RST | event.ACK, TTL: 57})
	if v.Reset.Behind != nil {
		t.Errorf("an ACK of 7 is taken for %d bytes", *v.Reset.Behind)
	}
	if v.Idle != nil {
		t.Errorf("idle %v: nothing told", *v.Idle)
	}
}

// TestRetryOfAClient: this end was asked, and knows what it read.
func TestRetryOfAClient(t *testing.T) {
	rst := event.Segment{Ack: 1001, Flags: event.RST | event.ACK, TTL: 57}
	f := newFar(conn.OpenPassive).established(57)
	f.tcp.RcvNxt += 312
	f.tcp.BytesReceived = 312
	rst.Seq = f.tcp.RcvNxt
	f.see(ms(399), event.HookClose, at(event.Established))
	f.c.Events[len(f.c.Events)-1].Context = event.ContextProcess
	if v := f.reset(ms(400), event.Established, rst); v.Retry != verdict.RetrySafe {
		t.Errorf("nothing was read, but retry is %q: %s", v.Retry, v.RetryWhy)
	}
	f = newFar(conn.OpenPassive).established(57).exchange(0, 312)
	rst.Seq = f.tcp.RcvNxt
	if v := f.reset(ms(400), event.Established, rst); v.Retry != verdict.RetryUnsafe || v.Probe {
		t.Errorf("all was read, but retry is %q: %s", v.Retry, v.RetryWhy)
	}
}

// TestHealthCheck: who only opens a connection to see whether that works.
func TestHealthCheck(t *testing.T) {
	rst := event.Segment{Seq: 5001, Ack: 1001, Flags: event.RST | event.ACK, TTL: 57}
	if v := newFar(conn.OpenPassive).established(57).reset(ms(31), event.Established, rst); !v.Probe {
		t.Errorf("no health check: %+v", v)
	}
	if v := newFar(conn.OpenActive).established(57).reset(ms(31), event.Established, rst); v.Probe {
		t.Error("a server that resets its client is taken for a health check")
	}
	if v := newFar(conn.OpenPassive).established(57).reset(ms(3100), event.Established, rst); v.Probe {
		t.Error("a client that waited for 3 s is taken for a health check")
	}
	f := newFar(conn.OpenPassive).established(57).exchange(10, 10)
	rst.Seq, rst.Ack = f.tcp.RcvNxt, f.tcp.SndNxt
	if v := f.reset(ms(31), event.Established, rst); v.Probe {
		t.Error("an exchange of bytes is taken for a health check")
	}
}

// TestRetryOfTheRecordings: what can be told of those scenarios whatever the
// kernel shows, and that nobody else is taken for a health check.
func TestRetryOfTheRecordings(t *testing.T) {
	want := map[string]verdict.Retry{
		"listener-close-ipv4":    verdict.RetrySafe,
		"closed-port-ipv4":       verdict.RetrySafe,
		"connect-cancelled-ipv4": verdict.RetrySafe,
		"disconnect-ipv4":        verdict.RetryUnsafe,  // the server had read the request, and answered
		"close-unread-ipv4":      verdict.RetryUnknown, // it had read the first 700 of 1000 bytes
	}
	for _, path := range recordings(t) {
		seen := map[string]bool{}
		for _, r := range readRuns(t, path) {
			for _, x := range r.judge() {
				v := x.v
				if probe := strings.HasPrefix(r.scenario, "reset-before-accept"); v.Probe != probe {
					t.Errorf("%s %s: taken for a health check: %v", path, r.scenario, v.Probe)
				}
				if w, ok := want[r.scenario]; ok && v.Class != verdict.Graceful {
					seen[r.scenario] = true
					if v.Retry != w {
						t.Errorf("%s %s: retry %q, want %q: %s", path, r.scenario, v.Retry, w, v.RetryWhy)
					}
				}
				if (v.Retry != verdict.RetryUnknown) && v.RetryWhy == "" {
					t.Errorf("%s %s: retry %q, and no reason", path, r.scenario, v.Retry)
				}
			}
		}
		if len(seen) == 0 {
			continue // a recording of some scenarios only
		}
		for s := range want {
			if !seen[s] {
				t.Errorf("%s has no %s", path, s)
			}
		}
	}
}

// TestUnseenSegment: of a RST whose segment was not seen, that it came is known.
func TestUnseenSegment(t *testing.T) {
	f := newFar(conn.OpenActive).established(0).exchange(200, 900)
	f.see(ms(400), event.HookReset, at(event.Established), silence(ms(100), ms(90)))
	f.see(ms(400.01), event.HookSetState, move(event.Established, event.Close), func(e *event.Event) { e.Err = 104 })
	v := verdict.Judge(f.c, verdict.Scope{})
	if v.Class != verdict.Unknown || v.Reset == nil || v.Reset.Seen || v.Reset.Answers != verdict.AnswerUnknown || v.Reset.Offset != nil {
		t.Errorf("%s, %+v", v.Class, v.Reset)
	}
	if want := "203.0.113.4:443, or something that answers for it, reset the connection of nginx (pid 812)."; !strings.HasPrefix(v.Sentence, want) {
		t.Errorf("%s", v.Sentence)
	}
	if v.Idle == nil || *v.Idle != ms(90) {
		t.Errorf("idle %v", v.Idle)
	}
}

// TestTimestampOfAReset: a peer's clock does not run backwards; whatever else
// there may be about a RST's timestamp says nothing.
func TestTimestampOfAReset(t *testing.T) {
	const last = 0xffff_ff00 // about to wrap
	const alone = event.RST | event.ACK
	for _, x := range []struct {
		name  string
		flags event.TCPFlags
		stamp event.Timestamps
		want  verdict.Cause
	}{
		{"as due", alone, event.Timestamps{Agreed: true, Carried: true, Recent: last, Value: 644, Age: time.Second}, verdict.PeerAbort},
		{"at once", alone, event.Timestamps{Agreed: true, Carried: true, Recent: last, Value: last}, verdict.PeerAbort},
		{"a clock of microseconds", alone, event.Timestamps{Agreed: true, Carried: true, Recent: last, Value: 2_900_000, Age: time.Second}, verdict.PeerAbort},
		{"far ahead, after this machine slept", alone, event.Timestamps{Agreed: true, Carried: true, Recent: 5, Value: 2_400_006, Age: time.Second}, verdict.PeerAbort},
		{"older", alone, event.Timestamps{Agreed: true, Carried: true, Recent: last, Value: last - 1, Age: time.Second}, verdict.PathReset},
		{"an answer, after a reboot", event.RST, event.Timestamps{Agreed: true, Carried: true, Recent: last, Value: last - 1, Age: time.Second}, verdict.PeerGone},
		{"after a long silence", alone, event.Timestamps{Agreed: true, Carried: true, Recent: last, Value: last - 1, Age: time.Hour}, verdict.PeerAbort},
		{"none on the RST", alone, event.Timestamps{Agreed: true, Recent: last, Age: time.Second}, verdict.PeerAbort},
		{"no clock in the handshake", alone, event.Timestamps{Agreed: true, Carried: true, Value: 0xf000_0000, Age: time.Second}, verdict.PeerAbort},
		{"no clock on the RST", alone, event.Timestamps{Agreed: true, Carried: true, Recent: 1000, Age: time.Second}, verdict.PeerAbort},
		{"none at all", alone, event.Timestamps{}, verdict.PeerAbort},
	} {
		f := newFar(conn.OpenActive).established(57).exchange(200, 900).sends(10)
		v := f.reset(ms(900), event.Established, event.Segment{Seq: f.tcp.RcvNxt, Ack: f.tcp.SndNxt, Flags: x.flags, TTL: 57},
			func(e *event.Event) { e.Timestamps = x.stamp })
		if v.Cause != x.want || x.want != verdict.PeerGone && v.Confidence != verdict.Likely {
			t.Errorf("%s: %s, %s: %s", x.name, v.Cause, v.Confidence, v.Sentence)
		}
		const says = "its timestamp (4294967039) is older than one that the peer had sent before (4294967040)"
		if strings.Contains(v.Sentence, says) != (x.want == verdict.PathReset) {
			t.Errorf("%s: %s", x.name, v.Sentence)
		}
	}
}
