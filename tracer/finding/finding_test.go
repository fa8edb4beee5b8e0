package finding_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/finding"
	"github.com/tcpbye/tcpbye/tracer/record"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// end is a judged end.
type end struct {
	c *conn.Connection
	v verdict.Verdict
}

// set makes endings.
type set struct {
	*rand.Rand
	ends []end
	n    int
	from time.Duration
}

func newSet(seed uint64) *set {
	return &set{Rand: rand.New(rand.NewPCG(seed, 7)), from: time.Hour}
}

func (s *set) between(a, b time.Duration) time.Duration {
	return a + time.Duration(s.Int64N(int64(b-a)))
}

func host(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 1, byte(n >> 8), byte(n)}) }

// talk makes an end; served: it is the service's, else the client's. The other end is on
// another machine.
func (s *set) talk(served bool, service netip.AddrPort, client int, end time.Duration) *end {
	s.n++
	far := netip.AddrPortFrom(host(client), uint16(20000+s.n%30000))
	x := s.add(&conn.Connection{ID: fmt.Sprint(s.n), Local: service, Remote: far, Open: conn.OpenPassive, Opened: end - time.Second, Ended: end, Last: end, Owner: &conn.Process{PID: 100, Comm: "app"}})
	if !served {
		x.c.Local, x.c.Remote, x.c.Open, x.c.Owner = far, service, conn.OpenActive, &conn.Process{PID: 200, Comm: "user"}
	}
	zero := uint64(0)
	x.v = verdict.Verdict{Class: verdict.Graceful, Cause: verdict.OrderlyClose, Ender: verdict.LocalProcess, Act: verdict.ActClose, Confidence: verdict.Certain, Lost: verdict.Lost{Unread: &zero, Unsent: &zero, Unacked: &zero}}
	return x
}

func (s *set) add(c *conn.Connection) *end {
	s.ends = append(s.ends, end{c: c})
	return &s.ends[len(s.ends)-1]
}

func (x *end) fins(local, peer time.Duration) *end {
	x.v.LocalFin, x.v.PeerFin = nil, nil
	if local != 0 {
		x.v.LocalFin = &verdict.Goodbye{At: local, Act: verdict.ActClose}
	}
	if peer != 0 {
		x.v.PeerFin = &verdict.Goodbye{At: peer}
	}
	return x
}

func (x *end) idle(d time.Duration) *end { x.v.Idle = &d; return x }

// noise are endings that say nothing: graceful, with all idle times, of many routes, and
// single ones of every other kind.
func (s *set) noise(n int) {
	for range n {
		end := s.from + s.between(0, time.Hour)
		x := s.talk(s.IntN(2) == 0, netip.AddrPortFrom(host(1000+s.IntN(20)), uint16(7000+s.IntN(3))), s.IntN(50), end)
		idle := s.between(0, 20*time.Second)
		if s.IntN(2) == 0 {
			x.fins(end-time.Millisecond, end).idle(idle)
		} else {
			x.fins(end, end-time.Millisecond).idle(idle)
			x.v.Ender = verdict.Peer
		}
	}
	for i, cause := range []verdict.Cause{verdict.DataAfterClose, verdict.PeerGone, verdict.CloseUnread, verdict.LingerZero, verdict.PortClosed, verdict.AcceptOverflow, verdict.RetransmitTimeout, verdict.KeepaliveTimeout} {
		for range s.IntN(2) {
			x := s.talk(i%2 == 0, netip.AddrPortFrom(host(2000+s.IntN(5000)), uint16(1+s.IntN(60000))), 9000+s.IntN(500), s.from+s.between(0, time.Hour))
			x.v.Cause, x.v.Class = cause, classOf(cause)
			x.idle(s.between(0, time.Minute))
		}
	}
}

func classOf(c verdict.Cause) verdict.Class {
	for _, r := range verdict.Rules() {
		if r.Cause == c {
			return r.Class
		}
	}
	return verdict.Unknown
}

var service = netip.MustParseAddrPort("10.9.9.9:8443")

