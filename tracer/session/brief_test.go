package session_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/record"
	"github.com/tcpbye/tcpbye/tracer/report"
	"github.com/tcpbye/tcpbye/tracer/session"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// TestBriefRows: a table of brief verdicts, whose connections use each other's room,
// shows what one of whole verdicts does.
func TestBriefRows(t *testing.T) {
	names, err := filepath.Glob("../verdict/testdata/*.tcpbye")
	if err != nil || len(names) == 0 {
		t.Fatal(names, err)
	}
	for _, name := range names {
		raw, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, half := range []bool{false, true} { // with a filter, one end may wait for the other
			table := func(brief bool) string {
				var out bytes.Buffer
				sink := report.NewTable(&out, report.Options{Width: 200, Location: time.UTC})
				_, err := session.Replay(bytes.NewReader(raw), func(record.Meta) (session.Config, error) {
					c := session.Config{Brief: brief, Show: func(c *conn.Connection, v verdict.Verdict) error {
						return sink.End(report.Judged{Conn: c, Verdict: v})
					}}
					if half {
						c.Keep = func(c *conn.Connection, v verdict.Verdict) bool { return c.Open == conn.OpenPassive }
					}
					return c, nil
				})
				if err != nil {
					t.Fatal(err)
				}
				return out.String()
			}
			want, got := table(false), table(true)
			if len(want) < 10_000 {
				t.Fatalf("%s: %d bytes of a table", name, len(want))
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("%s, one end alone %v: %s", name, half, d)
			}
		}
	}
}
