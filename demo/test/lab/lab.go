package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/tcpbye/tcpbye/demo/test/lab/wire"
)

// Config says what to run and on what.
type Config struct {
	Kernel string   // a name of Kernels, or a version within a series, such as 7.2
	Arch   string   // amd64 or arm64; empty: the host's
	Args   []string // the command and its arguments, passed as they are, with no shell between

	// Dir is the command's working directory; empty: the current one, or / if
	// the guest does not have the host's root.
	Dir string
	// Env is added to the command's environment, as NAME=VALUE. The command
	// has PATH, HOME, LANG and TZ of the host, USER=root, TERM=dumb, LAB_OUT,
	// and LAB_KERNEL, the name of the kernel's series.
	Env []string
	// PathDirs are put before PATH in the guest.
	PathDirs []string
	// Files are added to the root of a guest of another architecture, which
	// cannot have the host's.
	Files []File
	// Modules are loaded before the command starts, with what they need. In a
	// guest with the host's root modprobe works, and the kernel loads what it
	// needs itself.
	Modules []string

	Stdin          io.Reader // nil: the command reads /dev/null
	Stdout, Stderr io.Writer // nil: dropped; written to by one goroutine

	// Out is the host directory that the guest can write to. It has the same
	// path in the guest, and LAB_OUT names it. Empty: a temporary directory,
	// removed when Run returns.
	Out string

	// ICount makes the guest's clock count instructions, one a nanosecond, on
	// one CPU.
	ICount    bool
	SMP       int           // CPUs; 0: 2
	MemoryMiB int           // 0: 1024
	Append    string        // added to the kernel's command line
	Timeout   time.Duration // from the start of QEMU to the end of the command; 0: 5 minutes

	Progress io.Writer // sentences for a person on what is being done; nil: none
}

// File is a file of the host that is put into the guest.
type File struct {
	Host  string // path on the host
	Guest string // absolute path in the guest; empty: /bin and the file's name
}

// Result is how the command ended.
type Result struct {
	ExitCode      int           // the command's exit status; 128 and the signal if one killed it
	Signal        int           // the signal that killed it, or 0
	KernelRelease string        // uname -r
	Boot          time.Duration // from the start of QEMU to the start of the command
	ConsoleTail   string        // the end of what the guest's console showed
}

// Defaults of Config.
const (
	DefaultSMP       = 2
	DefaultMemoryMiB = 1024
	DefaultTimeout   = 5 * time.Minute
)

// ErrTimeout is wrapped by Run's error when the command did not end in time.
var ErrTimeout = errors.New("the guest did not finish in time")

// ErrLockup is wrapped by Run's error when the guest's kernel found a CPU that
// did nothing else for a minute. That can be the emulator's doing: QEMU 7.2, with
// a thread for each CPU, may go on executing the breakpoint that a kernel put in
// the place of an instruction for a moment, as it does when a tracepoint or a
// kprobe is switched on (text_poke_bp).
var ErrLockup = errors.New("a CPU of the guest locked up")

// StartError says that the guest is fine but could not start the command.
type StartError struct {
	Errno syscall.Errno
	Text  string
}

func (e *StartError) Error() string { return e.Text }

// Unwrap returns the system's error number.
func (e *StartError) Unwrap() error { return e.Errno }

// Modules that the guest loads before it has its root, and those that it loads
// in any case so that a command can count on them. All others are loaded when
// the kernel or the command asks for them.
var (
	portModules  = []string{"virtio_pci", "virtio_console"}
	shareModules = []string{"9pnet_virtio", "9p"}
	rootModules  = []string{"overlay"}
	eagerModules = []string{"tcp_diag", "inet_diag", "unix_diag", "veth", "sch_netem", "tun", "dummy"}

	// dummy would make a device dummy0 on its own.
	moduleParams = map[string]string{"dummy": "numdummies=0"}
)

