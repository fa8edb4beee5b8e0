//go:build lab

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/hosts"
	"github.com/tcpbye/tcpbye/tracer/record"
	"github.com/tcpbye/tcpbye/tracer/report"
	"github.com/tcpbye/tcpbye/tracer/story"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// peerEnv makes this test program the client or the server of TestJoinHosts: "client
// ROUNDS AGAIN ADDRESS…" or "server ADDRESS…". It says on its output which connection had which
// addresses, as it saw them.
const peerEnv = "TCPBYE_TEST_PEER"

func init() {
	words := strings.Fields(os.Getenv(peerEnv))
	if len(words) == 0 {
		return
	}
	play := playServer
	if words[0] == "client" {
		play = playClient
	}
	if err := play(words[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// The ways to end a connection, as the client asks for them.
const (
	wayClose       = 'c' // the client closes, then the server
	wayShutdown    = 's' // the client shuts down, the server answers and closes
	wayUnread      = 'u' // the server closes with unread data
	wayServerReset = 'k' // the server aborts (SO_LINGER 0)
	wayClientReset = 'l' // the client aborts
	wayFastOpen    = 'f' // as close, and the client's SYN carries its data (TCP Fast Open)
	wayPath        = 'p' // what the client sends is dropped on the way, and it gives up
)

var ways = []byte{wayClose, wayShutdown, wayUnread, wayServerReset, wayClientReset, wayFastOpen}

var (
	joinRounds = flag.Int("join.rounds", 2, "how often TestJoinHosts goes through the ways to end a connection at each address")
	joinAgain  = flag.Int("join.again", 30, "how many connections it aborts, so that ports are used again and again")
	joinKeep   = flag.String("join.keep", "", "the directory in which it leaves the recordings; with -join.rounds 1 -join.again 0 those of testdata")
)

func playClient(args []string) error {
	rounds, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	again, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	out := bufio.NewWriter(os.Stdout)
	id := uint32(0)
	for _, address := range args[2:] {
		var all []byte
		for range rounds {
			all = append(all, ways...)
		}
		for range again {
			all = append(all, wayClientReset)
		}
		all = append(all, wayPath)
		for _, way := range all {
			id++
			local, err := call1(address, way, id)
			if err != nil {
				return fmt.Errorf("%c to %s: %w", way, address, err)
			}
			fmt.Fprintln(out, id, local, string(way))
		}
		// Nobody listens there.
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			return err
		}
		if c, err := net.Dial("tcp", net.JoinHostPort(host, "8999")); !errors.Is(err, syscall.ECONNREFUSED) {
			return fmt.Errorf("a port that is closed: %v, %v", c, err)
		}
	}
	return out.Flush()
}

func call1(address string, way byte, id uint32) (local string, err error) {
	if way == wayPath {
		host, _, _ := net.SplitHostPort(address)
		address = net.JoinHostPort(host, "8001")
	}
	var d net.Dialer
	if way == wayFastOpen {
		d.Control = option(unix.TCP_FASTOPEN_CONNECT, 1)
	}
	c, err := d.Dial("tcp", address)
	if err != nil {
		return "", err
	}
	defer c.Close()
	hello := append(binary.BigEndian.AppendUint32(nil, id), way)
	if way == wayUnread {
		hello = append(hello, make([]byte, 1000)...)
	}
	if _, err := c.Write(hello); err != nil {
		return "", err
	}
	answer := make([]byte, 2)
	switch way {
	case wayPath:
		if _, err := io.ReadFull(c, answer); err != nil {
			return "", err
		}
		return localOf(c), giveUp(c.(*net.TCPConn))
	case wayUnread, wayServerReset:
		if _, err := io.ReadFull(c, answer); !errors.Is(err, syscall.ECONNRESET) {
			return "", fmt.Errorf("want a reset, got %v", err)
		}
		return localOf(c), nil
	case wayShutdown:
		if err := c.(*net.TCPConn).CloseWrite(); err != nil {
			return "", err
		}
	}
	if _, err := io.ReadFull(c, answer); err != nil {
		return "", err
	}
	if way == wayShutdown {
		if _, err := c.Read(answer); err != io.EOF {
			return "", fmt.Errorf("want the end, got %v", err)
		}
	}
	if way == wayClientReset {
		err = c.(*net.TCPConn).SetLinger(0)
	}
	return localOf(c), err
}

// option sets an option of a TCP socket before it is connected or listens.
func option(name, value int) func(string, string, syscall.RawConn) error {
	return func(_, _ string, raw syscall.RawConn) error {
		var failed error
		err := raw.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, name, value) })
		return errors.Join(err, failed)
	}
}

