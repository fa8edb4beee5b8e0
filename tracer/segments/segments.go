package segments

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
)

// Segment is one TCP segment, or, with Several, a run of payload.
type Segment struct {
	Time     time.Duration // CLOCK_MONOTONIC
	Latest   bool          // Time is the latest that it can have been
	From, To netip.AddrPort
	Seq, Ack uint32 // absolute, as on the wire
	Flags    event.TCPFlags
	Len      uint32 // payload, bytes
	Several  bool   // the payload may have come in several segments
	run      bool   // it is known from counters
	Text     string // the beginning of the payload, where it is known: a RST's

	// As on the wire; known where a hook saw the segment itself (Seen).
	Seen   bool
	Window uint16 // unscaled
	TTL    uint8
	IPID   uint16

	// Sent: it is told by the end that sent it, and not by the one that received it.
	Sent bool
	// NetNS is the namespace of the end that tells of it: an inode number, 0 unknown.
	NetNS uint32
	// Host is that end's host, where several hosts are told of; "" this one.
	Host string
	// PID and TID are the process of that end, and its thread where that acted; 0
	// unknown, or nobody.
	PID, TID uint32
}

// End is the sequence number after the segment.
func (s *Segment) End() uint32 {
	n := s.Seq + s.Len
	for _, f := range []event.TCPFlags{event.SYN, event.FIN} {
		if s.Flags&f != 0 {
			n++
		}
	}
	return n
}

// Is says whether one of the flags is set.
func (s *Segment) Is(f event.TCPFlags) bool { return s.Flags&f != 0 }

// Of are the segments of a connection in the order of time. b is its other end,
// nil where that is not known. What both ends tell of is there once, unless their
// addresses differ (NAT): then each end has its own view.
func Of(a, b *conn.Connection) []Segment {
	all := one(a)
	if b != nil {
		all = append(all, one(b)...)
	}
	all = merge(all)
	order(all)
	return all
}

// teller makes the segments of one end.
type teller struct {
	c   *conn.Connection
	pid uint32 // who held the socket
	all []Segment
}

func one(c *conn.Connection) []Segment {
	if !c.Local.IsValid() || !c.Remote.IsValid() {
		return nil
	}
	t := &teller{c: c}
	for _, who := range []*conn.Process{c.Owner, c.Opener} {
		if who != nil && t.pid == 0 {
			t.pid = here(who.PID)
		}
	}
	t.handshake()
	for i := range c.Events {
		t.seen(&c.Events[i], false)
	}
	for i := range c.Elsewhere {
		t.seen(&c.Elsewhere[i], true)
	}
	t.fins()
	t.payload()
	return t.all
}

func here(pid uint32) uint32 {
	if event.Outside(pid) {
		return 0
	}
	return pid
}

// told says whether an event tells of the connection's own sequence numbers.
func told(e *event.Event) bool {
	if e.Has&event.HasTCP == 0 {
		return false
	}
	switch e.State {
	case event.Established, event.FinWait1, event.FinWait2, event.CloseWait, event.LastAck, event.Closing:
		return true
	case event.SynSent, event.SynRecv:
		return e.Hook == event.HookSetState && e.ToState == event.Established
	}
	return false
}

func (t *teller) add(e *event.Event, sent bool, s Segment) *Segment {
	s.Time, s.Sent, s.NetNS, s.Host, s.PID = e.Time, sent, t.c.NetNS, t.c.Host, t.pid
	s.From, s.To = t.c.Local, t.c.Remote
	if !sent {
		s.From, s.To = s.To, s.From
	} else if e.ByProcess() && !event.Outside(e.PID) {
		s.PID, s.TID = e.PID, here(e.TID)
	}
	t.all = append(t.all, s)
	return &t.all[len(t.all)-1]
}

