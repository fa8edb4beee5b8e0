package verdict

import (
	"math"
	"time"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
)

// Reset is the RST that came in, read as far as one end can.
type Reset struct {
	At       time.Duration  // CLOCK_MONOTONIC
	AfterFin *time.Duration // how long after the peer's FIN; nil: before it

	// Seen says whether the segment itself was seen; without, the rest is zero.
	Seen      bool
	Segment   event.Segment
	Handshake event.Segment // the peer's segment that established the connection; zero: not seen
	Text      string        // what the RST carried, any bytes, cut at 64

	Timestamps event.Timestamps // also known where the segment was not seen

	Answers Answer
	After   *time.Duration // how long after that was sent; nil: not known
	// Offset is how far the sequence number is from the one that this end
	// expected; nil: not known.
	Offset *int32
	// Behind is how many of the bytes that this end had sent its ACK does not
	// cover; nil: it has no ACK, or that is not known.
	Behind *uint32
}

// Answer is what a RST that came in was an answer to, as far as the end that got it can
// tell: the last thing that it had sent.
type Answer string

const (
	AnswerUnknown Answer = ""
	AnswerNone    Answer = "none"  // it came on its own: it has an ACK, or there was nothing to answer
	AnswerSYN     Answer = "syn"   // the SYN
	AnswerData    Answer = "data"  // payload
	AnswerFIN     Answer = "fin"   // the FIN
	AnswerACK     Answer = "ack"   // an acknowledgement of what had come in
	AnswerProbe   Answer = "probe" // a keepalive or window probe
)

// incoming reads the RST that ended this end; nil: none came.
func (f *facts) incoming() *Reset {
	e := f.at(f.reset)
	if e == nil || !f.rst || f.resetIn != nil {
		return f.resetIn
	}
	r := &Reset{At: e.Time, Text: e.Text, Timestamps: e.Timestamps}
	f.resetIn = r
	if before(f.peerFin, f.reset) {
		d := e.Time - f.at(f.peerFin).Time
		r.AfterFin = &d
	}
	if e.Has&event.HasSegment == 0 || e.Segment.Flags&event.RST == 0 {
		return r
	}
	r.Seen, r.Segment = true, e.Segment
	if h := f.at(f.established); h != nil && h.Has&event.HasSegment != 0 {
		r.Handshake = h.Segment
	}
	r.answers(f, e)
	if e.Has&event.HasTCP == 0 || e.State == event.SynSent {
		return r
	}
	offset := int32(e.Segment.Seq - e.RcvNxt)
	r.Offset = &offset
	if e.Segment.Flags&event.ACK != 0 {
		behind := int32(e.SndNxt - e.Segment.Ack)
		if f.fin != none && f.fin < f.reset && e.SndNxt == e.WriteSeq && behind > 0 {
			behind-- // the FIN
		}
		// A device on the path may leave the field at anything.
		if behind >= 0 && int32(e.Segment.Ack-e.SndUna) >= 0 {
			n := uint32(behind)
			r.Behind = &n
		}
	}
	return r
}

// answers finds what the RST was an answer to. One with an ACK is none: an
// answer takes its sequence number from the ACK of what it answers, and has no
// ACK itself (RFC 9293 3.5.2); only a SYN without an ACK is answered with one.
func (r *Reset) answers(f *facts, e *event.Event) {
	if e.State == event.SynSent {
		r.Answers = AnswerSYN
		return
	}
	if e.Segment.Flags&event.ACK != 0 {
		r.Answers = AnswerNone
		return
	}
	if e.Has&event.HasTCP == 0 {
		return
	}
	if e.ProbesOut > 0 {
		r.Answers = AnswerProbe
		return
	}
	// A bare RST acknowledges nothing: what it answers is still to be.
	owed := e.SndNxt - e.SndUna
	last := func(what Answer, ago time.Duration) {
		if r.After == nil || ago < *r.After {
			r.Answers, r.After = what, &ago
		}
	}
	if before(f.fin, f.reset) && e.SndNxt == e.WriteSeq && owed > 0 {
		last(AnswerFIN, e.Time-f.at(f.fin).Time)
		owed--
	}
	if e.SinceSent > 0 && !f.silent() && owed > 0 {
		last(AnswerData, e.SinceSent)
	}
	if e.SinceReceived > 0 && e.BytesReceived > 0 {
		last(AnswerACK, e.SinceReceived)
	}
	fresh := r.AfterFin != nil && *r.AfterFin < ackDelay || r.Answers == AnswerACK && *r.After < ackDelay
	if (r.Answers == AnswerUnknown || r.Answers == AnswerACK) && owed == 0 && f.acknowledgedBy(e) && !fresh {
		r.Answers, r.After = AnswerNone, nil
	}
}

