package hosts_test

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/hosts"
	"github.com/tcpbye/tcpbye/tracer/record"
	"github.com/tcpbye/tcpbye/tracer/session"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// run is one recorded scenario.
type run struct {
	kernel string
	meta   record.Meta
	events []event.Event
}

// catalogue are the recorded scenarios of all kernels.
func catalogue(t testing.TB) []run {
	t.Helper()
	runs, err := recorded()
	if err != nil {
		t.Fatal(err)
	}
	return runs
}

var recorded = sync.OnceValues(func() (runs []run, err error) {
	paths, err := filepath.Glob("../verdict/testdata/*.tcpbye")
	if err == nil && len(paths) < 4 {
		err = fmt.Errorf("recordings of %d kernels, want at least 4: make record writes them", len(paths))
	}
	for _, path := range paths {
		b, e := os.ReadFile(path)
		if e != nil {
			return nil, e
		}
		err = errors.Join(err, record.Read(bytes.NewReader(b), record.Handler{
			Meta: func(m record.Meta) error {
				runs = append(runs, run{kernel: filepath.Base(path), meta: m})
				return nil
			},
			Event: func(e event.Event) error {
				r := &runs[len(runs)-1]
				r.events = append(r.events, e)
				return nil
			},
		}))
	}
	return runs, err
})

// side is one of two hosts; sides are several.
type side uint8

const (
	client  side = 1
	service side = 2
)

// names are the hosts'.
var names = map[side]string{client: "web1", service: "db1"}

func (s side) other() side { return client + service - s }

// moment finds an event again.
type moment struct {
	time time.Duration
	sock uint64
	hook event.Hook
	cpu  uint32
}

func momentOf(e *event.Event) moment { return moment{e.Time, e.Sock, e.Hook, e.CPU} }

// cut is a run whose ends live on two hosts.
type cut struct {
	run
	nat   bool
	ends  []*conn.Connection // of the run on one machine
	sides map[*conn.Connection]side
	shift map[side]time.Duration // of the clocks
	of    map[moment]side
	ids   map[side]map[uint32]uint32 // PIDs and TIDs
	socks map[side]map[uint64]uint64
}

// cutRun says who lives where: whoever opens at one host, whoever accepts at the other.
func cutRun(r run, nat bool) *cut {
	x := &cut{run: r, nat: nat, sides: map[*conn.Connection]side{}, of: map[moment]side{},
		shift: map[side]time.Duration{client: 2*time.Hour + 3700*time.Millisecond, service: time.Hour},
		ids:   map[side]map[uint32]uint32{client: {}, service: {}}, socks: map[side]map[uint64]uint64{client: {}, service: {}}}
	j := conn.New(conn.Options{Hold: true})
	for _, e := range r.events {
		j.Add(e)
	}
	x.ends = j.Flush()
	slices.SortStableFunc(x.ends, func(a, b *conn.Connection) int { return cmp.Compare(a.First, b.First) })
	for _, c := range x.ends {
		switch {
		case c.Peer != nil && x.sides[c.Peer] != 0:
			x.sides[c] = x.sides[c.Peer].other()
		case c.Open == conn.OpenPassive, c.Open == conn.OpenUnknown && c.Local.Port() < c.Remote.Port():
			x.sides[c] = service
		default:
			x.sides[c] = client
		}
	}
	for _, c := range x.ends {
		for i := range c.Events {
			x.of[momentOf(&c.Events[i])] |= x.sides[c]
		}
	}
	for _, c := range x.ends {
		for i := range c.Elsewhere {
			e := &c.Elsewhere[i]
			// What the other end's kernel did for want of a socket, it did there.
			if e.Hook == event.HookSendReset || e.Hook == event.HookSynDrop {
				if m := momentOf(e); x.of[m] == 0 {
					x.of[m] = x.sides[c].other()
				}
			}
		}
	}
	return x
}

// sees says at which hosts an event is told.
func (x *cut) sees(e *event.Event) side {
	if s := x.of[momentOf(e)]; s != 0 {
		return s
	}
	if e.Sock == 0 && e.Has&event.HasTuple == 0 {
		return client | service // of a process
	}
	return service // a listener's
}

// id is a PID or TID as the host has it: two hosts count from the same number.
func (x *cut) id(s side, id uint32) uint32 {
	if id == 0 || event.Outside(id) {
		return id
	}
	if x.ids[s][id] == 0 {
		x.ids[s][id] = uint32(1000 + len(x.ids[s]))
	}
	return x.ids[s][id]
}

// sock is a socket's address likewise.
func (x *cut) sock(s side, sock uint64) uint64 {
	if sock == 0 {
		return 0
	}
	if x.socks[s][sock] == 0 {
		x.socks[s][sock] = 0xffff888000000000 + uint64(len(x.socks[s]))<<8
	}
	return x.socks[s][sock]
}

