package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tcpbye/tcpbye/tracer"
	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/record"
	"github.com/tcpbye/tcpbye/tracer/report"
	"github.com/tcpbye/tcpbye/tracer/session"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// tracing is what trace and rst share.
type tracing struct {
	output
	read      string
	readyFile string
	ports     []uint
	receive   bool
	duration  time.Duration
	// kept says which endings the command is about; nil: all.
	kept func(verdict.Verdict) bool
	// sink replaces the one that the format names; nil: it does not.
	sink func(io.Writer, report.Options) []report.Sink
}

func (t *tracing) flags(cmd *cobra.Command, format report.Format) {
	t.output.flags(cmd, format)
	cmd.Flags().StringVarP(&t.read, "read", "r", "", "read a recording from `FILE` (- for standard input) instead of tracing")
	cmd.Flags().StringVar(&t.readyFile, "ready-file", "", "create `FILE` once everything is attached")
	cmd.Flags().UintSliceVar(&t.ports, "port", nil, "only connections with this port at either end (repeatable)")
	cmd.Flags().BoolVar(&t.receive, "receive", false, "also watch every recv(2), to tell exactly what the application was told; costs a little for each call")
	cmd.Flags().DurationVar(&t.duration, "duration", 0, "stop after this long; 0: on ^C")
}

func (t *tracing) keep(c *conn.Connection, v verdict.Verdict) bool {
	if t.kept != nil && !t.kept(v) {
		return false
	}
	if len(t.ports) == 0 {
		return true
	}
	for _, p := range t.ports {
		if uint(c.Local.Port()) == p || uint(c.Remote.Port()) == p {
			return true
		}
	}
	return false
}

func newTrace(env environment) *cobra.Command {
	t := &tracing{output: output{env: env}}
	cmd := &cobra.Command{
		Use:   "trace",
		Short: "watch the connections of this machine end",
		Long:  "A row for each connection end, as it ends. ^C stops, judges what is left and counts.",
		Args:  usageArgs(cobra.NoArgs),
		RunE:  func(cmd *cobra.Command, _ []string) error { return t.run(cmd.Context()) },
	}
	t.flags(cmd, report.Table)
	return cmd
}

// formatResets is the one that tcpbye rst alone has.
const formatResets = "resets"

func newRst(env environment) *cobra.Command {
	t := &tracing{output: output{env: env}}
	var all bool
	cmd := &cobra.Command{
		Use:   "rst",
		Short: "explain the connections that did not end gracefully",
		Long: `Each ending that was not graceful, as it happens: who, why, what was lost, what
the application saw, what to do. Repeats are counted, not repeated. ^C stops and
shows a table by cause and process.`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			t.kept = func(v verdict.Verdict) bool {
				return v.Class != verdict.Graceful && v.Class != verdict.Open && (all || !v.Harmless)
			}
			if t.format == formatResets {
				t.sink = func(w io.Writer, o report.Options) []report.Sink {
					return []report.Sink{report.NewResets(w, o), &summing{w: w, s: report.NewSummary(o)}}
				}
			}
			return t.run(cmd.Context())
		},
	}
	t.flags(cmd, formatResets)
	cmd.Flags().Lookup("output").Usage = "how to show: " + formatResets + ", " + strings.TrimPrefix(cmd.Flags().Lookup("output").Usage, "how to show: ")
	cmd.Flags().BoolVar(&all, "all", false, "also show harmless resets, after a complete exchange")
	return cmd
}

// summing is the table at the end of rst.
type summing struct {
	w io.Writer
	s *report.Summary
}

func (s *summing) End(j report.Judged) error { return s.s.End(j) }

func (s *summing) Close() error { return s.s.Write(s.w) }

func (t *tracing) run(ctx context.Context) (err error) {
	if t.duration > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, t.duration)
		defer cancel()
	}
	var s *shower
	config := func(meta record.Meta) (session.Config, error) {
		var err error
		if s, err = t.open(meta, nil, t.sink); err != nil {
			return session.Config{}, err
		}
		return session.Config{Keep: t.keep, Show: s.show(""), Record: s.record}, nil
	}
	var counts session.Counts
	if t.read != "" {
		in := io.Reader(t.env.stdin)
		if t.read != "-" {
			f, err := os.Open(t.read)
			if err != nil {
				return fmt.Errorf("open the recording: %w", err)
			}
			defer f.Close()
			in = f
		}
		counts, err = session.Replay(in, func(m record.Meta) (session.Config, error) {
			if err := s.close(); err != nil {
				return session.Config{}, err
			}
			return config(m)
		})
	} else {
		counts, err = session.Live(ctx, tracer.Options{Receive: t.receive, Attach: tracer.Rung(t.attach)}, func(m record.Meta, attached []tracer.Attachment) (session.Config, error) {
			degraded(t.env.stderr, attached)
			cfg, err := config(m)
			if err == nil && t.readyFile != "" {
				if err = os.WriteFile(t.readyFile, []byte("ready\n"), 0o644); err != nil {
					err = fmt.Errorf("write the ready file: %w", err)
				}
			}
			return cfg, err
		})
	}
	err = errors.Join(err, s.close())
	if s != nil {
		closing(t.env.stderr, counts)
	}
	return err
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
