//go:build lab

package crowd

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/demo/test/real"
	"github.com/tcpbye/tcpbye/tracer/report"
)

// proxyEnv makes this program a Go reverse proxy: "LISTEN BACKEND".
const proxyEnv = "CROWD_GO_PROXY"

func maybeProxy() (status int, ok bool) {
	listen, backend, ok := strings.Cut(os.Getenv(proxyEnv), " ")
	if !ok {
		return 0, false
	}
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(context.Background(), "tcp4", listen)
	if err != nil {
		return 1, true
	}
	p := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: backend})
	p.FlushInterval = -1 // at once
	p.ErrorLog = log.New(io.Discard, "", 0)
	_ = (&http.Server{Handler: p, ErrorLog: p.ErrorLog}).Serve(l)
	return 1, true
}

// resetter is a backend that begins an answer to all requests and then resets each, in
// any order. It knows which of the proxy's ports had which request.
type resetter struct {
	sizes bool // each answer has a size of its own
	l     net.Listener
	mu    sync.Mutex
	conns map[string]net.Conn // by the request's path
	came  chan struct{}
}

func (b *resetter) serve() {
	for {
		c, err := b.l.Accept()
		if err != nil {
			return
		}
		go b.take(c)
	}
}

func (b *resetter) take(c net.Conn) {
	q, err := http.ReadRequest(bufio.NewReader(c))
	if err != nil {
		c.Close()
		return
	}
	size := 2000
	if n, err := strconv.Atoi(q.URL.Path[strings.LastIndexByte(q.URL.Path, '-')+1:]); b.sizes && err == nil {
		size += 13 * n
	}
	fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n%s", strings.Repeat("x", size))
	b.mu.Lock()
	b.conns[q.URL.Path] = c
	b.mu.Unlock()
	b.came <- struct{}{}
}

// reset resets all.
func (b *resetter) reset() map[string]uint16 {
	b.mu.Lock()
	defer b.mu.Unlock()
	ports := map[string]uint16{}
	var paths []string
	for path, c := range b.conns {
		ports[path] = netip.MustParseAddrPort(c.RemoteAddr().String()).Port()
		paths = append(paths, path)
	}
	slices.Sort(paths)
	rand.Shuffle(len(paths), func(i, j int) { paths[i], paths[j] = paths[j], paths[i] })
	for _, path := range paths {
		_ = b.conns[path].(*net.TCPConn).SetLinger(0)
		b.conns[path].Close()
	}
	clear(b.conns)
	return ports
}

// proxied is a proxy under test.
type proxied struct {
	name, program string
	start         func(s *stageOf)
}

var proxies = []proxied{
	{"nginx", "nginx", func(s *stageOf) { s.nginx() }},
	{"haproxy", "haproxy", func(s *stageOf) { s.haproxy() }},
	{"Go reverse proxy", "", func(s *stageOf) {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), proxyEnv+"="+front+" "+s.backend)
		s.launch(cmd)
	}},
	{"socat, fork", "socat", func(s *stageOf) {
		host, port, _ := net.SplitHostPort(front)
		s.run("socat", "TCP-LISTEN:"+port+",bind="+host+",fork,backlog=512,reuseaddr", "TCP:"+s.backend)
	}},
}

// TestProxies resets many requests through real proxies at once. What tcpbye ties must be
// what was one request; what it ties wrongly is worse than what it does not tie.
func TestProxies(t *testing.T) {
	if err := real.Install(t.Context(), os.Stderr); err != nil {
		t.Fatal(err)
	}
	table := []string{"| proxy | at once | sizes | requests | right, certain | right, likely | missed | wrong |", "| --- | --- | --- | --- | --- | --- | --- | --- |"}
	for _, p := range proxies {
		for _, n := range []int{1, 10, 100} {
			t.Run(fmt.Sprintf("%s/%d", p.name, n), func(t *testing.T) { table = append(table, p.play(t, n, false)) })
			if n > 1 {
				t.Run(fmt.Sprintf("%s/%d of different sizes", p.name, n), func(t *testing.T) { table = append(table, p.play(t, n, true)) })
			}
		}
	}
	t.Log("\n" + strings.Join(table, "\n"))
}

func (p proxied) play(t *testing.T, n int, sizes bool) string {
	if p.program != "" {
		if _, err := exec.LookPath(p.program); err != nil {
			t.Fatal(err)
		}
	}
	r := newNetns(t)
	s := &stageOf{t: t, r: r, dir: t.TempDir()}
	b := &resetter{sizes: sizes, conns: map[string]net.Conn{}, came: make(chan struct{}, 1<<12)}
	if err := r.Do(func() (err error) { b.l, err = net.Listen("tcp4", "127.0.0.1:0"); return err }); err != nil {
		t.Fatal(err)
	}
	defer b.l.Close()
	go b.serve()
	s.backend = b.l.Addr().String()
	p.start(s)
	s.listens()
	bye := startBye(t, "proxy", "--port", "9100,"+strconv.Itoa(b.l.Addr().(*net.TCPAddr).Port), "-o", "json")
	truth := map[uint16]uint16{} // the client's port, and that of the proxy
	rounds := max(1, 20/n)
	for round := range rounds {
		ports := map[string]uint16{}
		var all []net.Conn
		for i := range n {
			var c net.Conn
			var err error
			if derr := r.Do(func() error { c, err = net.Dial("tcp4", front); return nil }); derr != nil || err != nil {
				t.Fatal(derr, err)
			}
			path := fmt.Sprintf("/%03d-%04d", round, i)
			ports[path] = netip.MustParseAddrPort(c.LocalAddr().String()).Port()
			fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path)
			all = append(all, c)
		}
		for range n {
			<-b.came
		}
		for _, c := range all {
			got := make([]byte, 1500)
			if k, err := io.ReadFull(c, got); err != nil { // some of the body has come through
				t.Fatalf("%v after %q; %s", err, got[:k], text(t, filepath.Join(s.dir, "log")))
			}
		}
		for path, port := range b.reset() {
			truth[ports[path]] = port
		}
		for _, c := range all {
			_, _ = io.Copy(io.Discard, c)
			c.Close()
		}
	}
	bye.signal(unix.SIGINT)
	<-bye.exited
	certain, likely, wrong := 0, 0, 0
	for line := range strings.Lines(text(t, bye.stdout)) {
		var x report.TieRecord
		if err := json.Unmarshal([]byte(line), &x); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		down, up := x.Effect, x.Cause
		if down.Side != "client" {
			down, up = up, down
		}
		client, port := netip.MustParseAddrPort(*down.Remote).Port(), netip.MustParseAddrPort(*up.Local).Port()
		want, ours := truth[client]
		switch {
		case !ours || want != port || x.Cause.Side != "backend":
			wrong++
			t.Errorf("wrong, %s: %s", x.Confidence, line)
		case x.Confidence == "certain":
			certain++
		default:
			likely++
		}
	}
	if certain+likely == 0 && n == 1 {
		t.Errorf("nothing is tied:\n%s", bye.said())
	}
	same := "the same"
	if sizes {
		same = "differ"
	}
	return fmt.Sprintf("| %s | %d | %s | %d | %d | %d | %d | %d |", p.name, n, same, len(truth), certain, likely, len(truth)-certain-likely, wrong)
}
