package conn

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"time"

	"github.com/tcpbye/tcpbye/tracer/event"
)

// isns are the initial sequence numbers of a connection as one end knows them. Both
// ends know the same two, crosswise, at any time of a socket's life and whatever an
// address translation makes of the addresses: they say which ends are of one
// connection.
type isns struct {
	snd, rcv           uint32
	sndKnown, rcvKnown bool
	// either: whether the SYN is counted in bytes_acked is not known, since nobody
	// saw who opened; snd may be one less.
	either bool

	// The windows, as last told.
	una, nxt, rcvNxt uint32
	at               time.Duration // 0: not told
	// moved: the counters began within the connection's life (TCP_REPAIR), and tell
	// no initial number.
	moved bool
}

// whole says whether both numbers are known.
func (n *isns) whole() bool { return n.sndKnown && n.rcvKnown && !n.moved }

// learn takes what an event tells.
func (n *isns) learn(e *event.Event, open Open) {
	if e.Has&event.HasTCP == 0 {
		return
	}
	if e.Repair && !(n.sndKnown && n.rcvKnown) {
		n.moved = true // a socket that is put together: connect(2) finds it established (tcp_connect)
	}
	switch e.State {
	case event.Established, event.FinWait1, event.FinWait2, event.CloseWait, event.LastAck, event.Closing:
	case event.SynSent:
		// The answer has been taken in where it makes the connection established.
		if e.Hook == event.HookSetState && e.ToState == event.Established {
			break
		}
		n.synSent(e)
		return
	case event.SynRecv:
		// Of an active end whose SYN met the peer's, nothing was acknowledged yet.
		if open == OpenActive && !(e.Hook == event.HookSetState && e.ToState == event.Established) {
			return
		}
	default:
		return // a listener's, or after tcp_disconnect
	}
	n.una, n.nxt, n.rcvNxt, n.at = e.SndUna, e.SndNxt, e.RcvNxt, e.Time
	if n.whole() && (!n.either || open == OpenUnknown) {
		return
	}
	// The SYN is in an active opener's bytes_acked (tcp_ack at SYN_SENT), and not in
	// that of a listener's child, which begins behind it (tcp_create_openreq_child).
	n.snd = e.SndUna - uint32(e.BytesAcked)
	n.rcv = e.RcvNxt - uint32(e.BytesReceived) - 1
	if open == OpenPassive {
		n.snd--
	}
	n.either = open == OpenUnknown
	n.sndKnown, n.rcvKnown = true, true
}

// synSent takes the own number, which is chosen before the SYN is built.
func (n *isns) synSent(e *event.Event) {
	switch {
	case e.Hook == event.HookConnect:
		n.snd = e.WriteSeq
	case e.Hook == event.HookSetState && e.ToState == event.SynSent:
		return // not chosen yet (tcp_v4_connect)
	default:
		n.snd = e.SndUna
	}
	n.sndKnown, n.either = true, false
}

// sent says whether the other end may have chosen this number, as n's receives it.
func (n *isns) sent(isn uint32) bool { return n.snd == isn || n.either && n.snd-1 == isn }

// A fit is what the numbers of two ends say of their being ends of one connection.
type fit uint8

const (
	unsaid  fit = iota // too little is known
	fits               // both numbers cross
	differs            // they are of two connections
)

// against holds the numbers of two ends against each other.
func (n *isns) against(o *isns) fit {
	if n.moved || o.moved {
		return n.overlaps(o)
	}
	one, two := n.sndKnown && o.rcvKnown, o.sndKnown && n.rcvKnown
	switch {
	case one && !n.sent(o.rcv), two && !o.sent(n.rcv):
		// One that is older than the trace may have been put together before.
		if (n.either || o.either) && n.overlaps(o) == fits {
			return unsaid
		}
		return differs
	case one && two:
		return fits
	}
	return unsaid
}

// reach is how far apart the windows of two ends may be that are told of at two
// times: more than most connections carry, and of two strangers few are as near.
const reach = 1 << 26

// overlaps says the same where a counter does not go back to the beginning: then
// what one end has sent must be about what the other has received.
func (n *isns) overlaps(o *isns) fit {
	if n.at == 0 || o.at == 0 {
		return unsaid
	}
	near := func(a, b uint32) bool { d := int32(a - b); return d < reach && d > -reach }
	if near(n.una, o.rcvNxt) && near(o.una, n.rcvNxt) {
		return fits
	}
	return differs
}

// rate is more than a connection carries: 100 Gbit/s, in bytes a nanosecond.
const rate = 12.5

// sends says whether a segment of that number and acknowledgement can have been sent
// by this end; true where that cannot be told.
func (n *isns) sends(e *event.Event) bool {
	if e.Has&event.HasSegment == 0 {
		return true
	}
	s := &e.Segment
	if s.Flags&event.SYN != 0 {
		return !n.sndKnown || n.moved || n.sent(s.Seq)
	}
	if n.at == 0 {
		// It has not been answered: it sends nothing but its SYN, unless the answer
		// came and was not told yet.
		return !n.sndKnown || n.moved || s.Flags&event.RST != 0 || s.Seq-n.snd < 1<<20
	}
	far := float64(e.Time-n.at)*rate + 1<<20
	if far >= 1<<30 || e.Time < n.at-time.Second {
		return true
	}
	in := func(x, from, to uint32) bool { return x-from+uint32(far) <= to-from+2*uint32(far) }
	if !in(s.Seq, n.una, n.nxt) {
		return false
	}
	return s.Flags&event.ACK == 0 || in(s.Ack, n.rcvNxt, n.rcvNxt)
}