// raced are connections that the service closes after a silence, and that the client
// used again.
func (s *set) raced(n int, idle func() time.Duration) {
	for range n {
		end := s.from + s.between(0, time.Hour)
		x := s.talk(true, service, s.IntN(30), end).fins(end-s.between(time.Millisecond, 300*time.Millisecond), 0).idle(idle())
		x.v.Class, x.v.Cause, x.v.Ender = verdict.Aborted, verdict.DataAfterClose, verdict.LocalKernel
	}
}

func (s *set) timedOut(n int, idle func() time.Duration) {
	for range n {
		end := s.from + s.between(0, time.Hour)
		s.talk(true, service, s.IntN(30), end).fins(end-time.Millisecond, end).idle(idle())
	}
}

// forgotten are connections that nobody knows any more when they are used again.
func (s *set) forgotten(n int, at, idle func() time.Duration) {
	for range n {
		end := at()
		x := s.talk(false, service, 1, end).idle(idle())
		x.v.Class, x.v.Cause, x.v.Ender, x.v.Reset = verdict.Aborted, verdict.PeerGone, verdict.Peer, &verdict.Reset{At: end, Answers: verdict.AnswerData}
	}
}

func (s *set) anyTime() time.Duration { return s.from + s.between(0, time.Hour) }

// ends of a cause at the service.
func (s *set) many(n int, cause verdict.Cause, change func(*end)) {
	for range n {
		x := s.talk(true, service, s.IntN(30), s.anyTime())
		x.v.Class, x.v.Cause = classOf(cause), cause
		if change != nil {
			change(x)
		}
	}
}

func (s *set) probes(times []time.Duration) {
	for _, t := range times {
		x := s.talk(true, service, 3, s.from+t)
		x.v.Class, x.v.Cause, x.v.Ender, x.v.Probe = verdict.Aborted, verdict.PeerAbort, verdict.Peer, true
	}
}

// waiting are connections in CLOSE_WAIT since some times, seen at the end of an hour.
func (s *set) waiting(since []time.Duration) {
	nobody := s.IntN(2) == 0
	for _, t := range since {
		x := s.talk(true, service, s.IntN(30), 0)
		x.c.Ended, x.c.Last = 0, s.from+t
		x.v.Class, x.v.Cause, x.v.Ender = verdict.Open, verdict.CloseWaitLeak, verdict.NoEnder
		x.fins(0, s.from+t)
		if nobody {
			x.c.Owner = nil // accept was not seen
		}
	}
	// What else there is tells the time.
	s.talk(true, service, 1, s.from+time.Hour).fins(s.from+time.Hour-time.Second, s.from+time.Hour)
}

func (s *set) timeouts(n int, to netip.Addr) {
	for range n {
		x := s.talk(false, netip.AddrPortFrom(to, 443), 1, s.anyTime())
		x.v.Class, x.v.Cause, x.v.Ender = verdict.TimedOut, verdict.RetransmitTimeout, verdict.LocalKernel
	}
}

func (s *set) times(n int, f func(i int) time.Duration) (all []time.Duration) {
	for i := range n {
		all = append(all, f(i))
	}
	return all
}

func (s *set) judge() []finding.Finding {
	s.Shuffle(len(s.ends), func(i, j int) { s.ends[i], s.ends[j] = s.ends[j], s.ends[i] })
	f := finding.New()
	for i := range s.ends {
		f.End(s.ends[i].c, &s.ends[i].v)
	}
	return f.Findings()
}

const seeds = 100

