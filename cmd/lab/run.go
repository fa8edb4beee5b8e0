package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/tcpbye/tcpbye/demo/test/lab"
)

// The exit statuses that are the lab's own; every other one is the command's.
const (
	exitLab       = 125 // the lab failed
	exitNoExec    = 126 // the guest could not execute the command
	exitNotFound  = 127 // the guest has no such command
	exitInterrupt = 130 // a signal ended the lab
)

const long = `Boot Debian kernels under QEMU, without KVM, and run a command in each.

The guest's root is the host's, read-only under an overlay in memory: every
program and file of the host is there, at the same path, and what the command
writes is gone afterwards, except below the --out directory. The command is
root, starts in the current directory, and gets its arguments as they are, with
no shell between. It has lo and no other network. The programs tcpbye, client
and server, built from this checkout, are in PATH.

With --arch of another machine the guest's root holds only these programs and
what --add puts there.

Kernels and what else is needed are fetched once, from the mirrors that the
machine's own apt uses, and kept in TCPBYE_LAB_CACHE (default: tcpbye-lab in the
user's cache directory).

The exit status is the command's, 128 and the signal if one killed it; with
several kernels, the first that is not 0. 125: the lab failed (or the time was
up), 126: the command could not be executed, 127: there is no such command,
130: the lab was interrupted. ("go run" reports every status but 0 as 1.)`

const example = `  lab -k 6.1 -- uname -r
  lab -k all -- ./conn.test -test.v
  lab -k 5.10,7 -o results -- sh -c 'tcpbye doctor > "$LAB_OUT/doctor-$LAB_KERNEL"'
  lab -k 6.12 --append lockdown=confidentiality -- tcpbye doctor
  lab -k 6.1 --arch arm64 --add ./conn.test -- conn.test
  lab -k all --prepare`

type options struct {
	kernels          []string
	arch             string
	dir, out, append string
	env, path        []string
	add, modules     []string
	stdin, icount    bool
	smp, memory      int
	timeout          time.Duration
	quiet, noBuild   bool
	prepare, update  bool

	input                    io.Reader // the lab's own streams
	stdout, stderr, progress io.Writer // progress is nil if quiet
}

// run is main without the process around it.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	o := options{input: stdin, stdout: stdout, stderr: stderr}
	code := 0
	cmd := &cobra.Command{
		Use:               "lab -k KERNEL[,KERNEL…] [flags] -- COMMAND [ARGUMENT…]",
		Short:             "Run a command under Debian kernels in QEMU",
		Long:              long,
		Example:           example,
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			code, err = o.run(cmd.Context(), args)
			return err
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.SetInterspersed(false)
	f.StringSliceVarP(&o.kernels, "kernel", "k", nil, "run under `KERNEL`, one after the other: "+strings.Join(lab.Kernels(), ", ")+", or all")
	f.StringVar(&o.arch, "arch", runtime.GOARCH, "the guest's architecture: amd64 or arm64")
	f.StringVarP(&o.dir, "dir", "C", "", "working `DIR`ectory of the command (default: the current one)")
	f.StringVarP(&o.out, "out", "o", "", "host `DIR`ectory that the guest can write to, at the same path; LAB_OUT names it (default: a temporary one, kept if something is in it)")
	f.StringArrayVarP(&o.env, "env", "e", nil, "add `NAME=VALUE` to the command's environment")
	f.StringArrayVar(&o.path, "path", nil, "put `DIR` before PATH in the guest")
	f.StringArrayVar(&o.add, "add", nil, "with another --arch: put `FILE[:GUESTPATH]` into the guest (default: below /bin)")
	f.StringSliceVar(&o.modules, "module", nil, "load the kernel module `NAME` first")
	f.BoolVarP(&o.stdin, "stdin", "i", false, "pass standard input on to the command")
	f.DurationVarP(&o.timeout, "timeout", "t", lab.DefaultTimeout, "end a guest that runs longer")
	f.StringVar(&o.append, "append", "", "more `ARGUMENTS` for the kernel")
	f.IntVar(&o.smp, "smp", lab.DefaultSMP, "`N`umber of CPUs")
	f.IntVarP(&o.memory, "memory", "m", lab.DefaultMemoryMiB, "memory in `MiB`")
	f.BoolVar(&o.icount, "icount", false, "the guest's clock counts instructions, on one CPU")
	f.BoolVar(&o.noBuild, "no-build", false, "do not build tcpbye, client and server for the guest")
	f.BoolVar(&o.prepare, "prepare", false, "only install and fetch what the kernels need, and print their releases")
	f.BoolVar(&o.update, "update", false, "look for newer kernels first")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "no progress lines")
	cmd.SetArgs(args)
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	if err := cmd.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(stderr, "lab:", err)
		return exitCode(err)
	}
	return code
}

