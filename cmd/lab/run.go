package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/tcpbye/tcpbye/demo/lab"
)

// The exit statuses that are the lab's own; every other one is the command's.
const (
	exitLab        = 125 // the lab failed
	exitNoExec     = 126 // the guest could not execute the command
	exitNotFound   = 127 // the guest has no such command
	exitInterrupts = 130 // a signal ended the lab
)

type options struct {
	kernels          []string
	dir, out, append string
	env, path        []string
	stdin, icount    bool
	smp, memory      int
	timeout          time.Duration
	quiet, noBuild   bool
	prepare, update  bool
}

// run is main without the process around it.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	var o options
	code := 0
	cmd := &cobra.Command{
		Use:           "lab -k KERNEL[,KERNEL…] [flags] -- COMMAND [ARGUMENT…]",
		Short:         "Run a command under a Debian kernel in QEMU",
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE: func(_ *cobra.Command, args []string) error {
			var err error
			code, err = o.run(ctx, args, stdin, stdout, stderr)
			return err
		},
	}
	f := cmd.Flags()
	f.SetInterspersed(false)
	f.StringSliceVarP(&o.kernels, "kernel", "k", nil, "the kernels, one after the other: "+strings.Join(lab.Kernels(), ", ")+", or all")
	f.StringVarP(&o.dir, "dir", "C", "", "working directory of the command (default the current one)")
	f.StringVarP(&o.out, "out", "o", "", "host directory that the guest can write to, at the same path; LAB_OUT names it")
	f.StringArrayVarP(&o.env, "env", "e", nil, "add `NAME=VALUE` to the command's environment")
	f.StringArrayVar(&o.path, "path", nil, "put `DIR` before PATH in the guest")
	f.BoolVarP(&o.stdin, "stdin", "i", false, "pass standard input on")
	f.BoolVar(&o.icount, "icount", false, "the guest's clock counts instructions, on one CPU")
	f.IntVar(&o.smp, "smp", lab.DefaultSMP, "CPUs")
	f.IntVarP(&o.memory, "memory", "m", lab.DefaultMemoryMiB, "memory in MiB")
	f.StringVar(&o.append, "append", "", "more arguments for the kernel")
	f.DurationVarP(&o.timeout, "timeout", "t", lab.DefaultTimeout, "end a guest that runs longer")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "no progress lines")
	f.BoolVar(&o.noBuild, "no-build", false, "do not build tcpbye, client and server for the guest")
	f.BoolVar(&o.prepare, "prepare", false, "only install and fetch what the kernels need")
	f.BoolVar(&o.update, "update", false, "look for newer kernels first")
	cmd.SetArgs(args)
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	err := cmd.ExecuteContext(ctx)
	if err == nil {
		return code
	}
	fmt.Fprintln(stderr, "lab:", err)
	var start *lab.StartError
	switch {
	case errors.As(err, &start) && errors.Is(err, syscall.ENOENT):
		return exitNotFound
	case errors.As(err, &start):
		return exitNoExec
	case errors.Is(err, context.Canceled):
		return exitInterrupts
	}
	return exitLab
}

func (o options) run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) (int, error) {
	if len(o.kernels) == 1 && o.kernels[0] == "all" {
		o.kernels = lab.Kernels()
	}
	if len(o.kernels) == 0 {
		return 0, fmt.Errorf("say with -k which kernel: %s or all", strings.Join(lab.Kernels(), ", "))
	}
	var progress io.Writer = prefixed{stderr}
	if o.quiet {
		progress = nil
	}
	if o.prepare || o.update {
		if err := lab.EnsureHost(ctx, "amd64", progress); err != nil {
			return 0, err
		}
		for _, k := range o.kernels {
			release, err := lab.Fetch(ctx, k, "amd64", o.update, progress)
			if err != nil {
				return 0, err
			}
			if o.prepare {
				fmt.Fprintln(stdout, release)
			}
		}
		if o.prepare {
			return 0, nil
		}
	}
	cfg := lab.Config{
		Args: args, Dir: o.dir, Env: o.env, PathDirs: o.path,
		Stdout: stdout, Stderr: stderr,
		Out: o.out, ICount: o.icount, SMP: o.smp, MemoryMiB: o.memory, Append: o.append, Timeout: o.timeout,
		Progress: progress,
	}
	if o.stdin {
		cfg.Stdin = stdin
	}
	if !o.noBuild {
		dir, err := os.MkdirTemp("", "tcpbye-lab-bin-")
		if err != nil {
			return 0, err
		}
		defer os.RemoveAll(dir)
		if err := lab.Build(ctx, dir, "amd64", progress); err != nil {
			return 0, err
		}
		cfg.PathDirs = append(cfg.PathDirs, dir)
	}
	worst := 0
	for _, k := range o.kernels {
		cfg.Kernel = k
		res, err := lab.Run(ctx, cfg)
		if err != nil {
			return 0, err
		}
		if worst == 0 {
			worst = res.ExitCode
		}
	}
	return worst, nil
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
