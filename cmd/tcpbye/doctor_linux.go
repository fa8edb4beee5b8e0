package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/tcpbye/tcpbye/tracer"
)

func newDoctor(env environment) *cobra.Command {
	var attach rungFlag
	var format, child string
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "say what this kernel and this user allow, and prove it",
		Long: `Attach every hook, run connections on 127.0.0.1 through them, and say which hook
fires by which way, what cannot be told without those that are missing, and what
to do about it. Exit status: 0 everything works, 3 some of it does not, 4 nothing
can be traced here.`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			self, err := os.Executable()
			if err != nil {
				return fmt.Errorf("find this program: %w", err)
			}
			again := []string{self, "doctor", "--child"}
			if child != "" {
				return tracer.Child(child, again, env.stdout)
			}
			if format != "text" && format != "json" {
				return usage(fmt.Errorf("--output %q: want text or json", format))
			}
			x, err := tracer.Examine(cmd.Context(), tracer.Options{Attach: tracer.Rung(attach)}, again)
			if err != nil {
				return err
			}
			if format == "json" {
				err = x.WriteJSON(env.stdout)
			} else {
				err = x.WriteText(env.stdout)
			}
			if err != nil {
				return err
			}
			switch x.Health {
			case tracer.Cannot:
				return &statusError{status: exitCannot}
			case tracer.Degraded:
				return &statusError{status: exitDegraded}
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&format, "output", "o", "text", "how to show: text, json")
	cmd.Flags().StringVar(&child, "child", "", "be the self-test's other process")
	if err := cmd.Flags().MarkHidden("child"); err != nil {
		cmd.RunE = func(*cobra.Command, []string) error { return err }
	}
	attach.flag(cmd)
	return cmd
}