// found are the ten sets that have a finding, and which.
var found = map[finding.Kind]func(s *set, check *func(finding.Finding) bool){
	finding.KeepaliveRace: func(s *set, check *func(finding.Finding) bool) {
		period := []time.Duration{time.Second, 2 * time.Second, 5 * time.Second, time.Minute, 75 * time.Second}[s.IntN(5)]
		idle := func() time.Duration { return period + s.between(-4*time.Millisecond, 8*time.Millisecond) }
		n := 2 + s.IntN(40)
		s.raced(n, idle)
		s.timedOut(15+s.IntN(500), idle)
		*check = func(x finding.Finding) bool {
			return x.Count == n && (*x.Period-period).Abs() < 10*time.Millisecond && *x.Until <= 300*time.Millisecond
		}
	},
	finding.PathIdleLimit: func(s *set, check *func(finding.Finding) bool) {
		limit := s.between(30*time.Second, 350*time.Second)
		n := 6 + s.IntN(20)
		s.forgotten(n, s.anyTime, func() time.Duration { return limit + s.between(0, 100*time.Second) })
		// Three that no one moment can explain.
		for i := range 3 {
			s.forgotten(1, func() time.Duration { return s.from + time.Duration(i)*20*time.Minute }, func() time.Duration { return limit })
		}
		for range 100 + s.IntN(300) {
			end := s.anyTime()
			s.talk(false, service, 1, end).fins(end-time.Millisecond, end).idle(s.between(0, limit-time.Second))
		}
		*check = func(x finding.Finding) bool { return x.Count == n+3 && *x.Period == limit && *x.Below < limit }
	},
	finding.HealthCheck: func(s *set, check *func(finding.Finding) bool) {
		period := s.between(time.Second, 30*time.Second)
		n := 9 + s.IntN(50)
		s.probes(s.times(n, func(i int) time.Duration { return time.Duration(i)*period + s.between(0, period/50) }))
		*check = func(x finding.Finding) bool {
			return x.Harmless && x.Count == n && (*x.Period-period).Abs() < period/20
		}
	},
	finding.CloseWaitLeak: func(s *set, check *func(finding.Finding) bool) {
		n := 8 + s.IntN(50)
		gap := s.between(3*time.Second, 30*time.Second)
		s.waiting(s.times(n, func(i int) time.Duration { return time.Duration(i) * gap }))
		*check = func(x finding.Finding) bool {
			return x.Count == n && (x.PID == 100 || x.PID == 0 && x.Service == service) && *x.Rate > 0.9*time.Minute.Seconds()/gap.Seconds() && *x.Rate < 1.1*time.Minute.Seconds()/gap.Seconds()
		}
	},
	finding.Overflow: func(s *set, check *func(finding.Finding) bool) {
		n := 3 + s.IntN(50)
		s.many(n, verdict.AcceptOverflow, nil)
		*check = func(x finding.Finding) bool { return x.Count == n }
	},
	finding.Unanswered: func(s *set, check *func(finding.Finding) bool) {
		n := 12 + s.IntN(20)
		for range n {
			end := s.anyTime()
			s.talk(true, service, s.IntN(30), end).v.Unanswered = &verdict.Unanswered{Act: verdict.ActKilled, Signal: 9, OOM: true, Actor: &conn.Process{PID: 100}}
		}
		for i := range 300 {
			end := s.anyTime()
			s.talk(true, service, s.IntN(30), end).fins(end-1, end).c.Owner.PID = uint32(101 + i%3)
		}
		*check = func(x finding.Finding) bool { return x.Count == n && x.OOM && x.Signal == 9 && x.PID == 100 }
	},
	finding.Timeouts: func(s *set, check *func(finding.Finding) bool) {
		n := 6 + s.IntN(10)
		s.timeouts(n, host(77))
		for range 500 {
			s.talk(false, netip.AddrPortFrom(host(60+s.IntN(10)), 443), 1, s.anyTime()).idle(0)
		}
		*check = func(x finding.Finding) bool {
			return x.Count == n && x.Service.Addr() == host(77) && x.Cause == verdict.RetransmitTimeout
		}
	},
	finding.Refused: func(s *set, check *func(finding.Finding) bool) {
		n := 5 + s.IntN(50)
		for range n {
			x := s.talk(false, service, 1, s.anyTime())
			x.v.Class, x.v.Cause, x.v.Ender = verdict.Refused, verdict.PortClosed, verdict.Peer
		}
		*check = func(x finding.Finding) bool { return x.Count == n }
	},
	finding.CloseUnread: func(s *set, check *func(finding.Finding) bool) {
		n := 5 + s.IntN(50)
		lost := uint64(10)
		s.many(n, verdict.CloseUnread, func(x *end) { x.v.Lost.Unread = &lost })
		*check = func(x finding.Finding) bool { return x.Count == n && x.Lost == uint64(10*n) }
	},
	finding.LingerZero: func(s *set, check *func(finding.Finding) bool) {
		n := 5 + s.IntN(50)
		s.many(n, verdict.LingerZero, nil)
		*check = func(x finding.Finding) bool { return x.Count == n }
	},
}

