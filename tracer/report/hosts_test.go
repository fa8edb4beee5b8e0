package report

import (
	"strings"
	"testing"
	"time"

	"github.com/tcpbye/tcpbye/tracer/hosts"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// twoHosts is the demo close, as two hosts tell of it.
func twoHosts() (a, b Judged) {
	a, b = closeDemo()
	least, most := -3*time.Millisecond, 2*time.Millisecond
	for _, x := range []struct {
		j           *Judged
		host, other string
	}{{&a, "web1", "db\x1b1"}, {&b, "db\x1b1", "web1"}} {
		x.j.Conn.Host = x.host
		for _, who := range []*string{&x.j.Conn.Owner.Host} {
			*who = x.host
		}
		x.j.Joint = &hosts.Joint{Outcome: hosts.Refuted, Host: x.other,
			Alone: verdict.Verdict{Class: verdict.Aborted, Cause: verdict.PeerGone, Ender: verdict.Peer, Confidence: verdict.Likely},
			Clock: hosts.Clock{By: hosts.Connection, Ahead: -time.Millisecond, Least: &least, LeastBy: "FIN", Most: &most},
			Path:  []hosts.Loss{{From: "web1", To: "db\x1b1", What: hosts.LostData, Bytes: 9}, {From: "db\x1b1", To: "web1", What: hosts.LostAcks}}}
	}
	return a, b
}

// TestTwoHosts: every format takes ends of two hosts, and none lets a host's name do
// anything to a terminal.
func TestTwoHosts(t *testing.T) {
	schema := compileSchema(t)
	a, b := twoHosts()
	for _, j := range []Judged{a, b} {
		if err := validate(schema, jsonLine(t, j)); err != nil {
			t.Errorf("%v\n%s", err, jsonLine(t, j))
		}
	}
	for _, f := range Formats() {
		var out strings.Builder
		s, err := New(f, &out, Options{})
		if err != nil {
			t.Fatal(err)
		}
		a, b := twoHosts()
		for _, j := range []Judged{a, b} {
			if err := s.End(j); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		// A terminal gets no binary format, and folded stacks are added up over hosts.
		if text := out.String(); !f.Binary() && (!strings.Contains(text, "web1") && f != Folded || strings.Contains(text, "\x1b")) {
			t.Errorf("%s:\n%s", f, text)
		}
		if f != Timeline {
			continue
		}
		for _, want := range []string{"client  pid 185  on web1", `server  pid 184  on db\x1b1`,
			"Alone     web1 alone: aborted, peer-gone (likely), refuted",
			`Clocks    db\x1b1's minus web1's: -0.001000 s, between -0.003000 s (FIN) and +0.002000 s (other`} {
			if !strings.Contains(out.String(), want) {
				t.Errorf("%q is not in\n%s", want, &out)
			}
		}
	}
}

// TestJointWords: what became of a verdict, and how the clocks were set, is said for each
// outcome and source.
func TestJointWords(t *testing.T) {
	for outcome, want := range map[hosts.Outcome]string{
		hosts.Kept: "", hosts.Confirmed: "confirmed", hosts.Learned: "learned", hosts.Refuted: "refuted",
		hosts.Disputed: "with certainty, too", hosts.Uncovered: "does not cover",
	} {
		a, b := twoHosts()
		a.Joint.Outcome, b.Joint.Outcome = outcome, hosts.Kept
		lines := strings.Join(newStory(&a, &b, pen{}).alone(pen{}), "\n")
		if want == "" && lines != "" || !strings.Contains(lines, want) {
			t.Errorf("%s: %q", outcome, lines)
		}
		if err := validate(compileSchema(t), jsonLine(t, a)); err != nil {
			t.Error(err)
		}
	}
	d := time.Second
	for _, x := range []struct {
		clock hosts.Clock
		want  string
	}{
		{hosts.Clock{By: hosts.SameClock}, ""},
		{hosts.Clock{By: hosts.WallClocks}, "both are taken to be right"},
		{hosts.Clock{By: hosts.Neighbors, Ahead: d, Least: &d}, "+1.000000 s, at least +1.000000 s (other connections)"},
		{hosts.Clock{By: hosts.Connection, Ahead: d, Most: &d, MostBy: "RST"}, "+1.000000 s, at most +1.000000 s (RST)"},
	} {
		a, b := twoHosts()
		a.Joint.Clock = x.clock
		lines := strings.Join(newStory(&a, &b, pen{}).clocks(pen{}), "\n")
		if x.want == "" && lines != "" || !strings.Contains(lines, x.want) {
			t.Errorf("%+v: %q", x.clock, lines)
		}
		if err := validate(compileSchema(t), jsonLine(t, a)); err != nil {
			t.Error(err)
		}
	}
}
