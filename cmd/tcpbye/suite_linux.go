package main

import (
	"bufio"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/fault"
	"github.com/tcpbye/tcpbye/tracer/record"
	"github.com/tcpbye/tcpbye/tracer/report"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// checking is a run of tcpbye test.
type checking struct {
	tracing
	junit, json, root string
	github            string
	status            int
	noLeaks           bool
	faults            failOn
	finder            *fault.Finder
	shown             report.Options
}

func newTest(env environment) *cobra.Command {
	t := &checking{tracing: tracing{output: output{env: env}}}
	cmd := &cobra.Command{
		Use:   "test -- COMMAND [ARGUMENT…]",
		Short: "find the connections that make a test flaky",
		Long: `Run a test suite and find the endings that are its fault: connections that were
aborted, that timed out, that a service ended without an answer, and those that a process still
held when it exited although the other end had finished (leaks). Each with the line of source that made it, where the
stack tells (Go, C, C++, Rust: programs with line tables), or the runtime: pytest is told to
note where sockets are closed.

What was found is said on standard error after the run, as annotations of GitHub Actions
where those run, and in the files asked for. The exit status is the command's
own; --exit-code gives another one for a run that passed and has a fault.
With -r a recording of a run is read (tcpbye test -w FILE).`,
		Example: `  tcpbye test --junit connections.xml -- go test ./...
  tcpbye test --exit-code 1 -- pytest -q`,
		Args: commandArgs,
		RunE: t.test,
	}
	t.flags(cmd, report.Table)
	f := cmd.Flags()
	f.StringVar(&t.junit, "junit", "", "write JUnit XML to `FILE`")
	f.StringVar(&t.json, "json", "", "write the faults as JSON, one a line, to `FILE` (tcpbye schema test)")
	f.StringVar(&t.github, "github", "auto", "write annotations of GitHub Actions to standard output: auto, always, never")
	f.StringVar(&t.root, "root", "", "the tests' source is below `DIRECTORY`; default: the current one")
	f.IntVar(&t.status, "exit-code", 0, "exit with `STATUS` when the command passes and an ending is at fault")
	f.Var(&t.faults, "fault", "these `ENDINGS` are faults: classes, causes, unanswered; default: aborted,timed-out,unanswered")
	f.BoolVar(&t.noLeaks, "no-leaks", false, "a connection that was never closed is no fault")
	for _, name := range hiddenInTest {
		_ = f.MarkHidden(name) // there is a flag of that name
	}
	return cmd
}

var hiddenInTest = []string{"output", "color", "verbose", "count", "fail-on", "no-events", "class", "cause", "every-step", "stack"}

func (t *checking) test(cmd *cobra.Command, args []string) error {
	if err := excluded(cmd, "test", hiddenInTest...); err != nil {
		return err
	}
	if len(args) == 0 && t.read == nil {
		return usage(errors.New("which tests? the command that runs them comes after --"))
	}
	if !slices.Contains([]string{"auto", "always", "never"}, t.github) {
		return usage(fmt.Errorf("--github %q: want auto, always or never", t.github))
	}
	if t.status < 0 || t.status > 255 {
		return usage(fmt.Errorf("--exit-code %d: want 0 to 255", t.status))
	}
	root, err := filepath.Abs(t.root)
	if err != nil {
		return fmt.Errorf("--root: %w", err)
	}
	o := fault.Options{Root: root, Leaks: !t.noLeaks}
	if t.faults.asked() {
		o.Wanted = func(_ *conn.Connection, v *verdict.Verdict) bool { return t.faults.match(v) }
	}
	t.finder = fault.New(o)
	t.sink = func(_ io.Writer, o report.Options) []report.Sink { t.shown = o; return []report.Sink{t} }
	t.stack = t.read == nil
	var calls string
	if isPytest(args) {
		dir, env, err := pytestEnv(t.env.getenv)
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		t.commandEnv, calls = env, filepath.Join(dir, callsName)
	}
	err = t.run(cmd, args)
	var status *statusError
	if err != nil && (!errors.As(err, &status) || status.err != nil) {
		return err
	}
	if calls != "" {
		noted, cerr := readCalls(calls)
		if cerr != nil {
			return cerr
		}
		t.finder.Calls(noted)
	}
	if rerr := t.report(cmd.Context()); rerr != nil {
		return rerr
	}
	if err == nil && t.status != 0 && len(t.finder.Faults()) > 0 {
		return &statusError{status: t.status}
	}
	return err
}

// End and Close are the sink.
func (t *checking) End(j report.Judged) error {
	t.finder.End(j.Conn, &j.Verdict)
	return nil
}

func (t *checking) Close() error { return nil }

// report says what was found, everywhere.
func (t *checking) report(ctx context.Context) error {
	faults := t.finder.Faults()
	github := t.github == "always" || t.github == "auto" && t.env.getenv("GITHUB_ACTIONS") == "true"
	for i := range faults {
		x := &faults[i]
		fmt.Fprintf(t.env.stderr, "tcpbye: %s\n", event.Quote(t.finder.Title(x)))
		if x.Test != "" {
			fmt.Fprintf(t.env.stderr, "        in %s\n", event.Quote(x.Test))
		}
		fmt.Fprintf(t.env.stderr, "        %s\n", event.Quote(x.Sentence))
		if github {
			if _, err := fmt.Fprintln(t.env.stdout, t.finder.Annotation(x)); err != nil {
				return fmt.Errorf("write: %w", err)
			}
		}
	}
	runs := t.finder.Runs
	fmt.Fprintf(t.env.stderr, "tcpbye: %d at fault of %d connections; %d were open when their process exited\n", len(faults)+runs.Dropped, runs.Connections, runs.HeldAtExit)
	if t.junit != "" {
		b, err := t.finder.JUnit()
		if err != nil {
			return err
		}
		if err := writeFile(ctx, "--junit", t.junit, b); err != nil {
			return err
		}
	}
	if t.json != "" {
		b, err := report.FaultsJSON(t.finder, t.shown.Clock)
		if err != nil {
			return err
		}
		return writeFile(ctx, "--json", t.json, b)
	}
	return nil
}

func writeFile(ctx context.Context, flag, name string, b []byte) error {
	f, err := record.Create(ctx, name)
	if err != nil {
		return fmt.Errorf("%s: %w", flag, err)
	}
	if _, err = f.Write(b); err != nil {
		err = fmt.Errorf("%s: %w", flag, err)
	}
	return errors.Join(err, f.Close())
}

//go:embed pytest/tcpbye_calls.py
var pytestPlugin []byte

const (
	pluginName = "tcpbye_calls"
	callsName  = "calls"
)

// isPytest says whether a command runs pytest.
func isPytest(args []string) bool {
	return slices.ContainsFunc(args, func(a string) bool {
		base := filepath.Base(a)
		return base == "pytest" || base == "pytest-3" || base == "py.test"
	})
}

// pytestEnv makes a directory with the plugin, and says how pytest finds it.
func pytestEnv(getenv func(string) string) (dir string, env []string, err error) {
	if dir, err = os.MkdirTemp("", "tcpbye-test-"); err != nil {
		return "", nil, fmt.Errorf("make a directory for what pytest notes: %w", err)
	}
	for name, b := range map[string][]byte{pluginName + ".py": pytestPlugin, callsName: nil} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			return "", nil, errors.Join(fmt.Errorf("write what pytest needs: %w", err), os.RemoveAll(dir))
		}
	}
	path := dir
	if old := getenv("PYTHONPATH"); old != "" {
		path += string(os.PathListSeparator) + old
	}
	return dir, []string{
		"PYTHONPATH=" + path, "PYTEST_ADDOPTS=" + strings.TrimSpace(getenv("PYTEST_ADDOPTS")+" -p "+pluginName),
		"TCPBYE_CALLS=" + filepath.Join(dir, callsName),
	}, nil
}