// Run boots the kernel, runs the command in the guest, and returns when it has
// ended. An error means that the lab failed: a command's own failure is a
// Result. When ctx ends, QEMU is ended at once.
func Run(ctx context.Context, cfg Config) (Result, error) {
	progress := orDiscard(cfg.Progress)
	cfg.Arch = orString(cfg.Arch, runtime.GOARCH)
	if len(cfg.Args) == 0 {
		return Result{}, errors.New("no command to run in the guest")
	}
	if len(cfg.Files) > 0 && cfg.Arch == runtime.GOARCH {
		return Result{}, errors.New("files are added to guests of another architecture only; this one has all files of the host")
	}
	if _, err := findSeries(cfg.Kernel, cfg.Arch); err != nil {
		return Result{}, err
	}
	if err := EnsureHost(ctx, cfg.Arch, progress); err != nil {
		return Result{}, err
	}
	k, err := fetch(ctx, cfg.Kernel, cfg.Arch, false, progress)
	if err != nil {
		return Result{}, err
	}
	work, err := os.MkdirTemp("", "tcpbye-lab-")
	if err != nil {
		return Result{}, err
	}
	defer os.RemoveAll(work)

	out := cfg.Out
	if out == "" {
		out = filepath.Join(work, "out")
	}
	if out, err = filepath.Abs(out); err != nil {
		return Result{}, err
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return Result{}, err
	}
	if out, err = filepath.EvalSymlinks(out); err != nil {
		return Result{}, err
	}
	m := machine{
		arch:      cfg.Arch,
		kernel:    k.image(),
		initramfs: filepath.Join(work, "initramfs"),
		append:    cfg.Append,
		memoryMiB: orDefault(cfg.MemoryMiB, DefaultMemoryMiB),
		smp:       orDefault(cfg.SMP, DefaultSMP),
		icount:    cfg.ICount,
		out:       out,
	}
	// Programs of the host run only on an emulated machine like the host.
	if cfg.Arch == runtime.GOARCH {
		m.hostRoot = "/"
	}
	spec, err := newSpec(cfg, k, m.hostRoot != "", out)
	if err != nil {
		return Result{}, err
	}
	if err := writeInitramfs(ctx, work, m.initramfs, k, cfg, spec); err != nil {
		return Result{}, err
	}
	timeout := orDefault(cfg.Timeout, DefaultTimeout)
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("%w: %v", ErrTimeout, timeout))
	defer cancel()
	fmt.Fprintf(progress, "booting %s\n", k.Release)
	return boot(ctx, m, cfg, progress)
}

func orDefault[T int | time.Duration](v, def T) T {
	if v == 0 {
		return def
	}
	return v
}

