package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/enrich"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/export"
	"github.com/tcpbye/tcpbye/tracer/export/journal"
	"github.com/tcpbye/tcpbye/tracer/export/metrics"
	"github.com/tcpbye/tcpbye/tracer/export/otlp"
	"github.com/tcpbye/tcpbye/tracer/export/queue"
	"github.com/tcpbye/tcpbye/tracer/filter"
	"github.com/tcpbye/tcpbye/tracer/record"
	"github.com/tcpbye/tcpbye/tracer/report"
	"github.com/tcpbye/tcpbye/tracer/session"
	"github.com/tcpbye/tcpbye/tracer/snapshot"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// lineFormats are those in which an event is one line, which collectors read.
var lineFormats = []report.Format{report.JSON, report.Logfmt, report.ECS, report.OCSF}

// settingsFile is read where it is there.
const settingsFile = "/etc/tcpbye/export.conf"

// exporting is the command export: the settings of the agent.
type exporting struct {
	tracing
	file    string
	check   bool
	catalog bool

	listen      string
	metricsFile string
	labels      []string
	labelCap    int
	sample      float64
	journal     bool
	otlp        otlpFlags

	pods *enrich.Pods // nil: of a recording, whose pods are gone
}

func newExport(env environment) *cobra.Command {
	x := &exporting{}
	x.env = env
	cmd := x.command()
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return x.run(cmd) }
	return cmd
}

func (x *exporting) command() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "export",
		Short: "run as a service: metrics, events, a ring of recordings",
		Long: `The agent: it counts every connection end for Prometheus (--listen), and sends an
event for each that did not end gracefully, and for a sample of the others.
Nothing is listened on and nothing is sent but what is asked for.

Each flag is a setting, too: in the environment, --label-cap as TCPBYE_LABEL_CAP; in
the file of --config, as a line "label-cap = 50". The command line wins over the
environment, and that over the file. SIGHUP reads the file again: the filters, the
sample, and where to send and to listen change at once; of other changed settings it
says that they wait for the next start. --check says what is wrong with the settings,
and ends.

With -w and -C, -W the events of the kernel go into a ring of recordings, which
tcpbye trace -r shows in full. A recording that cannot be written on, as on a full
disk, ends there; the rest goes on.`,
		Args: usageArgs(cobra.NoArgs),
	}
	x.reloads = true
	x.filterFlags(cmd)
	x.recordFlags(cmd)
	x.attach.flag(cmd)
	f := cmd.Flags()
	f.StringVarP(&x.write, "write", "w", "", "record the events in `FILE`")
	f.StringVar(&x.file, "config", settingsFile, "read settings from `FILE`, too; the default one need not be there")
	f.BoolVar(&x.check, "check", false, "say what is wrong with the settings, and end")
	f.StringVar(&x.listen, "listen", "", "serve /metrics for Prometheus at `ADDRESS`: PORT or :PORT on loopback, or HOST:PORT")
	f.StringVar(&x.metricsFile, "metrics-file", "", "write the metrics to `FILE` every 15 s and at the end, as node_exporter's textfile collector reads them")
	f.StringSliceVar(&x.labels, "label", nil, "count apart by these `LABELS` of the process that held the connection: process, container, pod")
	f.IntVar(&x.labelCap, "label-cap", 100, "count `N` combinations of those labels apart, the rest as other")
	f.StringVarP(&x.format, "output", "o", formatNone, "write events to standard output, one a line: "+lineNames(lineFormats))
	f.BoolVar(&x.journal, "journal", false, "write events to systemd's journal")
	f.BoolVar(&x.catalog, "catalog", false, "print the message catalog for journalctl -x, and end")
	f.Float64Var(&x.sample, "sample", 0.01, "the `SHARE` (0 to 1) of the graceful ends that become events, too, for OTLP and -o: both ends of a connection, or neither")
	x.otlp.flags(f)
	return cmd
}

func lineNames(formats []report.Format) string {
	var all []string
	for _, f := range formats {
		all = append(all, string(f))
	}
	return strings.Join(all, ", ")
}

// notSettings are the flags that say what one call is to do.
var notSettings = []string{"config", "check", "catalog", "read", "duration", "ready-file"}

// fill takes what the command line left to the environment and the file.
func (x *exporting) fill(cmd *cobra.Command, s *settings) error {
	path, must := settingsFile, false
	if v := x.env.getenv(variable("config")); v != "" {
		path, must = v, true
	}
	if v := s.given["config"]; v != nil {
		path, must = v[0], true
	}
	return s.fill(cmd.Flags(), path, must)
}

