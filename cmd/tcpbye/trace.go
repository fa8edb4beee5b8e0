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
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/tracer"
	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/filter"
	"github.com/tcpbye/tcpbye/tracer/record"
	"github.com/tcpbye/tcpbye/tracer/report"
	"github.com/tcpbye/tcpbye/tracer/session"
	"github.com/tcpbye/tcpbye/tracer/snapshot"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// tracing is what trace and rst share.
type tracing struct {
	output
	choose    filter.Spec
	read      []string
	readyFile string
	receive   bool
	stack     bool
	duration  time.Duration
	count     uint64
	fileSize  string
	fileCount int
	allEvents bool
	everyStep bool
	failOn    failOn

	// kept says which endings the command is about, of those that are chosen;
	// nil: all.
	kept func(*conn.Connection, verdict.Verdict) bool
	// sink replaces the one that the format names; nil: it does not.
	sink func(io.Writer, report.Options) []report.Sink
	// findings adds what all endings have in common, at the end.
	findings bool
	// ran is told which command is run, and when it was started; nil: what is chosen
	// is the command's.
	ran func(pid uint32, at time.Duration)
	// watch is called twenty times a second in a live run, and says whether it has seen
	// enough; command is nil where none is run. nil: a run ends with its command.
	watch func(s *session.Session, command *session.Command) (enough bool, err error)
	// commandEnv is what the command's environment has besides this program's.
	commandEnv []string
	// signal is told of signals between processes; nil: nobody.
	signal func(event.Event)
	// time is what the session tells its own time; nil: nobody.
	time func(now time.Duration) error
	// waits says whether something is due at a time; nil: see session.Config.
	waits func() bool
}

func (t *tracing) flags(cmd *cobra.Command, format report.Format) {
	t.output.flags(cmd, format)
	t.chooseFlags(cmd)
	f := cmd.Flags()
	f.StringArrayVarP(&t.read, "read", "r", nil, "read a recording from `FILE` (- for standard input) instead of tracing; several are read in their order")
	f.StringVarP(&t.fileSize, "file-size", "C", "", "with -w: go on in another file after `SIZE` million bytes (or 64k, 10m, 1g)")
	f.IntVarP(&t.fileCount, "file-count", "W", 0, "with -C: keep the last `COUNT` files")
	f.BoolVar(&t.allEvents, "all-events", false, "with -w: record what the filters leave out, too")
	f.BoolVar(&t.everyStep, "every-step", false, "have the kernel tell every step of every connection as it happens, also of one that is plain; costs ten times as much")
	f.StringVar(&t.readyFile, "ready-file", "", "create `FILE` once everything is attached")
	f.BoolVar(&t.receive, "receive", false, "also watch every recv(2), to tell exactly what the application was told; costs a little for each call")
	f.BoolVar(&t.stack, "stack", false, "take the user stack at close, shutdown and exit, and show functions with file and line")
	f.DurationVar(&t.duration, "duration", 0, "stop after this long; 0: on ^C")
}

// chooseFlags say which endings are shown, and which fail.
func (t *tracing) chooseFlags(cmd *cobra.Command) {
	f, c := cmd.Flags(), &t.choose
	f.StringArrayVarP(&c.PIDs, "pid", "p", nil, "only connections of the process `PID`: it opened them, holds them, or acted on them")
	f.BoolVar(&c.Follow, "follow", false, "with -p: and those of its descendants")
	f.StringArrayVar(&c.Comms, "comm", nil, "only those of processes or threads of this `NAME` (may be a glob)")
	f.StringArrayVar(&c.Exes, "exe", nil, "only those of this executable: a `PATH`, or a name (may be a glob)")
	f.StringArrayVar(&c.Users, "uid", nil, "only those of this `USER`, by number or name")
	f.StringArrayVar(&c.Cgroups, "cgroup", nil, "only those of the cgroup at `PATH`, and below it")
	f.StringArrayVar(&c.Containers, "container", nil, "only those of the container whose id begins with `ID` (also RUNTIME/ID, or a systemd unit)")
	f.StringArrayVar(&c.Ports, "port", nil, "only those with one of these `PORTS` at either end: 80,443,8000-8099")
	f.StringArrayVar(&c.Local, "local", nil, "only those with this local `ADDRESS` or prefix: 10.0.0.0/8")
	f.StringArrayVar(&c.Remote, "remote", nil, "only those with this remote `ADDRESS` or prefix")
	f.StringArrayVar(&c.NetNS, "netns", nil, "only those in this network `NAMESPACE`: inode number, name or path")
	f.StringArrayVar(&c.Classes, "class", nil, "only endings of this `CLASS`: graceful, aborted, timed-out, refused, open, unknown")
	f.StringArrayVar(&c.Causes, "cause", nil, "only endings with this `CAUSE` (tcpbye explain lists them)")
	f.BoolVar(&t.noEvents, "no-events", false, "with -o json: leave the events out, which are most of each record")
	f.Uint64Var(&t.count, "count", 0, "stop after showing so many endings; 0: on ^C")
	f.BoolVar(&t.findings, "findings", false, "at the end, also show what many endings have in common (tcpbye findings)")
	f.Var(&t.failOn, "fail-on", "exit with status 1 when one of the chosen connections ended as one of these `ENDINGS`: classes, causes, unanswered, with commas (aborted,retransmit-timeout); a harmless reset only when its cause is named")
}

