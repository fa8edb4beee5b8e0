//go:build lab

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/tracer"
)

// examined is what doctor said, and its exit status.
type examined struct {
	tracer.Examination
	status int
	stderr string
}

func (x examined) fact(name string) string {
	for _, f := range x.Facts {
		if f.Name == name {
			return f.Value
		}
	}
	return ""
}

func (x examined) hook(name string) tracer.HookState {
	for _, h := range x.Hooks {
		if h.Name == name {
			return h
		}
	}
	return tracer.HookState{}
}

// missing lists the hooks that cannot be attached.
func (x examined) missing() (names []string) {
	for _, h := range x.Hooks {
		if h.State == tracer.NoHook {
			names = append(names, h.Name)
		}
	}
	return names
}

// built is tcpbye in a place where every user can run it: the one beside this
// test program, as in the lab, or else the tree's.
func built(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(filepath.Dir(self), "tcpbye")
	if _, err := os.Stat(path); err == nil {
		return path
	}
	dir := t.TempDir()
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	path = filepath.Join(dir, "tcpbye")
	build := exec.Command("go", "build", "-o", path, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build tcpbye: %v\n%s", err, out)
	}
	return path
}

// doctor runs tcpbye doctor and checks what holds in each case.
func doctor(t *testing.T, attr *syscall.SysProcAttr, command ...string) examined {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := exec.Command(command[0], command[1:]...)
	cmd.SysProcAttr, cmd.Stdout, cmd.Stderr = attr, &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	x := examined{status: cmd.ProcessState.ExitCode(), stderr: stderr.String()}
	if err := json.Unmarshal(stdout.Bytes(), &x.Examination); err != nil {
		t.Fatalf("%v: %v\n%s%s", command, err, &stdout, &stderr)
	}
	if want := map[tracer.Health]int{tracer.Full: 0, tracer.Degraded: exitDegraded, tracer.Cannot: exitCannot}[x.Health]; x.status != want {
		t.Errorf("%s, and exit status %d, not %d", x.Health, x.status, want)
	}
	for _, h := range x.Hooks {
		if h.State == tracer.Silent {
			t.Errorf("%s is attached by %s and did not fire", h.Name, h.Rung)
		}
		if h.State == tracer.NoHook && (h.Reason == "" || h.Lost == "") {
			t.Errorf("%s is missing, and it is not said why or what is lost", h.Name)
		}
	}
	t.Logf("%s: %s, exit status %d; missing %v; %v", x.Kernel, x.Health, x.status, x.missing(), x.Next)
	return x
}

// whole is what is due to a user who may do everything on this kernel.
func whole(t *testing.T) tracer.Health {
	_, probes := os.Stat("/sys/bus/event_source/devices/kprobe/type")
	mode, _ := os.ReadFile("/sys/kernel/security/lockdown")
	if probes != nil || strings.Contains(string(mode), "[confidentiality]") {
		return tracer.Degraded // functions cannot be traced, or segments and stacks not read
	}
	return tracer.Full
}

// beyondLoopback are hooks that only a segment that cannot leave this host, an ICMP
// error or an address that goes away runs through; the catalogue has such endings.
var beyondLoopback = []string{"tcp_retransmit_skb", "tcp_write_wakeup", "tcp_v4_err", "arp_error_report", "fib_del_ifaddr"}

func TestDoctorAsRoot(t *testing.T) {
	x := doctor(t, nil, built(t), "doctor", "-o", "json")
	if x.Health != whole(t) {
		t.Errorf("%s, not %s: %v", x.Health, whole(t), x.Missing)
	}
	for _, h := range x.Hooks {
		if h.State == tracer.Unproven && !slices.Contains(beyondLoopback, h.Name) {
			t.Errorf("%s was not exercised: %s", h.Name, h.Reason)
		}
	}
	if got := x.fact("PID namespace"); !strings.HasPrefix(got, "the initial one") {
		t.Errorf("PID namespace: %q", got)
	}
}

// TestDoctorAsAnybody: who has no privilege is told which one is missing, and
// how to have it.
func TestDoctorAsAnybody(t *testing.T) {
	path := built(t)
	nobody := &syscall.Credential{Uid: 65534, Gid: 65534}
	x := doctor(t, &syscall.SysProcAttr{Credential: nobody}, path, "doctor", "-o", "json")
	const want = "CAP_BPF and CAP_PERFMON are missing"
	if x.Health != tracer.Cannot || !strings.Contains(x.Reason, want) || !strings.Contains(x.Reason, "sudo setcap cap_bpf,cap_perfmon") || strings.Contains(x.Reason, "\n") {
		t.Errorf("%s: %q", x.Health, x.Reason)
	}
	if len(x.Next) != 1 || !strings.Contains(x.Next[0], "+ep "+path) {
		t.Errorf("what to do: %q", x.Next)
	}

	// A trace says the same, and ends with the same status.
	cmd := exec.Command(path, "trace")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: nobody}
	out, err := cmd.CombinedOutput()
	if err == nil || cmd.ProcessState.ExitCode() != exitCannot || !strings.Contains(string(out), want) || strings.Count(string(out), "\n") != 1 {
		t.Errorf("tcpbye trace: %v: %s", err, out)
	}
}

