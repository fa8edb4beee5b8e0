package real

import (
	"github.com/tcpbye/tcpbye/demo/harness"
	"github.com/tcpbye/tcpbye/tracer/event"
)

// call is one connection in a capture: what went between two ports from a first
// SYN to the next that is another one.
type call struct {
	client, server uint16
	segs           []harness.Segment
	// again: its ports were used again, by a later call.
	again bool
}

// calls are the connections to a port, in the order of their SYNs.
func calls(segs []harness.Segment, port uint16) []call {
	var list []call
	last := map[uint16]int{} // by client port
	isn := map[uint16]uint32{}
	for _, s := range segs {
		client := s.Src.Port()
		if s.Src.Port() == port {
			client = s.Dst.Port()
		} else if s.Dst.Port() != port {
			continue
		}
		i, known := last[client]
		if s.Dst.Port() == port && s.Flags&event.SYN != 0 && s.Flags&event.ACK == 0 && (!known || s.Seq != isn[client]) {
			if known {
				list[i].again = true
			}
			i, known = len(list), true
			list = append(list, call{client: client, server: port})
			last[client], isn[client] = i, s.Seq
		}
		if known {
			list[i].segs = append(list[i].segs, s)
		}
	}
	return list
}

// late says whether a RST came after both ends had sent their FINs: where the last
// acknowledgement is told to a socket that is gone, which happens where both
// handle the other's FIN at the same moment. The RST ends a TIME_WAIT (RFC 1337).
func (c call) late() bool {
	var client, server bool
	for _, s := range c.segs {
		switch {
		case s.Flags&event.RST != 0:
			return client && server
		case s.Flags&event.FIN != 0 && s.Src.Port() == c.client:
			client = true
		case s.Flags&event.FIN != 0:
			server = true
		}
	}
	return false
}

// flow sums up what was sent to one of the ports. A router between may have
// translated the addresses.
func (c call) flow(to uint16) harness.Flow {
	return harness.FlowOf(c.segs, func(s *harness.Segment) bool { return s.Dst.Port() == to },
		func(s *harness.Segment) bool { return s.Src.Port() == to })
}
