//go:build lab

package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// These tests boot guests. They run with the build tag lab, on the host, and
// with TCPBYE_LAB naming the kernels:
//
//	TCPBYE_LAB=6.1,7 go test -tags lab ./demo/test/lab
//
// The test binary is also the command that runs in the guest.

const helperEnv = "LAB_TEST_HELPER"

func TestMain(m *testing.M) {
	helpers := map[string]func(){"echo": helperEcho, "machine": helperMachine, "instructions": helperInstructions}
	if name := os.Getenv(helperEnv); name != "" {
		helpers[name]()
		return
	}
	os.Exit(m.Run())
}

// eachKernel runs f for every kernel that TCPBYE_LAB names.
func eachKernel(t *testing.T, f func(t *testing.T, kernel string)) {
	names := os.Getenv("TCPBYE_LAB")
	if names == "" {
		t.Skip("boots guests; say in TCPBYE_LAB which kernels: " + strings.Join(Kernels(), ",") + " or all")
	}
	list := strings.Split(names, ",")
	if names == "all" {
		list = Kernels()
	}
	for _, k := range list {
		t.Run(k, func(t *testing.T) { f(t, k) })
	}
}

// guest runs a helper or a command.
func guest(t *testing.T, ctx context.Context, cfg Config, helper string) (res Result, stdout, stderr string, err error) {
	t.Helper()
	if helper != "" {
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		cfg.Args = append([]string{self}, cfg.Args...)
		cfg.Env = append(cfg.Env, helperEnv+"="+helper)
	}
	var out, errOut bytes.Buffer
	cfg.Stdout, cfg.Stderr, cfg.Progress = &out, &errOut, logWriter{t}
	res, err = Run(ctx, cfg)
	return res, out.String(), errOut.String(), err
}

type logWriter struct{ t *testing.T }

func (l logWriter) Write(p []byte) (int, error) {
	l.t.Logf("%s", bytes.TrimSpace(p))
	return len(p), nil
}

type echoed struct {
	Args []string
	Dir  string
	X    string
}

// helperEcho tells its arguments on standard output, copies its input to
// standard error and ends with status 7.
func helperEcho() {
	wd, err := os.Getwd()
	if err != nil {
		panic(err)
	}
	var args []string
	for _, a := range os.Args[1:] {
		args = append(args, fmt.Sprintf("%x", a))
	}
	json.NewEncoder(os.Stdout).Encode(echoed{args, wd, os.Getenv("X")})
	io.Copy(os.Stderr, os.Stdin)
	os.Exit(7)
}

