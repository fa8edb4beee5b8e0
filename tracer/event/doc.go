// Package event is what the rest of tcpbye is about: one kernel observation of
// one socket or process, as a comparable Go value.
//
// It does no I/O and knows nothing of BPF, so that the join and the verdict can
// be tested from recordings on any machine.
package event
