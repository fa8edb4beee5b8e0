package segments_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/record"
	"github.com/tcpbye/tcpbye/tracer/segments"
)

// recorded are the connections of the recorded scenarios, by kernel and name.
func recorded(t *testing.T) map[string][]*conn.Connection {
	t.Helper()
	paths, err := filepath.Glob("../verdict/testdata/*.tcpbye")
	if err != nil || len(paths) < 4 {
		t.Fatalf("%d recordings: %v", len(paths), err)
	}
	all := map[string][]*conn.Connection{}
	for _, path := range paths {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		var j *conn.Joiner
		name := ""
		flush := func() {
			if j != nil {
				all[filepath.Base(path)+" "+name] = j.Flush()
			}
		}
		err = record.Read(f, record.Handler{
			Meta: func(m record.Meta) error {
				flush()
				j, name = conn.New(conn.Options{Hold: true}), m.Scenario
				return nil
			},
			Event: func(e event.Event) error { j.Add(e); return nil },
		})
		if err != nil {
			t.Fatal(err)
		}
		flush()
	}
	return all
}

// brief is a segment in a line; the numbers count from the initial ones.
func brief(s segments.Segment, client netip.AddrPort, isn [2]uint32) string {
	from, seq, ack := "<", s.Seq-isn[1], s.Ack-isn[0]
	if s.From == client {
		from, seq, ack = ">", s.Seq-isn[0], s.Ack-isn[1]
	}
	if !s.Is(event.ACK) {
		ack = 0
	}
	text := fmt.Sprintf("%s %v seq %d ack %d len %d", from, s.Flags, seq, ack, s.Len)
	for _, x := range []struct {
		is   bool
		text string
	}{{s.Latest, "latest"}, {s.Several, "several"}, {s.Sent, "sent"}} {
		if x.is {
			text += " " + x.text
		}
	}
	return text
}

// TestStories holds the segments of recorded connections as a capture has them.
func TestStories(t *testing.T) {
	all := recorded(t)
	for name, want := range map[string][]string{
		"close-unread-ipv4": {
			"> SYN seq 0 ack 0 len 0 sent",
			"< SYN|ACK seq 0 ack 1 len 0 sent",
			"> ACK seq 1 ack 1 len 0",
			"> PSH|ACK seq 701 ack 1 len 300 several",
			"< RST|ACK seq 1 ack 1001 len 0 sent",
		},
		"close-ipv4": {
			"> SYN seq 0 ack 0 len 0 sent",
			"< SYN|ACK seq 0 ack 1 len 0 sent",
			"> ACK seq 1 ack 1 len 0",
			"> FIN|ACK seq 101 ack 201 len 0 sent",
			"< FIN|ACK seq 201 ack 102 len 0 sent",
		},
		"data-after-fin-wait2-ipv4": {
			"> SYN seq 0 ack 0 len 0 sent",
			"< SYN|ACK seq 0 ack 1 len 0 sent",
			"> ACK seq 1 ack 1 len 0",
			"> FIN|ACK seq 101 ack 201 len 0 sent",
			"< PSH|ACK seq 201 ack 102 len 50 sent",
			"> RST seq 102 ack 0 len 0 sent",
		},
		"closed-port-ipv4": {
			"> SYN seq 0 ack 0 len 0 sent",
			"< RST|ACK seq 0 ack 1 len 0 sent",
		},
	} {
		for _, kernel := range []string{"5.10", "6.1", "6.12", "7"} {
			ends := all[kernel+".tcpbye "+name]
			n := slices.IndexFunc(ends, func(c *conn.Connection) bool { return c.Open == conn.OpenActive })
			if n < 0 {
				t.Errorf("%s is not recorded on %s", name, kernel)
				continue
			}
			c := ends[n]
			proven := segments.Of(c, c.Peer)
			var isn [2]uint32
			for _, s := range proven {
				switch {
				case s.Is(event.SYN) && s.From == c.Local:
					isn[0] = s.Seq
				case s.Is(event.SYN):
					isn[1] = s.Seq
				}
			}
			var got []string
			for _, s := range proven {
				got = append(got, brief(s, c.Local, isn))
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("%s %s (-want +got):\n%s", kernel, name, d)
			}
		}
	}
}

