package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tcpbye/tcpbye/tracer/verdict"
)

func newExplain(env environment) *cobra.Command {
	return &cobra.Command{
		Use:   "explain [CAUSE | WHAT YOU SAW]",
		Short: "what a cause means, or what can be behind an error",
		Long: `Without an argument, list the causes. With a cause, tell what happens, how to
prove it and what to do. With an error (ECONNRESET, "broken pipe"), a signal, a
counter, a reset reason or a state, tell which causes can be behind it.`,
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				for _, r := range verdict.Rules() {
					if _, err := fmt.Fprintf(env.stdout, "%-20s %-10s %s\n", r.Cause, r.Class, r.Summary()); err != nil {
						return err
					}
				}
				return nil
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
			return usage(fmt.Errorf("no cause and no symptom %q; tcpbye explain lists the causes", query))
		},
	}
}
