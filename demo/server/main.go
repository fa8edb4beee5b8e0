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
	c := echo.ServerConfig{Stdout: os.Stdout, Stderr: os.Stderr}
	flag.Usage = func() {
		fmt.Fprint(flag.CommandLine.Output(), "usage: server [flags]\nAnswer each message X with \"Hi, X\", exit at the end of input without closing the socket.\n")
		flag.PrintDefaults()
	}
	flag.IntVar(&c.Port, "port", echo.DefaultPort, "listen on TCP port `N`, IPv4 and IPv6; 0: the kernel picks one")
	flag.DurationVar(&c.Delay, "delay", echo.DefaultDelay, "work for this long on each answer")
	flag.IntVar(&c.WorkFD, "work-fd", 0, "work also until a byte can be read from descriptor `N`; 0: none")
	flag.Var(&c.Sigpipe, "sigpipe", "on SIGPIPE `default|ignore|handler`: be killed, get EPIPE, print the count and exit (default default)")
	flag.IntVar(&c.Connections, "n", 1, "serve `N` connections one after the other; all but the last are closed; 0: no end")
	flag.IntVar(&c.ReadyFD, "ready-fd", 0, "once listening, write the port to descriptor `N` and close it; 0: none")
	flag.StringVar(&c.ReadyFile, "ready-file", "", "once listening, write the port to the file `PATH`")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "unexpected argument %q\n", flag.Arg(0))
		flag.Usage()
		os.Exit(2)
	}
	ctx, _ := signal.NotifyContext(context.Background(), os.Interrupt)
	os.Exit(c.Run(ctx))
}