// wire is a segment that a hook saw.
func (t *teller) wire(e *event.Event, sent bool) *Segment {
	w := &e.Segment
	return t.add(e, sent, Segment{Seq: w.Seq, Ack: w.Ack, Flags: w.Flags, Len: w.Len,
		Seen: true, Window: w.Window, TTL: w.TTL, IPID: w.IPID})
}

// handshake tells the segments that opened the connection.
func (t *teller) handshake() {
	for i := range t.c.Events {
		e := &t.c.Events[i]
		switch {
		case e.Hook == event.HookConnect && e.Has&event.HasTCP != 0 && e.State == event.SynSent:
			t.add(e, true, Segment{Seq: e.WriteSeq, Flags: event.SYN})
		case e.Hook != event.HookSetState || e.ToState != event.Established || !told(e):
		case e.State == event.SynSent:
			if !slices.ContainsFunc(t.all, func(s Segment) bool { return s.Is(event.SYN) }) {
				syn := t.add(e, true, Segment{Seq: e.SndUna - uint32(e.BytesAcked), Flags: event.SYN, Latest: true})
				if t.c.Opened != 0 {
					syn.Time = t.c.Opened
				}
			}
			if e.Has&event.HasSegment == 0 {
				t.add(e, false, Segment{Seq: e.RcvNxt - 1, Ack: e.SndUna, Flags: event.SYN | event.ACK})
			}
		case e.State == event.SynRecv && t.c.Open == conn.OpenPassive:
			snd, rcv := e.SndUna-uint32(e.BytesAcked)-1, e.RcvNxt-uint32(e.BytesReceived)-1
			t.add(e, false, Segment{Seq: rcv, Flags: event.SYN, Latest: true}).Time = t.c.First
			t.add(e, true, Segment{Seq: snd, Ack: rcv + 1, Flags: event.SYN | event.ACK, Latest: true}).Time = t.c.First
		}
	}
}

// seen tells what one event shows: the segment that it is about, and the RST that
// is sent. What comes from elsewhere is the other end's, or of a kernel that answers
// for it.
func (t *teller) seen(e *event.Event, elsewhere bool) {
	whole := e.Has&event.HasSegment != 0 && e.Segment.Flags != 0
	switch e.Hook {
	case event.HookSetState, event.HookSynDrop:
		if whole {
			t.wire(e, elsewhere)
		}
	case event.HookReset:
		if whole {
			t.wire(e, elsewhere).Text = e.Text
		}
	case event.HookSendReset:
		if !whole || e.Segment.Flags&event.RST != 0 {
			return // the hook is at the entry of the function, which answers no RST
		}
		w := *t.wire(e, elsewhere)
		if elsewhere { // a kernel that has no socket for it tells
			got := &t.all[len(t.all)-1]
			got.Sent, got.PID, got.TID = false, 0, 0
		}
		t.answer(e, w, !elsewhere)
	case event.HookSendActiveReset:
		if !elsewhere && e.Has&event.HasTCP != 0 && (e.SndNxt != 0 || e.RcvNxt != 0) {
			t.add(e, true, Segment{Seq: acceptable(e), Ack: e.RcvNxt, Flags: event.RST | event.ACK})
		}
	}
}

// answer is the RST that a segment is answered with (tcp_v4_send_reset), by this end
// or by a kernel that stands for the other one.
func (t *teller) answer(e *event.Event, to Segment, own bool) {
	rst := Segment{Flags: event.RST}
	if to.Is(event.ACK) {
		rst.Seq = to.Ack
	} else {
		rst.Flags |= event.ACK
		rst.Ack = to.End()
	}
	s := t.add(e, own, rst)
	s.PID, s.TID = 0, 0
	if own {
		s.PID = t.pid
	}
	s.Sent = true
}

// acceptable is the number that a RST is sent with (tcp_acceptable_seq): one within
// the peer's window.
func acceptable(e *event.Event) uint32 {
	if edge := e.SndUna + e.SndWnd; e.WindowKnown && int32(e.SndNxt-edge) > 0 {
		return edge
	}
	return e.SndNxt
}

