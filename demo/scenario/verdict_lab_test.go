//go:build lab

package scenario_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/demo/scenario"
	"github.com/tcpbye/tcpbye/tracer"
	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/record"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

var (
	repeat    = flag.Int("scenario.repeat", 1, "run the catalogue this often, with the same verdicts each time")
	recordDir = flag.String("scenario.record", "", "write a recording of each run into this directory")
)

// watch traces in the background for as long as the test runs.
type watch struct {
	t      *testing.T
	tracer *tracer.Tracer
	scope  verdict.Scope

	mu      sync.Mutex
	changed *sync.Cond
	events  []event.Event
	settled time.Duration
}

func startWatch(t *testing.T) *watch {
	t.Helper()
	tr, err := tracer.Open(tracer.Options{Receive: true})
	if err != nil {
		t.Fatal(err)
	}
	w := &watch{t: t, tracer: tr}
	w.changed = sync.NewCond(&w.mu)
	for _, a := range tr.Attachments() {
		if a.Rung == "" {
			w.scope.Missing = append(w.scope.Missing, a.Hook)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- tr.Run(ctx, func(e event.Event) error {
			w.mu.Lock()
			w.events = append(w.events, e)
			w.mu.Unlock()
			return nil
		}, func(now time.Duration) error {
			w.mu.Lock()
			w.settled = now
			w.mu.Unlock()
			w.changed.Broadcast()
			return nil
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		st, err := tr.Stats()
		if err != nil {
			t.Error(err)
		}
		if st.Lost() != 0 || st.Map != 0 || st.Read != 0 {
			t.Errorf("events were lost: %+v", st)
		}
		if err := tr.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// story returns the events of a run: those of its namespaces and of its
// processes, while it lasted.
func (w *watch) story(o scenario.Outcome) []event.Event {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.settled <= o.Until {
		w.changed.Wait()
	}
	var pids []uint32
	for _, p := range o.Processes {
		pids = append(pids, uint32(p.PID))
	}
	var mine []event.Event
	for _, e := range w.events {
		if e.Time < o.Since || e.Time > o.Until {
			continue
		}
		if slices.Contains(o.Watched, e.NetNS) || e.NetNS == 0 && slices.Contains(pids, e.PID) {
			mine = append(mine, e)
		}
	}
	return mine
}

func judge(events []event.Event, scope verdict.Scope) []scenario.JudgedEnd {
	j := conn.New(conn.Options{Hold: true})
	for _, e := range events {
		j.Add(e)
	}
	var judged []scenario.JudgedEnd
	for _, c := range j.Flush() {
		judged = append(judged, scenario.JudgedEnd{Connection: c, Verdict: verdict.Judge(c, scope)})
	}
	return judged
}

// write keeps the events as a recording.
func (w *watch) write(t *testing.T, name string, events []event.Event) {
	t.Helper()
	if *recordDir == "" {
		return
	}
	if err := os.MkdirAll(*recordDir, 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(*recordDir, name+".tcpbye"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		t.Fatal(err)
	}
	now, err := tracer.Monotonic()
	if err != nil {
		t.Fatal(err)
	}
	meta := record.Meta{Program: "tcpbye", Kernel: unix.ByteSliceToString(u.Release[:]), Arch: runtime.GOARCH,
		Offset: time.Duration(time.Now().UnixNano()) - now, Scenario: name}
	for _, a := range w.tracer.Attachments() {
		meta.Rungs = append(meta.Rungs, record.Rung{Hook: a.Hook, Name: a.Hook.String(), Rung: string(a.Rung)})
	}
	rw, err := record.NewWriter(f, meta)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range events {
		if err := rw.Event(e); err != nil {
			t.Fatal(err)
		}
	}
	if err := rw.Close(record.End{Events: uint64(len(events))}); err != nil {
		t.Fatal(err)
	}
}

// TestCatalogueIsJudged plays the whole catalogue under the tracer and holds
// every verdict against what is due, exactly.
func TestCatalogueIsJudged(t *testing.T) {
	kernel, err := scenario.RunningKernel()
	if err != nil {
		t.Fatal(err)
	}
	w := startWatch(t)
	for _, a := range w.tracer.Attachments() {
		if a.Rung == "" {
			t.Logf("%v is not attached: %v", a.Hook, a.Err)
		}
	}
	for range *repeat {
		playAll(t, w, kernel)
	}
}

func playAll(t *testing.T, w *watch, kernel scenario.Kernel) {
	slots := make(chan struct{}, 2*runtime.NumCPU())
	t.Run("all", func(t *testing.T) {
		for _, s := range scenario.All() {
			for _, family := range scenario.FamiliesOf(s) {
				t.Run(s.Name+"/"+string(family), func(t *testing.T) {
					if s.MachineWide == "" {
						t.Parallel()
					}
					slots <- struct{}{}
					defer func() { <-slots }()
					ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
					defer cancel()
					o, err := scenario.Execute(ctx, s, scenario.Options{Family: family, Stderr: os.Stderr, MachineWide: true})
					var missing *scenario.Missing
					if errors.As(err, &missing) {
						if !missing.Expected(kernel) {
							t.Fatalf("a kernel %v should have it: %v", kernel, err)
						}
						t.Skip(err)
					}
					if err != nil {
						t.Error(err)
					}
					for _, err := range s.CheckOutcome(o) {
						t.Error(err)
					}
					events := w.story(o)
					judged := judge(events, w.scope)
					for _, err := range s.CheckVerdicts(o, judged) {
						t.Error(err)
					}
					if t.Failed() {
						explain(t, o, judged)
						return
					}
					w.write(t, s.Name+"-"+string(family), events)
				})
			}
		}
	})
}

// explain logs all that is known of a run whose verdict is wrong.
func explain(t *testing.T, o scenario.Outcome, judged []scenario.JudgedEnd) {
	t.Helper()
	for _, seg := range o.Segments {
		t.Logf("%9.3f ms  %v", float64(seg.Time-o.Since)/1e6, seg)
	}
	for _, c := range o.Calls {
		t.Logf("%9.3f ms  %v", float64(c.Start-o.Since)/1e6, c)
	}
	number := func(n *uint64) string {
		if n == nil {
			return "-"
		}
		return fmt.Sprint(*n)
	}
	line := func(e *event.Event) string {
		return fmt.Sprintf("%9.3f ms  %v %v>%v %v ctx %v call %v %q/%d fl %#x err %v arg %d/%d una %d nxt %d wr %d rcv %d cop %d skfl %#x sk %v refs %d seg %v len %d",
			float64(e.Time-o.Since)/1e6, e.Hook, e.State, e.ToState, e.Local, e.Context, e.Call, e.Comm, e.PID, e.TaskFlags, e.Err, e.Arg, e.Arg2,
			e.SndUna, e.SndNxt, e.WriteSeq, e.RcvNxt, e.CopiedSeq, e.SkFlags, e.HasSk, e.Refs, e.Segment.Flags, e.Segment.Len)
	}
	for _, j := range judged {
		v := j.Verdict
		t.Logf("%v > %v: %s %s, ender %s, act %s, lost %s/%s/%s, saw %v, %s: %s", j.Local, j.Remote, v.Class, v.Cause, v.Ender, v.Act,
			number(v.Lost.Unread), number(v.Lost.Unsent), number(v.Lost.Unacked), v.AppSaw, v.Confidence, v.Sentence)
		for i := range j.Events {
			t.Log(line(&j.Events[i]))
		}
		for i := range j.Elsewhere {
			t.Logf("elsewhere %s", line(&j.Elsewhere[i]))
		}
	}
}
