package echo

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// patience is when a test gives up on something that should happen at once, on
// a machine that is busy with something else.
const patience = 10 * time.Second

// binaries is where TestMain builds the programs.
var binaries string

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "echo")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	build := exec.Command("go", "build", "-o", dir, "../client", "../server")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "%v: %v\n%s", build, err, out)
		return 1
	}
	binaries = dir
	return m.Run()
}

// program is a running client or server.
type program struct {
	t      *testing.T
	name   string
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	lines  chan string // of the standard output; closed at its end
	stderr bytes.Buffer
}

// start runs the program; extra become its descriptors 3, 4, …
func start(t *testing.T, name string, extra []*os.File, args ...string) *program {
	t.Helper()
	p := &program{t: t, name: name, lines: make(chan string, 100)}
	p.cmd = exec.Command(filepath.Join(binaries, name), args...)
	p.cmd.ExtraFiles = extra
	p.cmd.Stderr = &p.stderr
	var err error
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if p.cmd.ProcessState == nil {
			_ = p.cmd.Process.Kill()
			_ = p.cmd.Wait()
		}
	})
	go func() {
		defer close(p.lines)
		for r := bufio.NewReader(stdout); ; {
			line, err := r.ReadString('\n')
			if line != "" {
				p.lines <- line
			}
			if err != nil {
				return
			}
		}
	}()
	return p
}

func (p *program) next() (line string, ok bool) {
	p.t.Helper()
	select {
	case line, ok = <-p.lines:
		return line, ok
	case <-time.After(patience):
		p.t.Fatalf("%s: no line after %v; stderr %q", p.name, patience, p.stderr.String())
		return "", false
	}
}

// expect requires the next lines of the output to be exactly these.
func (p *program) expect(want ...string) {
	p.t.Helper()
	for _, w := range want {
		if got, ok := p.next(); !ok || got != w+"\n" {
			p.t.Fatalf("%s printed %q, want the line %q", p.name, got, w)
		}
	}
}

// say types a line.
func (p *program) say(line string) {
	p.t.Helper()
	if _, err := io.WriteString(p.stdin, line+"\n"); err != nil {
		p.t.Fatal(err)
	}
}

// end requires the program to print nothing more on its output, exactly stderr
// on its standard error, and to end with status, an exit code or a signal.
func (p *program) end(status any, stderr string) {
	p.t.Helper()
	for {
		line, ok := p.next()
		if !ok {
			break
		}
		p.t.Errorf("%s also printed %q", p.name, line)
	}
	_ = p.cmd.Wait()
	ws := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	got := any(ws.ExitStatus())
	if ws.Signaled() {
		got = ws.Signal()
	}
	if got != status {
		p.t.Errorf("%s ended with %T %[2]v, want %T %[3]v", p.name, got, status)
	}
	if diff := cmp.Diff(stderr, p.stderr.String()); diff != "" {
		p.t.Errorf("%s: stderr (-want +got):\n%s", p.name, diff)
	}
}

// startServer runs a server on a free port. With held set its work lasts until
// finish is called, once for an answer.
func startServer(t *testing.T, held bool, args ...string) (server *program, port string, finish func()) {
	t.Helper()
	args = append([]string{"-port", "0"}, args...)
	if !held {
		server = start(t, "server", nil, append(args, "-delay", "20ms")...)
	} else {
		workR, workW, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { workR.Close(); workW.Close() })
		server = start(t, "server", []*os.File{workR}, append(args, "-delay", "0", "-work-fd", "3")...)
		finish = func() {
			t.Helper()
			if _, err := workW.Write([]byte{'.'}); err != nil {
				t.Fatal(err)
			}
		}
	}
	line, _ := server.next()
	rest, ok := strings.CutPrefix(line, "listening on 0.0.0.0:")
	port, v6, _ := strings.Cut(rest, ", ")
	if !ok || v6 != "[::]:"+port+"\n" {
		t.Fatalf("the server said %q; stderr %q", line, server.stderr.String())
	}
	return server, port, finish
}

// startClient runs a client and returns its own address.
func startClient(t *testing.T, addr string, args ...string) (client *program, local string) {
	t.Helper()
	client = start(t, "client", nil, append(args, addr)...)
	line, _ := client.next()
	local, ok := strings.CutPrefix(line, "connected to "+addr+" from ")
	if !ok {
		t.Fatalf("client printed %q; stderr %q", line, client.stderr.String())
	}
	return client, strings.TrimSuffix(local, "\n")
}

