package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tcpbye/tcpbye/tracer"
	"github.com/tcpbye/tcpbye/tracer/report"
	"github.com/tcpbye/tcpbye/tracer/snapshot"
)

// schemas are those of the JSON formats, the first by default.
var schemas = []struct {
	name, of string
	text     func() []byte
}{
	{"connection", "trace, rst and demo -o json, a line for each connection end", report.SchemaJSON},
	{"socket", "trace --open -o json, a line for each open socket", snapshot.SchemaJSON},
	{"doctor", "doctor -o json", tracer.SchemaJSON},
	{"rollout", "rollout -o json, an object", func() []byte { return report.SchemaOf("rollout") }},
	{"test", "test --json, a line for each fault", func() []byte { return report.SchemaOf("test") }},
	{"findings", "findings -o json, a line for each finding", func() []byte { return report.SchemaOf("findings") }},
	{"proxy", "proxy -o json, a line for each tie", func() []byte { return report.SchemaOf("proxy") }},
}

func newSchema(env environment) *cobra.Command {
	var names []string
	long := "Print the JSON Schema (draft 2020-12) of what tcpbye writes as JSON:\n\n"
	for _, s := range schemas {
		names = append(names, s.name)
		long += fmt.Sprintf("  %-10s  %s\n", s.name, s.of)
	}
	return &cobra.Command{
		Use:       "schema [" + strings.Join(names, " | ") + "]",
		Short:     "print the JSON Schema of -o json",
		Long:      strings.TrimSuffix(long, "\n"),
		ValidArgs: names,
		Args:      usageArgs(cobra.MaximumNArgs(1)),
		RunE: func(_ *cobra.Command, args []string) error {
			for i, s := range schemas {
				if len(args) == 0 && i == 0 || len(args) == 1 && args[0] == s.name {
					_, err := env.stdout.Write(s.text())
					return err
				}
			}
			return usage(fmt.Errorf("no schema %q: want %s", args[0], strings.Join(names, ", ")))
		},
	}
}