// ackDelay is how long after payload an acknowledgement of it may still be under
// way: the kernel holds it back for up to 0.2 s (TCP_DELACK_MAX).
const ackDelay = time.Second

// acknowledgedBy says whether the peer had acknowledged payload by then: what
// this end's kernel had to say of the handshake had met its socket.
func (f *facts) acknowledgedBy(e *event.Event) bool {
	n := e.BytesAcked
	if f.c.Open != conn.OpenPassive && n > 0 {
		n--
	}
	return n > 0
}

// silent says whether this end is known to have sent no payload: then its last
// sending was the handshake.
func (f *facts) silent() bool { return zero(f.bytes.Sent) }

// Elsewhere says whether the TTL, or the timestamp, speaks for another sender
// than the one that shook hands. It is never proof: a route can change, and a
// stack may give its resets a TTL of their own.
func (r *Reset) Elsewhere() bool { return r.hops() > nearHops || r.backwards() != 0 }

// Hops is how far the TTL of the RST is from that of the handshake; 0 also where
// one of them is not known.
func (r *Reset) hops() int {
	if r == nil || r.Segment.TTL == 0 || r.Handshake.TTL == 0 {
		return 0
	}
	d := int(r.Segment.TTL) - int(r.Handshake.TTL)
	return max(d, -d)
}

// nearHops is how much the TTL of a reset may differ from the handshake's
// before it says something: routes change.
const nearHops = 2

// backwards is by how many ticks the RST's timestamp is older than one that the
// peer had sent before; 0: it is not, or that is not known.
//
// A peer's clock never runs backwards (RFC 7323 5.3), and Linux shows it on the
// RST with which it aborts a connection. Nothing can be told of a RST without an
// ACK, which may be a rebooted machine's answer; of a clock at 0, which some
// stacks send for no clock (tcp_paws_check, include/net/tcp.h); and after so long
// a silence that the fastest clock may have gone half way round. That a clock ran
// too far says nothing, either: this machine may have slept.
func (r *Reset) backwards() uint32 {
	if r == nil || !r.Seen || r.Segment.Flags&event.ACK == 0 {
		return 0
	}
	t := r.Timestamps
	if !t.Agreed || !t.Carried || t.Recent == 0 || t.Value == 0 || t.Age < 0 || (t.Age/time.Second+2)*maxTicks > math.MaxInt32 {
		return 0
	}
	if d := int32(t.Recent - t.Value); d > 0 {
		return uint32(d)
	}
	return 0
}

// maxTicks is how fast a timestamp clock may tick: every microsecond, as Linux
// can since 6.7 (TCP_USEC_TS, tcp_clock_us); RFC 7323 5.4 wants 1 ms to 1 s.
const maxTicks = 1_000_000 // in a second

// unprompted says whether a RST of the form that answers a segment came when there
// was none to answer: everything had been acknowledged, and nothing had come in of
// which an acknowledgement could have been under way. A stack sends no such RST
// (RFC 9293 3.10.7.1), except to the challenge ACK that a SYN of a new connection
// drew, which is not seen here.
func (r *Reset) unprompted() bool {
	return r != nil && r.Seen && r.Segment.Flags&event.ACK == 0 && r.Answers == AnswerNone
}
