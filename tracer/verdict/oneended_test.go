package verdict_test

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// afar puts an address on another machine: loopback has properties of its own.
func afar(a netip.AddrPort, host byte) netip.AddrPort {
	if !a.IsValid() || a.Addr().IsUnspecified() || a.Port() == 0 {
		return a
	}
	if a.Addr().Is4() {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, 100, host}), a.Port())
	}
	return netip.AddrPortFrom(netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 15: host}), a.Port())
}

// alone is what an end's own machine sees of it when the other end lives on
// another one.
func alone(c *conn.Connection) *conn.Connection {
	one := *c
	one.Peer = nil
	one.Local, one.Remote = afar(c.Local, 1), afar(c.Remote, 2)
	move := func(events []event.Event) []event.Event {
		events = slices.Clone(events)
		for i := range events {
			events[i].Local, events[i].Remote = afar(events[i].Local, 1), afar(events[i].Remote, 2)
		}
		return events
	}
	one.Events = move(c.Events)
	// What the other end's kernel did for want of a socket, it did there.
	one.Elsewhere = move(slices.DeleteFunc(slices.Clone(c.Elsewhere), func(e event.Event) bool {
		return e.Hook == event.HookSendReset || e.Hook == event.HookSynDrop
	}))
	return &one
}

// rungsOfViews are the views of every rung, each with what it misses.
func rungsOfViews() map[string]struct {
	of    view
	scope verdict.Scope
} {
	type rung = struct {
		of    view
		scope verdict.Scope
	}
	var missing []event.Hook
	for _, h := range event.Hooks() {
		if !slices.Contains(onTracepoints, h) {
			missing = append(missing, h)
		}
	}
	old := []event.Hook{event.HookSendReset}
	return map[string]rung{
		"every hook":          {func(e event.Event) (event.Event, bool) { return e, true }, verdict.Scope{}},
		"typed":               {typedView, verdict.Scope{Missing: missing}},
		"classic":             {classicView, verdict.Scope{Missing: missing}},
		"typed before 6.10":   {answersSockets(typedView), verdict.Scope{Missing: missing, Partial: old}},
		"classic before 6.10": {answersSockets(classicView), verdict.Scope{Missing: missing, Partial: old}},
		"locked down":         {lockedView, verdict.Scope{Partial: old}},
	}
}

// TestOneEnded cuts the catalogue in two: each end of each recording is judged on
// its own, as on a machine that the other end does not live on, by what each rung
// tells. What it is then certain of, no second end refutes.
func TestOneEnded(t *testing.T) {
	for name, rung := range rungsOfViews() {
		ends, same, certain, likely := 0, 0, 0, 0
		for _, path := range recordings(t) {
			for _, r := range readRuns(t, path) {
				both := map[uint64]judged{}
				for _, x := range r.judge() {
					both[x.c.Gen] = x
				}
				scope := rung.scope
				scope.Missing = slices.Concat(scope.Missing, r.missing)
				for c := range verdict.JudgeAll(r.seen(rung.of), scope) {
					x, ok := both[c.Gen]
					if !ok {
						continue
					}
					v := verdict.Judge(alone(c), scope)
					ends++
					if v.Cause == x.v.Cause {
						same++
					}
					switch v.Confidence {
					case verdict.Certain:
						certain++
					case verdict.Likely:
						likely++
					}
					if bad := strings.Join(v.Refuted(&x.v), ", "); bad != "" && v.Confidence == verdict.Certain {
						t.Errorf("%s, %s, %s: %v %v alone is certain of %s %s, ender %q, act %q, lost %v; both ends say %s %s, ender %q, act %q: %s differs", name, filepath.Base(path), r.scenario,
							c.Open, x.c.Local, v.Class, v.Cause, v.Ender, v.Act, lostText(v.Lost), x.v.Class, x.v.Cause, x.v.Ender, x.v.Act, bad)
					}
				}
			}
		}
		t.Logf("%s: of %d ends %d (%.0f %%) know the joint cause alone; %d are certain, %d likely", name, ends, same, 100*float64(same)/float64(ends), certain, likely)
	}
}

func lostText(l verdict.Lost) string {
	return fmt.Sprintf("%s/%s/%s", number(l.Unread), number(l.Unsent), number(l.Unacked))
}