// TestFound: over many seeds, each set has its finding, with its numbers, and no other.
func TestFound(t *testing.T) {
	if len(found) != len(finding.Kinds()) {
		t.Fatalf("%d sets for %d kinds", len(found), len(finding.Kinds()))
	}
	for kind, make := range found {
		missed, invented, wrong := 0, 0, 0
		for seed := range uint64(seeds) {
			s := newSet(seed)
			var check func(finding.Finding) bool
			make(s, &check)
			s.noise(300)
			hit := false
			for _, x := range s.judge() {
				switch {
				case x.Kind != kind:
					invented++
					t.Errorf("%s, seed %d: invented %+v", kind, seed, x)
				case !check(x):
					wrong++
					t.Errorf("%s, seed %d: wrong numbers: %+v", kind, seed, x)
				default:
					hit = true
				}
			}
			if !hit {
				missed++
			}
		}
		if missed > 0 {
			t.Errorf("%s: missed with %d of %d seeds", kind, missed, seeds)
		}
		t.Logf("%s: %d seeds, %d missed, %d invented, %d wrong", kind, seeds, missed, invented, wrong)
	}
}

// nothing are the ten mixtures that look like something and have no finding.
var nothing = map[string]func(*set){
	"noise alone": func(s *set) { s.noise(2000) },
	"requests after closes at any time, not by a timer": func(s *set) {
		any := func() time.Duration { return s.between(shortest, 20*time.Second) }
		s.raced(30, any)
		s.timedOut(100, any)
	},
	"a timer, and no request that met it": func(s *set) {
		s.timedOut(300, func() time.Duration { return 5*time.Second + s.between(0, 5*time.Millisecond) })
	},
	"probes at any time": func(s *set) {
		s.probes(s.times(60, func(int) time.Duration { return s.between(0, time.Hour) }))
	},
	"a process that stood still for a while": func(s *set) {
		s.waiting(s.times(40, func(int) time.Duration { return time.Minute + s.between(0, time.Second) }))
	},
	"CLOSE_WAIT for a moment": func(s *set) {
		s.waiting(s.times(40, func(int) time.Duration { return time.Hour - s.between(0, 9*time.Second) }))
	},
	"timeouts to everybody alike": func(s *set) {
		for range 40 {
			s.timeouts(1, host(60+s.IntN(20)))
		}
		for range 400 {
			s.talk(false, netip.AddrPortFrom(host(60+s.IntN(20)), 443), 1, s.anyTime())
		}
	},
	"a peer that was restarted, twice": func(s *set) {
		for _, at := range []time.Duration{20 * time.Minute, 40 * time.Minute} {
			for range 10 {
				later := s.between(time.Second, 5*time.Minute)
				s.forgotten(1, func() time.Duration { return s.from + at + later }, func() time.Duration { return later + s.between(0, time.Minute) })
			}
		}
		for range 300 {
			end := s.anyTime()
			s.talk(false, service, 1, end).fins(end-1, end).idle(s.between(0, time.Second))
		}
	},
	"connections forgotten, and others silent for longer": func(s *set) {
		any := func() time.Duration { return s.between(time.Second, 10*time.Minute) }
		s.forgotten(20, s.anyTime, any)
		for range 200 {
			end := s.anyTime()
			s.talk(false, service, 1, end).fins(end-1, end).idle(any())
		}
		end := s.anyTime()
		s.talk(false, service, 1, end).fins(end-1, end).idle(time.Hour)
	},
	"two of everything that takes three, four of what takes five": func(s *set) {
		s.many(2, verdict.AcceptOverflow, nil)
		s.many(4, verdict.CloseUnread, nil)
		s.many(4, verdict.LingerZero, nil)
		s.timeouts(2, host(77))
		for _, signal := range []int{9, 9, 15, 15} {
			s.talk(true, service, 1, s.anyTime()).v.Unanswered = &verdict.Unanswered{Act: verdict.ActKilled, Signal: signal}
		}
		for range 4 {
			x := s.talk(false, service, 1, s.anyTime())
			x.v.Class, x.v.Cause = verdict.Refused, verdict.PortClosed
		}
	},
}

