//go:build lab

package crowd

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// TestGoServer: ten thousand connections to a server that listens with
// net.Listen, which since Go 1.24 means MPTCP. Its clients do not speak that.
// Every other connection is closed with data unread, of a size of its own, and
// nothing about it may be less than certain.
func TestGoServer(t *testing.T) {
	r := newNetns(t)
	b := startBye(t, "trace", "-o", "csv")
	var l net.Listener
	if err := r.Do(func() (err error) { l, err = net.Listen("tcp", "127.0.0.1:9000"); return err }); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	protocol, err := protocolOf(l)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("net.Listen makes sockets of protocol %d", protocol)
	// Not from 5.10's kernel, which is built without.
	if inLab() && kernelHasMPTCP() != (protocol == unix.IPPROTO_MPTCP) {
		t.Errorf("the kernel has MPTCP: %v", kernelHasMPTCP())
	}
	server := netip.MustParseAddrPort(l.Addr().String())
	const sent, first = 200, 10_000
	unread := func(i int) int { return (i % 2) * (1 + i%100) }
	begin := time.Now()
	for i := range many {
		var c int
		err := r.Do(func() (err error) {
			if c, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
				return err
			}
			from := &unix.SockaddrInet4{Port: first + i, Addr: server.Addr().As4()}
			return do(func() error { return unix.Bind(c, from) },
				func() error { return unix.Connect(c, &unix.SockaddrInet4{Port: int(server.Port()), Addr: from.Addr}) },
				func() error { _, err := unix.Write(c, make([]byte, sent)); return err })
		})
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		s, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(s, make([]byte, sent-unread(i))); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		n, err := unix.Read(c, make([]byte, 1))
		if wants := unread(i) > 0; n > 0 || (err == unix.ECONNRESET) != wants {
			t.Fatalf("connection %d: the client read %d, %v", i, n, err)
		}
		unix.Close(c)
		if i%250 == 249 {
			// Whoever does nothing but end connections is faster than who writes
			// down how they end: it waits.
			last := fmt.Sprintf("%v:%d,", server.Addr(), first+i)
			eventually(t, "tcpbye to catch up", func() (bool, string) {
				return strings.Contains(text(t, b.stdout), last), b.said()
			})
		}
	}
	t.Logf("%d connections in %v", many, time.Since(begin).Round(time.Second))
	b.stop()
	noneLost(t, b)

	ends, wrong, unsure := map[int]int{}, 0, 0
	for _, x := range b.rows() {
		if x["netns"] != strconv.FormatUint(uint64(r.Inode), 10) {
			continue
		}
		local, remote := netip.MustParseAddrPort(x["local"]), netip.MustParseAddrPort(x["remote"])
		client, here := remote.Port(), "server"
		if local.Port() != server.Port() {
			client, here = local.Port(), "client"
		}
		i := int(client) - first
		ends[i]++
		cause, lost := verdict.OrderlyClose, "0"
		if n := unread(i); n > 0 {
			cause = verdict.CloseUnread
			if here == "server" {
				lost = strconv.Itoa(n)
			}
		}
		if x["cause"] == string(cause) && x["lost_unread"] == lost && x["lost_unsent"] == "0" && x["lost_unacked"] == "0" {
			if x["confidence"] != string(verdict.Certain) {
				if unsure++; unsure <= 10 {
					t.Logf("connection %d, %s: %s: %s", i, here, x["confidence"], x["sentence"])
				}
			}
			continue
		}
		if !inLab() && x["confidence"] != string(verdict.Certain) {
			unsure++
			continue
		}
		if wrong++; wrong <= 10 {
			t.Errorf("connection %d, %s: not %s with %s bytes unread: %v", i, here, cause, lost, x)
		}
	}
	missed := 0
	for i := range many {
		if ends[i] != 2 {
			if missed++; missed <= 10 {
				t.Errorf("connection %d has %d ends", i, ends[i])
			}
		}
	}
	t.Logf("%d connections: %d ends wrong, %d connections without both ends, %d honestly unsure", len(ends), wrong, missed, unsure)
	if inLab() && unsure > 0 {
		t.Errorf("%d of %d ends are less than certain", unsure, 2*many)
	}
	if t.Failed() {
		keep(t, b)
	}
}

// protocolOf is the protocol of a listener's socket.
func protocolOf(l net.Listener) (int, error) {
	raw, err := l.(*net.TCPListener).SyscallConn()
	if err != nil {
		return 0, err
	}
	var protocol int
	var perr error
	if err := raw.Control(func(fd uintptr) {
		protocol, perr = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PROTOCOL)
	}); err != nil {
		return 0, err
	}
	return protocol, perr
}

func kernelHasMPTCP() bool {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_MPTCP)
	if err != nil {
		return false
	}
	unix.Close(fd)
	return true
}
