package report

import (
	"bytes"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// TestRowsAreAlike: a row that is appended at once is the one that is made cell by
// cell, of each recorded end and in each width.
func TestRowsAreAlike(t *testing.T) {
	var ends []Judged
	for _, r := range recordedRuns(t) {
		for c, v := range verdict.JudgeAll(r.events, verdict.Scope{Missing: r.missing}) {
			ends = append(ends, Judged{Conn: c, Verdict: v})
		}
	}
	if len(ends) < 1000 {
		t.Fatalf("%d ends", len(ends))
	}
	// What a hostile or an unusual machine shows.
	for i := range 4 {
		x := ends[i*7]
		c := *x.Conn
		owner := conn.Process{PID: 1 << 22, Comm: []string{"a\x1b[31mb", "日本語のプロセス", "", "fifteen-letters"}[i]}
		c.Owner, x.Conn = &owner, &c
		n := uint64(1) << (10 * i)
		x.Verdict.Bytes = verdict.Bytes{Received: &n}
		ends = append(ends, x)
	}
	for _, width := range []int{0, 20, 40, 60, 80, 100, 120, 160, 200, 300} {
		for _, ascii := range []bool{false, true} {
			var fast, slow bytes.Buffer
			o := Options{Width: width, ASCII: ascii, Location: time.UTC}
			a, b := NewTable(&fast, o), NewTable(&slow, o)
			for _, x := range ends {
				if err := a.Brief(x.Conn, &x.Verdict); err != nil {
					t.Fatal(err)
				}
				if err := b.whole(x); err != nil {
					t.Fatal(err)
				}
			}
			if d := cmp.Diff(slow.String(), fast.String()); d != "" {
				t.Errorf("%d columns, ASCII %v: %s", width, ascii, d)
			}
		}
	}
}
