//go:build lab

package crowd

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/demo/test/real"
	"github.com/tcpbye/tcpbye/tracer/report"
)

// serverEnv makes this program a Go server: "plain ADDRESS" or "shutdown ADDRESS".
const serverEnv = "CROWD_GO_SERVER"

// work is how long a request takes: long beside a jiffy, so that it is known what was
// in flight.
const work = 100 * time.Millisecond

var slow = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
	time.Sleep(work) // it is the work
	_, _ = w.Write(make([]byte, 1000))
})

// maybeServer serves until it is told to end.
func maybeServer() (status int, ok bool) {
	how, address, ok := strings.Cut(os.Getenv(serverEnv), " ")
	if !ok {
		return 0, false
	}
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(context.Background(), "tcp4", address)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1, true
	}
	s := &http.Server{Handler: slow}
	if how == "plain" {
		fmt.Fprintln(os.Stderr, s.Serve(l))
		return 1, true
	}
	told := make(chan os.Signal, 1)
	signal.Notify(told, unix.SIGTERM)
	done := make(chan error)
	go func() { <-told; done <- s.Shutdown(context.Background()) }()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return 1, true
	}
	if err := <-done; err != nil {
		return 1, true
	}
	return 0, true
}

// asking makes requests, and counts how they fared.
type asking struct {
	r       *netns
	address string
	stop    atomic.Bool
	wg      sync.WaitGroup
	mu      sync.Mutex
	fared   map[string]int
	served  atomic.Int64
}

func (l *asking) dial() (c net.Conn, err error) {
	derr := l.r.Do(func() error { c, err = net.Dial("tcp4", l.address); return nil })
	return c, errors.Join(err, derr)
}

// run is one client. With keep it keeps its connection, and thinks between requests.
func (l *asking) run(keep bool) {
	defer l.wg.Done()
	var c net.Conn
	var in *bufio.Reader
	drop := func() {
		if c != nil {
			c.Close()
			c = nil
		}
	}
	defer drop()
	for !l.stop.Load() {
		how := ""
		if c == nil {
			var err error
			if c, err = l.dial(); err != nil {
				c, how = nil, "refused"
				if !errors.Is(err, unix.ECONNREFUSED) {
					how = err.Error()
				}
			} else {
				in = bufio.NewReader(c)
			}
		}
		closes := !keep
		if how == "" {
			how, closes = request(c, in, keep)
		}
		l.mu.Lock()
		l.fared[how]++
		l.mu.Unlock()
		if how == "ok" {
			l.served.Add(1)
		}
		if closes || how != "ok" {
			drop()
		}
		if keep || how == "refused" {
			time.Sleep(work / 2) // it thinks
		}
	}
}

// request asks once, and says how that fared.
func request(c net.Conn, in *bufio.Reader, keep bool) (how string, closes bool) {
	header := "close"
	if keep {
		header = "keep-alive"
	}
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: x\r\nConnection: %s\r\n\r\n", header); err != nil {
		return "send: " + failure(err), true
	}
	res, err := http.ReadResponse(in, nil)
	if err != nil {
		return "receive: " + failure(err), true
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		return "body: " + failure(err), true
	}
	if res.StatusCode != http.StatusOK {
		return "status " + strconv.Itoa(res.StatusCode), res.Close
	}
	return "ok", res.Close || !keep
}

func failure(err error) string {
	var errno syscall.Errno
	switch {
	case errors.As(err, &errno):
		return unix.ErrnoName(errno)
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return "EOF"
	}
	return err.Error()
}

// failed counts the requests whose connection failed: an answer that says so is one.
func (l *asking) failed() (n int, how string) {
	var list []string
	for k, c := range l.fared {
		if k != "ok" && !strings.HasPrefix(k, "status ") {
			n += c
		}
		if k != "ok" {
			list = append(list, fmt.Sprintf("%s %d", k, c))
		}
	}
	slices.Sort(list)
	return n, strings.Join(list, ", ")
}

// rolled is one row of the table.
type rolled struct {
	name     string
	programs []string
	// start starts the service; act makes it end or load again, and may start it anew.
	start func(s *stageOf) int // the PID to watch
	act   func(s *stageOf, pid int)
}

// stageOf is where a service runs.
type stageOf struct {
	t       testing.TB
	r       *netns
	dir     string
	backend string // host:port that takes its time
}

const front = "127.0.0.1:9100"

func (s *stageOf) run(name string, args ...string) *exec.Cmd {
	s.t.Helper()
	cmd := exec.Command(name, args...)
	return s.launch(cmd)
}

func (s *stageOf) launch(cmd *exec.Cmd) *exec.Cmd {
	s.t.Helper()
	out, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		s.t.Fatal(err)
	}
	defer out.Close()
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.dir, out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := s.r.start(cmd); err != nil {
		s.t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() { _ = cmd.Wait(); close(exited) }()
	s.t.Cleanup(func() {
		_ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
		<-exited
	})
	return cmd
}