func loopback4(port string) string { return net.JoinHostPort("127.0.0.1", port) }

// listed reports whether the kernel's table of IPv4 connections has the
// server's socket for this client.
func listed(t *testing.T, client, server string) bool {
	t.Helper()
	table, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Contains(table, []byte(hexAddr(t, server)+" "+hexAddr(t, client)))
}

// untilReset waits until the server's socket for this client is not listed any
// more although the server has not closed it: it was reset.
func untilReset(t *testing.T, client, server string) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); listed(t, client, server); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("the connection from %s is still there", client)
		}
	}
}

// hexAddr returns an IPv4 address as /proc/net/tcp spells it: the address in
// host byte order.
func hexAddr(t *testing.T, s string) string {
	t.Helper()
	ap, err := netip.ParseAddrPort(s)
	if err != nil {
		t.Fatal(err)
	}
	addr := ap.Addr().As4()
	return fmt.Sprintf("%08X:%04X", binary.NativeEndian.Uint32(addr[:]), ap.Port())
}

func TestCloseExperiment(t *testing.T) {
	for _, tt := range []struct {
		sigpipe string
		output  []string
		status  any
		stderr  string
	}{
		{sigpipe: "default", status: unix.SIGPIPE},
		{sigpipe: "ignore", status: 1, stderr: "send: broken pipe (EPIPE)\n"},
		{sigpipe: "handler", output: []string{"received 2 datagrams"}, status: 0},
	} {
		t.Run(tt.sigpipe, func(t *testing.T) {
			server, port, finish := startServer(t, true, "--sigpipe", tt.sigpipe)
			client, local := startClient(t, loopback4(port), "-linger-before-exit", "0")
			client.say("data1")
			client.expect("now sending data1", "send bytes: 5")
			server.expect("received 5 bytes: data1")
			client.say("data2")
			client.expect("now sending data2", "send bytes: 5")
			client.say("close")
			client.end(0, "")
			if !listed(t, local, loopback4(port)) {
				t.Fatal("the server's connection is gone before the server answered")
			}

			finish() // the first answer meets a closed socket
			server.expect("send bytes: 9", "received 5 bytes: data2")
			untilReset(t, local, loopback4(port))
			finish() // the second one meets a reset connection
			server.expect(tt.output...)
			server.end(tt.status, tt.stderr)
		})
	}
}

// TestSigpipeDisposition asks the kernel what SIGPIPE does to the server, which
// is started as shells and service managers may start it: with SIGPIPE ignored.
func TestSigpipeDisposition(t *testing.T) {
	for _, tt := range []struct {
		sigpipe         string
		ignored, caught bool
	}{
		{sigpipe: "default"},
		{sigpipe: "ignore", ignored: true},
		{sigpipe: "handler", caught: true},
	} {
		t.Run(tt.sigpipe, func(t *testing.T) {
			sh := exec.Command("sh", "-c", `trap "" PIPE; exec "$@"`, "sh", filepath.Join(binaries, "server"), "-port", "0", "-sigpipe", tt.sigpipe)
			out, err := sh.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := sh.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() {
				_ = sh.Process.Kill()
				_ = sh.Wait()
			}()
			if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
				t.Fatalf("the server said %q, %v", line, err)
			}
			status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", sh.Process.Pid))
			if err != nil {
				t.Fatal(err)
			}
			for field, want := range map[string]bool{"SigIgn": tt.ignored, "SigCgt": tt.caught} {
				_, rest, ok := strings.Cut(string(status), field+":\t")
				if !ok {
					t.Fatalf("no %s in\n%s", field, status)
				}
				set, err := strconv.ParseUint(rest[:16], 16, 64)
				if err != nil {
					t.Fatal(err)
				}
				if got := set&(1<<(unix.SIGPIPE-1)) != 0; got != want {
					t.Errorf("%s has SIGPIPE: %v, want %v", field, got, want)
				}
			}
		})
	}
}

func TestShutdownExperiment(t *testing.T) {
	server, port, finish := startServer(t, true)
	client, _ := startClient(t, loopback4(port))
	client.say("data1")
	client.expect("now sending data1", "send bytes: 5")
	server.expect("received 5 bytes: data1")
	client.say("data2")
	client.expect("now sending data2", "send bytes: 5")
	client.say("shutdown\nthis is not sent")

	finish()
	server.expect("send bytes: 9", "received 5 bytes: data2")
	client.expect("Hi, data1")
	finish()
	server.expect("send bytes: 9", "client closed")
	server.end(0, "")
	client.expect("Hi, data2", "server terminated")
	client.end(0, "")
}

