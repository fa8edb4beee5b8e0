package verdict_test

import (
	"path/filepath"
	"slices"
	"testing"

	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// TestWholeStoriesAgree: no story that is whole contradicts itself, on any kernel,
// nor what is left of it on a poorer rung. (That what is not whole does, TestTrust
// measures.)
func TestWholeStoriesAgree(t *testing.T) {
	var missing []event.Hook
	for _, h := range event.Hooks() {
		if !slices.Contains(onTracepoints, h) {
			missing = append(missing, h)
		}
	}
	old := []event.Hook{event.HookSendReset}
	for name, v := range map[string]struct {
		of    view
		scope verdict.Scope
	}{
		"all":               {of: func(e event.Event) (event.Event, bool) { return e, true }},
		"typed":             {of: typedView, scope: verdict.Scope{Missing: missing}},
		"classic":           {of: classicView, scope: verdict.Scope{Missing: missing}},
		"typed before 6.10": {of: answersSockets(typedView), scope: verdict.Scope{Missing: missing, Partial: old}},
		"locked down":       {of: lockedView, scope: verdict.Scope{Partial: old}},
	} {
		for _, path := range recordings(t) {
			for _, r := range readRuns(t, path) {
				s := verdict.Scope{Missing: slices.Concat(r.missing, v.scope.Missing), Partial: v.scope.Partial}
				for c, got := range verdict.JudgeAll(r.seen(v.of), s) {
					if got.Unseen != "" {
						t.Errorf("%s, %s, %s: %v %v: %s %s: %s was not seen", name, filepath.Base(path), r.scenario, c.Local, c.Open, got.Class, got.Cause, got.Unseen)
					}
				}
			}
		}
	}
}