// localOf is a socket's own address as it is now: with TCP_FASTOPEN_CONNECT it has none
// before it sends.
func localOf(c net.Conn) string {
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		return err.Error()
	}
	local := "?"
	err = raw.Control(func(fd uintptr) {
		sa, _ := unix.Getsockname(int(fd))
		switch sa := sa.(type) {
		case *unix.SockaddrInet4:
			local = netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port)).String()
		case *unix.SockaddrInet6:
			local = netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port)).String()
		}
	})
	if err != nil {
		return err.Error()
	}
	return local
}

// giveUp sends what nobody gets, with little patience.
func giveUp(c *net.TCPConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	if err := option(unix.TCP_USER_TIMEOUT, 1000)("", "", raw); err != nil {
		return err
	}
	if _, err := c.Write(make([]byte, 500)); err != nil {
		return err
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ETIMEDOUT) {
		return fmt.Errorf("want a timeout, got %v", err)
	}
	return nil
}

// playServer serves until its input ends.
func playServer(addresses []string) error {
	out := make(chan string)
	fail := make(chan error)
	for _, address := range addresses {
		listen := net.ListenConfig{Control: option(unix.TCP_FASTOPEN, 64)}
		l, err := listen.Listen(context.Background(), "tcp", address)
		if err != nil {
			return err
		}
		go func() {
			var all []net.Conn // what is not closed is not to be collected
			defer func() { runtime.KeepAlive(all) }()
			for {
				c, err := l.Accept()
				if err != nil {
					fail <- err
					return
				}
				all = append(all, c)
				// Whoever is served comes next: that makes the order of ends plain.
				if line, err := answer1(c.(*net.TCPConn)); err != nil {
					fail <- err
					return
				} else {
					out <- line
				}
			}
		}()
	}
	over := make(chan struct{})
	go func() { io.Copy(io.Discard, os.Stdin); close(over) }()
	fmt.Println("ready")
	for {
		select {
		case line := <-out:
			fmt.Println(line)
		case err := <-fail:
			return err
		case <-over:
			return nil
		}
	}
}

func answer1(c *net.TCPConn) (line string, err error) {
	hello := make([]byte, 5)
	defer func() {
		if hello[4] != wayPath { // which stays until the server ends
			c.Close()
		}
	}()
	if _, err := io.ReadFull(c, hello); err != nil {
		return "", err
	}
	line = fmt.Sprint(binary.BigEndian.Uint32(hello), " ", c.RemoteAddr())
	switch hello[4] {
	case wayUnread:
		return line, waitUnread(c, 1000)
	case wayServerReset:
		return line, c.SetLinger(0)
	case wayShutdown:
		if _, err := c.Read(hello); err != io.EOF {
			return "", fmt.Errorf("want the end, got %v", err)
		}
	}
	if _, err := c.Write([]byte("ok")); err != nil {
		return "", err
	}
	if hello[4] == wayClose || hello[4] == wayFastOpen || hello[4] == wayClientReset {
		_, err = c.Read(hello)
		if err == io.EOF || errors.Is(err, syscall.ECONNRESET) {
			err = nil
		}
	}
	return line, err
}

// waitUnread waits until so much can be read.
func waitUnread(c *net.TCPConn, n int) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var waiting int
	var failed error
	err = raw.Read(func(fd uintptr) bool {
		waiting, failed = unix.IoctlGetInt(int(fd), unix.SIOCINQ)
		return failed != nil || waiting >= n
	})
	return errors.Join(err, failed)
}

// spaces are the hosts of a test: two, and a router between them.
type spaces struct{ client, router, server string }

// ip runs ip(8).
func ip(t *testing.T, args string) {
	t.Helper()
	if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v: %s", args, err, out)
	}
}