// receives says whether a segment can have been sent to this end.
func (n *isns) receives(e *event.Event) bool {
	o := isns{snd: n.rcv, rcv: n.snd, sndKnown: n.rcvKnown, moved: n.moved, una: n.rcvNxt, nxt: n.rcvNxt, rcvNxt: n.nxt, at: n.at}
	if e.Has&event.HasSegment != 0 && e.Segment.Flags&event.SYN != 0 && e.Segment.Flags&event.ACK == 0 && !n.rcvKnown {
		return true
	}
	return o.sends(e)
}

// isnKey is under which an end looks for its peer, and is found.
type isnKey struct{ snd, rcv uint32 }

func (n *isns) keys(visit func(isnKey)) {
	visit(isnKey{n.snd, n.rcv})
	if n.either {
		visit(isnKey{n.snd - 1, n.rcv})
	}
}

// sequence takes the numbers that an event tells: a pair that they contradict is
// given up, and the end that they prove is found.
func (j *Joiner) sequence(c *entry, e *event.Event) {
	had := c.isn
	c.isn.learn(e, c.Open)
	if c.listener || c.isn.snd == had.snd && c.isn.rcv == had.rcv && c.isn.whole() == had.whole() && c.isn.sndKnown == had.sndKnown && c.isn.either == had.either {
		if !c.isn.moved || c.peer == nil {
			return
		}
	}
	if c.isn.whole() {
		j.fileISN(c)
	}
	if p := c.peer; p != nil {
		switch c.isn.against(&p.isn) {
		case fits:
			c.Proven, p.Proven = true, true
			return
		case differs:
			j.part(c)
			j.pairAnew(p)
		}
	}
	if !c.isn.whole() {
		return
	}
	if p := j.byISN(c); p != nil {
		old := p.peer
		j.part(c)
		j.part(p)
		j.marry(c, p)
		if old != nil && old != c {
			j.pairAnew(old)
		}
	} else if c.peer == nil && c.tuple != (ends{}) {
		j.pair(c, e)
	}
}

// pairAnew looks for the peer of an end that was given up.
func (j *Joiner) pairAnew(c *entry) {
	if c.judged || c.peer != nil || c.tuple == (ends{}) || len(c.Events) == 0 {
		return
	}
	j.pair(c, &c.Events[len(c.Events)-1])
	j.touch(c)
}

func (j *Joiner) fileISN(c *entry) {
	j.unfileISN(c)
	c.isn.keys(func(k isnKey) {
		j.bySeq[k] = append(j.bySeq[k], c)
		c.filed = append(c.filed, k)
	})
}

func (j *Joiner) unfileISN(c *entry) {
	for _, k := range c.filed {
		list := slices.DeleteFunc(j.bySeq[k], func(o *entry) bool { return o == c })
		if len(list) == 0 {
			delete(j.bySeq, k)
		} else {
			j.bySeq[k] = list
		}
	}
	c.filed = c.filed[:0]
}

// byISN is the end that the numbers prove to be the other one.
func (j *Joiner) byISN(c *entry) (found *entry) {
	c.isn.keys(func(k isnKey) {
		for _, p := range j.bySeq[isnKey{k.rcv, k.snd}] {
			if p != c && !p.judged && !(p.peer != nil && p.Proven) && !(p.Open == c.Open && p.Open == OpenPassive) {
				found = p
			}
		}
	})
	return found
}

// marry makes two ends one pair.
func (j *Joiner) marry(c, p *entry) {
	c.peer, c.Peer = p, p.Connection
	p.peer, p.Peer = c, c.Connection
	proven := c.isn.against(&p.isn) == fits
	c.Proven, p.Proven = proven, proven
	j.touch(c)
	j.touch(p)
}

// part takes a pair apart.
func (j *Joiner) part(c *entry) {
	p := c.peer
	if p == nil {
		return
	}
	c.peer, c.Peer, c.Proven = nil, nil, false
	j.touch(c)
	if p.peer == c && !p.judged {
		p.peer, p.Peer, p.Proven = nil, nil, false
		j.touch(p)
	}
}

// identify gives a connection its key, where both numbers are known exactly.
func (c *entry) identify() {
	a, b := c.isn.snd, c.isn.rcv
	switch {
	case !c.isn.whole():
		return
	case c.isn.either && c.Proven && c.peer != nil && c.peer.isn.whole():
		a = c.peer.isn.rcv // which is never in doubt
	case c.isn.either:
		return
	}
	c.Key = KeyOf(a, b)
}

// KeyOf is the Key of a connection with these initial sequence numbers, in any order:
// it hashes the pair: an initial number is a secret while its connection lives
// (RFC 6528).
func KeyOf(a, b uint32) (key [16]byte) {
	var in [len(keyName) + 8]byte
	copy(in[:], keyName)
	binary.BigEndian.PutUint32(in[len(keyName):], min(a, b))
	binary.BigEndian.PutUint32(in[len(keyName)+4:], max(a, b))
	sum := sha256.Sum256(in[:])
	copy(key[:], sum[:])
	return key
}

const keyName = "tcpbye.connection/1\x00"
