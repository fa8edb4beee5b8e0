package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

func newRoot(env environment) *cobra.Command {
	root := &cobra.Command{
		Use:   "tcpbye",
		Short: "how every TCP connection said goodbye",
		Long: `tcpbye tells, for every TCP connection on this machine, who ended it, how, why,
and which bytes were lost, from the kernel's own events.`,
		Version:                    version(),
		SilenceUsage:               true,
		SilenceErrors:              true,
		Args:                       knownCommand,
		SuggestionsMinimumDistance: 2,
		RunE:                       func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.Flags().BoolP("version", "V", false, "print the version")
	root.SetIn(env.stdin)
	root.SetOut(env.stdout)
	root.SetErr(env.stderr)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		return &statusError{exitUsage, err}
	})
	root.AddCommand(
		newTrace(env), newRst(env), newTop(env),
		newJoin(env),
		newFindings(env), newProxy(env),
		newAnnotate(env),
		newExplain(env), newMan(env),
	)
	root.AddCommand(ofLinux(env)...)
	helped(root)
	completed(root)
	return root
}

// knownCommand says that an argument which is no command is none, and what may
// be meant.
func knownCommand(root *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if near := root.SuggestionsFor(args[0]); len(near) > 0 {
		return usage(fmt.Errorf("there is no command %q; is it %s?", args[0], strings.Join(near, " or ")))
	}
	return usage(fmt.Errorf("there is no command %q; tcpbye --help lists them", args[0]))
}

// usage marks an error in how the command was called.
func usage(err error) error {
	if err == nil {
		return nil
	}
	return &statusError{exitUsage, err}
}

// usageArgs makes a mistake in the arguments a usage error.
func usageArgs(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error { return usage(check(cmd, args)) }
}
