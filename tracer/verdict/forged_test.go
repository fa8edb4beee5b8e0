package verdict_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// TestForgedResetIsNotThePeers: an end aborts, and what ends the other one is a RST
// that its stack does not send for that: one without an ACK. That one's cause cannot be
// the abort.
func TestForgedResetIsNotThePeers(t *testing.T) {
	for _, scenario := range []string{"close-unread-ipv4", "linger-zero-ipv4", "sock-destroy-ipv4", "listener-close-ipv4", "killed-unread-ipv4"} {
		r := recorded(t, "7", scenario)
		forged := 0
		for i := range r.events {
			e := &r.events[i]
			if e.Hook == event.HookReset && e.Has&event.HasSegment != 0 && e.Segment.Flags&event.ACK != 0 {
				e.Segment.Flags &^= event.ACK
				forged++
			}
		}
		if forged == 0 {
			t.Fatalf("%s: no RST came in", scenario)
		}
		for _, x := range r.judge() {
			if x.v.Reset == nil || !x.v.Reset.Seen {
				continue // the end that aborted
			}
			if x.v.Confidence == verdict.Certain || x.v.Ender == verdict.PeerProcess {
				t.Errorf("%s: %s", scenario, line(x.c, x.v))
			}
		}
	}
}

// TestAbortIsNoAnswer: a kernel answered a later segment with a RST, since the socket was
// gone, but what came is the RST of the abort before it, which has an ACK.
func TestAbortIsNoAnswer(t *testing.T) {
	r := recorded(t, "7", "data-to-mini-socket-ipv4")
	var answered int
	for i := range r.events {
		e := &r.events[i]
		if e.Hook == event.HookReset && e.Has&event.HasSegment != 0 {
			e.Segment.Flags |= event.ACK
			answered++
		}
	}
	if answered == 0 {
		t.Fatal("no RST came in")
	}
	for _, x := range r.judge() {
		if x.v.Reset != nil && (x.v.Confidence == verdict.Certain || x.v.Cause == verdict.DataAfterClose || x.v.Cause == verdict.NoSocket) {
			t.Errorf("%s", line(x.c, x.v))
		}
	}
}

// TestFinThatNobodySent: a FIN came a second before the other end's stack sent its own.
func TestFinThatNobodySent(t *testing.T) {
	for _, scenario := range []string{"close-ipv4", "shutdown-wr-ipv4", "exit-ipv4"} {
		r := recorded(t, "7", scenario)
		// Whoever sends the first FIN is a second late with all that it does from then on.
		var sender uint64
		var since time.Duration
		for _, e := range r.events {
			if sender == 0 && e.Hook == event.HookSetState && e.ToState == event.FinWait1 {
				sender, since = e.Sock, e.Time
			}
		}
		for i := range r.events {
			if e := &r.events[i]; e.Sock == sender && e.Time >= since {
				e.Time += time.Second
			}
		}
		slices.SortStableFunc(r.events, func(a, b event.Event) int { return int(a.Time - b.Time) })
		for _, x := range r.judge() {
			if x.v.Confidence == verdict.Certain {
				t.Errorf("%s: %s", scenario, line(x.c, x.v))
			}
			if !strings.Contains(x.v.Unseen, "FIN") && x.c.Peer != nil && x.v.Class != verdict.Unknown {
				t.Errorf("%s: what was not seen is %q", scenario, x.v.Unseen)
			}
		}
	}
}

// TestHeldBack: each copy of what was to be sent again was held in this host, so nobody
// knows whether the first one left it.
func TestHeldBack(t *testing.T) {
	for _, scenario := range []string{"user-timeout-ipv4", "retransmit-timeout-ipv4", "keepalive-ipv4", "connect-timeout-ipv4", "orphan-timeout-ipv4"} {
		r := recorded(t, "7", scenario)
		for _, x := range r.judge() {
			if x.v.Class == verdict.TimedOut && x.v.Ender == verdict.LocalKernel && x.v.Confidence != verdict.Certain {
				t.Errorf("%s: it was not certain before: %s", scenario, line(x.c, x.v))
			}
		}
		for i := range r.events {
			if e := &r.events[i]; e.Hook == event.HookSetState && e.ToState == event.Close {
				e.BusyTries = max(uint32(e.Retransmits), uint32(e.ProbesOut))
			}
		}
		ends := 0
		for _, x := range r.judge() {
			if x.v.Class == verdict.TimedOut && x.v.Ender == verdict.LocalKernel {
				ends++
				if x.v.Confidence == verdict.Certain {
					t.Errorf("%s: %s", scenario, line(x.c, x.v))
				}
			}
		}
		if ends == 0 {
			t.Errorf("%s: no end timed out", scenario)
		}
	}
}

// TestCloseThatWasNotTold: what stands above TCP shows itself at the close of the
// descriptor, and what was left unread at the close of the socket.
func TestCloseThatWasNotTold(t *testing.T) {
	for _, h := range []event.Hook{event.HookFileClose, event.HookClose} {
		for _, scenario := range []string{"sockmap-close-ipv4", "close-ipv4", "close-unread-ipv4"} {
			r := recorded(t, "7", scenario)
			r.events = slices.DeleteFunc(r.events, func(e event.Event) bool { return e.Hook == h })
			for _, x := range r.judge() {
				if x.v.Confidence == verdict.Certain {
					t.Errorf("%s without %v: %s", scenario, h, line(x.c, x.v))
				}
			}
		}
	}
}

// TestFirstOfTwoResets: a mini-socket answered, and then the kernel without a socket did.
// The first one came.
func TestFirstOfTwoResets(t *testing.T) {
	r := recorded(t, "7", "data-to-mini-socket-ipv4")
	for i := range r.events {
		if e := r.events[i]; e.Hook == event.HookSendReset {
			e.Time += time.Millisecond
			e.Sock, e.Conn, e.State = 0, 0, 0
			r.events = append(r.events, e)
		}
	}
	slices.SortStableFunc(r.events, func(a, b event.Event) int { return int(a.Time - b.Time) })
	for _, x := range r.judge() {
		if x.v.Cause == verdict.NoSocket {
			t.Errorf("%s", line(x.c, x.v))
		}
	}
}

// TestSawInOrder: getsockopt(SO_ERROR) took the error, and the read after it had nothing
// more to be told than the end.
func TestSawInOrder(t *testing.T) {
	r := recorded(t, "7", "linger-zero-ipv4")
	reads := 0
	for i := range r.events {
		if e := &r.events[i]; e.Hook == event.HookReceive && e.Arg < 0 {
			e.Arg, e.Err = 0, 0
			reads++
		}
	}
	if reads != 1 {
		t.Fatalf("%d reads failed", reads)
	}
	for _, x := range r.judge() {
		if want := []string{"ECONNRESET", "EOF"}; x.v.Reset != nil && !slices.Equal(x.v.AppSaw, want) {
			t.Errorf("it saw %q, want %q", x.v.AppSaw, want)
		}
	}
}
