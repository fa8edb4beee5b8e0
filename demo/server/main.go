// Command server is the echo server of the close and shutdown experiments; see
// package echo.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"

	"github.com/tcpbye/tcpbye/demo/echo"
)

func main() {
	s := &echo.Server{Stdout: os.Stdout, Stderr: os.Stderr}
	s.Flags(flag.CommandLine)
	flag.Usage = func() {
		fmt.Fprint(flag.CommandLine.Output(), "usage: server [flags]\nAnswer each message X with \"Hi, X\", exit at the end of input without closing the socket.\n")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "unexpected argument %q\n", flag.Arg(0))
		flag.Usage()
		os.Exit(2)
	}
	ctx, _ := signal.NotifyContext(context.Background(), os.Interrupt)
	os.Exit(s.Run(ctx))
}
