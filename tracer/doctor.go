package tracer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/bpf"
	"github.com/tcpbye/tcpbye/tracer/enrich"
	"github.com/tcpbye/tcpbye/tracer/event"
)

// Health is how much can be told here.
type Health string

const (
	Full     Health = "full"
	Degraded Health = "degraded" // some hooks are missing, or did not fire
	Cannot   Health = "cannot"   // nothing can be traced
)

// Examination is what this kernel and this user allow, proven by attaching and
// by loopback connections.
type Examination struct {
	Schema  string      `json:"schema"`
	Health  Health      `json:"health"`
	Kernel  string      `json:"kernel"`
	Arch    string      `json:"arch"`
	Attach  Rung        `json:"attach"`           // the rung that was forced, or ""
	Reason  string      `json:"reason,omitempty"` // why nothing can be traced
	Facts   []Fact      `json:"facts"`
	Hooks   []HookState `json:"hooks"`
	Missing []string    `json:"missing"` // why hooks are missing, each reason once
	Ring    uint32      `json:"ring_bytes"`
	Events  uint64      `json:"events"`
	Lost    Losses      `json:"lost"`
	Next    []string    `json:"next"` // what to do, most useful first
}

// Losses are counts of Stats.
type Losses struct {
	Ring    uint64 `json:"ring"`
	Map     uint64 `json:"map"`
	Read    uint64 `json:"read"`
	Decode  uint64 `json:"decode"`
	Skipped uint64 `json:"skipped"`
}

// Fact is something of this kernel or this user that matters here.
type Fact struct {
	Group string `json:"group"` // "kernel" or "user"
	Name  string `json:"name"`
	Value string `json:"value"`
	OK    bool   `json:"ok"` // it takes nothing away
}

// HookHealth is how a hook fares.
type HookHealth string

const (
	Fires     HookHealth = "fires"
	Unproven  HookHealth = "not exercised" // attached, but no story ran through it
	Silent    HookHealth = "silent"        // attached, and did not fire when it had to
	NotInTree HookHealth = "absent"        // this kernel has none, and no verdict rests on it
	NoHook    HookHealth = "missing"
)

// HookState is one hook's line.
type HookState struct {
	Hook    event.Hook `json:"-"`
	Name    string     `json:"hook"`
	Rung    Rung       `json:"rung"`
	Symbols []string   `json:"symbols"`
	State   HookHealth `json:"state"`
	Fired   int        `json:"fired"`            // events of the self-test
	Lost    string     `json:"lost"`             // what cannot be told without it
	Reason  string     `json:"reason,omitempty"` // why it is missing or unproven
}

// ExaminationSchema is the JSON form's name.
const ExaminationSchema = "tcpbye.doctor/1"

// Examine attaches everything, tells its stories on loopback and reports. child
// is a command that calls Child with its last argument, or nil. It fails only
// when the context ends.
func Examine(ctx context.Context, opts Options, child []string) (*Examination, error) {
	opts.Receive, opts.Stack = true, true
	x := &Examination{
		Schema: ExaminationSchema, Health: Full, Arch: runtime.GOARCH, Attach: opts.Attach,
		Facts: []Fact{}, Hooks: []HookState{}, Missing: []string{}, Next: []string{},
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return nil, fmt.Errorf("read the kernel's release: %w", err)
	}
	x.Kernel = unix.ByteSliceToString(u.Release[:])
	t, err := Open(opts)
	if err != nil {
		x.Health, x.Reason = Cannot, err.Error()
		x.environment(nil)
		x.advise(err)
		return x, ctx.Err()
	}
	// Everything is told before the tracer is closed, so its errors only add.
	defer func() {
		if err := t.Close(); err != nil && x.Reason == "" {
			x.Reason = fmt.Sprintf("detach: %v", err)
		}
	}()
	x.environment(t.programs)
	x.Ring = t.programs.maps[bpf.TypedMapEvents].MaxEntries()
	did, err := t.exercise(ctx, child)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		x.Health, x.Reason = Degraded, fmt.Sprintf("the self-test failed: %v", err)
	}
	x.hooks(t.Attachments(), did)
	stats, err := t.Stats()
	if err != nil {
		x.Health, x.Reason = Degraded, err.Error()
	}
	x.Events = stats.Events
	x.Lost = Losses{stats.Ring, stats.Map, stats.Read, stats.Decode, stats.Skipped}
	x.advise(nil)
	return x, nil
}

