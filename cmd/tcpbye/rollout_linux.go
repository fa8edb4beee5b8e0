package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/tracer"
	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/filter"
	"github.com/tcpbye/tcpbye/tracer/report"
	"github.com/tcpbye/tcpbye/tracer/rollout"
	"github.com/tcpbye/tcpbye/tracer/session"
)

// rolling is a run of tcpbye rollout.
type rolling struct {
	tracing
	units  []string
	maxCut int
	settle time.Duration
	kill   string

	service filter.Filter
	name    string // of the service, for people
	named   bool   // by flags; else it is the command
	counter *rollout.Counter
	sent    event.Event // the signal that this program sends
	signals []event.Event
	watcher *tracer.Signals
	command rollout.Trigger
	shown   report.Options
	done    time.Time // since when all is over; zero: it is not

	witness *session.Witness
	silent  map[place]bool // connections of before the trace that may be open
	asked   time.Time
}

// endings are the signals that a rollout begins with.
var endings = []int{int(unix.SIGTERM), int(unix.SIGINT), int(unix.SIGQUIT), int(unix.SIGHUP), int(unix.SIGKILL), int(unix.SIGUSR2), int(unix.SIGWINCH)}

func newRollout(env environment) *cobra.Command {
	r := &rolling{tracing: tracing{output: output{env: env}}}
	cmd := &cobra.Command{
		Use:   "rollout [-- COMMAND [ARGUMENT…]]",
		Short: "count what a restart, a reload or a stop cuts",
		Long: `The connections of a service from the moment that it is told to end until the last
of them has: how many were open, how each ended, which bytes were lost, which
requests can be sent again, how long the drain took, and how many were cut. Cut is
a connection that the service or its kernel ended with a request unanswered or
unread, or with bytes of a response unacknowledged, and one that was refused or
never accepted; docs/ROLLOUT.md has the definition.

The service is named by its processes (-p with all that they started, --unit,
--container, --comm, --exe, --uid, --cgroup). With -- COMMAND as well, that command
does the rollout (systemctl restart x, kill -TERM 812), and the window begins with
it; --signal has tcpbye send the signal itself. Without either, it begins with the
first signal that tells the service to end or to read its configuration again: TERM, INT,
QUIT, HUP, KILL, USR2, WINCH. Where only COMMAND is given it is the service, and the window
begins with such a signal, or with the command.

The run ends once all connections that were open then have ended, the command has,
and --settle more time has passed; or on ^C. With -r all of the recording after the
beginning counts.`,
		Example: `  tcpbye rollout --unit nginx --max-cut 0 -- systemctl reload nginx
  tcpbye rollout -p 812 --signal TERM
  tcpbye rollout -r deploy.tcpbye --comm gunicorn -o json`,
		Args: commandArgs,
		RunE: r.rollout,
	}
	r.flags(cmd, report.Table)
	f := cmd.Flags()
	f.StringArrayVar(&r.units, "unit", nil, "the service is this systemd `UNIT`")
	f.IntVar(&r.maxCut, "max-cut", -1, "exit with status 1 when more than `N` connections were cut, and with 3 when that is not sure, as when none was seen; below 0: do not")
	f.DurationVar(&r.settle, "settle", time.Second, "go on so long after everything has ended, for what is refused meanwhile")
	f.StringVar(&r.kill, "signal", "", "with one -p: send the process this `SIGNAL` once everything is attached: TERM, QUIT, HUP")
	f.Lookup("output").Usage = "how to show: table, json"
	for _, name := range []string{"class", "cause", "count", "fail-on", "no-events", "verbose", "every-step", "all-events", "follow"} {
		_ = f.MarkHidden(name) // there is a flag of that name
	}
	return cmd
}

