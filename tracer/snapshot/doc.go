// Package snapshot tells which TCP connections there are now, in every network
// namespace that has processes and that this process may enter, and who holds
// them: from sock_diag(7), or /proc/net/tcp where there is none, and /proc/PID/fd.
//
// A trace takes one when its hooks are attached, so that the connections that
// are older have an owner; tcpbye trace --open prints one, and marks what will
// not end by itself.
//
// What a snapshot cannot know is not guessed: the kernel keeps no time of a state
// change, so the age of a state is a bound by the times that tcp_info has, or
// not known.
package snapshot
