// Package verdict judges how a connection ended: who ended it, how, why, and which bytes
// were lost.
//
// Rules are tried in a fixed order, and the first that matches names the one cause. A
// rule carries everything that is said of its cause anywhere: its class, what to look
// for in the events, the sentence, the advice, the explanation, the symptoms that lead
// to it. All of that stands in one file for each family of causes:
//
//	connect.go   never established: refused, unreachable, no answer, given up
//	listener.go  what happens to connections in a listener's queue
//	abort.go     a process that holds the socket aborts
//	outside.go   the socket, or what it lives in, is taken away; MPTCP
//	latedata.go  data comes for a socket that takes none any more
//	orphan.go    the kernel ends a socket that its process has closed
//	timeout.go   the kernel gives up: the peer did not answer
//	unsent.go    the kernel gives up: this host could not send
//	reset.go     a RST came in whose cause lies elsewhere
//	graceful.go  both ends sent a FIN
//	open.go      not ended
//	unknown.go   not known
//
// rules.go has their order. judge.go is the way from a connection to its verdict: facts.go
// reads the events of both ends once, the rules look at these facts (effect.go says
// whether a cause at one end can have ended the other), and the rest of the verdict is
// filled in (bytes.go, actor.go, appsaw.go, incoming.go, life.go, retry.go, unanswered.go).
// consistent.go finds what is missing in the events of an end.
//
// The package is pure: no clock, no /proc, no goroutine, no printing.
//
// # Cause and effect
//
// A rule finds a cause at one end. It explains that end. It explains the other end only
// if that one is still open, or if the cause came before its ending and what an abort
// sent, a RST, arrived there. Otherwise the other end was ended by its own process or
// kernel, and the two ends of one connection have different causes: a server aborts, its
// RST is lost, and the client gives up; a client gives up, and the server closes later.
//
// # What is claimed
//
// Certain means that no event of a second end could refute the verdict. So a certain
// verdict on an end whose peer lives on another machine claims what this end knows, and
// no more:
//
//   - orderly-close: both ends sent a FIN and got the other's; what is counted as
//     lost at this end is what was lost here. It is the weakest of the graceful
//     causes. half-close and simultaneous-close say more, and need both ends: that
//     one shut its sending side down and read on before the other said goodbye, and
//     that the FINs crossed (which an end that goes through FIN_WAIT2 does not see,
//     if the other's FIN waited in a queue or was sent again). The ender is the end
//     whose FIN was seen first; of the peer, act and actor are null.
//   - connect-timeout, retransmit-timeout, user-timeout, zero-window-timeout,
//     keepalive-timeout, orphan-timeout, fin-wait2-timeout: this kernel gave up,
//     after waiting for an answer. Why none came is not claimed; where it is known
//     (accept-overflow), that is the cause.
//   - still-open, close-wait-leak: this end has not ended. If the reason is known, that
//     is the cause (fin-wait2-held, fin-stuck, descriptor-held, never-accepted).
//   - an abort by a process or the kernel here: it happened, and this kernel sent what
//     the sentence says was sent. Whether it reached the peer is not claimed.
//   - peer-abort, peer-gone, port-closed, handshake-reset, path-reset: a RST came.
//     Who sent it is at most likely where the stack that did is not on this machine:
//     a RST of the path looks like one of the peer, unless it is in its form an
//     answer and there was nothing to answer.
package verdict
