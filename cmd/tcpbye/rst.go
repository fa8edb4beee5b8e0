package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/filter"
	"github.com/tcpbye/tcpbye/tracer/report"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// formatResets is the one that tcpbye rst alone has.
const formatResets = "resets"

func newRst(env environment) *cobra.Command {
	t := &tracing{output: output{env: env}}
	var (
		all      bool
		top      int
		interval time.Duration
	)
	cmd := &cobra.Command{
		Use:   "rst [-- COMMAND [ARGUMENT…]]",
		Short: "explain the connections that did not end gracefully",
		Long: `Each ending that was not graceful, as it happens: who, how, why and when in the
connection's life, what was lost, whether the request can be sent again, what the
application saw, what to do; with -v also the timeline that proves it. So are those
shown that the service ended without an answer, which are graceful on the wire.
Repeats of the same cause, process and peer are counted, with how old and how idle
those connections were: always the same is a timer. ^C stops and shows a table by
cause and process. Harmless resets are counted, not shown: those after both ends
had said goodbye, and those of who opens a connection and aborts it at once, as
health checks do.` + "\n" + commandHelp,
		Args: commandArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if top < 0 {
				return usage(fmt.Errorf("--top %d: want a number of rows", top))
			}
			if interval < 0 {
				return usage(fmt.Errorf("--interval %v: want a time to come", interval))
			}
			if err := shown(t.choose.Classes, t.choose.Causes); err != nil {
				return usage(err)
			}
			if t.format != formatResets {
				if err := excluded(cmd, "-o "+t.format, "top", "interval"); err != nil {
					return err
				}
			}
			// It counts what is hidden in the other formats, too.
			table := &summing{every: interval, s: report.NewSummary(report.Options{})}
			if t.format == formatResets {
				var blocks *report.ResetsSink
				t.sink = func(w io.Writer, o report.Options) []report.Sink {
					blocks = report.NewResets(w, o)
					table.w, table.s, table.next = w, report.NewSummary(o), 0
					table.s.Top = top
					return []report.Sink{blocks, table}
				}
				t.waits = func() bool {
					_, due := blocks.Due()
					return due || interval > 0
				}
				t.time = func(now time.Duration) error {
					// In the order of time, so that a replay says the same.
					for {
						due, ok := blocks.Due()
						switch {
						case table.due(now) && (!ok || table.next < due):
							if err := table.tick(table.next); err != nil {
								return err
							}
						case ok && due <= now:
							if err := blocks.Tick(due); err != nil {
								return err
							}
						default:
							return errors.Join(blocks.Tick(now), table.tick(now))
						}
					}
				}
			}
			t.kept = func(c *conn.Connection, v verdict.Verdict) bool {
				harmless := v.Harmless || v.Probe
				if v.Class == verdict.Open || v.Class == verdict.Graceful && !harmless && v.Unanswered == nil || !all && verdict.UnknownForLoss(c, v) {
					return false
				}
				if harmless && !all {
					table.s.Hide(c)
					return false
				}
				return true
			}
			err := t.run(cmd, args)
			if text := table.s.Harmless(); t.format != formatResets && text != "" {
				fmt.Fprintf(t.env.stderr, "tcpbye: %s\n", text)
			}
			return err
		},
	}
	t.flags(cmd, formatResets)
	f := cmd.Flags()
	f.Lookup("output").Usage = "how to show: " + formatResets + ", " + strings.TrimPrefix(f.Lookup("output").Usage, "how to show: ")
	f.BoolVar(&all, "all", false, "also show harmless resets")
	f.IntVar(&top, "top", 0, "show the first `N` rows of the table; 0: all")
	f.DurationVar(&interval, "interval", 0, "show the table so often, too; 0: at the end only")
	return cmd
}

// shown says why rst can show nothing of those classes and causes; nil: it can,
// or there are no such. Of graceful ends it shows those without an answer.
func shown(classes, causes []string) error {
	f, err := filter.Parse(filter.Spec{Classes: classes, Causes: causes}, filter.World{})
	if err != nil {
		return nil // it is told when the whole filter is read
	}
	shows := func(c verdict.Class) bool { return c != verdict.Open }
	class, cause := len(f.Classes) == 0, len(f.Causes) == 0
	for _, c := range f.Classes {
		class = class || shows(c)
	}
	for _, r := range verdict.Rules() {
		cause = cause || shows(r.Class) && slices.Contains(f.Causes, r.Cause)
	}
	if class && cause {
		return nil
	}
	return errors.New("of these classes and causes rst shows nothing: it shows what has ended; tcpbye trace shows all")
}

