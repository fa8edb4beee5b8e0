package harness

import (
	"encoding/binary"
	"maps"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/tracer/event"
)

var (
	v4a = netip.MustParseAddrPort("127.0.0.1:5000")
	v4b = netip.MustParseAddrPort("127.0.0.2:80")
	v6a = netip.MustParseAddrPort("[::1]:5000")
	v6b = netip.MustParseAddrPort("[2001:db8::7]:80")
)

// segment is a FIN with n bytes of payload; the options fill whole words.
func segment(src, dst netip.AddrPort, options []byte, n int) []byte {
	b := make([]byte, 20+len(options)+n)
	binary.BigEndian.PutUint16(b[0:], src.Port())
	binary.BigEndian.PutUint16(b[2:], dst.Port())
	binary.BigEndian.PutUint32(b[4:], 0xfffffff0)
	binary.BigEndian.PutUint32(b[8:], 77)
	b[12], b[13] = byte(20+len(options))/4<<4, byte(event.ACK|event.FIN)
	binary.BigEndian.PutUint16(b[14:], 512)
	copy(b[20:], options)
	return b
}

// ip4 and ip6 put a header before a TCP segment.
func ip4(src, dst netip.AddrPort, ttl byte, tcp []byte) []byte {
	b := make([]byte, 20, 20+len(tcp))
	b[0] = 0x45
	binary.BigEndian.PutUint16(b[2:], uint16(20+len(tcp)))
	b[6] = 0x40 // don't fragment
	b[8], b[9] = ttl, unix.IPPROTO_TCP
	copy(b[12:], src.Addr().AsSlice())
	copy(b[16:], dst.Addr().AsSlice())
	return append(b, tcp...)
}

func ip6(src, dst netip.AddrPort, hops byte, tcp []byte) []byte {
	b := make([]byte, 40, 40+len(tcp))
	b[0] = 0x60
	binary.BigEndian.PutUint16(b[4:], uint16(len(tcp)))
	b[6], b[7] = unix.IPPROTO_TCP, hops
	copy(b[8:], src.Addr().AsSlice())
	copy(b[24:], dst.Addr().AsSlice())
	return append(b, tcp...)
}

func TestParsePacket(t *testing.T) {
	want := func(src, dst netip.AddrPort) Segment {
		return Segment{Src: src, Dst: dst, Seq: 0xfffffff0, Ack: 77, Flags: event.ACK | event.FIN, Len: 300, TTL: 63, Window: 512}
	}
	tcp := func(src, dst netip.AddrPort) []byte {
		return segment(src, dst, nil, 300)
	}
	four, six := ip4(v4a, v4b, 63, tcp(v4a, v4b)), ip6(v6a, v6b, 63, tcp(v6a, v6b))
	fragment := append([]byte(nil), four...)
	fragment[7] = 3
	udp := append([]byte(nil), four...)
	udp[9] = unix.IPPROTO_UDP
	nested := append([]byte(nil), four...)
	nested[20+12] = 0xf0 // a TCP header of 60 bytes
	// An option of no interest, padding, and the timestamps.
	stamped := ip4(v4a, v4b, 63, segment(v4a, v4b,
		[]byte{2, 4, 5, 0xb4, unix.TCPOPT_NOP, unix.TCPOPT_NOP, unix.TCPOPT_TIMESTAMP, 10, 1, 2, 3, 4, 0, 0, 0, 0}, 300))
	withStamp := want(v4a, v4b)
	withStamp.TSVal, withStamp.Timestamped = 0x01020304, true
	short := ip4(v4a, v4b, 63, tcp(v4a, v4b)[:20])
	short[20+12] = 0xf0
	for _, c := range []struct {
		name string
		in   []byte
		want Segment
		ok   bool
	}{
		{"IPv4", four, want(v4a, v4b), true},
		{"IPv6", six, want(v6a, v6b), true},
		{"timestamps", stamped, withStamp, true},
		{"cut behind the timestamps", stamped[:56], withStamp, true},
		{"cut within the timestamps", stamped[:55], Segment{}, false},
		{"cut behind the header", four[:40], want(v4a, v4b), true},
		{"IPv6 cut behind the header", six[:60], want(v6a, v6b), true},
		{"cut within the header", four[:39], Segment{}, false},
		{"IPv6 cut within the header", six[:59], Segment{}, false},
		{"a later fragment", fragment, Segment{}, false},
		{"UDP", udp, Segment{}, false},
		{"options longer than the packet", short, Segment{}, false},
		{"nothing", nil, Segment{}, false},
		{"no IP", make([]byte, 60), Segment{}, false},
	} {
		got, ok := newParser()(c.in)
		if ok != c.ok || ok && got != c.want {
			t.Errorf("%s: %+v, %v; want %+v, %v", c.name, got, ok, c.want, c.ok)
		}
	}
	if got, ok := newParser()(nested); !ok || got.Len != 300-40 {
		t.Errorf("40 bytes of options count as payload: %+v, %v", got, ok)
	}
}

func TestParseTCPTable(t *testing.T) {
	const table = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000002 00:00000000 00000000     0        0 4711 1 0000000000000000 100 0 0 10 0
   1: 0100007F:C350 0100007F:1F90 06 00000000:00000000 03:0000176F 00000000     0        0 0 3 0000000000000000
   2: 0000000000000000FFFF00000100007F:0050 B80D0120000000000000000007000000:C351 08 00000010:0000001F 04:0000176F 00000000     0        0 12 3 0000000000000000 20 4 30 10 -1
`
	got, err := parseTable(table)
	if err != nil {
		t.Fatal(err)
	}
	want := []Row{
		{netip.MustParseAddrPort("127.0.0.1:8080"), netip.MustParseAddrPort("0.0.0.0:0"), event.Listen, 0, 2, 0, 4711},
		{netip.MustParseAddrPort("127.0.0.1:50000"), netip.MustParseAddrPort("127.0.0.1:8080"), event.TimeWait, 0, 0, 3, 0},
		{netip.MustParseAddrPort("127.0.0.1:80"), netip.MustParseAddrPort("[2001:db8::7]:50001"), event.CloseWait, 16, 31, 4, 12},
	}
	if len(got) != len(want) {
		t.Fatalf("%d rows: %+v", len(got), got)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("row %d is %+v, not %+v", i, got[i], want[i])
		}
	}
	for _, bad := range []string{"h\n0: 0100007F:1F90", "h\n0: 01007F:1F90 0:0 0A 0:0 0:0 0 0 0 1", "h\n0: 0100007F:1F90 00000000:0000 XX 0:0 0:0 0 0 0 1"} {
		if _, err := parseTable(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func TestParseCounters(t *testing.T) {
	const text = `Ip: Forwarding InReceives
Ip: 1 100
Tcp: MaxConn EstabResets OutRsts
Tcp: -1 2 3
TcpExt: TCPAbortOnClose
TcpExt: 4
`
	got := make(map[string]int64)
	if err := parseCounters(text, got); err != nil {
		t.Fatal(err)
	}
	if want := map[string]int64{"MaxConn": -1, "EstabResets": 2, "OutRsts": 3, "TCPAbortOnClose": 4}; !maps.Equal(got, want) {
		t.Errorf("%v, not %v", got, want)
	}
	for _, bad := range []string{"Tcp: A B\nTcp: 1", "Tcp: A\nUdp: 1", "Tcp: A\nTcp: x"} {
		if parseCounters(bad, map[string]int64{}) == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}
