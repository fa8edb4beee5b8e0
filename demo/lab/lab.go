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
	"strings"
	"syscall"
	"time"

	"github.com/tcpbye/tcpbye/demo/lab/wire"
)

// Config says what to run and on what.
type Config struct {
	Kernel string   // a name of Kernels, or a version within a series, such as 7.2
	Args   []string // the command and its arguments, passed as they are, with no shell between

	// Dir is the command's working directory; empty: the current one.
	Dir string
	// Env is added to the command's environment, as NAME=VALUE. The command
	// gets PATH, HOME, LANG and TZ of the host, TERM=dumb, USER=root, and
	// LAB_OUT, LAB_KERNEL.
	Env []string
	// PathDirs are put before PATH in the guest.
	PathDirs []string

	Stdin          io.Reader // nil: the command reads /dev/null
	Stdout, Stderr io.Writer // nil: dropped

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

// StartError says that the guest is fine but could not start the command.
type StartError struct {
	Errno syscall.Errno
	Text  string
}

func (e *StartError) Error() string { return e.Text }

// Unwrap returns the system's error number.
func (e *StartError) Unwrap() error { return e.Errno }

// Modules that the guest loads before it looks for its root, and those that it
// loads in any case, so that a command can count on them. All other modules are
// loaded when the kernel asks for them.
var (
	portModules  = []string{"virtio_pci", "virtio_console"}
	rootModules  = []string{"9pnet_virtio", "9p", "overlay"}
	eagerModules = []string{"tcp_diag", "inet_diag", "unix_diag", "veth", "sch_netem", "tun", "dummy"}
)

// Run boots the kernel, runs the command in the guest, and returns when it has
// ended. An error means that the lab failed: a command's own failure is a
// Result. When ctx ends, QEMU is ended at once.
func Run(ctx context.Context, cfg Config) (Result, error) {
	const arch = "amd64"
	progress := orDiscard(cfg.Progress)
	if len(cfg.Args) == 0 {
		return Result{}, errors.New("no command to run in the guest")
	}
	if err := EnsureHost(ctx, arch, progress); err != nil {
		return Result{}, err
	}
	k, err := fetch(ctx, cfg.Kernel, arch, false, progress)
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
		arch:      arch,
		kernel:    k.image(),
		initramfs: filepath.Join(work, "initramfs"),
		append:    cfg.Append,
		memoryMiB: orDefault(cfg.MemoryMiB, DefaultMemoryMiB),
		smp:       orDefault(cfg.SMP, DefaultSMP),
		icount:    cfg.ICount,
		hostRoot:  "/",
		out:       out,
	}
	spec, err := newSpec(cfg, k, out)
	if err != nil {
		return Result{}, err
	}
	if err := writeInitramfs(ctx, m.initramfs, k, spec); err != nil {
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
func newSpec(cfg Config, k kernel, out string) (wire.Spec, error) {
	dir := cfg.Dir
	if dir == "" {
		dir = "."
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return wire.Spec{}, err
	}
	var path []string
	for _, d := range cfg.PathDirs {
		if d, err = filepath.Abs(d); err != nil {
			return wire.Spec{}, err
		}
		path = append(path, d)
	}
	path = append(path, filepath.SplitList(orString(os.Getenv("PATH"), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"))...)
	for _, d := range sbin {
		path = appendNew(path, d)
	}
	env := []string{
		"PATH=" + strings.Join(path, ":"),
		"HOME=" + orString(os.Getenv("HOME"), "/root"),
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
	return wire.Spec{
		Args:     wire.Bytes(cfg.Args),
		Env:      wire.Bytes(append(env, cfg.Env...)),
		Dir:      []byte(dir),
		Path:     wire.Bytes(path),
		HostRoot: true,
		Out:      []byte(out),
		Modules:  []byte(k.modulesDir()),
		Config:   []byte(k.config()),
		Stdin:    cfg.Stdin != nil,
	}, nil
}

func orString(s, def string) string {
	if s == "" {
		return def
	}
	return s
}

// writeInitramfs makes the guest's initramfs: its init, the spec, and modules.
func writeInitramfs(ctx context.Context, file string, k kernel, spec wire.Spec) error {
	root, err := checkout(ctx, "")
	if err != nil {
		return err
	}
	initFile := file + ".init"
	if err := build(ctx, root, k.Arch, initPackage, initFile); err != nil {
		return err
	}
	initBinary, err := os.ReadFile(initFile)
	if err != nil {
		return err
	}
	tree, err := k.modules()
	if err != nil {
		return err
	}
	rootNames := portModules
	if spec.HostRoot {
		rootNames = append(rootNames[:len(rootNames):len(rootNames)], rootModules...)
	}
	rootFiles, missing, err := tree.order(rootNames)
	if err != nil {
		return err
	}
	if len(missing) > 0 {
		return fmt.Errorf("the kernel %s lacks the modules %s, without which the lab cannot work", k.Release, strings.Join(missing, ", "))
	}
	allFiles, missing, err := tree.order(append(rootNames[:len(rootNames):len(rootNames)], eagerModules...))
	if err != nil {
		return err
	}
	spec.Missing = missing

	var buf bytes.Buffer
	a := newArchive(&buf)
	guest, err := a.addModules(ctx, k, allFiles)
	if err != nil {
		return err
	}
	// The order of the whole begins with the order of its beginning.
	spec.RootModules, spec.EagerModules = guest[:len(rootFiles)], guest[len(rootFiles):]
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
			err = fmt.Errorf("the guest ended without an answer (QEMU: %v)", e.state())
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
	}
	e.stop()
	res.ConsoleTail = e.console.String()
	return res, fmt.Errorf("kernel %s: %w%s", cfg.Kernel, err, e.lastWords())
}
