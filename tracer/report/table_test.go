package report

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// TestMidnight: where the run crosses midnight the date is told, once.
func TestMidnight(t *testing.T) {
	o := Options{Clock: Clock{Offset: time.Duration(time.Date(2026, 11, 25, 23, 59, 58, 0, time.UTC).UnixNano())}, Location: time.UTC, Width: 80}
	for name, sink := range map[string]func(*bytes.Buffer) Sink{
		"table": func(b *bytes.Buffer) Sink { return NewTable(b, o) },
		"rst":   func(b *bytes.Buffer) Sink { return NewResets(b, o) },
	} {
		var out bytes.Buffer
		s := sink(&out)
		for i := range 4 {
			c := &conn.Connection{Ended: time.Duration(i+1) * time.Second, Owner: &conn.Process{PID: uint32(i + 1), Comm: strings.Repeat("x", i+1)}}
			if err := s.End(Judged{Conn: c, Verdict: verdict.Verdict{Class: verdict.Aborted, Cause: verdict.PeerAbort}}); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		text := out.String()
		date, first, second := strings.Index(text, "── 2026-11-26 ──\n"), strings.Index(text, "23:59:59"), strings.Index(text, "00:00:00")
		if strings.Count(text, "2026-") != 1 || !(first >= 0 && first < date && date < second) {
			t.Errorf("%s: the date does not stand where it changes:\n%s", name, text)
		}
	}
}

// TestSentences: with Verbose the sentence stands under its row, and is no wider than
// the terminal.
func TestSentences(t *testing.T) {
	a, b := closeDemo()
	var out bytes.Buffer
	o := testOptions()
	o.Verbose = true
	s := NewTable(&out, o)
	for _, j := range []Judged{a, b} {
		if err := s.End(j); err != nil {
			t.Fatal(err)
		}
	}
	flat := strings.Join(strings.Fields(out.String()), " ")
	for _, j := range []Judged{a, b} {
		if j.Verdict.Sentence == "" || !strings.Contains(flat, j.Verdict.Sentence) {
			t.Errorf("without %q:\n%s", j.Verdict.Sentence, &out)
		}
	}
	for l := range strings.Lines(out.String()) {
		if w := width(strings.TrimSuffix(l, "\n")); w > o.Width {
			t.Errorf("a line of %d columns: %q", w, l)
		}
	}
}

// TestCutHost: of an address both ends are kept, the last the longer: there hosts of one
// network differ.
func TestCutHost(t *testing.T) {
	for _, tt := range []struct {
		addr string
		n    int
	}{
		{"[2001:db8:85a3::8a2e:370:7334]:443", 21},
		{"[2001:db8:85a3::8a2e:370:7334]:443", 40},
		{"10.20.30.40:51544", 13},
		{"[fe80::1]:1", 4},
	} {
		got := cutAddr(tt.addr, tt.n, "…")
		if width(got) > tt.n {
			t.Errorf("%s in %d columns takes %d: %s", tt.addr, tt.n, width(got), got)
		}
		tail := tt.addr[strings.LastIndex(tt.addr, ":"):]
		if !strings.HasSuffix(got, tail) {
			t.Errorf("%s in %d columns is %s: its port is gone", tt.addr, tt.n, got)
		}
	}
	a, b := cutAddr("[2001:db8:85a3::8a2e:370:7334]:443", 21, "…"), cutAddr("[2001:db8:85a3::8a2e:370:7335]:443", 21, "…")
	if a == b {
		t.Errorf("two hosts are the same: %s", a)
	}
}

// TestFleeting: a short story's times tell its steps apart.
func TestFleeting(t *testing.T) {
	st := &story{rows: []row{{at: 0}, {at: 312 * time.Microsecond}}}
	if got := st.stamp(312 * time.Microsecond); got != "0.000312" {
		t.Errorf("a time of a short story is %s", got)
	}
	st.rows = append(st.rows, row{at: time.Second})
	if got := st.stamp(312 * time.Microsecond); got != "0.000" {
		t.Errorf("a time of a long story is %s", got)
	}
}
