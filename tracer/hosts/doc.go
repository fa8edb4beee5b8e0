// Package hosts joins what the recordings of several hosts tell of the same
// connections, and has each judged with the events of both its ends.
//
// The two ends of a connection know the same two initial sequence numbers, crosswise,
// whatever an address translation makes of the addresses, and at any time of the
// connection's life: that makes them a pair. Socket addresses, PIDs, network
// namespaces and clocks are a host's own and are never compared between two.
//
// The clocks of two hosts are set against each other for each pair by what the
// connection itself shows: nothing is received before it is sent. See Clock.
//
// What was not attached or was lost at one host, and what its recording does not cover,
// holds for the ends of that host only. See Joint.
//
// It is pure: no clock, no files, no goroutine, no printing.
package hosts
