package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tcpbye/tcpbye/tracer/verdict"
)

func newExplain(env environment) *cobra.Command {
	return &cobra.Command{
		Use:   "explain [CAUSE]",
		Short: "what a cause means, how to prove it, what to do",
		Args:  usageArgs(cobra.MaximumNArgs(1)),
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				for _, r := range verdict.Rules() {
					if _, err := fmt.Fprintf(env.stdout, "%-20s %-10s %s\n", r.Cause, r.Class, firstSentence(r.What)); err != nil {
						return err
					}
				}
				return nil
			}
			for _, r := range verdict.Rules() {
				if string(r.Cause) == args[0] {
					_, err := fmt.Fprint(env.stdout, r.Explain())
					return err
				}
			}
			return usage(fmt.Errorf("no cause %q; tcpbye explain lists them", args[0]))
		},
	}
}

func firstSentence(s string) string {
	if i := strings.Index(s, ". "); i >= 0 {
		return s[:i+1]
	}
	return s
}
