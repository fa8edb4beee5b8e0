// Package bpf is the kernel half of tcpbye: C sources, the event contract
// (event.h) and the bindings that bpf2go makes of them, committed so that a
// build needs no clang.
package bpf
