package verdict

import (
	"fmt"
	"time"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
)

// Retry says whether what was asked over the connection can be asked again.
type Retry string

const (
	RetryUnknown Retry = ""       // not known
	RetrySafe    Retry = "safe"   // no application had read any of it
	RetryUnsafe  Retry = "unsafe" // an application had read it, and may have acted on it
)

// pause is a silence after which what comes is taken for a new request, where
// the one before was answered; the rest of a long one comes sooner.
const pause = 100 * time.Millisecond

// retry is whether the request, which the end that opened the connection sends,
// was read by the application at the other end, and why that is known. TCP knows
// no requests: where one may have been read in part, nothing is promised.
func (t *trial) retry(class Class) (Retry, string) {
	self, peer := t.self, t.peer
	switch {
	case class == Graceful, class == Unknown, t.rule.Cause == MPTCPReset:
		return RetryUnknown, "" // of MPTCP, other subflows may have carried it
	case self.c.Lossy || peer != nil && peer.c.Lossy:
		return RetryUnknown, "events were lost, so it is not known what was read"
	case neverEstablished(self):
		if somethingLost(self, nil) {
			return RetryUnknown, "the SYN carried data, which may have reached the application"
		}
		return RetrySafe, "the connection was never established, so nothing was sent"
	case t.rule.unaccepted:
		return RetrySafe, "no application had accepted the connection, so nothing was read"
	}
	asker, answerer := self, peer
	if self.c.Open == conn.OpenPassive || peer != nil && peer.c.Open == conn.OpenActive {
		asker, answerer = peer, self
	}
	switch {
	case self.c.Open == conn.OpenUnknown && (peer == nil || peer.c.Open == conn.OpenUnknown):
		return RetryUnknown, "it was opened before the trace began: who asked, and what was read before, is not known"
	case answerer == nil:
		return asker.retryRemote(t.rule.Cause)
	}
	return answerer.retryLocal(asker, t.scope)
}

// retryLocal judges from the end that was asked. asker is nil where it is remote.
func (f *facts) retryLocal(asker *facts, s Scope) (Retry, string) {
	name := end(f)
	got, unread := f.bytes.Received, f.lost.Unread
	if got == nil || unread == nil || *unread > *got {
		return RetryUnknown, "what " + name + " had read is not known"
	}
	read := *got - *unread
	refused := f.answer != none || f.mini != none || f.dead != none // what came for a closed socket
	under := uint64(0)                                              // written by the asker, and never taken by this kernel
	if asker != nil {
		l := asker.lost
		for _, n := range []*uint64{l.Unacked, l.Unsent} {
			if n != nil {
				under += *n
			}
		}
	}
	if read == 0 {
		if *got == 0 && under == 0 && !refused {
			return RetrySafe, "nothing had been asked"
		}
		switch {
		case *got == 0: // there was nothing to look at
		case f.peeked():
			return RetryUnknown, name + " had looked at it (MSG_PEEK), and may have acted on it"
		case !s.has(event.HookReceive):
			return RetryUnknown, name + " had taken nothing of it, but may have looked at it (MSG_PEEK): its reads were not watched"
		}
		return RetrySafe, name + " had read nothing of it"
	}
	_, sent, received, known := f.quiet()
	// The handshake counts as sent, too: who has sent no payload answered nothing.
	out := f.bytes.Sent
	answered := known && sent <= received && out != nil && *out > 0
	switch {
	case *unread > 0:
		return RetryUnknown, fmt.Sprintf("%s had read the first %s of %d; TCP cannot tell whether the rest began another request", name, plural(read), *got)
	case (refused || under > 0) && answered && received >= pause:
		return RetrySafe, "the last data met a socket that was already closed, and " + name + " had answered since it last received anything, " + span(received) + " before it closed"
	case refused || under > 0:
		return RetryUnknown, fmt.Sprintf("the last data was not read, but %s had read %s before; TCP cannot tell whether both belong to one request", name, plural(read))
	case answered:
		return RetryUnsafe, fmt.Sprintf("%s had read everything (%s), and answered since", name, plural(read))
	}
	return RetryUnsafe, fmt.Sprintf("%s had read everything (%s)", name, plural(read))
}

// peeked says whether the process looked at what came without taking it.
func (f *facts) peeked() bool {
	return event.Any(f.c.Events, func(e *event.Event) bool { return e.Peeked() })
}

// retryRemote judges from the end that asked; the one that was asked is remote.
func (f *facts) retryRemote(cause Cause) (Retry, string) {
	far := f.c.Remote.String()
	if f.silent() {
		return RetrySafe, "nothing had been sent"
	}
	l := f.lost
	if l.Unacked == nil || l.Unsent == nil {
		return RetryUnknown, "how much of it had reached " + far + " is not known"
	}
	e, fin := f.at(f.reset), f.at(f.peerFin)
	in := f.bytes.Received // the handshake counts as received, too
	answered := in != nil && *in > 0
	if *l.Unacked+*l.Unsent > 0 {
		// With nothing on its way when the FIN came, all that is not
		// acknowledged was sent to an end that had closed.
		if f.rst && fin != nil && before(f.peerFin, f.reset) && fin.SndUna == fin.WriteSeq && f.end().SndUna == fin.SndUna {
			if answered && fin.SinceReceived > 0 && fin.SinceReceived <= fin.SinceSent && fin.SinceSent >= pause {
				return RetrySafe, far + " had answered and closed before it was sent, and refused it"
			}
			return RetryUnknown, fmt.Sprintf("the last %s met an end that had closed and were not read; TCP cannot tell whether they are the whole request", plural(*l.Unacked+*l.Unsent))
		}
		r := f.incoming()
		bare := r != nil && r.Seen && r.Segment.Flags&event.ACK == 0 && (r.Answers == AnswerData || r.Answers == AnswerUnknown)
		if bare || cause == NoSocket {
			return RetryUnknown, fmt.Sprintf("%s no longer knew the connection when the last %s came, so nobody read them; a retry is safe if they are the whole request", far, plural(*l.Unacked+*l.Unsent))
		}
		return RetryUnknown, fmt.Sprintf("%s did not acknowledge the last %s, but may still have read them", far, plural(*l.Unacked+*l.Unsent))
	}
	if answered && e != nil && e.SinceReceived > 0 && e.SinceReceived < e.SinceSent {
		return RetryUnsafe, far + " had answered since the last was sent"
	}
	return RetryUnknown, far + " had acknowledged everything; whether its application had read it cannot be seen from here"
}
