// Package harness is the ground that endings are played on: a World of network
// namespaces, with a packet capture and the kernel's own tables and counters to
// tell what happened there.
//
// Package scenario adds processes that make one system call a command; package
// real adds programs as Debian ships them. Package stage traces what they do.
//
// # Rules
//
// Nothing outside namespaces made here is touched. No sleep stands for
// synchronisation: a step waits for the kernel's state, with a deadline. The
// package needs root. It does not import the tracer, so that no mistake can be
// shared by both.
package harness
