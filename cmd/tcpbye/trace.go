package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/filter"
	"github.com/tcpbye/tcpbye/tracer/record"
	"github.com/tcpbye/tcpbye/tracer/report"
	"github.com/tcpbye/tcpbye/tracer/session"
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
	numbers   bool // nothing: no name is ever looked up
	status    *statusLine
	// everything: --open also shows what will end by itself.
	everything bool
	fileSize   string
	fileCount  int
	allEvents  bool
	everyStep  bool
	failOn     failOn

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
	// lost is how many events were, once the run is over.
	lost uint64
	// split is called where a filter, now or when it was recorded, may have kept one
	// connection of a process and not another; nil: nobody asks.
	split func()
	// signal is told of signals between processes; nil: nobody.
	signal func(event.Event)
	// time is what the session tells its own time; nil: nobody.
	time func(now time.Duration) error
	// pulse is called while a live run goes on; nil: see session.Config.
	pulse func(*session.Session)
	// waits says whether something is due at a time; nil: see session.Config.
	waits func() bool
	// reloads: the filters may change while it runs, so the kernel half, where a socket
	// is chosen or not when it is first seen, has none.
	reloads bool
	// ready is called when everything is attached; nil: nobody is told.
	ready func() error
}

// formatNone shows nothing.
const formatNone = ""

func (t *tracing) flags(cmd *cobra.Command, format report.Format) {
	t.output.flags(cmd, format)
	t.chooseFlags(cmd)
	t.recordFlags(cmd)
	f := cmd.Flags()
	f.BoolVar(&t.everyStep, "every-step", false, "have the kernel tell every step of every connection as it happens, also of one that is plain; costs ten times as much")
	f.BoolVar(&t.receive, "receive", false, "also watch every recv(2), to tell exactly what the application was told; costs a little for each call")
	f.BoolVar(&t.stack, "stack", false, "take the user stack at close, shutdown and exit, and show functions with file and line")
}

// chooseFlags say which endings are shown, and which fail.
func (t *tracing) chooseFlags(cmd *cobra.Command) {
	t.filterFlags(cmd)
	f := cmd.Flags()
	f.BoolVar(&t.noEvents, "no-events", false, "with -o json: leave the events out, which are most of each record")
	f.Uint64VarP(&t.count, "count", "c", 0, "stop after showing so many endings; 0: on ^C")
	f.BoolVar(&t.findings, "findings", false, "at the end, also show what many endings have in common (tcpbye findings)")
	f.BoolVarP(&t.numbers, "numbers", "n", false, "as in tcpdump, and always so: addresses and ports stay numbers")
	f.Var(&t.failOn, "fail-on", "exit with status 1 when one of the chosen connections ended as one of these `ENDINGS`: classes, causes, unanswered, with commas (aborted,retransmit-timeout); a harmless reset only when its cause is named")
}

// filterFlags say which connections.
func (t *tracing) filterFlags(cmd *cobra.Command) {
	f, c := cmd.Flags(), &t.choose
	f.StringArrayVarP(&c.PIDs, "pid", "p", nil, "only connections of the process `PID`: it opened them, holds them, or acted on them")
	f.BoolVar(&c.Follow, "follow", false, "with -p: and those of its descendants")
	f.StringArrayVar(&c.Comms, "comm", nil, "only those of processes or threads of this `NAME` (may be a glob)")
	f.StringArrayVar(&c.Exes, "exe", nil, "only those of this executable: a `PATH`, or a name (may be a glob)")
	f.StringArrayVar(&c.Users, "uid", nil, "only those of this `USER`, by number or name")
	f.StringArrayVar(&c.Cgroups, "cgroup", nil, "only those of the cgroup at `PATH`, and below it")
	f.StringArrayVar(&c.Containers, "container", nil, "only those of the container whose id begins with `ID` (also RUNTIME/ID, or a systemd unit)")
	f.StringArrayVar(&c.Ports, "port", nil, "only those with one of these `PORTS` at either end: 80,https,8000-8099")
	f.StringArrayVar(&c.LocalPorts, "lport", nil, "only those with one of these `PORTS` at this end")
	f.StringArrayVar(&c.PeerPorts, "rport", nil, "only those with one of these `PORTS` at the other end")
	f.StringArrayVar(&c.Local, "local", nil, "only those with this local `ADDRESS` or prefix: 10.0.0.0/8")
	f.StringArrayVar(&c.Remote, "remote", nil, "only those with this remote `ADDRESS` or prefix, or the name of a host")
	f.StringArrayVar(&c.NetNS, "netns", nil, "only those in this network `NAMESPACE`: inode number, name or path")
	f.StringArrayVar(&c.Classes, "class", nil, "only endings of this `CLASS`: graceful, aborted, timed-out, refused, open, unknown")
	f.StringArrayVar(&c.Causes, "cause", nil, "only endings with this `CAUSE` (tcpbye explain lists them)")
}