// fins tells of the FIN of each direction.
func (t *teller) fins() {
	var own, other *event.Event // that queue the one, and first show the other
	var last *event.Event       // that told numbers
	left := false
	for i := range t.c.Events {
		e := &t.c.Events[i]
		if e.Hook == event.HookTwskSchedule && event.State(e.Arg) == event.TimeWait && other == nil && last != nil && last.State == event.FinWait2 {
			// The mini-socket has no numbers of its own here: it waited for this one.
			other = e
			t.add(e, false, Segment{Seq: last.RcvNxt, Ack: last.SndUna, Flags: event.FIN | event.ACK})
		}
		if !told(e) {
			continue
		}
		last = e
		switch {
		case own == nil && e.Hook == event.HookSetState && (e.ToState == event.FinWait1 || e.ToState == event.LastAck):
			own = e
		case own != nil && !left && int32(e.SndNxt-own.WriteSeq) > 0:
			left = true
			fin := t.add(own, true, Segment{Seq: own.WriteSeq, Ack: own.RcvNxt, Flags: event.FIN | event.ACK})
			if own.SndNxt != own.WriteSeq {
				fin.Time, fin.Latest = e.Time, true
			}
		}
		comes := e.Hook == event.HookSetState && (e.ToState == event.CloseWait || e.ToState == event.Closing) ||
			e.Hook == event.HookTimeWait && event.State(e.Arg) == event.TimeWait && e.State != event.Closing
		if comes && other == nil {
			other = e
			t.add(e, false, Segment{Seq: e.RcvNxt - 1, Ack: e.SndUna, Flags: event.FIN | event.ACK})
		}
	}
}

// payload tells the last of it, each way.
func (t *teller) payload() {
	var read, end *event.Event
	finished := false // this end was seen to queue its FIN
	for i := range t.c.Events {
		e := &t.c.Events[i]
		if !told(e) {
			continue
		}
		end = e
		finished = finished || e.Hook == event.HookSetState && (e.ToState == event.FinWait1 || e.ToState == event.LastAck)
		if read == nil && (e.Hook == event.HookClose || e.Hook == event.HookDisconnect || e.Hook == event.HookSetState && e.ToState == event.Close) {
			read = e
		}
	}
	if read != nil {
		to := read.RcvNxt
		switch read.State {
		case event.CloseWait, event.LastAck, event.Closing:
			to-- // the FIN
		case event.FinWait1, event.FinWait2:
			if read.Hook == event.HookSetState {
				to-- // a FIN, perhaps: without tcp_time_wait nothing tells
			}
		}
		t.run(read, false, read.CopiedSeq, to, read.SndUna, read.SinceReceived)
	}
	if end != nil && end.State != event.SynSent && end.State != event.SynRecv {
		to := end.SndNxt
		if !finished && (end.State == event.FinWait1 || end.State == event.LastAck || end.State == event.Closing) {
			to-- // a FIN of before the trace
		}
		t.run(end, true, end.SndUna, to, end.RcvNxt, end.SinceSent)
	}
}

// maxRun is how much payload one segment of a run has: what an IP packet holds.
const maxRun = 1<<16 - 1 - 60

// run is payload of which the last was seen so long ago; 0: that is not told.
func (t *teller) run(e *event.Event, sent bool, from, to, ack uint32, since time.Duration) {
	for i := range t.all {
		if s := &t.all[i]; s.Is(event.FIN) && (s.From == t.c.Local) == sent && int32(to-(s.End()-1)) > 0 {
			to = s.End() - 1 // the FIN is no payload
		}
	}
	for n := int32(to - from); n > 0; n = int32(to - from) {
		part := min(uint32(n), maxRun)
		s := t.add(e, sent, Segment{Seq: from, Ack: ack, Flags: event.ACK | event.PSH, Len: part, Several: part > 1, run: true, Latest: since == 0})
		s.Time -= since
		s.PID, s.TID = t.pid, 0
		from += part
	}
}

