package hosts_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/hosts"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// spine are the hooks of a kernel without kprobes.
func spine(h event.Hook) bool {
	return slices.Contains([]event.Hook{event.HookSetState, event.HookDestroy, event.HookSendReset, event.HookSendActiveReset,
		event.HookReset, event.HookErrorReport, event.HookSignal, event.HookExec, event.HookExit}, h)
}

// checkSure: what is certain is what one machine that sees all says, or less.
func checkSure(t *testing.T, x *cut, recordings ...[]byte) (sure int, outcomes map[hosts.Outcome]int) {
	t.Helper()
	outcomes = map[hosts.Outcome]int{}
	_, at := x.joined(t, recordings...)
	for _, c := range x.ends {
		e := at[c]
		if e == nil {
			continue // its recording began later, or ended before
		}
		if e.Joint != nil {
			outcomes[e.Joint.Outcome]++
			// A hole at the other host takes nothing away.
			if a := &e.Joint.Alone; a.Confidence == verdict.Certain && e.Verdict.Confidence != verdict.Certain && e.Verdict.Cause == a.Cause && e.Verdict.Ender == a.Ender && e.Verdict.Act == a.Act {
				t.Errorf("%s was certain of %s alone, and is %s with the other host", x.where(c), a.Cause, e.Verdict.Confidence)
			}
		}
		if e.Verdict.Confidence != verdict.Certain {
			continue
		}
		sure++
		want := x.due(c)
		if e.Verdict.Class == verdict.Open && want.Class != verdict.Open {
			continue // so it was when the recording ended
		}
		if e.Joint == nil || e.Joint.Alone.Confidence == verdict.Certain && e.Joint.Alone.Cause == e.Verdict.Cause {
			continue // whatever is wrong with it is not of the join
		}
		if in := e.Verdict.Refuted(&want); len(in) > 0 {
			t.Errorf("%s is certain, and one machine refutes the %s:\n got %s\nwant %s", x.where(c), strings.Join(in, ", "), facts(&e.Verdict), facts(&want))
		}
	}
	return sure, outcomes
}

// TestHoles: one of the hosts, or both, have the tracepoints only, or lost events. What the
// other one is certain of stays, and nothing that is certain is wrong.
func TestHoles(t *testing.T) {
	poor, lossy := view{only: spine}, view{lossy: true}
	for _, views := range []struct {
		name            string
		client, service view
		least           int
	}{
		{"web1 has only tracepoints", poor, view{}, 900},
		{"db1 has only tracepoints", view{}, poor, 900},
		{"both have only tracepoints", poor, poor, 700},
		{"web1 lost events", lossy, view{}, 300},
		{"db1 lost events", view{}, lossy, 300},
	} {
		sure, all, ends := 0, map[hosts.Outcome]int{}, 0
		for _, r := range catalogue(t) {
			x := cutRun(r, true)
			n, outcomes := checkSure(t, x, x.recording(t, client, views.client), x.recording(t, service, views.service))
			sure += n
			for o, n := range outcomes {
				all[o] += n
				ends += n
			}
		}
		t.Logf("%s: %d ends joined, %d certain, %v", views.name, ends, sure, all)
		if sure < views.least || all[hosts.Disputed] > 0 || !views.client.lossy && !views.service.lossy && ends < 1174 {
			t.Errorf("%s: %d ends joined, %d certain, %v", views.name, ends, sure, all)
		}
	}
}

// TestUncovered: the recording of one host begins later, or ends earlier, than the other's.
// Nothing that is certain is wrong, and what it does not cover is said.
func TestUncovered(t *testing.T) {
	for _, short := range []side{client, service} {
		for _, part := range []float64{.4, .8} {
			for _, early := range []bool{true, false} {
				sure, all := 0, map[hosts.Outcome]int{}
				for _, r := range catalogue(t) {
					x := cutRun(r, true)
					first, last := x.span()
					at := time.Duration(part * float64(last-first))
					v := view{from: at}
					if early {
						v = view{to: at}
					}
					n, outcomes := checkSure(t, x, x.recording(t, short, v), x.recording(t, short.other(), view{}))
					sure += n
					for o, n := range outcomes {
						all[o] += n
					}
				}
				if early && all[hosts.Uncovered] == 0 || all[hosts.Disputed] > 0 {
					t.Errorf("%s's recording is cut at %.0f %%, early %v: %v", names[short], 100*part, early, all)
				}
				t.Logf("%s's recording is cut at %.0f %%, early %v: %d ends are certain, %v", names[short], 100*part, early, sure, all)
			}
		}
	}
}

// pick is the cut of one scenario.
func pick(t *testing.T, kernel, scenario string) *cut {
	t.Helper()
	for _, r := range catalogue(t) {
		if r.kernel == kernel+".tcpbye" && r.meta.Scenario == scenario {
			return cutRun(r, true)
		}
	}
	t.Fatalf("%s is not recorded on %s", scenario, kernel)
	return nil
}