// recordFlags are those for recordings, and for how long.
func (t *tracing) recordFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringArrayVarP(&t.read, "read", "r", nil, "read a recording from `FILE` (- for standard input) instead of tracing; several are read in their order")
	f.StringVarP(&t.fileSize, "file-size", "C", "", "with -w: go on in another file after `SIZE` million bytes (or 64k, 10m, 1g)")
	f.IntVarP(&t.fileCount, "file-count", "W", 0, "with -C: keep the last `COUNT` files")
	f.BoolVar(&t.allEvents, "all-events", false, "with -w: record what the filters leave out, too")
	f.StringVar(&t.readyFile, "ready-file", "", "create `FILE` once everything is attached")
	f.DurationVar(&t.duration, "duration", 0, "stop after this long; 0: on ^C")
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
			if t.everything {
				return usage(errors.New("--all goes with --open: trace shows every end that the filters choose"))
			}
			return t.run(cmd, args)
		},
	}
	t.flags(cmd, report.Table)
	cmd.Flags().BoolVar(&open, "open", false, "show what is open now and will not end by itself, and end")
	cmd.Flags().BoolVar(&t.everything, "all", false, "with --open: everything that is open")
	return cmd
}

// commandArgs takes a command after two dashes and nothing else.
func commandArgs(cmd *cobra.Command, args []string) error {
	switch n := cmd.ArgsLenAtDash(); {
	case n < 0 && len(args) > 0:
		if flags := flagsFor(args); flags != "" {
			return usage(fmt.Errorf("%q: there are no expressions as in tcpdump; use %s", strings.Join(args, " "), flags))
		}
		return usage(fmt.Errorf("%q: a command to run comes after --", args[0]))
	case n > 0:
		return usage(fmt.Errorf("%q before --: a command to run comes after it", args[0]))
	case n == 0 && len(args) == 0:
		return usage(errors.New("which command? there is none after --"))
	}
	return nil
}

