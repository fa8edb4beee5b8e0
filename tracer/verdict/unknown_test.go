package verdict_test

import (
	"slices"
	"testing"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// TestUnknownForLoss: an ending with lost events is no alarm, unless something
// speaks of a reset or of an error.
func TestUnknownForLoss(t *testing.T) {
	unknown := verdict.Verdict{Class: verdict.Unknown, Cause: verdict.UnknownCause}
	seen := []event.Event{{Hook: event.HookSetState, State: event.SynSent, ToState: event.Established}}
	for _, x := range []struct {
		name  string
		v     verdict.Verdict
		lossy bool
		more  event.Event
		want  bool
	}{
		{"events were lost", unknown, true, event.Event{Hook: event.HookDestroy}, true},
		{"none was", unknown, false, event.Event{Hook: event.HookDestroy}, false},
		{"it closed", unknown, true, event.Event{Hook: event.HookSetState, State: event.LastAck, ToState: event.Close}, true},
		{"it closed with an error", unknown, true, event.Event{Hook: event.HookSetState, State: event.Established, ToState: event.Close, Err: 104}, false},
		{"a reset came", unknown, true, event.Event{Hook: event.HookReset}, false},
		{"a reset was sent", unknown, true, event.Event{Hook: event.HookSendActiveReset}, false},
		{"send(2) failed", unknown, true, event.Event{Hook: event.HookStreamError, Arg: -32}, false},
		{"recv(2) told the end", unknown, true, event.Event{Hook: event.HookReceive}, true},
		{"it is known", verdict.Verdict{Class: verdict.Aborted, Cause: verdict.CloseUnread}, true, event.Event{Hook: event.HookDestroy}, false},
	} {
		c := &conn.Connection{Lossy: x.lossy, Events: append(slices.Clone(seen), x.more)}
		if got := verdict.UnknownForLoss(c, x.v); got != x.want {
			t.Errorf("%s: %v", x.name, got)
		}
	}
}