// moved is an address at a host: its own, or the other's as it sees it.
func moved(a netip.AddrPort, host byte, ports uint16) netip.AddrPort {
	if !a.IsValid() || a.Addr().IsUnspecified() {
		return a
	}
	to := netip.AddrFrom4([4]byte{198, 51, 100, host})
	if a.Addr().Is6() {
		to = netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 15: host})
	}
	port := a.Port()
	if port != 0 {
		port ^= ports
	}
	return netip.AddrPortFrom(to, port)
}

// at is an event as the host tells it.
func (x *cut) at(s side, e event.Event) event.Event {
	e.Time += x.shift[s]
	if e.Conn != 0 {
		e.Conn += uint64(x.shift[s])
	}
	e.Sock, e.Other = x.sock(s, e.Sock), x.sock(s, e.Other)
	e.PID, e.TID = x.id(s, e.PID), x.id(s, e.TID)
	if e.Hook == event.HookSignal {
		e.Arg2 = int32(x.id(s, uint32(e.Arg2)))
	}
	e.NetNS = min(e.NetNS, 4026531840)
	far, ports := byte(s.other()), uint16(0)
	if x.nat {
		far, ports = byte(10*s.other()), 0x1000*uint16(s)
	}
	e.Local, e.Remote = moved(e.Local, byte(s), 0), moved(e.Remote, far, ports)
	return e
}

// view is what of the run a host recorded. The zero value is all.
type view struct {
	only     func(event.Hook) bool // which hooks it had; nil: all of the run's
	from, to time.Duration         // since the run's first event; to 0: to the end
	lossy    bool                  // each tenth event was lost, and counted
}

