package report

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/record"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

var pageOut = flag.String("page", "", "write the page of 1,000 connections into this file, for a browser")

// recordedEnds are the ends of the recorded scenarios of every kernel.
func recordedEnds(t testing.TB) (all []Judged) {
	t.Helper()
	paths, err := filepath.Glob("../verdict/testdata/*.tcpbye")
	if err != nil || len(paths) < 4 {
		t.Fatalf("%d recordings: %v", len(paths), err)
	}
	for _, path := range paths {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		var j *conn.Joiner
		var meta record.Meta
		flush := func() {
			if j == nil {
				return
			}
			for _, c := range j.Flush() {
				all = append(all, Judged{Conn: c, Verdict: verdict.Judge(c, verdict.Scope{Missing: meta.Missing()})})
			}
		}
		err = record.Read(f, record.Handler{
			Meta: func(m record.Meta) error {
				flush()
				j, meta = conn.New(conn.Options{Hold: true}), m
				return nil
			},
			Event: func(e event.Event) error { j.Add(e); return nil },
		})
		if err != nil {
			t.Fatal(err)
		}
		flush()
	}
	return all
}

// TestThousand: a page of 1,000 connections, all of them told in full, is small
// enough to be mailed, and is all there.
func TestThousand(t *testing.T) {
	ends := recordedEnds(t)
	var b bytes.Buffer
	s := NewHTML(&b, Options{Clock: testClock, Location: time.UTC, Kernel: "6.1.0-39-amd64"})
	for s.total < 1000 {
		for _, j := range ends {
			// A repeat is another connection.
			if err := s.End(j); err != nil {
				t.Fatal(err)
			}
			if s.total == 1000 {
				break
			}
		}
	}
	s.held, s.order = nil, nil
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	page := b.Bytes()
	wellFormed(t, page)
	n := bytes.Count(page, []byte("<details"))
	t.Logf("%d connections, %d bytes", n, len(page))
	if n != 1000 || len(page) > 3_000_000 {
		t.Errorf("%d connections in %d bytes, want 1000 in 3 MB at most", n, len(page))
	}
	if *pageOut != "" {
		if err := os.WriteFile(*pageOut, page, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// TestPageIsClosed: what a process is called cannot act in the page, which runs no
// script but its own.
func TestPageIsClosed(t *testing.T) {
	j := hostile()
	evil := `"><script>alert(1)</script><img src=x onerror=alert(1)> javascript:x {{.}} ` + "\x1b[31m`'"
	j.Conn.Owner.Comm, j.Verdict.Sentence, j.Verdict.Advice, j.Scenario = evil, evil, evil, evil
	j.Verdict.AppSaw = []string{evil}
	j.Verdict.Cause = verdict.Cause(evil)
	page := string(shown(t, HTML, Options{Clock: testClock, Location: time.UTC, Kernel: evil}, j))
	wellFormed(t, []byte(page))
	if n := strings.Count(page, "<script"); n != 1 {
		t.Errorf("%d scripts", n)
	}
	if strings.Contains(page, "<img") || strings.Contains(page, "\x1b") {
		t.Error("a process's name is markup")
	}
	policy := regexp.MustCompile(`content="default-src (.*?)"`).FindStringSubmatch(page)
	if policy == nil || strings.Contains(policy[1], "unsafe") || strings.Count(policy[1], "sha256-") != 2 {
		t.Errorf("the policy is %q", policy)
	}
	// The hashes are those of what is in the page.
	for _, text := range []string{pageStyle, pageScript} {
		if text == "" || !strings.Contains(page, text) {
			t.Error("the page does not hold its own style or script as it was hashed")
		}
	}
}

// TestPageDrops: a page of too many connections shows those that did not end well,
// and says what it leaves out.
func TestPageDrops(t *testing.T) {
	var b bytes.Buffer
	s := NewHTML(&b, Options{Location: time.UTC})
	good := Judged{Conn: &conn.Connection{First: 1}, Verdict: verdict.Verdict{Class: verdict.Graceful, Cause: verdict.OrderlyClose}}
	bad := Judged{Conn: &conn.Connection{First: 1}, Verdict: verdict.Verdict{Class: verdict.Aborted, Cause: verdict.PathReset}}
	for range maxShown {
		if err := s.End(good); err != nil {
			t.Fatal(err)
		}
	}
	for range 7 {
		if err := s.End(bad); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	page := b.String()
	if n := strings.Count(page, `aborted path-reset`); n != 7 {
		t.Errorf("%d of 7 are shown", n)
	}
	if !strings.Contains(page, "7 more connections are counted above and not shown") {
		t.Error("the page does not say what it leaves out")
	}
}