const commandHelp = `
With -- COMMAND, run it, trace it and its children, and end with it and with its
exit status. ^C stops, judges what is left and counts; SIGTERM and a second ^C
end at once. All conditions must hold;
each may be given several times, or have a list with commas, of which one must.
Both ends of a connection inside this machine are shown when one of them is
wanted. A recording that cannot be written on, as on a full disk, ends the run.`

func newTrace(env environment) *cobra.Command {
	t := &tracing{output: output{env: env}}
	var open bool
	cmd := &cobra.Command{
		Use:   "trace [-- COMMAND [ARGUMENT…]]",
		Short: "watch the connections of this machine end",
		Long: `A row for each connection end, as it ends; with --open, what is open now, and
what of it will not end by itself.` + "\n" + commandHelp,
		Args: commandArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if open {
				return t.open(cmd, args)
			}
			return t.run(cmd, args)
		},
	}
	t.flags(cmd, report.Table)
	cmd.Flags().BoolVar(&open, "open", false, "show what is open now, and end")
	return cmd
}

// commandArgs takes a command after two dashes and nothing else.
func commandArgs(cmd *cobra.Command, args []string) error {
	switch n := cmd.ArgsLenAtDash(); {
	case n < 0 && len(args) > 0:
		return usage(fmt.Errorf("%q: a command to run comes after --", args[0]))
	case n > 0:
		return usage(fmt.Errorf("%q before --: a command to run comes after it", args[0]))
	case n == 0 && len(args) == 0:
		return usage(errors.New("which command? there is none after --"))
	}
	return nil
}

// excluded is a usage error when one of the flags is given: what is asked for
// cannot go with it.
func excluded(cmd *cobra.Command, with string, flags ...string) error {
	for _, name := range flags {
		if cmd.Flags().Changed(name) {
			return usage(fmt.Errorf("--%s does not go with %s", name, with))
		}
	}
	return nil
}

// check holds the flags against each other and reads what they say.
func (t *tracing) check(cmd *cobra.Command, args []string) (*filter.Filter, error) {
	world := session.World()
	if t.read != nil {
		if len(args) > 0 {
			return nil, usage(errors.New("a command cannot be run while a recording is read (-r)"))
		}
		if err := excluded(cmd, "-r", "duration", "ready-file", "receive", "stack", "attach"); err != nil {
			return nil, err
		}
		if err := t.apart(); err != nil {
			return nil, usage(err)
		}
		world = filter.World{} // a recording may come from another machine
	} else if report.Format(t.format).Stacks() {
		t.stack = true // without them there is nothing to tell
	}
	f, err := filter.Parse(t.choose, world)
	if err != nil {
		return nil, usage(err)
	}
	if t.duration < 0 {
		return nil, usage(fmt.Errorf("--duration %v: want a time to come", t.duration))
	}
	if t.rotation, err = rotation(t.fileSize, t.fileCount, t.write); err != nil {
		return nil, usage(err)
	}
	if t.findings && t.format != string(report.Table) && t.format != formatResets {
		return nil, usage(fmt.Errorf("--findings goes with the format %s: for JSON there is tcpbye findings -o json", report.Table))
	}
	if t.noEvents && report.Format(t.format) != report.JSON {
		return nil, usage(errors.New("--no-events goes with -o json"))
	}
	if t.allEvents && t.write == "" {
		return nil, usage(errors.New("--all-events goes with -w FILE"))
	}
	// What is wrong with the output is said before anything is attached.
	if _, err := t.options(report.Clock{}); err != nil {
		return nil, err
	}
	if t.sink == nil && !slices.Contains(report.Formats(), report.Format(t.format)) {
		_, err := report.New(report.Format(t.format), io.Discard, report.Options{})
		return nil, usage(err)
	}
	return f, nil
}

