//go:build lab

package scenario_test

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tcpbye/tcpbye/demo/scenario"
	"github.com/tcpbye/tcpbye/demo/stage"
	"github.com/tcpbye/tcpbye/tracer"
)

var rungs = flag.String("scenario.rungs", "auto,fentry,kprobe,tp_btf,tracepoint,stories", "rungs that TestCatalogueOnRungs forces, by commas")

// only is a part of a scenario's name, to look into one.
var only = flag.String("scenario.only", "", "only scenarios whose name has this in it")

// inStories is the rung on which sockets are told of once, as a trace does that
// shows no single step.
const inStories = "stories"

func openStage(name string, rung tracer.Rung) (*stage.Stage, error) {
	return stage.Open(tracer.Options{Story: name == inStories, Attach: rung})
}

// tally counts a rung's verdicts.
type tally struct {
	mu     sync.Mutex
	levels map[scenario.Level]int
	lacks  map[string]int // what is not told, and the hooks named for it: ends
	untold map[string]int // fields that are not told: ends
	named  map[string]int // hooks that are named for it: ends
}

// TestCatalogueOnRungs forces each rung and plays the whole catalogue: a verdict
// may say less than is due where the rung does not have a hook, but what it says
// must be so. How many are exact, and what the others lack, is printed.
func TestCatalogueOnRungs(t *testing.T) {
	for _, name := range strings.Split(*rungs, ",") {
		rung := tracer.Rung("")
		if name != inStories {
			var err error
			if rung, err = tracer.ParseRung(name); err != nil {
				t.Fatal(err)
			}
		}
		t.Run(name, func(t *testing.T) { playOnRung(t, name, rung) })
	}
}

func playOnRung(t *testing.T, name string, rung tracer.Rung) {
	kernel, err := scenario.RunningKernel()
	if err != nil {
		t.Fatal(err)
	}
	st, err := openStage(name, rung)
	if err != nil {
		if name == inStories {
			rung = tracer.RungKprobe // they need what that needs
		}
		reason, known := unavailable(rung)
		if !known {
			t.Fatal(err)
		}
		t.Logf("%s: not here, since %s: %v", name, reason, err)
		t.Attr(name, "- "+reason)
		return
	}
	var missing []string
	for _, a := range st.Attachments() {
		if a.Rung == "" {
			missing = append(missing, a.Hook.String())
			t.Logf("without %v cannot be told: %s", a.Hook, a.Lost)
		}
	}
	sum := &tally{levels: map[scenario.Level]int{}, lacks: map[string]int{}, untold: map[string]int{}, named: map[string]int{}}
	t.Run("all", func(t *testing.T) {
		slots := make(chan struct{}, 2*runtime.NumCPU())
		for _, s := range scenario.All() {
			if !strings.Contains(s.Name, *only) {
				continue
			}
			for _, family := range scenario.FamiliesOf(s) {
				if s.NeedsHook != 0 && slices.Contains(missing, s.NeedsHook.String()) {
					t.Logf("%s: not to be told from another story without %v", s.Name, s.NeedsHook)
					continue
				}
				t.Run(s.Name+"/"+string(family), func(t *testing.T) {
					if s.MachineWide == "" {
						t.Parallel()
					}
					slots <- struct{}{}
					defer func() { <-slots }()
					ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
					defer cancel()
					sum.play(ctx, t, st, s, family, kernel, len(missing) > 0)
				})
			}
		}
	})
	if err := st.Close(); err != nil {
		t.Error(err)
	}
	text := fmt.Sprintf("exact %d, exact cause %d, in part %d, guessed %d, wrong %d; hooks missing: %d",
		sum.levels[scenario.Exact], sum.levels[scenario.Cause], sum.levels[scenario.InPart], sum.levels[scenario.Guess], sum.levels[scenario.Wrong], len(missing))
	t.Attr(name, text)
	if len(sum.untold) > 0 {
		t.Attr("untold", ranked(sum.untold))
	}
	if len(sum.named) > 0 {
		t.Attr("named", ranked(sum.named))
	}
	why := []string{name + ": " + text}
	for _, k := range byCount(sum.lacks) {
		why = append(why, fmt.Sprintf("%4d ends without %s", sum.lacks[k], k))
	}
	t.Log(strings.Join(why, "\n"))
}