func (s *stageOf) file(name, text string) string {
	path := filepath.Join(s.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// listens waits until the service takes connections.
func (s *stageOf) listens() {
	s.t.Helper()
	eventually(s.t, "a listener on "+front, func() (bool, string) {
		var c net.Conn
		var err error
		_ = s.r.Do(func() error { c, err = net.Dial("tcp4", front); return nil })
		if err != nil {
			return false, err.Error() + "; " + text(s.t, filepath.Join(s.dir, "log"))
		}
		c.Close()
		return true, ""
	})
}

// ended waits until a process has gone.
func (s *stageOf) ended(pid int) {
	s.t.Helper()
	eventually(s.t, "the end of the service", func() (bool, string) {
		err := unix.Kill(pid, 0)
		return errors.Is(err, unix.ESRCH), fmt.Sprint(err)
	})
}

func (s *stageOf) signal(pid int, sig unix.Signal) {
	if err := unix.Kill(pid, sig); err != nil {
		s.t.Fatal(err)
	}
}

func (s *stageOf) goServer(how string) int {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), serverEnv+"="+how+" "+front)
	return s.launch(cmd).Process.Pid
}

func (s *stageOf) nginx() int {
	conf := s.file("nginx.conf", fmt.Sprintf(`
daemon off; worker_processes 2; pid %[1]s/pid; error_log %[1]s/error.log;
user root;
events { worker_connections 1000; }
http {
	access_log off; proxy_buffering off;
	client_body_temp_path %[1]s/a; proxy_temp_path %[1]s/b; fastcgi_temp_path %[1]s/c; uwsgi_temp_path %[1]s/d; scgi_temp_path %[1]s/e;
	server { listen %[2]s backlog=512; location / { proxy_pass http://%[3]s; } }
}
`, s.dir, front, s.backend))
	return s.run("nginx", "-c", conf).Process.Pid
}

func (s *stageOf) haproxy() int {
	conf := s.file("haproxy.cfg", fmt.Sprintf(`
global
	nbthread 1
	stats socket %s/sock mode 600 level admin expose-fd listeners
defaults
	mode http
	timeout connect 60s
	timeout client 60s
	timeout server 60s
listen web
	bind %s
	server s %s
`, s.dir, front, s.backend))
	return s.run("haproxy", "-W", "-S", s.dir+"/master", "-f", conf).Process.Pid
}

func (s *stageOf) gunicorn() int {
	s.file("app.py", "import time\ndef app(environ, start):\n    time.sleep(0.1)\n    start('200 OK', [('Content-Length', '1000')])\n    return [bytes(1000)]\n")
	return s.run("gunicorn", "-b", front, "-w", "2", "-k", "gthread", "--threads", "16", "--keep-alive", "5", "--backlog", "512", "app:app").Process.Pid
}

func (s *stageOf) node(file string) int {
	return s.run("node", s.file("server.js", file)).Process.Pid
}

const nodeCluster = `
const cluster = require('cluster'), http = require('http');
if (cluster.isPrimary || cluster.isMaster) {
	cluster.fork(); cluster.fork();
	process.on('SIGHUP', () => {
		const old = Object.values(cluster.workers);
		let n = 0;
		for (const _ of old) cluster.fork().on('listening', () => { if (++n == old.length) for (const w of old) w.disconnect(); });
	});
	process.on('SIGTERM', () => { for (const w of Object.values(cluster.workers)) w.kill('SIGKILL'); process.exit(0); });
} else {
	http.createServer((q, r) => setTimeout(() => r.end(Buffer.alloc(1000)), 100)).listen(9100, '127.0.0.1', 511);
}
`

