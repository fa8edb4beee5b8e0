package annotate

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"time"

	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/pcapng"
)

// Connection is what there is to say of a connection, and how to find it.
type Connection struct {
	A, B        netip.AddrPort
	First, Last time.Time // of its life
	Marks       []Mark
	Verdict     string // for the packet that ended it
	Brief       string // for its other resets
}

// Mark is a segment that is known to have been sent.
type Mark struct {
	From, To netip.AddrPort
	Seq, Ack uint32
	Len      uint32
	Flags    event.TCPFlags
	Time     time.Time
	Comments []string
	Ended    bool // it ended the connection
	Cut      bool // how its payload was cut into segments is not known
}

// kinds are what tells marks apart, beside their numbers.
const kinds = event.SYN | event.FIN | event.RST

// Plan is what a capture gets.
type Plan struct {
	// Found is how many of the connections have a packet in the capture.
	Found int
	// Commented is how many packets get a comment.
	Commented int
	// Other are the link types of interfaces whose packets could not be read, with
	// how many packets they have.
	Other map[uint16]int
	// Simple is how many packets were to get a comment and cannot: they are in blocks
	// without room for it (Simple Packet Block).
	Simple int
	// Cut: the capture ends within a packet.
	Cut bool

	comments map[int][]string // by the number of the packet, from 1
}

// life is a connection while its packets are looked for.
type life struct {
	*Connection
	sent   [2]span // numbers that A and B sent
	best   []hit   // by mark
	resets []int   // packets
	last   int     // packet; 0: none was found
}

// hit is the packet that fits a mark best.
type hit struct {
	packet int // 0: none
	off    time.Duration
}

// span is a range of sequence numbers.
type span struct {
	known    bool
	from, to uint32
}

func (s *span) add(from, to uint32) {
	if !s.known {
		*s = span{true, from, to}
		return
	}
	if int32(from-s.from) < 0 {
		s.from = from
	}
	if int32(to-s.to) > 0 {
		s.to = to
	}
}

// slack is how far from what is known of a connection its numbers may be: what its
// events do not tell of, such as payload before the trace began.
const slack = 1 << 22

func (s *span) has(seq uint32) bool {
	return !s.known || seq-s.from+slack <= s.to-s.from+2*slack
}

type tuple struct{ a, b netip.AddrPort }

// tupleOf is the same for both directions.
func tupleOf(a, b netip.AddrPort) tuple {
	if a.Compare(b) > 0 {
		a, b = b, a
	}
	return tuple{a, b}
}

// Match reads a capture, pcap or pcapng, and finds the packets of connections in it.
func Match(capture io.Reader, all []Connection) (*Plan, error) {
	byTuple := map[tuple][]*life{}
	lives := make([]*life, len(all))
	for i := range all {
		c := &all[i]
		l := &life{Connection: c, best: make([]hit, len(c.Marks))}
		for _, m := range c.Marks {
			side := 0
			if m.From != c.A {
				side = 1
			}
			if m.Flags&event.RST == 0 || m.Flags&event.ACK == 0 || m.Seq != 0 { // of a port where nobody listens
				l.sent[side].add(m.Seq, m.Seq+m.Len)
			}
			if m.Flags&event.ACK != 0 {
				l.sent[1-side].add(m.Ack, m.Ack)
			}
		}
		lives[i] = l
		byTuple[tupleOf(c.A, c.B)] = append(byTuple[tupleOf(c.A, c.B)], l)
	}
	plan := &Plan{Other: map[uint16]int{}, comments: map[int][]string{}}
	simple := map[int]bool{}
	in, err := open(capture)
	if err != nil {
		return nil, err
	}
	read, number := 0, 0
	for {
		x, err := in.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if errors.Is(err, io.ErrUnexpectedEOF) && number > 0 {
			plan.Cut = true
			break
		}
		if err != nil {
			return nil, err
		}
		if !x.packet {
			continue
		}
		number++
		if !readable(x.link) {
			plan.Other[x.link]++
			continue
		}
		read++
		for _, p := range decode(x.link, x.data) {
			if l := belongs(byTuple[tupleOf(p.from, p.to)], &p, x.at); l != nil {
				l.take(&p, number, x.at)
				if x.simple {
					simple[number] = true
				}
				break
			}
		}
	}
	if read == 0 && len(plan.Other) > 0 {
		return nil, fmt.Errorf("the capture is of %s, which cannot be read here: want %s", links(plan.Other), readableNames)
	}
	for _, l := range lives {
		l.plan(plan)
	}
	for n := range plan.comments {
		if simple[n] {
			plan.Simple++
			delete(plan.comments, n)
		}
	}
	plan.Commented = len(plan.comments)
	return plan, nil
}