// newSpec says in the guest's terms what Config says in the host's.
func newSpec(cfg Config, k kernel, hostRoot bool, out string) (wire.Spec, error) {
	path, home, dir := os.Getenv("PATH"), orString(os.Getenv("HOME"), "/root"), orString(cfg.Dir, ".")
	if !hostRoot {
		path, home, dir = "", "/", orString(cfg.Dir, "/")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return wire.Spec{}, err
	}
	var dirs []string
	for _, d := range cfg.PathDirs {
		if d, err = filepath.Abs(d); err != nil {
			return wire.Spec{}, err
		}
		dirs = append(dirs, d)
	}
	dirs = append(dirs, filepath.SplitList(path)...)
	// The guest's user is root, whatever the host's is.
	for _, d := range append(sbin, "/usr/local/bin", "/usr/bin", "/bin") {
		dirs = appendNew(dirs, d)
	}
	env := []string{
		"PATH=" + strings.Join(dirs, ":"),
		"HOME=" + home,
		"USER=root",
		"TERM=dumb",
		"LAB_OUT=" + out,
		"LAB_KERNEL=" + k.Series,
	}
	for _, name := range []string{"LANG", "TZ"} {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	env = mergeEnv(env, cfg.Env)
	if i := slices.IndexFunc(env, func(kv string) bool { return strings.HasPrefix(kv, "PATH=") }); i >= 0 {
		dirs = filepath.SplitList(env[i][len("PATH="):])
	}
	spec := wire.Spec{
		Args:     wire.Bytes(cfg.Args),
		Env:      wire.Bytes(env),
		Dir:      []byte(dir),
		Path:     wire.Bytes(dirs),
		HostRoot: hostRoot,
		Out:      []byte(out),
		Stdin:    cfg.Stdin != nil,
	}
	if hostRoot {
		spec.ModuleTree, spec.KernelConfig = []byte(k.modulesDir()), []byte(k.config())
	}
	return spec, nil
}

// mergeEnv returns base with the variables of more, of which the last one of a
// name counts: what a program makes of two is not defined.
func mergeEnv(base, more []string) []string {
	var out []string
	for _, kv := range append(base[:len(base):len(base)], more...) {
		name, _, _ := strings.Cut(kv, "=")
		out = slices.DeleteFunc(out, func(old string) bool { return strings.HasPrefix(old, name+"=") })
		out = append(out, kv)
	}
	return out
}

func orString(s, def string) string {
	if s == "" {
		return def
	}
	return s
}

// writeInitramfs makes the guest's initramfs: its init, the spec, modules, and
// added files.
func writeInitramfs(ctx context.Context, work, file string, k kernel, cfg Config, spec wire.Spec) error {
	root, err := checkout(ctx)
	if err != nil {
		return err
	}
	if err := compile(ctx, root, k.Arch, work, initPackage); err != nil {
		return err
	}
	initBinary, err := os.ReadFile(filepath.Join(work, "init"))
	if err != nil {
		return err
	}
	tree, err := k.modules()
	if err != nil {
		return err
	}
	first := slices.Concat(portModules, shareModules)
	if spec.HostRoot {
		first = append(first, rootModules...)
	}
	must := slices.Concat(first, cfg.Modules)
	rootFiles, missing, err := tree.order(first)
	if err != nil {
		return err
	}
	_, missingToo, err := tree.order(cfg.Modules)
	if err != nil {
		return err
	}
	if missing = append(missing, missingToo...); len(missing) > 0 {
		return fmt.Errorf("the kernel %s has no module %s", k.Release, strings.Join(missing, ", "))
	}
	// The order of the whole begins with the order of its beginning.
	files, missing, err := tree.order(append(must, eagerModules...))
	if err != nil {
		return err
	}
	spec.Missing = missing

	var buf bytes.Buffer
	a := newArchive(&buf)
	modules, err := a.addModules(ctx, k, files)
	if err != nil {
		return err
	}
	spec.RootModules, spec.MoreModules = modules[:len(rootFiles)], modules[len(rootFiles):]
	if !spec.HostRoot {
		if err := a.file("/etc/hosts", 0o644, []byte("127.0.0.1 localhost\n::1 localhost\n")); err != nil {
			return err
		}
		for _, f := range cfg.Files {
			content, err := os.ReadFile(f.Host)
			if err != nil {
				return fmt.Errorf("add a file to the guest: %w", err)
			}
			info, err := os.Stat(f.Host)
			if err != nil {
				return err
			}
			if err := a.file(orString(f.Guest, "/bin/"+filepath.Base(f.Host)), info.Mode(), content); err != nil {
				return err
			}
		}
	}
	text, err := spec.Marshal()
	if err != nil {
		return err
	}
	if err := a.file("/init", 0o755, initBinary); err != nil {
		return err
	}
	if err := a.file(wire.SpecFile, 0o644, text); err != nil {
		return err
	}
	if err := a.close(); err != nil {
		return err
	}
	return os.WriteFile(file, buf.Bytes(), 0o644)
}

// boot starts QEMU and talks with the guest until the command has ended.
func boot(ctx context.Context, m machine, cfg Config, progress io.Writer) (Result, error) {
	begin := time.Now()
	e, err := startEmulator(m)
	if err != nil {
		return Result{}, err
	}
	defer e.stop()

	var res Result
	done := make(chan error, 1)
	go func() {
		done <- e.converse(cfg, func(kind wire.Kind, body []byte) error {
			switch kind {
			case wire.Note:
				fmt.Fprintf(progress, "guest: %s\n", body)
			case wire.Started:
				var s wire.StartedBody
				if err := json.Unmarshal(body, &s); err != nil {
					return err
				}
				res.KernelRelease, res.Boot = s.Release, time.Since(begin)
				fmt.Fprintf(progress, "guest %s up after %.1f s\n", s.Release, res.Boot.Seconds())
			case wire.Exit:
				var x wire.ExitBody
				if err := json.Unmarshal(body, &x); err != nil {
					return err
				}
				res.ExitCode, res.Signal = x.Code, x.Signal
			}
			return nil
		})
	}()
	select {
	case err = <-done:
	case <-ctx.Done():
		err = context.Cause(ctx)
		e.stop() // closes the port, which ends the conversation
		<-done
		if res.Boot == 0 {
			err = fmt.Errorf("%w; the command did not start yet", err)
		}
	}
	var start *StartError
	if err == nil || errors.As(err, &start) || errors.Is(err, errOutput) {
		e.stop()
		res.ConsoleTail = e.console.String()
		return res, err
	}
	if errors.Is(err, errPortClosed) {
		// QEMU ends when the guest panics or restarts; its own end comes a
		// moment after the port's.
		select {
		case <-e.ended:
			err = fmt.Errorf("the guest ended before its command did: it panicked, or the command restarted it, or QEMU failed (%v)", e.state())
			if strings.Contains(e.console.String(), "softlockup: hung tasks") { // watchdog_timer_fn, kernel/watchdog.c
				err = fmt.Errorf("%w: %w", ErrLockup, err)
			}
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
	}
	e.stop()
	res.ConsoleTail = e.console.String()
	return res, fmt.Errorf("kernel %s: %w%s", cfg.Kernel, err, e.lastWords())
}
