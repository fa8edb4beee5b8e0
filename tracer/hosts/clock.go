package hosts

import (
	"cmp"
	"slices"
	"sort"
	"time"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
)

// Source is what two hosts' clocks were set against each other by.
type Source string

const (
	SameClock  Source = "same-clock"  // both recordings were made in one boot of one machine
	Connection Source = "connection"  // by the segments of this connection
	Neighbors  Source = "connections" // also by those of other connections between the two
	WallClocks Source = "wall-clocks" // by what the two hosts took for the time of day
)

// Clock is how the clock of this connection's other host stands to this one's.
type Clock struct {
	By Source
	// Ahead is how much later it is at the other host by its wall clock. It lies between
	// Least and Most; nil: nothing bounds it on that side.
	Ahead       time.Duration
	Least, Most *time.Duration
	// LeastBy and MostBy say what bounds it: "SYN", "handshake", "segment", "ACK", "FIN", "RST"; ""
	// nothing of this connection does.
	LeastBy, MostBy string
}

// flip is the same as the other end sees it.
func (c Clock) flip() Clock {
	negate := func(d *time.Duration) *time.Duration {
		if d == nil {
			return nil
		}
		n := -*d
		return &n
	}
	return Clock{c.By, -c.Ahead, negate(c.Most), negate(c.Least), c.MostBy, c.LeastBy}
}

// bounds are what is known of an offset; one that is not known is ∓far.
type bounds struct {
	low, high     time.Duration
	lowBy, highBy string
	guess         time.Duration // by the round trip of the handshake
}

// far is further apart than any two clocks.
const far = time.Duration(1) << 61

func anywhere() bounds { return bounds{low: -far, high: far, guess: -far} }

func (b *bounds) atLeast(d time.Duration, by string) {
	if d > b.low {
		b.low, b.lowBy = d, by
	}
}

func (b *bounds) atMost(d time.Duration, by string) {
	if d < b.high {
		b.high, b.highBy = d, by
	}
}

func (b *bounds) both() bool { return b.low > -far && b.high < far }

// drift is how much two clocks may gain on each other: NTP and PTP discipline a clock by
// less than that, but for a moment.
const drift = 200e-6

// loosen is how much a bound says less that was found so long before or after.
func loosen(apart time.Duration) time.Duration { return time.Duration(float64(apart.Abs()) * drift) }

// stand is how far an end had come at a time, in bytes from the initial sequence numbers.
type stand struct {
	at       time.Duration
	una, nxt uint64 // sent and acknowledged, sent
	rcv      uint64 // received
	all      bool   // everything that was to be sent was
}

// stands are those of an end, whose own initial number is isn.
func stands(c *conn.Connection, isn uint32) []stand {
	var all []stand
	for i := range c.Events {
		e := &c.Events[i]
		if e.Has&event.HasTCP == 0 || e.Repair || !locked(e.Hook) || e.Inherited() {
			continue
		}
		switch e.State {
		case event.Established, event.FinWait1, event.FinWait2, event.CloseWait, event.LastAck, event.Closing, event.SynRecv:
		case event.SynSent:
			if e.Hook != event.HookSetState || e.ToState != event.Established {
				continue
			}
		default:
			continue
		}
		una := e.BytesAcked
		syn := e.SndUna - isn - uint32(una) // a listener's child does not count it
		if syn > 1 {
			continue // the counters do not go back to the beginning
		}
		una += uint64(syn)
		s := stand{at: e.Time, una: una, nxt: una + uint64(e.SndNxt-e.SndUna), rcv: e.BytesReceived + 1, all: e.SndNxt == e.WriteSeq}
		if n := len(all); n > 0 {
			s.una, s.nxt, s.rcv = max(s.una, all[n-1].una), max(s.nxt, all[n-1].nxt), max(s.rcv, all[n-1].rcv)
		}
		all = append(all, s)
	}
	return all
}

