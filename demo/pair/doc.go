// Package pair runs the echo client and server (package echo) as two processes
// through one experiment: data1, data2, then close or shutdown.
//
// Each step waits for a line of the other program's output or for the kernel's
// state, so that the same happens on any machine, however slow.
package pair