// TestDoctorWithCapabilities: two capabilities, and before 5.11 a third and a
// setting, are as good as root for all that verdicts rest on.
func TestDoctorWithCapabilities(t *testing.T) {
	path := built(t)
	root := doctor(t, nil, path, "doctor", "-o", "json")
	caps := []uintptr{unix.CAP_BPF, unix.CAP_PERFMON}
	if strings.HasPrefix(root.Kernel, "5.10.") {
		caps = append(caps, unix.CAP_SYS_RESOURCE) // BPF counts as locked memory
	}
	as := func() examined {
		return doctor(t, &syscall.SysProcAttr{
			Credential:  &syscall.Credential{Uid: 65534, Gid: 65534},
			AmbientCaps: caps,
		}, path, "doctor", "-o", "json")
	}
	if len(caps) > 2 {
		// Debian's 5.10 wants CAP_SYS_ADMIN for perf events, unless it is told not to.
		const setting, advice = "/proc/sys/kernel/perf_event_paranoid", "sysctl -w kernel.perf_event_paranoid=2"
		before, err := os.ReadFile(setting)
		if err != nil {
			t.Fatal(err)
		}
		if strings.TrimSpace(string(before)) != "3" {
			t.Fatalf("%s is %q: this kernel is not Debian's", setting, before)
		}
		if x := as(); x.Health != tracer.Degraded || !strings.Contains(strings.Join(x.Next, "\n"), advice) {
			t.Errorf("%s without %v; %q does not say %s", x.Health, x.missing(), x.Next, advice)
		}
		if err := os.WriteFile(setting, []byte("2"), 0); err != nil {
			t.Fatal(err)
		}
		defer os.WriteFile(setting, before, 0)
	}
	x := as()
	if x.Health != root.Health || !slices.Equal(x.missing(), root.missing()) {
		t.Errorf("%s without %v; root has %s without %v", x.Health, x.missing(), root.Health, root.missing())
	}
}

// TestDoctorInContainer: with PID, mount and network namespaces of its own and
// without debugfs and tracefs, tcpbye sees what it sees outside, but the PIDs are
// not those that it can look up, and it says so.
func TestDoctorInContainer(t *testing.T) {
	path := built(t)
	x := doctor(t, nil, "unshare", "--pid", "--fork", "--mount", "--net", "--mount-proc", "sh", "-c", `
		mount -t tmpfs none /sys/kernel/debug 2>/dev/null
		mount -t tmpfs none /sys/kernel/tracing 2>/dev/null
		ip link set lo up && exec "$0" doctor -o json`, path)
	if x.Health != whole(t) {
		t.Errorf("%s, not %s: %v", x.Health, whole(t), x.Missing)
	}
	if got := x.fact("PID namespace"); !strings.Contains(got, "not the initial one") {
		t.Errorf("PID namespace: %q", got)
	}
	if !strings.Contains(strings.Join(x.Next, "\n"), "--pid=host") {
		t.Errorf("what to do: %q", x.Next)
	}
}

// TestDoctorWithoutOneHook hides one tracepoint's type from tcpbye: one hook is
// attached another way, or is missing where there is none, and no other suffers.
func TestDoctorWithoutOneHook(t *testing.T) {
	path := built(t)
	const real = "/sys/kernel/btf/vmlinux"
	types, err := os.ReadFile(real)
	if err != nil {
		t.Fatal(err)
	}
	// The name alone: every number stays as it is.
	name, hidden := []byte("\x00btf_trace_signal_generate\x00"), []byte("\x00btf_trace_signal_nowhere_\x00")
	if bytes.Count(types, name) != 1 {
		t.Fatalf("%s has %d of %q", real, bytes.Count(types, name), name)
	}
	changed := filepath.Join(t.TempDir(), "vmlinux")
	if err := os.WriteFile(changed, bytes.Replace(types, name, hidden, 1), 0o644); err != nil {
		t.Fatal(err)
	}
	in := func(args ...string) examined {
		return doctor(t, nil, append([]string{"unshare", "--mount", "sh", "-c", `mount --bind "$1" ` + real + ` && exec "$0" doctor -o json $2`, path, changed}, args...)...)
	}
	const signal = "signal_generate"
	before := doctor(t, nil, path, "doctor", "-o", "json", "--attach", "tp_btf")
	forced := in("--attach=tp_btf")
	if forced.Health != tracer.Degraded || !slices.Contains(forced.missing(), signal) || len(forced.missing()) != len(before.missing())+1 {
		t.Errorf("%s, missing %v; before %v", forced.Health, forced.missing(), before.missing())
	}
	if h := forced.hook(signal); !strings.Contains(h.Reason, "not in this kernel") || h.Lost != "SIGPIPE" {
		t.Errorf("%+v", h)
	}
	if h := in("").hook(signal); h.State != tracer.Fires || h.Rung == tracer.RungTyped || h.Rung == "" {
		t.Errorf("where no rung is forced it is %s by %q: %s", h.State, h.Rung, h.Reason)
	}
}