// unavailable says why a rung cannot be had on this kernel at all.
func unavailable(r tracer.Rung) (reason string, known bool) {
	_, probes := os.Stat("/sys/bus/event_source/devices/kprobe/type")
	mode, _ := os.ReadFile("/sys/kernel/security/lockdown")
	switch {
	case errors.Is(probes, os.ErrNotExist) && (r == tracer.RungKprobe || r == tracer.RungFentry):
		return "this kernel was built without kprobes and function tracing", true
	case strings.Contains(string(mode), "[confidentiality]") && (r == tracer.RungKprobe || r == tracer.RungClassic):
		return "lockdown=confidentiality refuses it", true
	}
	return "", false
}

// play plays a scenario and grades its ends; once more where the kernel skipped
// an event meanwhile.
func (sum *tally) play(ctx context.Context, t *testing.T, st *stage.Stage, s scenario.Scenario, family scenario.Family, kernel scenario.Kernel, degraded bool) {
	const most = 4
	for n := 1; ; n++ {
		before := skipped(t, st)
		p, err := st.Play(ctx, s, scenario.Options{Family: family, Stderr: os.Stderr, MachineWide: true})
		var absent *scenario.Missing
		if errors.As(err, &absent) {
			if !absent.Expected(kernel) {
				t.Fatalf("a kernel %v should have it: %v", kernel, err)
			}
			t.Skip(err)
		}
		if err != nil {
			t.Fatal(err)
		}
		o, ends := p.Outcome, p.Ends
		errs := s.CheckOutcome(o)
		grades, unknown := s.Grade(o, ends)
		errs = append(errs, unknown...)
		for _, g := range grades {
			switch {
			case g.Level == scenario.Wrong, g.Level == scenario.Guess:
				errs = append(errs, errors.New(g.String()))
			case g.Level != scenario.Exact && !degraded:
				errs = append(errs, fmt.Errorf("every hook is attached, but %v", g))
			}
		}
		if skipped := skipped(t, st) - before; len(errs) > 0 && n < most && skipped > 0 {
			t.Logf("%d events were skipped: once more (%v)", skipped, errors.Join(errs...))
			continue
		}
		for _, err := range errs {
			t.Error(err)
		}
		sum.count(grades)
		if t.Failed() {
			explain(t, o, ends)
		}
		if *recordDir != "" {
			write(t, st, strings.ReplaceAll(strings.TrimPrefix(t.Name(), "TestCatalogueOnRungs/"), "/", "-"), p.Events)
		}
		for _, g := range grades {
			if g.Level != scenario.Exact {
				t.Log(g)
			}
		}
		return
	}
}

func skipped(t *testing.T, st *stage.Stage) uint64 {
	t.Helper()
	n, err := st.Skipped()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func (sum *tally) count(grades []scenario.Grade) {
	sum.mu.Lock()
	defer sum.mu.Unlock()
	for _, g := range grades {
		sum.levels[g.Level]++
		if g.Level == scenario.InPart || g.Level == scenario.Cause {
			for _, l := range g.Lacks {
				sum.untold[l]++
			}
			for _, h := range strings.Split(few(g.Missing), ", ") {
				if h != "" {
					sum.named[h]++
				}
			}
			key := strings.Join(g.Lacks, ", ")
			if len(g.Missing) > 0 {
				key += "; it names " + few(g.Missing)
			}
			sum.lacks[key]++
		}
	}
}

// few names hooks, or counts them where it is all that are missing.
func few(hooks []string) string {
	if len(hooks) > 3 {
		return "all that are missing"
	}
	return strings.Join(hooks, ", ")
}

// byCount lists keys, those that were counted most first.
func byCount(counts map[string]int) []string {
	return slices.SortedFunc(maps.Keys(counts), func(a, b string) int {
		return cmp.Or(counts[b]-counts[a], strings.Compare(a, b))
	})
}

// ranked is that with the counts, in a line.
func ranked(counts map[string]int) string {
	var parts []string
	for _, k := range byCount(counts) {
		parts = append(parts, fmt.Sprintf("%s %d", k, counts[k]))
	}
	return strings.Join(parts, ", ")
}
