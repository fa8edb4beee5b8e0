package session

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/record"
	"github.com/tcpbye/tcpbye/tracer/snapshot"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// TestOpenIsLookedUp: that a connection has not ended is certain only where the
// kernel's own table has it as what was told says, and a replay says the same.
func TestOpenIsLookedUp(t *testing.T) {
	const netns = 1
	service := netip.MustParseAddrPort("192.0.2.1:80")
	local := func(i int) netip.AddrPort {
		return netip.AddrPortFrom(netip.MustParseAddr("10.0.0.1"), uint16(30000+i))
	}
	for _, x := range []struct {
		name  string
		table func(i int) *snapshot.Socket // of the i-th; nil: it is not there
		netns uint32                       // that the table is of
		lost  bool
		want  verdict.Confidence
	}{
		{"found", func(i int) *snapshot.Socket {
			return &snapshot.Socket{State: event.Established, Inode: uint64(100 + i)}
		}, netns, false, verdict.Certain},
		{"gone", func(int) *snapshot.Socket { return nil }, netns, false, verdict.Likely},
		{"in another state", func(i int) *snapshot.Socket { return &snapshot.Socket{State: event.CloseWait, Inode: uint64(100 + i)} }, netns, false, verdict.Likely},
		{"another one's", func(i int) *snapshot.Socket { return &snapshot.Socket{State: event.Established, Inode: 7} }, netns, false, verdict.Likely},
		{"elsewhere", func(i int) *snapshot.Socket { return &snapshot.Socket{State: event.Established} }, netns + 1, false, verdict.Likely},
		{"in a loss", func(i int) *snapshot.Socket { return &snapshot.Socket{State: event.Established} }, netns, true, verdict.Likely},
	} {
		t.Run(x.name, func(t *testing.T) {
			const n = 3
			var said []string
			show := func(c *conn.Connection, v verdict.Verdict) error {
				said = append(said, fmt.Sprintf("%v %s %s", c.Local, v.Cause, v.Confidence))
				return nil
			}
			var file bytes.Buffer
			w, err := record.NewWriter(&file, record.Meta{})
			if err != nil {
				t.Fatal(err)
			}
			asked := 0
			s := New(Config{Record: w, Show: show, Sockets: func() (uint32, []snapshot.Socket, error) {
				asked++
				all := []snapshot.Socket{{Time: 2 * time.Second, NetNS: x.netns, State: event.Listen, Local: service}}
				for i := range n {
					if k := x.table(i); k != nil {
						k.Time, k.NetNS, k.Local, k.Remote = 2*time.Second, x.netns, local(i), service
						all = append(all, *k)
					}
				}
				return x.netns, all, nil
			}})
			var in []input
			for i := range n {
				for k, states := range [][2]event.State{{event.Close, event.SynSent}, {event.SynSent, event.Established}} {
					in = append(in, input{event: &event.Event{
						Time: time.Second + time.Duration(2*i+k)*ms, Hook: event.HookSetState, Has: event.HasTuple | event.HasSocket | event.HasPreempt, Family: event.IPv4,
						NetNS: netns, Local: local(i), Remote: service, Sock: uint64(16 * (i + 1)), Conn: uint64(i + 1), State: states[0], ToState: states[1],
						Inode: uint64(100 + i), Context: event.ContextSoftirq,
					}})
				}
			}
			if x.lost {
				in = append(in, input{loss: record.Loss{From: time.Second, Time: 2 * time.Second, Lost: 1}})
			}
			if err := feed(s, in); err != nil {
				t.Fatal(err)
			}
			var want []string
			for i := range n {
				want = append(want, fmt.Sprintf("%v %s %s", local(i), verdict.StillOpen, x.want))
			}
			if asked != 1 || !slices.Equal(said, want) {
				t.Errorf("asked %d times, and told %q, not %q", asked, said, want)
			}
			said = nil
			if _, err := Replay(&file, func(record.Meta) (Config, error) { return Config{Show: show}, nil }); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(said, want) {
				t.Errorf("the recording tells %q, not %q", said, want)
			}
		})
	}
}
