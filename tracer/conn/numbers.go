package conn

import "time"

// Numbers are the initial sequence numbers of a connection as one of its ends knows
// them, and how far it has come. Both ends know the same two, crosswise, whatever the
// addresses are at either.
type Numbers struct{ isns }

// Numbers is what the events up to a time tell.
func (c *Connection) Numbers(until time.Duration) *Numbers {
	n := &Numbers{}
	for i := range c.Events {
		if c.Events[i].Time > until {
			break
		}
		n.learn(&c.Events[i], c.Open)
	}
	return n
}

// Sent is the end's own number. doubt: it may be one less, since nobody saw which end
// opened the connection. ok: it is known.
func (n *Numbers) Sent() (isn uint32, doubt, ok bool) { return n.snd, n.either, n.sndKnown && !n.moved }

// Received is the other end's number; it is never in doubt.
func (n *Numbers) Received() (isn uint32, ok bool) { return n.rcv, n.rcvKnown && !n.moved }

// Keys are the pairs, the own number first, under which the end is found. The other end
// has one of them the other way round. There are none while a number is not known.
func (n *Numbers) Keys() (keys [][2]uint32) {
	if n.whole() {
		n.keys(func(k isnKey) { keys = append(keys, [2]uint32{k.snd, k.rcv}) })
	}
	return keys
}
