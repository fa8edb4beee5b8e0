package scenario

import (
	"fmt"
	"slices"
	"time"

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

// checkRST holds a reset that came in against the RSTs on the wire, and its
// timestamps against those of the peer's segments before.
func (o *Outcome) checkRST(x *End, e *event.Event) []error {
	const jitter = time.Millisecond // between the capture's clock and the events'
	var offered int                 // SYNs with the option
	var values []uint32
	var found *Segment
	for i := range o.Segments {
		s := &o.Segments[i]
		in := s.Src == x.Remote && s.Dst == x.Local
		if s.Flags&event.SYN != 0 && s.Timestamped && (in || s.Src == x.Local && s.Dst == x.Remote) {
			offered |= 1
			if s.Flags&event.ACK != 0 {
				offered |= 2
			}
		}
		switch {
		case !in || s.Time > e.Time+jitter:
		case s.Flags&event.RST == 0:
			if s.Timestamped {
				values = append(values, s.TSVal)
			}
		case s.Seq == e.Segment.Seq && s.Flags == e.Segment.Flags:
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
	if agreed := offered == 3; t.Agreed != agreed {
		bad("timestamps agreed: %v, the SYNs say %v", t.Agreed, agreed)
	}
	if !t.Agreed {
		return errs
	}
	if t.Carried != found.Timestamped || t.Value != found.TSVal {
		bad("the RST's timestamp is %d (%v), on the wire %d (%v)", t.Value, t.Carried, found.TSVal, found.Timestamped)
	}
	if !slices.Contains(values, t.Recent) {
		bad("the last timestamp before the RST is %d, which the peer never sent: %v", t.Recent, values)
	}
	return errs
}

// checkSilence holds how long ago payload was last sent and received, as an
// event says it, against the capture. The kernel counts jiffies, of at most 10
// ms; a segment that waits for a process that has the socket counts later.
func (o *Outcome) checkSilence(x *End, e *event.Event) error {
	const near = 40 * time.Millisecond
	if e.Has&event.HasTCP == 0 || o.shared(x) {
		return nil
	}
	var sent, received time.Duration
	for _, s := range o.Segments {
		switch {
		case s.Len == 0 || s.Time > e.Time:
		case s.Src == x.Local && s.Dst == x.Remote && s.NetNS == x.NetNS:
			sent = s.Time
		case s.Src == x.Remote && s.Dst == x.Local && int32(e.RcvNxt-s.Seq) > 0 && int32(s.Seq+uint32(s.Len)-e.RcvNxt) <= 0:
			received = s.Time
		}
	}
	for _, c := range []struct {
		what string
		at   time.Duration
		said time.Duration
	}{{"sent", sent, e.SinceSent}, {"received", received, e.SinceReceived}} {
		if c.at == 0 || c.said == 0 {
			continue
		}
		if wire := e.Time - c.at; (c.said - wire).Abs() > near {
			return fmt.Errorf("payload was last %s %v before, the capture says %v", c.what, c.said, wire)
		}
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
