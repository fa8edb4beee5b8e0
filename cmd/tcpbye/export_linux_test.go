package main

import (
	"bytes"
	"errors"
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

	"github.com/tcpbye/tcpbye/tracer/record"
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

// tried is an agent that reads a recording, and a way to give it other settings.
func tried(t *testing.T, stderr io.Writer, args ...string) (a *agent, again func(args ...string)) {
	t.Helper()
	read := func(args []string) (*exporting, plan) {
		t.Helper()
		x := &exporting{}
		x.env = environment{stdout: io.Discard, stderr: stderr, getenv: func(string) string { return "" }}
		cmd := x.command()
		if err := cmd.ParseFlags(append([]string{"-r", "-"}, args...)); err != nil {
			t.Fatal(err)
		}
		p, err := x.plan(cmd)
		if err != nil {
			t.Fatal(err)
		}
		return x, p
	}
	x, p := read(args)
	a, err := newAgent(x, p)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.serve(p.listen); err != nil {
		t.Fatal(err)
	}
	return a, func(args ...string) {
		t.Helper()
		a.reload = func() error {
			if a.mu.TryLock() {
				a.mu.Unlock()
				t.Error("another SIGHUP may come in between")
			}
			a.change(read(args))
			return nil
		}
		a.hangup()
	}
}

// TestReloadSamePort: another address with the port of the one before is listened at, and
// if it cannot be, the one before is again.
func TestReloadSamePort(t *testing.T) {
	stderr := newHeard()
	port := free(t)
	a, again := tried(t, stderr, "--listen", port)
	again("--listen", "0.0.0.0:"+port)
	if got, want := stderr.String(), "tcpbye: the settings were read again\n"; got != want || a.server.address != "0.0.0.0:"+port || !served(port) {
		t.Fatalf("it serves at %s, and says %q", a.server.address, got)
	}
	stderr.text.Reset()
	again("--listen", "192.0.2.1:"+port, "--class", "refused") // no address of this host
	if got := stderr.String(); !strings.HasPrefix(got, "tcpbye: the settings stay as they were: --listen: ") || strings.Contains(got, "any more") ||
		a.server.address != "0.0.0.0:"+port || !served(port) || !a.choice.Load().Empty() {
		t.Errorf("it serves at %s, and says %q", a.server.address, got)
	}
	// What goes wrong with the one before is no failure of the change.
	stderr.text.Reset()
	if err := a.server.close(); err != nil {
		t.Fatal(err)
	}
	a.server.ended <- errors.New("accept: bad file descriptor")
	two := free(t)
	again("--listen", two, "--class", "refused")
	if got := stderr.String(); !strings.Contains(got, "accept: bad file descriptor\n") || !strings.Contains(got, "the settings were read again\n") ||
		!served(two) || a.choice.Load().Empty() {
		t.Errorf("it says %q", got)
	}
	if err := a.close(); err != nil {
		t.Error(err)
	}
	stderr.text.Reset()
	again("--listen", port)
	if got := stderr.String(); got != "" || served(port) {
		t.Errorf("once it has ended, it says %q", got)
	}
}

// TestReloadRecording: the recording goes on with the filter that it was begun with, and
// it is said.
func TestReloadRecording(t *testing.T) {
	for _, c := range []struct {
		name, want   string
		before, next []string
	}{
		{"another filter", "; these wait for the next start: write", []string{"--class", "refused"}, []string{"--class", "aborted"}},
		{"a filter", "; these wait for the next start: write", nil, []string{"--class", "aborted"}},
		{"the same", "", []string{"--class", "refused"}, []string{"--class", "refused"}},
		{"all events", "", []string{"--class", "refused", "--all-events"}, []string{"--class", "aborted", "--all-events"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			stderr := newHeard()
			file := []string{"-w", filepath.Join(t.TempDir(), "ring.tcpbye")}
			a, again := tried(t, stderr, append(file, c.before...)...)
			if _, err := a.config(record.Meta{}); err != nil {
				t.Fatal(err)
			}
			again(append(file, c.next...)...)
			if got, want := stderr.String(), "tcpbye: the settings were read again"+c.want+"\n"; got != want {
				t.Errorf("it says %q, want %q", got, want)
			}
			if err := a.close(); err != nil {
				t.Error(err)
			}
		})
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
