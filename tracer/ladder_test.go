package tracer

import (
	"slices"
	"testing"

	"github.com/tcpbye/tcpbye/bpf"
	"github.com/tcpbye/tcpbye/tracer/event"
)

// kernels are the shapes of kernels that change the ladder.
var kernels = map[string]*kernel{
	"old":    {probeRead: true},
	"new":    {taskBTF: true, taskRegs: true, sockFromFile: true, resetHasSegment: true, sendResetRecord: true, retransmitArgs: 3, fentryFirst: true, probeRead: true},
	"kprobe": {taskBTF: true, taskRegs: true, sockFromFile: true, resetHasSegment: true, probeRead: true},
}

func TestEveryHookIsOnTheLadder(t *testing.T) {
	for name, k := range kernels {
		var got []event.Hook
		for _, h := range hooks(k) {
			got = append(got, h.hook)
			if h.lost == "" {
				t.Errorf("%s: %v does not say what is lost without it", name, h.hook)
			}
			if len(h.ways) == 0 {
				t.Errorf("%s: %v has no way", name, h.hook)
			}
			for _, w := range h.ways {
				if w[0].aside {
					t.Errorf("%s: %v: a way's first point is needed", name, h.hook)
				}
				for _, p := range w {
					if p.rung != w[0].rung {
						t.Errorf("%s: %v: a way over %s and %s", name, h.hook, w[0].rung, p.rung)
					}
				}
			}
		}
		slices.Sort(got)
		if !slices.Equal(got, event.Hooks()) {
			t.Errorf("%s: the ladder has %v", name, got)
		}
	}
}

// TestSpineIsOnEveryRung: or a forced rung could not trace at all.
func TestSpineIsOnEveryRung(t *testing.T) {
	for name, k := range kernels {
		for _, h := range hooks(k) {
			if h.hook != event.HookSetState {
				continue
			}
			for _, r := range Rungs() {
				if len(h.only(r).ways) == 0 {
					t.Errorf("%s: no way by %s", name, r)
				}
			}
		}
	}
}

func TestFentryComesFirstOnlyWhereItIsSafe(t *testing.T) {
	for name, k := range kernels {
		for _, h := range hooks(k) {
			of := func(r Rung) int { return slices.IndexFunc(h.ways, func(w way) bool { return w[0].rung == r }) }
			f, p := of(RungFentry), of(RungKprobe)
			if f < 0 || p < 0 {
				continue
			}
			if (f < p) != k.fentryFirst {
				t.Errorf("%s: %v: fentry is way %d, kprobe way %d", name, h.hook, f, p)
			}
			if c := of(RungClassic); c >= 0 && c != len(h.ways)-1 {
				t.Errorf("%s: %v: a classic tracepoint is not the last way", name, h.hook)
			}
		}
	}
}

// TestLadderNamesPrograms: every program that the ladder names is in the object
// of its rung, and every program of an object is on the ladder of some kernel.
func TestLadderNamesPrograms(t *testing.T) {
	objects := map[object]map[string]bool{}
	for o, load := range loaders {
		spec, err := load()
		if err != nil {
			t.Fatal(err)
		}
		objects[o] = map[string]bool{}
		for name := range spec.Programs {
			objects[o][name] = false
		}
	}
	for name, k := range kernels {
		for _, h := range hooks(k) {
			for _, w := range h.ways {
				for _, p := range w {
					o := p.rung.object()
					if _, ok := objects[o][p.program]; !ok {
						t.Errorf("%s: %v: the %s object has no program %s", name, h.hook, o, p.program)
					}
					objects[o][p.program] = true
				}
			}
		}
	}
	objects[RungTyped.object()][asker] = true // which no hook runs
	for o, programs := range objects {
		for name, used := range programs {
			if !used {
				t.Errorf("no kernel uses the program %s of the %s object", name, o)
			}
		}
	}
}

// TestConstants: every object has every constant that is set.
func TestConstants(t *testing.T) {
	for o, load := range loaders {
		spec, err := load()
		if err != nil {
			t.Fatal(err)
		}
		if err := (&kernel{}).configure(o, spec); err != nil {
			t.Errorf("%s: %v", o, err)
		}
		for name, v := range spec.Variables {
			if len(name) > 4 && name[:4] == "cfg_" && v.Size() == 0 {
				t.Errorf("%s: %s has no size", o, name)
			}
		}
		if spec.Maps[bpf.TypedMapEvents] == nil {
			t.Errorf("%s has no ring buffer", o)
		}
	}
}

func TestParseRung(t *testing.T) {
	for text, want := range map[string]Rung{"": "", "auto": "", "fentry": RungFentry, "kprobe": RungKprobe, "tp_btf": RungTyped, "tracepoint": RungClassic} {
		if got, err := ParseRung(text); err != nil || got != want {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
	if _, err := ParseRung("uprobe"); err == nil {
		t.Error("uprobe is a rung")
	}
}

// TestTellsAll: which hooks are silent about some events, by what the kernel is and not
// by its version.
func TestTellsAll(t *testing.T) {
	before, from, locked := &kernel{probeRead: true}, &kernel{probeRead: true, sendResetRecord: true}, &kernel{sendResetRecord: true}
	for _, c := range []struct {
		k    *kernel
		hook event.Hook
		rung Rung
		all  bool
	}{
		{before, event.HookSendReset, RungTyped, false}, {before, event.HookSendReset, RungClassic, false},
		{before, event.HookSendReset, RungKprobe, true}, {before, event.HookSendReset, RungFentry, true},
		{from, event.HookSendReset, RungTyped, true}, {from, event.HookSendReset, RungClassic, true},
		{locked, event.HookSendReset, RungTyped, false}, {locked, event.HookSendReset, RungClassic, true}, {locked, event.HookReset, RungTyped, false},
		{before, event.HookClose, RungTyped, true}, {locked, event.HookClose, RungFentry, true},
	} {
		if got := c.k.tellsAll(c.hook, c.rung); got != c.all {
			t.Errorf("%+v: %t", c, got)
		}
	}
}
