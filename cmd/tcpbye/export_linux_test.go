package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// heard collects what a program writes, and tells when a text was in it.
type heard struct {
	mu   sync.Mutex
	text bytes.Buffer
	came chan struct{}
}

func newHeard() *heard { return &heard{came: make(chan struct{}, 1)} }

func (h *heard) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	select {
	case h.came <- struct{}{}:
	default:
	}
	return h.text.Write(p)
}

func (h *heard) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.text.String()
}

func (h *heard) until(t *testing.T, text string) {
	t.Helper()
	limit := time.After(hang)
	for !strings.Contains(h.String(), text) {
		select {
		case <-h.came:
		case <-limit:
			t.Fatalf("it does not say %q: %s", text, h)
		}
	}
}

// free is a port that nobody uses.
func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

func served(port string) bool {
	resp, err := http.Get("http://127.0.0.1:" + port + "/metrics")
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return err == nil && resp.StatusCode == http.StatusOK && bytes.Contains(b, []byte("tcpbye_build_info"))
}

// TestReload: SIGHUP changes the filters, where it listens and where it sends; settings
// that are wrong change nothing.
func TestReload(t *testing.T) {
	var mu sync.Mutex
	took := map[string]int{}
	collector := func(name string) *httptest.Server {
		return httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			mu.Lock()
			defer mu.Unlock()
			took[name+r.URL.Path]++
		}))
	}
	before, after := collector("before"), collector("after")
	defer before.Close()
	defer after.Close()

	conf := filepath.Join(t.TempDir(), "export.conf")
	write := func(format string, args ...any) {
		if err := os.WriteFile(conf, fmt.Appendf(nil, format, args...), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	one, two := free(t), free(t)
	write("class = refused\nlisten = %s\notlp = %s\nsample = 0\n", one, before.URL)
	in, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	recording, err := os.ReadFile("testdata/busy.tcpbye")
	if err != nil {
		t.Fatal(err)
	}
	stdout, stderr := newHeard(), newHeard()
	status := make(chan int, 1)
	go func() {
		status <- run([]string{"export", "-r", "-", "-o", "logfmt", "--config", conf},
			environment{stdin: in, stdout: stdout, stderr: stderr, getenv: func(string) string { return "" }})
	}()
	// It listens, and takes SIGHUP then, before it reads.
	limit := time.Now().Add(hang)
	for !served(one) {
		if time.Now().After(limit) {
			t.Fatalf("it does not listen: %s", stderr)
		}
	}
	hup := func() {
		if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
	}
	// So that a SIGHUP that comes too early does not end the test.
	write("class = aborted\nlisten = %s\notlp = nowhere\n", two)
	hup()
	stderr.until(t, `the settings stay as they were: --otlp "nowhere": want a URL`)
	if served(two) || !served(one) {
		t.Error("settings that are wrong in part are taken in part")
	}
	write("class = aborted\nlisten = %s\notlp = %s\nsample = 0\nlabel = process\n", two, after.URL)
	hup()
	stderr.until(t, "the settings were read again; these wait for the next start: label")
	if served(one) || !served(two) {
		t.Error("it listens where it did")
	}
	if _, err := out.Write(recording); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case got := <-status:
		if got != exitDone {
			t.Errorf("status %d: %s", got, stderr)
		}
	case <-time.After(hang):
		t.Fatal("it does not end")
	}
	if n := strings.Count(stdout.String(), "class=aborted"); n != 4 || strings.Count(stdout.String(), "\n") != 4 {
		t.Errorf("it shows %d that were aborted, of 4:\n%s", n, stdout)
	}
	mu.Lock()
	defer mu.Unlock()
	if took["after/v1/logs"] == 0 || took["before/v1/logs"] > 0 {
		t.Errorf("events went to %v", took)
	}
}

// TestLimited: what one part says is said at most once a minute.
func TestLimited(t *testing.T) {
	stderr := newHeard()
	a := &agent{exporting: &exporting{}}
	a.env.stderr = stderr
	one, other := a.limited("OTLP"), a.limited("the journal")
	for i := range 100 {
		one(fmt.Sprint("down ", i))
		other("down")
	}
	if got, want := stderr.String(), "tcpbye: OTLP: down 0\ntcpbye: the journal: down\n"; got != want {
		t.Errorf("it says %q, want %q", got, want)
	}
}