// hooks tells of each hook.
func (x *Examination) hooks(attached []Attachment, did exercised) {
	seen := map[string]bool{}
	for _, a := range attached {
		h := HookState{Hook: a.Hook, Name: a.Hook.String(), Rung: a.Rung, Symbols: a.Symbols, Fired: did.fired[a.Hook], Lost: a.Lost}
		if h.Symbols == nil {
			h.Symbols = []string{}
		}
		switch {
		case a.Rung == "" && a.Minor && onlyAbsent(a.Err):
			h.State, h.Reason = NotInTree, a.Err.Error()
		case a.Rung == "":
			h.State, h.Reason = NoHook, a.Err.Error()
			x.Health = Degraded
			for _, line := range strings.Split(h.Reason, "\n") {
				if !seen[line] {
					seen[line] = true
					x.Missing = append(x.Missing, line)
				}
			}
		case h.Fired > 0:
			h.State = Fires
		case did.failed[a.Hook] != nil:
			h.State, h.Reason = Unproven, did.failed[a.Hook].Error()
		default:
			h.State, h.Reason = Silent, "a loopback connection ran through it, and no event came"
			x.Health = Degraded
		}
		if a.Partly != nil {
			h.Reason = strings.TrimPrefix(h.Reason+"; "+a.Partly.Error(), "; ")
			x.Health = Degraded
		}
		x.Hooks = append(x.Hooks, h)
	}
}

// onlyAbsent says whether an error is nothing but what other kernels have.
func onlyAbsent(err error) bool {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			if !onlyAbsent(e) {
				return false
			}
		}
		return true
	}
	return errors.Is(err, errAbsent)
}

func (x *Examination) fact(group, name, value string, ok bool) {
	x.Facts = append(x.Facts, Fact{group, name, value, ok})
}

// environment looks at what decides. p is nil when nothing could be loaded.
func (x *Examination) environment(p *programs) {
	const kernel, user = "kernel", "user"
	if _, err := os.Stat("/sys/kernel/btf/vmlinux"); err == nil {
		x.fact(kernel, "BTF", "yes", true)
	} else {
		x.fact(kernel, "BTF", "no /sys/kernel/btf/vmlinux (CONFIG_DEBUG_INFO_BTF)", false)
	}
	mode, err := lockdown()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		x.fact(kernel, "lockdown", "not known: no /sys/kernel/security/lockdown", true)
	case err != nil:
		x.fact(kernel, "lockdown", "not known: "+err.Error(), true)
	default:
		x.fact(kernel, "lockdown", mode, mode != "confidentiality")
	}
	if p != nil {
		for _, r := range []struct {
			rung Rung
			yes  string
		}{
			{RungFentry, "works" + map[bool]string{true: ", preferred", false: "; kprobes come first: it can hang here (Tasks RCU)"}[p.kernel.fentryFirst]},
			{RungKprobe, "work"},
		} {
			name := map[Rung]string{RungFentry: "fentry", RungKprobe: "kprobes"}[r.rung]
			if err := p.try(r.rung); err != nil {
				x.fact(kernel, name, strings.TrimPrefix(err.Error(), string(r.rung)+": "), false)
			} else {
				x.fact(kernel, name, r.yes, true)
			}
		}
		if err := p.try(RungClassic); err != nil {
			x.fact(kernel, "tracefs", strings.TrimPrefix(err.Error(), string(RungClassic)+": "), false)
		} else {
			x.fact(kernel, "tracefs", p.tracefs.where, true)
		}
		x.fact(kernel, "probe reads", map[bool]string{true: "allowed", false: "refused: no bpf_probe_read_kernel, so resets come without their segment"}[p.kernel.probeRead], p.kernel.probeRead)
		context := p.kernel.preemptSource != bpf.ProbePreemptSourcePREEMPT_UNKNOWN
		x.fact(kernel, "CPU context", map[bool]string{true: "measured", false: "not measurable here; it follows from the hook"}[context], context)
	}
	x.sysctl(kernel, "net/core/bpf_jit_enable", map[string]string{"0": "0: the JIT is off, so there is no fentry", "1": "1: the JIT is on", "2": "2: the JIT is on, and prints"}, "0")
	x.sysctl(kernel, "kernel/kptr_restrict", map[string]string{"2": "2: kernel addresses are hidden from all"}, "")
	x.sysctl(kernel, "kernel/unprivileged_bpf_disabled", map[string]string{"0": "0: not disabled; tracing needs capabilities all the same", "1": "1: only with CAP_BPF", "2": "2: only with CAP_BPF"}, "")
	x.sysctl(kernel, "kernel/perf_event_paranoid", nil, "")

	x.fact(user, "user id", strconv.Itoa(os.Geteuid()), true)
	switch here, err := enrich.PIDNamespaceOf("/proc"); {
	case err != nil:
		x.fact(user, "PID namespace", "not known: "+err.Error(), false)
	case here.Initial:
		x.fact(user, "PID namespace", "the initial one: PIDs are as everywhere on this machine", true)
	default:
		x.fact(user, "PID namespace", "not the initial one: PIDs are as it has them; a process outside it has none, and only its name is known", false)
	}
	if inUserNamespace() {
		x.fact(user, "user namespace", "not the initial one: its capabilities do not count for BPF", false)
	}
	sets, err := readCapabilities()
	if err != nil {
		x.fact(user, "capabilities", err.Error(), false)
		return
	}
	for _, c := range capabilityNames {
		has := sets.effective(c.c)
		value := map[bool]string{true: "yes", false: "no"}[has] + " (" + c.what + ")"
		needed := c.c == unix.CAP_BPF || c.c == unix.CAP_PERFMON
		x.fact(user, c.name, value, has || !needed || sets.effective(unix.CAP_SYS_ADMIN))
	}
}

