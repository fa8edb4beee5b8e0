package main

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"github.com/tcpbye/tcpbye/tracer/proxy"
	"github.com/tcpbye/tcpbye/tracer/report"
)

// tying is a run of tcpbye proxy.
type tying struct {
	tracing
	all   bool
	tier  *proxy.Tier
	shown report.Options
	ties  []proxy.Tie
}

func newProxy(env environment) *cobra.Command {
	t := &tying{tracing: tracing{output: output{env: env}}}
	hidden := []string{"verbose", "count", "fail-on", "no-events", "class", "cause", "findings"}
	cmd := &cobra.Command{
		Use:   "proxy [-- COMMAND [ARGUMENT…]]",
		Short: "tell which of a proxy's two connections broke first",
		Long: `Tie the two connections of a proxy, one that it accepted and one that it opened, and tell
which broke first: nginx reset the client because the backend had reset nginx
0.3 ms before. The process, the thread, the order of its acts and the bytes in and
out tell; docs/PROXY.md says when a tie is certain, when likely, and when there is none: a
wrong one is worse. Shown at the end of the run, or of the recording (-r), where one of the two
ended in another way than gracefully.` + "\n" + commandHelp,
		Example: `  tcpbye proxy --comm nginx --duration 1m
  tcpbye proxy -r FILE --all -o json`,
		Args: commandArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := excluded(cmd, "proxy", hidden...); err != nil {
				return err
			}
			if t.format != string(report.Table) && t.format != string(report.JSON) {
				return usage(fmt.Errorf("-o %s: proxy has the formats table and json", t.format))
			}
			return t.tie(cmd, args)
		},
	}
	t.flags(cmd, report.Table)
	f := cmd.Flags()
	f.BoolVar(&t.all, "all", false, "also show ties of connections that ended gracefully")
	f.Lookup("output").Usage = "how to show: table, json"
	for _, name := range hidden {
		_ = f.MarkHidden(name) // there is a flag of that name
	}
	return cmd
}

func (t *tying) tie(cmd *cobra.Command, args []string) error {
	t.sink = func(_ io.Writer, o report.Options) []report.Sink {
		t.shown, t.tier = o, proxy.New()
		return []report.Sink{t}
	}
	hides := ""
	t.split = func() {
		t.tier.Partial()
		hides = "; a filter on addresses, ports or namespaces hides what else the process had, so none can be certain"
	}
	err := t.run(cmd, args)
	var status *statusError
	if err != nil && (!errors.As(err, &status) || status.err != nil) {
		return err
	}
	write := report.WriteTies
	if t.format == string(report.JSON) {
		write = report.TiesJSON
	}
	if werr := write(t.env.stdout, t.ties, t.shown); werr != nil {
		return werr
	}
	certain := 0
	for i := range t.ties {
		if t.ties[i].Certain {
			certain++
		}
	}
	fmt.Fprintf(t.env.stderr, "tcpbye: %d tied, %d of them for certain%s\n", len(t.ties), certain, hides)
	return err
}

// End and Close are the sink: the ties of each run are its own.
func (t *tying) End(j report.Judged) error {
	t.tier.End(j.Conn, &j.Verdict)
	return nil
}

func (t *tying) Close() error {
	ties := t.tier.Ties()
	if !t.all {
		ties = slices.DeleteFunc(ties, func(x proxy.Tie) bool { return !report.Trouble(&x) })
	}
	t.ties = append(t.ties, ties...)
	if n := t.tier.Dropped(); n > 0 {
		fmt.Fprintf(t.env.stderr, "tcpbye: %d connections were left out: no room\n", n)
	}
	return nil
}