// summing is the table of rst, at the end and in between.
type summing struct {
	w     io.Writer
	s     *report.Summary
	every time.Duration // 0: at the end only
	now   time.Duration // CLOCK_MONOTONIC
	next  time.Duration // CLOCK_MONOTONIC; 0: nothing was counted yet
	fresh bool          // something was counted since it was shown
}

func (s *summing) End(j report.Judged) error {
	if s.next == 0 {
		s.next = s.now + s.every
	}
	s.fresh = true
	return s.s.End(j)
}

// due says whether it is time to show the table.
func (s *summing) due(now time.Duration) bool {
	return s.every != 0 && s.w != nil && s.next != 0 && s.next <= now
}

// tick shows the table when it is time.
func (s *summing) tick(now time.Duration) error {
	s.now = now
	if !s.due(now) {
		return nil
	}
	s.next += (now-s.next)/s.every*s.every + s.every
	if !s.fresh {
		return nil
	}
	s.fresh = false
	if _, err := io.WriteString(s.w, "\n"); err != nil {
		return err
	}
	return s.s.Write(s.w)
}

func (s *summing) Close() error {
	if s.fresh {
		if _, err := io.WriteString(s.w, "\n"); err != nil {
			return err
		}
	}
	return s.s.Write(s.w)
}

// failOn is the flag that makes an ending a failure, for the tests of other
// programs.
type failOn struct {
	classes []verdict.Class
	causes  []verdict.Cause
	silent  bool // without an answer
	text    string
	first   string // that ended so
}

func (f *failOn) String() string { return f.text }

func (f *failOn) Type() string { return "endings" }

// Set adds what a comma separates.
func (f *failOn) Set(list string) error {
	for name := range strings.SplitSeq(list, ",") {
		name = strings.TrimSpace(name)
		class, cause := false, false
		if name == verdict.UnansweredName {
			f.silent = true
			continue
		}
		for _, r := range verdict.Rules() {
			class = class || string(r.Class) == name
			cause = cause || string(r.Cause) == name
		}
		if class {
			f.classes = append(f.classes, verdict.Class(name))
		}
		if cause {
			f.causes = append(f.causes, verdict.Cause(name))
		}
		if !class && !cause {
			return fmt.Errorf("%q is no class (graceful, aborted, timed-out, refused, open, unknown), not unanswered, and no cause (tcpbye explain lists them)", name)
		}
	}
	if f.text != "" {
		f.text += ","
	}
	f.text += list
	return nil
}

// asked says whether there is anything to look for.
func (f *failOn) asked() bool { return len(f.classes)+len(f.causes) > 0 || f.silent }

// match says whether an ending is one of them.
func (f *failOn) match(v *verdict.Verdict) bool {
	harmless := v.Harmless || v.Probe
	class := slices.Contains(f.classes, v.Class) ||
		// Why the RST came is what is not known then.
		v.Class == verdict.Unknown && v.Reset != nil && slices.Contains(f.classes, verdict.Aborted)
	return f.silent && v.Unanswered != nil || slices.Contains(f.causes, v.Cause) || class && !harmless
}

// see looks at an ending.
func (f *failOn) see(c *conn.Connection, v verdict.Verdict) {
	if f.first != "" || !f.match(&v) {
		return
	}
	how := string(v.Cause)
	if f.silent && v.Unanswered != nil {
		how += ", " + verdict.UnansweredName
	}
	who := c.Local.String()
	if c.Owner != nil {
		who = event.Quote(c.Owner.Comm) + "/" + event.PIDText(c.Owner.PID)
	}
	f.first = fmt.Sprintf("%s → %s ended so: %s, %s", who, c.Remote, v.Class, how)
}

// failed is the end of the run, when something ended so.
func (f *failOn) failed() error {
	if f.first == "" {
		return nil
	}
	return &statusError{exitFailure, fmt.Errorf("--fail-on %s: %s", f.text, f.first)}
}
