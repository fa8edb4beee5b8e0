package scenario

import (
	"fmt"
	"slices"
	"time"

	"github.com/tcpbye/tcpbye/demo/harness"
	"github.com/tcpbye/tcpbye/tracer/event"
)

// checkReceived holds what the events say of the segments that came in, and of
// the silence before, against the capture.
func (o *Outcome) checkReceived(matched map[string]JudgedEnd) []error {
	var errs []error
	for name, j := range matched {
		x := o.Ends[name]
		if x == nil {
			continue
		}
		for i := range j.Events {
			e := &j.Events[i]
			if e.Hook == event.HookReset && e.Has&event.HasSegment != 0 && e.Segment.Flags&event.RST != 0 {
				for _, err := range o.checkRST(x, e) {
					errs = append(errs, fmt.Errorf("%s: %w", name, err))
				}
			}
			if err := o.checkSilence(x, e); err != nil {
				errs = append(errs, fmt.Errorf("%s: %s at %v: %w", name, e.Hook, e.Time, err))
			}
		}
	}
	return errs
}

// jitter is how far the capture's clock may be from the events'.
const jitter = time.Millisecond

// checkRST holds a reset that came in against the RSTs on the wire, and its
// timestamps against those of the peer's segments before.
func (o *Outcome) checkRST(x *End, e *event.Event) []error {
	var found *harness.Segment
	for i := range o.Segments {
		s := &o.Segments[i]
		if s.Src == x.Remote && s.Dst == x.Local && s.Time <= e.Time+jitter && s.Seq == e.Segment.Seq && s.Flags == e.Segment.Flags {
			found = s
		}
	}
	if found == nil {
		return []error{fmt.Errorf("a RST came in, seq %d, that the capture does not have", e.Segment.Seq)}
	}
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	// The capture is on the sender's side; no router is between.
	if g := e.Segment; g.TTL != found.TTL || g.Window != found.Window || g.IPID != found.IPID || int(g.Len) != found.Len {
		bad("a RST came in with %+v, the capture has %+v", g, *found)
	}
	t := e.Timestamps
	if e.Has&event.HasTCP == 0 || e.State == event.SynSent {
		return errs
	}
	agreed, values := o.stamps(x, e.Time)
	if t.Agreed != agreed {
		bad("timestamps agreed: %v, the SYNs say %v", t.Agreed, agreed)
	}
	if !t.Agreed {
		return errs
	}
	if t.Carried != found.Timestamped || t.Value != found.TSVal {
		bad("the RST's timestamp is %d (%v), on the wire %d (%v)", t.Value, t.Carried, found.TSVal, found.Timestamped)
	}
	slices.Reverse(values)
	i := slices.IndexFunc(values, func(s harness.Segment) bool { return s.TSVal == t.Recent })
	if i < 0 {
		bad("the last timestamp before the RST is %d, and on the wire: %v", t.Recent, values)
	} else if ago := e.Time - values[i].Time; (t.Age - ago).Abs() > 2*time.Second {
		bad("the last timestamp before the RST is said to be %v old, on the wire it is %v", t.Age, ago)
	}
	return errs
}

// stamps says whether both SYNs have timestamps, and which segments of the peer's
// may have left the last one before a moment: one counts if it begins where this
// end had acknowledged everything before (tcp_replace_ts_recent). Not every one
// arrives: some stories lose segments on the way.
func (o *Outcome) stamps(x *End, until time.Duration) (agreed bool, last []harness.Segment) {
	var acked uint32
	syn, answer := false, false
	for _, s := range o.Segments {
		in, out := s.Src == x.Remote && s.Dst == x.Local, s.Src == x.Local && s.Dst == x.Remote
		if !in && !out || s.Time > until+jitter {
			continue
		}
		if s.Flags&event.SYN != 0 {
			answer = answer || s.Timestamped && s.Flags&event.ACK != 0
			syn = syn || s.Timestamped && s.Flags&event.ACK == 0
		}
		switch {
		case out && s.Flags&event.ACK != 0 && (acked == 0 || int32(s.Ack-acked) > 0):
			acked = s.Ack
		case in && s.Timestamped && s.Flags&event.RST == 0 && (s.Flags&event.SYN != 0 || int32(s.Seq-acked) <= 0):
			last = append(last, s)
		}
	}
	return syn && answer, last
}

// checkSilence holds how long ago payload was last sent and received, as an
// event says it, against the capture. The kernel counts jiffies, of at most 10
// ms; a segment that waits for a process that has the socket counts later.
//
// What came in came after it was sent first, and not long after it was sent last:
// some stories lose segments, or hold them up on the way.
func (o *Outcome) checkSilence(x *End, e *event.Event) error {
	const near, underway = 40 * time.Millisecond, time.Second
	if e.Has&event.HasTCP == 0 || o.shared(x) {
		return nil
	}
	var sent []time.Duration
	var first, last time.Duration // of what came in last
	var end uint32
	for _, s := range o.Segments {
		in := s.Src == x.Remote && s.Dst == x.Local && int32(s.Seq+uint32(s.Len)-e.RcvNxt) <= 0
		switch {
		case s.Len == 0 || s.Time > e.Time+jitter:
		case s.Src == x.Local && s.Dst == x.Remote && s.NetNS == x.NetNS:
			sent = append(sent, s.Time)
		case in && (first == 0 || int32(s.Seq+uint32(s.Len)-end) > 0):
			first, last, end = s.Time, s.Time, s.Seq+uint32(s.Len)
		case in && s.Seq+uint32(s.Len) == end:
			last = s.Time
		}
	}
	// The last but one where the last is as young as the clocks differ.
	if n := len(sent); n > 0 && e.Time-sent[n-1] < jitter && e.SinceSent > near {
		sent = sent[:n-1]
	}
	if n := len(sent); n > 0 && e.SinceSent != 0 {
		// A try that this host's own layers refuse counts as sent there, too
		// (tcp_event_data_sent, __tcp_transmit_skb).
		tried := o.Flow(x).Sent < x.Written
		if wire := e.Time - sent[n-1]; (e.SinceSent-wire).Abs() > near && !(tried && e.SinceSent < wire) {
			return fmt.Errorf("payload was last sent %v before, the capture says %v", e.SinceSent, wire)
		}
	}
	if said := e.SinceReceived; first != 0 && said != 0 && (said > e.Time-first+near || said < e.Time-last-underway) {
		return fmt.Errorf("payload was last received %v before, the capture has it sent %v to %v before", said, e.Time-first, e.Time-last)
	}
	return nil
}

// shared says whether another end had the same addresses.
func (o *Outcome) shared(x *End) bool {
	for _, other := range o.Ends {
		if other != x && other.Local == x.Local && other.Remote == x.Remote {
			return true
		}
	}
	return false
}
