//go:build lab

package tracer

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tcpbye/tcpbye/tracer/event"
	life "github.com/tcpbye/tcpbye/tracer/story"
)

// heard is what a tracer told of the test's own connections.
type heard struct {
	stories []life.Story
	events  []event.Event // of sockets
	stats   Stats
	mode    bool // stories were kept at all
}

// listenIn runs act under a tracer that keeps stories. Sockets are the test's own
// where the service has one of these ports.
func listenIn(t *testing.T, o Options, act func(*Tracer)) heard {
	t.Helper()
	runtime.LockOSThread() // the acts of a plain life are of one thread, or of few
	defer runtime.UnlockOSThread()
	o.Story = true
	tr, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	var h heard
	if h.mode = tr.Stories(); !h.mode {
		for _, a := range tr.Attachments() {
			t.Logf("%-22v %-8v %v", a.Hook, a.Rung, a.Err)
		}
		t.Fatal("no stories are kept here")
	}
	own := map[uint64]bool{} // sockets: at the end of one its port is gone
	ours := func(sock uint64, ends ...netip.AddrPort) bool {
		own[sock] = own[sock] || slices.ContainsFunc(ends, func(a netip.AddrPort) bool { return a.Port() >= 7200 && a.Port() < 7300 })
		return own[sock]
	}
	ctx, cancel := context.WithCancel(context.Background())
	if err := tr.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		done <- tr.Run(ctx, Handler{
			Event: func(e event.Event) error {
				if e.Sock == 0 || e.Hook == event.HookTwskKill || e.Local.Port() != 0 && e.Remote.Port() == 0 || e.ToState == event.Listen || !ours(e.Sock, e.Local, e.Remote) {
					return nil // of no socket, or of a listener
				}
				h.events = append(h.events, e)
				if e.Hook == event.HookDestroy {
					delete(own, e.Sock)
				}
				return nil
			},
			Story: func(raw []byte) error {
				var s life.Story
				if err := s.Decode(raw, jiffy(), runtime.GOARCH); err != nil {
					return err
				}
				if ours(s.Sock, s.Local, s.Remote) {
					h.stories = append(h.stories, s)
					if s.Final {
						delete(own, s.Sock)
					}
				}
				return nil
			},
			Tick: func(time.Duration) error { return nil },
			Idle: func() bool { return true },
		})
	}()
	act(tr)
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if h.stats, err = tr.Stats(); err != nil {
		t.Fatal(err)
	}
	if h.stats.Lost() != 0 {
		t.Errorf("%d events were lost", h.stats.Lost())
	}
	return h
}

// told says in words what came of each end, by its local port, then its steps.
func (h heard) told() []string {
	var all []string
	for _, s := range h.stories {
		var steps []string
		for _, st := range s.Steps[:s.Count] {
			steps = append(steps, stepName(st.Hook, st.ToState))
		}
		who := "server"
		if p := s.Remote.Port(); p >= 7200 && p < 7300 {
			who = "client"
		}
		all = append(all, fmt.Sprintf("%s story final=%v: %s", who, s.Final, strings.Join(steps, " ")))
	}
	for _, e := range h.events {
		who := "server"
		if p := e.Remote.Port(); p >= 7200 && p < 7300 {
			who = "client"
		}
		all = append(all, who+" event "+stepName(e.Hook, e.ToState))
	}
	return all
}

func stepName(h event.Hook, to event.State) string {
	if h == event.HookSetState {
		return ">" + to.String()
	}
	return h.String()
}

// pair is a connection to a port of the test, with raw sockets: nothing else
// touches them.
type pair struct {
	t                        *testing.T
	listener, client, server int
}

var nextPort = 0

func open2(t *testing.T) *pair {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	nextPort = (nextPort + 1) % 100
	here, there := &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}, &syscall.SockaddrInet4{Port: 7200 + nextPort, Addr: [4]byte{127, 0, 0, 1}}
	p := &pair{t: t}
	for fd, at := range map[*int]*syscall.SockaddrInet4{&p.listener: there, &p.client: here} {
		var err error
		*fd, err = syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
		must(err)
		must(syscall.SetsockoptInt(*fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1))
		must(syscall.Bind(*fd, at))
	}
	must(syscall.Listen(p.listener, 8))
	must(syscall.Connect(p.client, there))
	return p
}

func (p *pair) accept() *pair {
	var err error
	if p.server, _, err = syscall.Accept(p.listener); err != nil {
		p.t.Fatal(err)
	}
	return p
}

