package snapshot

import (
	"bytes"
	"encoding/json"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/report"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

func addrPort(t *testing.T, a net.Addr) netip.AddrPort {
	t.Helper()
	return a.(*net.TCPAddr).AddrPort()
}

func find(all []Socket, local, remote netip.AddrPort) *Socket {
	for i := range all {
		if all[i].Local == local && all[i].Remote == remote {
			return &all[i]
		}
	}
	return nil
}

// TestTake finds this test's own connections: one that is open, one whose peer
// has finished, one that was never accepted.
func TestTake(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dial := func() *net.TCPConn {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c.(*net.TCPConn)
	}
	accept := func() *net.TCPConn {
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c.(*net.TCPConn)
	}
	open := dial()
	served := accept()
	half := dial()
	leak := accept()
	if _, err := half.Write([]byte("12345")); err != nil {
		t.Fatal(err)
	}
	if err := half.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	queued := dial()

	var asked int
	var s *Snapshot
	for { // until the FIN is acknowledged, which the kernel may delay
		asked = 0
		if s, err = Take(Options{Who: func(p *conn.Process) {
			if p.PID == uint32(os.Getpid()) {
				asked++
				p.Exe = "/test"
			}
		}}); err != nil {
			t.Fatal(err)
		}
		if k := find(s.Sockets, addrPort(t, half.LocalAddr()), addrPort(t, half.RemoteAddr())); k == nil || k.State != event.FinWait1 {
			break
		}
	}
	if asked != 1 {
		t.Errorf("this process was asked for %d times", asked)
	}
	me := uint32(os.Getpid())
	for _, c := range []*net.TCPConn{open, served, half, leak, queued} {
		k := find(s.Sockets, addrPort(t, c.LocalAddr()), addrPort(t, c.RemoteAddr()))
		if k == nil {
			t.Fatalf("%v → %v is not there", c.LocalAddr(), c.RemoteAddr())
		}
		o := k.Owner()
		if o == nil || o.PID != me || o.Exe != "/test" || o.Comm == "" || o.FD <= 2 {
			t.Errorf("%v is owned by %+v", c.LocalAddr(), o)
		}
	}
	k := find(s.Sockets, addrPort(t, leak.LocalAddr()), addrPort(t, leak.RemoteAddr()))
	if k.State != event.CloseWait || k.Unread != 5 || k.Mark().Cause != verdict.CloseWaitLeak {
		t.Errorf("the end that has not closed: %+v, %+v", k, k.Mark())
	}
	if k = find(s.Sockets, addrPort(t, half.LocalAddr()), addrPort(t, half.RemoteAddr())); k.State != event.FinWait2 || k.Mark().Cause != verdict.FinWait2Held {
		t.Errorf("the end that has shut down: %+v, %+v", k, k.Mark())
	}
	k = find(s.Sockets, addrPort(t, queued.RemoteAddr()), addrPort(t, queued.LocalAddr()))
	if k == nil || k.Owner() != nil || k.Listener == nil || k.Listener.PID != me || k.Mark().Cause != verdict.NeverAccepted {
		t.Fatalf("the end that was not accepted: %+v", k)
	}
	if k = find(s.Sockets, addrPort(t, open.LocalAddr()), addrPort(t, open.RemoteAddr())); k.State != event.Established || k.Mark().Marked() || k.NetNS == 0 {
		t.Errorf("the open end: %+v", k)
	}
	seed := k.Seed()
	if seed.Local != k.Local || seed.Owner == nil || seed.Owner.Exe != "/test" || seed.State != event.Established || seed.Time == 0 {
		t.Errorf("seed %+v", seed)
	}

	// The text has the same sockets, with the same inodes and queues.
	text, err := readText("/proc/self/net")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []*net.TCPConn{open, served, half, leak, queued} {
		a := find(s.Sockets, addrPort(t, c.LocalAddr()), addrPort(t, c.RemoteAddr()))
		b := find(text, addrPort(t, c.LocalAddr()), addrPort(t, c.RemoteAddr()))
		if b == nil || a.Inode != b.Inode || a.State != b.State || a.Unread != b.Unread || a.UID != b.UID || a.Family != b.Family {
			t.Errorf("sock_diag has %+v, the text %+v", a, b)
		}
	}
}

func TestParseText(t *testing.T) {
	const tcp4 = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000    33        0 12345 1 0 100 0 0 10 0
   1: 0100007F:0050 0200007F:9C40 08 00000000:00000006 00:00000000 00000000    33        0 12346 1 0 20 4 30 10 -1
   2: 0100007F:0051 0200007F:9C41 04 0039AEE1:00000000 04:00000E10 00000005     0        0 0 1 0 20 4 30 10 -1
   3: 0100007F:0052 0200007F:9C42 05 00000000:00000000 03:00000E10 00000000     0        0 0 3 0
`
	const tcp6 = `  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0000000000000000FFFF00000100007F:0050 0000000000000000FFFF00000200007F:9C40 01 00000000:00000000 00:00000000 00000000  1000        0 777 1 0 20 4 30 10 -1
   1: B80D0120000000000000000001000000:01BB 00000000000000000000000001000000:9C40 01 00000000:00000000 00:00000000 00000000  1000        0 778 1 0 20 4 30 10 -1
`
	four, err := parseText(strings.NewReader(tcp4), event.IPv4)
	if err != nil {
		t.Fatal(err)
	}
	six, err := parseText(strings.NewReader(tcp6), event.IPv6)
	if err != nil {
		t.Fatal(err)
	}
	end := netip.MustParseAddrPort
	want := []Socket{
		{Family: event.IPv4, State: event.Listen, Local: end("127.0.0.1:80"), Remote: end("0.0.0.0:0"), Inode: 12345, UID: 33},
		{Family: event.IPv4, State: event.CloseWait, Local: end("127.0.0.1:80"), Remote: end("127.0.0.2:40000"), Inode: 12346, UID: 33, Unread: 5},
		{Family: event.IPv4, State: event.FinWait1, Local: end("127.0.0.1:81"), Remote: end("127.0.0.2:40001"), Unacked: 3780320, Timer: TimerProbe, Tries: 5},
		{Family: event.IPv4, State: event.FinWait2, Local: end("127.0.0.1:82"), Remote: end("127.0.0.2:40002"), Timer: TimerTimeWait, Mini: true},
		{Family: event.IPv6, State: event.Established, Local: end("127.0.0.1:80"), Remote: end("127.0.0.2:40000"), Inode: 777, UID: 1000},
		{Family: event.IPv6, State: event.Established, Local: end("[2001:db8::1]:443"), Remote: end("[::1]:40000"), Inode: 778, UID: 1000},
	}
	same := cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })
	if d := cmp.Diff(want, append(four, six...), same); d != "" {
		t.Error(d)
	}
	for _, bad := range []string{
		"\n 0: 0100007F 00000000:0000 0A 0:0 00:0 0 33 0 12345",
		"\n 0: 0100007:0050 00000000:0000 0A 0:0 00:0 0 33 0 12345",
		"\n 0: 0100007F:0050 00000000:0000 XX 0:0 00:0 0 33 0 12345",
		"\n 0: 0100007F:0050 00000000:0000 0A 00 00:0 0 33 0 12345",
		"\n 0: 0100007F:0050 00000000:0000 0A 0:0 00:0 0 33 0 x",
	} {
		if got, err := parseText(strings.NewReader(bad), event.IPv4); err == nil {
			t.Errorf("%q is read as %+v", bad, got)
		}
	}
}

// sockets are one of each kind.
var end = netip.MustParseAddrPort

func holder(comm string, pid uint32, fd int) []Holder {
	return []Holder{{Process: conn.Process{PID: pid, Comm: comm, Exe: "/bin/x"}, FD: fd}}
}

func ago(d time.Duration) *Info {
	return &Info{LastAckReceived: d, LastDataSent: d + 3*time.Second, LastDataReceived: d}
}

func sockets() []Socket {
	leak := func(port uint16, d time.Duration) Socket {
		return Socket{State: event.CloseWait, Family: event.IPv4, Local: end("10.0.0.5:2379"),
			Remote: netip.AddrPortFrom(netip.MustParseAddr("10.0.0.8"), port), Inode: 5, Holders: holder("etcd", 431, 57), Info: ago(d)}
	}
	return []Socket{
		{State: event.Established, Family: event.IPv4, Local: end("10.0.0.5:22"), Remote: end("10.0.0.9:991"), Inode: 1,
			Holders: append(holder("sshd", 77, 4), holder("sshd", 78, 4)...), Info: ago(time.Second)},
		leak(40022, 12*time.Minute), leak(40023, 3*time.Second),
		{State: event.FinWait1, Family: event.IPv4, Local: end("10.0.0.5:443"), Remote: end("10.0.0.9:51811"), Unacked: 3780320,
			Timer: TimerProbe, Info: ago(38 * time.Second)},
		{State: event.FinWait2, Family: event.IPv6, Local: end("[2001:db8::1]:443"), Remote: end("[2001:db8::2]:5"), Inode: 8,
			Holders: holder("a\x1b[31mb", 9, 3), Info: ago(90 * time.Second)},
		{State: event.FinWait2, Family: event.IPv4, Local: end("10.0.0.5:443"), Remote: end("10.0.0.9:6"), Mini: true},
		{State: event.Established, Family: event.IPv4, Local: end("10.0.0.5:80"), Remote: end("10.0.0.9:7"), Unread: 100,
			Listener: &holder("slow", 12, 3)[0], Info: ago(5 * time.Second)},
		{State: event.LastAck, Family: event.IPv4, Local: end("10.0.0.5:80"), Remote: end("10.0.0.9:8"), Timer: TimerRetransmit, Tries: 3, Info: ago(time.Hour)},
		{State: event.SynSent, Family: event.IPv4, Local: end("10.0.0.5:81"), Remote: end("10.0.0.9:9"), Inode: 3, Holders: holder("curl", 13, 5)},
	}
}

func TestTable(t *testing.T) {
	var b bytes.Buffer
	if err := Table(&b, Rows(sockets(), false), report.Options{}); err != nil {
		t.Fatal(err)
	}
	want := `STATE        AGE    PROCESS           LOCAL              REMOTE           QUEUED     NOTE
LAST_ACK     <60m   -                 10.0.0.5:80        10.0.0.9:8       0 / 0      the peer does not acknowledge the FIN, sent again 3 times
CLOSE_WAIT   >12m   etcd/431 fd57     10.0.0.5:2379      10.0.0.8:40022   0 / 0      peer finished; this process never closes: a leak (×2)
FIN_WAIT2    >90s   a\x1b[31mb/9 fd3  [2001:db8::1]:443  [2001:db8::2]:5  0 / 0      this process finished sending; the peer has not, and nothing limits the wait
FIN_WAIT1    <41s   -                 10.0.0.5:443       10.0.0.9:51811   0 / 3.78M  FIN is stuck behind 3.78 MB: the peer's window is 0
ESTABLISHED  >5.0s  (slow/12)         10.0.0.5:80        10.0.0.9:7       100 / 0    established, but the process has not accepted it
ESTABLISHED  -      sshd/77 fd4 +1    10.0.0.5:22        10.0.0.9:991     0 / 0
FIN_WAIT2    -      -                 10.0.0.5:443       10.0.0.9:6       0 / 0
SYN_SENT     -      curl/13 fd5       10.0.0.5:81        10.0.0.9:9       0 / 0
`
	if d := cmp.Diff(strings.Split(want, "\n"), strings.Split(b.String(), "\n")); d != "" {
		t.Error(d)
	}
	if n := len(Rows(sockets(), true)); n != len(sockets()) {
		t.Errorf("%d rows of %d sockets", n, len(sockets()))
	}
	b.Reset()
	if err := Table(&b, Rows(sockets(), false), report.Options{Width: 100, ASCII: true, Color: true}); err != nil {
		t.Fatal(err)
	}
	for i, l := range strings.Split(b.String(), "\n") {
		plain := strings.NewReplacer("\x1b[1m", "", "\x1b[0m", "", "\x1b[33m", "").Replace(l)
		if len(plain) > 100 || strings.ContainsRune(plain, '\x1b') || strings.ContainsRune(plain, '×') {
			t.Errorf("line %d is %d columns: %q", i, len(plain), l)
		}
	}
}

func TestJSON(t *testing.T) {
	var b bytes.Buffer
	if err := JSON(&b, sockets()); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(b.String()), "\n")
	if len(lines) != len(sockets()) {
		t.Fatalf("%d lines", len(lines))
	}
	var m map[string]any
	if err := json.Unmarshal([]byte(lines[1]), &m); err != nil {
		t.Fatal(err)
	}
	delete(m, "holders")
	want := map[string]any{
		"schema": "tcpbye.socket/1", "state": "CLOSE_WAIT", "age_ms": 720000.0, "age_bound": "at-least", "family": "ipv4",
		"local": "10.0.0.5:2379", "remote": "10.0.0.8:40022", "netns": nil, "inode": 5.0, "listener": nil, "unread": 0.0, "unacked": 0.0,
		"owner": map[string]any{"pid": 431.0, "tid": 0.0, "fd": 57.0, "in_call": false, "comm": "etcd", "exe": "/bin/x", "uid": 0.0, "user": nil, "container": nil, "halt": nil},
		"cause": "close-wait-leak", "note": "peer finished; this process never closes: a leak",
		"last_data_sent_ms": 723000.0, "last_data_received_ms": 720000.0, "last_ack_received_ms": 720000.0,
	}
	if d := cmp.Diff(want, m); d != "" {
		t.Error(d)
	}
}

func TestBytes(t *testing.T) {
	for n, want := range map[uint32]string{0: "0 bytes", 1: "1 byte", 999: "999 bytes", 1000: "1 kB", 1200: "1.2 kB",
		3780320: "3.78 MB", 99_950: "100 kB", 999_999: "1 MB", 1<<32 - 1: "4.29 GB"} {
		if got := Bytes(n); got != want {
			t.Errorf("%d is %q, want %q", n, got, want)
		}
	}
}
