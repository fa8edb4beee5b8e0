// Package verdict judges a Connection: an ordered table of rules, the first
// that matches names the one cause. A rule carries everything that is said of
// its cause anywhere: the sentence, the advice, the belief that it corrects.
//
// It is pure: no clock, no /proc, no goroutine, no printing.
//
// # Cause and effect
//
// A rule finds a cause at one end. It explains that end; it explains the other
// only if it came before the other's end, and if what it sent arrived there: a RST
// for an abort, or that end is open still. Else the other end ended in its own
// way, by its own process or kernel, and the two ends of one connection have
// different causes: a server aborts and its RST is lost, and the client gives up;
// a client gives up, and the server closes later.
//
// # What is claimed
//
// Certain means that no event of a second end could refute the verdict. So what is
// certain of an end whose other end lives on another machine claims what this end
// knows, and no more:
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
//     after having waited for an answer. Why none came is not claimed; where that is
//     known (accept-overflow) it is the cause.
//   - still-open, close-wait-leak: this end has not ended. Why it stands is a matter
//     of the other end where that is known (fin-wait2-held, fin-stuck,
//     descriptor-held, never-accepted).
//   - an abort by a process or the kernel here: that it was, and that this kernel
//     sent what is told as sent. Whether it reached the peer is not claimed.
//   - peer-abort, peer-gone, port-closed, handshake-reset, path-reset: a RST came.
//     Who sent it is at most likely where the stack that did is not on this machine:
//     a RST of the path looks like one of the peer, unless it is in its form an
//     answer and there was nothing to answer.
package verdict
