// Package conn is the join: events, in whatever order the CPUs delivered them,
// become Connections (one socket's life, seen from one end) and Pairs (both
// ends of one connection when both live on this machine).
//
// It is pure: no clock, no /proc, no goroutine, no printing. Time comes from
// the events.
package conn