// who moves the conditions on processes from the filter to the service: everything
// else is traced, too, for what is refused.
func (r *rolling) who() error {
	c := &r.choose
	for _, u := range r.units {
		if !strings.Contains(u, ".") {
			u += ".service"
		}
		c.Containers = append(c.Containers, u)
	}
	s := filter.Spec{PIDs: c.PIDs, Follow: len(c.PIDs) > 0, Comms: c.Comms, Exes: c.Exes, Users: c.Users, Cgroups: c.Cgroups, Containers: c.Containers}
	c.PIDs, c.Follow, c.Comms, c.Exes, c.Users, c.Cgroups, c.Containers = nil, false, nil, nil, nil, nil, nil
	world := session.World()
	if r.read != nil {
		world = filter.World{}
	}
	f, err := filter.Parse(s, world)
	if err != nil {
		return err
	}
	r.service, r.named = *f, !f.Empty()
	var names []string
	for _, p := range s.PIDs {
		names = append(names, "pid "+p)
	}
	names = slices.Concat(names, s.Comms, s.Exes, s.Users, s.Cgroups, s.Containers)
	r.name = strings.Join(names, ", ")
	return nil
}

func (r *rolling) rollout(cmd *cobra.Command, args []string) error {
	if err := excluded(cmd, "rollout", "class", "cause", "count", "fail-on", "no-events", "verbose", "every-step", "all-events", "follow"); err != nil {
		return err
	}
	if r.format != string(report.Table) && r.format != string(report.JSON) {
		return usage(fmt.Errorf("-o %s: rollout has the formats table and json", r.format))
	}
	if err := r.who(); err != nil {
		return usage(err)
	}
	signal := unix.Signal(0)
	if r.kill != "" {
		if signal = unix.SignalNum("SIG" + strings.TrimPrefix(strings.ToUpper(r.kill), "SIG")); signal == 0 {
			return usage(fmt.Errorf("--signal %s: there is no such signal", r.kill))
		}
		if len(r.service.PIDs) != 1 || r.read != nil || len(args) > 0 {
			return usage(errors.New("--signal goes with one -p PID, and neither with -r nor with a command"))
		}
	}
	if !r.named && len(args) == 0 && r.read == nil {
		return usage(errors.New("whose rollout? name the service with -p, --unit, --container or --comm, or give a command that is it"))
	}
	if r.settle < 0 {
		return usage(fmt.Errorf("--settle %v: want a time to come", r.settle))
	}
	r.counter = rollout.New(rollout.Options{Mine: func(c *conn.Connection) bool {
		return !r.service.Empty() && r.service.MatchConnection(c)
	}})
	r.sink = func(_ io.Writer, o report.Options) []report.Sink {
		r.shown = o
		return []report.Sink{r}
	}
	r.ran = r.runs
	r.signal = func(e event.Event) {
		if rollout.Begins(&e, endings) && len(r.signals) < 1<<16 {
			r.signals = append(r.signals, e)
		}
	}
	if r.read == nil {
		r.watch = func(s *session.Session, c *session.Command) (bool, error) { return r.look(s, c, signal) }
		var err error
		if r.watcher, err = tracer.WatchSignals(endings...); err != nil {
			fmt.Fprintf(r.env.stderr, "tcpbye: %s; the window begins with the command, or with the trace\n", oneLine(err))
		}
		r.witness, _ = session.NewWitness(session.WitnessOptions{})
		defer r.witness.Close()
	}
	err := r.run(cmd, args)
	if werr := r.watcher.Close(); werr != nil {
		fmt.Fprintf(r.env.stderr, "tcpbye: %s\n", oneLine(werr))
	}
	if r.read != nil && r.service.Empty() {
		return errors.Join(err, usage(errors.New("whose rollout? the recording is not of a command: name the service with -p, --container or --comm")))
	}
	var status *statusError
	if err != nil && (!errors.As(err, &status) || status.err != nil) {
		return err
	}
	sum := report.Rollout{Summary: r.counter.Sum(r.trigger()), Service: r.name, MaxCut: r.maxCut}
	sum.EventsLost = r.lost
	write := sum.Write
	if r.format == string(report.JSON) {
		write = sum.JSON
	}
	if werr := write(r.env.stdout, r.shown); werr != nil {
		return werr
	}
	switch sum.Gate() {
	case rollout.GateCut:
		return &statusError{status: exitFailure}
	case rollout.GateUnsure:
		return &statusError{exitDegraded, fmt.Errorf("--max-cut %d: not sure: %s", r.maxCut, sum.Line())}
	}
	return err // the command's own status
}

// End and Close are the sink.
func (r *rolling) End(j report.Judged) error {
	r.counter.End(j.Conn, &j.Verdict)
	// While nothing has begun, what has ended is not of the rollout.
	if r.read == nil && r.counter.Rows() >= 1<<17 && r.trigger().Kind == rollout.TriggerTrace && (r.watcher != nil || r.kill != "") {
		r.counter.Forget(j.Conn.Last - time.Minute)
	}
	return nil
}