// TestPath: what one end sent and the other never received is the path's doing, and what
// never left its host is not.
func TestPath(t *testing.T) {
	for scenario, want := range map[string]string{
		"user-timeout-ipv4": "500 bytes that web1 sent never reached the TCP of db1: they were lost on the way.",
		// The server is open still, and tells nothing of what it receives: the data may
		// have come, and its acknowledgements been lost.
		"retransmit-timeout-ipv4": "",
		"unsent-keepalive-ipv4":   "",
		"close-ipv4":              "",
		"close-unread-ipv4":       "",
	} {
		x := pick(t, "6.1", scenario)
		res, at := x.joined(t, x.recording(t, client, view{}), x.recording(t, service, view{}))
		var said []string
		for _, e := range at {
			for _, l := range e.Joint.Path {
				if said = append(said, l.String()); !strings.Contains(e.Verdict.Sentence, l.String()) {
					t.Errorf("%s: %q does not say so: %s", scenario, l, e.Verdict.Sentence)
				}
			}
		}
		slices.Sort(said)
		if got := strings.Join(slices.Compact(said), " "); got != want {
			t.Errorf("%s: %q, want %q", scenario, got, want)
		}
		if (res.Lost > 0) != (want != "") {
			t.Errorf("%s: %d connections with losses", scenario, res.Lost)
		}
	}
}

// TestOneHostTwice: two recordings of one host are of one host, and no connection counts
// twice.
func TestOneHostTwice(t *testing.T) {
	x := pick(t, "6.1", "close-ipv4")
	first, last := x.span()
	part := x.recording(t, client, view{to: (last - first) / 2})
	whole, other := x.recording(t, client, view{}), x.recording(t, service, view{})
	for _, list := range [][][]byte{{whole, part, other}, {part, other, whole}, {other, other, whole}} {
		res, _ := x.joined(t, list...)
		counts := map[string]int{}
		for _, h := range res.Hosts {
			counts[h.Name] = h.Connections
		}
		if len(res.Ends) != 2 || res.Joined != 1 || fmt.Sprint(counts) != "map[db1:1 web1:1]" {
			t.Errorf("%d ends, %d joined, %v", len(res.Ends), res.Joined, counts)
		}
		for _, e := range res.Ends {
			if e.Joint == nil || e.Joint.Outcome == hosts.Uncovered {
				t.Errorf("%v: the recording that tells less was taken", e.Conn.Local)
			}
		}
	}
}

// TestNames: two hosts of one name are told apart, and each process is of its end's host.
func TestNames(t *testing.T) {
	x := pick(t, "6.1", "close-unread-ipv4")
	traces := gather(t, x.recording(t, client, view{}), x.recording(t, service, view{}))
	for _, tr := range traces {
		tr.Host.Name = "localhost"
	}
	res := hosts.Join(traces)
	if len(res.Hosts) != 2 || res.Hosts[0].Name != "localhost" || res.Hosts[1].Name != "localhost#2" {
		t.Errorf("the hosts are %+v", res.Hosts)
	}
	for _, e := range res.Ends {
		if e.Conn.Owner == nil || e.Conn.Owner.Host != e.Conn.Host {
			t.Errorf("the owner of %v is %+v", e.Conn.Local, e.Conn.Owner)
		}
		if a := e.Verdict.Actor; a == nil || a.Comm != "server" || a.Host != "localhost#2" {
			t.Errorf("%v: the actor is %+v", e.Conn.Local, a)
		}
		if !strings.Contains(e.Verdict.Sentence, " on localhost#2)") {
			t.Errorf("%v: %s", e.Conn.Local, e.Verdict.Sentence)
		}
	}
}

// TestClock: the bounds hold the true offset, whichever end is told of.
func TestClock(t *testing.T) {
	by, wide := map[hosts.Source]int{}, 0
	for _, r := range catalogue(t) {
		x := cutRun(r, true)
		res, _ := x.joined(t, x.recording(t, client, view{}), x.recording(t, service, view{}))
		// The wall clock of the service is 17 minutes ahead of the client's, and CLOCK_MONOTONIC
		// another way apart.
		ahead := 17*time.Minute + x.shift[service] - x.shift[client]
		for _, e := range res.Ends {
			if e.Joint == nil {
				continue
			}
			c, want := e.Joint.Clock, ahead
			if e.Conn.Host == names[service] {
				want = -ahead
			}
			by[c.By]++
			// Over loopback a RST comes before its sending is told.
			const told = 5 * time.Millisecond
			if c.Least != nil && *c.Least > want+told || c.Most != nil && *c.Most < want-told || c.By == hosts.WallClocks {
				t.Errorf("%s %s: by %s, %v ahead, from %v (%s) to %v (%s), in truth %v", r.kernel, r.meta.Scenario, c.By, c.Ahead, c.Least, c.LeastBy, c.Most, c.MostBy, want)
			}
			if (c.Ahead - want).Abs() > 20*time.Millisecond {
				wide++
			}
		}
	}
	t.Logf("clocks set by %v; %d by more than 20 ms wrong", by, wide)
	if by[hosts.Connection] < 1000 {
		t.Error("hardly any by the connection itself")
	}
}

