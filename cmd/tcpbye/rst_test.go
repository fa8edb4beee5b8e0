package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/record"
	"github.com/tcpbye/tcpbye/tracer/report"
	"github.com/tcpbye/tcpbye/tracer/session"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// recorded writes the runs of one scenario, of those that were recorded on a
// kernel, to a file of their own; what is played at the same time, later by
// apart for each.
func recorded(t *testing.T, apart time.Duration, scenarios ...string) string {
	t.Helper()
	f, err := os.Open("../../tracer/verdict/testdata/6.12.tcpbye")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	name := filepath.Join(t.TempDir(), "run.tcpbye")
	out, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	var w *record.Writer
	var last string
	found := map[string]bool{}
	var base, shift, newest time.Duration
	err = record.Read(f, record.Handler{
		Meta: func(m record.Meta) error {
			last = ""
			for _, s := range scenarios {
				if m.Scenario == s {
					last = s
				}
			}
			if last == "" {
				return nil
			}
			if found[last] = true; len(found) > 1 {
				shift, base = newest+apart, 0
			}
			if w != nil {
				return nil
			}
			m.Scenario = "" // a run of trace
			var err error
			w, err = record.NewWriter(out, m)
			return err
		},
		Event: func(e event.Event) error {
			if last == "" {
				return nil
			}
			if shift != 0 && base == 0 {
				base = e.Time
			}
			if base != 0 {
				e.Time += shift - base
				if e.Conn != 0 {
					e.Conn += uint64(shift - base)
				}
				e.Sock ^= uint64(len(found)) << 32
				if e.Sock == uint64(len(found))<<32 {
					e.Sock = 0
				}
			}
			newest = max(newest, e.Time)
			return w.Event(e)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range scenarios {
		if !found[s] {
			t.Fatalf("no recording of %s", s)
		}
	}
	if err := w.Close(record.End{}); err != nil {
		t.Fatal(err)
	}
	return name
}

// ran runs tcpbye.
func ran(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	status = run(args, environment{stdin: os.Stdin, stdout: &out, stderr: &err, getenv: func(string) string { return "" }})
	return status, out.String(), err.String()
}

func TestFailOn(t *testing.T) {
	unread := recorded(t, 0, "close-unread-ipv4")
	graceful := recorded(t, 0, "close-ipv4")
	check := recorded(t, 0, "reset-before-accept-ipv4")
	for _, x := range []struct {
		command, file string
		on            []string
		status        int
	}{
		{"trace", unread, []string{"aborted"}, 1},
		{"rst", unread, []string{"aborted"}, 1},
		{"rst", unread, []string{"close-unread"}, 1},
		{"rst", unread, []string{"timed-out,close-unread"}, 1},
		{"rst", unread, []string{"timed-out", "aborted"}, 1},
		{"rst", unread, []string{"timed-out,linger-zero"}, 0},
		{"trace", graceful, []string{"aborted,timed-out,refused,unknown"}, 0},
		{"trace", graceful, []string{"graceful"}, 1},
		{"trace", graceful, []string{"orderly-close"}, 1},
		// A health check is no failure, unless it is asked for by its name.
		{"trace", check, []string{"aborted"}, 0},
		{"rst", check, []string{"aborted"}, 0},
		{"rst", check, []string{"linger-zero"}, 1},
		{"trace", unread, []string{"rude"}, 2},
		{"trace", unread, []string{""}, 2},
	} {
		args := []string{x.command, "-r", x.file}
		for _, on := range x.on {
			args = append(args, "--fail-on", on)
		}
		status, _, stderr := ran(t, args...)
		if status != x.status {
			t.Errorf("%v: status %d, want %d: %s", args, status, x.status, stderr)
		}
		if x.status == 1 && !strings.Contains(stderr, "--fail-on "+strings.Join(x.on, ",")+": ") {
			t.Errorf("%v does not say why it fails: %s", args, stderr)
		}
	}
	// A filter chooses what can fail.
	if status, _, stderr := ran(t, "trace", "-r", unread, "--fail-on", "aborted", "--port", "1"); status != 0 {
		t.Errorf("what is not chosen fails: %d, %s", status, stderr)
	}
}

// TestRstHides: a health check is counted, not shown, until all is wanted.
func TestRstHides(t *testing.T) {
	check := recorded(t, 0, "reset-before-accept-ipv4")
	const hidden = "1 harmless reset, after all was said or of a health check, is not shown: --all shows it\n"
	status, stdout, _ := ran(t, "rst", "-r", check)
	if status != 0 || stdout != hidden {
		t.Errorf("%d: %s", status, stdout)
	}
	status, stdout, stderr := ran(t, "rst", "-r", check, "-o", "json")
	if status != 0 || stdout != "" || !strings.Contains(stderr, "tcpbye: "+hidden) {
		t.Errorf("%d: %s%s", status, stdout, stderr)
	}
	status, stdout, _ = ran(t, "rst", "-r", check, "--all")
	if status != 0 || strings.Contains(stdout, "--all") || !strings.Contains(stdout, "a health check or a scan, reset after ") {
		t.Errorf("%d: %s", status, stdout)
	}
	late := recorded(t, 0, "close-ipv4")
	if status, stdout, _ = ran(t, "rst", "-r", late, "--all"); status != 0 || stdout != "" {
		t.Errorf("a graceful ending without a reset is shown: %s", stdout)
	}
}

func TestRstJSON(t *testing.T) {
	_, stdout, stderr := ran(t, "rst", "-r", recorded(t, 0, "close-unread-ipv4"), "-o", "json")
	lines := strings.Split(strings.TrimSpace(stdout), "\n")
	if len(lines) != 2 {
		t.Fatalf("%d records of two ends: %s%s", len(lines), stdout, stderr)
	}
	for _, l := range lines {
		var r report.Record
		if err := json.Unmarshal([]byte(l), &r); err != nil {
			t.Fatal(err)
		}
		if r.Verdict.Cause != string(verdict.CloseUnread) || r.Age == nil || *r.Age <= 0 || r.Verdict.RetryWhy == nil || r.Verdict.Probe ||
			(r.Reset != nil) != (*r.Open == "active") {
			t.Errorf("%s", l)
		}
	}
}

// TestRstInterval: by the clock of a recording, the table comes in between too,
// when there is something new in it, and at the end.
func TestRstInterval(t *testing.T) {
	all := []string{"close-unread-ipv4", "disconnect-ipv4", "listener-close-ipv4"}
	file := recorded(t, time.Minute, all...)
	causes := func(args ...string) []string {
		t.Helper()
		status, stdout, stderr := ran(t, append([]string{"rst", "-r", file}, args...)...)
		if status != 0 {
			t.Fatalf("%d: %s", status, stderr)
		}
		var tables []string
		for l := range strings.Lines(stdout) {
			switch {
			case strings.HasPrefix(l, "COUNT "):
				tables = append(tables, "")
			case len(tables) > 0 && strings.Contains(l, "%  "):
				tables[len(tables)-1] += strings.Fields(l)[2] + " "
			}
		}
		return tables
	}
	for _, x := range []struct {
		args []string
		want []string
	}{
		{nil, []string{"listener-closed close-unread disconnect "}},
		{[]string{"--interval", "45s"}, []string{"close-unread ", "close-unread disconnect ", "listener-closed close-unread disconnect "}},
		{[]string{"--interval", "24h"}, []string{"listener-closed close-unread disconnect "}},
		{[]string{"--top", "1"}, []string{"listener-closed "}},
	} {
		if d := cmp.Diff(x.want, causes(x.args...)); d != "" {
			t.Errorf("%v: tables of (-want +got):\n%s", x.args, d)
		}
	}
	for _, bad := range [][]string{{"--top", "-1"}, {"--interval", "-1s"}, {"-o", "json", "--top", "3"}, {"-o", "json", "--interval", "3s"}, {"--remote", "example.org"}} {
		if status, _, _ := ran(t, append([]string{"rst", "-r", file}, bad...)...); status != 2 {
			t.Errorf("%v: status %d, want 2", bad, status)
		}
	}
}

// TestRstFromAfar reads what one host saw, on Linux 6.12, of a peer whose
// resets are forged: by a machine with the peer's TTL, one hop nearer, nine hops
// farther and with another TTL altogether, each with a text; and of a peer that
// closed after 2 s of silence, just before a request, and one that did not read.
func TestRstFromAfar(t *testing.T) {
	_, stdout, stderr := ran(t, "rst", "-r", "testdata/afar.tcpbye", "-o", "json")
	type reset struct {
		cause, retry, text, answers string
		ttl, handshake              uint8
		afterFin, idle              bool // for at least a second
	}
	var got []reset
	for l := range strings.Lines(stdout) {
		var r report.Record
		if err := json.Unmarshal([]byte(l), &r); err != nil {
			t.Fatal(err)
		}
		x := reset{cause: r.Verdict.Cause, ttl: *r.Reset.TTL, handshake: *r.Reset.HandshakeTTL, answers: *r.Reset.Answers,
			afterFin: r.Reset.AfterFin != nil, idle: *r.Idle >= 1000}
		if r.Verdict.Retry != nil {
			x.retry = *r.Verdict.Retry
		}
		if r.Reset.Text != nil {
			x.text = *r.Reset.Text
		}
		got = append(got, x)
	}
	const text = "blocked by policy\x1b[31m"
	want := []reset{
		{cause: "peer-abort", ttl: 64, handshake: 64, text: text, answers: "none", retry: "unsafe"},
		{cause: "peer-abort", ttl: 63, handshake: 64, text: text, answers: "none", retry: "unsafe"},
		{cause: "path-reset", ttl: 55, handshake: 64, text: text, answers: "none", retry: "unsafe"},
		{cause: "path-reset", ttl: 250, handshake: 64, text: text, answers: "none", retry: "unsafe"},
		{cause: "peer-gone", ttl: 64, handshake: 64, answers: "data", retry: "safe", afterFin: true, idle: true},
		{cause: "peer-abort", ttl: 64, handshake: 64, answers: "none"},
	}
	if d := cmp.Diff(want, got, cmp.AllowUnexported(reset{})); d != "" {
		t.Errorf("-want +got:\n%s%s", d, stderr)
	}
	_, stdout, _ = ran(t, "rst", "-r", "testdata/afar.tcpbye", "-v")
	for _, want := range []string{
		"This is what a keep-alive timeout looks like when it meets the next request on its way",
		"RST|ACK, TTL 55 (handshake 64), IP ID 4242 (handshake 0), window 1 (handshake 65160)",
		`"blocked by policy\x1b[31m"`,
	} {
		if !strings.Contains(strings.Join(strings.Fields(stdout), " "), want) {
			t.Errorf("%q is not in:\n%s", want, stdout)
		}
	}
}

// The closing line counts what was missed, and says nothing of what was not.
func TestClosing(t *testing.T) {
	for want, counts := range map[string]session.Counts{
		"5 seen, 4 shown, 1 filtered, 0 lost\n": {Events: 9, Seen: 5, Shown: 4, Filtered: 1},
		"5 seen, 5 shown, 0 filtered, 7 lost, 2 came too late, news of processes lost 3 times (some children may be missing)\n": {Seen: 5, Shown: 5, Lost: 7, Late: 2, News: 3},
	} {
		var b strings.Builder
		if closing(&b, counts); b.String() != want {
			t.Errorf("%q, want %q", b.String(), want)
		}
	}
}
