package verdict

import (
	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
)

// numbers are what Lost and Bytes point to.
type numbers struct{ unread, unsent, unacked, sent, acked, received uint64 }

func set(n *uint64, to uint64) *uint64 {
	*n = to
	return n
}

// counted are the counts for a verdict, which outlives the facts.
func (f *facts) counted() (Lost, Bytes) {
	if f.closed == none {
		return Lost{}, Bytes{}
	}
	n := f.numbers
	known := func(in, n *uint64) *uint64 {
		if in == nil {
			return nil
		}
		return n
	}
	return Lost{known(f.lost.Unread, &n.unread), known(f.lost.Unsent, &n.unsent), known(f.lost.Unacked, &n.unacked)},
		Bytes{known(f.bytes.Sent, &n.sent), known(f.bytes.Acked, &n.acked), known(f.bytes.Received, &n.received)}
}

// countLost counts what this end lost, from the sequence numbers at the moments when
// they are valid.
func (f *facts) countLost() Lost {
	var l Lost
	end := f.end()
	reader := f.reader()
	if reader.Has&event.HasTCP != 0 {
		n, known := unurgent(reader, f.queued(reader))
		// At the end a process may still hold the socket and read on: without
		// its close, what it never read is not known.
		if known && (n == 0 || reader != end || f.release == f.closed || !end.HasSk) {
			l.Unread = set(&f.numbers.unread, uint64(n))
		}
	}
	if end.Has&event.HasTCP != 0 {
		sent, queued := f.unacknowledged(end)
		l.Unacked, l.Unsent = set(&f.numbers.unacked, uint64(sent)), set(&f.numbers.unsent, uint64(queued))
	}
	// What the process wrote and read is another layer's. A subflow of MPTCP
	// carries any part of it, some of it twice; kTLS and sockmap have queues of
	// their own, and what TCP counts is read by them.
	if f.aboveIn {
		l.Unread = nil
	}
	if f.aboveOut {
		l.Unsent = nil
	}
	return l
}

// reader is the event that shows what the process left in the receive queue:
// __tcp_close holds the lock and has purged nothing; but once tcp_disconnect ran,
// copied_seq has been set to rcv_nxt, so then the state event counts, which comes
// before.
func (f *facts) reader() *event.Event {
	e := f.at(f.release)
	if e == nil || (f.disconn != none && f.disconn < f.release) || e.Has&event.HasTCP == 0 {
		return f.end()
	}
	return e
}

// queued counts the bytes in the receive queue, as the kernel does that decides
// whether a close is an abort.
func (f *facts) queued(e *event.Event) uint32 {
	n := e.RcvNxt - e.CopiedSeq
	if n > 0 && f.finReceived(e) {
		n-- // the peer's FIN has a sequence number, too
	}
	if e.State == event.SynSent || e.RcvNxt == 0 {
		return 0
	}
	return n
}

// unurgent takes from what is queued the urgent byte that was read with MSG_OOB,
// which leaves its place in the queue. One that was passed over before may have
// been read or not: the kernel forgets that (tcp_recvmsg_locked).
func unurgent(e *event.Event, n uint32) (uint32, bool) {
	if e.UrgSeq == 0 || e.SkFlags&event.SockUrgInline != 0 {
		return n, true
	}
	if int32(e.UrgSeq-e.CopiedSeq) < 0 || int32(e.UrgSeq-e.RcvNxt) >= 0 {
		return n, e.UrgData != 0
	}
	if n > 0 && e.UrgData&event.UrgentRead != 0 {
		n--
	}
	return n, true
}

// finReceived says whether the peer's FIN is counted in rcv_nxt.
func (f *facts) finReceived(e *event.Event) bool {
	if e.SkFlags&event.SockDone != 0 {
		return true
	}
	switch e.State {
	case event.CloseWait, event.LastAck, event.Closing, event.TimeWait:
		return true
	}
	return false
}

// unacknowledged counts payload bytes in flight and never sent. write_seq
// counts the SYN from the start and the FIN once it is queued.
func (f *facts) unacknowledged(e *event.Event) (sent, queued uint32) {
	sent = e.SndNxt - e.SndUna
	queued = e.WriteSeq - e.SndNxt
	switch e.State {
	case event.SynSent, event.SynRecv:
		// A child of a listener begins after its SYN-ACK was acknowledged; in a
		// simultaneous open the SYN is still to be.
		if sent > 0 && f.c.Open != conn.OpenPassive {
			sent--
		}
	case event.FinWait1, event.Closing, event.LastAck:
		switch {
		case queued > 0:
			queued--
		case sent > 0:
			sent--
		}
	}
	if int32(sent) < 0 {
		sent = 0
	}
	if int32(queued) < 0 {
		queued = 0
	}
	return sent, queued
}

// countBytes counts payload both ways.
func (f *facts) countBytes() Bytes {
	var b Bytes
	e := f.end()
	if e.Has&event.HasTCP == 0 {
		// Still open, or the end not seen: the last snapshot is a lower bound
		// that nobody asked for. Say nothing.
		return b
	}
	acked := e.BytesAcked
	// An active opener's SYN is counted (tcp_ack at SYN_SENT), and an
	// acknowledged FIN.
	if f.c.Open == conn.OpenActive && acked > 0 {
		acked--
	}
	if f.finAcked && acked > 0 {
		acked--
	}
	known := f.c.Open != conn.OpenUnknown && !e.Repair // whether its SYN was counted
	received := e.BytesReceived
	if (f.finReceived(e) || (f.peerFin != none && f.peerFin <= f.closed)) && received > 0 {
		received--
	}
	inFlight, _ := f.unacknowledged(e)
	sent := acked + uint64(inFlight)
	b.Received = set(&f.numbers.received, received)
	if known {
		b.Acked, b.Sent = set(&f.numbers.acked, acked), set(&f.numbers.sent, sent)
	}
	return b
}

// zero says whether it is known that there were none.
func zero(n *uint64) bool { return n != nil && *n == 0 }

// nothingLost says whether it is known that nothing was lost, at either end that is.
func nothingLost(a, b *facts) bool {
	return !losses(a, b, func(n *uint64) bool { return !zero(n) })
}

// somethingLost says whether it is known that something was lost.
func somethingLost(a, b *facts) bool {
	return losses(a, b, func(n *uint64) bool { return n != nil && *n != 0 })
}

// losses says whether that is so of any number of bytes that an end may have lost.
func losses(a, b *facts, is func(*uint64) bool) bool {
	for _, f := range []*facts{a, b} {
		if f == nil {
			continue
		}
		if l := f.lost; is(l.Unread) || is(l.Unsent) || is(l.Unacked) {
			return true
		}
	}
	return false
}
