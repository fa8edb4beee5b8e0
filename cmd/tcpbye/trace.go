package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

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
}

func (t *tracing) flags(cmd *cobra.Command, format report.Format) {
	t.output.flags(cmd, format)
	cmd.Flags().StringVarP(&t.read, "read", "r", "", "read a recording from `FILE` (- for standard input) instead of tracing")
	cmd.Flags().StringVar(&t.readyFile, "ready-file", "", "create `FILE` once everything is attached")
	cmd.Flags().UintSliceVar(&t.ports, "port", nil, "only connections with this port at either end (repeatable)")
}

func (t *tracing) keep(also func(verdict.Verdict) bool) func(*conn.Connection, verdict.Verdict) bool {
	return func(c *conn.Connection, v verdict.Verdict) bool {
		if also != nil && !also(v) {
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
}

func newTrace(env environment) *cobra.Command {
	t := &tracing{output: output{env: env}}
	cmd := &cobra.Command{
		Use:   "trace",
		Short: "watch the connections of this machine end",
		Long:  "A row for each connection end, as it ends. ^C stops, judges what is left and counts.",
		Args:  usageArgs(cobra.NoArgs),
		RunE:  func(cmd *cobra.Command, _ []string) error { return t.run(cmd.Context(), nil) },
	}
	t.flags(cmd, report.Formats()[0])
	return cmd
}

func newRst(env environment) *cobra.Command {
	t := &tracing{output: output{env: env}}
	cmd := &cobra.Command{
		Use:   "rst",
		Short: "explain the connections that did not end gracefully",
		Args:  usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return t.run(cmd.Context(), func(v verdict.Verdict) bool {
				return v.Class != verdict.Graceful && v.Class != verdict.Open && !v.Harmless
			})
		},
	}
	t.flags(cmd, report.Timeline)
	return cmd
}

func (t *tracing) run(ctx context.Context, also func(verdict.Verdict) bool) (err error) {
	var s *shower
	config := func(meta record.Meta) (session.Config, error) {
		var err error
		if s, err = t.open(meta, nil); err != nil {
			return session.Config{}, err
		}
		return session.Config{Keep: t.keep(also), Show: s.show(""), Record: s.record}, nil
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
		counts, err = session.Live(ctx, tracer.Options{}, func(m record.Meta, attached []tracer.Attachment) (session.Config, error) {
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
		if a.Rung == "" {
			n++
		}
	}
	if n > 0 {
		fmt.Fprintf(w, "tcpbye: %d of %d hooks cannot be attached here; verdicts say what they could not see\n", n, len(attached))
	}
}
