//go:build lab

package crowd

import (
	"encoding/csv"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// many is how many connections a crowd of connections has.
const many = 10_000

// row is a line of -o csv: an end, by the columns' names.
type row map[string]string

// rows reads what -o csv printed.
func (b *bye) rows() []row {
	b.t.Helper()
	all, err := csv.NewReader(strings.NewReader(text(b.t, b.stdout))).ReadAll()
	if err != nil || len(all) == 0 {
		b.t.Fatalf("not CSV: %v", err)
	}
	var rows []row
	for _, fields := range all[1:] {
		r := row{}
		for i, name := range all[0] {
			r[name] = fields[i]
		}
		rows = append(rows, r)
	}
	return rows
}

// duo is a connection whose ends are both this process's.
type duo struct{ client, server int }

// manner is a way for a connection to end.
type manner struct {
	name  string
	share int // in a hundred
	play  func(d *duo) error
	// resets says that a RST is sent.
	resets bool
	cause  verdict.Cause
}

func receive(fd int) error {
	_, err := unix.Read(fd, make([]byte, 1<<10))
	return err
}

func send(fd int) error {
	_, err := unix.SendmsgN(fd, make([]byte, 100), nil, nil, unix.MSG_NOSIGNAL)
	return err
}

// letClose closes, and marks it as done.
func letClose(fd *int) error {
	err := unix.Close(*fd)
	*fd = -1
	return err
}

// wasReset reads an ECONNRESET.
func wasReset(fd int) error {
	if err := receive(fd); err != unix.ECONNRESET {
		return fmt.Errorf("read: %v, not ECONNRESET", err)
	}
	return nil
}

// do makes one call after the other until one fails.
func do(calls ...func() error) error {
	for _, c := range calls {
		if err := c(); err != nil {
			return err
		}
	}
	return nil
}

// manners are the endings that are mixed. Every process reads what comes, and
// closes at last.
var manners = []manner{
	{"client closes", 25, func(d *duo) error {
		return do(func() error { return letClose(&d.client) }, func() error { return receive(d.server) })
	}, false, verdict.OrderlyClose},
	{"server closes", 15, func(d *duo) error {
		return do(func() error { return letClose(&d.server) }, func() error { return receive(d.client) })
	}, false, verdict.OrderlyClose},
	{"half-close", 10, func(d *duo) error {
		return do(func() error { return unix.Shutdown(d.client, unix.SHUT_WR) }, func() error { return receive(d.server) },
			func() error { return send(d.server) }, func() error { return receive(d.client) },
			func() error { return letClose(&d.server) }, func() error { return receive(d.client) })
	}, false, verdict.HalfClose},
	{"linger zero", 10, func(d *duo) error {
		return do(func() error {
			return unix.SetsockoptLinger(d.client, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
		}, func() error { return letClose(&d.client) }, func() error { return wasReset(d.server) })
	}, true, verdict.LingerZero},
	{"close unread", 15, func(d *duo) error {
		return do(func() error { return send(d.client) }, func() error { return waitReadable(d.server) },
			func() error { return letClose(&d.server) }, func() error { return wasReset(d.client) })
	}, true, verdict.CloseUnread},
	{"data after close", 10, func(d *duo) error {
		return do(func() error { return letClose(&d.server) }, func() error { return waitReadable(d.client) },
			func() error { return send(d.client) }, func() error { return waitHangup(d.client) })
	}, true, verdict.DataAfterClose},
	{"data after shutdown", 5, func(d *duo) error {
		return do(func() error { return unix.Shutdown(d.server, unix.SHUT_RDWR) }, func() error { return waitReadable(d.client) },
			func() error { return send(d.client) }, func() error { return waitHangup(d.client) })
	}, true, verdict.DataAfterShutdown},
	{"disconnect", 5, func(d *duo) error {
		return do(func() error { return disconnect(d.client) }, func() error { return wasReset(d.server) })
	}, true, verdict.Disconnect},
	{"refused", 5, nil, true, verdict.PortClosed},
}

func waitReadable(fd int) error { return waitFor(fd, unix.POLLIN) }

// waitHangup waits until a connection is over in both directions: a RST came.
func waitHangup(fd int) error { return waitFor(fd, unix.POLLHUP) }

func waitFor(fd int, events int16) error {
	for {
		p := []unix.PollFd{{Fd: int32(fd), Events: events & unix.POLLIN}}
		n, err := unix.Poll(p, int(patience/time.Millisecond))
		switch {
		case err == unix.EINTR:
		case err != nil:
			return err
		case n == 0:
			return fmt.Errorf("waited %v in vain for a socket to have %#x", patience, events)
		case p[0].Revents&events != 0:
			return nil
		}
	}
}

func disconnect(fd int) error {
	var sa unix.RawSockaddr // family 0 is AF_UNSPEC, for which x/sys has no address
	_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&sa)), unsafe.Sizeof(sa))
	if errno != 0 {
		return errno
	}
	return nil
}