// noted is a line of what the plugin writes.
type noted struct {
	Op     string   `json:"op"`
	PID    uint32   `json:"pid"`
	Time   int64    `json:"t_ns"`
	Test   string   `json:"test"`
	Local  [2]any   `json:"local"`
	Remote [2]any   `json:"remote"`
	Frames [][3]any `json:"frames"`
}

// readCalls reads what the tests' runtime noted. What cannot be read is left out.
func readCalls(name string) (calls []fault.Call, err error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("read what pytest noted: %w", err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var n noted
		if json.Unmarshal(lines.Bytes(), &n) != nil {
			continue
		}
		c := fault.Call{Op: fault.Op(n.Op), PID: n.PID, At: time.Duration(n.Time), Test: n.Test, Local: placeIn(n.Local), Remote: placeIn(n.Remote)}
		for _, x := range n.Frames {
			file, _ := x[0].(string)
			line, _ := x[1].(float64)
			function, _ := x[2].(string)
			c.Frames = append(c.Frames, fault.Place{File: file, Line: int(line), Function: function})
		}
		calls = append(calls, c)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read what pytest noted: %w", err)
	}
	return calls, nil
}

// placeIn is an address and port as Python has them; invalid: there is none.
func placeIn(x [2]any) netip.AddrPort {
	host, _ := x[0].(string)
	port, _ := x[1].(float64)
	a, err := netip.ParseAddr(host)
	if err != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(a.Unmap(), uint16(port))
}