// locked says whether the hook's event shows the socket as it is at its time: its lock is
// held.
func locked(h event.Hook) bool {
	switch h {
	case event.HookSetState, event.HookTimeWait, event.HookSendFin, event.HookReset, event.HookSendActiveReset, event.HookDestroy:
		return true
	}
	return false
}

// compare bounds delta, what makes a time of b's clock one of a's, by what the two ends
// tell: nothing is received, or acknowledged, before it was sent.
func (b *bounds) compare(x, y *end) {
	// The true number of each is what the other one received.
	xISN, ok1 := y.numbers.Received()
	yISN, ok2 := x.numbers.Received()
	if ok1 && ok2 {
		xs, ys, at := stands(x.Conn, xISN), stands(y.Conn, yISN), x.Conn.Last
		for _, s := range xs {
			// y had not sent so much, or not received so much, when it was at f.
			if f := before(ys, func(f *stand) bool { return f.nxt >= s.rcv }); f != nil {
				b.atMost(s.at-f.at+loosen(at-s.at), "segment")
			}
			if f := before(ys, func(f *stand) bool { return f.rcv >= s.una }); f != nil {
				b.atMost(s.at-f.at+loosen(at-s.at), "ACK")
			}
		}
		for _, s := range ys {
			if f := before(xs, func(f *stand) bool { return f.nxt >= s.rcv }); f != nil {
				b.atLeast(f.at-s.at-loosen(at-f.at), "segment")
			}
			if f := before(xs, func(f *stand) bool { return f.rcv >= s.una }); f != nil {
				b.atLeast(f.at-s.at-loosen(at-f.at), "ACK")
			}
		}
	}
	if x.Conn.Open == conn.OpenActive && y.Conn.Open == conn.OpenPassive {
		b.follows(x, x.Conn.Opened, y.Conn.Opened, "SYN")
		b.follows(x, x.Conn.Established, y.Conn.Established, "handshake")
		if x.Conn.Opened != 0 && x.Conn.Established != 0 && y.Conn.Established != 0 {
			// The answer to it was on its way for about as long as what it answers.
			b.guess = x.Conn.Established - y.Conn.Established + (x.Conn.Established-x.Conn.Opened)/2
		}
	}
	b.follows(x, finSent(x.Conn), finCame(y.Conn), "FIN")
	b.precedes(x, finCame(x.Conn), finSent(y.Conn), "FIN")
	b.follows(x, finCame(x.Conn), finAcked(y.Conn), "ACK")
	b.precedes(x, finAcked(x.Conn), finCame(y.Conn), "ACK")
	sent, came := reset(x.Conn, y.Conn)
	b.follows(x, sent, came, "RST")
	sent, came = reset(y.Conn, x.Conn)
	b.precedes(x, came, sent, "RST")
}

// follows takes that something at y, whose time is the second, came after something at
// x, and precedes that it came before. 0: it did not happen. What contradicts the other
// bounds was something else's doing: a segment that somebody made.
func (b *bounds) follows(x *end, at, there time.Duration, by string) {
	if d := at - there - loosen(x.Conn.Last-at); at != 0 && there != 0 && d < b.high+sloppy {
		b.atLeast(d, by)
	}
}

func (b *bounds) precedes(x *end, at, there time.Duration, by string) {
	if d := at - there + loosen(x.Conn.Last-at); at != 0 && there != 0 && d > b.low-sloppy {
		b.atMost(d, by)
	}
}

// happened is when an end's first such event was; 0: there was none.
func happened(c *conn.Connection, such func(*event.Event) bool) time.Duration {
	for i := range c.Events {
		if such(&c.Events[i]) {
			return c.Events[i].Time
		}
	}
	return 0
}

// finSent is when an end's FIN was put into its queue, finCame when it got the other's,
// and finAcked when it learnt that the other had its own.

func finSent(c *conn.Connection) time.Duration {
	return happened(c, func(e *event.Event) bool {
		return e.Hook == event.HookSetState && (e.ToState == event.FinWait1 || e.ToState == event.LastAck)
	})
}

