package rollout_test

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/record"
	"github.com/tcpbye/tcpbye/tracer/rollout"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

var update = flag.Bool("update", false, "write the outcomes of the recordings anew")

// judged is an end and its verdict.
type judged struct {
	c *conn.Connection
	v verdict.Verdict
}

// recordings calls f with the judged ends of each recorded scenario of a kernel.
func recordings(t *testing.T, kernel string, f func(scenario string, ends []judged)) {
	t.Helper()
	r, err := os.Open("../verdict/testdata/" + kernel + ".tcpbye")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var meta record.Meta
	var join *conn.Joiner
	flush := func() {
		if join == nil {
			return
		}
		var ends []judged
		for _, c := range join.Flush() {
			ends = append(ends, judged{c, verdict.Judge(c, verdict.ScopeOf(meta))})
		}
		f(meta.Scenario, ends)
	}
	if err := record.Read(r, record.Handler{
		Meta: func(m record.Meta) error {
			flush()
			meta, join = m, conn.New(conn.Options{Hold: true})
			return nil
		},
		Event: func(e event.Event) error { join.Add(e); return nil },
	}); err != nil {
		t.Fatal(err)
	}
	flush()
}

func everything(*conn.Connection) bool { return true }

func line(s rollout.Summary) string {
	var all []string
	for _, g := range s.Groups {
		all = append(all, strings.TrimSpace(fmt.Sprintf("%d %s %s(%s, %s)", g.Connections, g.Outcome, strings.TrimPrefix(string(g.Why)+" ", " "), g.Cause, g.Retry)))
	}
	return strings.Join(all, "; ")
}

// TestOutcomes holds what a rollout makes of every ending of the catalogue, and that
// neither the order of the ends nor their number changes it.
func TestOutcomes(t *testing.T) {
	var b strings.Builder
	recordings(t, "6.1", func(scenario string, ends []judged) {
		forth, back := rollout.New(rollout.Options{Mine: everything}), rollout.New(rollout.Options{Mine: everything})
		for i := range ends {
			forth.End(ends[i].c, &ends[i].v)
			x := ends[len(ends)-1-i]
			back.End(x.c, &x.v)
		}
		one, two := forth.Sum(rollout.Trigger{}), back.Sum(rollout.Trigger{})
		if one.Total() != two.Total() || one.Cut != two.Cut || one.Request != two.Request || one.Response != two.Response {
			t.Errorf("%s: in one order %+v, in the other %+v", scenario, one, two)
		}
		if n := one.Drained + one.Cut + one.Left + one.Failed + one.Unsure + one.Open; n != one.Total() {
			t.Errorf("%s: %d outcomes of %d connections", scenario, n, one.Total())
		}
		fmt.Fprintf(&b, "%s: %s\n", scenario, line(one))
	})
	path := filepath.Join("testdata", "outcomes.txt")
	if *update {
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), b.String()); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func at[T any](x T) *T { return &x }

// served is the service's end of a connection.
func served(id string, opened, ended time.Duration) *conn.Connection {
	return &conn.Connection{ID: id, Open: conn.OpenPassive, Opened: opened, Ended: ended, Last: ended,
		Local: netip.MustParseAddrPort("10.0.0.1:80"), Remote: netip.MustParseAddrPort("10.0.0.2:999"),
		Owner: &conn.Process{PID: 7, Comm: "app", Ancestors: []uint32{5, 1}}}
}

func graceful() *verdict.Verdict {
	zero := at(uint64(0))
	return &verdict.Verdict{Class: verdict.Graceful, Cause: verdict.OrderlyClose, Ender: verdict.LocalProcess, Act: verdict.ActClose,
		Confidence: verdict.Certain, Lost: verdict.Lost{Unread: zero, Unsent: zero, Unacked: zero}}
}

// TestWindow: what had ended before the beginning is not counted; what was open then,
// or opened later, is; and the drain ends with the last of those that were open.
func TestWindow(t *testing.T) {
	const s = time.Second
	r := rollout.New(rollout.Options{Mine: func(c *conn.Connection) bool { return c.Owner != nil && c.Owner.PID == 7 }})
	before, then, later := served("1", 1*s, 9*s), served("2", 1*s, 12*s), served("3", 11*s, 20*s)
	for _, c := range []*conn.Connection{before, then, later} {
		r.End(c, graceful())
	}
	other := served("4", 11*s, 12*s)
	other.Owner = &conn.Process{PID: 8}
	r.End(other, graceful())
	// Refused where the service was, and elsewhere.
	for id, port := range map[string]string{"5": "10.0.0.1:80", "6": "10.0.0.1:81"} {
		refused := &conn.Connection{ID: id, Open: conn.OpenActive, Opened: 13 * s, Ended: 13 * s, Remote: netip.MustParseAddrPort(port), Owner: &conn.Process{PID: 9}}
		r.End(refused, &verdict.Verdict{Class: verdict.Refused, Cause: verdict.PortClosed, Ender: verdict.PeerKernel})
	}
	got := r.Sum(rollout.Trigger{At: 10 * s, Kind: rollout.TriggerSignal})
	if got.OpenThen != 1 || got.Opened != 2 || got.Drained != 2 || got.Cut != 1 || got.Safe != 1 || got.Drain == nil || *got.Drain != 2*s {
		t.Errorf("%+v", got)
	}
	if !r.Knows(7) || !r.Knows(5) || r.Knows(1) || r.Knows(8) {
		t.Error("the processes of the service are not those that it had")
	}
	r.Forget(10 * s)
	if r.Rows() != 4 {
		t.Errorf("%d rows are left", r.Rows())
	}
}

