package verdict_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// TestBriefIsTheSame: what a brief verdict tells is what the whole one does, whoever
// was judged before with the same Judger.
func TestBriefIsTheSame(t *testing.T) {
	var judger verdict.Judger
	ends := 0
	for _, path := range recordings(t) {
		for _, r := range readRuns(t, path) {
			for _, x := range r.judge() {
				ends++
				got := judger.Judge(x.c, verdict.Scope{Missing: r.missing, Brief: true})
				if got.Sentence != "" || got.Evidence != nil || got.AppSaw != nil {
					t.Fatalf("%s: it is not brief: %+v", r.scenario, got)
				}
				want := x.v
				want.AppSaw, want.Retry, want.RetryWhy, want.Sentence, want.Advice, want.Evidence = nil, "", "", "", "", nil
				if d := cmp.Diff(want, got, cmp.Comparer(func(a, b *conn.Process) bool {
					return (a == nil) == (b == nil) && (a == nil || a.PID == b.PID && a.Comm == b.Comm)
				}),
					cmp.Comparer(func(a, b verdict.Reset) bool { return a.At == b.At && a.Answers == b.Answers && a.Segment == b.Segment })); d != "" {
					t.Errorf("%s, %v > %v: %s", r.scenario, x.c.Local, x.c.Remote, d)
				}
				whole := judger.Judge(x.c, verdict.Scope{Missing: r.missing})
				if whole.Sentence != x.v.Sentence || whole.Advice != x.v.Advice || line(x.c, whole) != line(x.c, x.v) {
					t.Errorf("%s, %v > %v: judged again it is %+v, not %+v", r.scenario, x.c.Local, x.c.Remote, whole, x.v)
				}
			}
		}
	}
	if ends < 500 {
		t.Errorf("%d ends were judged", ends)
	}
}