// talk sends a byte each way, and reads it.
func (p *pair) talk() *pair {
	b := []byte{1}
	for _, d := range [][2]int{{p.client, p.server}, {p.server, p.client}} {
		if _, err := syscall.Write(d[0], b); err != nil {
			p.t.Fatal(err)
		}
		if _, err := syscall.Read(d[1], b); err != nil {
			p.t.Fatal(err)
		}
	}
	return p
}

// plainly opens connections one after the other, talks and closes them: the client first.
func plainly(t *testing.T, connections int) {
	t.Helper()
	for range connections {
		p := open2(t).accept().talk()
		p.close(p.client)
		p.eof(p.server)
		p.close(p.server, p.listener)
	}
	settled()
}

func (p *pair) eof(fd int) {
	if n, err := syscall.Read(fd, make([]byte, 1)); n != 0 || err != nil {
		p.t.Fatalf("read %d bytes, %v; want the end", n, err)
	}
}

func (p *pair) close(fds ...int) {
	for _, fd := range fds {
		if err := syscall.Close(fd); err != nil {
			p.t.Fatal(err)
		}
	}
}

const (
	plainClient = "client story final=true: >SYN_SENT >ESTABLISHED tcp_close __tcp_close >FIN_WAIT1 tcp_send_fin >FIN_WAIT2 tcp_time_wait >CLOSE tcp_destroy_sock"
	plainServer = "server story final=true: >SYN_RECV >ESTABLISHED inet_csk_accept >CLOSE_WAIT tcp_close __tcp_close >LAST_ACK tcp_send_fin >CLOSE tcp_destroy_sock"
)

// TestStories: a plain end is a story and nothing else; what is not plain has its
// story told as far as it was, and the rest as events.
func TestStories(t *testing.T) {
	tests := []struct {
		name string
		act  func(p *pair)
		want []string
		end  bool // some come at the end only
	}{
		{"plain", func(p *pair) {
			p.accept().talk().close(p.client)
			p.eof(p.server)
			p.close(p.server)
		}, []string{plainClient, plainServer}, false},
		{"reset by unread data", func(p *pair) {
			p.accept().talk()
			syscall.Write(p.client, []byte{1})
			p.close(p.server)
			if _, err := syscall.Read(p.client, make([]byte, 1)); err != syscall.ECONNRESET {
				p.t.Fatal(err)
			}
			p.close(p.client)
		}, []string{
			"server story final=false: >SYN_RECV >ESTABLISHED inet_csk_accept tcp_close",
			"client story final=false: >SYN_SENT >ESTABLISHED",
			"server event __tcp_close", "server event >CLOSE", "server event tcp_send_active_reset",
			"client event tcp_reset", "client event inet_sk_error_report", "client event >CLOSE", "server event tcp_destroy_sock",
			"client event tcp_close", "client event __tcp_close", "client event tcp_destroy_sock",
		}, false},
		{"SO_LINGER 0", func(p *pair) {
			p.accept().talk()
			syscall.SetsockoptLinger(p.server, syscall.SOL_SOCKET, syscall.SO_LINGER, &syscall.Linger{Onoff: 1})
			p.close(p.server, p.client)
		}, []string{
			"server story final=false: >SYN_RECV >ESTABLISHED inet_csk_accept tcp_close",
			"client story final=false: >SYN_SENT >ESTABLISHED",
			"server event __tcp_close", "server event tcp_disconnect", "server event >CLOSE", "server event tcp_send_active_reset",
			"client event tcp_reset", "client event inet_sk_error_report", "client event >CLOSE", "server event tcp_destroy_sock",
			"client event tcp_close", "client event __tcp_close", "client event tcp_destroy_sock",
		}, false},
		{"half-closed", func(p *pair) {
			p.accept().talk()
			syscall.Shutdown(p.client, syscall.SHUT_WR)
			p.eof(p.server)
			// What the service sends acknowledges the FIN.
			syscall.Write(p.server, []byte{1})
			syscall.Read(p.client, make([]byte, 1))
		}, []string{
			"client story final=false: >SYN_SENT >ESTABLISHED tcp_shutdown >FIN_WAIT1 tcp_send_fin >FIN_WAIT2",
			"server story final=false: >SYN_RECV >ESTABLISHED inet_csk_accept >CLOSE_WAIT",
		}, true},
		{"open", func(p *pair) { p.accept().talk() }, []string{
			"client story final=false: >SYN_SENT >ESTABLISHED",
			"server story final=false: >SYN_RECV >ESTABLISHED inet_csk_accept",
		}, true},
		{"in the accept queue", func(p *pair) {}, []string{
			"client story final=false: >SYN_SENT >ESTABLISHED",
			"server story final=false: >SYN_RECV >ESTABLISHED",
		}, true},
		{"listener closed", func(p *pair) {
			p.close(p.listener)
			if _, err := syscall.Read(p.client, make([]byte, 1)); err != syscall.ECONNRESET {
				p.t.Fatal(err)
			}
			p.listener = -1
		}, []string{
			"server story final=false: >SYN_RECV >ESTABLISHED",
			"client story final=false: >SYN_SENT >ESTABLISHED",
			"server event inet_child_forget", "server event tcp_disconnect", "server event >CLOSE", "server event tcp_send_active_reset",
			"client event tcp_reset", "client event inet_sk_error_report", "client event >CLOSE", "server event tcp_destroy_sock",
		}, false},
		{"held by another descriptor", func(p *pair) {
			p.accept().talk()
			other, err := syscall.Dup(p.client)
			if err != nil {
				p.t.Fatal(err)
			}
			p.close(p.client)
			p.client = other
		}, []string{
			"client story final=false: >SYN_SENT >ESTABLISHED",
			"client event filp_close",
			"server story final=false: >SYN_RECV >ESTABLISHED inet_csk_accept",
		}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var p *pair
			h := listenIn(t, Options{}, func(*Tracer) {
				p = open2(t)
				tt.act(p)
				if !tt.end {
					settled()
				}
			})
			for _, fd := range []int{p.listener, p.client, p.server} {
				syscall.Close(fd)
			}
			got, want := h.told(), slices.Clone(tt.want)
			slices.Sort(got)
			slices.Sort(want)
			got = slices.DeleteFunc(got, func(s string) bool {
				// It came with 5.15, and tells nothing more.
				return strings.HasSuffix(s, " inet_sk_error_report") || strings.HasSuffix(s, " tcp_send_active_reset")
			})
			want = slices.DeleteFunc(want, func(s string) bool {
				return strings.HasSuffix(s, " inet_sk_error_report") || strings.HasSuffix(s, " tcp_send_active_reset")
			})
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("%s\n%s", d, strings.Join(h.told(), "\n"))
			}
		})
	}
}

