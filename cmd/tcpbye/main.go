// Command tcpbye tells how every TCP connection said goodbye: who ended it,
// how, why, and which bytes were lost.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
)

// Exit statuses.
const (
	exitDone     = 0
	exitFailure  = 1
	exitUsage    = 2
	exitDegraded = 3
	exitCannot   = 4
)

func main() {
	if status, ok := helper(); ok {
		os.Exit(status)
	}
	os.Exit(run(os.Args[1:], environment{
		stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, getenv: os.Getenv,
	}))
}

// environment is all that the commands know of the world.
type environment struct {
	stdin          *os.File
	stdout, stderr io.Writer
	getenv         func(string) string
	signals        *signals
}

// statusError ends the program with a status of its own. With an empty err
// everything has been said.
type statusError struct {
	status int
	err    error
}

func (e *statusError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit status %d", e.status)
	}
	return e.err.Error()
}

func (e *statusError) Unwrap() error { return e.err }

func run(args []string, env environment) int {
	ctx, signals := newSignals(os.Exit)
	defer signals.listen()()
	env.signals = signals
	root := newRoot(env)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil || errors.Is(err, syscall.EPIPE) {
		return exitDone // a reader that has seen enough is a normal end
	}
	var status *statusError
	if errors.As(err, &status) {
		if status.err != nil {
			fmt.Fprintf(env.stderr, "tcpbye: %v\n", status.err)
		}
		return status.status
	}
	fmt.Fprintf(env.stderr, "tcpbye: %v\n", err)
	if cannotTrace(err) {
		return exitCannot
	}
	return exitFailure
}
