// Package session is the one pipeline behind every command: events, live or
// from a recording, are joined, judged and shown in the same way.
//
// What a live run looks up beside the events (processes, connections that are
// older than the trace) enters the pipeline as a value with a time, and is
// recorded. So everything that is shown is a function of what a recording holds,
// and a replay shows the same.
//
// Gather keeps what a recording shows, for the join with those of other hosts (package
// hosts).
//
// It prints nothing itself, and everything in a run is called from one goroutine.
package session
