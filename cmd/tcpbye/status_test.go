package main

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/tracer/session"
)

// TestStatusLine: the line stands below what is written, comes back after it, is never
// wider than the terminal, and is gone in the end.
func TestStatusLine(t *testing.T) {
	master, slave := terminal(t, 40)
	defer slave.Close()
	got := watch(master)
	s := newStatusLine(slave)
	rows := s.writer(slave)
	s.open.Store(&openCount{chosen: 3, all: 214, processes: 9})
	s.counts.Store(&session.Counts{Seen: 5, Shown: 2, Filtered: 3})
	s.said = time.Time{}
	s.tick(rows)
	const line = "watching 3 of 214 open connections, 5 en" // 39 columns of it
	at := got.wait(t, line[:39], 0)
	if strings.Contains(got.String(), line) {
		t.Error("the line is as wide as the terminal, which would break it")
	}
	if _, err := io.WriteString(rows, "a row\n"); err != nil {
		t.Fatal(err)
	}
	at = got.wait(t, "\r\x1b[Ka row\r\n"+line[:39], at)
	s.end()
	got.wait(t, "\r\x1b[K", at)
	if _, err := io.WriteString(rows, "another\n"); err != nil {
		t.Fatal(err)
	}
	got.wait(t, "\x1b[Kanother\r\n", at)
	if text := s.text(true); !strings.HasSuffix(text, "5 ended, 2 shown, ^C stops") {
		t.Errorf("it says %q", text)
	}
}

// TestStatusElsewhere: where standard error is no terminal there is no line, but the
// counts are said to whoever asks by SIGUSR1.
func TestStatusElsewhere(t *testing.T) {
	var out bytes.Buffer
	s := newStatusLine(&out)
	if s.writer(&out) != io.Writer(&out) {
		t.Error("what is no terminal is written to in another way")
	}
	s.counts.Store(&session.Counts{Seen: 5, Shown: 2, Filtered: 3})
	s.said = time.Time{}
	s.tick(&out)
	if out.Len() > 0 {
		t.Errorf("it says %q", &out)
	}
	stop := s.onSignal()
	defer stop()
	if err := unix.Kill(unix.Getpid(), unix.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(hang); out.Len() == 0 && time.Now().Before(end); {
		s.tick(&out)
	}
	if out.String() != "tcpbye: 5 seen, 2 shown, 3 filtered, 0 lost\n" {
		t.Errorf("it says %q", &out)
	}
}