// TestExitSendsFIN holds Run to leaving the last connection to the exit of the
// process: when it has returned, the connection is still open.
func TestExitSendsFIN(t *testing.T) {
	r, w := io.Pipe()
	defer r.Close()
	var stderr bytes.Buffer
	before := openSockets(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	code := make(chan int, 1)
	go func() {
		server := Server{Sigpipe: SigpipeIgnore, Connections: 1, Stdout: w, Stderr: &stderr}
		code <- server.Run(ctx)
		w.Close()
	}()
	var port int
	said := bufio.NewReader(r)
	if line, err := said.ReadString('\n'); err != nil {
		t.Fatal(err)
	} else if _, err := fmt.Sscanf(line, "listening on 0.0.0.0:%d,", &port); err != nil {
		t.Fatalf("the server said %q: %v", line, err)
	}
	conn, err := net.Dial("tcp4", loopback4(strconv.Itoa(port)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(said)
	if got := <-code; got != 0 || err != nil || string(rest) != "client closed\n" {
		t.Fatalf("Run returned %d; stdout %q, %v, stderr %q", got, rest, err, stderr.String())
	}

	left := false
	for _, fd := range openSockets(t) {
		if slices.Contains(before, fd) {
			continue
		}
		if peer, err := unix.Getpeername(fd); err == nil {
			if peer, ok := peer.(*unix.SockaddrInet4); ok && peer.Port == conn.LocalAddr().(*net.TCPAddr).Port {
				left = true
				unix.Close(fd)
			}
		} else if listening, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err == nil && listening == 1 {
			unix.Close(fd)
		}
	}
	if !left {
		t.Error("Run closed the connection")
	}
	if rest, err := io.ReadAll(conn); err != nil || len(rest) != 0 {
		t.Errorf("after the close the client read %q, %v, want the end of input", rest, err)
	}
}

// openSockets returns this process's descriptors that are sockets.
func openSockets(t *testing.T) (fds []int) {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE); err == nil {
			fds = append(fds, fd)
		}
	}
	return fds
}

// TestFamilies checks that a connection of either family arrives as a socket of
// that family: the kernel lists it in the family's own table.
func TestFamilies(t *testing.T) {
	for _, tt := range []struct{ host, table, entry string }{
		{"127.0.0.1", "/proc/net/tcp", "0100007F:%04X 0100007F:%04X"},
		{"::1", "/proc/net/tcp6", "00000000000000000000000001000000:%04X 00000000000000000000000001000000:%04X"},
	} {
		t.Run(tt.host, func(t *testing.T) {
			server, port, _ := startServer(t, false)
			client, local := startClient(t, net.JoinHostPort(tt.host, port))
			client.say("héllo")
			client.expect("now sending héllo", "send bytes: 6")
			server.expect("received 6 bytes: héllo", "send bytes: 10")
			client.expect("Hi, héllo")

			table, err := os.ReadFile(tt.table)
			if err != nil {
				t.Fatal(err)
			}
			listening, _ := strconv.Atoi(port)
			entry := fmt.Sprintf(tt.entry, listening, netip.MustParseAddrPort(local).Port())
			if !strings.Contains(string(table), entry) {
				t.Errorf("%s has no %s:\n%s", tt.table, entry, table)
			}

			client.say("shutdown")
			server.expect("client closed")
			server.end(0, "")
			client.expect("server terminated")
			client.end(0, "")
		})
	}
}

func TestDelay(t *testing.T) {
	server, port, _ := startServer(t, false)
	client, _ := startClient(t, loopback4(port))
	began := time.Now()
	client.say("x")
	client.expect("now sending x", "send bytes: 1", "Hi, x")
	if took := time.Since(began); took < 20*time.Millisecond {
		t.Errorf("the answer took %v, want at least the delay of 20ms", took)
	}
	server.expect("received 1 bytes: x", "send bytes: 5")
}

func TestLingerBeforeExit(t *testing.T) {
	_, port, _ := startServer(t, false)
	client, _ := startClient(t, loopback4(port), "--linger-before-exit", "50ms")
	began := time.Now()
	client.say("close, please")
	client.end(0, "")
	if took := time.Since(began); took < 50*time.Millisecond {
		t.Errorf("the client ended after %v, want at least 50ms", took)
	}
}

func TestServerInterrupted(t *testing.T) {
	for _, during := range []string{"accept", "read", "work"} {
		t.Run(during, func(t *testing.T) {
			server, port, finish := startServer(t, true)
			count := 0
			if during != "accept" {
				client, _ := startClient(t, loopback4(port))
				client.say("data1")
				server.expect("received 5 bytes: data1")
				count++
				if during == "read" {
					finish()
					server.expect("send bytes: 9")
				}
			}
			if err := server.cmd.Process.Signal(os.Interrupt); err != nil {
				t.Fatal(err)
			}
			server.expect(fmt.Sprintf("received %d datagrams", count))
			server.end(0, "")
		})
	}
}

// dial connects as a client that may end in a way the bundled one does not.
func dial(t *testing.T, addr string) *net.TCPConn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn.(*net.TCPConn)
}