// apart says whether what is read is not what is written.
func (t *tracing) apart() error {
	to, err := os.Stat(t.write)
	if err != nil {
		return nil // there is none
	}
	for _, name := range t.read {
		if from, err := os.Stat(name); err == nil && from.Mode().IsRegular() && os.SameFile(from, to) {
			return fmt.Errorf("-r %s -w %s: it would be overwritten before it is read", name, t.write)
		}
	}
	return nil
}

// rotation reads -C and -W as tcpdump does: millions of bytes, unless there is a
// unit.
func rotation(size string, count int, file string) (record.Rotation, error) {
	r := record.Rotation{Count: count}
	switch {
	case count < 0:
		return r, fmt.Errorf("-W %d: want a number of files", count)
	case size == "" && count > 0:
		return r, errors.New("-W goes with -C, which says when to begin another file")
	case size == "":
		return r, nil
	case file == "" || file == "-":
		return r, errors.New("-C goes with -w FILE")
	}
	unit := int64(1_000_000)
	number := strings.TrimRight(strings.ToLower(size), "kmg")
	switch strings.ToLower(strings.TrimPrefix(size, number)) {
	case "":
	case "k":
		unit = 1 << 10
	case "m":
		unit = 1 << 20
	case "g":
		unit = 1 << 30
	default:
		number = ""
	}
	n, err := strconv.ParseInt(number, 10, 32)
	if err != nil || n <= 0 {
		return r, fmt.Errorf("-C %s: want a size such as 10 (million bytes), 64k, 10m or 1g", size)
	}
	r.Size = n * unit
	return r, nil
}

func (t *tracing) run(cmd *cobra.Command, args []string) error {
	choice, err := t.check(cmd, args)
	if err != nil {
		return err
	}
	var s *shower
	var found *report.FindingsSink
	if t.findings {
		t.withFindings(&found)
	}
	asked := *choice
	config := func(meta record.Meta) (session.Config, error) {
		*choice = asked // a run in a recording may have chosen more
		var err error
		if s, err = t.output.open(cmd.Context(), meta, nil, t.sink); err != nil {
			return session.Config{}, err
		}
		show := s.show(meta.Scenario)
		c := session.Config{Record: s.record, Count: t.count, Wall: s.wall, Cut: t.env.signals.cut}
		c.Signal = t.signal
		if !t.allEvents && (len(args) > 0 && t.ran == nil || !asked.Empty()) {
			c.Pick = choice
		}
		// What a command's run showed its recording shows again.
		c.Chosen = func(r record.Choice) {
			if t.read != nil && r.Command != 0 && t.ran != nil {
				t.ran(r.Command, r.Time)
			} else if t.read != nil && r.Command != 0 && len(asked.PIDs) == 0 {
				choice.PIDs, choice.Follow = []uint32{r.Command}, true
			}
		}
		keep := func(c *conn.Connection, v verdict.Verdict) bool {
			if !choice.Match(c, v) {
				return false
			}
			t.failOn.see(c, v)
			if found != nil && t.kept != nil {
				found.Finder.End(c, &v)
			}
			return t.kept == nil || t.kept(c, v)
		}
		c.Show = func(c *conn.Connection, v verdict.Verdict) error {
			t.failOn.see(c, v) // also an end that is shown because its peer is
			return show(c, v)
		}
		// Where everything is kept, nobody need ask.
		if !asked.Empty() || len(args) > 0 || t.read != nil || t.kept != nil || t.failOn.asked() {
			c.Keep = keep
		}
		switch brief := s.brief(); {
		case brief != nil:
			c.Plain = brief.Brief
			if t.failOn.asked() {
				c.Plain = func(c *conn.Connection, v *verdict.Verdict) error {
					t.failOn.see(c, *v)
					return brief.Brief(c, v)
				}
			}
			c.Detail = brief.Detail()
			c.Brief = c.Detail == verdict.DetailRow
		case found != nil: // it asks for more than a plain ending tells
		case t.kept != nil: // rst: it keeps none
			c.Plain = func(end *conn.Connection, v *verdict.Verdict) error { return c.Show(end, *v) }
		}
		c.Time, c.Waits, c.Flush = t.time, t.waits, s.buf.Flush
		// A demo was judged at its end, with the whole story at hand.
		c.Join.Hold = meta.Scenario != ""
		return c, nil
	}
	t.env.signals.cuttable(nil)
	var counts session.Counts
	var status error
	if t.read != nil {
		counts, err = t.replay(cmd.Context(), func(m record.Meta) (session.Config, error) {
			if err := s.close(); err != nil {
				return session.Config{}, err
			}
			return config(m)
		})
	} else if err = t.output.create(cmd.Context()); err == nil {
		counts, status, err = t.live(cmd.Context(), args, choice, config)
	}
	err = errors.Join(err, s.close(), t.output.close())
	if s != nil {
		closing(t.env.stderr, counts)
	}
	if errors.Is(err, session.ErrCut) {
		return t.env.signals.short()
	}
	if err == nil {
		err = status
	}
	if err == nil {
		err = t.failOn.failed()
	}
	return err
}