// settled waits until an orphan's last segments are handled: on loopback they are
// when the call that sends them returns, or its softirq a moment later.
func settled() {
	for range 3 {
		c, err := net.Dial("tcp4", "127.0.0.1:1")
		if err == nil {
			c.Close()
		}
	}
}

// TestStoriesMany: each plain connection is two stories and no event, and what
// they tell is right.
func TestStoriesMany(t *testing.T) {
	const n = 300
	var inodes int
	h := listenIn(t, Options{}, func(*Tracer) { plainly(t, n) })
	if len(h.stories) != 2*n || len(h.events) != 0 {
		count := map[string]int{}
		for _, s := range h.told() {
			count[s]++
		}
		t.Errorf("%d stories and %d events of %d connections: %v", len(h.stories), len(h.events), n, count)
	}
	for _, s := range h.stories {
		if !s.Final || !s.Looked[life.LookOpen] || !s.Looked[life.LookAct] || !s.Looked[life.LookEnd] {
			t.Fatalf("%+v", s)
		}
		act, end := &s.Looks[life.LookAct], &s.Looks[life.LookEnd]
		if act.RcvNxt == 0 || end.SkFlags&event.SockDead == 0 || act.BytesSent != 1 || s.Steps[act.Step].Hook != event.HookClose {
			t.Fatalf("act %+v, end %+v", act, end)
		}
		if act.Inode != 0 {
			inodes++
		}
		if want := uint8(0); s.Looked[life.LookFIN] {
			if want = 1; act.Shutdown != want {
				t.Fatalf("shut %d at the close, want %d", act.Shutdown, want)
			}
		}
		w := &s.Tasks[2]
		if w.PID == 0 || w.Call != event.CallClose || w.Context != event.ContextProcess || w.Comm != s.Tasks[0].Comm {
			t.Fatalf("%+v", w)
		}
		if !s.HasShake || s.Handshake.TTL != 64 || s.Handshake.Flags&event.ACK == 0 {
			t.Fatalf("handshake %+v", s.Handshake)
		}
	}
	if inodes != len(h.stories) {
		t.Errorf("%d inodes of %d", inodes, len(h.stories))
	}
}

