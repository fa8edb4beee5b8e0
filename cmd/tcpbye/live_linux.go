package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/demo/scenario"
	"github.com/tcpbye/tcpbye/tracer"
	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/enrich"
	"github.com/tcpbye/tcpbye/tracer/filter"
	"github.com/tcpbye/tcpbye/tracer/record"
	"github.com/tcpbye/tcpbye/tracer/report"
	"github.com/tcpbye/tcpbye/tracer/screen"
	"github.com/tcpbye/tcpbye/tracer/session"
	"github.com/tcpbye/tcpbye/tracer/snapshot"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// What this program does on Linux alone.

// helper does the work of a process that this program starts of itself, where this is
// one.
func helper() (status int, ok bool) {
	if status, ok := scenario.MaybePuppet(); ok {
		return status, true // a process of a demo
	}
	return enrich.ServeSymbols() // the process that reads executables for --stack
}

// cannotTrace says whether an error is that nothing can be traced here.
func cannotTrace(err error) bool {
	var cannot *tracer.CannotError
	return errors.As(err, &cannot)
}

// ofLinux are the commands that are of use on Linux alone.
func ofLinux(env environment) []*cobra.Command {
	return []*cobra.Command{newExport(env), newRollout(env), newTest(env), newDemo(env), newDoctor(env), newSchema(env), newEchoServer(env), newEchoClient(env)}
}

// live traces this machine. status is the command's exit status, where there is
// a command.
func (t *tracing) live(ctx context.Context, args []string, choice *filter.Filter, config func(record.Meta) (session.Config, error)) (counts session.Counts, status, err error) {
	var command *session.Command
	if len(args) > 0 {
		if command, err = session.NewCommand(args, t.env.stdin, t.env.stdout, t.env.stderr); err != nil {
			return counts, nil, &statusError{commandStatus(err), err}
		}
		command.Env(t.commandEnv...)
		t.env.signals.cuttable(command)
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	witness, warnings := session.NewWitness(session.WitnessOptions{
		Lineage: command != nil || t.choose.Follow || t.write != "" || t.watch != nil,
		Stacks:  t.stack,
	})
	defer func() { err = errors.Join(err, witness.Close()) }()
	for _, w := range warnings {
		fmt.Fprintf(t.env.stderr, "tcpbye: %s\n", oneLine(w))
	}
	var kernelFilter tracer.Filter
	if !t.allEvents && !t.reloads {
		kernelFilter = session.KernelFilter(choice)
	}
	if t.status.terminal != nil {
		var looking sync.WaitGroup
		defer looking.Wait()
		asked := *choice
		looking.Go(func() { t.status.look(ctx.Done(), asked) })
		defer stop() // before it is waited for
	}
	counts, err = session.Live(ctx, tracer.Options{
		Receive: t.receive, Stack: t.stack, Attach: tracer.Rung(t.attach), Filter: kernelFilter,
		Story: t.stories(command != nil),
	}, func(m record.Meta, attached []tracer.Attachment) (session.Config, error) {
		degraded(t.env.stderr, attached)
		c, err := config(m)
		c.Witness = witness
		c.Behind = func(by time.Duration, lost uint64) { fallenBehind(t.env.stderr, by, lost) }
		c.Seeds = func() ([]conn.Seed, error) { return session.Existing(witness) }
		c.Sockets = func() (uint32, []snapshot.Socket, error) { return snapshot.Here(snapshot.Options{}) }
		c.Started = func() error { return t.started(command, choice, stop) }
		if command != nil {
			c.Command = command.PID
		}
		c.Pulse = func(s *session.Session) error {
			if t.pulse != nil {
				t.pulse(s)
			}
			seen := s.Counts()
			t.status.counts.Store(&seen)
			t.status.tick(t.env.stderr)
			switch {
			case t.watch != nil:
				enough, err := t.watch(s, command)
				if err != nil {
					return err
				}
				if enough {
					stop()
				}
			case command != nil && command.Over(s):
				stop()
			}
			return gone(t.env.stdout)
		}
		return c, err
	})
	if note := witness.Unnamed(); note != "" {
		fmt.Fprintf(t.env.stderr, "tcpbye: %s\n", note)
	}
	if command == nil || command.PID() == 0 {
		return counts, nil, err
	}
	n, waitErr := command.Status()
	if n != 0 {
		status = &statusError{status: n}
	}
	return counts, status, errors.Join(err, waitErr)
}

// started begins what waits for the trace.
func (t *tracing) started(command *session.Command, choice *filter.Filter, stop func()) error {
	if t.readyFile != "" {
		if err := ready(t.readyFile); err != nil {
			return fmt.Errorf("--ready-file: %w", err)
		}
	}
	if t.ready != nil {
		if err := t.ready(); err != nil {
			return err
		}
	}
	if t.duration > 0 {
		time.AfterFunc(t.duration, stop)
	}
	var also []tracer.Capability
	if command != nil {
		if err := command.Start(); err != nil {
			return &statusError{commandStatus(err), err}
		}
		if t.ran != nil {
			at, err := tracer.Monotonic()
			if err != nil {
				return err
			}
			t.ran(command.PID(), at)
		} else {
			choice.PIDs, choice.Follow = append(choice.PIDs, command.PID()), true
		}
		also = append(also, unix.CAP_KILL) // it may become another user, and signals are passed on
	}
	if t.watch != nil {
		also = append(also, unix.CAP_KILL)
	}
	if t.stack {
		also = append(also, unix.CAP_SETUID, unix.CAP_SETGID) // the next process that reads executables is nobody's, too
	}
	if t.rotation.Size > 0 {
		also = append(also, unix.CAP_DAC_OVERRIDE) // the next file
	}
	// Everything is attached and looked up, and the command has what it was given.
	if err := tracer.DropPrivileges(also...); err != nil && !errors.Is(err, tracer.ErrPrivilegesKept) {
		return err
	}
	return nil
}

// ready writes the ready file. A FIFO that nobody reads says nothing to anybody.
func ready(name string) error {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	f, err := record.Create(ctx, name)
	if err != nil {
		return err
	}
	_, err = io.WriteString(f, "ready\n")
	return errors.Join(err, f.Close())
}

// commandStatus is what a shell returns for a command that it cannot run.
func commandStatus(err error) int {
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist) {
		return 127
	}
	return 126
}

