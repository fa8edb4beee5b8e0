// Package tracer loads the kernel half, attaches each hook by the best rung
// that works here, and delivers Events.
//
// It and package bpf are the only importers of cilium/ebpf. It prints nothing,
// never exits, and leaves no goroutine, probe, pin or map behind after Close.
package tracer