const shortest = 200 * time.Millisecond

// TestNothing: over many seeds, none of the mixtures has a finding.
func TestNothing(t *testing.T) {
	for name, make := range nothing {
		invented := 0
		for seed := range uint64(seeds) {
			s := newSet(seed)
			make(s)
			s.noise(300)
			for _, x := range s.judge() {
				invented++
				t.Errorf("%s, seed %d: invented %+v", name, seed, x)
			}
		}
		t.Logf("%s: %d seeds, %d invented", name, seeds, invented)
	}
}

// catalogue are the judged ends of all recorded scenarios of all kernels.
func catalogue(t *testing.T) (runs [][]end) {
	t.Helper()
	paths, err := filepath.Glob("../verdict/testdata/*.tcpbye")
	if err != nil || len(paths) < 4 {
		t.Fatalf("recordings: %v, %v", paths, err)
	}
	for _, path := range paths {
		r, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		var meta record.Meta
		var join *conn.Joiner
		flush := func() {
			if join == nil {
				return
			}
			var ends []end
			for _, c := range join.Flush() {
				c.ID = fmt.Sprint(len(runs), "-", c.ID)
				ends = append(ends, end{c, verdict.Judge(c, verdict.ScopeOf(meta))})
			}
			runs = append(runs, ends)
		}
		if err := record.Read(r, record.Handler{
			Meta:  func(m record.Meta) error { flush(); meta, join = m, conn.New(conn.Options{Hold: true}); return nil },
			Event: func(e event.Event) error { join.Add(e); return nil },
		}); err != nil {
			t.Fatal(err)
		}
		flush()
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return runs
}

// TestCatalogue: every ending that there is, each some times, says nothing together: the
// scenarios have nothing to do with each other.
func TestCatalogue(t *testing.T) {
	runs := catalogue(t)
	for seed := range uint64(seeds) {
		s := newSet(seed)
		for _, i := range s.Perm(len(runs))[:s.IntN(len(runs))] {
			s.ends = append(s.ends, runs[i]...)
		}
		for _, x := range s.judge() {
			t.Errorf("seed %d: invented %+v", seed, x)
		}
	}
	if n := len(slices.Concat(runs...)); n < 500 {
		t.Errorf("only %d ends", n)
	}
}

// many more than are kept of a series.
const tooMany = 5000

// told are the findings of ends in their order.
func (s *set) told() []finding.Finding {
	f := finding.New()
	for i := range s.ends {
		f.End(s.ends[i].c, &s.ends[i].v)
	}
	return f.Findings()
}

// TestBeyond: what came after the first of many samples disproves a finding as well.
func TestBeyond(t *testing.T) {
	const limit = time.Minute
	lived := func(s *set, n int, idle time.Duration) {
		for range n {
			end := s.anyTime()
			s.talk(false, service, 1, end).fins(end-time.Millisecond, end).idle(idle)
		}
	}
	broken := func(s *set, n int, idle time.Duration) {
		for i := range n {
			s.forgotten(1, func() time.Duration { return s.from + time.Duration(i)*20*time.Minute }, func() time.Duration { return idle + time.Duration(i%7)*5*time.Second })
		}
	}
	for _, x := range []struct {
		name string
		make func(s *set)
		kind finding.Kind
		want func(finding.Finding) bool // nil: no finding of the kind
	}{
		{"all survived less", func(s *set) { broken(s, 9, limit); lived(s, tooMany, time.Second); lived(s, 1, 50*time.Second) }, finding.PathIdleLimit,
			func(x finding.Finding) bool { return *x.Below == 50*time.Second && *x.Period == limit }},
		{"one survived as long, late", func(s *set) { broken(s, 9, limit); lived(s, tooMany, time.Second); lived(s, 1, limit) }, finding.PathIdleLimit, nil},
		{"one broke sooner, late", func(s *set) { lived(s, 9, 50*time.Second); broken(s, tooMany, limit); broken(s, 1, 40*time.Second) }, finding.PathIdleLimit, nil},
		{"the limit is that of a late one", func(s *set) { lived(s, 20, 30*time.Second); broken(s, tooMany, limit); broken(s, 1, 40*time.Second) }, finding.PathIdleLimit,
			func(x finding.Finding) bool { return *x.Period == 40*time.Second && x.Count == tooMany+1 }},
		{"a timer", func(s *set) {
			s.raced(3, func() time.Duration { return 5 * time.Second })
			s.timedOut(2*tooMany, func() time.Duration { return 5 * time.Second })
		}, finding.KeepaliveRace, func(x finding.Finding) bool { return x.Timed == 2*tooMany+3 }},
		{"a timer only at first", func(s *set) {
			s.raced(3, func() time.Duration { return 5 * time.Second })
			s.timedOut(tooMany, func() time.Duration { return 5 * time.Second })
			s.timedOut(tooMany, func() time.Duration { return s.between(time.Second, 20*time.Second) })
		}, finding.KeepaliveRace, nil},
		{"probes", func(s *set) {
			s.probes(s.times(4096, func(i int) time.Duration { return time.Duration(i) * time.Second }))
			s.probes(s.times(1000, func(int) time.Duration { return 2*time.Hour + s.between(0, time.Hour) }))
		}, finding.HealthCheck, func(x finding.Finding) bool { return x.Count == 4096 && x.Of == 5096 && x.Last == s0+4095*time.Second }},
		{"all bytes, to the last", func(s *set) {
			lost := uint64(2)
			s.many(tooMany, verdict.CloseUnread, func(x *end) { x.v.Lost.Unread = &lost })
			s.talk(true, service, 1, s.from+9*time.Hour).v.Cause = verdict.CloseUnread
		}, finding.CloseUnread, func(x finding.Finding) bool { return x.Lost == 2*tooMany && x.Last == s0+9*time.Hour }},
	} {
		s := newSet(1)
		x.make(s)
		var got *finding.Finding
		for _, f := range s.told() {
			if f.Kind == x.kind {
				got = &f
			}
		}
		if (got != nil) != (x.want != nil) || got != nil && !x.want(*got) {
			t.Errorf("%s: %+v", x.name, got)
		}
	}
}

// s0 is when a set begins.
const s0 = time.Hour

// TestCertain: an ending that is only likely counts, and not as proven.
func TestCertain(t *testing.T) {
	for kind, change := range map[finding.Kind]func(*end){
		finding.Overflow:    func(x *end) { x.v.Cause, x.v.Class = verdict.AcceptOverflow, verdict.Refused },
		finding.Refused:     func(x *end) { x.v.Cause, x.v.Class = verdict.PortClosed, verdict.Refused },
		finding.Unanswered:  func(x *end) { x.v.Unanswered = &verdict.Unanswered{Act: verdict.ActClose} },
		finding.CloseUnread: func(x *end) { x.v.Cause, x.v.Class = verdict.CloseUnread, verdict.Aborted },
		finding.LingerZero:  func(x *end) { x.v.Cause, x.v.Class = verdict.LingerZero, verdict.Aborted },
	} {
		for likely := range 8 {
			s := newSet(1)
			for i := range 7 {
				x := s.talk(true, service, i, s.anyTime())
				if change(x); i < likely {
					x.v.Confidence = verdict.Likely
				}
			}
			if all := s.told(); len(all) != 1 || all[0].Kind != kind || all[0].Count != 7 || all[0].Certain != 7-min(likely, 7) {
				t.Errorf("%s, %d likely: %+v", kind, likely, all)
			}
		}
	}
}
