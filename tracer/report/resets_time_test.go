package report

import (
	"bytes"
	"net/netip"
	"testing"
	"time"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// TestResetsAreOfTheirTime: what is shown depends on the endings and their times,
// and not on how often the time is told between them: a replay says the same.
func TestResetsAreOfTheirTime(t *testing.T) {
	show := func(step time.Duration) string {
		var out bytes.Buffer
		s := NewResets(&out, Options{Width: 100, Location: time.UTC})
		now := time.Duration(0)
		tell := func(to time.Duration) {
			for ; step > 0 && now < to; now += step {
				if err := s.Tick(min(now, to)); err != nil {
					t.Fatal(err)
				}
			}
			now = to
			if err := s.Tick(to); err != nil {
				t.Fatal(err)
			}
		}
		for i, at := range []time.Duration{1, 2, 3, 4, 13, 14, 15, 40, 41, 200} {
			at *= time.Second
			tell(at + 700*time.Millisecond) // it is complete a little later than it ended
			c := &conn.Connection{ID: string(rune('a' + i)), Family: event.IPv4, Opened: at - time.Second, Ended: at,
				Local: netip.MustParseAddrPort("10.0.0.1:5000"), Remote: netip.MustParseAddrPort([]string{"10.0.0.2:80", "10.0.0.3:80"}[i%2]), Open: conn.OpenActive}
			if err := s.End(Judged{Conn: c, Verdict: verdict.Verdict{Class: verdict.Aborted, Cause: verdict.PeerAbort}}); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	want := show(0)
	if n := bytes.Count([]byte(want), []byte(" again")); n < 4 {
		t.Fatalf("%d lines of repeats:\n%s", n, want)
	}
	for _, step := range []time.Duration{30 * time.Millisecond, time.Second, 7 * time.Second, time.Minute} {
		if got := show(step); got != want {
			t.Errorf("told every %v:\n%s\nwant:\n%s", step, got, want)
		}
	}
}