// TestMixedCrowd: ten thousand connections that end in nine ways, mixed. tcpbye
// rst shows exactly those of which the capture has a RST, both ends of each, and
// with the right cause.
func TestMixedCrowd(t *testing.T) {
	r := newNetns(t)
	w := newWire(t, r)
	b := startBye(t, "rst", "--all", "-o", "csv")
	plan := make([]*manner, 0, many)
	for i := range manners {
		for range manners[i].share * many / 100 {
			plan = append(plan, &manners[i])
		}
	}
	if len(plan) != many {
		t.Fatalf("%d connections are planned, not %d", len(plan), many)
	}
	rand.New(rand.NewPCG(1, 2)).Shuffle(len(plan), func(i, k int) { plan[i], plan[k] = plan[k], plan[i] })
	played := map[link]*manner{}
	begin := time.Now()
	for batch := range slices.Chunk(plan, many/40) {
		var last link
		if err := r.Do(func() (err error) { last, err = playMixed(batch, played); return err }); err != nil {
			t.Fatal(err)
		}
		// A program that does nothing but end connections is faster than whoever
		// writes down how they end: it waits.
		eventually(t, "tcpbye to catch up", func() (bool, string) {
			s := text(t, b.stdout)
			return strings.Contains(s, last.client.String()), fmt.Sprintf("%d bytes of output\n%s", len(s), b.said())
		})
	}
	t.Logf("%d connections in %v", many, time.Since(begin).Round(time.Second))
	b.stop()
	w.stop()
	n := b.counts()
	noneLost(t, b)
	if w.connections() != many {
		t.Fatalf("the capture has the beginnings of %d connections, not %d", w.connections(), many)
	}

	// The capture, and what was meant to happen.
	resets := 0
	for l, m := range played {
		if (w.resets[l] > 0) != m.resets {
			t.Fatalf("%v (%s): the capture has %d RSTs", l, m.name, w.resets[l])
		}
		if m.resets {
			resets++
		}
	}
	if resets != len(w.resets) {
		t.Fatalf("the capture has RSTs of %d connections, not %d", len(w.resets), resets)
	}

	// What tcpbye says.
	shown := map[link][]row{}
	for _, x := range b.rows() {
		if x["netns"] != strconv.FormatUint(uint64(r.Inode), 10) {
			continue
		}
		shown[linkOf(t, x, played)] = append(shown[linkOf(t, x, played)], x)
	}
	invented, missed, wrong, unsure := 0, 0, 0, 0
	complain := func(format string, args ...any) {
		if invented+missed+wrong <= 20 {
			t.Errorf(format, args...)
		}
	}
	for l, m := range played {
		ends := 2
		if m.play == nil {
			ends = 1 // nobody was at the other
		}
		switch got := shown[l]; {
		case w.resets[l] == 0 && len(got) > 0:
			invented++
			complain("%v (%s): there was no RST, but tcpbye shows %v", l, m.name, got)
		case w.resets[l] == 0:
		case len(got) != ends:
			missed++
			complain("%v (%s): %d of %d ends are shown", l, m.name, len(got), ends)
		default:
			for _, x := range got {
				switch {
				case x["cause"] == string(m.cause):
				case !inLab() && x["confidence"] != string(verdict.Certain):
					unsure++
				default:
					wrong++
					complain("%v (%s): judged %s %s, %s: %s", l, m.name, x["class"], x["cause"], x["confidence"], x["sentence"])
				}
			}
		}
	}
	delete(shown, link{})
	if len(shown) != len(w.resets) {
		t.Errorf("tcpbye shows %d connections, the capture has RSTs of %d", len(shown), len(w.resets))
	}
	t.Logf("%d connections with a RST: %d missed, %d with another cause, %d honestly unsure ends; %d without: %d false alarms; %+v",
		len(w.resets), missed, wrong, unsure, many-len(w.resets), invented, n)
	if t.Failed() {
		keep(t, b)
	}
}

