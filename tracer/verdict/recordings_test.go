package verdict_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/record"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

var update = flag.Bool("update", false, "write the verdicts of the recordings anew")

// run is one recorded scenario.
type run struct {
	scenario string
	missing  []event.Hook
	events   []event.Event
}

func readRuns(t testing.TB, path string) []run {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var runs []run
	err = record.Read(f, record.Handler{
		Meta: func(m record.Meta) error {
			runs = append(runs, run{scenario: m.Scenario, missing: m.Missing()})
			return nil
		},
		Event: func(e event.Event) error {
			r := &runs[len(runs)-1]
			r.events = append(r.events, e)
			return nil
		},
	})
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return runs
}

func recordings(t testing.TB) []string {
	t.Helper()
	paths, err := filepath.Glob("testdata/*.tcpbye")
	if err != nil {
		t.Fatal(err)
	}
	if len(paths) < 4 {
		t.Fatalf("recordings of %d kernels, want at least 4: make record writes them", len(paths))
	}
	return paths
}

// recorded is a run of a scenario as a kernel told it.
func recorded(t testing.TB, kernel, scenario string) run {
	t.Helper()
	for _, r := range readRuns(t, filepath.Join("testdata", kernel+".tcpbye")) {
		if r.scenario == scenario {
			return r
		}
	}
	t.Fatalf("%s is not recorded on %s", scenario, kernel)
	return run{}
}

// judged is an end and its verdict.
type judged struct {
	c *conn.Connection
	v verdict.Verdict
}

func (r run) judge() (ends []judged) {
	for c, v := range verdict.JudgeAll(r.events, verdict.Scope{Missing: r.missing}) {
		ends = append(ends, judged{c, v})
	}
	return ends
}

// seen are the events that are left by a view, as it shows them.
func (r run) seen(view func(event.Event) (event.Event, bool)) (left []event.Event) {
	for _, e := range r.events {
		if e, ok := view(e); ok {
			left = append(left, e)
		}
	}
	return left
}

func judgeRun(r run) (lines []string) {
	for _, x := range r.judge() {
		lines = append(lines, line(x.c, x.v))
	}
	return lines
}

func number(n *uint64) string {
	if n == nil {
		return "-"
	}
	return fmt.Sprint(*n)
}

// line is everything in a verdict that is a fact.
func line(c *conn.Connection, v verdict.Verdict) string {
	actor := "-"
	if v.Actor != nil {
		actor = v.Actor.Comm
	}
	half := "-"
	if v.HalfClose != nil {
		half = "half-close"
	}
	return fmt.Sprintf("%v > %v %v: %s %s, ender %s, act %s/%d by %s, lost %s/%s/%s, bytes %s/%s/%s, saw %v, harmless %v, %s, TIME_WAIT %v, %s %v, proof %d",
		c.Local, c.Remote, c.Open, v.Class, v.Cause, v.Ender, v.Act, v.Signal, actor,
		number(v.Lost.Unread), number(v.Lost.Unsent), number(v.Lost.Unacked),
		number(v.Bytes.Sent), number(v.Bytes.Acked), number(v.Bytes.Received),
		v.AppSaw, v.Harmless, half, v.TimeWait, v.Confidence, v.Missing, len(v.Evidence))
}

// TestRecordings judges every recorded scenario of every kernel again. A
// recording is only kept of a run whose verdicts were held against a packet
// capture and the programs' own counts.
func TestRecordings(t *testing.T) {
	for _, path := range recordings(t) {
		kernel := strings.TrimSuffix(filepath.Base(path), ".tcpbye")
		t.Run(kernel, func(t *testing.T) {
			var b strings.Builder
			for _, r := range readRuns(t, path) {
				fmt.Fprintf(&b, "%s\n", r.scenario)
				for _, l := range judgeRun(r) {
					fmt.Fprintf(&b, "\t%s\n", l)
				}
			}
			golden := strings.TrimSuffix(path, ".tcpbye") + ".verdicts"
			if *update {
				if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(b.String(), "\n")); d != "" {
				t.Error(d)
			}
		})
	}
}

// TestSameOnEveryKernel: a scenario has the same class and cause wherever it
// was recorded.
func TestSameOnEveryKernel(t *testing.T) {
	type where struct {
		kernel string
		causes []string
	}
	seen := map[string]where{}
	for _, path := range recordings(t) {
		for _, r := range readRuns(t, path) {
			var causes []string
			for _, x := range r.judge() {
				causes = append(causes, fmt.Sprintf("%v %s/%s/%s/%s", x.c.Open, x.v.Class, x.v.Cause, x.v.Ender, x.v.Act))
			}
			// How many connections a story has may be the kernel's choice
			// (SO_REUSEPORT).
			slices.Sort(causes)
			causes = slices.Compact(causes)
			if first, ok := seen[r.scenario]; !ok {
				seen[r.scenario] = where{filepath.Base(path), causes}
			} else if d := cmp.Diff(first.causes, causes); d != "" {
				t.Errorf("%s differs between %s and %s:\n%s", r.scenario, first.kernel, filepath.Base(path), d)
			}
		}
	}
}

