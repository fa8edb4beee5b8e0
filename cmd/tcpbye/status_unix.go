//go:build unix

package main

import (
	"os"
	"syscall"
)

// countSignals ask for the counts.
var countSignals = []os.Signal{syscall.SIGUSR1}