// linkOf is the connection of an end.
func linkOf(t testing.TB, x row, played map[link]*manner) link {
	t.Helper()
	local, err := netip.ParseAddrPort(x["local"])
	if err != nil {
		t.Fatal(err)
	}
	remote, err := netip.ParseAddrPort(x["remote"])
	if err != nil {
		t.Fatal(err)
	}
	if l := (link{local, remote}); played[l] != nil {
		return l
	}
	if l := (link{remote, local}); played[l] != nil {
		return l
	}
	t.Errorf("tcpbye shows a connection that there was not: %v", x)
	return link{}
}

// playMixed plays a part of the plan. Each connection has a client's port of its
// own. It returns the last one that was reset.
func playMixed(plan []*manner, played map[link]*manner) (last link, err error) {
	loopback := [4]byte{127, 0, 0, 1}
	listener, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return last, err
	}
	defer unix.Close(listener)
	const port, closed, first = 9000, 9001, 20_000
	at := &unix.SockaddrInet4{Port: port, Addr: loopback}
	// The connections of the part before still have the port.
	reuse := func() error { return unix.SetsockoptInt(listener, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) }
	if err := do(reuse, func() error { return unix.Bind(listener, at) }, func() error { return unix.Listen(listener, 16) }); err != nil {
		return last, err
	}
	for _, m := range plan {
		i := len(played)
		d := &duo{-1, -1}
		from := &unix.SockaddrInet4{Port: first + i, Addr: loopback}
		to := *at
		if m.play == nil {
			to.Port = closed
		}
		l := link{netip.AddrPortFrom(netip.AddrFrom4(loopback), uint16(from.Port)), netip.AddrPortFrom(netip.AddrFrom4(loopback), uint16(to.Port))}
		played[l] = m
		if m.resets {
			last = l
		}
		err := do(
			func() (err error) {
				d.client, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
				return err
			},
			func() error { return unix.Bind(d.client, from) },
			func() error {
				err := unix.Connect(d.client, &to)
				if m.play == nil && err == unix.ECONNREFUSED {
					return nil
				}
				return err
			},
			func() (err error) {
				if m.play == nil {
					return nil
				}
				d.server, _, err = unix.Accept4(listener, unix.SOCK_CLOEXEC)
				return err
			},
			func() error {
				if m.play == nil {
					return nil
				}
				// A request and its answer.
				return do(func() error { return send(d.client) }, func() error { return receive(d.server) },
					func() error { return send(d.server) }, func() error { return receive(d.client) })
			},
			func() error {
				if m.play == nil {
					return nil
				}
				return m.play(d)
			},
		)
		for _, fd := range []int{d.client, d.server} {
			if fd >= 0 {
				unix.Close(fd)
			}
		}
		if err != nil {
			return last, fmt.Errorf("connection %d (%s): %w", i, m.name, err)
		}
	}
	return last, nil
}

// served are how often nginx serves a connection before it closes it, and how
// many connections it does so with.
var served = map[int]int{1: 4000, 2: 3000, 3: 2000, 10: 1000}