// abort closes with an RST.
func abort(t *testing.T, conn *net.TCPConn) {
	t.Helper()
	if err := errors.Join(conn.SetLinger(0), conn.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestServerReadError(t *testing.T) {
	server, port, _ := startServer(t, false)
	abort(t, dial(t, loopback4(port)))
	server.end(1, "read: connection reset by peer (ECONNRESET)\n")
}

func TestServerSendError(t *testing.T) {
	server, port, finish := startServer(t, true)
	conn := dial(t, loopback4(port))
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	server.expect("received 1 bytes: x")
	local := conn.LocalAddr().String()
	if !listed(t, local, loopback4(port)) {
		t.Fatal("the connection is not there")
	}
	abort(t, conn)
	untilReset(t, local, loopback4(port))
	finish()
	server.end(1, "send: connection reset by peer (ECONNRESET)\n")
}

func TestConnections(t *testing.T) {
	server, port, _ := startServer(t, false, "-n", "2")
	for _, message := range []string{"one", "two"} {
		client, _ := startClient(t, loopback4(port))
		client.say(message)
		client.expect("now sending "+message, "send bytes: 3", "Hi, "+message)
		client.say("shutdown")
		// The first connection ends although the server goes on: it closed it.
		client.expect("server terminated")
		client.end(0, "")
		server.expect("received 3 bytes: "+message, "send bytes: 7", "client closed")
	}
	server.end(0, "")
}

func TestConnectionsWithoutEnd(t *testing.T) {
	server, port, _ := startServer(t, false, "-n", "0")
	for range 3 {
		dial(t, loopback4(port)).Close()
		server.expect("client closed")
	}
	if err := server.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	server.expect("received 0 datagrams")
	server.end(0, "")
}

func TestPortBusy(t *testing.T) {
	for _, tt := range []struct{ network, holder, listen string }{
		{"tcp4", "127.0.0.1:0", "0.0.0.0"},
		{"tcp6", "[::1]:0", "::"},
	} {
		t.Run(tt.network, func(t *testing.T) {
			holder, err := net.Listen(tt.network, tt.holder)
			if err != nil {
				t.Fatal(err)
			}
			defer holder.Close()
			_, port, _ := net.SplitHostPort(holder.Addr().String())
			server := start(t, "server", nil, "-port", port)
			server.end(1, "listen on "+net.JoinHostPort(tt.listen, port)+
				": bind: address already in use (EADDRINUSE); stop the program that has this port or choose another port\n")
		})
	}
}

func TestUsage(t *testing.T) {
	for _, tt := range []struct {
		program string
		args    []string
		stderr  string // its first line
	}{
		{"server", []string{"-port", "65536"}, "the port is 0 to 65535, and no other number below 0"},
		{"server", []string{"-delay", "-1s"}, "the port is 0 to 65535, and no other number below 0"},
		{"server", []string{"-sigpipe", "core"}, `invalid value "core" for flag -sigpipe: "core" is none of default, ignore, handler`},
		{"server", []string{"127.0.0.1"}, `unexpected argument "127.0.0.1"`},
		{"client", nil, "want one address, for example 127.0.0.1 or [::1]:43211"},
		{"client", []string{"127.0.0.1:0"}, `address "127.0.0.1:0": a host and a port from 1 to 65535 are needed; want for example 127.0.0.1 or [::1]:43211`},
	} {
		t.Run(tt.program+" "+strings.Join(tt.args, " "), func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			cmd := exec.Command(filepath.Join(binaries, tt.program), tt.args...)
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			_ = cmd.Run()
			if got := cmd.ProcessState.ExitCode(); got != 2 {
				t.Errorf("exit %d, want 2", got)
			}
			if first, _, _ := strings.Cut(stderr.String(), "\n"); first != tt.stderr {
				t.Errorf("stderr %q, want %q", first, tt.stderr)
			}
			if stdout.Len() != 0 {
				t.Errorf("stdout %q, want nothing", stdout.String())
			}
		})
	}
}

func TestClientRefused(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	client := start(t, "client", nil, addr)
	client.end(1, "connect to "+addr+": connect: connection refused (ECONNREFUSED); start the server first, or name its port\n")
}

// peer accepts the connection of a client that it starts.
func peer(t *testing.T) (client *program, conn *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, _ = startClient(t, l.Addr().String())
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { accepted.Close() })
	return client, accepted.(*net.TCPConn)
}