// sysctl tells a setting's value, and what it means; bad is a value that takes
// something away.
func (x *Examination) sysctl(group, path string, meaning map[string]string, bad string) {
	name := strings.ReplaceAll(path, "/", ".")
	text, err := os.ReadFile("/proc/sys/" + path)
	if err != nil {
		x.fact(group, name, "not known: "+err.Error(), true)
		return
	}
	value := strings.TrimSpace(string(text))
	said, ok := meaning[value]
	if !ok {
		said = value
	}
	x.fact(group, name, said, bad == "" || value != bad)
}

// perfEventsKept says whether this user may not open perf events, and so kprobes,
// although CAP_PERFMON should do: Debian's kernels have a level of their own
// above 2, which up to 5.10 only CAP_SYS_ADMIN passes.
func perfEventsKept() bool {
	text, err := os.ReadFile("/proc/sys/kernel/perf_event_paranoid")
	if err != nil {
		return false
	}
	level, err := strconv.Atoi(strings.TrimSpace(string(text)))
	sets, capErr := readCapabilities()
	return err == nil && capErr == nil && level > 2 && !sets.effective(unix.CAP_SYS_ADMIN)
}

// lockdown reads which mode is in force: the one in brackets.
func lockdown() (string, error) {
	text, err := os.ReadFile("/sys/kernel/security/lockdown")
	if err != nil {
		return "", err
	}
	_, rest, _ := strings.Cut(string(text), "[")
	mode, _, ok := strings.Cut(rest, "]")
	if !ok {
		return "", fmt.Errorf("%q has no mode in brackets", text)
	}
	return mode, nil
}

// advise says what to do about what is missing.
func (x *Examination) advise(opened error) {
	next := func(s string) {
		x.Next = append(x.Next, s)
	}
	var privilege *PrivilegeError
	if errors.As(opened, &privilege) {
		next("run tcpbye as root, or once: " + setcapLine())
		return
	}
	missing := false
	for _, h := range x.Hooks {
		missing = missing || h.State == NoHook
	}
	if x.Attach != "" && (missing || opened != nil) {
		next(fmt.Sprintf("leave out --attach %s: other ways to attach may reach more hooks", x.Attach))
	}
	for _, f := range x.Facts {
		if f.OK {
			continue
		}
		switch f.Name {
		case "BTF":
			next("boot a kernel that was built with CONFIG_DEBUG_INFO_BTF=y")
		case "lockdown":
			if missing {
				next("boot without lockdown=confidentiality (lockdown=integrity takes nothing away)")
			}
		case "kprobes":
			switch {
			case missing && perfEventsKept():
				next("as root: sysctl -w kernel.perf_event_paranoid=2 (this kernel keeps kprobes from CAP_PERFMON otherwise), or run tcpbye as root")
			case missing:
				next("boot a kernel with CONFIG_KPROBE_EVENTS=y, or one that permits fentry programs")
			}
		case "tracefs":
			if missing && x.Attach == RungClassic || opened != nil {
				next("as root: mount -t tracefs tracefs " + tracefsDirs[0])
			}
		case "net.core.bpf_jit_enable":
			next("as root: sysctl -w net.core.bpf_jit_enable=1")
		case "PID namespace":
			next("share the host's PID namespace (docker run --pid=host), so that each process has its PID")
		case "user namespace":
			next("run tcpbye outside of the user namespace, as the host's root")
		}
	}
	if x.Lost.Ring > 0 {
		next("the ring buffer overflowed in the self-test: let the machine calm down, or make the ring larger")
	}
}
