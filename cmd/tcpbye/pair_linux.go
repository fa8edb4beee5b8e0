package main

import (
	"flag"

	"github.com/spf13/cobra"

	"github.com/tcpbye/tcpbye/demo/echo"
)

// The demo runs the echo pair as processes of their own. So that one file is
// enough, they are hidden commands of this program.

func newEchoServer(env environment) *cobra.Command {
	s := &echo.Server{Stdout: env.stdout, Stderr: env.stderr}
	return hidden("echo-server", cobra.NoArgs, s.Flags, func(cmd *cobra.Command, _ []string) int { return s.Run(cmd.Context()) })
}

func newEchoClient(env environment) *cobra.Command {
	c := &echo.Client{Stdin: env.stdin, Stdout: env.stdout, Stderr: env.stderr}
	return hidden("echo-client ADDRESS", cobra.ExactArgs(1), c.Flags, func(_ *cobra.Command, args []string) int {
		c.Address = args[0]
		return c.Run()
	})
}

func hidden(use string, args cobra.PositionalArgs, define func(*flag.FlagSet), run func(*cobra.Command, []string) int) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Hidden: true, Args: usageArgs(args),
		RunE: func(cmd *cobra.Command, args []string) error { return &statusError{status: run(cmd, args)} },
	}
	flags := flag.NewFlagSet(use, flag.ContinueOnError)
	define(flags)
	cmd.Flags().AddGoFlagSet(flags)
	return cmd
}