// newSpaces makes them. The router translates both ways: who calls it is handed on to
// the server, from an address and a random port of the router's own.
func newSpaces(t *testing.T, cookies string) spaces {
	t.Helper()
	name := func(role string) string { return fmt.Sprintf("tcpbye-%s-%d-%s", role, os.Getpid(), cookies) }
	s := spaces{name("web"), name("nat"), name("db")}
	for _, ns := range []string{s.client, s.router, s.server} {
		ip(t, "netns add "+ns)
		t.Cleanup(func() { ip(t, "netns del "+ns) })
		ip(t, "-n "+ns+" link set lo up")
	}
	for i, ns := range []string{s.client, s.server} {
		n := i + 1
		ip(t, fmt.Sprintf("-n %s link add host%d type veth peer name eth0 netns %s", s.router, n, ns))
		ip(t, fmt.Sprintf("-n %s address add 10.77.%d.1/24 dev host%d", s.router, n, n))
		ip(t, fmt.Sprintf("-n %s address add fd77:%d::1/64 dev host%d nodad", s.router, n, n))
		ip(t, fmt.Sprintf("-n %s link set host%d up", s.router, n))
		ip(t, fmt.Sprintf("-n %s address add 10.77.%d.2/24 dev eth0", ns, n))
		ip(t, fmt.Sprintf("-n %s address add fd77:%d::2/64 dev eth0 nodad", ns, n))
		ip(t, "-n "+ns+" link set eth0 up")
		ip(t, fmt.Sprintf("-n %s route add default via 10.77.%d.1", ns, n))
		ip(t, fmt.Sprintf("-n %s -6 route add default via fd77:%d::1", ns, n))
	}
	inside(t, s.client, "sysctl", "-qw", "net.ipv4.ip_local_port_range=40000 40063", "net.ipv4.tcp_fastopen=1")
	inside(t, s.server, "sysctl", "-qw", "net.ipv4.tcp_syncookies="+cookies, "net.ipv4.tcp_fastopen=2")
	inside(t, s.router, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
	rules := exec.Command("ip", "netns", "exec", s.router, "nft", "-f", "-")
	rules.Stdin = strings.NewReader(`
table inet nat {
	chain in {
		type nat hook prerouting priority -100;
		ip daddr 10.77.1.1 dnat ip to 10.77.2.2
		ip6 daddr fd77:1::1 dnat ip6 to fd77:2::2
	}
	chain through {
		type filter hook forward priority 0;
		tcp dport 8001 meta length > 400 drop
	}
	chain out {
		type nat hook postrouting priority 100;
		meta l4proto tcp masquerade fully-random
	}
}
`)
	if out, err := rules.CombinedOutput(); err != nil {
		t.Fatalf("nft: %v: %s", err, out)
	}
	return s
}

func inside(t *testing.T, ns string, args ...string) string {
	t.Helper()
	out, err := exec.Command("ip", append([]string{"netns", "exec", ns}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v: %s", args, err, out)
	}
	return string(out)
}

// counter is one of TcpExt's of a namespace.
func counter(t *testing.T, ns, name string) (n int) {
	t.Helper()
	lines := strings.Split(inside(t, ns, "cat", "/proc/net/netstat"), "\n")
	names, values := strings.Fields(lines[0]), strings.Fields(lines[1])
	i := slices.Index(names, name)
	if i < 0 {
		t.Fatalf("there is no counter %s", name)
	}
	n, err := strconv.Atoi(values[i])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// recordHost starts a tcpbye that records one host; stop ends it and returns what it
// recorded, as if that host were a machine of its own.
func recordHost(t *testing.T, path, ns, host string) (stop func() string) {
	t.Helper()
	dir := t.TempDir()
	file, ready := filepath.Join(dir, host+".tcpbye"), filepath.Join(dir, "ready")
	if err := unix.Mkfifo(ready, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), path, "trace", "-w", file, "--netns", ns, "--ready-file", ready)
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(ready); err != nil || string(b) != "ready\n" {
		t.Fatalf("%q, %v: %s", b, err, &said)
	}
	return func() string {
		if err := cmd.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Fatalf("%v: %s", err, &said)
		}
		t.Logf("%s: %s", host, bytes.TrimSpace(said.Bytes()))
		return onHost(t, file, ns, host)
	}
}

// onHost writes what a recording has of a namespace again, as that of another machine:
// without the ends that only this one machine can know. What remains the same is the
// clock, and nothing in the recording says so.
func onHost(t *testing.T, file, ns, host string) string {
	t.Helper()
	st := new(unix.Stat_t)
	if err := unix.Stat("/run/netns/"+ns, st); err != nil {
		t.Fatal(err)
	}
	inode := uint32(st.Ino)
	from, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	name := strings.TrimSuffix(file, ".tcpbye") + "-alone.tcpbye"
	to, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	var w *record.Writer
	err = record.Read(from, record.Handler{
		Meta: func(m record.Meta) (err error) {
			if m.Host == nil || m.Host.ID == "" || m.Host.Boot == "" || m.Host.Name == "" {
				t.Errorf("the recording does not name its host: %+v", m.Host)
			}
			m.Host = &record.Host{ID: host, Boot: host, Name: record.Text(host)}
			w, err = record.NewWriter(to, m)
			return err
		},
		Event: func(e event.Event) error {
			if e.Has&event.HasTuple != 0 && e.NetNS != inode {
				return nil
			}
			return w.Event(e)
		},
		Loss:    func(x record.Loss) error { return w.Loss(x) },
		End:     func(x record.End) error { return w.Close(x) },
		Process: func(x record.Process) error { return w.Process(x) },
		Seed: func(x record.Seed) error {
			if x.NetNS != inode {
				return nil
			}
			return w.Seed(x)
		},
		Tick:   func(x record.Tick) error { return w.Tick(x) },
		Choice: func(x record.Choice) error { return w.Choice(x) },
		Wall:   func(x record.Wall) error { return w.Wall(x) },
		Look:   func(x record.Look) error { return w.Look(x) },
		Story: func(raw []byte, jiffy time.Duration) error {
			if story.RawOf(raw).NetNS() != inode {
				return nil
			}
			return w.Story(raw, jiffy)
		},
	})
	if err := errors.Join(err, to.Close()); err != nil {
		t.Fatal(err)
	}
	return name
}

// TestJoinHosts: two hosts with a router between them that translates addresses and ports
// both ways, IPv4 and IPv6, with TCP Fast Open and with SYN cookies. Each end is recorded on its host alone; joined, every
// connection is one, and none is another's.
func TestJoinHosts(t *testing.T) {
	path := built(t)
	t.Run("plain", func(t *testing.T) { joinHosts(t, path, "1") })
	t.Run("cookies", func(t *testing.T) { joinHosts(t, path, "2") })
}

// joinHosts plays it; cookies is the server's net.ipv4.tcp_syncookies: 2 is always.
func joinHosts(t *testing.T, path, cookies string) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	s := newSpaces(t, cookies)
	stopClient, stopServer := recordHost(t, path, s.client, "web1"), recordHost(t, path, s.server, "db1")

	peer := func(ns, role string) *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), "ip", "netns", "exec", ns, self, "-test.run=^$")
		cmd.Env = append(os.Environ(), peerEnv+"="+role)
		cmd.Stderr = t.Output()
		return cmd
	}
	server := peer(s.server, "server 10.77.2.2:8000 10.77.2.2:8001 [fd77:2::2]:8000 [fd77:2::2]:8001")
	over, err := server.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	served, err := server.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(served)
	if !lines.Scan() || lines.Text() != "ready" {
		t.Fatalf("the server said %q", lines.Text())
	}
	called := make(chan []byte, 1)
	go func() {
		out, err := peer(s.client, fmt.Sprintf("client %d %d 10.77.1.1:8000 [fd77:1::1]:8000", *joinRounds, *joinAgain)).Output()
		if err != nil {
			t.Errorf("the client: %v", err)
		}
		called <- out
		over.Close()
	}()
	byServer := map[string]string{} // the remote address as the server saw it, by the connection's number
	for lines.Scan() {
		id, remote, _ := strings.Cut(lines.Text(), " ")
		byServer[id] = remote
	}
	if err := server.Wait(); err != nil {
		t.Fatal(err)
	}
	out := <-called
	if n := counter(t, s.server, "TCPFastOpenPassive"); n > 0 != (cookies != "2") { // one excludes the other
		t.Errorf("%d SYNs carried data", n)
	}
	if n := counter(t, s.server, "SyncookiesRecv"); n > 0 != (cookies == "2") {
		t.Errorf("%d SYN cookies came back", n)
	}
	recordings := []string{stopClient(), stopServer()}

	// As they are, both recordings have both ends of all: each is shown once.
	raw := []string{"join", "-o", "json", "--no-events"}
	for _, name := range recordings {
		raw = append(raw, strings.Replace(name, "-alone", "", 1))
	}
	all, err := exec.Command(path, raw...).Output()
	if err != nil {
		t.Fatalf("join of one machine's recordings: %v", err)
	}
	cmd := exec.Command(path, append([]string{"join", "-o", "json", "--no-events"}, recordings...)...)
	var said bytes.Buffer
	cmd.Stderr = &said
	joined, err := cmd.Output()
	if err != nil {
		t.Fatalf("join: %v: %s", err, &said)
	}
	t.Logf("%s", bytes.TrimSpace(said.Bytes()))
	ends := map[string]*report.Record{}
	byLocal := map[string][]*report.Record{} // of the client's host
	outcomes, lost := map[string]int{}, 0
	for line := range bytes.Lines(joined) {
		r := new(report.Record)
		if err := json.Unmarshal(line, r); err != nil {
			t.Fatal(err)
		}
		ends[r.ID] = r
		if r.Host == "web1" && r.Local != nil {
			byLocal[*r.Local] = append(byLocal[*r.Local], r)
		}
		if r.Joint != nil {
			outcomes[r.Joint.Outcome]++
			for _, l := range r.Joint.Path {
				if l.From == "web1" && l.To == "db1" && l.What == hosts.LostData && l.Bytes != nil && *l.Bytes == 500 {
					lost++
				} else {
					t.Errorf("%s > %s: the path lost %+v", *r.Local, *r.Remote, l)
				}
			}
			c := r.Joint.Clock
			if c.Least != nil && *c.Least > int64(time.Millisecond) || c.Most != nil && *c.Most < -int64(time.Millisecond) {
				t.Errorf("%s: the clocks are one, and found to be %d to %d ns apart", *r.Local, *c.Least, *c.Most)
			}
		}
	}
	t.Logf("outcomes: %v", outcomes)
	if n := bytes.Count(all, []byte("\n")); n != len(ends) {
		t.Errorf("two recordings of one machine have %d ends, want the %d that there are", n, len(ends))
	}
	causes := map[byte]map[string]int{}
	calls, found := 0, 0
	for line := range bytes.Lines(out) {
		var id, local, way string
		if _, err := fmt.Sscan(string(line), &id, &local, &way); err != nil {
			t.Fatal(err)
		}
		calls++
		// Of those that had the port one after the other, the next.
		list := byLocal[local]
		if len(list) == 0 {
			t.Errorf("connection %s, %s from %s: the client's end is missing", id, way, local)
			continue
		}
		r := list[0]
		byLocal[local] = list[1:]
		if r.PeerID == nil || ends[*r.PeerID] == nil {
			t.Errorf("connection %s, %s from %s: not joined", id, way, local)
			continue
		}
		p := ends[*r.PeerID]
		if p.Host != "db1" || *p.Remote != byServer[id] {
			t.Errorf("connection %s, %s from %s is joined with one of %s from %s, and the server saw %s", id, way, local, p.Host, *p.Remote, byServer[id])
			continue
		}
		found++
		if causes[way[0]] == nil {
			causes[way[0]] = map[string]int{}
		}
		causes[way[0]][r.Verdict.Cause+", "+r.Verdict.Confidence]++
	}
	t.Logf("%d of %d connections joined; the client's verdicts:%v", found, calls, causesText(causes))
	if lost != 4 {
		t.Errorf("%d ends tell of the 500 bytes that the router dropped, want both of two connections", lost)
	}
	if *joinKeep != "" {
		for _, name := range recordings {
			b, err := os.ReadFile(name)
			if err == nil {
				err = os.WriteFile(filepath.Join(*joinKeep, strings.Replace(filepath.Base(name), "-alone", "", 1)), b, 0o644)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	for way, cause := range map[byte]verdict.Cause{wayClose: verdict.OrderlyClose, wayShutdown: verdict.HalfClose, wayUnread: verdict.CloseUnread,
		wayServerReset: verdict.LingerZero, wayClientReset: verdict.LingerZero, wayFastOpen: verdict.OrderlyClose, wayPath: verdict.UserTimeout} {
		for said, n := range causes[way] {
			if c, sure, _ := strings.Cut(said, ", "); c != string(cause) && sure == string(verdict.Certain) {
				t.Errorf("%d connections that ended as %c are certainly %s", n, way, c)
			}
		}
	}
	if outcomes[string(hosts.Disputed)] > 0 {
		t.Error("what one host is certain of is disputed")
	}
	if want := 2 * (*joinRounds*len(ways) + *joinAgain + 1); calls != want {
		t.Errorf("%d connections, want %d", calls, want)
	}
}

func causesText(causes map[byte]map[string]int) string {
	var b strings.Builder
	for _, way := range append(slices.Clone(ways), wayPath) {
		fmt.Fprintf(&b, " %c: %v", way, causes[way])
	}
	return b.String()
}
