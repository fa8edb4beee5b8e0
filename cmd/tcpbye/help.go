package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/charmbracelet/x/ansi"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// flagGroup are flags that help lists together.
type flagGroup struct {
	title string
	names []string
}

// flagGroups are those of all commands; what is in none comes last.
var flagGroups = []flagGroup{
	{"Which connections", []string{"pid", "follow", "comm", "exe", "uid", "port", "lport", "rport", "local", "remote", "netns", "cgroup", "container", "class", "cause", "open", "all"}},
	{"How to show", []string{"output", "verbose", "fields", "sort", "wide", "color", "numbers", "no-events", "top", "interval", "no-graceful"}},
	{"Recordings", []string{"read", "write", "file-size", "file-count", "all-events"}},
	{"When to end", []string{"count", "duration", "fail-on", "ready-file"}},
	{"Metrics", []string{"listen", "metrics-file", "label", "label-cap"}},
	{"Events", []string{"sample", "journal", "otlp", "otlp-traces", "otlp-header", "otlp-ca", "otlp-cert", "otlp-key", "otlp-gzip", "otlp-timeout", "otlp-queue", "otlp-queue-size"}},
	{"Settings", []string{"config", "check", "catalog"}},
	{"How to trace", []string{"attach", "every-step", "receive", "stack"}},
}

// examples come first in help: what to type, and what it does.
var examples = map[string]string{
	"tcpbye": `tcpbye rst                                # why connections are reset, as it happens
tcpbye trace --port https                 # a row for each end on port 443
tcpbye trace --open                       # what is open and will not end by itself
tcpbye top                                # all of it on a full screen
tcpbye explain "connection reset by peer" # what can be behind an error`,
	"trace": `tcpbye trace                              # a row for each connection end
tcpbye trace --comm nginx --rport 8080    # nginx to its backends
tcpbye trace -p 812 --follow -o json      # one process and its children, for a program
tcpbye trace -w run.tcpbye --duration 1m  # record a minute, show it again with -r
tcpbye trace -o table -o json=run.json    # rows here, and everything in a file
tcpbye trace --open                       # what will not end by itself
tcpbye trace -- curl -sS http://10.0.0.7/ # one command's connections, and its exit status`,
	"rst": `tcpbye rst                                # each reset, timeout and refusal, explained
tcpbye rst -v --port 8080                 # with the timeline that proves it
tcpbye rst --stack -p 812                 # and the line of code that closed
tcpbye rst -r run.tcpbye                  # of a recording
tcpbye rst --fail-on aborted -- make test # fail where a connection was aborted`,
	"top": `tcpbye top                                # this machine
tcpbye top --comm nginx                   # nginx alone
tcpbye top -r run.tcpbye                  # a recording`,
	"export": `tcpbye export --listen 9477               # metrics for Prometheus, on loopback
tcpbye export --otlp https://collector:4318 --otlp-traces
tcpbye export --journal                   # journalctl -t tcpbye -x
tcpbye export -o logfmt                   # or json, ecs, ocsf: a line for each event
tcpbye export --check                     # what is wrong with the settings`,
	"explain": `tcpbye explain                            # what is known
tcpbye explain close-unread               # a cause: proof, cure, what people believe
tcpbye explain ECONNRESET                 # an error, and what can be behind it
tcpbye explain MySQL server has gone away # a line of a log
tcpbye explain tcp_fin_timeout            # a setting`,
	"findings": `tcpbye findings -r run.tcpbye             # what many endings have in common
tcpbye findings --duration 10m            # live`,
	"demo": `tcpbye demo close                         # the client closes before the answer
tcpbye demo shutdown                      # how it should be done
tcpbye demo --list                        # all endings`,
	"doctor": `sudo tcpbye doctor                        # what this kernel and this user allow`,
	"schema": `tcpbye schema > tcpbye.schema.json`,
	"man": `tcpbye man man1                           # a page for each command, in ./man1
MANPATH=. man tcpbye-trace                # after: tcpbye man man1`,
}