// TestDied: a process that dies right after the last bytes may have been at work.
func TestDied(t *testing.T) {
	for _, x := range []struct {
		act  verdict.Act
		idle *time.Duration
		got  uint64
		want rollout.Outcome
	}{
		{verdict.ActKilled, at(10 * time.Millisecond), 5, rollout.Unsure},
		{verdict.ActExit, nil, 5, rollout.Unsure},
		{verdict.ActKilled, at(time.Second), 5, rollout.Drained},
		{verdict.ActKilled, at(time.Duration(0)), 0, rollout.Drained},
		{verdict.ActClose, at(time.Duration(0)), 5, rollout.Drained},
	} {
		r := rollout.New(rollout.Options{Mine: everything})
		v := graceful()
		v.Act, v.Idle, v.Bytes = x.act, x.idle, verdict.Bytes{Received: &x.got, Sent: &x.got}
		r.End(served("1", 1, 2), v)
		sum := r.Sum(rollout.Trigger{})
		if len(sum.Groups) != 1 || sum.Groups[0].Outcome != x.want {
			t.Errorf("%s, idle %v, %d bytes: %+v, want %s", x.act, x.idle, x.got, sum.Groups, x.want)
		}
	}
}

func TestPasses(t *testing.T) {
	for _, x := range []struct {
		s    rollout.Summary
		most int
		want rollout.Gate
	}{
		{rollout.Summary{}, 0, rollout.GateUnsure}, // nothing was looked at
		{rollout.Summary{Opened: 1}, 0, rollout.GatePassed},
		{rollout.Summary{OpenThen: 1}, 0, rollout.GatePassed},
		{rollout.Summary{Opened: 1, Cut: 1}, 0, rollout.GateCut},
		{rollout.Summary{Opened: 1, Cut: 1}, 1, rollout.GatePassed},
		{rollout.Summary{Opened: 1, Unsure: 1}, 0, rollout.GateUnsure},
		{rollout.Summary{Opened: 1, Unsure: 1}, 1, rollout.GatePassed},
		{rollout.Summary{Opened: 3, Cut: 2, Unsure: 1}, 1, rollout.GateCut},
		{rollout.Summary{Opened: 1, Dropped: 1}, 9, rollout.GateUnsure},
		{rollout.Summary{Opened: 1, EventsLost: 1}, 9, rollout.GateUnsure},
		{rollout.Summary{Opened: 1, Cut: 1, EventsLost: 1}, 0, rollout.GateCut},
		{rollout.Summary{OpenThen: 1, Open: 1, Pending: 1}, 0, rollout.GateUnsure},
		{rollout.Summary{OpenThen: 2, Open: 1, Pending: 1, Cut: 1}, 1, rollout.GateUnsure},
		{rollout.Summary{Opened: 1, Open: 1}, 0, rollout.GatePassed}, // of the new processes
	} {
		if got := x.s.Passes(x.most); got != x.want {
			t.Errorf("%+v with at most %d: %s, want %s", x.s, x.most, got, x.want)
		}
	}
	r := rollout.New(rollout.Options{Mine: everything, Max: 1})
	r.End(served("1", 1, 2), graceful())
	r.End(served("2", 1, 2), graceful())
	if s := r.Sum(rollout.Trigger{}); s.Dropped != 1 || s.Total() != 1 {
		t.Errorf("%+v", s)
	}
}

// TestPending: what was open when it began and still is may yet be cut; what was opened
// later is the new processes'.
func TestPending(t *testing.T) {
	r := rollout.New(rollout.Options{Mine: everything})
	open := &verdict.Verdict{Class: verdict.Open, Cause: "still-open"}
	for id, opened := range map[string]time.Duration{"before": 0, "then": 1, "later": 20} {
		r.End(served(id, opened, 0), open)
	}
	s := r.Sum(rollout.Trigger{At: 10, Kind: rollout.TriggerSignal})
	if s.Open != 3 || s.Pending != 2 || s.Passes(1) != rollout.GateUnsure || s.Passes(2) != rollout.GatePassed {
		t.Errorf("%+v", s)
	}
}

// TestLossy: where events were lost, a FIN does not say that nothing was in flight.
func TestLossy(t *testing.T) {
	for _, x := range []struct {
		lossy      bool
		confidence verdict.Confidence
		want       rollout.Outcome
	}{
		{false, verdict.Likely, rollout.Drained},
		{true, verdict.Certain, rollout.Drained},
		{true, verdict.Likely, rollout.Unsure},
		{true, verdict.NotKnown, rollout.Unsure},
	} {
		r := rollout.New(rollout.Options{Mine: everything})
		c, v := served("1", 1, 2), graceful()
		c.Lossy, v.Confidence = x.lossy, x.confidence
		r.End(c, v)
		if s := r.Sum(rollout.Trigger{}); len(s.Groups) != 1 || s.Groups[0].Outcome != x.want {
			t.Errorf("lossy %v, %s: %+v, want %s", x.lossy, x.confidence, s.Groups, x.want)
		}
	}
}