func TestCommand(t *testing.T) {
	eachKernel(t, func(t *testing.T, kernel string) {
		args := []string{"", "a b", `"q" 'q' \`, "two\nlines", "$HOME *", "--", "-k", "\xff\xfe\x01", "ä日本", strings.Repeat("long", 20000)}
		input := strings.Repeat("0123456789abcdef\n\x00\xff", 50000)
		dir := t.TempDir()
		res, stdout, stderr, err := guest(t, t.Context(), Config{
			Kernel: kernel, Args: args, Dir: dir, Env: []string{"X=a b"}, Stdin: strings.NewReader(input),
		}, "echo")
		if err != nil {
			t.Fatal(err)
		}
		if res.ExitCode != 7 || res.Signal != 0 {
			t.Errorf("exit status %d, signal %d; want 7 and none", res.ExitCode, res.Signal)
		}
		if !strings.HasPrefix(res.KernelRelease, kernel) || res.Boot <= 0 {
			t.Errorf("kernel %q after %v", res.KernelRelease, res.Boot)
		}
		var got echoed
		if err := json.Unmarshal([]byte(stdout), &got); err != nil {
			t.Fatalf("%v in %.200q", err, stdout)
		}
		want := echoed{Dir: dir, X: "a b"}
		for _, a := range args {
			want.Args = append(want.Args, fmt.Sprintf("%x", a))
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
		if stderr != input {
			t.Errorf("%d bytes of input came back as %d bytes of standard error, or changed", len(input), len(stderr))
		}
	})
}

// facts is what helperMachine finds in the guest.
type facts struct {
	Modules      map[string]bool
	BTF          int64 // bytes
	KprobeEvents bool
	Mounts       map[string]string // file system type by place
	CPUs         int
	Hostname     string
	CoreLimit    uint64
	Stats        string
	Addrs        []string
	HostFile     string
	ModprobeFq   string // error
	FqLoaded     bool
	Config       bool
	Capture      string // tcpdump's line for a loopback packet
	Errors       []string
}

func helperMachine() {
	var f facts
	check := func(err error) {
		if err != nil {
			f.Errors = append(f.Errors, err.Error())
		}
	}
	read := func(name string) string {
		b, err := os.ReadFile(name)
		check(err)
		return string(b)
	}
	modules := func() map[string]bool {
		loaded := map[string]bool{}
		for line := range strings.Lines(read("/proc/modules")) {
			loaded[strings.Fields(line)[0]] = true
		}
		return loaded
	}
	f.Modules = modules()
	f.BTF = int64(len(read("/sys/kernel/btf/vmlinux")))
	_, err := os.Stat("/sys/kernel/tracing/kprobe_events")
	f.KprobeEvents = err == nil
	f.Mounts = map[string]string{}
	for line := range strings.Lines(read("/proc/self/mounts")) {
		fields := strings.Fields(line)
		f.Mounts[fields[1]] = fields[2]
	}
	f.CPUs = runtime.NumCPU()
	f.Hostname, err = os.Hostname()
	check(err)
	var lim unix.Rlimit
	check(unix.Getrlimit(unix.RLIMIT_CORE, &lim))
	f.CoreLimit = lim.Cur
	f.Stats = strings.TrimSpace(read("/proc/sys/kernel/bpf_stats_enabled"))
	lo, err := net.InterfaceByName("lo")
	check(err)
	addrs, err := lo.Addrs()
	check(err)
	for _, a := range addrs {
		f.Addrs = append(f.Addrs, a.String())
	}
	f.HostFile = read(os.Args[1])
	check(os.WriteFile(os.Args[1], []byte("changed by the guest"), 0o644))
	check(os.WriteFile(filepath.Join(os.Getenv("LAB_OUT"), "result"), []byte("from the guest"), 0o644))
	if out, err := exec.Command("modprobe", "sch_fq").CombinedOutput(); err != nil {
		f.ModprobeFq = fmt.Sprintf("%v: %s", err, out)
	}
	f.FqLoaded = modules()["sch_fq"]
	var uts unix.Utsname
	check(unix.Uname(&uts))
	_, err = os.Stat("/boot/config-" + unix.ByteSliceToString(uts.Release[:]))
	f.Config = err == nil
	if _, err := exec.LookPath("tcpdump"); err == nil {
		f.Capture, err = capture()
		check(err)
	}
	if err := json.NewEncoder(os.Stdout).Encode(f); err != nil {
		panic(err)
	}
}

// capture lets tcpdump see one datagram on lo.
func capture() (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "tcpdump", "-n", "-i", "lo", "-c", "1", "-l", "udp port 9999")
	var out bytes.Buffer
	cmd.Stdout = &out
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return "", err
	}
	if err := cmd.Start(); err != nil {
		return "", err
	}
	// It says "listening on lo" when it does.
	said := ""
	for buf := make([]byte, 4096); !strings.Contains(said, "listening on lo"); {
		n, err := stderr.Read(buf)
		said += string(buf[:n])
		if err != nil {
			return "", fmt.Errorf("tcpdump: %w: %s", err, said)
		}
	}
	conn, err := net.Dial("udp", "127.0.0.1:9999")
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("x")); err != nil {
		return "", err
	}
	io.Copy(io.Discard, stderr)
	return out.String(), cmd.Wait()
}

func TestMachine(t *testing.T) {
	eachKernel(t, func(t *testing.T, kernel string) {
		file, out := filepath.Join(t.TempDir(), "file"), t.TempDir()
		if err := os.WriteFile(file, []byte("from the host"), 0o644); err != nil {
			t.Fatal(err)
		}
		res, stdout, stderr, err := guest(t, t.Context(), Config{Kernel: kernel, Args: []string{file}, Out: out}, "machine")
		if err != nil || res.ExitCode != 0 {
			t.Fatalf("exit status %d, error %v\n%s", res.ExitCode, err, stderr)
		}
		var f facts
		if err := json.Unmarshal([]byte(stdout), &f); err != nil {
			t.Fatalf("%v in %q", err, stdout)
		}
		for _, e := range f.Errors {
			t.Error(e)
		}
		for _, m := range eagerModules {
			if !f.Modules[m] {
				t.Errorf("the module %s is not loaded", m)
			}
		}
		for place, fstype := range map[string]string{
			"/": "overlay", "/proc": "proc", "/sys": "sysfs", "/dev": "devtmpfs", "/dev/pts": "devpts", "/dev/shm": "tmpfs", "/run": "tmpfs",
			"/sys/kernel/tracing": "tracefs", "/sys/fs/bpf": "bpf", "/sys/fs/cgroup": "cgroup2", out: "9p",
		} {
			if f.Mounts[place] != fstype {
				t.Errorf("%s is %q, want %s", place, f.Mounts[place], fstype)
			}
		}
		if f.BTF < 1<<20 {
			t.Errorf("the kernel's BTF has %d bytes", f.BTF)
		}
		if !f.KprobeEvents {
			t.Error("no kprobe_events")
		}
		if diff := cmp.Diff([]string{"127.0.0.1/8", "::1/128"}, f.Addrs); diff != "" {
			t.Errorf("lo: %s", diff)
		}
		if f.CPUs != DefaultSMP || f.Hostname != "lab" || f.CoreLimit != 0 || f.Stats != "0" || !f.Config {
			t.Errorf("%d CPUs, host name %q, core limit %d, bpf_stats_enabled %s, configuration %v", f.CPUs, f.Hostname, f.CoreLimit, f.Stats, f.Config)
		}
		if f.ModprobeFq != "" || !f.FqLoaded {
			t.Errorf("modprobe sch_fq: %s", f.ModprobeFq)
		}
		if _, err := exec.LookPath("tcpdump"); err == nil && !strings.Contains(f.Capture, "127.0.0.1.9999: UDP, length 1") {
			t.Errorf("tcpdump saw %q", f.Capture)
		}
		if f.HostFile != "from the host" {
			t.Errorf("the guest read %q", f.HostFile)
		}
		if got, err := os.ReadFile(file); err != nil || string(got) != "from the host" {
			t.Errorf("the guest changed a host file: %q, %v", got, err)
		}
		if got, err := os.ReadFile(filepath.Join(out, "result")); err != nil || string(got) != "from the guest" {
			t.Errorf("the result is %q, %v", got, err)
		}
	})
}

func TestEnds(t *testing.T) {
	eachKernel(t, func(t *testing.T, kernel string) {
		t.Run("signal", func(t *testing.T) {
			res, _, _, err := guest(t, t.Context(), Config{Kernel: kernel, Args: []string{"sh", "-c", "kill -KILL $$"}}, "")
			if err != nil || res.Signal != 9 || res.ExitCode != 137 {
				t.Errorf("signal %d, exit status %d, error %v", res.Signal, res.ExitCode, err)
			}
		})
		t.Run("left running", func(t *testing.T) {
			// A process that keeps the command's output open does not keep the guest.
			res, stdout, _, err := guest(t, t.Context(), Config{Kernel: kernel, Args: []string{"sh", "-c", "sleep 1000 & echo said"}}, "")
			if err != nil || res.ExitCode != 0 || stdout != "said\n" {
				t.Errorf("exit status %d, output %q, error %v", res.ExitCode, stdout, err)
			}
		})
		t.Run("no command", func(t *testing.T) {
			_, _, _, err := guest(t, t.Context(), Config{Kernel: kernel, Args: []string{"no-such-command"}}, "")
			var start *StartError
			if !errors.As(err, &start) || !errors.Is(err, syscall.ENOENT) {
				t.Errorf("error %v", err)
			}
		})
		t.Run("not executable", func(t *testing.T) {
			_, _, _, err := guest(t, t.Context(), Config{Kernel: kernel, Args: []string{"/etc/passwd"}}, "")
			var start *StartError
			if !errors.As(err, &start) || !errors.Is(err, syscall.EACCES) {
				t.Errorf("error %v", err)
			}
		})
		t.Run("no directory", func(t *testing.T) {
			_, _, _, err := guest(t, t.Context(), Config{Kernel: kernel, Args: []string{"true"}, Dir: "/no/such/directory"}, "")
			if err == nil || !strings.Contains(err.Error(), "/no/such/directory") {
				t.Errorf("error %v", err)
			}
		})
		t.Run("panic", func(t *testing.T) {
			_, _, _, err := guest(t, t.Context(), Config{Kernel: kernel, Args: []string{"sh", "-c", "echo c > /proc/sysrq-trigger"}}, "")
			if err == nil || !strings.Contains(err.Error(), "Kernel panic - not syncing") {
				t.Errorf("error %v", err)
			}
		})
		t.Run("timeout", func(t *testing.T) {
			_, _, _, err := guest(t, t.Context(), Config{Kernel: kernel, Args: []string{"true"}, Timeout: time.Second}, "")
			if !errors.Is(err, ErrTimeout) {
				t.Errorf("error %v", err)
			}
		})
		t.Run("cancelled", func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			started := make(chan struct{})
			var once bool
			cfg := Config{Kernel: kernel, Args: []string{"sh", "-c", "echo started; exec sleep 1000"}}
			cfg.Stdout = writerFunc(func([]byte) {
				if !once {
					once = true
					close(started)
				}
			})
			done := make(chan error, 1)
			go func() {
				_, err := Run(ctx, cfg)
				done <- err
			}()
			select {
			case <-started:
			case err := <-done:
				t.Fatal(err)
			}
			cancel()
			if err := <-done; !errors.Is(err, context.Canceled) {
				t.Errorf("error %v", err)
			}
		})
		// Run has waited for each QEMU: this process has no child left.
		if pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); err != unix.ECHILD {
			t.Errorf("a child is left: %d, %v", pid, err)
		}
	})
}

// TestOtherArchitecture boots a guest that has nothing of the host but the
// programs built for it.
func TestOtherArchitecture(t *testing.T) {
	arch := "arm64"
	if runtime.GOARCH == arch {
		arch = "amd64"
	}
	eachKernel(t, func(t *testing.T, kernel string) {
		built, err := Build(t.Context(), t.TempDir(), arch, logWriter{t})
		if err != nil {
			t.Fatal(err)
		}
		cfg := Config{Kernel: kernel, Arch: arch, Args: []string{"client"}}
		for _, f := range built {
			cfg.Files = append(cfg.Files, File{Host: f})
		}
		res, stdout, stderr, err := guest(t, t.Context(), cfg, "")
		if err != nil {
			t.Fatal(err)
		}
		if res.ExitCode != 2 || stdout != "" || !strings.Contains(stderr, "usage: client") {
			t.Errorf("the client without an address: exit status %d, output %q, errors %q", res.ExitCode, stdout, stderr)
		}
		if !strings.HasSuffix(res.KernelRelease, "-"+arch) {
			t.Errorf("kernel %s", res.KernelRelease)
		}
	})
}

// helperInstructions prints how long the guest's clock says that a fixed piece
// of work takes, in ns, the least of several times.
func helperInstructions() {
	least := time.Duration(1 << 62)
	for range 20 {
		start := time.Now()
		sum := 0
		for i := range 1_000_000 {
			sum += i ^ sum
		}
		least = min(least, time.Since(start))
		runtime.KeepAlive(sum)
	}
	fmt.Println(least.Nanoseconds())
}

// TestICount checks that the clock counts instructions: a million rounds of a
// few instructions take a few milliseconds, whatever else this machine does,
// and two boots agree.
func TestICount(t *testing.T) {
	eachKernel(t, func(t *testing.T, kernel string) {
		var times [2]float64
		for i := range times {
			res, stdout, stderr, err := guest(t, t.Context(), Config{Kernel: kernel, ICount: true, Append: "lab.test=1"}, "instructions")
			if err != nil || res.ExitCode != 0 {
				t.Fatalf("exit status %d, error %v\n%s", res.ExitCode, err, stderr)
			}
			if _, err := fmt.Sscan(stdout, &times[i]); err != nil {
				t.Fatal(err)
			}
		}
		t.Logf("%v ns", times)
		for _, ns := range times {
			if ns < 1e6 || ns > 20e6 {
				t.Errorf("a million rounds took %v ns; at one instruction a ns they take 1 to 20 ms", ns)
			}
		}
		if d := times[0]/times[1] - 1; d < -0.02 || d > 0.02 {
			t.Errorf("two boots differ by %.1f %%: %v", 100*d, times)
		}
	})
}