func TestClientServerEndsFirst(t *testing.T) {
	client, conn := peer(t)
	conn.Close()
	client.expect("server terminated")
	client.end(0, "")
}

func TestClientReset(t *testing.T) {
	client, conn := peer(t)
	abort(t, conn)
	client.end(1, "read: connection reset by peer (ECONNRESET)\n")
}

func TestClientEndOfInputCloses(t *testing.T) {
	_, port, _ := startServer(t, false)
	client, _ := startClient(t, loopback4(port), "-linger-before-exit", "0")
	// The last line has no newline.
	if _, err := io.WriteString(client.stdin, "bye"); err != nil {
		t.Fatal(err)
	}
	client.stdin.Close()
	client.expect("now sending bye", "send bytes: 3")
	client.end(0, "")
}

func TestClientLocalhost(t *testing.T) {
	_, port, _ := startServer(t, false)
	client := start(t, "client", nil, "-linger-before-exit", "0", "localhost:"+port)
	line, _ := client.next()
	if !strings.HasPrefix(line, "connected to 127.0.0.1:"+port+" from ") && !strings.HasPrefix(line, "connected to [::1]:"+port+" from ") {
		t.Errorf("client printed %q", line)
	}
	client.say("close")
	client.end(0, "")
}

func TestClientLongLine(t *testing.T) {
	client, conn := peer(t)
	long := strings.Repeat("a", bufferSize) + "close"
	client.say(long)
	client.expect("now sending "+long[:bufferSize], "send bytes: 4096", "now sending close", "send bytes: 5")
	got := make([]byte, len(long))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != long {
		t.Errorf("the peer read %d bytes, %v, want the line of %d", len(got), err, len(long))
	}
}

// TestTerminalEscapes has both ends send what would take over a terminal.
func TestTerminalEscapes(t *testing.T) {
	const hostile = "\x1b[2J\x07ok\xff\u202e"
	const shown = `\x1b[2J\aok\xff\u202e`
	server, port, _ := startServer(t, false)
	client, _ := startClient(t, loopback4(port))
	client.say(hostile)
	client.expect("now sending "+shown, "send bytes: 11", "Hi, "+shown)
	server.expect("received 11 bytes: "+shown, "send bytes: 15")
}

func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"":                    "",
		"Hi, 世界":              "Hi, 世界",
		`"quotes" and \ stay`: `"quotes" and \ stay`,
		"a\nb\tc\x00\x7f":     `a\nb\tc\x00\x7f`,
		"\u0085\u2028\ufeff":  `\u0085\u2028\ufeff`,
		"\xe4\xb8":            `\xe4\xb8`,
		"\ufffd":              "\ufffd",
	} {
		if got := printable([]byte(in)); got != want {
			t.Errorf("printable(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestResolve(t *testing.T) {
	for in, want := range map[string]string{
		"127.0.0.1":    "127.0.0.1:43211",
		"127.0.0.1:80": "127.0.0.1:80",
		"::1":          "[::1]:43211",
		"[::1]":        "[::1]:43211",
		"[::1]:80":     "[::1]:80",
	} {
		if got, err := resolve(in); err != nil || got.String() != want {
			t.Errorf("resolve(%q) = %v, %v, want %s", in, got, err, want)
		}
	}
	for _, in := range []string{"", ":80", "127.0.0.1:0", "127.0.0.1:99999", "1::2::3"} {
		if got, err := resolve(in); err == nil {
			t.Errorf("resolve(%q) = %v, want an error", in, got)
		}
	}
}
