package verdict_test

import (
	"net/netip"
	"path/filepath"
	"slices"
	"testing"

	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/record"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// onTracepoints are the hooks that kernels have tracepoints for.
var onTracepoints = []event.Hook{event.HookSetState, event.HookDestroy, event.HookSendActiveReset, event.HookSendReset,
	event.HookReset, event.HookErrorReport, event.HookSignal, event.HookExec, event.HookExit}

// A view is what is left of an event on a poorer rung; false: nothing.
type view func(event.Event) (event.Event, bool)

// typedView is the rung of typed tracepoints, on a kernel that does not let a
// program read memory by address: no segment, no measured context.
func typedView(e event.Event) (event.Event, bool) {
	if !slices.Contains(onTracepoints, e.Hook) {
		return e, false
	}
	e.Segment, e.Has = event.Segment{}, e.Has&^(event.HasSegment|event.HasPreempt)
	e.Context = event.ContextUnknown
	return e, true
}

// lockedView is every hook, on a kernel that does not let a program read memory
// by address (lockdown=confidentiality): no segment, and no addresses of one that
// is answered for no connection.
func lockedView(e event.Event) (event.Event, bool) {
	if e.Hook == event.HookSendReset && (e.Sock == 0 || e.State == event.Listen || e.State == event.NewSynRecv) {
		e.Has, e.Local, e.Remote, e.NetNS, e.Family = e.Has&^event.HasTuple, netip.AddrPort{}, netip.AddrPort{}, 0, 0
	}
	e.Segment, e.Text, e.Has = event.Segment{}, "", e.Has&^event.HasSegment
	return e, e.Hook != event.HookStack
}

// classicView is the rung of classic tracepoints: a tuple, and the task.
func classicView(e event.Event) (event.Event, bool) {
	e, ok := typedView(e)
	if e.Hook == event.HookSendReset && e.State == event.Listen {
		// A listener's reset is recorded with the listener's addresses.
		e.Remote = netip.AddrPortFrom(netip.IPv4Unspecified(), 0)
	}
	return event.Event{
		Time: e.Time, Hook: e.Hook, Has: e.Has &^ (event.HasTCP | event.HasSocket), CPU: e.CPU, Sock: e.Sock, Conn: e.Conn,
		PID: e.PID, TID: e.TID, UID: e.UID, Comm: e.Comm, Cgroup: e.Cgroup, TaskFlags: e.TaskFlags, ExitCode: e.ExitCode, Task: e.Task,
		Syscall: e.Syscall, Call: e.Call, Family: e.Family, Local: e.Local, Remote: e.Remote, NetNS: e.NetNS,
		State: e.State, ToState: e.ToState, Protocol: e.Protocol, Arg: e.Arg, Arg2: e.Arg2,
	}, ok
}

// answersSockets leaves out what tracepoints did not tell before 6.10: a reset
// in answer to a segment that met no socket, or a mini-socket.
func answersSockets(v view) view {
	return func(e event.Event) (event.Event, bool) {
		e, ok := v(e)
		return e, ok && !(e.Hook == event.HookSendReset && (e.Sock == 0 || e.State == event.TimeWait))
	}
}

// TestBlindnessIsNotCertain takes from the recordings what poorer rungs do not
// tell: a verdict may then be unknown, or unsure and name what is missing, but
// what it is certain of is what the whole recording says.
func TestBlindnessIsNotCertain(t *testing.T) {
	var missing []event.Hook
	for _, h := range event.Hooks() {
		if !slices.Contains(onTracepoints, h) {
			missing = append(missing, h)
		}
	}
	old := []event.Hook{event.HookSendReset}
	lockedTyped := func(e event.Event) (event.Event, bool) {
		if e, ok := lockedView(e); ok {
			return typedView(e)
		}
		return e, false
	}
	for name, v := range map[string]struct {
		of      view
		partial []event.Hook
		missing []event.Hook
	}{
		"typed": {typedView, nil, missing}, "classic": {classicView, nil, missing},
		"typed before 6.10": {answersSockets(typedView), old, missing}, "classic before 6.10": {answersSockets(classicView), old, missing},
		"locked down": {lockedView, old, nil}, "locked down, typed": {lockedTyped, old, missing},
	} {
		same, all := 0, 0
		for _, path := range recordings(t) {
			for _, r := range readRuns(t, path) {
				due := map[uint64]verdict.Verdict{}
				for _, x := range r.judge() {
					due[x.c.Gen] = x.v
				}
				for c, got := range verdict.JudgeAll(r.seen(v.of), verdict.Scope{Missing: slices.Concat(v.missing, r.missing), Partial: v.partial}) {
					want, ok := due[c.Gen]
					if !ok || c.Gen == 0 {
						continue
					}
					all++
					if got.Class == want.Class && got.Cause == want.Cause {
						same++
					}
					where := name + ", " + filepath.Base(path) + ", " + r.scenario
					switch {
					case got.Confidence != verdict.Certain && len(got.Missing) == 0 && want.Confidence == verdict.Certain:
						t.Errorf("%s: %v: %s %s is %s, and names no hook; it was %s", where, c.Local, got.Class, got.Cause, got.Confidence, want.Cause)
					case got.Confidence != verdict.Certain:
					case c.Peer == nil && len(got.Refuted(&want)) == 0:
						// Without sequence numbers a translated connection is not one: its other
						// end might be anywhere.
					case got.Class != want.Class || got.Cause != want.Cause || got.Ender != want.Ender || got.Act != want.Act:
						t.Errorf("%s: %v: certain of %s %s, ender %q, act %q; it was %s %s, ender %q, act %q", where, c.Local,
							got.Class, got.Cause, got.Ender, got.Act, want.Class, want.Cause, want.Ender, want.Act)
					}
				}
			}
		}
		t.Logf("%s: %d of %d causes as with every hook", name, same, all)
		if same == 0 {
			t.Errorf("%s: no verdict is left", name)
		}
	}
}

func TestScopeOf(t *testing.T) {
	yes, no := true, false
	for _, c := range []struct {
		rung    string
		all     *bool
		blind   bool
		partial bool
	}{
		{"tp_btf", &no, false, true}, {"tp_btf", &yes, false, false}, {"tracepoint", &yes, false, false},
		{"kprobe", &yes, false, false}, {"fentry", &no, false, true}, {"", &no, false, false},
		// Of a recording that does not say it.
		{"tp_btf", nil, false, true}, {"tracepoint", nil, false, true}, {"kprobe", nil, false, false}, {"fentry", nil, true, true},
	} {
		s := verdict.ScopeOf(record.Meta{Rungs: []record.Rung{{Hook: event.HookSendReset, Rung: c.rung, All: c.all, Blind: c.blind}, {Hook: event.HookClose}}})
		if slices.Contains(s.Partial, event.HookSendReset) != c.partial || !slices.Contains(s.Missing, event.HookClose) ||
			slices.Contains(s.Missing, event.HookSendReset) != (c.rung == "") {
			t.Errorf("%+v: %+v", c, s)
		}
	}
}
