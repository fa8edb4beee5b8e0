package harness

import (
	"slices"
	"time"

	"github.com/tcpbye/tcpbye/tracer/event"
)

// Flow is what a capture says of one direction of a connection. Offsets count
// payload bytes from the first.
type Flow struct {
	ISN   uint32
	Sent  int64 // highest byte that left
	Acked int64 // highest byte that the other end acknowledged
	// FINs and RSTs count segments; a FIN sent again is the same FIN.
	FINs, RSTs int
	FirstFIN   time.Duration // CLOCK_MONOTONIC; 0 none
	FinAcked   bool
}

// FlowOf sums a direction up: forth says which segments go that way, back which
// go the other.
func FlowOf(segments []Segment, forth, back func(*Segment) bool) Flow {
	var f Flow
	var fins []uint32
	known := false
	for i := range segments {
		s := &segments[i]
		switch {
		case forth(s):
			if s.Flags&event.SYN != 0 {
				f.ISN, known = s.Seq, true
			}
			if s.Flags&event.RST != 0 {
				f.RSTs++
				continue
			}
			if s.Flags&event.FIN != 0 {
				at := s.Seq + uint32(s.Len)
				if !slices.Contains(fins, at) {
					fins = append(fins, at)
				}
				if f.FirstFIN == 0 {
					f.FirstFIN = s.Time
				}
			}
			if known && s.Len > 0 {
				after := s.Seq + uint32(s.Len)
				if s.Flags&event.SYN != 0 {
					after++ // data with the SYN comes behind it
				}
				f.Sent = max(f.Sent, int64(int32(after-f.ISN-1)))
			}
		case back(s):
			if known && s.Flags&event.ACK != 0 && s.Flags&event.RST == 0 {
				f.Acked = max(f.Acked, int64(int32(s.Ack-f.ISN-1)))
			}
		}
	}
	f.FINs = len(fins)
	// The FIN takes the number behind the last byte.
	if f.Acked > f.Sent {
		f.FinAcked = f.FINs > 0
		f.Acked = f.Sent
	}
	return f
}
