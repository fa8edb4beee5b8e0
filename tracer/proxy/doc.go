// Package proxy ties the two connections of one process that passes bytes from one to
// the other: which of them broke first, and which the process then ended because of it.
//
// It is pure: no clock, no /proc, no goroutine, no printing. It gets judged ends, as
// session.Config.Show delivers them, in any order.
//
// # What is tied
//
// The cause is a leg that was ended from outside: its peer's FIN or RST came, or its
// kernel gave up, before the process let go of it. The effect is a leg of the other
// direction that the process ended although nothing had come for it. Legs are of one direction if
// the process accepted them, and of the other if it opened them.
//
// # When
//
// A tie is certain if
//
//   - the process had, while the two lived, no other leg that could be meant; or
//   - both passed on exactly as many bytes as the other received, in both directions, no
//     other leg of that time did, and the process ended the two together.
//
// What is older than the trace, or nobody's as far as is known, counts as such a leg, and
// nothing is certain where a connection was dropped or a filter may have kept some away.
//
// It is likely if each thread of the process ends the connections that it opened, as event
// loops do; the same thread ended the two one right after the other; all that it ended
// without a pause was such pairs, in one order; and so it is for every other leg that could
// be meant.
// Anything else is not tied: a wrong tie is worse than none. Neither is what
// lived through a loss of events.
package proxy