// TestHostile: whatever recordings hold, the join ends, and pairs no end twice.
func TestHostile(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	runs := catalogue(t)
	for range 300 {
		x := cutRun(runs[r.IntN(len(runs))], r.IntN(2) == 0)
		traces := gather(t, x.recording(t, client, view{}), x.recording(t, service, view{}))
		if r.IntN(3) == 0 {
			traces = append(traces, gather(t, x.recording(t, service, view{}))...)
		}
		for _, tr := range traces {
			switch r.IntN(6) {
			case 0:
				tr.From, tr.To = time.Duration(r.Int64()), time.Duration(r.Int64())
			case 1:
				tr.Offset = time.Duration(r.Uint64())
			case 2:
				tr.Host = hosts.Host{}
			case 3:
				tr.Strays = append(tr.Strays, hosts.Stray{Event: event.Event{Hook: event.HookSendReset, Has: event.HasSegment, Segment: event.Segment{Flags: event.SYN}}})
			}
			for i := range tr.Ends {
				c := tr.Ends[i].Conn
				for k := range c.Events {
					e := &c.Events[k]
					switch r.IntN(40) {
					case 0:
						e.Time = time.Duration(r.Uint64())
					case 1:
						e.SndUna, e.SndNxt, e.BytesAcked = r.Uint32(), r.Uint32(), r.Uint64()
					case 2:
						e.RcvNxt, e.BytesReceived = r.Uint32(), r.Uint64()
					case 3:
						e.Hook = event.Hook(r.IntN(40))
					case 4:
						e.State, e.ToState, e.Arg = event.State(r.IntN(14)), event.State(r.IntN(14)), int32(r.Uint32())
					}
				}
				if r.IntN(10) == 0 {
					c.Ended = time.Duration(r.Uint64())
				}
			}
		}
		res := hosts.Join(traces)
		for _, e := range res.Ends {
			if p := e.Conn.Peer; p != nil && p.Peer != e.Conn {
				t.Fatalf("%s: %v is the peer of one that has another", x.meta.Scenario, e.Conn.Local)
			}
			for _, ev := range e.Verdict.Evidence {
				_ = ev.Event()
			}
		}
	}
}

// TestStrangers: hosts that have nothing to do with each other, with the same addresses
// and ports, are not joined.
func TestStrangers(t *testing.T) {
	runs, n := catalogue(t), 0
	for i := range runs {
		a, b := runs[i], runs[(i+len(runs)/2)%len(runs)] // another kernel's
		x, y := cutRun(a, false), cutRun(b, false)
		traces := gather(t, x.recording(t, client, view{}), y.recording(t, service, view{}))
		for _, tr := range traces {
			for _, e := range tr.Ends {
				onePort(e.Conn.Local, &e.Conn.Local)
				onePort(e.Conn.Remote, &e.Conn.Remote)
			}
			for k := range tr.Strays {
				e := &tr.Strays[k].Event
				onePort(e.Local, &e.Local)
				onePort(e.Remote, &e.Remote)
			}
		}
		if res := hosts.Join(traces); res.Joined > 0 {
			t.Errorf("%s %s and %s %s: %d joined", a.kernel, a.meta.Scenario, b.kernel, b.meta.Scenario, res.Joined)
		} else {
			n += len(res.Ends)
		}
	}
	t.Logf("%d ends, none joined", n)
}

// onePort gives all connections the same ports.
func onePort(a netip.AddrPort, to *netip.AddrPort) {
	port := uint16(80)
	if last := a.Addr().AsSlice(); len(last) > 0 && last[len(last)-1] == byte(client) {
		port = 40000
	}
	*to = netip.AddrPortFrom(a.Addr(), port)
}

// TestThreeHosts: a proxy in the middle has one end of each of two connections.
func TestThreeHosts(t *testing.T) {
	front, back := pick(t, "6.1", "close-unread-ipv4"), pick(t, "6.1", "linger-zero-ipv4")
	traces := gather(t, front.recording(t, client, view{}), front.recording(t, service, view{}), back.recording(t, client, view{}), back.recording(t, service, view{}))
	for i, name := range []string{"web1", "proxy", "proxy", "db1"} {
		traces[i].Host = hosts.Host{ID: name, Boot: name, Name: name}
	}
	res := hosts.Join(traces)
	if got := fmt.Sprint(res.Hosts, res.Joined); got != "[{web1 1} {proxy 2} {db1 1}] 2" {
		t.Errorf("%s", got)
	}
	for _, e := range res.Ends {
		want := map[string]string{"web1": "proxy", "proxy": e.Conn.Peer.Host, "db1": "proxy"}[e.Conn.Host]
		if e.Conn.Peer.Host != want || e.Joint.Host != want || e.Conn.Host == want {
			t.Errorf("%s is joined with %s, and says %s", e.Conn.Host, e.Conn.Peer.Host, e.Joint.Host)
		}
	}
}