// plan is what the settings come to.
type plan struct {
	filter *filter.Filter
	sample export.Sample
	listen string    // HOST:PORT; "": nowhere
	otlp   *otlpPlan // nil: nothing is sent
}

// plan reads the settings and says what is wrong with them.
func (x *exporting) plan(cmd *cobra.Command) (p plan, err error) {
	if x.format != formatNone && !slices.Contains(lineFormats, report.Format(x.format)) {
		return p, fmt.Errorf("-o %s: want one of %s", x.format, lineNames(lineFormats))
	}
	if x.write == "-" {
		return p, errors.New("-w -: want a file, standard output is for events")
	}
	x.color = "never"
	if p.filter, err = x.tracing.check(cmd, nil); err != nil {
		return p, err
	}
	if p.sample, err = export.NewSample(x.sample); err != nil {
		return p, fmt.Errorf("--sample: %w", err)
	}
	if p.listen, err = listenAddress(x.listen); err != nil {
		return p, err
	}
	if _, err := metrics.New(x.metricOptions()); err != nil {
		return p, fmt.Errorf("--label: %w", err)
	}
	p.otlp, err = x.otlp.plan(x.env.getenv)
	return p, err
}

func (x *exporting) metricOptions() metrics.Options {
	labels := make([]string, len(x.labels))
	for i, l := range x.labels {
		labels[i] = strings.TrimSpace(l) // "process, pod" in a file
	}
	return metrics.Options{Labels: labels, Cap: x.labelCap, Version: version(), Pods: x.pods}
}

// listenAddress is on loopback unless a host is named.
func listenAddress(text string) (string, error) {
	if text == "" {
		return "", nil
	}
	if !strings.Contains(text, ":") {
		text = ":" + text
	}
	host, port, err := net.SplitHostPort(text)
	if err == nil {
		_, err = net.LookupPort("tcp", port)
	}
	if err != nil || port == "" {
		return "", fmt.Errorf("--listen %s: want PORT, or HOST:PORT", text)
	}
	if host == "" {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port), nil
}

func (x *exporting) run(cmd *cobra.Command) error {
	if x.catalog {
		_, err := io.WriteString(x.env.stdout, journal.Catalog())
		return err
	}
	s := newSettings(cmd.Flags(), x.env.getenv, notSettings...)
	if err := x.fill(cmd, s); err != nil {
		return usage(err)
	}
	p, err := x.plan(cmd)
	if err != nil {
		return usage(err)
	}
	if x.check {
		_, err := fmt.Fprintln(x.env.stdout, "the settings are in order")
		return err
	}
	a, err := newAgent(x, p)
	if err != nil {
		return err
	}
	x.ready = func() error { return notify("READY=1") }
	a.reload = func() error {
		next := &exporting{}
		next.env = x.env
		cmd := next.command()
		if err := next.fill(cmd, s); err != nil {
			return err
		}
		p, err := next.plan(cmd)
		if err != nil {
			return err
		}
		a.change(next, p)
		return nil
	}
	defer x.env.signals.hangup(nil)
	a.mu.Lock()
	x.env.signals.hangup(a.hangup) // whoever is answered may send a SIGHUP
	err = a.serve(p.listen)
	a.mu.Unlock()
	if err != nil {
		return errors.Join(err, a.close())
	}
	counts, err := a.run(cmd.Context())
	err = errors.Join(err, a.close())
	closing(x.env.stderr, counts)
	return err
}

// agent is what export runs.
type agent struct {
	*exporting
	metrics *metrics.Metrics
	choice  atomic.Pointer[filter.Filter]
	picked  atomic.Pointer[filter.Filter] // what the recording was begun with; nil: there is none
	sampled atomic.Pointer[export.Sample]
	events  []report.Sink   // where events go, those in the sample, too
	people  *journal.Writer // the journal, which gets no sample; nil: none is written
	otlp    *otlp.Exporter  // nil: nothing is sent
	out     *bufio.Writer   // standard output
	// sampling: what a sample needs is asked for, so that it may be another one.
	sampling atomic.Bool
	lines    report.Sink // to it; nil: none
	clock    report.Clock
	stats    losses
	reload   func() error

	mu     sync.Mutex // one SIGHUP after the other, and none while it starts or ends
	server *server
	ending bool
	files  *time.Ticker // writes the metrics' file
	done   chan struct{}
}

