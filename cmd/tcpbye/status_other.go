//go:build !unix

package main

import "os"

// countSignals: there is none here that could ask for the counts.
var countSignals []os.Signal
