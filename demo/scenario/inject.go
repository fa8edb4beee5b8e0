package scenario

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/tracer/event"
)

// forged is a hand-made segment. It continues what the capture has seen of the
// connection: with offsets of zero it carries the next sequence number of who it
// claims to come from, and acknowledges all that the other end has sent.
type forged struct {
	Flags                event.TCPFlags
	SeqOffset, AckOffset int32
	Len                  int // payload
	// Clock, if it is not 0, gives the segment a timestamp that is so far from the
	// last one of who it claims to come from, in ticks of that clock.
	Clock int32
}

// next is the sequence number that follows all that one end has sent.
func (w *World) next(from, to *End) (seq uint32, ok bool) {
	for _, s := range w.Segments() {
		if s.Src != from.Local || s.Dst != to.Local || s.Flags&event.RST != 0 {
			continue
		}
		after := s.Seq + uint32(s.Len)
		if s.Flags&event.SYN != 0 {
			seq, ok = after+1, true
			continue
		}
		if s.Flags&event.FIN != 0 {
			after++
		}
		if int32(after-seq) > 0 {
			seq = after
		}
	}
	return seq, ok
}

// acksFrom counts the segments without payload that an end has sent.
func (w *World) acksFrom(e *End) int {
	n := 0
	for _, s := range w.Segments() {
		if s.Src == e.Local && s.Dst == e.Remote && s.Len == 0 {
			n++
		}
	}
	return n
}

// Inject lets a process of this role send a segment from a raw socket in the
// name of one end to the other.
func (w *World) Inject(role string, from, to *End, f forged) {
	w.Puppet(role).inject(from, to, f)
}

func (p *Puppet) inject(from, to *End, f forged) {
	w := p.w
	if w.Err != nil {
		return
	}
	seq, ok := w.next(from, to)
	ack, ok2 := w.next(to, from)
	if !ok || !ok2 {
		w.Fail("cannot forge a segment from %s: the capture has not seen the connection's beginning", from.Name)
		return
	}
	var options []byte
	if f.Clock != 0 {
		last, ok := w.lastTimestamp(from, to)
		if !ok {
			w.Fail("cannot forge a timestamp of %s, which has sent none", from.Name)
			return
		}
		options = []byte{unix.TCPOPT_NOP, unix.TCPOPT_NOP, unix.TCPOPT_TIMESTAMP, 10}
		options = binary.BigEndian.AppendUint32(options, last+uint32(f.Clock))
		options = binary.BigEndian.AppendUint32(options, 0)
	}
	b := tcpSegment(from.Local, to.Local, seq+uint32(f.SeqOffset), ack+uint32(f.AckOffset), f.Flags, options, payload(f.Len))
	domain := unix.AF_INET
	if from.Local.Addr().Is6() {
		domain = unix.AF_INET6
	}
	p.must(nil, &request{Op: opRawSend, Level: domain, Local: from.Local.String(), Remote: to.Local.String(), Data: b},
		fmt.Sprintf("%v as %v", f.Flags, from.Local))
}

// lastTimestamp is the value of the timestamps option in the last segment that
// one end sent to the other.
func (w *World) lastTimestamp(from, to *End) (value uint32, ok bool) {
	for _, s := range w.Segments() {
		if s.Src == from.Local && s.Dst == to.Local && s.Timestamped {
			value, ok = s.TSVal, true
		}
	}
	return value, ok
}

// tcpSegment is a TCP header and its payload, with a checksum. The options fill
// whole words.
func tcpSegment(src, dst netip.AddrPort, seq, ack uint32, flags event.TCPFlags, options, data []byte) []byte {
	header := 20 + len(options)
	b := make([]byte, header+len(data))
	binary.BigEndian.PutUint16(b[0:], src.Port())
	binary.BigEndian.PutUint16(b[2:], dst.Port())
	binary.BigEndian.PutUint32(b[4:], seq)
	if flags&event.ACK != 0 {
		binary.BigEndian.PutUint32(b[8:], ack)
	}
	b[12] = byte(header / 4 << 4)
	b[13] = byte(flags)
	binary.BigEndian.PutUint16(b[14:], 512) // window
	copy(b[20:], options)
	copy(b[header:], data)
	// The pseudo-header of both IP versions sums to the same words.
	var pseudo []byte
	pseudo = append(pseudo, src.Addr().AsSlice()...)
	pseudo = append(pseudo, dst.Addr().AsSlice()...)
	pseudo = append(pseudo, 0, unix.IPPROTO_TCP)
	pseudo = binary.BigEndian.AppendUint16(pseudo, uint16(len(b)))
	binary.BigEndian.PutUint16(b[16:], ^onesSum(onesSum(0, pseudo), b))
	return b
}

// onesSum adds 16-bit words with end-around carry (RFC 1071).
func onesSum(sum uint16, b []byte) uint16 {
	s := uint32(sum)
	for i := 0; i < len(b); i += 2 {
		w := uint32(b[i]) << 8
		if i+1 < len(b) {
			w |= uint32(b[i+1])
		}
		s += w
	}
	for s > 0xffff {
		s = s&0xffff + s>>16
	}
	return uint16(s)
}
