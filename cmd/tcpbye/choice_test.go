package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/record"
)

// TestCommandIsChosenAgain: a recording of "trace -- COMMAND" has the events of
// the machine, and is read as the run was shown: the command's connections alone,
// unless other processes are asked for.
func TestCommandIsChosenAgain(t *testing.T) {
	const busy = "testdata/busy.tcpbye"
	tell := func(args ...string) string {
		t.Helper()
		var stdout, stderr bytes.Buffer
		if status := run(append([]string{"trace", "-o", "json"}, args...), environment{stdout: &stdout, stderr: &stderr, getenv: func(string) string { return "" }}); status != exitDone {
			t.Fatalf("%v: status %d: %s", args, status, &stderr)
		}
		return stdout.String()
	}
	all := tell("-r", busy)
	in, err := os.Open(busy)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	var w *record.Writer
	var buf bytes.Buffer
	var pids []uint32
	chosen := func(pid uint32) string {
		t.Helper()
		buf.Reset()
		if _, err := in.Seek(0, 0); err != nil {
			t.Fatal(err)
		}
		err := record.Read(in, record.Handler{
			Meta: func(m record.Meta) (err error) {
				if w, err = record.NewWriter(&buf, m); err == nil && pid != 0 {
					err = w.Choice(record.Choice{Command: pid})
				}
				return err
			},
			Event: func(e event.Event) error {
				if e.Hook == event.HookConnect {
					pids = append(pids, e.PID)
				}
				return w.Event(e)
			},
			Loss:    func(l record.Loss) error { return w.Loss(l) },
			End:     func(e record.End) error { return w.Close(e) },
			Process: func(p record.Process) error { return w.Process(p) },
			Seed:    func(s record.Seed) error { return w.Seed(s) },
			Tick:    func(x record.Tick) error { return w.Tick(x) },
		})
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "run.tcpbye")
		if err := os.WriteFile(path, buf.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	if got := tell("-r", chosen(0)); got != all || len(pids) == 0 {
		t.Fatalf("a copy is told differently, or nobody connects (%v)", pids)
	}
	pid := pids[0]
	path := chosen(pid)
	want := tell("-r", busy, "-p", strconv.Itoa(int(pid)), "--follow")
	if want == "" || want == all {
		t.Fatalf("PID %d shows nothing, or everything", pid)
	}
	if got := tell("-r", path); got != want {
		t.Errorf("the command's run:\n%swant:\n%s", got, want)
	}
	// Of two runs in one file, the second was of no command.
	both := filepath.Join(t.TempDir(), "both.tcpbye")
	first, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	second, err := os.ReadFile(busy)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(both, append(first, second...), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := tell("-r", both); got != want+all {
		t.Errorf("a command's run and another:\n%swant:\n%s%s", got, want, all)
	}
	if got := tell("-r", path, "-p", "4294967"); got != "" {
		t.Errorf("another process was asked for: %s", got)
	}
}
