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
}

func newSchema(env environment) *cobra.Command {
	names := strings.Join(report.Schemas(), ", ")
	return &cobra.Command{
		Use:   "schema [NAME]",
		Short: "print the JSON Schema of -o json",
		Long: `Print the JSON Schema of what trace and rst write with -o json; with NAME, of what the command
of that name writes: ` + names + ".",
		Args:      usageArgs(cobra.MaximumNArgs(1)),
		ValidArgs: report.Schemas(),
		RunE: func(_ *cobra.Command, args []string) error {
			schema := report.SchemaJSON()
			if len(args) > 0 {
				if schema = report.SchemaOf(args[0]); schema == nil {
					return usage(fmt.Errorf("there is no schema %q: want one of %s", args[0], names))
				}
			}
			_, err := env.stdout.Write(schema)
			return err
		},
	}
}
