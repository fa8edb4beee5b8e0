package tracer

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tcpbye/tcpbye/tracer/event"
)

func TestParseSignal(t *testing.T) {
	is := func(tid uint32, comm string, at time.Duration, signal, target int32) event.Event {
		return event.Event{Time: at, Hook: event.HookSignal, Context: event.ContextProcess, PID: tid, TID: tid, Comm: event.CommOf(comm), Arg: signal, Arg2: target}
	}
	for line, want := range map[string]event.Event{
		"            bash-1234    [000] d..1.   123.456789: signal_generate: sig=15 errno=0 code=0 comm=sleep pid=4321 grp=1 res=0":     is(1234, "bash", 123456789*time.Microsecond, 15, 4321),
		"  a-b [x: y-77      [001] d..1. 9000.000001: signal_generate: sig=1 errno=0 code=-6 comm=x pid=5 grp=0 pid=4 grp=1 res=0":      is(77, "a-b [x: y", 9000*time.Second+time.Microsecond, 1, 4),
		"           <...>-9       [001] d....     0.000100: signal_generate: sig=3 errno=0 code=0 comm=: signal_gene pid=8 grp=1 res=1": is(9, "<...>", 100*time.Microsecond, 3, 8),
	} {
		got, ok := parseSignal(line)
		if !ok {
			t.Errorf("%q is not read", line)
		}
		if d := cmp.Diff(want, got, cmp.Comparer(func(a, b event.Event) bool { return a == b })); d != "" {
			t.Errorf("%q: %s", line, d)
		}
	}
	for _, line := range []string{"", "CPU:1 [LOST 3 EVENTS]", "x-1 [0] d 1.0: signal_generate: sig=15", "x-y [0] d 1.0: signal_generate: sig=15 pid=3 grp=1"} {
		if e, ok := parseSignal(line); ok {
			t.Errorf("%q is read as %+v", line, e)
		}
	}
}
