// Command client is the echo client of the close and shutdown experiments; see
// package echo.
package main

import (
	"flag"
	"fmt"
	"os"

	"github.com/tcpbye/tcpbye/demo/echo"
)

func main() {
	c := &echo.Client{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}
	c.Flags(flag.CommandLine)
	flag.Usage = func() {
		fmt.Fprint(flag.CommandLine.Output(), "usage: client [flags] ADDRESS\nSend each line typed; \"shutdown\" ends this direction only, \"close\" (or ^D) closes the socket.\n")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() != 1 {
		fmt.Fprintf(os.Stderr, "want one address, for example 127.0.0.1 or [::1]:%d\n", echo.DefaultPort)
		flag.Usage()
		os.Exit(2)
	}
	c.Address = flag.Arg(0)
	os.Exit(c.Run())
}
