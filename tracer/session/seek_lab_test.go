//go:build lab

package session_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/tracer"
	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/record"
	"github.com/tcpbye/tcpbye/tracer/session"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// TestOtherEndIsAskedFor: an end is aborted whose other end lives on, as nothing
// reaches that any more, and whose story is plain so far. The verdict knows of it all
// the same, while it lives.
func TestOtherEndIsAskedFor(t *testing.T) {
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	socket := func() int {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		must(err)
		return fd
	}
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	var local netip.AddrPort
	var shown *conn.Connection
	var judged verdict.Verdict
	act := func() {
		listener, client := socket(), socket()
		defer unix.Close(listener)
		must(unix.Bind(listener, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
		must(unix.Listen(listener, 1))
		at, err := unix.Getsockname(listener)
		must(err)
		must(unix.Connect(client, at))
		server, _, err := unix.Accept(listener)
		must(err)
		_, err = unix.Write(client, []byte("not read"))
		must(err)
		name, err := unix.Getsockname(server)
		must(err)
		v4 := name.(*unix.SockaddrInet4)
		local = netip.AddrPortFrom(netip.AddrFrom4(v4.Addr), uint16(v4.Port))
		// Nothing gets to the client from now on.
		drop := []unix.SockFilter{{Code: unix.BPF_RET, K: 0}}
		must(unix.SetsockoptSockFprog(client, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &drop[0]}))
		must(unix.Close(server))
		t.Cleanup(func() { unix.Close(client) })
	}
	_, err := session.Live(ctx, tracer.Options{Story: true}, func(_ record.Meta, _ []tracer.Attachment) (session.Config, error) {
		return session.Config{
			Started: func() error { act(); return nil },
			Show: func(c *conn.Connection, v verdict.Verdict) error {
				if c.Local == local && c.Remote.IsValid() && c.Ended != 0 {
					shown, judged = c, v
					stop()
				}
				return nil
			},
		}, nil
	})
	must(err)
	switch {
	case shown == nil:
		t.Fatal("the end was not shown while the other lived on")
	case judged.Cause != verdict.CloseUnread || judged.Ender != verdict.LocalProcess:
		t.Errorf("it is judged %s, %s: %s", judged.Cause, judged.Ender, judged.Sentence)
	case shown.Peer == nil:
		t.Errorf("its other end is not known: %s", judged.Sentence)
	case shown.Peer.Local != shown.Remote || shown.Peer.Open != conn.OpenActive || shown.Peer.Ended != 0:
		t.Errorf("its other end is taken for %v, %v, ended %v", shown.Peer.Local, shown.Peer.Open, shown.Peer.Ended)
	}
}

// TestOlderIsWhole: of a connection that is older than the trace nothing is missing where
// others are told in stories.
func TestOlderIsWhole(t *testing.T) {
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	must(err)
	defer l.Close()
	client, err := net.Dial("tcp4", l.Addr().String())
	must(err)
	server, err := l.Accept()
	must(err)
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	ends := map[string]verdict.Verdict{}
	_, err = session.Live(ctx, tracer.Options{Story: true}, func(_ record.Meta, _ []tracer.Attachment) (session.Config, error) {
		return session.Config{
			Started: func() error {
				if err := client.Close(); err != nil {
					return err
				}
				if _, err := server.Read(make([]byte, 1)); err != io.EOF {
					return fmt.Errorf("read %v, want the end", err)
				}
				return server.Close()
			},
			Show: func(c *conn.Connection, v verdict.Verdict) error {
				if c.Local == netip.MustParseAddrPort(client.LocalAddr().String()) || c.Local == netip.MustParseAddrPort(server.LocalAddr().String()) && c.Remote.Port() != 0 {
					if ends[c.Local.String()] = v; len(ends) == 2 {
						stop()
					}
				}
				return nil
			},
		}, nil
	})
	must(err)
	if len(ends) != 2 {
		t.Fatalf("%d ends are shown", len(ends))
	}
	for local, v := range ends {
		if v.Class != verdict.Graceful || v.Unseen != "" {
			t.Errorf("%s: %s, not seen: %q: %s", local, v.Class, v.Unseen, v.Sentence)
		}
	}
}
