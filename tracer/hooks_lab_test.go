//go:build lab

package tracer

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/tracer/event"
)

// childName is the argument that makes this program the self-test's child.
const childName = "self-test-child"

func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == childName {
		if err := Child(os.Args[2], []string{os.Args[0], childName}, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if len(os.Args) == 3 && os.Args[1] == dropName {
		if err := traceAfterDropping(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// Hooks by what they sit on; a hook on a function has no way on the rungs of
// tracepoints.
var (
	onTracepoints = []event.Hook{event.HookSetState, event.HookDestroy, event.HookSendActiveReset, event.HookSendReset,
		event.HookReset, event.HookErrorReport, event.HookSignal, event.HookExec, event.HookExit, event.HookStack}
	onFunctions = []event.Hook{event.HookConnect, event.HookAccept, event.HookCloseEntry, event.HookClose, event.HookShutdown,
		event.HookSendFin, event.HookDisconnect, event.HookAbort, event.HookChildForget, event.HookTimeWait, event.HookTwskKill,
		event.HookTwskSchedule, event.HookStreamError, event.HookFileClose, event.HookSynDrop, event.HookReceive, event.HookHandshake,
		event.HookRetransmit, event.HookProbe, event.HookICMP, event.HookNeighbor, event.HookAddress}
)

// holes lists the hooks that a rung does not have on this kernel, each with the
// reason, from what the kernel says that it has; every other one must be
// attached.
func holes(t *testing.T, spec *btf.Spec, r Rung) map[event.Hook]string {
	t.Helper()
	if n := len(onTracepoints) + len(onFunctions); n != len(event.Hooks()) {
		t.Fatalf("this test knows %d hooks of %d", n, len(event.Hooks()))
	}
	has := func(name string) bool { _, err := spec.AnyTypeByName(name); return err == nil }
	hole := map[event.Hook]string{}
	switch {
	case r == RungTyped || r == RungClassic:
		for _, h := range onFunctions {
			hole[h] = "a function: no kernel has a tracepoint for it"
		}
	case r == "" && !probed():
		for _, h := range onFunctions {
			hole[h] = "a function, and this kernel was built without function tracing and kprobes"
		}
	}
	if k := (&kernel{btf: spec}); len(k.tracepoint("tcp_retransmit_skb")) == 3 && r != RungClassic {
		delete(hole, event.HookRetransmit) // the tracepoint tells of failures
	}
	if !has("btf_trace_inet_sk_error_report") {
		hole[event.HookErrorReport] = "came with 5.15, as a function and as a tracepoint; no verdict rests on it"
	}
	if mode, _ := lockdown(); mode == "confidentiality" {
		hole[event.HookICMP] = "tells of a message, and lockdown=confidentiality lets no program read one"
		hole[event.HookHandshake] = "tells of a segment, and lockdown=confidentiality lets no program read one"
		hole[event.HookStack] = "lockdown=confidentiality refuses what reads a stack"
	}
	var helpers *btf.Enum
	if err := spec.TypeByName("bpf_func_id", &helpers); err != nil {
		t.Fatal(err)
	}
	if r == RungFentry && !slices.ContainsFunc(helpers.Values, func(v btf.EnumValue) bool { return v.Name == "BPF_FUNC_sock_from_file" }) {
		hole[event.HookFileClose] = "bpf_sock_from_file came with 5.11, and nothing else types a file's socket"
	}
	return hole
}

// unavailable says why a rung cannot be had on this kernel at all; "" it can.
func unavailable(r Rung) string {
	mode, _ := lockdown()
	switch {
	case (r == RungKprobe || r == RungFentry) && !probed():
		return "this kernel was built without function tracing and kprobes"
	case r == RungFentry && runtime.GOARCH == "arm64" && before(6, 4):
		return "before 6.4 ftrace on arm64 has no direct calls, which fentry needs"
	case mode == "confidentiality" && r == RungKprobe:
		return "lockdown=confidentiality refuses kprobes"
	case mode == "confidentiality" && r == RungClassic:
		return "lockdown=confidentiality refuses to open tracefs"
	}
	return ""
}

// probed says whether the kernel's functions can be traced at all: the lab's
// kernels can, one without kprobes need not.
func probed() bool {
	_, err := os.Stat(kprobeSource)
	return err == nil
}

// before says whether this kernel is older than a version.
func before(major, minor int) bool {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return false
	}
	var a, b int
	fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &a, &b)
	return a < major || a == major && b < minor
}

// TestHooks forces each rung, and holds what attaches and what fires against
// what the kernel has.
func TestHooks(t *testing.T) {
	spec, err := btf.LoadKernelSpec()
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	rungs := append([]Rung{""}, Rungs()...)
	table := map[event.Hook]map[Rung]string{}
	for _, h := range event.Hooks() {
		table[h] = map[Rung]string{}
	}
	for _, r := range rungs {
		name := string(r)
		if r == "" {
			name = "auto"
		}
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			tr, err := Open(Options{Attach: r, Receive: true, Stack: true})
			if reason := unavailable(r); reason != "" {
				if err == nil {
					tr.Close()
					t.Fatalf("%s attached, although %s", r, reason)
				}
				t.Logf("as is due: %v", err)
				for _, h := range event.Hooks() {
					t.Attr(h.String(), "- "+reason)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := tr.Close(); err != nil {
					t.Error(err)
				}
			}()
			opened := time.Since(start)
			hole := holes(t, spec, r)
			x, err := tr.exercise(t.Context(), []string{self, childName})
			if err != nil {
				t.Fatal(err)
			}
			for _, a := range tr.Attachments() {
				reason, gap := hole[a.Hook]
				said := fmt.Sprint(x.fired[a.Hook])
				switch {
				case a.Rung == "":
					said = "- " + reason
					if !gap {
						said = fmt.Sprintf("MISSING %v", a.Err)
						t.Errorf("%v is not attached: %v", a.Hook, a.Err)
						var v *ebpf.VerifierError
						if errors.As(a.Err, &v) {
							t.Logf("%+v", v)
						}
					}
				case gap:
					t.Errorf("%v is attached to %v by %s, which this test does not expect", a.Hook, a.Symbols, a.Rung)
				case r != "" && a.Rung != r:
					t.Errorf("%v is attached by %s although %s was forced", a.Hook, a.Rung, r)
				case errors.Is(x.failed[a.Hook], errNoStory):
					said = "- no story; the catalogue has it" // unreachable, unsent-*, neighbor-*
				case x.failed[a.Hook] != nil:
					t.Errorf("%v: no story ran through it: %v", a.Hook, x.failed[a.Hook])
				case x.fired[a.Hook] == 0:
					t.Errorf("%v is attached to %v by %s, and never fired", a.Hook, a.Symbols, a.Rung)
				}
				if a.Partly != nil {
					t.Errorf("%v: %v", a.Hook, a.Partly)
				}
				if r == "" && a.Rung != "" {
					said = string(a.Rung)
				}
				t.Attr(a.Hook.String(), strings.ReplaceAll(said, "\n", "; "))
				said, _, _ = strings.Cut(said, " ")
				table[a.Hook][r] = said
			}
			if !x.calls {
				t.Error("no close told its system call")
			}
			st, err := tr.Stats()
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("attached in %v; %+v", opened, st)
		})
	}
	var b strings.Builder
	fmt.Fprintf(&b, "events of the self-test, by hook and rung\n%-22s", "")
	for _, r := range rungs {
		fmt.Fprintf(&b, " %-14s", r)
	}
	for _, h := range event.Hooks() {
		fmt.Fprintf(&b, "\n%-22v", h)
		for _, r := range rungs {
			fmt.Fprintf(&b, " %-14s", table[h][r])
		}
	}
	t.Log(b.String())
}

// TestWithoutProbeReads loads what is attached by BTF types as on a kernel that
// lets no program read memory by address (lockdown=confidentiality): no such read
// may be left in a program. What reads a stack cannot do without.
func TestWithoutProbeReads(t *testing.T) {
	p, err := newPrograms(Options{}, false)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := p.close(); err != nil {
			t.Error(err)
		}
	}()
	p.kernel.probeRead = false
	spec, err := loaders[objectTyped]()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.kernel.configure(objectTyped, spec); err != nil {
		t.Fatal(err)
	}
	const nobodys = 1 << 20 // no kernel has so many helpers
	for _, prog := range spec.Programs {
		p.kernel.patch(prog.Instructions)
		for i := range prog.Instructions {
			ins := &prog.Instructions[i]
			if ins.IsBuiltinCall() && (ins.Constant == int64(asm.FnProbeReadKernel) || ins.Constant == int64(asm.FnProbeReadKernelStr)) {
				ins.Constant = nobodys
			}
		}
	}
	p.specs[objectTyped] = spec
	loaded := 0
	for _, h := range hooks(p.kernel) {
		if h.hook == event.HookStack {
			continue
		}
		for _, w := range h.ways {
			if w[0].rung.object() != objectTyped || p.possible(w) != nil {
				continue
			}
			for _, pt := range w {
				loaded++
				if _, err := p.loadSet(objectTyped, []string{pt.program}); err != nil {
					t.Errorf("%v: %s: %v", h.hook, pt.program, err)
				}
			}
		}
	}
	if loaded == 0 {
		t.Error("no program can be attached by types")
	}
	t.Logf("%d programs", loaded)
}
