package main

import (
	"cmp"
	"fmt"
	"io"
	"strings"

	"github.com/charmbracelet/x/ansi"
	"github.com/spf13/cobra"

	"github.com/tcpbye/tcpbye/tracer/verdict"
)

func newExplain(env environment) *cobra.Command {
	return &cobra.Command{
		Use:   "explain [CAUSE | WHAT YOU SAW]",
		Short: "what a cause means, or what can be behind an error",
		Long: `Without an argument, list the causes and what else is known. With a cause, tell what happens, how to
prove it and what to do. With an error (ECONNRESET, "broken pipe"), a line of a log,
a signal, a status (502), a counter, a reset reason, a state or a setting
(tcp_fin_timeout), tell which causes can be behind it.`,
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				_, err := io.WriteString(env.stdout, known())
				return err
			}
			query := strings.Join(args, " ")
			for _, r := range verdict.Rules() {
				if string(r.Cause) == query {
					_, err := fmt.Fprint(env.stdout, r.Explain())
					return err
				}
			}
			if s, ok := verdict.FindSymptom(query); ok {
				_, err := fmt.Fprint(env.stdout, s.Explain())
				return err
			}
			near := ""
			if names := verdict.Nearest(query, 3); len(names) > 0 {
				near = "; is it " + strings.Join(names, " or ") + "?"
			}
			return usage(fmt.Errorf("no cause and no symptom %q%s tcpbye explain lists what is known", query, cmp.Or(near, ";")))
		},
	}
}

// known lists what can be explained.
func known() string {
	var b strings.Builder
	for _, r := range verdict.Rules() {
		fmt.Fprintf(&b, "%-20s %-10s %s\n", r.Cause, r.Class, r.Summary())
	}
	b.WriteString("\nAnd what people see and set:\n")
	var kinds []string
	names := map[string][]string{}
	for _, s := range verdict.Symptoms() {
		if names[s.Kind] == nil {
			kinds = append(kinds, s.Kind)
		}
		names[s.Kind] = append(names[s.Kind], s.Names[0])
	}
	for _, kind := range kinds {
		label := kind
		for line := range strings.Lines(ansi.Wordwrap(strings.Join(names[kind], ", "), 64, "")) {
			fmt.Fprintf(&b, "%-13s %s\n", label, strings.TrimSpace(line))
			label = ""
		}
	}
	return b.String()
}