func (r *rolling) Close() error { return nil }

// runs is told of the command.
func (r *rolling) runs(pid uint32, at time.Duration) {
	r.command = rollout.Trigger{At: at, Kind: rollout.TriggerCommand, PID: pid}
	if !r.named {
		r.service.PIDs, r.service.Follow = []uint32{pid}, true
		r.name = fmt.Sprintf("pid %d", pid)
	}
}

// trigger is what began the rollout, as far as it is known.
func (r *rolling) trigger() rollout.Trigger {
	if r.named && r.command.Kind != "" {
		return r.command
	}
	for _, e := range r.signals {
		pid := uint32(e.Arg2)
		if slices.Contains(r.service.PIDs, pid) || r.counter.Knows(pid) {
			return rollout.Trigger{At: e.Time, Kind: rollout.TriggerSignal, Signal: int(e.Arg), PID: pid}
		}
	}
	if r.command.Kind != "" {
		return r.command
	}
	return rollout.Trigger{Kind: rollout.TriggerTrace}
}

// look says whether a live run has seen everything.
func (r *rolling) look(s *session.Session, command *session.Command, signal unix.Signal) (bool, error) {
	if r.watcher != nil {
		seen, err := r.watcher.Read()
		if err != nil {
			return false, err
		}
		for _, e := range seen {
			if err := s.Signal(e); err != nil {
				return false, err
			}
		}
	}
	if signal != 0 && r.sent.Time == 0 {
		if err := r.send(s, signal); err != nil {
			return false, err
		}
	}
	if r.silent == nil {
		r.silent = r.held()
	}
	t := r.trigger()
	if t.Kind == rollout.TriggerTrace && len(r.signals) > 0 {
		s.Following(func(c *conn.Connection) bool { r.counter.Meet(c); return false })
		t = r.trigger()
	}
	over := command != nil && command.Over(s)
	if t.Kind == rollout.TriggerTrace && !over || command != nil && !over || r.pending(s, t.At) {
		r.done = time.Time{}
		return false, nil
	}
	if r.done.IsZero() {
		r.done = time.Now()
	}
	return time.Since(r.done) >= r.settle, nil
}

// send sends the signal. Where signals are watched it is seen, too; the first counts.
func (r *rolling) send(s *session.Session, signal unix.Signal) error {
	at, err := tracer.Monotonic()
	if err != nil {
		return err
	}
	pid := r.service.PIDs[0]
	if err := unix.Kill(int(pid), signal); err != nil {
		return fmt.Errorf("send %s to process %d: %w", unix.SignalName(signal), pid, err)
	}
	r.sent = event.Event{Time: at, Hook: event.HookSignal, Context: event.ContextProcess, Arg: int32(signal), Arg2: int32(pid)}
	if r.trigger().Kind == rollout.TriggerTrace {
		return s.Signal(r.sent)
	}
	return nil
}

// pending says whether connections are open that were when the rollout began.
func (r *rolling) pending(s *session.Session, begin time.Duration) bool {
	if s.Following(func(c *conn.Connection) bool {
		return c.Ended == 0 && c.First < begin && c.Service() != conn.OtherSide && r.service.MatchConnection(c)
	}) {
		return true
	}
	// Of those of before the trace nothing may have been told since.
	if len(r.silent) > 0 && time.Since(r.asked) >= time.Second {
		r.asked = time.Now()
		now := r.held()
		maps.DeleteFunc(r.silent, func(p place, _ bool) bool { return !now[p] })
	}
	return len(r.silent) > 0
}

// held are the connections that the service's processes hold now; nil: that cannot be
// asked with the privileges that are left.
func (r *rolling) held() map[place]bool {
	seeds, err := session.Existing(r.witness)
	if err != nil {
		return nil
	}
	held := map[place]bool{}
	for _, x := range seeds {
		if x.Owner != nil && x.State != event.Listen && r.service.MatchProcess(x.Owner) {
			held[place{x.NetNS, x.Local, x.Remote}] = true
		}
	}
	return held
}

// place is where a connection is.
type place struct {
	netns         uint32
	local, remote netip.AddrPort
}