// TestStoriesFull: what the map has no room for is told by events, and none of it
// counts as lost.
func TestStoriesFull(t *testing.T) {
	h := listenIn(t, Options{storyRoom: 4}, func(*Tracer) {
		var all []*pair
		for range 8 {
			all = append(all, open2(t).accept().talk())
		}
		for _, p := range all {
			p.close(p.client)
			p.eof(p.server)
			p.close(p.server, p.listener)
		}
		settled()
	})
	final, destroyed := 0, 0
	for _, s := range h.stories {
		if s.Final {
			final++
		}
	}
	for _, e := range h.events {
		if e.Hook == event.HookDestroy {
			destroyed++
		}
	}
	if final == 0 || destroyed == 0 || final+destroyed != 16 {
		t.Errorf("%d stories and %d sockets that events told of, want 16 in all", final, destroyed)
	}
}

// TestStoriesRefused: a story that is told before the connection is there has the
// port that the kernel chose after its first step.
func TestStoriesRefused(t *testing.T) {
	h := listenIn(t, Options{}, func(*Tracer) {
		fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer syscall.Close(fd)
		if err := syscall.Connect(fd, &syscall.SockaddrInet4{Port: 7299, Addr: [4]byte{127, 0, 0, 1}}); err != syscall.ECONNREFUSED {
			t.Fatal(err)
		}
	})
	if len(h.stories) != 1 || h.stories[0].Final || h.stories[0].Count != 1 || h.stories[0].Local.Port() == 0 || h.stories[0].Remote.Port() != 7299 {
		t.Errorf("%+v", h.stories)
	}
	if !slices.ContainsFunc(h.events, func(e event.Event) bool {
		return e.ToState == event.Close && e.Err == event.Errno(syscall.ECONNREFUSED)
	}) {
		t.Errorf("no event tells why: %v", h.told())
	}
}

// TestStoriesFilter: a filter leaves whole connections out of the stories, and
// what it lets through is told as it is without one.
func TestStoriesFilter(t *testing.T) {
	for _, tt := range []struct {
		name   string
		filter Filter
		want   int
	}{
		{"ours", Filter{Ports: []PortRange{{7200, 7299}}}, 2},
		{"nothing", Filter{Ports: []PortRange{{1, 1}}}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := listenIn(t, Options{Filter: tt.filter}, func(*Tracer) { plainly(t, 1) })
			if len(h.stories) != tt.want || len(h.events) != 0 {
				t.Errorf("%s", strings.Join(h.told(), "\n"))
			}
			for _, s := range h.stories {
				if !s.Final || s.Steps[0].At != s.Born {
					t.Errorf("%+v", s)
				}
			}
		})
	}
}

// TestStoriesAsked: a story that somebody asks for is told as far as it has got, and the
// rest of its socket's life comes as events.
func TestStoriesAsked(t *testing.T) {
	h := listenIn(t, Options{}, func(tr *Tracer) {
		if !tr.CanAsk() {
			t.Fatal("this kernel should run programs that are asked to")
		}
		p := open2(t).accept().talk()
		asked := 0
		for range 2 { // the second time it is told already
			if err := tr.Ask(func(raw []byte) bool {
				local, _ := life.RawOf(raw).Ends()
				client := local.Port() == uint16(clientPort(t, p.client))
				if client {
					asked++
				}
				return client
			}); err != nil {
				t.Fatal(err)
			}
		}
		if asked != 1 {
			t.Errorf("the story was found %d times", asked)
		}
		p.close(p.client)
		p.eof(p.server)
		p.close(p.server, p.listener)
		settled()
	})
	got, want := h.told(), []string{
		"client story final=false: >SYN_SENT >ESTABLISHED", plainServer,
		"client event tcp_close", "client event __tcp_close", "client event >FIN_WAIT1", "client event tcp_send_fin", "client event >FIN_WAIT2",
		"client event tcp_time_wait", "client event >CLOSE", "client event tcp_destroy_sock",
	}
	slices.Sort(got)
	slices.Sort(want)
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("%s\n%s", d, strings.Join(h.told(), "\n"))
	}
}

func clientPort(t *testing.T, fd int) int {
	t.Helper()
	a, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return a.(*syscall.SockaddrInet4).Port
}
