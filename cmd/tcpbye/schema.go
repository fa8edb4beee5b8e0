package main

import (
	"github.com/spf13/cobra"

	"github.com/tcpbye/tcpbye/tracer/report"
)

func newSchema(env environment) *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "print the JSON Schema of -o json",
		Args:  usageArgs(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			_, err := env.stdout.Write(report.SchemaJSON())
			return err
		},
	}
}
