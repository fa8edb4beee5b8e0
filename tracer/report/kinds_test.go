package report

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// aborted is an end that was reset.
func aborted(n int, local, remote string, open conn.Open) Judged {
	at := time.Duration(n+1) * time.Second
	c := &conn.Connection{ID: fmt.Sprint(n), Local: netip.MustParseAddrPort(local), Remote: netip.MustParseAddrPort(remote),
		Open: open, First: at - time.Second, Ended: at, Owner: &conn.Process{PID: uint32(100 + n), Comm: "app"}}
	if open != conn.OpenUnknown {
		c.Opened = c.First
	}
	return Judged{Conn: c, Verdict: verdict.Verdict{Class: verdict.Aborted, Cause: verdict.PeerAbort, Ender: verdict.Peer, Confidence: verdict.Likely}}
}

// TestRepeatsAreOneLine: endings of one kind are one block, also where it is not
// known which of the ports is the service's, whichever end tells of them, and
// whether or not the other end lives on.
func TestRepeatsAreOneLine(t *testing.T) {
	pair := func(n int, lives bool) []Judged {
		a := aborted(n, fmt.Sprintf("10.0.0.1:%d", 33000+n), "10.0.0.1:43211", conn.OpenUnknown)
		b := aborted(n, "10.0.0.1:43211", fmt.Sprintf("10.0.0.1:%d", 33000+n), conn.OpenUnknown)
		b.Conn.Owner = &conn.Process{PID: 9, Comm: "srv"}
		a.Conn.Peer, b.Conn.Peer = b.Conn, a.Conn
		if lives {
			b.Conn.Ended = 0
			return []Judged{a, b}
		}
		if n%2 == 1 {
			a.Verdict.Confidence = verdict.Certain // now this end tells, and now that
		} else {
			b.Verdict.Confidence = verdict.Certain
		}
		return []Judged{a, b}
	}
	for _, x := range []struct {
		name string
		end  func(n int) []Judged
		head string
	}{
		{"a service elsewhere, its port the higher one", func(n int) []Judged {
			return []Judged{aborted(n, fmt.Sprintf("10.0.0.1:%d", 33000+n), "10.0.0.7:43211", conn.OpenUnknown)}
		}, " → 10.0.0.7:43211   "},
		{"a service here, its port the higher one", func(n int) []Judged {
			return []Judged{aborted(n, "10.0.0.1:43211", fmt.Sprintf("10.0.0.7:%d", 33000+n), conn.OpenUnknown)}
		}, "10.0.0.7 → :43211 (app/1"},
		{"both here", func(n int) []Judged { return pair(n, false) }, " → :43211 (srv/9)   "},
		{"both here, and one lives on", func(n int) []Judged { return pair(n, true) }, " → :43211 (srv/9)   "},
	} {
		t.Run(x.name, func(t *testing.T) {
			var all []Judged
			for n := range 400 {
				all = append(all, x.end(n)...)
			}
			out := toldOf(t, Options{Location: time.UTC}, all...)
			if n := strings.Count(out, "  Who "); n != 1 {
				t.Errorf("%d blocks:\n%.2000s", n, out)
			}
			again := out[strings.LastIndex(out, " again"):]
			if !strings.Contains(again, "×400") && !strings.Contains(again, "x400") {
				t.Errorf("not all were counted: %s", again)
			}
			if line := out[strings.LastIndex(out[:strings.LastIndex(out, " again")], "\n"):]; !strings.Contains(line, x.head) {
				t.Errorf("%q is not in %.200s", x.head, line)
			}
		})
	}
}
