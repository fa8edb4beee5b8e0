package export

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"github.com/tcpbye/tcpbye/tracer/conn"
)

// TraceID and SpanID are identities as W3C's trace context and OpenTelemetry have
// them. The zero value is none.
type (
	TraceID [16]byte
	SpanID  [8]byte
)

// Trace is the trace that a connection is: the same at both ends, on whatever hosts
// they are and whatever addresses they see, since it is the connection's key. The
// connection in JSON records is its first half. It is zero where the initial sequence
// numbers are not known, as where no answer came to a SYN.
func Trace(c *conn.Connection) TraceID { return TraceID(c.Key) }

// Span is the span that an end is within its trace. Parent is that of the end which
// opened the connection, for the end that was connected to; else it is zero, also
// where nobody knows who opened it.
func Span(c *conn.Connection) (span, parent SpanID) {
	if c.Key == (conn.Connection{}).Key {
		return SpanID{}, SpanID{}
	}
	switch c.Service() {
	case conn.OtherSide:
		return spanOf(c.Key, "active"), SpanID{}
	case conn.ThisSide:
		return spanOf(c.Key, "passive"), spanOf(c.Key, "active")
	}
	// The two ends see themselves apart in any case, and on two hosts, too.
	return spanOf(c.Key, fmt.Sprintf("%d %s %s", c.NetNS, c.Local, c.Remote)), SpanID{}
}

func spanOf(key [16]byte, side string) (id SpanID) {
	sum := sha256.Sum256(append(append([]byte("tcpbye.end/1\x00"), key[:]...), side...))
	copy(id[:], sum[:])
	return id
}

// Sample is the share of the ends without a trouble that become events, too.
type Sample struct{ threshold uint64 }

// traceBits is how many bits of a trace's identity OpenTelemetry's consistent
// sampling looks at: the last ones.
const traceBits = 56

// NewSample is a sample of a share between 0 (none) and 1 (all).
func NewSample(share float64) (Sample, error) {
	if !(share >= 0 && share <= 1) { // NaN, too
		return Sample{}, fmt.Errorf("a sample of %v: want a share from 0 (none) to 1 (all)", share)
	}
	return Sample{uint64(share * (1 << traceBits))}, nil
}

// Empty says whether nothing is in it.
func (s Sample) Empty() bool { return s.threshold == 0 }

// Has says whether a trace is in the sample. It is OpenTelemetry's rule (rejection
// threshold against the trace's last 56 bits), so that a collector which thins out
// further keeps both ends of a connection, too.
func (s Sample) Has(id TraceID) bool {
	if id == (TraceID{}) {
		return s.threshold == 1<<traceBits
	}
	return binary.BigEndian.Uint64(id[8:])&(1<<traceBits-1) >= 1<<traceBits-s.threshold
}