// withFindings adds findings to what is shown, one for each run. Where not
// every ending is shown, they are told of all by the filter.
func (t *tracing) withFindings(found **report.FindingsSink) {
	inner := t.sink
	t.sink = func(w io.Writer, o report.Options) []report.Sink {
		*found = report.NewFindings(w, o, false)
		if inner != nil {
			all := inner(w, o)
			return append(all, told{*found})
		}
		sink, err := report.New(report.Format(t.format), w, o)
		if err != nil {
			return []report.Sink{*found} // check has refused the format
		}
		return []report.Sink{sink, *found}
	}
}

// told shows findings that are told of the endings elsewhere.
type told struct{ *report.FindingsSink }

func (told) End(report.Judged) error { return nil }

// replay reads the recordings.
func (t *tracing) replay(ctx context.Context, config func(record.Meta) (session.Config, error)) (session.Counts, error) {
	var in []io.Reader
	for _, name := range t.read {
		if name == "-" {
			in = append(in, session.Input(ctx, t.env.stdin))
			continue
		}
		f, err := os.Open(name)
		if err != nil {
			return session.Counts{}, fmt.Errorf("open the recording: %w", err)
		}
		defer f.Close()
		in = append(in, session.Input(ctx, f))
	}
	return session.Replay(io.MultiReader(in...), config)
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
	if !t.allEvents {
		kernelFilter = session.KernelFilter(choice)
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
		pulse := c.Pulse
		c.Pulse = func(s *session.Session) error {
			if pulse != nil {
				if err := pulse(s); err != nil {
					return err
				}
			}
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

// stories says whether connections whose life is plain may be told once, at their
// end: not where each step is to be shown, or where it must be known what is open.
func (t *tracing) stories(command bool) bool {
	if command || t.watch != nil || t.everyStep || t.allEvents || t.verbose || t.receive || t.stack {
		return false
	}
	switch report.Format(t.format) {
	case report.Table, report.CSV, report.JSON, formatResets:
		return true
	}
	return false
}

// started begins what waits for the trace.
func (t *tracing) started(command *session.Command, choice *filter.Filter, stop func()) error {
	if t.readyFile != "" {
		if err := ready(t.readyFile); err != nil {
			return fmt.Errorf("--ready-file: %w", err)
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

func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", ": ") }

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
	if err := excluded(cmd, "--open", "read", "write", "file-size", "file-count", "all-events", "duration", "ready-file", "receive", "attach", "fail-on"); err != nil {
		return err
	}
	if f := report.Format(t.format); f != report.Table && f != report.JSON {
		return usage(fmt.Errorf("-o %s: --open has the formats %s and %s", t.format, report.Table, report.JSON))
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
	shown := len(sockets)
	if t.count > 0 && uint64(shown) > t.count {
		sockets = sockets[:t.count]
	}
	w := bufio.NewWriter(t.env.stdout)
	if report.Format(t.format) == report.JSON {
		err = snapshot.JSON(w, sockets)
	} else {
		err = snapshot.Table(w, snapshot.Rows(sockets, t.verbose), look)
	}
	if err = errors.Join(err, w.Flush()); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	marked := 0
	for i := range sockets {
		if sockets[i].Mark().Marked() {
			marked++
		}
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
	fmt.Fprintf(t.env.stderr, "%d open, %d shown, %d will not end by %s; %d in TIME_WAIT\n", seen, len(sockets), marked, themselves, snap.TimeWait)
	return nil
}
