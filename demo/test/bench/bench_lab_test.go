//go:build lab

package bench

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tcpbye/tcpbye/demo/test/lab"
	"github.com/tcpbye/tcpbye/demo/test/lab/labtest"
)

var (
	kernels = flag.String("bench.kernel", "6.1,7", "the kernels that TestBench boots, by commas, or all")
	only    = flag.String("bench.mode", "", "only these modes, by semicolons")
	count   = flag.Int("bench.n", 400, "connections for each figure")
	boots   = flag.Int("bench.boots", 1, "boots; the median of their figures is told")
	serve   = flag.Int("bench.serve", 0, "internal: serve so many connections on descriptor 3")
	how     = flag.String("bench.how", string(Plain), "internal: and end them so")
)

// A mode is a tracer at work.
type mode struct {
	name    string
	how     Ending   // "": Plain
	command []string // nil: none
	ready   bool     // it says itself when it is ready
	must    string   // what the project promises of it; "" nothing
}

func tcpbye(name, must string, how Ending, args ...string) mode {
	return mode{name: name, how: how, command: append([]string{"tcpbye"}, args...), ready: true, must: must}
}

// Of the rivals tcpdump keeps the segments that open and end a connection.
var modes = []mode{
	{name: "untraced"},
	{name: "tcpdump -w, SYN, FIN and RST", command: []string{"tcpdump", "-i", "lo", "-w", "/dev/null", "tcp[tcpflags] & (tcp-rst|tcp-fin|tcp-syn) != 0"}},
	{name: "tcplife", command: []string{"/usr/sbin/tcplife"}},
	{name: "tcpstates", command: []string{"/usr/sbin/tcpstates"}},
	tcpbye("trace", "≤ 20k, BPF ≤ 10k (7: 8k)", Plain, "trace"),
	tcpbye("trace -o json", "≤ 80k", Plain, "trace", "-o", "json"),
	tcpbye("trace -o json --no-events", "≤ 30k", Plain, "trace", "-o", "json", "--no-events"),
	tcpbye("trace --every-step", "", Plain, "trace", "--every-step"),
	tcpbye("trace -w FILE, no row", "≤ 25k", Plain, "trace", "-w", "/tmp/bench.tcpbye", "-o", "json", "--class", "timed-out"),
	tcpbye("rst", "≤ 15k", Plain, "rst"),
	tcpbye("trace --port 1", "≤ 4k", Plain, "trace", "--port", "1"),
	tcpbye("trace -p 1", "≤ 4k", Plain, "trace", "-p", "1"),
	tcpbye("trace --netns 1", "≤ 4k", Plain, "trace", "--netns", "1"),
	tcpbye("trace --stack", "≤ 60k", Plain, "trace", "--stack"),
	{name: "untraced, reset", how: Reset},
	tcpbye("trace, reset", "≤ 60k", Reset, "trace"),
}

// A figure is what was measured of a mode, for one connection.
type figure struct {
	Mode     string
	Wall     float64 // ns
	After    float64 // of the tracer's threads, when the connections are over
	BPF      float64 // in BPF programs
	Runs     float64 // of BPF programs
	Idle     float64 // ns/s
	Switches float64 // /s when idle
	RSS      uint64  // bytes
	Ready    time.Duration
}

// TestBench boots guests whose clock counts instructions, measures each mode and
// prints the table. Figures beyond a promise are marked; they fail nothing, since
// a benchmark is no test.
func TestBench(t *testing.T) {
	programs := labtest.Build(t, "./demo/test/bench")
	list := strings.Split(*kernels, ",")
	if *kernels == "all" {
		list = lab.Kernels()
	}
	for _, k := range list {
		var all [][]figure
		for range *boots {
			out := t.TempDir()
			cfg := lab.Config{Kernel: k, ICount: true, MemoryMiB: 2048, Timeout: time.Hour, Out: out}
			programs.Run(t, "./demo/test/bench", cfg, "-test.v", "-test.timeout=58m", "-test.run=^TestMeter$",
				"-bench.n="+strconv.Itoa(*count), "-bench.mode="+*only)
			text, err := os.ReadFile(filepath.Join(out, "figures.json"))
			if err != nil {
				t.Fatal(err)
			}
			var f []figure
			if err := json.Unmarshal(text, &f); err != nil {
				t.Fatal(err)
			}
			all = append(all, f)
		}
		fmt.Printf("\nLinux %s, instructions for one connection, both ends (median of %d boots)\n%s\n", k, len(all), table(all))
	}
}

