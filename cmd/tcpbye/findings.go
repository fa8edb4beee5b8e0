package main

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/tcpbye/tcpbye/tracer/report"
)

func newFindings(env environment) *cobra.Command {
	t := &tracing{output: output{env: env}}
	hidden := []string{"verbose", "count", "fail-on", "no-events", "class", "cause", "findings"}
	cmd := &cobra.Command{
		Use:   "findings [-- COMMAND [ARGUMENT…]]",
		Short: "find what many endings have in common",
		Long: `Look at many endings together, live until ^C or --duration, or in recordings (-r):
keep-alive races, idle limits on the path, health checks, leaks, full accept queues,
unanswered requests, timeouts to one destination. Each with its proof, its numbers
and the setting to change. What could be chance is not told; docs/FINDINGS.md says
how that is decided.` + "\n" + commandHelp,
		Args: commandArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := excluded(cmd, "findings", hidden...); err != nil {
				return err
			}
			if t.format != string(report.Table) && t.format != string(report.JSON) {
				return usage(fmt.Errorf("-o %s: findings has the formats table and json", t.format))
			}
			var sink *report.FindingsSink
			var shown report.Options
			t.sink = func(_ io.Writer, o report.Options) []report.Sink {
				if shown = o; sink == nil { // one for all runs of a recording
					sink = report.NewFindings(nil, o, false)
				}
				return []report.Sink{sink}
			}
			t.time = func(now time.Duration) error {
				if sink != nil {
					sink.Now(now)
				}
				return nil
			}
			err := t.run(cmd, args)
			var status *statusError
			if sink == nil || err != nil && (!errors.As(err, &status) || status.err != nil) {
				return err
			}
			write := report.WriteFindings
			if t.format == string(report.JSON) {
				write = report.FindingsJSON
			}
			if werr := write(env.stdout, sink.Findings(), shown); werr != nil {
				return werr
			}
			if n := sink.Dropped(); n > 0 {
				fmt.Fprintf(env.stderr, "tcpbye: %d endings were left out: no room\n", n)
			}
			return err
		},
	}
	t.flags(cmd, report.Table)
	cmd.Flags().Lookup("output").Usage = "how to show: table, json"
	for _, name := range hidden {
		_ = cmd.Flags().MarkHidden(name) // there is a flag of that name
	}
	return cmd
}