// TestRealCrowd: ten thousand connections of curl to nginx, kept alive for one to
// ten requests, that end gracefully. tcpbye rst shows none that the capture has no
// RST of.
func TestRealCrowd(t *testing.T) {
	dir := t.TempDir()
	var conf strings.Builder
	fmt.Fprintf(&conf, "daemon off;\nuser root;\nworker_processes 1;\npid %[1]s/pid;\nerror_log stderr notice;\nevents { worker_connections 4096; }\n"+
		"http {\naccess_log off;\nclient_body_temp_path %[1]s/a;\nproxy_temp_path %[1]s/b;\nfastcgi_temp_path %[1]s/c;\nuwsgi_temp_path %[1]s/d;\nscgi_temp_path %[1]s/e;\n", dir)
	const port = 8000
	total := 0
	for requests, connections := range served {
		fmt.Fprintf(&conf, "server { listen 127.0.0.1:%d; keepalive_requests %d; location / { return 200 \"hello\\n\"; } }\n", port+requests, requests)
		total += connections
	}
	conf.WriteString("}\n")
	if total != many {
		t.Fatalf("%d connections are planned, not %d", total, many)
	}
	path := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(path, []byte(conf.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	r := newNetns(t)
	w := newWire(t, r)
	b := startBye(t, "rst", "--all", "-o", "csv")
	nginx := exec.Command("/usr/sbin/nginx", "-e", "stderr", "-p", dir, "-c", path)
	var said strings.Builder
	nginx.Stderr = &said
	if err := r.start(nginx); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = nginx.Wait() // how it ended is in its state
	}()
	t.Cleanup(func() { _ = nginx.Process.Signal(unix.SIGTERM); <-ended })
	listening := func() int {
		return strings.Count(text(t, fmt.Sprintf("/proc/%d/net/tcp", nginx.Process.Pid)), " 0A ")
	}
	eventually(t, "nginx to listen", func() (bool, string) { n := listening(); return n == len(served), strconv.Itoa(n) })
	begin := time.Now()
	for _, requests := range slices.Sorted(maps.Keys(served)) {
		url := fmt.Sprintf("http://127.0.0.1:%d/[1-%d]", port+requests, requests*served[requests])
		curl := exec.Command("/usr/bin/curl", "-q", "--silent", "--show-error", "--fail", "--noproxy", "*", "-o", "/dev/null", url)
		var errs strings.Builder
		curl.Stderr = &errs
		if err := r.start(curl); err != nil {
			t.Fatal(err)
		}
		if err := curl.Wait(); err != nil {
			t.Fatalf("curl %s: %v\n%s", url, err, &errs)
		}
	}
	t.Logf("%d connections in %v", many, time.Since(begin).Round(time.Second))
	// As a service is stopped: nginx lets go of what it has, and ends.
	if err := nginx.Process.Signal(unix.SIGQUIT); err != nil {
		t.Fatal(err)
	}
	<-ended
	b.stop()
	w.stop()
	n := b.counts()
	noneLost(t, b)
	t.Logf("the capture has %d connections and RSTs of %d; tcpbye: %+v", w.connections(), len(w.resets), n)
	if w.connections() != many {
		t.Fatalf("there were %d connections, not %d", w.connections(), many)
	}
	// On a slow machine a client may come too late for some: those are not
	// graceful, and not many.
	if len(w.resets) > many/100 {
		t.Errorf("%d connections had a RST", len(w.resets))
	}
	if n.seen < 2*many {
		t.Errorf("tcpbye saw the ends of %d connections, not %d", n.seen/2, many)
	}
	alarms, invented := 0, 0
	told := map[string]int{} // by cause
	for _, x := range b.rows() {
		if x["netns"] != strconv.FormatUint(uint64(r.Inode), 10) {
			continue
		}
		alarms++
		local, err := netip.ParseAddrPort(x["local"])
		if err != nil {
			t.Fatal(err)
		}
		remote, err := netip.ParseAddrPort(x["remote"])
		if err != nil {
			t.Fatal(err)
		}
		if w.resets[link{local, remote}]+w.resets[link{remote, local}] > 0 {
			told[x["cause"]]++
			t.Logf("there was a RST: %v", x)
			continue
		}
		if invented++; invented <= 10 {
			t.Errorf("a false alarm: %v", x)
		}
	}
	t.Logf("%d connections without a RST: %d false alarms; the others: %v", many-len(w.resets), invented, told)
	if inLab() && n.shown != alarms {
		t.Errorf("%d endings are shown that are not of this namespace", n.shown-alarms)
	}
	if t.Failed() {
		keep(t, b)
	}
}
