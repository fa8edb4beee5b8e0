package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tcpbye/tcpbye/demo/pair"
	"github.com/tcpbye/tcpbye/demo/scenario"
	"github.com/tcpbye/tcpbye/demo/stage"
	"github.com/tcpbye/tcpbye/tracer"
	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/record"
	"github.com/tcpbye/tcpbye/tracer/report"
	"github.com/tcpbye/tcpbye/tracer/session"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// experiment is one of the two that the bundled pair runs.
type experiment struct {
	name    string
	goodbye pair.Goodbye
	title   string
}

var experiments = []experiment{
	{"close", pair.Close, "the client closes while the server still has an answer to send"},
	{"shutdown", pair.Shutdown, "the client finishes sending, and reads the answers to the end"},
}

type demo struct {
	output
	delay   time.Duration
	sigpipe string
	ipv6    bool
}

func newDemo(env environment) *cobra.Command {
	d := &demo{output: output{env: env}}
	var list, all, can bool
	cmd := &cobra.Command{
		Use:   "demo NAME…",
		Short: "run programs through an ending, traced",
		Long: `Run the bundled client and server through an ending and trace both: what they
said, the joined timeline, the segments that closed the connection, the verdict.
The experiments close and shutdown run the echo pair; every other name is an
ending of the catalogue, which plays in a network namespace of its own (root).`,
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case can:
				return d.canTrace()
			case list:
				return d.list()
			case all && len(args) > 0:
				return usage(errors.New("--all takes no names"))
			case all:
				return d.all(cmd.Context())
			case len(args) == 0:
				return usage(errors.New("which ending? tcpbye demo --list lists them"))
			}
			return d.each(cmd.Context(), args)
		},
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return names(), cobra.ShellCompDirectiveNoFileComp
		},
	}
	d.flags(cmd, report.Timeline)
	cmd.Flags().DurationVar(&d.delay, "delay", 300*time.Millisecond, "close, shutdown: how long the server works on each answer (originally 5s)")
	cmd.Flags().StringVar(&d.sigpipe, "sigpipe", "default", "close, shutdown: what SIGPIPE does to the server: default, ignore or handler")
	cmd.Flags().BoolVarP(&d.ipv6, "ipv6", "6", false, "over IPv6")
	cmd.Flags().BoolVar(&list, "list", false, "list the endings")
	cmd.Flags().BoolVar(&all, "all", false, "run the whole catalogue and hold each verdict against what is due")
	cmd.Flags().BoolVar(&can, "can-trace", false, "only say, by the exit status, whether everything can be attached here")
	return cmd
}

// names are what demo runs; an experiment's name goes before the catalogue's.
func names() []string {
	var all []string
	for _, x := range experiments {
		all = append(all, x.name)
	}
	for _, s := range scenario.All() {
		if !slices.Contains(all, s.Name) {
			all = append(all, s.Name)
		}
	}
	return all
}

func (d *demo) list() error {
	o, err := d.options(report.Clock{})
	if err != nil {
		return err
	}
	var rows [][]report.GridCell
	line := func(name string, class verdict.Class, cause verdict.Cause, title string) {
		rows = append(rows, []report.GridCell{{Text: name}, {Text: string(class)}, {Text: string(cause)}, {Text: title}})
	}
	line("close", verdict.Aborted, verdict.DataAfterClose, "echo pair: "+experiments[0].title)
	line("shutdown", verdict.Graceful, verdict.HalfClose, "echo pair: "+experiments[1].title)
	for _, s := range scenario.All() {
		if s.Name == "close" {
			continue
		}
		var class verdict.Class
		var cause verdict.Cause
		for _, x := range s.Ends {
			// The two ends may have ended in two ways; the list shows the same one each time.
			if x.Cause != "" && (cause == "" || x.Cause < cause || x.Cause == cause && x.Class < class) {
				class, cause = x.Class, x.Cause
			}
		}
		line(s.Name, class, cause, s.Title)
	}
	return report.WriteGrid(d.env.stdout, o, []report.GridColumn{{Title: "NAME"}, {Title: "CLASS", Drop: 1}, {Title: "CAUSE", Drop: 2},
		{Title: "WHAT HAPPENS", Note: true}}, rows)
}