// table prints the medians of several boots.
func table(all [][]figure) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-30s %10s %10s %8s %6s %10s %8s %7s %7s  %s\n", "MODE", "ADDED", "AFTERWARDS", "BPF", "RUNS", "IDLE/S", "SWITCH/S", "RSS MB", "READY", "PROMISED")
	untraced := map[Ending]float64{}
	for i, f := range all[0] {
		median := func(of func(figure) float64) float64 {
			var v []float64
			for _, boot := range all {
				v = append(v, of(boot[i]))
			}
			slices.Sort(v)
			return v[len(v)/2]
		}
		m := modes[slices.IndexFunc(modes, func(m mode) bool { return m.name == f.Mode })]
		wall := median(func(f figure) float64 { return f.Wall })
		if m.command == nil {
			untraced[m.how] = wall
			fmt.Fprintf(&b, "%-30s %10.1fk\n", f.Mode, wall/1000)
			continue
		}
		after := median(func(f figure) float64 { return f.After })
		base, known := untraced[m.how]
		if m.how == Plain {
			base, known = untraced[""]
		}
		added := "-"
		if known {
			added = fmt.Sprintf("%.1fk", (wall-base+after)/1000)
		}
		fmt.Fprintf(&b, "%-30s %10s %9.1fk %7.1fk %6.1f %9.0fk %8.0f %7.0f %6.2fs  %s\n", f.Mode, added, after/1000,
			median(func(f figure) float64 { return f.BPF })/1000, median(func(f figure) float64 { return f.Runs }),
			median(func(f figure) float64 { return f.Idle })/1000, median(func(f figure) float64 { return f.Switches }),
			median(func(f figure) float64 { return float64(f.RSS) })/1e6, median(func(f figure) float64 { return f.Ready.Seconds() }), m.must)
	}
	return b.String()
}

