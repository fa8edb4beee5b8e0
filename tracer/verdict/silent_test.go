package verdict_test

import (
	"slices"
	"testing"

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
			due := map[uint64]verdict.Verdict{}
			for _, x := range r.judge() {
				due[x.c.Gen] = x.v
			}
			for i, gone := range r.events {
				if gone.Context != event.ContextSoftirq || gone.Hook == event.HookSetState || gone.Hook == event.HookDestroy || alone[gone.Hook] {
					continue
				}
				tried++
				rest := run{missing: r.missing, events: slices.Delete(slices.Clone(r.events), i, i+1)}
				for _, x := range rest.judge() {
					c, got := x.c, x.v
					want, ok := due[c.Gen]
					if !ok || c.Gen == 0 {
						continue
					}
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