func (d *demo) each(ctx context.Context, args []string) error {
	for _, name := range args {
		if !slices.Contains(names(), name) {
			return usage(fmt.Errorf("no ending %q; tcpbye demo --list lists them", name))
		}
	}
	for i, name := range args {
		if i > 0 && d.people() {
			fmt.Fprintln(d.env.stdout)
		}
		if err := d.one(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

func (d *demo) one(ctx context.Context, name string) error {
	for _, x := range experiments {
		if x.name == name {
			return d.experiment(ctx, x)
		}
	}
	sc, _ := scenario.Find(name)
	return d.onStage(func(st *stage.Stage) error {
		_, wrong, err := d.scenario(ctx, st, sc)
		if err == nil && wrong != nil {
			err = fmt.Errorf("%s: %w", name, wrong)
		}
		return err
	})
}

// onStage opens a tracer for scenarios, and says what it lacks.
func (d *demo) onStage(play func(*stage.Stage) error) error {
	st, err := stage.Open(tracer.Options{Attach: tracer.Rung(d.attach)})
	if err != nil {
		return err
	}
	degraded(d.env.stderr, st.Attachments())
	return errors.Join(play(st), st.Close())
}

// all runs the catalogue; what is not on this kernel is counted, not failed.
func (d *demo) all(ctx context.Context) error {
	var exact, unsure, absent int
	var wrong []string
	err := d.onStage(func(st *stage.Stage) error {
		for _, sc := range scenario.All() {
			if sc.MachineWide != "" {
				absent++
				continue
			}
			inexact, bad, err := d.scenario(ctx, st, sc)
			var missing *scenario.Missing
			switch {
			case errors.As(err, &missing):
				absent++
			case err != nil:
				return err
			case bad != nil:
				wrong = append(wrong, fmt.Sprintf("%s: %v", sc.Name, bad))
			case inexact != nil:
				unsure++
			default:
				exact++
			}
			if d.people() {
				fmt.Fprintln(d.env.stdout)
			}
		}
		return nil
	})
	fmt.Fprintf(d.env.stderr, "%d endings judged exactly, %d in part for want of a hook, %d wrong, %d not on this kernel or not without changing the whole machine\n",
		exact, unsure, len(wrong), absent)
	if err == nil && len(wrong) > 0 {
		err = errors.New(strings.Join(wrong, "\n"))
	}
	return err
}

// canTrace tries to attach everything.
func (d *demo) canTrace() error {
	t, err := tracer.Open(tracer.Options{Receive: true, Attach: tracer.Rung(d.attach)})
	if err != nil {
		return &statusError{exitCannot, err}
	}
	defer t.Close()
	if lacking(t.Attachments()) {
		return &statusError{exitDegraded, errors.New("not everything can be attached here")}
	}
	return nil
}

// people says whether the output is for a person, and not for a program.
func (d *demo) people() bool {
	return report.Format(d.format) == report.Timeline && d.write != "-"
}

// spaced puts an empty line before what is written.
type spaced struct {
	w     io.Writer
	begun bool
}

func (s *spaced) Write(p []byte) (int, error) {
	if !s.begun {
		s.begun = true
		if _, err := io.WriteString(s.w, "\n"); err != nil {
			return 0, err
		}
	}
	return s.w.Write(p)
}

// show is the output of one ending: for a person, the timeline and then the
// sequence of segments.
func (d *demo) show(ctx context.Context, m record.Meta, attached []tracer.Attachment, title string) (*printer, error) {
	var sinks func(io.Writer, report.Options) []report.Sink
	if d.people() {
		sinks = func(w io.Writer, o report.Options) []report.Sink {
			plain := o
			plain.Heading = func(_, _ *report.Judged) (string, string) { return "the segments that closed it", "" }
			return []report.Sink{report.NewTimeline(w, o), report.NewSequence(&spaced{w: w}, plain)}
		}
	}
	return d.output.open(ctx, m, func(_, _ *report.Judged) (string, string) { return title, aside(m, attached) }, sinks)
}

func (d *demo) experiment(ctx context.Context, x experiment) (err error) {
	run := pair.Experiment{Host: "127.0.0.1", Goodbye: x.goodbye, Delay: d.delay}
	if d.ipv6 {
		run.Host = "[::1]"
	}
	if err := run.Sigpipe.Set(d.sigpipe); err != nil {
		return usage(err)
	}
	dir, err := os.MkdirTemp("", "tcpbye-demo-")
	if err != nil {
		return fmt.Errorf("make a directory for the pair: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if run.Server, err = program(dir, "server", "echo-server"); err != nil {
		return err
	}
	if run.Client, err = program(dir, "client", "echo-client"); err != nil {
		return err
	}
	if d.people() {
		fmt.Fprintf(d.env.stdout, "%s experiment: data1, data2, %s; the server works %v on each answer\n\n", x.name, x.name, d.delay)
		run.Said = func(who, line string) { fmt.Fprintf(d.env.stdout, "  %-6s │ %s\n", who, line) }
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var result pair.Result
	ran := make(chan error, 1)
	started := false
	var s *printer
	counts, err := session.Live(ctx, tracer.Options{Receive: true, Attach: tracer.Rung(d.attach)}, func(m record.Meta, attached []tracer.Attachment) (session.Config, error) {
		degraded(d.env.stderr, attached)
		m.Scenario = x.name
		var err error
		if s, err = d.show(ctx, m, attached, x.name+" · "+x.title); err != nil {
			return session.Config{}, err
		}
		return session.Config{
			Started: func() error {
				started = true
				go func() {
					var err error
					result, err = run.Run(ctx)
					ran <- err
					cancel() // the story is over
				}()
				return nil
			},
			Join: conn.Options{Hold: true}, Record: s.record, Show: s.show(x.name),
			Drained: func() {
				if !started {
					return
				}
				if err = <-ran; err == nil && d.people() {
					fmt.Fprintln(d.env.stdout)
				}
				ran <- err
			},
			Keep: func(c *conn.Connection, _ verdict.Verdict) bool {
				p := uint16(result.Port)
				return p != 0 && (c.Local.Port() == p || c.Remote.Port() == p)
			},
		}, nil
	})
	if started {
		cancel()
		if rerr := <-ran; rerr != nil {
			err = errors.Join(fmt.Errorf("run the pair: %w", rerr), err)
		}
	}
	err = errors.Join(err, s.close())
	if err == nil && counts.Shown == 0 {
		err = fmt.Errorf("the pair ran, but no event of its connection came (%d events, %d connections)", counts.Events, counts.Seen)
	}
	return err
}

// scenario plays one ending of the catalogue. inexact says what is not as due;
// wrong what is so although everything could be seen, or was said to be certain.
func (d *demo) scenario(ctx context.Context, st *stage.Stage, sc scenario.Scenario) (inexact, wrong, err error) {
	opt := scenario.Options{Stderr: d.env.stderr, MachineWide: true}
	if d.ipv6 {
		opt.Family = scenario.IPv6
	}
	p, err := st.Play(ctx, sc, opt)
	if err != nil {
		return nil, nil, err
	}
	if d.people() {
		fmt.Fprintf(d.env.stdout, "%s\n\n", sc.Description)
	}
	m := st.Meta()
	m.Scenario = sc.Name
	s, err := d.show(ctx, m, st.Attachments(), sc.Name+" · "+sc.Title)
	if err != nil {
		return nil, nil, err
	}
	if s.record != nil {
		for _, e := range p.Events {
			if err := s.record.Event(e); err != nil {
				return nil, nil, err
			}
		}
		if err := s.record.Close(record.End{Events: uint64(len(p.Events))}); err != nil {
			return nil, nil, err
		}
	}
	show := s.show(sc.Name)
	for _, e := range p.Ends {
		if err := show(e.Connection, e.Verdict); err != nil {
			return nil, nil, err
		}
	}
	if err := s.close(); err != nil {
		return nil, nil, err
	}
	wrong = errors.Join(append(sc.CheckOutcome(p.Outcome), sc.Contradicted(p.Outcome, p.Ends)...)...)
	inexact = errors.Join(sc.CheckVerdicts(p.Outcome, p.Ends)...)
	if !lacking(st.Attachments()) {
		wrong = errors.Join(wrong, inexact)
	}
	return inexact, wrong, nil
}

// lacking says whether a hook is missing that this kernel could have.
func lacking(attached []tracer.Attachment) bool {
	return slices.ContainsFunc(attached, func(a tracer.Attachment) bool {
		return a.Rung == "" && a.Hook != event.HookErrorReport // absent from 5.10
	})
}

// program makes a link to this program under another name, so that the
// kernel's events carry that name, and returns the command to run it.
func program(dir, name, command string) ([]string, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	path := filepath.Join(dir, name)
	if err := os.Symlink(self, path); err != nil {
		return nil, fmt.Errorf("link this program as the %s: %w", name, err)
	}
	return []string{path, command}, nil
}

// aside says on what the demo ran: the kernel, and the rungs in use.
func aside(m record.Meta, attached []tracer.Attachment) string {
	used := []string{"Linux " + m.Kernel}
	for _, r := range tracer.Rungs() {
		if slices.ContainsFunc(attached, func(a tracer.Attachment) bool { return a.Rung == r }) {
			used = append(used, string(r))
		}
	}
	return strings.Join(used, ", ")
}