// recording is what the host recorded.
func (x *cut) recording(t testing.TB, s side, v view) []byte {
	t.Helper()
	m := x.meta
	name := names[s]
	m.Host = &record.Host{ID: name + "-id", Boot: name + "-boot", Name: record.Text(name)}
	m.Offset += time.Duration(s) * 17 * time.Minute // nobody's clock is right
	if v.only != nil {
		m.Rungs = slices.Clone(m.Rungs)
		for i := range m.Rungs {
			if !v.only(m.Rungs[i].Hook) {
				m.Rungs[i].Rung = ""
			}
		}
	}
	var b bytes.Buffer
	w, err := record.NewWriter(&b, m)
	if err != nil {
		t.Fatal(err)
	}
	first, end := x.span()
	if end += 10 * time.Second; v.to != 0 {
		end = first + v.to
	}
	if err := w.Tick(record.Tick{Time: first + v.from + x.shift[s]}); err != nil {
		t.Fatal(err)
	}
	for i, e := range x.events {
		if v.lossy && i%10 == 3 {
			if x.sees(&e)&s != 0 {
				if err := w.Loss(record.Loss{From: e.Time + x.shift[s], Time: e.Time + x.shift[s], Lost: 1}); err != nil {
					t.Fatal(err)
				}
			}
			continue
		}
		if e.Time < first+v.from || e.Time > end || x.sees(&e)&s == 0 || v.only != nil && !v.only(e.Hook) {
			continue
		}
		if err := w.Event(x.at(s, e)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(record.End{Time: end + x.shift[s]}); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// span is when the run began and ended.
func (x *cut) span() (first, last time.Duration) {
	for i := range x.events {
		at := x.events[i].Time
		if first == 0 || at < first {
			first = at
		}
		last = max(last, at)
	}
	return first, last
}

func gather(t testing.TB, recordings ...[]byte) (all []*hosts.Trace) {
	t.Helper()
	for i, b := range recordings {
		traces, _, err := session.Gather(bytes.NewReader(b), fmt.Sprint("recording ", i))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, traces...)
	}
	return all
}

// elsewhere is an end, with its peer, on one machine that has other addresses: loopback
// proves more than a network does.
func (x *cut) elsewhere(c *conn.Connection) *conn.Connection {
	one := x.readdressed(c)
	if c.Peer != nil {
		one.Peer = x.readdressed(c.Peer)
		one.Peer.Peer = one
	}
	return one
}

func (x *cut) readdressed(c *conn.Connection) *conn.Connection {
	one, s := *c, x.sides[c]
	one.Local, one.Remote = moved(c.Local, byte(s), 0), moved(c.Remote, byte(s.other()), 0)
	one.Events, one.Elsewhere = slices.Clone(c.Events), slices.Clone(c.Elsewhere)
	for _, list := range [][]event.Event{one.Events, one.Elsewhere} {
		for i := range list {
			e := &list[i]
			e.Local, e.Remote = moved(e.Local, byte(s), 0), moved(e.Remote, byte(s.other()), 0)
		}
	}
	return &one
}

// facts are everything in a verdict that is a fact.
func facts(v *verdict.Verdict) string {
	number := func(n *uint64) string {
		if n == nil {
			return "-"
		}
		return fmt.Sprint(*n)
	}
	actor, half := "-", "-"
	if v.Actor != nil {
		actor = v.Actor.Comm
	}
	if v.HalfClose != nil {
		half = "told" // its length is of two clocks
	}
	return fmt.Sprintf("%s %s, ender %s, act %s/%d by %s, lost %s/%s/%s, bytes %s/%s/%s, saw %v, harmless %v, half-close %v, %s, TIME_WAIT %v %v",
		v.Class, v.Cause, v.Ender, v.Act, v.Signal, actor,
		number(v.Lost.Unread), number(v.Lost.Unsent), number(v.Lost.Unacked),
		number(v.Bytes.Sent), number(v.Bytes.Acked), number(v.Bytes.Received), v.AppSaw, v.Harmless, half, v.Confidence, v.TimeWait, v.Missing)
}

// joined are the ends of a cut run after the join, by what they were on one machine.
func (x *cut) joined(t testing.TB, recordings ...[]byte) (res *hosts.Result, at map[*conn.Connection]*hosts.Ending) {
	t.Helper()
	res = hosts.Join(gather(t, recordings...))
	type end struct {
		host string
		gen  uint64
	}
	got := map[end]*hosts.Ending{}
	for i := range res.Ends {
		e := &res.Ends[i]
		got[end{e.Conn.Host, e.Conn.Gen}] = e
	}
	at = map[*conn.Connection]*hosts.Ending{}
	for _, c := range x.ends {
		s := x.sides[c]
		if e := got[end{names[s], c.Gen + uint64(x.shift[s])}]; e != nil {
			at[c] = e
		}
	}
	return res, at
}

// due is the verdict of one machine that sees all.
func (x *cut) due(c *conn.Connection) verdict.Verdict {
	return verdict.Judge(x.elsewhere(c), verdict.ScopeOf(x.meta))
}

func (x *cut) where(c *conn.Connection) string {
	return fmt.Sprintf("%s %s: %v > %v %v", strings.TrimSuffix(x.kernel, ".tcpbye"), x.meta.Scenario, c.Local, c.Remote, c.Open)
}

// TestCut cuts the catalogue in two: each recording of each kernel becomes those of two
// hosts, with other addresses, clocks that are an hour apart, and equal socket addresses,
// network namespaces and PIDs. Joined again, each pair is found, no other is, and each
// verdict is what the one machine's was.
func TestCut(t *testing.T) {
	for _, nat := range []bool{false, true} {
		t.Run(fmt.Sprintf("nat=%v", nat), func(t *testing.T) {
			pairs, wrong, same, alone, asAlone := 0, 0, 0, 0, 0
			outcomes := map[hosts.Outcome]int{}
			for _, r := range catalogue(t) {
				x := cutRun(r, nat)
				_, at := x.joined(t, x.recording(t, client, view{}), x.recording(t, service, view{}))
				for _, c := range x.ends {
					e, want := at[c], x.due(c)
					if e == nil {
						t.Errorf("%s was not told of", x.where(c))
						continue
					}
					if c.Peer == nil {
						alone++
						if e.Conn.Peer != nil {
							wrong++
							t.Errorf("%s has a peer and had none", x.where(c))
						}
						switch {
						case facts(&want) == facts(&e.Verdict):
							asAlone++
						// What answered a SYN is found through a translation, too; what was dropped
						// without a look at its numbers is not.
						case !nat || e.Verdict.Confidence == verdict.Certain && len(e.Verdict.Refuted(&want)) > 0:
							t.Errorf("%s, of which one end is known:\n got %s\nwant %s", x.where(c), facts(&e.Verdict), facts(&want))
						}
						continue
					}
					pairs++
					if p := at[c.Peer]; p == nil || e.Conn.Peer != p.Conn {
						if e.Conn.Peer != nil {
							wrong++
						}
						t.Errorf("%s is not joined with its peer", x.where(c))
						continue
					}
					outcomes[e.Joint.Outcome]++
					if facts(&want) == facts(&e.Verdict) {
						same++
						continue
					}
					t.Errorf("%s, %s, %v:\n got %s\nwant %s", x.where(c), e.Joint.Outcome, e.Joint.Clock.By, facts(&e.Verdict), facts(&want))
				}
			}
			if outcomes[hosts.Disputed] > 0 {
				t.Errorf("%d ends are certain alone, and refuted", outcomes[hosts.Disputed])
			}
			t.Logf("%d ends of pairs, %d wrong pairs, %d with the one machine's verdict: %v; %d ends alone, %d with the one machine's verdict", pairs, wrong, same, outcomes, alone, asAlone)
		})
	}
}