// TestMeter measures, inside a guest.
func TestMeter(t *testing.T) {
	if *serve > 0 {
		if err := Serve(3, *serve, Ending(*how)); err != nil {
			t.Fatal(err)
		}
		return
	}
	out := os.Getenv("LAB_OUT")
	if out == "" {
		t.Skip("only in a guest: its clock counts instructions")
	}
	for name, value := range map[string]string{
		"net/ipv4/tcp_max_tw_buckets": "100000", "net/ipv4/ip_local_port_range": "1024 65000", statistics: "0",
	} {
		if err := sysctl(name, value); err != nil {
			t.Fatal(err)
		}
	}
	var figures []figure
	for _, m := range modes {
		if *only != "" && m.command != nil && !slices.Contains(strings.Split(*only, ";"), m.name) {
			continue
		}
		f, err := measure(t.Context(), m)
		if err != nil {
			t.Errorf("%s: %v", m.name, err)
			continue
		}
		t.Logf("%+v", f)
		figures = append(figures, f)
	}
	text, err := json.Marshal(figures)
	if err == nil {
		err = os.WriteFile(filepath.Join(out, "figures.json"), text, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// The guest's clock jumps over time in which nothing is to be done, so waiting
// costs next to nothing.
const (
	settle = 3 * time.Second  // until a tracer without a word of its own is ready, and until work that was put off is done
	idle   = 10 * time.Second // for what a tracer uses when nothing happens

	statistics = "kernel/bpf_stats_enabled"
)

func sysctl(name, value string) error {
	return os.WriteFile(filepath.Join("/proc/sys", name), []byte(value), 0)
}

// family is a process and its children.
func family(pid int) []int {
	all := []int{pid}
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, name := range lists {
		text, _ := os.ReadFile(name)
		for _, child := range strings.Fields(string(text)) {
			if n, err := strconv.Atoi(child); err == nil {
				all = append(all, n)
			}
		}
	}
	return all
}

func measure(ctx context.Context, m mode) (f figure, err error) {
	f.Mode = m.name
	var pids []int
	if m.command != nil {
		ready := filepath.Join(os.TempDir(), "bench.ready")
		if err := os.Remove(ready); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return f, err
		}
		args := m.command[1:]
		if m.ready {
			args = append(slices.Clone(args), "--ready-file", ready)
		}
		start := time.Now()
		cmd := exec.CommandContext(ctx, m.command[0], args...)
		cmd.Stderr = os.Stderr
		if cmd.Stdout, err = os.Create(filepath.Join(os.TempDir(), "bench.out")); err != nil {
			return f, err
		}
		if err := cmd.Start(); err != nil {
			return f, err
		}
		defer func() {
			cmd.Process.Signal(syscall.SIGINT)
			if end := cmd.Wait(); err == nil && m.ready {
				err = end
			}
		}()
		for m.ready {
			if _, err := os.Stat(ready); err == nil {
				break
			}
			if err := syscall.Kill(cmd.Process.Pid, 0); err != nil {
				return f, err
			}
			time.Sleep(time.Millisecond)
		}
		f.Ready = time.Since(start)
		if !m.ready {
			time.Sleep(4 * settle)
		}
		time.Sleep(settle)
		pids = family(cmd.Process.Pid)
	}
	how := m.how
	if how == "" {
		how = Plain
	}
	talk := func(n int) (time.Duration, error) {
		server := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestMeter$", "-bench.serve="+strconv.Itoa(n), "-bench.how="+string(how))
		server.Stderr = os.Stderr
		return Talk(n, how, server)
	}
	// What a tracer keeps grows with what comes at once: the first time is not counted.
	if _, err := talk(*count); err != nil {
		return f, err
	}
	time.Sleep(settle)
	wall, err := talk(*count)
	if err != nil {
		return f, err
	}
	over, start := time.Now(), time.Time{}
	during, err := Used(pids...)
	if err != nil {
		return f, err
	}
	time.Sleep(settle)
	after, err := Used(pids...)
	if err != nil {
		return f, err
	}
	quiet := time.Since(over)
	time.Sleep(62 * time.Second) // until no TIME_WAIT is left
	start = time.Now()
	calm, err := Used(pids...)
	if err != nil {
		return f, err
	}
	time.Sleep(idle)
	end, err := Used(pids...)
	if err != nil {
		return f, err
	}
	n, lasted := float64(*count), time.Since(start).Seconds()
	f.Wall = float64(wall)
	f.Idle = float64(end.CPU-calm.CPU) / lasted
	f.Switches = float64(end.Switches-calm.Switches) / lasted
	f.After = max(0, float64(after.CPU-during.CPU)-f.Idle*quiet.Seconds()) / n
	f.After += max(0, float64(calm.CPU-after.CPU)-f.Idle*start.Sub(over.Add(quiet)).Seconds()) / n
	f.RSS = end.RSS
	if m.command == nil {
		return f, nil
	}
	// Once more, for the share of BPF programs: to count it costs as much as a fifth of it.
	if err := sysctl(statistics, "1"); err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, sysctl(statistics, "0")) }()
	before, err := Used(pids...)
	if err != nil {
		return f, err
	}
	if _, err := talk(*count); err != nil {
		return f, err
	}
	time.Sleep(settle)
	counted, err := Used(pids...)
	f.BPF, f.Runs = float64(counted.BPF-before.BPF)/n, float64(counted.Runs-before.Runs)/n
	return f, err
}
