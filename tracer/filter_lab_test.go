//go:build lab

package tracer

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tcpbye/tcpbye/tracer/event"
)

// A talk is a connection whose addresses the test chooses, so that it is the same
// in each run.
type talk struct{ client, server string }

var talks = []talk{
	{"127.0.0.1:7101", "127.0.0.1:7001"},
	{"127.0.0.1:0", "127.0.0.1:7002"}, // its port is chosen by the kernel
	{"127.0.0.1:7103", "127.0.0.1:7003"},
	{"127.0.0.8:7104", "127.0.0.9:7004"},
	{"[::1]:7105", "[::1]:7005"},
}

// TestFilter: of a connection that is wanted the kernel half tells all that it
// tells without a filter, and of one that is not wanted nothing.
func TestFilter(t *testing.T) {
	var ns syscall.Stat_t
	if err := syscall.Stat("/proc/self/ns/net", &ns); err != nil {
		t.Fatal(err)
	}
	all := told(t, Options{})
	prefixes := func(s ...string) (out []netip.Prefix) {
		for _, p := range s {
			out = append(out, netip.MustParsePrefix(p))
		}
		return out
	}
	for _, tt := range []struct {
		name   string
		filter Filter
		want   []int // of talks
	}{
		{"nothing", Filter{Ports: []PortRange{{1, 1}}}, nil},
		{"the service's port", Filter{Ports: []PortRange{{7001, 7001}}}, []int{0}},
		{"the client's port", Filter{Ports: []PortRange{{7103, 7103}}}, []int{2}},
		{"ranges", Filter{Ports: []PortRange{{7002, 7003}, {7104, 7104}}}, []int{1, 2, 3}},
		{"a port that the kernel chooses", Filter{Ports: []PortRange{{20000, 65535}}}, []int{1}},
		{"a local address", Filter{Local: prefixes("127.0.0.8/32")}, []int{3}},
		{"a remote prefix", Filter{Remote: prefixes("127.0.0.8/31")}, []int{3}},
		{"both", Filter{Local: prefixes("127.0.0.9/32"), Remote: prefixes("127.0.0.8/32")}, []int{3}},
		{"two families", Filter{Local: prefixes("::1/128", "127.0.0.8/30")}, []int{3, 4}},
		{"a port and an address", Filter{Ports: []PortRange{{7001, 7003}}, Local: prefixes("127.0.0.1/32")}, []int{0, 1, 2}},
		{"a port and another address", Filter{Ports: []PortRange{{7001, 7003}}, Local: prefixes("127.0.0.9/32")}, nil},
		{"this namespace", Filter{NetNS: []uint32{uint32(ns.Ino)}}, []int{0, 1, 2, 3, 4}},
		{"another namespace", Filter{NetNS: []uint32{1}}, nil},
		{"too many conditions", Filter{Ports: make([]PortRange, maxConditions+1)}, []int{0, 1, 2, 3, 4}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := told(t, Options{Filter: tt.filter})
			want := map[int]string{}
			for _, i := range tt.want {
				want[i] = all[i]
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

// told holds the talks under a tracer and says which hooks told of each.
func told(t *testing.T, o Options) map[int]string {
	t.Helper()
	tr, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	hooks := map[int]map[string]int{}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if err := tr.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		done <- tr.Run(ctx, Handler{Event: func(e event.Event) error {
			for i, talk := range talks {
				_, port, _ := net.SplitHostPort(talk.server)
				p := netip.MustParseAddrPort("0.0.0.0:" + port).Port()
				// Not its listener, which a filter lets through, nor the birth of
				// its child, which has no addresses yet, unless a filter put it off.
				if e.ToState == event.SynRecv || e.Local.Port() != p && e.Remote.Port() != p || !e.Remote.IsValid() || e.Remote.Port() == 0 {
					continue
				}
				if hooks[i] == nil {
					hooks[i] = map[string]int{}
				}
				hooks[i][fmt.Sprint(e.Hook, e.ToState)]++
			}
			return nil
		}, Tick: func(time.Duration) error { return nil }})
	}()
	for _, talk := range talks {
		hold(t, talk)
	}
	cancel() // what is left in the ring is read to its end
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	out := map[int]string{}
	for i, h := range hooks {
		var s []string
		for _, k := range slices.Sorted(maps.Keys(h)) {
			s = append(s, fmt.Sprint(k, "×", h[k]))
		}
		out[i] = strings.Join(s, " ")
	}
	return out
}

// hold opens and ends a connection.
func hold(t *testing.T, talk talk) {
	t.Helper()
	reuse := func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1) })
	}
	lc := net.ListenConfig{Control: reuse}
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(context.Background(), "tcp", talk.server)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	local, err := net.ResolveTCPAddr("tcp", talk.client)
	if err != nil {
		t.Fatal(err)
	}
	d := net.Dialer{LocalAddr: local, Control: reuse}
	c, err := d.Dial("tcp", talk.server)
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	// The server resets, so that no TIME_WAIT keeps the ports from the next run.
	s.(*net.TCPConn).SetLinger(0)
	s.Close()
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Fatal("no reset came")
	}
	c.Close()
}
