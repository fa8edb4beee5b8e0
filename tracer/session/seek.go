package session

import (
	"net/netip"
	"slices"
	"time"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/story"
)

// A socket whose life is plain is told of at its end. Where one end of a connection
// has ended in another way, and the other lives on, the judge would know nothing of
// the other. So the kernel half is asked for it.

const (
	// seekAfter is how long after an end its other end may still be told of without
	// being asked for.
	seekAfter = 100 * time.Millisecond
	// seekEvery is how often the kernel half is asked at most, and seekShare how much
	// more time passes between two askings than one takes.
	seekEvery = 100 * time.Millisecond
	seekShare = 4
	// After so many askings in vain for ends at one address it is taken for another
	// machine's, for as long as vainFor.
	manyVain = 8
	vainFor  = 10 * time.Second
	maxVain  = 4096 // addresses
	// After so many in vain whatever the address, one is asked half as often, and so
	// on for slowest times.
	manyFruitless = 32
	slowest       = 5
)

// seeker asks for the other ends.
type seeker struct {
	ask       func(match func(raw []byte) bool) error // nil: nobody can be asked
	next      time.Duration
	vain      map[netip.Addr]askings
	fruitless int // askings since one found something
}

// askings were in vain.
type askings struct {
	n    int
	last time.Duration
}

// sought is what is known of an end that is missing.
type sought struct {
	end   [2]netip.AddrPort
	isn   [2]uint32
	known bool // the numbers are
}

// is says whether a story is that of the missing end.
func (x *sought) is(local, remote netip.AddrPort, isn [2]uint32) bool {
	if x.known && isn != [2]uint32{} {
		return x.isn == isn // an address translation may stand between the two
	}
	return x.end == [2]netip.AddrPort{local, remote}
}

// seek asks for the other ends of connections that have ended. clock is
// CLOCK_MONOTONIC.
func (k *seeker) seek(now time.Duration, join *conn.Joiner, clock func() (time.Duration, error)) error {
	if k.ask == nil || now < k.next {
		return nil
	}
	var all []sought
	join.Alone(now-join.Window()-seekAfter, func(c *conn.Connection, isn [2]uint32, known bool) {
		if v := k.vain[c.Remote.Addr()]; v.n < manyVain || now-v.last > vainFor {
			all = append(all, sought{[2]netip.AddrPort{c.Remote, c.Local}, [2]uint32{isn[1], isn[0]}, known})
		}
	})
	if len(all) == 0 {
		return nil
	}
	begun, err := clock()
	if err != nil {
		return err
	}
	found := make([]bool, len(all))
	err = k.ask(func(raw []byte) bool {
		s := story.RawOf(raw)
		local, remote := s.Ends()
		isn, matches := numbersOf(s), false
		for i := range all {
			if all[i].is(local, remote, isn) {
				found[i], matches = true, true
			}
		}
		return matches
	})
	if err != nil {
		k.ask = nil // what is known of one end has to do from now on
		return nil
	}
	over, err := clock()
	if k.fruitless++; slices.Contains(found, true) {
		k.fruitless = 0
	}
	k.next = now + max(seekEvery, seekShare*(over-begun))<<min(slowest, k.fruitless/manyFruitless)
	for i, x := range all {
		k.note(x.end[0].Addr(), found[i], now)
	}
	return err
}

// note remembers whether there was one at an address.
func (k *seeker) note(a netip.Addr, found bool, now time.Duration) {
	if found || a.IsLoopback() {
		delete(k.vain, a)
		return
	}
	if k.vain == nil || len(k.vain) >= maxVain {
		k.vain = map[netip.Addr]askings{}
	}
	v := k.vain[a]
	k.vain[a] = askings{v.n + 1, now}
}
