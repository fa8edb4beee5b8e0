package verdict_test

import (
	"testing"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// TestOneEventSkippedSilently takes one event away, of those that kprobes tell in
// a softirq: while another kprobe's program runs the kernel skips them, and up to
// 6.6 it does not say so. What is left must not make another verdict certain, but
// for what only that event can tell.
func TestOneEventSkippedSilently(t *testing.T) {
	// What happens to a mini-socket nothing else tells.
	alone := map[event.Hook]bool{event.HookTwskSchedule: true, event.HookTwskKill: true}
	tried, other := 0, 0
	for _, path := range recordings(t) {
		for _, r := range readRuns(t, path) {
			whole := conn.New(conn.Options{Hold: true})
			for _, e := range r.events {
				whole.Add(e)
			}
			due := map[uint64]verdict.Verdict{}
			for _, c := range whole.Flush() {
				due[c.Gen] = verdict.Judge(c, verdict.Scope{Missing: r.missing})
			}
			for i, gone := range r.events {
				if gone.Context != event.ContextSoftirq || gone.Hook == event.HookSetState || gone.Hook == event.HookDestroy || alone[gone.Hook] {
					continue
				}
				tried++
				rest := conn.New(conn.Options{Hold: true})
				for n, e := range r.events {
					if n != i {
						rest.Add(e)
					}
				}
				for _, c := range rest.Flush() {
					want, ok := due[c.Gen]
					if !ok || c.Gen == 0 {
						continue
					}
					got := verdict.Judge(c, verdict.Scope{Missing: r.missing})
					if got.Class == want.Class && got.Cause == want.Cause && got.Ender == want.Ender {
						continue
					}
					other++
					if got.Confidence == verdict.Certain {
						t.Errorf("%s, %s, without %v: %s is certain of %s by %s, but it was %s by %s", path, r.scenario, gone.Hook, c.Local,
							got.Cause, got.Ender, want.Cause, want.Ender)
					}
				}
			}
		}
	}
	t.Logf("%d events taken away, %d verdicts are others, and say so", tried, other)
	if tried == 0 || other == 0 {
		t.Error("nothing was taken away, or it made no difference")
	}
}