func finCame(c *conn.Connection) time.Duration {
	return happened(c, func(e *event.Event) bool {
		switch e.Hook {
		case event.HookSetState:
			return e.ToState == event.CloseWait || e.ToState == event.Closing
		case event.HookTimeWait, event.HookTwskSchedule:
			return event.State(e.Arg) == event.TimeWait
		}
		return false
	})
}

func finAcked(c *conn.Connection) time.Duration {
	return happened(c, func(e *event.Event) bool {
		return e.Hook == event.HookSetState && (e.ToState == event.FinWait2 ||
			e.State == event.LastAck && e.ToState == event.Close && e.Err == 0 && e.Context == event.ContextSoftirq)
	})
}

// before is the last of an end's stands at which it had not come so far; nil: at none.
func before(all []stand, reached func(*stand) bool) *stand {
	n := sort.Search(len(all), func(i int) bool { return reached(&all[i]) })
	if n == 0 {
		return nil
	}
	return &all[n-1]
}

// reset is when one end sent the RST that came to another, at the earliest, and when it
// came; 0: none did.
func reset(from, to *conn.Connection) (sent, came time.Duration) {
	i := slices.IndexFunc(to.Events, func(e event.Event) bool {
		return e.Hook == event.HookReset && e.Has&event.HasSegment != 0 && e.Segment.Flags&event.RST != 0
	})
	if i < 0 {
		return 0, 0
	}
	rst := &to.Events[i]
	for k := range from.Events {
		e := &from.Events[k]
		switch {
		case e.Hook == event.HookSendReset && e.Has&event.HasSegment != 0 && rst.Segment.Flags&event.ACK == 0 && e.Segment.Ack == rst.Segment.Seq:
			return e.Time, rst.Time
		case e.Hook == event.HookSendActiveReset && rst.Segment.Flags&event.ACK != 0:
			// It may be told of when it has gone; the state was changed before.
			if k > 0 && from.Events[k-1].ToState == event.Close && from.Events[k-1].Hook == event.HookSetState {
				return from.Events[k-1].Time, rst.Time
			}
			return e.Time, rst.Time
		}
	}
	return 0, 0
}

// answered bounds delta by what the other host's kernel did with a SYN: it came after it
// was sent, and before the RST that answers it.
func (b *bounds) answered(p *pair) {
	c := p.a.Conn
	for i := range p.strays {
		e := &p.strays[i].event
		if e.Has&event.HasSegment == 0 {
			continue
		}
		if c.Opened != 0 {
			b.atLeast(c.Opened-e.Time, "SYN")
		}
		if k := slices.IndexFunc(c.Events, func(e event.Event) bool { return e.Hook == event.HookReset }); k >= 0 && e.Hook == event.HookSendReset {
			b.atMost(c.Events[k].Time-e.Time, "RST")
		}
	}
}

// there is a time of the pair in b's clock.
func (p *pair) there() time.Duration {
	if p.b != nil {
		return last(p.b.Conn)
	}
	return p.strays[0].event.Time
}

// align finds the offset of the clocks for each pair.
func (j *joiner) align() {
	type clocks struct{ a, b string }
	between := map[clocks][]*pair{}
	for _, p := range j.pairs {
		p.bounds = anywhere()
		if p.b != nil {
			p.bounds.compare(p.a, p.b)
		} else {
			p.bounds.answered(p)
		}
		c := clocks{j.traces[p.ta].clock(), j.traces[p.tb].clock()}
		between[clocks{min(c.a, c.b), max(c.a, c.b)}] = append(between[clocks{min(c.a, c.b), max(c.a, c.b)}], p)
	}
	for c, list := range between {
		if c.a == c.b {
			for _, p := range list {
				p.clock.By = SameClock
			}
			continue
		}
		for _, p := range outside(j, c.a, list) {
			j.part(p)
			list = slices.DeleteFunc(list, func(o *pair) bool { return o == p })
		}
		j.spread(c.a, list)
	}
	for _, p := range j.pairs {
		j.settle(p)
	}
	for _, p := range j.unproven() {
		j.part(p)
	}
}