// flagsFor says with which flags one says what an expression of tcpdump does, or a bare
// PID as for strace; "": it is none.
func flagsFor(args []string) string {
	var flags []string
	for i := 0; i < len(args); i++ {
		word := args[i]
		if word == "tcp" || word == "and" || word == "src" || word == "dst" {
			continue
		}
		if _, err := strconv.ParseUint(word, 10, 31); err == nil && len(args) == 1 {
			return "-p " + word + " for a process, --port " + word + " for a port"
		}
		flag := map[string]string{"port": "--port", "portrange": "--port", "host": "--remote", "net": "--remote"}[word]
		if flag == "" || i+1 == len(args) {
			return ""
		}
		i++
		flags = append(flags, flag+" "+args[i])
	}
	return strings.Join(flags, " ")
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
		// A recording may come from another machine.
		world = filter.World{Service: world.Service, Host: world.Host}
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
	if t.findings && slices.ContainsFunc(t.formats(), func(f report.Format) bool { return f != report.Table && f != formatResets }) {
		return nil, usage(fmt.Errorf("--findings goes with the format %s: for JSON there is tcpbye findings -o json", report.Table))
	}
	if t.noEvents && !slices.Contains(t.formats(), report.JSON) {
		return nil, usage(errors.New("--no-events goes with -o json"))
	}
	if t.allEvents && t.write == "" {
		return nil, usage(errors.New("--all-events goes with -w FILE"))
	}
	if err := t.columnsAsked(); err != nil {
		return nil, usage(err)
	}
	// What is wrong with the output is said before anything is attached.
	if _, err := t.options(report.Clock{}); err != nil {
		return nil, err
	}
	for _, f := range t.formats() {
		if f != formatNone && !slices.Contains(report.Formats(), f) && (t.sink == nil || f != report.Format(t.format)) {
			_, err := report.New(f, io.Discard, report.Options{})
			return nil, usage(err)
		}
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
func rotation(text string, count int, file string) (record.Rotation, error) {
	r := record.Rotation{Count: count}
	switch {
	case count < 0:
		return r, fmt.Errorf("-W %d: want a number of files", count)
	case text == "" && count > 0:
		return r, errors.New("-W goes with -C, which says when to begin another file")
	case text == "":
		return r, nil
	case file == "" || file == "-":
		return r, errors.New("-C goes with -w FILE")
	}
	var err error
	if r.Size, err = size(text); err != nil {
		return r, fmt.Errorf("-C %s: %w", text, err)
	}
	return r, nil
}

// size reads millions of bytes, or what has a unit.
func size(text string) (int64, error) {
	unit := int64(1_000_000)
	number := strings.TrimRight(strings.ToLower(text), "kmg")
	switch strings.ToLower(strings.TrimPrefix(text, number)) {
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
		return 0, errors.New("want a size such as 10 (million bytes), 64k, 10m or 1g")
	}
	return n * unit, nil
}

func (t *tracing) run(cmd *cobra.Command, args []string) error {
	choice, err := t.check(cmd, args)
	if err != nil {
		return err
	}
	var s *printer
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
		if t.split != nil && asked.Splits() {
			t.split()
		}
		show := s.show(meta.Scenario)
		c := session.Config{Record: s.record, Count: t.count, Wall: s.wall, Cut: t.env.signals.cut}
		c.Signal = t.signal
		if !t.allEvents && (len(args) > 0 && t.ran == nil || !asked.Empty()) {
			c.Pick = choice
		}
		// What a command's run showed its recording shows again.
		c.Chosen = func(r record.Choice) {
			for _, b := range r.Filters {
				var f filter.Filter
				// The session says what is wrong with one that cannot be read.
				if t.split != nil && json.Unmarshal(b, &f) == nil && f.Splits() {
					t.split()
				}
			}
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
		c.Time, c.Waits = t.time, t.waits
		c.Flush = func() error { return errors.Join(s.buf.Flush(), t.output.flush()) }
		// A demo was judged at its end, with the whole story at hand.
		c.Join.Hold = meta.Scenario != ""
		return c, nil
	}
	t.env.signals.cuttable(nil)
	var counts session.Counts
	var status error
	defer t.talk(len(args) > 0)()
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
	t.status.end()
	t.lost = counts.Lost
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
	in, err := openRecordings(ctx, t.read, t.env.stdin)
	if err != nil {
		return session.Counts{}, err
	}
	defer in.close()
	if t.status != nil {
		in.told = func(done string) {
			t.status.progress.Store(&done)
			t.status.tick(t.env.stderr)
		}
	}
	counts, err := session.Replay(in, config)
	return counts, in.named(err)
}

// talk has what is said while something runs kept apart from what is shown, until the
// function that it returns is called. What a command says is its own.
func (t *tracing) talk(command bool) (stop func()) {
	stderr, noSignal := t.env.stderr, func() {}
	if t.status = newStatusLine(stderr); command {
		t.status.terminal = nil
	}
	noSignal = t.status.onSignal()
	t.env.stderr, t.beside = t.status.writer(stderr), t.status.writer(t.env.stdout)
	return func() {
		noSignal()
		t.status.end()
		t.env.stderr, t.beside = stderr, nil
	}
}

// stories says whether connections whose life is plain may be told once, at their
// end: not where each step is to be shown, or where it must be known what is open.
func (t *tracing) stories(command bool) bool {
	if command || t.watch != nil || t.everyStep || t.allEvents || t.verbose || t.receive || t.stack {
		return false
	}
	return !slices.ContainsFunc(t.formats(), func(f report.Format) bool {
		return !slices.Contains([]report.Format{report.Table, report.CSV, report.JSON, report.Logfmt, report.ECS, report.OCSF, formatResets, formatNone}, f)
	})
}

func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", ": ") }