// TestTold: what the two ends of a connection tell of the same segment agrees, in
// every recording; and no number is outside what the connection carried.
func TestTold(t *testing.T) {
	pairs, fins, resets := 0, 0, 0
	for name, ends := range recorded(t) {
		for _, c := range ends {
			if c.Peer == nil || c.Open != conn.OpenActive || c.Local != c.Peer.Remote || c.Remote != c.Peer.Local || c.Local == c.Remote || !c.Proven {
				continue
			}
			pairs++
			mine, theirs := segments.Of(c, nil), segments.Of(c.Peer, nil)
			for _, s := range mine {
				for _, o := range theirs {
					if s.From != o.From || s.Sent == o.Sent {
						continue
					}
					const kinds = event.SYN | event.FIN | event.RST
					switch {
					case s.Flags&kinds != o.Flags&kinds:
					case s.Is(event.FIN):
						fins++
						if s.End() != o.End() {
							t.Errorf("%s: a FIN that ends at %d there, and at %d here", name, s.End(), o.End())
						}
					case s.Is(event.RST) && s.Is(event.ACK) == o.Is(event.ACK) && (s.Time-o.Time).Abs() < 200*time.Millisecond:
						resets++
						if s.Seq != o.Seq || s.Is(event.ACK) && s.Ack != o.Ack {
							t.Errorf("%s: a RST %v %d %d there, and %v %d %d here", name, s.Flags, s.Seq, s.Ack, o.Flags, o.Seq, o.Ack)
						}
					}
				}
			}
			both := segments.Of(c, c.Peer)
			if !slices.IsSortedFunc(both, func(a, b segments.Segment) int { return int(a.Time - b.Time) }) {
				t.Errorf("%s: not in the order of time", name)
			}
			seen := map[string]bool{}
			for _, s := range both {
				if s.Is(event.RST) || s.Len > 0 {
					continue
				}
				key := fmt.Sprint(s.From, s.Seq, s.Flags)
				if seen[key] {
					t.Errorf("%s: twice: %s", name, key)
				}
				seen[key] = true
			}
		}
	}
	t.Logf("%d pairs: %d FINs and %d resets are told by both ends", pairs, fins, resets)
	if pairs < 300 || fins < 200 || resets < 50 {
		t.Errorf("%d pairs, %d FINs, %d resets: these recordings prove nothing", pairs, fins, resets)
	}
}

// TestFewerHooks: where hooks are missing, fewer segments are proven, and no others.
func TestFewerHooks(t *testing.T) {
	less := func(c *conn.Connection) *conn.Connection {
		if c == nil {
			return nil
		}
		few := *c
		few.Events = nil
		for _, e := range c.Events {
			switch e.Hook {
			case event.HookSetState, event.HookReset, event.HookSendReset, event.HookDestroy:
				e.Has &^= event.HasSegment // a tracepoint tells no segment
				few.Events = append(few.Events, e)
			}
		}
		few.Elsewhere = nil
		return &few
	}
	n := 0
	for name, ends := range recorded(t) {
		for _, c := range ends {
			if c.Open != conn.OpenActive {
				continue
			}
			full := segments.Of(c, c.Peer)
			for _, s := range segments.Of(less(c), less(c.Peer)) {
				n++
				const kinds = event.SYN | event.FIN | event.RST
				if !slices.ContainsFunc(full, func(o segments.Segment) bool {
					if o.From != s.From || o.Flags&kinds != s.Flags&kinds {
						return false
					}
					if s.Len > 0 {
						return int32(s.Seq-o.Seq) >= 0 && int32(o.End()-s.End()) >= 0
					}
					return o.End() == s.End()
				}) {
					t.Errorf("%s: with fewer hooks only: %v > %v %v %d, %d bytes", name, s.From, s.To, s.Flags, s.Seq, s.Len)
				}
			}
		}
	}
	if n < 1000 {
		t.Errorf("only %d segments were looked at", n)
	}
}
