package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/tcpbye/tcpbye/demo/echo"
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
	goodbye echo.Goodbye
	title   string
}

var experiments = map[string]experiment{
	"close":    {echo.Close, "the client closes while the server still has an answer to send"},
	"shutdown": {echo.Shutdown, "the client finishes sending, and reads the answers to the end"},
}

type demo struct {
	output
	delay   time.Duration
	sigpipe string
	ipv6    bool
}

func newDemo(env environment) *cobra.Command {
	d := &demo{output: output{env: env}}
	var can bool
	cmd := &cobra.Command{
		Use:       "demo NAME…",
		Short:     "run the bundled client and server through an ending, traced",
		Long:      "Run the bundled client and server through an ending and trace both: what they said, the joined timeline, the verdict. Names: close, shutdown.",
		ValidArgs: []string{"close", "shutdown"},
		Args:      usageArgs(cobra.OnlyValidArgs),
		RunE: func(cmd *cobra.Command, args []string) error {
			if can {
				return d.canTrace()
			}
			if len(args) == 0 {
				return usage(errors.New("which experiment: close, shutdown, or both?"))
			}
			for i, name := range args {
				if i > 0 && d.people() {
					fmt.Fprintln(env.stdout)
				}
				if err := d.run(cmd.Context(), name); err != nil {
					return err
				}
			}
			return nil
		},
	}
	d.flags(cmd, report.Timeline)
	cmd.Flags().DurationVar(&d.delay, "delay", 300*time.Millisecond, "how long the server works on each answer (the original experiment: 5s)")
	cmd.Flags().StringVar(&d.sigpipe, "sigpipe", "default", "what SIGPIPE does to the server: default, ignore or handler")
	cmd.Flags().BoolVar(&can, "can-trace", false, "only say, by the exit status, whether everything can be attached here")
	cmd.Flags().BoolVarP(&d.ipv6, "ipv6", "6", false, "over IPv6")
	return cmd
}

// canTrace tries to attach everything.
func (d *demo) canTrace() error {
	t, err := tracer.Open(tracer.Options{Receive: true})
	if err != nil {
		return &statusError{exitCannot, err}
	}
	defer t.Close()
	for _, a := range t.Attachments() {
		if a.Rung == "" && a.Hook != event.HookErrorReport { // absent from 5.10
			return &statusError{exitDegraded, fmt.Errorf("not everything can be attached here: %w", a.Err)}
		}
	}
	return nil
}

// people says whether the output is for a person, and not for a program.
func (d *demo) people() bool {
	return report.Format(d.format) == report.Timeline && d.write != "-"
}

func (d *demo) run(ctx context.Context, name string) (err error) {
	x := experiments[name]
	pair := echo.Pair{Host: "127.0.0.1", Goodbye: x.goodbye, Delay: d.delay}
	if d.ipv6 {
		pair.Host = "::1"
	}
	if err := pair.Sigpipe.Set(d.sigpipe); err != nil {
		return usage(err)
	}
	dir, err := os.MkdirTemp("", "tcpbye-demo-")
	if err != nil {
		return fmt.Errorf("make a directory for the pair: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if pair.Server, err = program(dir, "server", "echo-server"); err != nil {
		return err
	}
	if pair.Client, err = program(dir, "client", "echo-client"); err != nil {
		return err
	}
	if d.people() {
		fmt.Fprintf(d.env.stdout, "%s experiment: data1, data2, %s; the server works %v on each answer\n\n", name, name, d.delay)
		pair.Said = func(who, line string) { fmt.Fprintf(d.env.stdout, "  %-6s │ %s\n", who, line) }
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type outcome struct {
		result echo.PairResult
		err    error
	}
	done := make(chan outcome, 1)
	var s *shower
	var res outcome
	counts, err := session.Live(ctx, tracer.Options{Receive: true}, func(m record.Meta, attached []tracer.Attachment) (session.Config, error) {
		degraded(d.env.stderr, attached)
		m.Scenario = name
		var err error
		if s, err = d.open(m, func(_, _ *report.Judged) (string, string) {
			return name + " · " + x.title, aside(m, attached)
		}); err != nil {
			return session.Config{}, err
		}
		go func() {
			r, err := pair.Run(ctx)
			done <- outcome{r, err}
			cancel()
		}()
		show := s.show(name)
		blank := d.people()
		return session.Config{
			Join:   conn.Options{Hold: true},
			Record: s.record,
			Keep: func(c *conn.Connection, _ verdict.Verdict) bool {
				if res.result.Port == 0 && res.err == nil {
					res = <-done
				}
				p := uint16(res.result.Port)
				return c.Local.Port() == p || c.Remote.Port() == p
			},
			Show: func(c *conn.Connection, v verdict.Verdict) error {
				if blank {
					fmt.Fprintln(d.env.stdout)
					blank = false
				}
				return show(c, v)
			},
		}, nil
	})
	err = errors.Join(err, s.close())
	if err != nil {
		return err
	}
	if res.result.Port == 0 && res.err == nil {
		res = <-done
	}
	if res.err != nil {
		return fmt.Errorf("run the pair: %w", res.err)
	}
	if counts.Shown == 0 {
		return fmt.Errorf("the pair ran, but no event of its connection came (%d events, %d connections)", counts.Events, counts.Seen)
	}
	return nil
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
	rung := string(tracer.RungTyped)
	for _, a := range attached {
		if a.Rung == tracer.RungKprobe {
			rung = string(a.Rung)
		}
	}
	return "Linux " + m.Kernel + ", " + rung
}
