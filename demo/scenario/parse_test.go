package scenario

import (
	"encoding/binary"
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

func TestTCPSegmentChecksum(t *testing.T) {
	for _, n := range []int{0, 1, 2, 301} {
		for _, ends := range [][2]netip.AddrPort{{v4a, v4b}, {v6a, v6b}} {
			b := tcpSegment(ends[0], ends[1], 1, 2, event.RST|event.ACK, nil, payload(n))
			pseudo := append(ends[0].Addr().AsSlice(), ends[1].Addr().AsSlice()...)
			pseudo = append(pseudo, 0, unix.IPPROTO_TCP, byte(len(b)>>8), byte(len(b)))
			// Summed with its own checksum, a segment gives all ones.
			if sum := onesSum(onesSum(0, pseudo), b); sum != 0xffff {
				t.Errorf("%v, %d bytes: the sum is %#x", ends, n, sum)
			}
		}
	}
}

func TestParseKernel(t *testing.T) {
	for in, want := range map[string]Kernel{"6.1.0-41-amd64": {6, 1}, "5.10.0-36-cloud-amd64": {5, 10}, "7.2-amd64": {7, 2}} {
		if got, err := parseKernel(in); err != nil || got != want {
			t.Errorf("%s: %v, %v", in, got, err)
		}
	}
	if _, err := parseKernel("generic"); err == nil {
		t.Error("a version without numbers was accepted")
	}
	if !(Kernel{5, 10}).Before(Kernel{6, 1}) || (Kernel{6, 12}).Before(Kernel{6, 1}) || (Kernel{6, 1}).Before(Kernel{6, 1}) {
		t.Error("versions are out of order")
	}
	gone := Missing{Feature: Feature{Since: Kernel{5, 10}, Until: Kernel{6, 1}}}
	if gone.Expected(Kernel{5, 10}) || !gone.Expected(Kernel{6, 1}) || !gone.Expected(Kernel{5, 4}) {
		t.Error("a feature that was taken away is expected on the wrong kernels")
	}
}

func TestDestroyRequest(t *testing.T) {
	b := destroyRequest(unix.AF_INET, v4a, v4b)
	if len(b) != 72 || binary.NativeEndian.Uint32(b) != 72 || binary.NativeEndian.Uint16(b[4:]) != 21 {
		t.Fatalf("the netlink header is wrong: % x", b[:16])
	}
	id := b[16+8:]
	if b[16] != unix.AF_INET || b[17] != unix.IPPROTO_TCP ||
		binary.BigEndian.Uint16(id) != 5000 || binary.BigEndian.Uint16(id[2:]) != 80 ||
		string(id[4:8]) != "\x7f\x00\x00\x01" || string(id[20:24]) != "\x7f\x00\x00\x02" || id[40] != 0xff || id[47] != 0xff {
		t.Errorf("the request is wrong: % x", b[16:])
	}
	// A mapped address goes into an AF_INET6 request as such.
	id = destroyRequest(unix.AF_INET6, v4a, v4b)[16+8:]
	if string(id[4+10:4+16]) != "\xff\xff\x7f\x00\x00\x01" {
		t.Errorf("the mapped address is wrong: % x", id[4:20])
	}
}
