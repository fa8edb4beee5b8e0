package verdict

import (
	"net/netip"
	"strconv"
	"time"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
)

// Detail is how much of a plain ending somebody asks for.
type Detail uint8

const (
	DetailRow     Detail = iota // who, how, when, and how much
	DetailVerdict               // all of the verdict but the evidence
	DetailEvents                // the events, too
)

// Orderly is an orderly close by close(2), of which everything was acknowledged.
// Its sentence is that of the judge, for whoever has no events to give him.
type Orderly struct {
	First, Second *conn.Process  // who closed, in this order; nil: at another machine
	Remote        netip.AddrPort // of the only end that lives here
	At            time.Duration  // when the first FIN was queued, since it was opened
	Later         time.Duration  // how much later the second was
}

// Append appends the sentence.
func (o *Orderly) Append(b []byte) []byte {
	switch {
	case o.First == nil:
		b = append(o.Remote.AppendTo(b), " finished first (FIN), then "...)
		b = append(appendNamed(b, o.Second), '.')
	default:
		b = appendNamed(b, o.First)
		if o.Second != nil {
			b = append(b, " closed first"...)
		} else {
			b = append(o.Remote.AppendTo(append(b, " closed before the FIN of "...)), " came"...)
		}
		b = append(b, ", with close(2) "...)
		b = append(appendSeconds(b, o.At), " after it was opened."...)
	}
	if o.First != nil && o.Second != nil {
		b = appendNamed(append(b, ' '), o.Second)
		if o.Later >= 0 {
			b = append(appendSeconds(append(b, " followed with close(2) after "...), o.Later), '.')
		} else {
			b = append(b, " finished with close(2), too."...)
		}
		return append(b, " Both FINs were acknowledged and nothing was lost."...)
	}
	return append(b, " Both FINs were acknowledged and nothing was lost at this end."...)
}

// appendNamed and appendSeconds append what named and seconds say.

func appendNamed(b []byte, p *conn.Process) []byte {
	if event.Outside(p.PID) || p.Host != "" {
		return append(b, named(p)...)
	}
	simple := true // quoteName leaves it as it is
	for i := range len(p.Comm) {
		c := p.Comm[i]
		simple = simple && c >= ' ' && c < 0x7f && c != '"' && c != '\\'
	}
	if simple {
		b = append(b, p.Comm...)
	} else {
		b = append(b, quoteName(p.Comm)...)
	}
	b = append(b, " (pid "...)
	return append(strconv.AppendUint(b, uint64(p.PID), 10), ')')
}

func appendSeconds(b []byte, d time.Duration) []byte {
	return append(strconv.AppendFloat(b, d.Seconds(), 'f', 3, 64), " s"...)
}