// statuses are what the program exits with.
var statuses = []struct {
	status string
	text   string
}{
	{fmt.Sprint(exitDone), "done; also after ^C or SIGHUP, or when the reader of the output has gone"},
	{fmt.Sprint(exitFailure), "it failed, rollout cut more than --max-cut, something ended as --fail-on says, or a verdict of demo is not the one that is due"},
	{fmt.Sprint(exitUsage), "it was called wrongly"},
	{fmt.Sprint(exitDegraded), "doctor, demo --can-trace: tracing works here, but not every hook can be attached; rollout --max-cut: it is not sure whether more were cut"},
	{fmt.Sprint(exitCannot), "nothing can be traced here, for want of permission or of the kernel's support"},
	{"128+N", "signal N cut it short, SIGTERM or a second one: what was not judged by then is not shown"},
}

// ofCommand says what the exit status is where a command is run.
const ofCommand = "With a command to run, its own: 128 and the signal's number if one killed it, 126 if it cannot be run, 127 if there is none."

// runsCommand says whether a command of this program runs another program.
func runsCommand(c *cobra.Command) bool { return strings.Contains(c.Use, "-- COMMAND") }

// flagsOf are the flags of a command in their groups, without those that are hidden.
func flagsOf(c *cobra.Command) []flagGroupOf {
	var all []flagGroupOf
	seen := map[string]bool{}
	add := func(title string, want func(*pflag.Flag) bool) {
		g := flagGroupOf{title, pflag.NewFlagSet("", pflag.ContinueOnError)}
		g.flags.SortFlags = false
		c.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if !f.Hidden && !seen[f.Name] && want(f) {
				seen[f.Name] = true
				g.flags.AddFlag(f)
			}
		})
		if g.flags.HasFlags() {
			all = append(all, g)
		}
	}
	for _, group := range flagGroups {
		add(group.title, func(f *pflag.Flag) bool { return slices.Contains(group.names, f.Name) })
	}
	title := "Also"
	if len(all) == 0 {
		title = "Flags"
	}
	add(title, func(*pflag.Flag) bool { return true })
	return all
}

type flagGroupOf struct {
	title string
	flags *pflag.FlagSet
}

// helpWidth is how wide help is: nobody likes lines that the terminal breaks.
const helpWidth = 80

// writeHelp is --help: examples first, then what the command does, its flags in groups,
// and its exit statuses.
func writeHelp(w io.Writer, c *cobra.Command) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s\n\nUsage: %s\n", c.CommandPath(), c.Short, useLine(c))
	if len(c.Aliases) > 0 {
		fmt.Fprintf(&b, "Also: %s\n", strings.Join(c.Aliases, ", "))
	}
	if c.Example != "" {
		fmt.Fprintf(&b, "\nExamples:\n%s\n", indented(c.Example))
	}
	if c.Long != "" {
		fmt.Fprintf(&b, "\n%s\n", c.Long)
	}
	if c.HasAvailableSubCommands() {
		b.WriteString("\nCommands:\n")
		for _, sub := range c.Commands() {
			if sub.IsAvailableCommand() {
				fmt.Fprintf(&b, "  %-*s %s\n", sub.NamePadding(), sub.Name(), sub.Short)
			}
		}
	}
	for _, g := range flagsOf(c) {
		fmt.Fprintf(&b, "\n%s:\n%s", g.title, g.flags.FlagUsagesWrapped(helpWidth))
	}
	b.WriteString("\nExit status:\n")
	for _, s := range statuses {
		fmt.Fprintf(&b, "  %-6s %s\n", s.status, strings.ReplaceAll(ansi.Wordwrap(s.text, helpWidth-9, ""), "\n", "\n         "))
	}
	if runsCommand(c) {
		fmt.Fprintf(&b, "%s\n", indented(ansi.Wordwrap(ofCommand, helpWidth-2, "")))
	}
	if c.HasAvailableSubCommands() {
		fmt.Fprintf(&b, "\n%s COMMAND --help tells more of a command.\n", c.CommandPath())
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// useLine is how a command is called.
func useLine(c *cobra.Command) string {
	if c.HasAvailableSubCommands() {
		return c.CommandPath() + " COMMAND"
	}
	return c.UseLine()
}

func indented(text string) string { return "  " + strings.ReplaceAll(text, "\n", "\n  ") }

// helped gives a command and those below it this help.
func helped(root *cobra.Command) {
	root.SetHelpFunc(func(c *cobra.Command, _ []string) {
		if err := writeHelp(c.OutOrStdout(), c); err != nil {
			c.PrintErrln(err)
		}
	})
	for _, c := range append(root.Commands(), root) {
		if c.Example == "" {
			c.Example = examples[c.Name()]
		}
	}
}