// same says whether two segments are one, told of by two ends or by two events.
func same(a, b *Segment) bool {
	const kinds = event.SYN | event.FIN | event.RST
	if a.From != b.From || a.To != b.To || a.Flags&kinds != b.Flags&kinds {
		return false
	}
	switch {
	case a.run || b.run:
		return a.Len > 0 && b.Len > 0 && int32(a.Seq-b.End()) < 0 && int32(b.Seq-a.End()) < 0
	case a.Is(event.RST):
		// The same number may be sent again, in answer to the next segment.
		d := a.Time - b.Time
		return a.Seq == b.Seq && a.Ack == b.Ack && a.Flags == b.Flags && a.Sent != b.Sent && d.Abs() < time.Second
	case a.Is(event.FIN):
		return a.End() == b.End()
	}
	return a.Seq == b.Seq && a.Len == b.Len
}

// answers says whether s may be a RST in answer to o.
func (s *Segment) answers(o *Segment) bool {
	if !s.Is(event.RST) || s.From != o.To || s.To != o.From {
		return false
	}
	if s.Is(event.ACK) {
		return !o.Is(event.ACK) && s.Ack == o.End()
	}
	return o.Is(event.ACK) && s.Seq == o.Ack
}

// merge leaves each segment once: as it was seen, when it was sent, by who sent it.
func merge(all []Segment) []Segment {
	var out []Segment
	for _, s := range all {
		i := slices.IndexFunc(out, func(o Segment) bool { return same(&o, &s) })
		if i < 0 {
			out = append(out, s)
			continue
		}
		o := &out[i]
		if s.Sent && !o.Sent {
			s, *o = *o, s // o is the sender's from here on
		}
		switch {
		case o.Latest && !s.Latest:
			o.Time, o.Latest = s.Time, false
		case o.Latest == s.Latest && !o.Sent:
			o.Time = min(o.Time, s.Time)
		}
		if s.Seen && !o.Seen {
			o.Seq, o.Ack, o.Flags, o.Len, o.Several, o.run = s.Seq, s.Ack, s.Flags, s.Len, false, false
			o.Seen, o.Window, o.TTL, o.IPID = true, s.Window, s.TTL, s.IPID
		}
		o.Text = cmp.Or(o.Text, s.Text)
	}
	return out
}

// order sorts by time, and payload before whatever knows it already: jiffies tell
// when it was sent. What a RST answers comes before it: a tracepoint tells of it when
// the other end has received the RST.
func order(all []Segment) {
	for i := range all {
		s := &all[i]
		for k := range all {
			if o := &all[k]; !s.Is(event.RST) && o.answers(s) && s.Time-o.Time < time.Second {
				s.Time = min(s.Time, o.Time)
			}
		}
		if !s.run {
			continue
		}
		for k := range all {
			if o := &all[k]; !o.run && o.From == s.From && !o.Is(event.FIN|event.RST) && int32(s.Seq-o.End()) >= 0 {
				s.Time = max(s.Time, o.Time)
			}
		}
		for k := range all {
			o := &all[k]
			knows := o.From == s.From && int32(o.Seq-s.End()) >= 0 || o.From == s.To && o.Is(event.ACK) && int32(o.Ack-s.End()) >= 0
			if !o.run && knows {
				s.Time = min(s.Time, o.Time)
			}
		}
	}
	rank := func(s *Segment) int { // of those at one time
		switch {
		case s.Flags == event.SYN:
			return 0
		case s.Is(event.SYN):
			return 1
		case s.run:
			return 3
		case s.Is(event.RST):
			return 5
		case s.Is(event.FIN):
			return 4
		}
		return 2
	}
	slices.SortStableFunc(all, func(a, b Segment) int { return cmp.Or(cmp.Compare(a.Time, b.Time), rank(&a)-rank(&b)) })
}