func newAgent(x *exporting, p plan) (*agent, error) {
	if x.read == nil {
		x.pods = enrich.NewPods("/var/log/containers")
	}
	a := &agent{exporting: x, clock: report.Clock{Set: &report.Settings{}}, done: make(chan struct{})}
	var err error
	if a.metrics, err = metrics.New(x.metricOptions()); err != nil {
		return nil, err
	}
	if err := a.metrics.Lost(a.stats.read); err != nil {
		return nil, err
	}
	if x.read == nil {
		if err := a.metrics.Open(openStates); err != nil {
			return nil, err
		}
	}
	a.status = newStatusLine(nil) // nothing is shown on a terminal
	a.choice.Store(p.filter)
	a.sampled.Store(&p.sample)
	if err := a.metrics.Outputs(a.outputs); err != nil {
		return nil, err
	}
	quietPipes()
	a.out = bufio.NewWriterSize(x.env.stdout, 1<<16)
	if err := a.open(p); err != nil {
		return nil, errors.Join(err, a.close())
	}
	if x.metricsFile != "" {
		if err := a.metrics.WriteFile(x.metricsFile); err != nil {
			return nil, errors.Join(err, a.close())
		}
		a.files = time.NewTicker(15 * time.Second)
		go a.writeFiles()
	}
	return a, nil
}

// openStates are the states of the sockets that there are.
func openStates() ([]event.State, error) {
	_, sockets, err := snapshot.Here(snapshot.Options{})
	if err != nil {
		return nil, err
	}
	states := make([]event.State, len(sockets))
	for i := range sockets {
		states[i] = sockets[i].State
	}
	return states, nil
}

// open starts the outputs of events.
func (a *agent) open(p plan) (err error) {
	if a.exporting.journal {
		if a.people, err = journal.New(a.clock, a.limited("the journal")); err != nil {
			return fmt.Errorf("--journal: %w", err)
		}
	}
	if p.otlp == nil {
		return nil
	}
	host, id, err := hostOf(a.read != nil)
	if err != nil {
		return err
	}
	say := a.limited("OTLP")
	q, err := queue.Open(p.otlp.queue, p.otlp.bytes, func(err error) { say(err.Error()) })
	if err != nil {
		return fmt.Errorf("--otlp-queue: %w", err)
	}
	a.otlp, err = otlp.New(otlp.Options{Target: p.otlp.target, Traces: a.exporting.otlp.traces, Gzip: a.exporting.otlp.gzip,
		Host: host, HostID: id, Pods: a.pods, Version: version(), Clock: a.clock, Queue: q, Say: say, Last: func(text string) { a.say("OTLP: %s", text) }})
	return err
}

// outputs are what became of events.
func (a *agent) outputs() (all []metrics.Output) {
	if a.otlp != nil {
		c := a.otlp.Waiting()
		all = append(all, metrics.Output{Name: "otlp", Sent: a.otlp.Sent(), Dropped: c.Dropped, Queued: &c.Records, Bytes: c.Bytes})
	}
	if a.people != nil {
		sent, dropped := a.people.Counts()
		all = append(all, metrics.Output{Name: "journal", Sent: sent, Dropped: dropped})
	}
	return all
}

// sinks are where the events of a run go.
func (a *agent) sinks() (all []report.Sink, err error) {
	if a.otlp != nil {
		a.otlp.SetOffset(a.clock.Offset)
		all = append(all, a.otlp)
	}
	if a.people != nil {
		a.people.SetOffset(a.clock.Offset)
	}
	if a.format == formatNone {
		return all, nil
	}
	host, _, err := hostOf(a.read != nil)
	if err != nil {
		return nil, err
	}
	a.lines, err = report.New(report.Format(a.format), a.out, report.Options{Clock: a.clock, NoEvents: true, Host: host})
	return append(all, a.lines), err
}

// run traces this machine, or reads recordings.
func (a *agent) run(ctx context.Context) (session.Counts, error) {
	if a.read != nil {
		counts, err := a.replay(ctx, a.config)
		a.stats.replayed(counts.Lost)
		return counts, err
	}
	if err := a.output.create(ctx); err != nil {
		return session.Counts{}, err
	}
	counts, _, err := a.tracing.live(ctx, nil, a.choice.Load(), a.config)
	return counts, err
}