// exitCode is the exit status for a failure of the lab itself.
func exitCode(err error) int {
	var start *lab.StartError
	switch {
	case errors.As(err, &start) && errors.Is(err, syscall.ENOENT):
		return exitNotFound
	case errors.As(err, &start):
		return exitNoExec
	case errors.Is(err, context.Canceled):
		return exitInterrupt
	}
	return exitLab
}

func (o *options) run(ctx context.Context, args []string) (code int, err error) {
	if slices.Contains(o.kernels, "all") {
		o.kernels = lab.Kernels()
	}
	if len(o.kernels) == 0 {
		return 0, fmt.Errorf("say with -k which kernel: %s, or all", strings.Join(lab.Kernels(), ", "))
	}
	if len(args) == 0 && !o.prepare {
		return 0, errors.New("say after -- which command to run in the guest; -h shows examples")
	}
	if !o.quiet {
		o.progress = prefixed{o.stderr}
	}
	if o.prepare || o.update {
		for _, k := range o.kernels {
			release, err := lab.Prepare(ctx, k, o.arch, o.update, o.progress)
			if err != nil {
				return 0, err
			}
			if o.prepare {
				fmt.Fprintln(o.stdout, release)
			}
		}
		if o.prepare {
			return 0, nil
		}
	}
	cfg := lab.Config{
		Arch: o.arch, Args: args, Dir: o.dir, Env: o.env, PathDirs: o.path, Modules: o.modules,
		Stdout: o.stdout, Stderr: o.stderr, Out: o.out,
		ICount: o.icount, SMP: o.smp, MemoryMiB: o.memory, Append: o.append, Timeout: o.timeout,
		Progress: o.progress,
	}
	if o.stdin {
		cfg.Stdin = o.input
	}
	for _, a := range o.add {
		host, guest, _ := strings.Cut(a, ":")
		cfg.Files = append(cfg.Files, lab.File{Host: host, Guest: guest})
	}
	if !o.noBuild {
		dir, err := os.MkdirTemp("", "tcpbye-lab-bin-")
		if err != nil {
			return 0, err
		}
		defer os.RemoveAll(dir)
		files, err := lab.Build(ctx, dir, o.arch, o.progress)
		if err != nil {
			return 0, err
		}
		if o.arch == runtime.GOARCH {
			cfg.PathDirs = append(cfg.PathDirs, dir)
		} else {
			for _, f := range files {
				cfg.Files = append(cfg.Files, lab.File{Host: f})
			}
		}
	}
	if cfg.Out == "" {
		if cfg.Out, err = os.MkdirTemp("", "tcpbye-lab-out-"); err != nil {
			return 0, err
		}
		defer func() {
			// It goes if it is empty.
			if err := os.Remove(cfg.Out); err != nil && !o.quiet {
				fmt.Fprintf(o.progress, "results are in %s\n", cfg.Out)
			}
		}()
	}
	// One kernel's failure does not keep the others from being tried.
	for _, k := range o.kernels {
		cfg.Kernel = k
		res, err := lab.Run(ctx, cfg)
		if err != nil {
			if ctx.Err() != nil || len(o.kernels) == 1 {
				return 0, err
			}
			fmt.Fprintln(o.stderr, "lab:", err)
			if code == 0 {
				code = exitCode(err)
			}
			continue
		}
		if len(o.kernels) > 1 && !o.quiet {
			fmt.Fprintf(o.progress, "kernel %s: exit status %d\n", k, res.ExitCode)
		}
		if code == 0 {
			code = res.ExitCode
		}
	}
	return code, nil
}

// prefixed marks progress lines, so that they are told from the command's
// errors.
type prefixed struct{ w io.Writer }

func (p prefixed) Write(b []byte) (int, error) {
	for line := range strings.Lines(string(b)) {
		if _, err := fmt.Fprintf(p.w, "lab: %s\n", strings.TrimSuffix(line, "\n")); err != nil {
			return 0, err
		}
	}
	return len(b), nil
}
