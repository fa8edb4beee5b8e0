package main

import (
	"github.com/spf13/cobra"

	"github.com/tcpbye/tcpbye/demo/echo"
)

// The demo runs the echo pair as processes of their own. So that one file is
// enough, they are hidden commands of this program.

func newEchoServer(env environment) *cobra.Command {
	c := echo.ServerConfig{Stdout: env.stdout, Stderr: env.stderr}
	var sigpipe string
	cmd := &cobra.Command{
		Use: "echo-server", Hidden: true, Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := c.Sigpipe.Set(sigpipe); err != nil {
				return usage(err)
			}
			return &statusError{status: c.Run(cmd.Context())}
		},
	}
	cmd.Flags().IntVar(&c.Port, "port", echo.DefaultPort, "TCP port")
	cmd.Flags().DurationVar(&c.Delay, "delay", echo.DefaultDelay, "work on each answer")
	cmd.Flags().StringVar(&sigpipe, "sigpipe", "default", "default, ignore or handler")
	cmd.Flags().IntVar(&c.Connections, "n", 1, "connections to serve")
	cmd.Flags().IntVar(&c.ReadyFD, "ready-fd", 0, "descriptor that gets the port")
	cmd.Flags().IntVar(&c.WorkFD, "work-fd", 0, "descriptor that lets each answer go")
	return cmd
}

func newEchoClient(env environment) *cobra.Command {
	c := echo.ClientConfig{Stdin: env.stdin, Stdout: env.stdout, Stderr: env.stderr}
	cmd := &cobra.Command{
		Use: "echo-client ADDRESS", Hidden: true, Args: usageArgs(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			c.Address = args[0]
			return &statusError{status: c.Run(cmd.Context())}
		},
	}
	cmd.Flags().DurationVar(&c.LingerBeforeExit, "linger-before-exit", echo.DefaultLingerBeforeExit, "how long to live on after close(2)")
	return cmd
}
