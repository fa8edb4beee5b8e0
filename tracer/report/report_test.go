package report

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

func TestCut(t *testing.T) {
	for _, c := range []struct {
		s    string
		n    int
		want string
	}{
		{"127.0.0.1:80", 12, "127.0.0.1:80"}, {"127.0.0.1:80", 9, "12…0.1:80"},
		{"[2001:db8::1]:443", 12, "[20…::1]:443"}, {"nocolon", 4, "noc…"}, {"x:y", 0, ""}, {"日本語:1", 5, "日…:1"},
	} {
		if got := cutMiddle(c.s, c.n, "…"); got != c.want || width(got) > max(c.n, 0) {
			t.Errorf("cutMiddle(%q, %d) = %q, want %q", c.s, c.n, got, c.want)
		}
	}
}

func TestShortNumbers(t *testing.T) {
	for n, want := range map[uint64]string{0: "0", 999: "999", 1000: "1k", 1234: "1.2k", 9949: "9.9k", 9960: "10k",
		88000: "88k", 472000: "472k", 999499: "999k", 999600: "1M", 3780000: "3.8M", 1 << 63: "9.2E"} {
		if got := shortNumber(n); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
	for d, want := range map[time.Duration]string{0: "0µs", 340 * time.Microsecond: "340µs", 210 * time.Millisecond: "210ms",
		62400 * time.Millisecond: "62.4s", 120 * time.Second: "120s", 17 * time.Minute: "17m", 3 * time.Hour: "3h", 120 * time.Hour: "5d", -1: "-"} {
		if got := shortDuration(d); got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
}

// keys lists an object's keys in their order, and those of the objects in it
// under their own key.
func keys(t *testing.T, line []byte) map[string][]string {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(line))
	all := map[string][]string{}
	var object func(name string)
	var value func(name string)
	object = func(name string) {
		for d.More() {
			k, err := d.Token()
			if err != nil {
				t.Fatal(err)
			}
			all[name] = append(all[name], k.(string))
			value(k.(string))
		}
		if _, err := d.Token(); err != nil {
			t.Fatal(err)
		}
	}
	value = func(name string) {
		tok, err := d.Token()
		if err != nil {
			t.Fatal(err)
		}
		switch tok {
		case json.Delim('{'):
			all[name] = nil
			object(name)
		case json.Delim('['):
			for d.More() {
				value(name)
			}
			if _, err := d.Token(); err != nil {
				t.Fatal(err)
			}
		}
	}
	value("")
	return all
}

func TestJSONKeys(t *testing.T) {
	a, _ := closeDemo()
	k := keys(t, shown(t, JSON, testOptions(), a))
	for name, want := range map[string]string{
		"":        "schema id peer_id family local remote netns open opened ended opener owner verdict lost bytes half_close_ms unanswered time_wait events scenario fin age_ms idle_ms reset connection",
		"owner":   "pid comm exe uid cgroup container ns_pid user",
		"verdict": "class cause ender act actor sentence advice app_saw harmless confidence missing signal retry retry_why probe unseen",
		"actor":   "pid tid comm stack ns_pid exe user container",
		"lost":    "unread unsent unacked",
		"bytes":   "sent acked received",
		"fin":     "local peer",
		"local":   "act signal pid comm acked",
	} {
		if got := strings.Join(k[name], " "); got != want {
			t.Errorf("keys of %q:\n got %s\nwant %s", name, got, want)
		}
	}
	if got := strings.Join(k["events"][:8], " "); got != "" && !strings.HasPrefix(got, "t_ns hook context pid tid comm state to_state") {
		t.Errorf("keys of events: %s", got)
	}
}

// What is not known is null, or empty, or a sign; never 0.
func TestUnknown(t *testing.T) {
	j := Judged{Conn: &conn.Connection{ID: "1"}, Verdict: verdict.Verdict{Class: verdict.Unknown, Cause: verdict.UnknownCause}}
	var r map[string]any
	if err := json.Unmarshal(shown(t, JSON, Options{}, j), &r); err != nil {
		t.Fatal(err)
	}
	for _, k := range []string{"peer_id", "family", "local", "remote", "netns", "open", "opened", "ended", "owner", "half_close_ms"} {
		if v, ok := r[k]; !ok || v != nil {
			t.Errorf("%s: %v (there: %v), want null", k, v, ok)
		}
	}
	for k, v := range r["lost"].(map[string]any) {
		if v != nil {
			t.Errorf("lost.%s: %v, want null", k, v)
		}
	}
	if _, there := r["scenario"]; there {
		t.Error("scenario outside a demo")
	}
	rows, err := csv.NewReader(bytes.NewReader(shown(t, CSV, Options{}, j))).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	for i, k := range rows[0] {
		switch k {
		case "id", "class", "cause", "harmless", "time_wait":
		default:
			if rows[1][i] != "" {
				t.Errorf("CSV %s: %q, want nothing", k, rows[1][i])
			}
		}
	}
	table := string(shown(t, Table, Options{Location: time.UTC}, j))
	if row := strings.Fields(strings.Split(table, "\n")[1]); row[1] != "-" || row[len(row)-1] != "?" {
		t.Errorf("table: %q", row)
	}
}

// textual are the formats that a terminal can show.
func textual() []Format {
	return slices.DeleteFunc(Formats(), Format.Binary)
}

// No sink lets a process's name, or anything else, act on a terminal.
func TestHostile(t *testing.T) {
	j := hostile()
	j.Scenario = "a\x1bb"
	j.Verdict.Advice = "x\x1b[0m\ny"
	j.Verdict.AppSaw = []string{"E\x07"}
	j.Verdict.Cause = "c\x1b"
	j.Conn.ID = "1\x1b\u202e"
	for _, f := range textual() {
		for _, ascii := range []bool{false, true} {
			for _, width := range []int{0, 80} {
				out := string(shown(t, f, Options{Clock: testClock, ASCII: ascii, Width: width, Verbose: true}, j))
				if !utf8.ValidString(out) {
					t.Errorf("%s: not UTF-8", f)
				}
				for _, r := range out {
					if r != '\n' && (r < ' ' || r == 0x7f || r >= 0x80 && r <= 0x9f || r == 0x202e) {
						t.Errorf("%s: %U reached the output:\n%q", f, r, out)
						break
					}
				}
			}
		}
	}
	var b strings.Builder
	s := NewResets(&b, testOptions())
	if err := errors.Join(s.End(j), s.Close()); err != nil {
		t.Fatal(err)
	}
	if strings.ContainsAny(b.String(), "\x1b\x07") {
		t.Errorf("resets: %q", b.String())
	}
}

// With colour the only escapes are this package's own.
func TestColorOnlyOurs(t *testing.T) {
	for _, f := range []Format{Table, Timeline, Sequence} {
		out := string(shown(t, f, Options{Clock: testClock, Color: true, Width: 100}, every()...))
		if !strings.Contains(out, "\x1b[") {
			t.Errorf("%s: no colour", f)
		}
		for {
			_, rest, ok := strings.Cut(out, "\x1b")
			if !ok {
				break
			}
			n := strings.IndexByte(rest, 'm')
			if n < 0 || strings.Trim(rest[:n], "[0123456789;") != "" {
				t.Fatalf("%s: an escape that is not SGR: %q", f, rest[:min(len(rest), 20)])
			}
			out = rest
		}
	}
}

type failing struct {
	after int // writes that work
	err   error
	n     int
}

func (w *failing) Write(p []byte) (int, error) {
	if w.n++; w.n > w.after {
		return 0, w.err
	}
	return len(p), nil
}

type short struct{}

func (short) Write(p []byte) (int, error) { return len(p) / 2, nil }

func TestWriteErrors(t *testing.T) {
	broken := errors.New("broken pipe")
	for _, f := range append(Formats(), "resets", "summary") {
		for after := range 4 {
			w := &failing{after: after, err: broken}
			sink := sinkOf(t, f, w)
			var err error
			for _, j := range every() {
				if err = sink.End(j); err != nil {
					break
				}
			}
			if cerr := sink.Close(); err == nil {
				err = cerr
			}
			if w.n > after && !errors.Is(err, broken) {
				t.Errorf("%s, write %d fails: the error is %v", f, after+1, err)
			}
			if w.n == 0 {
				t.Errorf("%s wrote nothing", f)
			}
			if w.n > after+1 {
				t.Errorf("%s went on writing after the error", f)
			}
		}
		sink := sinkOf(t, f, short{})
		var err error
		for _, j := range every() {
			err = errors.Join(err, sink.End(j))
		}
		if err = errors.Join(err, sink.Close()); !errors.Is(err, io.ErrShortWrite) {
			t.Errorf("%s: a short write: %v", f, err)
		}
	}
}

func sinkOf(t testing.TB, f Format, w io.Writer) Sink {
	t.Helper()
	switch f {
	case "resets":
		return NewResets(w, testOptions())
	case "summary":
		return &summarySink{NewSummary(testOptions()), w}
	}
	s, err := New(f, w, testOptions())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// summarySink makes a Summary a Sink that writes at its end.
type summarySink struct {
	*Summary
	w io.Writer
}

func (s *summarySink) Close() error { return s.Write(s.w) }

func TestUnknownFormat(t *testing.T) {
	if _, err := New("xml", io.Discard, Options{}); err == nil || !strings.Contains(err.Error(), "timeline") {
		t.Errorf("%v", err)
	}
}

func TestNoConnection(t *testing.T) {
	for _, f := range append(Formats(), "resets", "summary") {
		if err := sinkOf(t, f, io.Discard).End(Judged{}); err == nil {
			t.Errorf("%s takes an end without a connection", f)
		}
	}
}

func TestPairing(t *testing.T) {
	a, b := closeDemo()
	type shownPair struct{ left, right *conn.Connection }
	run := func(judged ...Judged) (got []shownPair) {
		p := pairing{show: func(l, r *Judged) error {
			s := shownPair{left: l.Conn}
			if r != nil {
				s.right = r.Conn
			}
			got = append(got, s)
			return nil
		}}
		for _, j := range judged {
			if err := p.End(j); err != nil {
				t.Fatal(err)
			}
		}
		if err := p.flush(); err != nil {
			t.Fatal(err)
		}
		if len(p.held) != 0 || len(p.order) != 0 {
			t.Errorf("%d held, %d in order after the end", len(p.held), len(p.order))
		}
		return got
	}
	for _, js := range [][]Judged{{a, b}, {b, a}} {
		if got := run(js...); len(got) != 1 || got[0] != (shownPair{a.Conn, b.Conn}) {
			t.Errorf("a pair: %v", got)
		}
	}
	if got := run(b); len(got) != 1 || got[0] != (shownPair{left: b.Conn}) {
		t.Errorf("a lonely end: %v", got)
	}
	if got := run(b, b, a); len(got) != 1 {
		t.Errorf("an end twice: %v", got)
	}
	var many []Judged
	for range maxHeld + 3 {
		many = append(many, Judged{Conn: &conn.Connection{Peer: &conn.Connection{}}})
	}
	if got := run(many...); len(got) != len(many) {
		t.Errorf("%d of %d lonely ends shown", len(got), len(many))
	}
}

// Each kind of sink takes a story whose verdict points nowhere.
func TestRaggedEvidence(t *testing.T) {
	a, b := closeDemo()
	a.Verdict.Evidence = []verdict.Evidence{{}, {Conn: a.Conn, Index: -1}, {Conn: a.Conn, Index: 1 << 20},
		{Conn: b.Conn, Elsewhere: true, Index: 99}, {Conn: &conn.Connection{}, Index: 0},
		find(a.Conn, event.HookDestroy, 0), find(a.Conn, event.HookCloseEntry, 0)}
	b.Verdict.Evidence = nil
	out := string(shown(t, Timeline, testOptions(), a, b))
	if strings.Count(out, "①") != 2 || !strings.Contains(out, "FIN_WAIT1 ①") && !strings.Contains(out, "FIN_WAIT1  ①") {
		t.Errorf("evidence is not marked where it is told:\n%s", out)
	}
}
