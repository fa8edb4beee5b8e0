// Package rollout counts what a restart, a reload or a stop of a service did to its
// connections: how many were open, how each ended, and which were cut.
//
// It is pure: no clock, no /proc, no goroutine, no printing. It gets judged ends, as
// session.Config.Show delivers them, in any order.
//
// # What is counted
//
// The window goes from Begin to the end of what was traced. A connection is in it if
// the service has the end that did not open it, and it was open when the window began
// or was opened later. It is counted once, whether one of its ends was seen or both.
// Connections that the service opened itself, to a database for example, are not part
// of the rollout.
//
// # What a cut is
//
// A connection is cut if the service or its kernel ended it, or did not let it begin,
// with work in flight:
//
//   - unanswered: the service had received bytes after the last that it had sent, and
//     ended the connection (verdict.Unanswered).
//   - unread: the service closed with received bytes that it had not read, which
//     resets the connection.
//   - late-request: the client's bytes met a socket that the service had closed: a
//     request on a keep-alive connection that crossed the FIN.
//   - unsent: the service aborted the connection with bytes of its own that had not
//     been acknowledged.
//   - not-accepted: the handshake was over, no process accepted the connection, and
//     the listener went away or reset it.
//   - refused: nothing listened on a port of the service, or its accept queue was full.
//
// Not a cut is an end that had nothing in flight, however it looks on the wire; one
// that the client made; one that a third made (the path, an operator, a timeout of the
// network): these are counted as left and failed.
//
// An end is unsure if events were lost, if the verdict is unknown, or if the process
// died so soon after the last bytes (Busy) that their order is not known: the kernel
// keeps the times of sending and receiving in jiffies. A gate that must not pass by
// mistake counts those, too: see Summary.Passes.
//
// TCP knows no requests. A response that was cut short at the boundary of a write, and
// whose bytes all arrived, before a FIN, looks like a whole one.
package rollout