var rollouts = []rolled{
	{"Go, no Shutdown: restart", nil, func(s *stageOf) int { return s.goServer("plain") }, func(s *stageOf, pid int) {
		s.signal(pid, unix.SIGTERM)
		s.ended(pid)
		s.goServer("plain")
	}},
	{"Go, Shutdown: restart", nil, func(s *stageOf) int { return s.goServer("shutdown") }, func(s *stageOf, pid int) {
		s.signal(pid, unix.SIGTERM)
		s.ended(pid)
		s.goServer("shutdown")
	}},
	{"nginx: reload", []string{"nginx"}, (*stageOf).nginx, func(s *stageOf, pid int) { s.signal(pid, unix.SIGHUP) }},
	{"nginx: restart (TERM)", []string{"nginx"}, (*stageOf).nginx, func(s *stageOf, pid int) {
		s.signal(pid, unix.SIGTERM)
		s.ended(pid)
		s.nginx()
	}},
	{"nginx: restart (QUIT)", []string{"nginx"}, (*stageOf).nginx, func(s *stageOf, pid int) {
		s.signal(pid, unix.SIGQUIT)
		s.ended(pid)
		s.nginx()
	}},
	{"haproxy -W: reload (USR2)", []string{"haproxy"}, (*stageOf).haproxy, func(s *stageOf, pid int) { s.signal(pid, unix.SIGUSR2) }},
	{"haproxy -W: restart (TERM)", []string{"haproxy"}, (*stageOf).haproxy, func(s *stageOf, pid int) {
		s.signal(pid, unix.SIGTERM)
		s.ended(pid)
		s.haproxy()
	}},
	{"gunicorn gthread: reload (HUP)", []string{"gunicorn"}, (*stageOf).gunicorn, func(s *stageOf, pid int) { s.signal(pid, unix.SIGHUP) }},
	{"gunicorn gthread: restart (TERM)", []string{"gunicorn"}, (*stageOf).gunicorn, func(s *stageOf, pid int) {
		s.signal(pid, unix.SIGTERM)
		s.ended(pid)
		s.gunicorn()
	}},
	{"node cluster: disconnect", []string{"node"}, func(s *stageOf) int { return s.node(nodeCluster) }, func(s *stageOf, pid int) { s.signal(pid, unix.SIGHUP) }},
	{"node cluster: workers killed", []string{"node"}, func(s *stageOf) int { return s.node(nodeCluster) }, func(s *stageOf, pid int) {
		s.signal(pid, unix.SIGTERM)
		s.ended(pid)
		s.node(nodeCluster)
	}},
}

// TestRollouts restarts and reloads real services under load. What rollout calls cut is
// what the clients say has failed, to the last request.
func TestRollouts(t *testing.T) {
	if err := real.Install(t.Context(), os.Stderr); err != nil {
		t.Fatal(err)
	}
	var table []string
	for _, x := range rollouts {
		t.Run(x.name, func(t *testing.T) { table = append(table, x.play(t)) })
	}
	t.Log("\n" + strings.Join(table, "\n"))
}

func (x rolled) play(t *testing.T) string {
	for _, p := range x.programs {
		if _, err := exec.LookPath(p); err != nil {
			t.Fatal(err)
		}
	}
	r := newNetns(t)
	s := &stageOf{t: t, r: r, dir: t.TempDir()}
	var back net.Listener
	if err := r.Do(func() (err error) { back, err = net.Listen("tcp4", "127.0.0.1:0"); return err }); err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: slow}
	go func() { _ = server.Serve(back) }()
	defer server.Close()
	s.backend = back.Addr().String()
	pid := x.start(s)
	s.listens()
	recording := filepath.Join(t.TempDir(), "recording")
	b := startBye(t, "rollout", "-p", strconv.Itoa(pid), "--port", "9100", "--settle", "5m", "-o", "json", "-w", recording)
	l := &asking{r: r, address: front, fared: map[string]int{}}
	for i := range 30 {
		l.wg.Add(1)
		go l.run(i%3 > 0)
	}
	served := func(n int64) {
		from := l.served.Load()
		eventually(t, "requests that are answered", func() (bool, string) {
			return l.served.Load() >= from+n, fmt.Sprint(l.served.Load(), " ", text(t, filepath.Join(s.dir, "log")))
		})
	}
	served(150)
	x.act(s, pid)
	served(300)
	l.stop.Store(true)
	l.wg.Wait()
	// What the clients let go of has to end, too.
	b.signal(unix.SIGINT)
	<-b.exited
	if state := b.cmd.ProcessState; state.ExitCode() != 0 {
		t.Fatalf("tcpbye: %v: %s", state, b.said())
	}
	var got, again report.RolloutRecord
	if err := json.Unmarshal([]byte(text(t, b.stdout)), &got); err != nil {
		t.Fatalf("%v: %s", err, text(t, b.stdout))
	}
	failed, how := l.failed()
	if got.Cut != failed || got.Unsure != 0 {
		t.Errorf("rollout says %d cut, %d unsure, the clients say %d: %s\n%s%s", got.Cut, got.Unsure, failed, how, text(t, b.stdout), b.said())
	}
	out, err := exec.Command(byeProgram(t), "rollout", "-r", recording, "-p", strconv.Itoa(pid), "-o", "json").Output()
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(out, &again); err != nil {
		t.Fatal(err)
	}
	if again.Cut != got.Cut || again.Total != got.Total {
		t.Errorf("the recording says %d of %d cut, live %d of %d", again.Cut, again.Total, got.Cut, got.Total)
	}
	drain := "-"
	if got.Drain != nil {
		drain = fmt.Sprintf("%.3f s", *got.Drain/1000)
	}
	var why []string
	for _, g := range got.Groups {
		if g.Outcome == "cut" {
			why = append(why, fmt.Sprintf("%d %s", g.Connections, value(g.Why)))
		}
	}
	return fmt.Sprintf("| %s | %d | %d | %d | %d | %s | %d / %d / %d | %s |", x.name, got.Then, got.Total, got.Cut, failed, strings.Join(why, ", "), got.Retry.Safe, got.Retry.Unsafe, got.Retry.Unknown, drain)
}