// gone is a broken pipe before anything is written to it.
func gone(w io.Writer) error {
	f, ok := w.(*os.File)
	if !ok {
		return nil
	}
	fds := []unix.PollFd{{Fd: int32(f.Fd())}}
	if n, err := unix.Poll(fds, 0); err == nil && n > 0 && fds[0].Revents&unix.POLLERR != 0 {
		return fmt.Errorf("write to standard output: %w", unix.EPIPE)
	}
	return nil
}

// degraded says in one line what is missing.
func degraded(w io.Writer, attached []tracer.Attachment) {
	n := 0
	for _, a := range attached {
		if a.Rung == "" && !errors.Is(a.Err, tracer.ErrNotAsked) {
			n++
		}
	}
	if n > 0 {
		fmt.Fprintf(w, "tcpbye: %d of %d hooks cannot be attached here; verdicts say what they could not see\n", n, len(attached))
	}
}

// open shows what there is now.
func (t *tracing) open(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usage(errors.New("--open runs no command"))
	}
	if err := excluded(cmd, "--open", "fields", "sort", "read", "write", "file-size", "file-count", "all-events", "duration", "ready-file", "receive", "attach", "fail-on"); err != nil {
		return err
	}
	if f := report.Format(t.format); f != report.Table && f != report.JSON {
		return usage(fmt.Errorf("-o %s: --open has the formats %s and %s", t.format, report.Table, report.JSON))
	}
	if len(t.more) > 0 {
		return usage(errors.New("--open has one output"))
	}
	choice, err := t.check(cmd, args)
	if err != nil {
		return err
	}
	look, err := t.options(report.Clock{})
	if err != nil {
		return err
	}
	quietPipes()
	witness, warnings := session.NewWitness(session.WitnessOptions{Lineage: t.choose.Follow})
	defer witness.Close()
	for _, w := range warnings {
		fmt.Fprintf(t.env.stderr, "tcpbye: %s\n", oneLine(w))
	}
	snap, err := snapshot.Take(snapshot.Options{Who: witness.Complete})
	if err != nil {
		return err
	}
	seen := len(snap.Sockets)
	sockets := slices.DeleteFunc(snap.Sockets, func(s snapshot.Socket) bool {
		return !choice.Match(s.Connection(), verdict.Verdict{Class: verdict.Open, Cause: s.Mark().Cause})
	})
	chosen, marked := len(sockets), 0
	for i := range sockets {
		if sockets[i].Mark().Marked() {
			marked++
		}
	}
	// Who names causes, or the class, has said what to show.
	if !t.everything && len(choice.Causes)+len(choice.Classes) == 0 {
		sockets = slices.DeleteFunc(sockets, func(s snapshot.Socket) bool { return !s.Mark().Marked() })
	}
	shown := len(sockets)
	if t.count > 0 && uint64(shown) > t.count {
		sockets = sockets[:t.count]
	}
	w := bufio.NewWriter(t.env.stdout)
	if t.into != "" {
		if w, err = t.openFile(cmd.Context(), t.into); err != nil {
			return err
		}
		look = t.forFile(look)
	}
	if report.Format(t.format) == report.JSON {
		err = snapshot.JSON(w, sockets)
	} else {
		err = snapshot.Table(w, snapshot.Rows(sockets, t.verbose), look)
	}
	if err = errors.Join(err, w.Flush(), t.output.close()); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	for _, err := range snap.Skipped {
		fmt.Fprintf(t.env.stderr, "tcpbye: %s\n", oneLine(err))
	}
	if os.Geteuid() != 0 {
		fmt.Fprintln(t.env.stderr, "tcpbye: without root, who holds other users' connections is not known")
	}
	themselves := "themselves"
	if marked == 1 {
		themselves = "itself"
	}
	all := ""
	if more := chosen - shown; more > 0 {
		all = fmt.Sprintf("; --all shows %d more", more)
	}
	fmt.Fprintf(t.env.stderr, "%d open, %d shown, %d will not end by %s; %d in TIME_WAIT in all%s\n", seen, len(sockets), marked, themselves, snap.TimeWait, all)
	return nil
}