// config is that of a run's session.
func (a *agent) config(meta record.Meta) (session.Config, error) {
	a.clock.Offset = meta.Offset
	sinks, err := a.sinks()
	if err != nil {
		return session.Config{}, err
	}
	a.events = sinks
	recorder, _, err := a.output.recording(context.Background(), meta)
	if err != nil {
		return session.Config{}, err
	}
	choice := a.choice.Load()
	c := session.Config{
		Wall:  func(w record.Wall) { a.clock.Set.Add(w.Time, w.Offset) },
		Flush: a.out.Flush,
		Stats: a.stats.live,
		Show: func(c *conn.Connection, v verdict.Verdict) error {
			a.metrics.End(c, &v)
			if export.Ended(&v) && (export.Notable(&v) || a.samples(c)) {
				return a.event(c, &v)
			}
			return nil
		},
		Plain: func(c *conn.Connection, v *verdict.Verdict) error {
			a.metrics.End(c, v)
			if a.sampling.Load() && a.samples(c) {
				return a.event(c, v)
			}
			return nil
		},
		Drained: a.stats.drained,
	}
	if recorder != nil {
		c.Record = &lenient{Recorder: recorder, say: a.say}
		a.picked.Store(choice)
	}
	switch {
	case len(sinks) == 0 && a.people == nil:
		c.Brief = true // counting asks for little
	case len(sinks) > 0 && !a.sampled.Load().Empty():
		c.Detail = verdict.DetailVerdict
		a.sampling.Store(true)
	}
	// There may be a filter after a SIGHUP, and labels want to know who held a connection.
	c.Keep = func(c *conn.Connection, v verdict.Verdict) bool { return a.choice.Load().Match(c, v) }
	if !a.allEvents && !choice.Empty() {
		c.Pick = choice
	}
	return c, nil
}

// samples says whether an end without a trouble is an event.
func (a *agent) samples(c *conn.Connection) bool {
	return len(a.events) > 0 && a.sampled.Load().Has(export.Trace(c))
}

func (a *agent) event(c *conn.Connection, v *verdict.Verdict) error {
	j := report.Judged{Conn: c, Verdict: *v}
	if a.people != nil && export.Notable(v) {
		_ = a.people.End(j) // which counts what it cannot write
	}
	for _, s := range a.events {
		if err := s.End(j); err != nil {
			return err
		}
	}
	return nil
}

func (a *agent) say(format string, args ...any) {
	fmt.Fprintf(a.env.stderr, "tcpbye: "+format+"\n", args...)
}

// limited says what one part has to say at most once a minute.
func (a *agent) limited(who string) func(text string) {
	var mu sync.Mutex
	var last time.Time
	unsaid := 0
	return func(text string) {
		mu.Lock()
		defer mu.Unlock()
		if now := time.Now(); last.IsZero() || now.Sub(last) >= time.Minute {
			if unsaid > 0 {
				text += fmt.Sprintf(" (and %d messages before it)", unsaid)
			}
			a.say("%s: %s", who, oneLine(errors.New(text)))
			last, unsaid = now, 0
			return
		}
		unsaid++
	}
}

// hangup takes a SIGHUP.
func (a *agent) hangup() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ending {
		return
	}
	_ = notify("RELOADING=1")
	defer func() { _ = notify("READY=1") }()
	if err := a.reload(); err != nil {
		a.say("the settings stay as they were: %v", err)
	}
}

// change takes new settings while it runs.
func (a *agent) change(next *exporting, p plan) {
	if err := a.serve(p.listen); err != nil {
		a.say("the settings stay as they were: %v", err)
		return
	}
	if a.otlp != nil && p.otlp != nil {
		if err := a.otlp.Retarget(p.otlp.target); err != nil {
			a.say("--otlp stays as it was: %v", err)
		}
	}
	a.choice.Store(p.filter)
	if a.sampling.Load() {
		a.sampled.Store(&p.sample)
	}
	a.say("the settings were read again%s", a.later(next, p.filter))
}

