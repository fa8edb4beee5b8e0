package finding

import (
	"cmp"
	"math"
	"net/netip"
	"slices"
	"time"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// Kind names a finding. Once released, a name does not change its meaning.
type Kind string

const (
	KeepaliveRace Kind = "keepalive-race"
	PathIdleLimit Kind = "path-idle-limit"
	HealthCheck   Kind = "health-check"
	CloseWaitLeak Kind = "close-wait-leak"
	Overflow      Kind = "accept-overflow"
	Unanswered    Kind = "unanswered"
	Timeouts      Kind = "timeouts"
	Refused       Kind = "refused"
	CloseUnread   Kind = "close-unread"
	LingerZero    Kind = "linger-zero"
)

// Kinds lists them all.
func Kinds() []Kind {
	return []Kind{KeepaliveRace, PathIdleLimit, HealthCheck, CloseWaitLeak, Overflow, Unanswered, Timeouts, Refused, CloseUnread, LingerZero}
}

// The thresholds; docs/FINDINGS.md has their reasons.
const (
	// Chance is how likely numbers may be to agree by chance, at most.
	Chance = 1e-6
	// Few is how many endings that are each judged on their own make a pattern.
	Few = 3
	// Several is how many acts of a program on purpose do, and refused connections.
	Several = 5
	// shortest is the shortest idle time that is taken for a timer's.
	shortest = 200 * time.Millisecond
	// leakAge is how long each connection of a leak has been in CLOSE_WAIT at least, and
	// over how long a time they came.
	leakAge = 10 * time.Second
	// share is from which part of a process's connections on an act is its habit.
	share = 0.1
)

// Finding is what many endings have in common.
type Finding struct {
	Kind     Kind
	Harmless bool
	Count    int // of connections that show it
	Certain  int // of the Count, where each is judged on its own: with a verdict that is certain
	Of       int // of how many between the same

	Service netip.AddrPort // invalid: of any, or not known
	Client  netip.Addr     // invalid: of any
	// Programs, by their names; "" not known, or on another machine.
	ServiceComm, ClientComm string
	PID                     uint32 // of the one process that it is about; 0: it is about all

	First, Last time.Duration // CLOCK_MONOTONIC, of its endings
	// Period is the timer's; nil: it has none. Off is how far the times lie from it.
	Period *time.Duration
	Off    time.Duration
	Timed  int // how many endings show the timer, the Count included; of a leak: for ten seconds or more
	// Until is how long after the period's end the client used the connection.
	Until *time.Duration
	// Below is the longest idle time that was survived.
	Below *time.Duration
	Rate  *float64 // a minute

	Act    verdict.Act // how the service ended it; with Unanswered
	Signal int
	OOM    bool

	Lost    uint64 // bytes
	Cause   verdict.Cause
	Chance  float64 // that it is one; 0: each ending is judged on its own
	Opener  *conn.Process
	Timeout []verdict.Timeout // whose default the period is
}

// route is who talks to whom.
type route struct {
	service                 netip.AddrPort
	serviceComm, clientComm string
	netns                   uint32
}

// sample is a time and a value at it.
type sample struct{ at, value time.Duration }

// series keeps the first of many samples. What the rest could disprove is known of all.
type series struct {
	n           int
	kept        []sample
	first, last time.Duration // when
	least, most time.Duration // of the values
	sum         uint64        // of the values
	certain     int           // how many were judged so; see judged
	middle      time.Duration // of the kept values, once no more are kept
	within      int           // of the values that were not kept: near the middle
	off         time.Duration // how far from it these are
}

// maxSeries bounds what a series keeps. A pattern shows in the first samples; the later
// ones can only disprove it.
const maxSeries = 4096

func (s *series) add(at, value time.Duration) {
	if s.n++; s.n == 1 {
		s.first, s.last, s.least, s.most = at, at, value, value
	}
	s.first, s.last = min(s.first, at), max(s.last, at)
	s.least, s.most = min(s.least, value), max(s.most, value)
	s.sum += uint64(value)
	if s.n > maxSeries {
		if d := (value - s.middle).Abs(); d <= near(s.middle) {
			s.within++
			s.off = max(s.off, d)
		}
		return
	}
	if s.kept = append(s.kept, sample{at, value}); s.n == maxSeries {
		s.middle = median(slices.Sorted(slices.Values(s.values())))
	}
}

// judged adds an ending that counts by its verdict alone.
func (s *series) judged(at time.Duration, lost uint64, v *verdict.Verdict) {
	if s.add(at, time.Duration(lost)); v.Confidence == verdict.Certain {
		s.certain++
	}
}

func (s *series) values() []time.Duration {
	out := make([]time.Duration, len(s.kept))
	for i := range s.kept {
		out[i] = s.kept[i].value
	}
	return out
}

func (s *series) span() (first, last time.Duration) { return s.first, s.last }

// core is the time around which nearly all lie, and how likely that is by chance if idle
// times are spread over at least as much as the time itself: of those that were kept. The
// rest counts within or not.
func (s *series) core() (middle, off time.Duration, within int, chance float64) {
	middle, off, within, chance = core(s.values())
	return middle, max(off, s.off), within + s.within, chance
}

func median(sorted []time.Duration) time.Duration { return sorted[len(sorted)/2] }

// traffic is what is known of a route.
type traffic struct {
	total   int
	idle    series // closed by the service after a silence: the silence
	race    series // the same, and then the client's data came: the silence
	reuse   series // how long after the service's FIN that was
	broken  series // ended by a reset without a FIN, or a timeout, after a silence
	itself  int    // of the broken ones: the reset answered nothing
	lived   series // ended otherwise: the silence
	full    series // accept queue
	refused series
	silent  map[how]*series // unanswered
	byPID   map[uint32]int  // connections by the service's process
	mute    map[uint32]int  // unanswered ones by process
	unread  series          // close-unread by the service: bytes
	linger  series          // linger-zero by the service, with bytes lost or not: bytes
}

type how struct {
	act    verdict.Act
	signal int
	oom    bool
}

// checks are the probes of a client at a service.
type check struct {
	route
	client netip.Addr
}

// holder is a process that may leak; where it is not known, as without the hook of
// accept, what it listens on is.
type holder struct {
	pid  uint32
	comm string
	at   netip.AddrPort
}

type held struct {
	waits  series // CLOSE_WAIT that is open: since when
	closed time.Duration
	peer   map[netip.AddrPort]int
	opener *conn.Process
}

// destination counts the ends of a remote address.
type destination struct {
	total    int
	timeouts series
	causes   map[verdict.Cause]int
}

// socket is an end's identity, in several runs.
type socket struct {
	id  string
	gen uint64
}

func socketOf(c *conn.Connection) socket { return socket{c.ID, c.Gen} }

// Finder collects ends. The zero value is not ready: see New.
type Finder struct {
	routes  map[route]*traffic
	checks  map[check]*series
	holders map[holder]*held
	to      map[netip.Addr]*destination
	ends    int             // to any destination
	late    int             // of them timeouts
	seen    map[socket]bool // ends whose other end was counted
	last    time.Duration
	dropped int
}

// maxKeys bounds each of the Finder's tables.
const maxKeys = 1 << 16

// New makes a Finder.
func New() *Finder {
	return &Finder{routes: map[route]*traffic{}, checks: map[check]*series{}, holders: map[holder]*held{}, to: map[netip.Addr]*destination{}, seen: map[socket]bool{}}
}

// Now says how far the run has come: what is open has been so until then.
func (f *Finder) Now(now time.Duration) { f.last = max(f.last, now) }

// Dropped counts ends for which there was no room.
func (f *Finder) Dropped() int { return f.dropped }

// at gets a table's value, and makes it where there is room.
func at[K comparable, V any](f *Finder, m map[K]*V, k K) *V {
	v := m[k]
	if v == nil {
		if len(m) >= maxKeys {
			f.dropped++
			return new(V)
		}
		v = new(V)
		m[k] = v
	}
	return v
}

// End takes a judged end.
func (f *Finder) End(c *conn.Connection, v *verdict.Verdict) {
	if c == nil || !c.Local.IsValid() || !c.Remote.IsValid() {
		return
	}
	f.last = max(f.last, c.Last, c.Ended)
	f.hold(c, v)
	if me := socketOf(c); f.seen[me] {
		delete(f.seen, me)
		return
	}
	if c.Peer != nil && len(f.seen) < maxKeys {
		f.seen[socketOf(c.Peer)] = true
	}
	f.reach(c, v)
	serves := c.Service() == conn.ThisSide || c.Service() == conn.NoSide && c.Local.Port() < c.Remote.Port()
	r, client := route{service: c.Remote, netns: c.NetNS}, c.Local.Addr()
	mine, theirs := owner(c), owner(c.Peer)
	service := theirs
	if serves {
		r.service, client = c.Local, c.Remote.Addr()
		mine, theirs, service = theirs, mine, mine
	}
	r.clientComm, r.serviceComm = comm(mine), comm(theirs)
	t := at(f, f.routes, r)
	t.total++
	if service != nil {
		if t.byPID == nil {
			t.byPID, t.mute = map[uint32]int{}, map[uint32]int{}
		}
		t.byPID[service.PID]++
	}
	end := ended(c)
	if v.Class == verdict.Open || c.Lossy || v.Confidence == verdict.NotKnown {
		return
	}
	byService := v.Ender == verdict.LocalProcess || v.Ender == verdict.LocalKernel
	if !serves {
		byService = v.Ender == verdict.PeerProcess || v.Ender == verdict.PeerKernel || v.Ender == verdict.Peer
	}
	lost := sum(v.Lost)
	switch {
	case v.Probe:
		s := at(f, f.checks, check{r, client})
		s.add(end, 0)
	case v.Cause == verdict.AcceptOverflow:
		t.full.judged(end, 0, v)
	case v.Cause == verdict.PortClosed:
		t.refused.judged(end, 0, v)
	case v.Unanswered != nil:
		u := v.Unanswered
		if t.silent == nil {
			t.silent = map[how]*series{}
		}
		k := how{u.Act, u.Signal, u.OOM}
		if t.silent[k] == nil {
			t.silent[k] = &series{}
		}
		t.silent[k].judged(end, lost, v)
		if u.Actor != nil && t.mute != nil {
			t.mute[u.Actor.PID]++
		}
	case v.Cause == verdict.CloseUnread && byService:
		t.unread.judged(end, lost, v)
	case v.Cause == verdict.LingerZero && byService && !v.Harmless:
		t.linger.judged(end, lost, v)
	}
	silence(t, c, v, serves, byService, end)
}

// silence sorts an ending by what it says of idle times.
func silence(t *traffic, c *conn.Connection, v *verdict.Verdict, serves, byService bool, end time.Duration) {
	if v.Idle == nil || *v.Idle < shortest || v.Probe || v.Class == verdict.Refused {
		return
	}
	fin, other := v.LocalFin, v.PeerFin
	if !serves {
		fin, other = other, fin
	}
	first := fin != nil && (other == nil || fin.At <= other.At)
	switch {
	case first && met(v):
		t.race.add(end, *v.Idle)
		t.idle.add(end, *v.Idle)
		t.reuse.add(end, max(0, used(c, v, end)-fin.At))
	case fin == nil && other == nil && silenced(v):
		if t.broken.add(end, *v.Idle); v.Reset != nil && v.Reset.Answers == verdict.AnswerNone {
			t.itself++
		}
		return
	case first && byService && v.Class == verdict.Graceful && closes(fin.Act):
		t.idle.add(end, *v.Idle)
	}
	t.lived.add(end, *v.Idle)
}

// used is when the data came that met a closed socket: its reset tells, which the socket
// that was closed outlives at the other end only.
func used(c *conn.Connection, v *verdict.Verdict, end time.Duration) time.Duration {
	if v.Reset != nil {
		return v.Reset.At
	}
	if c.Peer != nil {
		end = max(end, c.Peer.Ended)
	}
	for i := range c.Elsewhere {
		if e := &c.Elsewhere[i]; e.Hook == event.HookSendReset {
			end = max(end, e.Time)
		}
	}
	return end
}

// closes says whether an act may be a timer's: not a death.
func closes(a verdict.Act) bool {
	return a != verdict.ActExit && a != verdict.ActKilled && a != verdict.ActExec
}

// met says whether data met a socket that was closed.
func met(v *verdict.Verdict) bool {
	switch v.Cause {
	case verdict.DataAfterClose:
		return true
	case verdict.PeerGone, verdict.NoSocket:
		return v.Reset != nil && v.Reset.AfterFin != nil
	}
	return false
}

// silenced says whether a connection was found dead when it was used again, or probed.
func silenced(v *verdict.Verdict) bool {
	switch v.Cause {
	case verdict.PeerGone, verdict.PathReset, verdict.NoSocket:
		return v.Reset != nil && v.Reset.AfterFin == nil
	case verdict.KeepaliveTimeout:
		return true
	}
	return false
}

// hold looks whether a process holds a connection that its peer has finished.
func (f *Finder) hold(c *conn.Connection, v *verdict.Verdict) {
	if v.PeerFin == nil || v.PeerFin.At == 0 || c.Lossy {
		return
	}
	var k holder
	switch who := owner(c); {
	case who != nil:
		k.pid, k.comm = who.PID, who.Comm
	case c.Open == conn.OpenPassive:
		k.at = c.Local
	default:
		return
	}
	switch {
	case v.Class == verdict.Open && v.Cause == verdict.CloseWaitLeak && v.Confidence != verdict.NotKnown:
		h := at(f, f.holders, k)
		h.waits.add(v.PeerFin.At, 0)
		if h.peer == nil {
			h.peer = map[netip.AddrPort]int{}
		}
		if p := c.Remote; c.Open == conn.OpenActive && len(h.peer) < 64 {
			h.peer[p]++
		} else if c.Open == conn.OpenPassive {
			h.peer[c.Local]++
		}
		if c.Opener != nil {
			h.opener = c.Opener
		}
	case v.LocalFin != nil && v.LocalFin.At >= v.PeerFin.At && closes(v.LocalFin.Act):
		h := at(f, f.holders, k)
		h.closed = max(h.closed, v.LocalFin.At-v.PeerFin.At)
	}
}

// reach counts by destination: the ends that opened, or that a timeout ended.
func (f *Finder) reach(c *conn.Connection, v *verdict.Verdict) {
	if v.Class == verdict.Open || c.Lossy {
		return
	}
	d := at(f, f.to, c.Remote.Addr())
	d.total++
	f.ends++
	switch v.Cause {
	case verdict.RetransmitTimeout, verdict.ConnectTimeout, verdict.UserTimeout, verdict.OrphanTimeout:
		if v.Confidence != verdict.NotKnown && (v.Ender == verdict.LocalKernel || v.Class == verdict.TimedOut) {
			d.timeouts.add(ended(c), 0)
			if d.causes == nil {
				d.causes = map[verdict.Cause]int{}
			}
			d.causes[v.Cause]++
			f.late++
		}
	}
}

func ended(c *conn.Connection) time.Duration {
	if c.Ended != 0 {
		return c.Ended
	}
	return c.Last
}

func owner(c *conn.Connection) *conn.Process {
	switch {
	case c == nil:
		return nil
	case c.Owner != nil:
		return c.Owner
	}
	return c.Opener
}

func comm(p *conn.Process) string {
	switch {
	case p == nil:
		return ""
	case p.Leader != "":
		return p.Leader
	}
	return p.Comm
}

func sum(l verdict.Lost) (n uint64) {
	for _, x := range []*uint64{l.Unread, l.Unsent, l.Unacked} {
		if x != nil {
			n += min(*x, math.MaxInt32)
		}
	}
	return n
}

// Findings are what was found so far, the most frequent first, the harmless ones last.
func (f *Finder) Findings() []Finding {
	var all []Finding
	for r, t := range f.routes {
		base := Finding{Of: t.total, Service: r.service, ServiceComm: r.serviceComm, ClientComm: r.clientComm}
		all = append(all, t.keepalive(base)...)
		all = append(all, t.limit(base)...)
		all = append(all, t.counted(base)...)
	}
	for k, s := range f.checks {
		if x, ok := regular(s); ok {
			x.Service, x.Client, x.ServiceComm, x.ClientComm, x.Of = k.service, k.client, k.serviceComm, k.clientComm, s.n
			all = append(all, x)
		}
	}
	for k, h := range f.holders {
		if x, ok := h.leak(f.last); ok {
			x.PID, x.ServiceComm = k.pid, k.comm
			all = append(all, x)
		}
	}
	all = append(all, f.destinations()...)
	slices.SortFunc(all, func(a, b Finding) int {
		if a.Harmless != b.Harmless {
			if a.Harmless {
				return 1
			}
			return -1
		}
		return cmp.Or(b.Count-a.Count, cmp.Compare(a.Kind, b.Kind), a.Service.Compare(b.Service), a.Client.Compare(b.Client),
			cmp.Compare(a.PID, b.PID), cmp.Compare(a.ServiceComm, b.ServiceComm), cmp.Compare(a.ClientComm, b.ClientComm), cmp.Compare(a.Act, b.Act), a.Signal-b.Signal)
	})
	return all
}

// near is how far from a timer's period an idle time may be: it is counted in jiffies,
// and a busy process is late.
func near(period time.Duration) time.Duration { return max(20*time.Millisecond, period/100) }

// core is a series' core, of values.
func core(values []time.Duration) (middle, off time.Duration, within int, chance float64) {
	if len(values) == 0 {
		return 0, 0, 0, 1
	}
	sorted := slices.Sorted(slices.Values(values))
	middle = median(sorted)
	for _, d := range sorted {
		if x := (d - middle).Abs(); x <= near(middle) {
			within++
			off = max(off, x)
		}
	}
	one := min(1, 2*float64(near(middle))/float64(middle))
	// One of them is the middle itself.
	return middle, off, within, tail(len(sorted)-1, within-1, one)
}

// tail is how likely it is that at least k of n happen, each with probability p.
func tail(n, k int, p float64) float64 {
	if k <= 0 {
		return 1
	}
	sum := 0.0
	for i := k; i <= n; i++ {
		sum += math.Exp(choose(n, i) + float64(i)*math.Log(p) + float64(n-i)*math.Log1p(-min(p, 1-1e-12)))
	}
	return min(1, sum)
}

// choose is the logarithm of a binomial coefficient.
func choose(n, k int) float64 {
	lg := func(x int) float64 { v, _ := math.Lgamma(float64(x + 1)); return v }
	return lg(n) - lg(k) - lg(n-k)
}

func (t *traffic) keepalive(x Finding) []Finding {
	period, off, within, chance := t.idle.core()
	if chance > Chance || within*5 < t.idle.n*4 {
		return nil
	}
	n, until := 0, time.Duration(0)
	for i, s := range t.race.kept {
		if (s.value - period).Abs() <= near(period) {
			n++
			until = max(until, t.reuse.kept[i].value)
		}
	}
	if n < 2 {
		return nil
	}
	x.Kind, x.Count, x.Period, x.Off, x.Timed, x.Until, x.Chance = KeepaliveRace, n, &period, off, within, &until, chance
	x.First, x.Last = t.race.span()
	x.Timeout = verdict.FindTimeouts(verdict.SpanIdle, period)
	return []Finding{x}
}

// limit finds that the path forgets connections that were silent too long.
func (t *traffic) limit(x Finding) []Finding {
	n := t.broken.n
	if n < Few {
		return nil
	}
	if t.lived.n > 0 && t.lived.most >= t.broken.least {
		return nil // one that was silent as long lived
	}
	least, below := t.broken.least, t.lived.most
	// Were it chance, the broken ones would be any of all.
	chance := math.Exp(-choose(n+t.lived.n, n))
	if !severally(t.broken.kept) {
		chance = 1 // the peer may have been restarted once or twice
	}
	period, off, within, fixed := t.broken.core()
	if within*5 < n*4 || t.itself < n {
		fixed = 1 // where the client was about to send, its own clock may be what is regular
	}
	if min(chance, fixed) > Chance {
		return nil
	}
	x.Kind, x.Count, x.Chance, x.Timed = PathIdleLimit, n, min(chance, fixed), n
	x.First, x.Last = t.broken.span()
	if fixed <= Chance {
		x.Period, x.Off, x.Timed = &period, off, within
	} else {
		x.Period = &least
	}
	if below > 0 {
		x.Below = &below
	}
	x.Timeout = verdict.FindTimeouts(verdict.SpanIdle, *x.Period)
	return []Finding{x}
}

// severally says whether what broke connections must have happened several times: at each
// it can have broken only those that were silent then.
func severally(broken []sample) bool {
	sorted := slices.SortedFunc(slices.Values(broken), func(a, b sample) int { return cmp.Compare(a.at, b.at) })
	times, last := 0, time.Duration(math.MinInt64)
	for _, s := range sorted { // by their ends: as few moments as there can be
		if s.at-s.value > last {
			times, last = times+1, s.at
		}
	}
	return times >= Few
}

// counted are the patterns whose endings are each judged on their own.
func (t *traffic) counted(base Finding) (all []Finding) {
	add := func(k Kind, s *series, cause verdict.Cause, change func(*Finding)) {
		x := base
		x.Kind, x.Count, x.Certain, x.Cause = k, s.n, s.certain, cause
		x.First, x.Last = s.span()
		x.Lost = s.sum
		if change != nil {
			change(&x)
		}
		all = append(all, x)
	}
	if t.full.n >= Few {
		add(Overflow, &t.full, verdict.AcceptOverflow, nil)
	}
	if t.refused.n >= Several {
		add(Refused, &t.refused, verdict.PortClosed, nil)
	}
	for k, s := range t.silent {
		if s.n >= Few {
			add(Unanswered, s, "", func(x *Finding) {
				x.Act, x.Signal, x.OOM = k.act, k.signal, k.oom
				x.PID = t.one()
			})
		}
	}
	for k, s := range map[Kind]*series{CloseUnread: &t.unread, LingerZero: &t.linger} {
		if s.n >= Several && float64(s.n) >= share*float64(t.total) {
			add(k, s, verdict.Cause(k), nil)
		}
	}
	return all
}

// one is the only process of a service that left requests unanswered, if that is no
// chance; 0: there is none.
func (t *traffic) one() uint32 {
	if len(t.mute) != 1 || len(t.byPID) < 2 {
		return 0
	}
	for pid, n := range t.mute {
		if part := float64(t.byPID[pid]) / float64(t.total); math.Pow(part, float64(n-1)) <= Chance {
			return pid
		}
	}
	return 0
}

// steady is how likely an interval between arrivals that have nothing to do with each other
// is within a tenth of their median: exp(-0.9 ln 2) - exp(-1.1 ln 2).
const steady = 0.0695

// regular finds that probes come at regular times.
func regular(s *series) (x Finding, ok bool) {
	if len(s.kept) < Several {
		return x, false
	}
	times := make([]time.Duration, len(s.kept))
	for i := range s.kept {
		times[i] = s.kept[i].at
	}
	slices.Sort(times)
	var gaps []time.Duration
	for i := 1; i < len(times); i++ {
		gaps = append(gaps, times[i]-times[i-1])
	}
	sorted := slices.Sorted(slices.Values(gaps))
	middle := median(sorted)
	n, off := 0, time.Duration(0)
	for _, g := range gaps {
		if d := (g - middle).Abs(); d <= middle/10 {
			n++
			off = max(off, d)
		}
	}
	chance := tail(len(gaps)-1, n-1, steady)
	if middle < shortest || chance > Chance || n*10 < len(gaps)*9 {
		return x, false
	}
	// Only those of which the intervals are known.
	x = Finding{Kind: HealthCheck, Harmless: true, Count: len(times), Period: &middle, Off: off, Timed: n, Chance: chance}
	x.First, x.Last = times[0], times[len(times)-1]
	return x, true
}

// leak finds that a process does not close what its peers have finished.
func (h *held) leak(now time.Duration) (x Finding, ok bool) {
	var old series
	for _, s := range h.waits.kept {
		// Longer than it ever took this process to close one, by far.
		if d := now - s.at; d >= leakAge && d > 2*h.closed {
			old.add(s.at, 0)
		}
	}
	first, last := old.span()
	if old.n < Several || last-first < leakAge {
		return x, false
	}
	// It grows: they did not come in one moment in which the process stood still.
	quarters := map[int]bool{}
	for _, s := range old.kept {
		quarters[int(4*(s.at-first)/(last-first+1))] = true
	}
	if len(quarters) < 3 {
		return x, false
	}
	rate := float64(old.n-1) / (last - first).Minutes()
	x = Finding{Kind: CloseWaitLeak, Count: h.waits.n, Of: h.waits.n, Timed: old.n, First: first, Last: last, Rate: &rate, Opener: h.opener, Cause: verdict.CloseWaitLeak}
	for p, n := range h.peer {
		if n > h.peer[x.Service] || n == h.peer[x.Service] && p.Compare(x.Service) < 0 {
			x.Service = p
		}
	}
	return x, true
}

// destinations finds addresses to which connections time out.
func (f *Finder) destinations() (all []Finding) {
	for a, d := range f.to {
		n := d.timeouts.n
		if n < Few {
			continue
		}
		// Were it chance, each timeout would be to this address as often as a
		// connection is.
		chance := tail(f.late, n, float64(d.total)/float64(f.ends))
		if most := 2*n >= d.total && f.late == n; !most && chance > Chance {
			continue
		} else if most {
			chance = 0
		}
		x := Finding{Kind: Timeouts, Count: n, Of: d.total, Service: netip.AddrPortFrom(a, 0), Chance: chance}
		x.First, x.Last = d.timeouts.span()
		for c, k := range d.causes {
			if k > d.causes[x.Cause] || k == d.causes[x.Cause] && c < x.Cause {
				x.Cause = c
			}
		}
		all = append(all, x)
	}
	return all
}

// Process names the process that a finding is about; "" none.
func (x *Finding) Process() string {
	if x.PID == 0 {
		return x.ServiceComm
	}
	return x.ServiceComm + "/" + event.PIDText(x.PID)
}