// signalName is its symbol.
func signalName(s syscall.Signal) string { return unix.SignalName(s) }

// inForeground says whether a terminal sends its signals to this process.
func inForeground() bool {
	tty, err := os.Open("/dev/tty")
	if err != nil {
		return false
	}
	defer tty.Close()
	group, err := unix.IoctlGetInt(int(tty.Fd()), unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}

// lookAround tells the screen what is open of what was chosen, again and again.
func lookAround(ctx context.Context, feed *screen.Feed, choice *filter.Filter) {
	witness, _ := session.NewWitness(session.WitnessOptions{}) // the trace's own says what it lacks
	defer witness.Close()
	for {
		begun := time.Now()
		if s, err := snapshot.Take(snapshot.Options{Who: witness.Complete}); err != nil {
			feed.Note(oneLine(err))
		} else {
			s.Sockets = slices.DeleteFunc(s.Sockets, func(k snapshot.Socket) bool {
				return !choice.Match(k.Connection(), verdict.Verdict{Class: verdict.Open, Cause: k.Mark().Cause})
			})
			feed.Open(s)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(max(lookEvery, lookShare*time.Since(begun))):
		}
	}
}

// look counts what is open, again and again, until stop is closed.
func (s *statusLine) look(stop <-chan struct{}, f filter.Filter) {
	witness, _ := session.NewWitness(session.WitnessOptions{}) // the trace's own says what it lacks
	defer witness.Close()
	for {
		begun := time.Now()
		if snap, err := snapshot.Take(snapshot.Options{Who: witness.Complete}); err == nil {
			o, pids := openCount{all: len(snap.Sockets)}, map[uint32]bool{}
			for i := range snap.Sockets {
				k := &snap.Sockets[i]
				if f.Match(k.Connection(), verdict.Verdict{Class: verdict.Open, Cause: k.Mark().Cause}) {
					o.chosen++
				}
				if owner := k.Owner(); owner != nil {
					pids[owner.PID] = true
				}
			}
			o.processes = len(pids)
			s.open.Store(&o)
		}
		select {
		case <-stop:
			return
		case <-time.After(max(countEvery, lookShare*time.Since(begun))):
		}
	}
}
