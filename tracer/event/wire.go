package event

import (
	"net/netip"
	"time"
)

// AddrOf is an address in the kernel's form: 4 bytes of raw, or 16 for IPv6. It
// unmaps IPv4-mapped addresses: the two ends of one connection must pair although one
// of them is an AF_INET6 socket.
func AddrOf(f Family, raw [16]byte) netip.Addr {
	if f == IPv6 {
		return netip.AddrFrom16(raw).Unmap()
	}
	return netip.AddrFrom4([4]byte(raw[:4]))
}

// Since makes a duration of the jiffies that have passed, plus one (struct event),
// and the length of a jiffy. 0 is not known, and less than a jiffy is a nanosecond.
func Since(jiffies uint32, jiffy time.Duration) time.Duration {
	if jiffies == 0 || jiffy == 0 {
		return 0
	}
	return max(time.Nanosecond, time.Duration(jiffies-1)*jiffy)
}