// TestEveryRuleIsRecorded: a rule that no scenario provokes is not proven.
func TestEveryRuleIsRecorded(t *testing.T) {
	seen := map[verdict.Cause]bool{}
	for _, path := range recordings(t) {
		for _, r := range readRuns(t, path) {
			for _, x := range r.judge() {
				seen[x.v.Cause] = true
			}
		}
	}
	for _, r := range verdict.Rules() {
		if r.Cause != verdict.UnknownCause && !seen[r.Cause] {
			t.Errorf("no recording has the cause %s", r.Cause)
		}
	}
	if seen[verdict.UnknownCause] {
		t.Error("a recording is judged unknown")
	}
}

// TestTracepointsAlone judges the recordings as a kernel without kprobes and
// fentry would show them: never another cause with full confidence.
func TestTracepointsAlone(t *testing.T) {
	tracepoints := []event.Hook{event.HookSetState, event.HookDestroy, event.HookSendReset, event.HookSendActiveReset,
		event.HookReset, event.HookErrorReport, event.HookSignal, event.HookExec, event.HookExit}
	var missing []event.Hook
	for _, h := range event.Hooks() {
		if !slices.Contains(tracepoints, h) {
			missing = append(missing, h)
		}
	}
	for _, path := range recordings(t) {
		exact, ends := 0, 0
		for _, r := range readRuns(t, path) {
			full := map[uint64]verdict.Verdict{}
			for _, x := range r.judge() {
				full[x.c.Gen] = x.v
			}
			left := r.seen(func(e event.Event) (event.Event, bool) {
				if e.Hook == event.HookReset {
					e.Segment, e.Has = event.Segment{}, e.Has&^event.HasSegment
				}
				return e, !slices.Contains(missing, e.Hook)
			})
			for c, v := range verdict.JudgeAll(left, verdict.Scope{Missing: missing}) {
				was, ok := full[c.Gen]
				if !ok {
					continue
				}
				ends++
				if v.Cause == was.Cause {
					exact++
				} else if v.Confidence == verdict.Certain {
					t.Errorf("%s %s: %s is judged %s, certain, instead of %s", filepath.Base(path), r.scenario, c.Local, v.Cause, was.Cause)
				}
			}
		}
		t.Logf("%s: %d of %d ends have the same cause from tracepoints alone", filepath.Base(path), exact, ends)
	}
}

// TestWithoutAHook takes each hook's events away in turn: whatever is then
// judged, it is never another cause with full confidence.
func TestWithoutAHook(t *testing.T) {
	type key struct {
		local, remote string
		gen           uint64
	}
	for _, path := range recordings(t) {
		for _, r := range readRuns(t, path) {
			full := map[key]verdict.Verdict{}
			for _, x := range r.judge() {
				full[key{x.c.Local.String(), x.c.Remote.String(), x.c.Gen}] = x.v
			}
			for _, hook := range event.Hooks() {
				if hook == event.HookSetState || slices.Contains(r.missing, hook) {
					continue
				}
				left := r.seen(func(e event.Event) (event.Event, bool) { return e, e.Hook != hook })
				for c, v := range verdict.JudgeAll(left, verdict.Scope{Missing: append(slices.Clone(r.missing), hook)}) {
					was, ok := full[key{c.Local.String(), c.Remote.String(), c.Gen}]
					if !ok {
						continue
					}
					if v.Cause != was.Cause && v.Confidence == verdict.Certain {
						t.Errorf("%s %s without %v: %s is judged %s, certain, instead of %s", filepath.Base(path), r.scenario, hook, c.Local, v.Cause, was.Cause)
					}
				}
			}
		}
	}
}

// TestKilledAdvice: who was killed is told about the signal, not how to close.
func TestKilledAdvice(t *testing.T) {
	seen := map[string]bool{}
	for _, path := range recordings(t) {
		for _, r := range readRuns(t, path) {
			for _, x := range r.judge() {
				v := x.v
				if v.Act != verdict.ActKilled || v.Advice == "" {
					continue
				}
				seen[r.scenario] = true
				if strings.Contains(v.Advice, "close(2)") || !strings.Contains(v.Advice, "SIG") && !strings.Contains(v.Advice, "crashed") {
					t.Errorf("%s, %s: killed by signal %d: %s", path, r.scenario, v.Signal, v.Advice)
				}
			}
		}
	}
	if len(seen) == 0 {
		t.Error("nobody is killed in the recordings, or that is no reason to say anything")
	}
}