// reading is a pair's bounds as from the clock that comes first, and when.
type reading struct {
	p         *pair
	at        time.Duration
	low, high time.Duration
}

func (j *joiner) readings(first string, list []*pair) []reading {
	all := make([]reading, len(list))
	for i, p := range list {
		all[i] = reading{p, last(p.a.Conn), p.bounds.low, p.bounds.high}
		if j.traces[p.ta].clock() != first {
			all[i] = reading{p, p.there(), -p.bounds.high, -p.bounds.low}
		}
	}
	slices.SortStableFunc(all, func(x, y reading) int { return cmp.Compare(x.at, y.at) })
	return all
}

// outside are the pairs whose ends did not live at the same time, as the other pairs of
// the two hosts have it.
func outside(j *joiner, first string, list []*pair) (out []*pair) {
	all := j.readings(first, list)
	var middles []time.Duration
	for _, r := range all {
		if r.p.b != nil && r.low > -far && r.high < far {
			middles = append(middles, r.low+(r.high-r.low)/2)
		}
	}
	if len(middles) < 3 {
		return nil
	}
	slices.Sort(middles)
	middle, at := middles[len(middles)/2], all[len(all)/2].at
	for _, r := range all {
		if slack := time.Minute + loosen(r.at-at); r.p.b != nil && (r.low > middle+slack || r.high < middle-slack) {
			out = append(out, r.p)
		}
	}
	return out
}

// spread gives a pair whose own segments bound the offset on one side only, or on none,
// the bounds of the others between the same two clocks.
func (j *joiner) spread(first string, list []*pair) {
	all := j.readings(first, list)
	best := make([]reading, len(all))
	copy(best, all)
	carry := func(i int, from *reading) {
		d := loosen(best[i].at - from.at)
		if from.low > -far {
			best[i].low = max(best[i].low, from.low-d)
		}
		if from.high < far {
			best[i].high = min(best[i].high, from.high+d)
		}
	}
	for i := 1; i < len(best); i++ {
		carry(i, &best[i-1])
	}
	for i := len(best) - 2; i >= 0; i-- {
		carry(i, &best[i+1])
	}
	for i, r := range all {
		p, low, high := r.p, best[i].low, best[i].high
		if p.bounds.both() || low == -far && high == far {
			continue
		}
		if j.traces[p.ta].clock() != first {
			low, high = -high, -low
		}
		if low > p.bounds.low {
			p.bounds.low, p.bounds.lowBy, p.clock.By = low, "", Neighbors
		}
		if high < p.bounds.high {
			p.bounds.high, p.bounds.highBy, p.clock.By = high, "", Neighbors
		}
	}
}

// settle chooses the offset within the bounds.
func (j *joiner) settle(p *pair) {
	at := last(p.a.Conn)
	p.base = j.traces[p.ta].wall(at)
	other := j.traces[p.tb].wall(p.there())
	b := &p.bounds
	switch {
	case p.clock.By == SameClock:
		p.delta = 0
		b.low, b.high = 0, 0
	case b.low == -far && b.high == far:
		p.clock.By, p.delta = WallClocks, other-p.base
	default:
		p.clock.By = cmp.Or(p.clock.By, Connection)
		switch {
		case b.low < b.guess && b.guess < b.high:
			p.delta = b.guess
		case b.high == far:
			p.delta = b.low + time.Microsecond // the cause before its effect
		case b.low == -far:
			p.delta = b.high - time.Microsecond
		default:
			p.delta = b.low + (b.high-b.low)/2
		}
	}
	// At one moment a's clock shows t, and b's t - delta.
	ahead := func(delta time.Duration) time.Duration { return other - p.base - delta }
	p.clock.Ahead = ahead(p.delta)
	if b.high < far {
		d := ahead(b.high)
		p.clock.Least, p.clock.LeastBy = &d, b.highBy
	}
	if b.low > -far {
		d := ahead(b.low)
		p.clock.Most, p.clock.MostBy = &d, b.lowBy
	}
}