// belongs finds the connection of a packet among those with its addresses; nil: none.
func belongs(all []*life, p *packet, at time.Time) (found *life) {
	var near time.Duration
	for _, l := range all {
		side := 0
		if p.from != l.A {
			side = 1
		}
		refusal := p.flags&(event.RST|event.ACK) == event.RST|event.ACK && p.seq == 0
		if !refusal && !l.sent[side].has(p.seq) || p.flags&event.ACK != 0 && !l.sent[1-side].has(p.ack) {
			continue
		}
		if far := l.away(at); found == nil || far < near {
			found, near = l, far
		}
	}
	return found
}

// away is how long before or after the connection's life a packet was seen.
func (l *life) away(at time.Time) time.Duration {
	switch {
	case at.Before(l.First):
		return l.First.Sub(at)
	case at.After(l.Last):
		return at.Sub(l.Last)
	}
	return 0
}

// take notes a packet of the connection.
func (l *life) take(p *packet, number int, at time.Time) {
	l.last = number
	if p.flags&event.RST != 0 {
		l.resets = append(l.resets, number)
	}
	for i := range l.Marks {
		m := &l.Marks[i]
		if m.Cut || m.From != p.from || m.To != p.to || m.Flags&kinds != p.flags&kinds || m.Flags&kinds == 0 {
			continue
		}
		switch {
		case m.Flags&event.FIN != 0 && m.Seq+m.Len != p.seq+p.len: // it may ride on payload
			continue
		case m.Flags&event.FIN == 0 && m.Seq != p.seq:
			continue
		}
		off := at.Sub(m.Time).Abs()
		if h := &l.best[i]; h.packet == 0 || off < h.off {
			*h = hit{number, off}
		}
	}
}

// plan says what the packets of the connection get.
func (l *life) plan(p *Plan) {
	if l.last == 0 {
		return
	}
	p.Found++
	at, known := 0, false
	for i, m := range l.Marks {
		if m.Ended && l.best[i].packet != 0 {
			at, known = l.best[i].packet, true
		}
	}
	verdict := l.Verdict
	if !known {
		at = l.last
		ended := slices.ContainsFunc(l.Marks, func(m Mark) bool { return m.Ended && m.Flags&(event.RST|event.FIN) != 0 })
		if ended {
			verdict += "\n(The segment that ended it is not in this capture: this is its last one here.)"
		}
	}
	p.comments[at] = append(p.comments[at], verdict)
	told := map[int]bool{at: true}
	for i, m := range l.Marks {
		n := l.best[i].packet
		if n == 0 {
			continue
		}
		for _, text := range m.Comments {
			if text != l.Verdict && !(m.Flags&event.RST != 0 && text == l.Brief) {
				p.comments[n] = append(p.comments[n], text)
			}
		}
	}
	for _, n := range l.resets {
		if !told[n] {
			p.comments[n] = append(p.comments[n], fmt.Sprintf("%s (the verdict is at packet %d)", l.Brief, at))
			told[n] = true
		}
	}
}

// Write writes the capture that was matched, read again from its beginning, as
// pcapng with its comments.
func (p *Plan) Write(capture io.Reader, to io.Writer) error {
	in, err := open(capture)
	if err != nil {
		return err
	}
	number := 0
	for {
		x, err := in.next()
		if errors.Is(err, io.EOF) || p.Cut && errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		if err != nil {
			return err
		}
		var options []pcapng.Option
		if x.packet {
			number++
			for _, c := range p.comments[number] {
				options = append(options, pcapng.Text(pcapng.OptComment, c))
			}
		}
		if err := in.write(to, x, options); err != nil {
			return err
		}
	}
}