// later names the settings that changed and wait for the next start.
func (a *agent) later(next *exporting, choice *filter.Filter) string {
	picked := a.picked.Load() // the filter is the recording's, too
	var names []string
	for name, differs := range map[string]bool{
		"sample": !a.sampling.Load() && a.sample != next.sample,
		"label":  !slices.Equal(a.labels, next.labels), "label-cap": a.labelCap != next.labelCap, "metrics-file": a.metricsFile != next.metricsFile,
		"journal": a.exporting.journal != next.journal, "output": a.format != next.format, "attach": a.attach != next.attach,
		"write": a.write != next.write || a.fileSize != next.fileSize || a.fileCount != next.fileCount || a.allEvents != next.allEvents ||
			picked != nil && !a.allEvents && !reflect.DeepEqual(picked, choice),
		"otlp": (a.exporting.otlp.url == "") != (next.otlp.url == ""), "otlp-traces": a.exporting.otlp.traces != next.otlp.traces,
		"otlp-gzip": a.exporting.otlp.gzip != next.otlp.gzip, "otlp-queue": a.exporting.otlp.queue != next.otlp.queue || a.exporting.otlp.queueSize != next.otlp.queueSize,
	} {
		if differs {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return ""
	}
	slices.Sort(names)
	return "; these wait for the next start: " + strings.Join(names, ", ")
}

// serve listens at an address, and no longer at the one before; a.mu is held. After an
// error it listens where it did, if it can.
func (a *agent) serve(address string) error {
	before := a.server
	if before != nil && before.address == address {
		return nil
	}
	// At the same port the one before may be in the way.
	early := before != nil && address != "" && samePort(before.address, address)
	if early {
		a.leave()
	}
	var next *server
	if address != "" {
		var err error
		if next, err = newServer(address, a.metrics.Handler()); err != nil {
			if early {
				var again error
				if a.server, again = newServer(before.address, a.metrics.Handler()); again != nil {
					err = fmt.Errorf("%w; and nothing is served at %s any more: %w", err, before.address, again)
				}
			}
			return err
		}
	}
	a.leave()
	a.server = next
	return nil
}

// leave ends the server, whose error is none of what comes after it.
func (a *agent) leave() {
	if err := a.server.close(); err != nil {
		a.say("%v", err)
	}
	a.server = nil
}

// samePort says whether two addresses, which are in order, have one port.
func samePort(one, other string) bool {
	port := func(address string) int {
		_, name, _ := net.SplitHostPort(address)
		n, _ := net.LookupPort("tcp", name)
		return n
	}
	return port(one) == port(other)
}

func (a *agent) writeFiles() {
	for {
		select {
		case <-a.files.C:
			if err := a.metrics.WriteFile(a.metricsFile); err != nil {
				a.say("%v", err)
			}
		case <-a.done:
			return
		}
	}
}

func (a *agent) close() error {
	a.mu.Lock()
	a.ending = true
	a.mu.Unlock()
	_ = notify("STOPPING=1")
	var err error
	if a.lines != nil {
		err = a.lines.Close()
	}
	err = errors.Join(err, a.out.Flush(), a.output.close())
	if a.people != nil {
		err = errors.Join(err, a.people.Close())
	}
	if a.otlp != nil {
		err = errors.Join(err, a.otlp.Close())
	}
	close(a.done)
	if a.files != nil {
		a.files.Stop()
		err = errors.Join(err, a.metrics.WriteFile(a.metricsFile))
	}
	err = errors.Join(err, a.server.close())
	a.server = nil
	return err
}

// server serves the metrics.
type server struct {
	address string
	http    *http.Server
	ended   chan error
}

func newServer(address string, h http.Handler) (*server, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("--listen: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("/metrics", h)
	s := &server{address: address, ended: make(chan error, 1),
		http: &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: 2 * time.Minute, WriteTimeout: time.Minute}}
	go func() { s.ended <- s.http.Serve(l) }()
	return s, nil
}

// close ends it; whoever is being answered has a moment.
func (s *server) close() error {
	if s == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := s.http.Shutdown(ctx); err != nil {
		_ = s.http.Close()
	}
	if err := <-s.ended; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve the metrics at %s: %w", s.address, err)
	}
	return nil
}

// losses are the tracer's counters, also once it has ended.
type losses struct {
	mu   sync.Mutex
	ask  func() (session.Losses, error)
	last session.Losses
	// recorded is what recordings say that was lost when they were made.
	recorded uint64
}

func (l *losses) live(read func() (session.Losses, error)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ask = read
}

// drained keeps what the tracer told last.
func (l *losses) drained() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.update()
	l.ask = nil
}

func (l *losses) replayed(n uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.recorded = n
}

func (l *losses) update() {
	if l.ask == nil {
		return
	}
	if s, err := l.ask(); err == nil {
		l.last = s
	}
}

func (l *losses) read() ([]metrics.Reading, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.update()
	s := l.last
	return []metrics.Reading{
		{Label: "ring-full", Value: float64(s.Ring)}, {Label: "not-run", Value: float64(s.Skipped)},
		{Label: "behind", Value: float64(s.Queue)}, {Label: "not-understood", Value: float64(s.Decode)},
		{Label: "recorded", Value: float64(l.recorded)}, // before, as a recording tells that is read
	}, nil
}
