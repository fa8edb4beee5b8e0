package scenario

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/tracer/event"
)

// Segment is a TCP segment as it left a host of the World, before anything on
// the receiving side could drop it.
type Segment struct {
	Time     time.Duration // CLOCK_MONOTONIC
	NetNS    uint32        // inode number of the sender's namespace
	Src, Dst netip.AddrPort
	Seq, Ack uint32
	Flags    event.TCPFlags
	Len      int // payload bytes
	TTL      uint8
	IPID     uint16 // IPv4 identification
	Window   uint16 // as on the wire, unscaled

	Timestamped bool // it has the timestamps option (RFC 7323)
	TSVal       uint32

	// Again: it is in the capture already, with another address (NAT).
	Again bool
}

func (s Segment) String() string {
	return fmt.Sprintf("%v > %v %v seq %d ack %d len %d", s.Src, s.Dst, s.Flags, s.Seq, s.Ack, s.Len)
}

// capture records every segment that leaves an interface of one namespace.
type capture struct {
	netns uint32
	file  *os.File
	// clock is CLOCK_REALTIME minus CLOCK_MONOTONIC at the start: the kernel
	// stamps packets with the former, events with the latter.
	clock time.Duration
	done  chan struct{}

	mu   sync.Mutex
	segs []Segment
	err  error
}

const snapLen = 160 // IPv6 header, options and a full TCP header

// newCapture starts a capture in the calling thread's namespace.
func newCapture(inode uint32) (*capture, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(htons(unix.ETH_P_ALL)))
	if err != nil {
		return nil, fmt.Errorf("cannot open a packet socket: %w", err)
	}
	fail := func(what string, err error) (*capture, error) {
		unix.Close(fd)
		return nil, fmt.Errorf("cannot set up the packet capture: %s: %w", what, err)
	}
	cut := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: snapLen}}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &cut[0]}); err != nil {
		return fail("SO_ATTACH_FILTER", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20); err != nil {
		return fail("SO_RCVBUFFORCE", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1); err != nil {
		return fail("SO_TIMESTAMPNS", err)
	}
	c := &capture{
		netns: inode,
		file:  os.NewFile(uintptr(fd), "capture"),
		clock: clockOffset(),
		done:  make(chan struct{}),
	}
	go c.run()
	return c, nil
}

// clockOffset is CLOCK_REALTIME minus CLOCK_MONOTONIC: of some readings the one
// that was interrupted least.
func clockOffset() (offset time.Duration) {
	best := time.Duration(1<<63 - 1)
	for range 16 {
		before := monotonic()
		now := time.Duration(time.Now().UnixNano())
		after := monotonic()
		if after-before < best {
			best, offset = after-before, now-before-(after-before)/2
		}
	}
	return offset
}

// run takes packets as they come, until the deadline that stop sets.
func (c *capture) run() {
	defer close(c.done)
	raw, err := c.file.SyscallConn()
	if err == nil {
		err = raw.Read(func(fd uintptr) bool {
			c.take(int(fd))
			return false // wait for more
		})
	}
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		c.mu.Lock()
		c.err = fmt.Errorf("the packet capture ended early: %w", err)
		c.mu.Unlock()
	}
}

// take reads all that is there.
func (c *capture) take(fd int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	buf := make([]byte, snapLen)
	oob := make([]byte, 256)
	for {
		n, oobn, _, from, err := unix.Recvmsg(fd, buf, oob, unix.MSG_DONTWAIT)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			if err != unix.EAGAIN && c.err == nil {
				c.err = fmt.Errorf("the packet capture ended early: %w", err)
			}
			return
		}
		ll, ok := from.(*unix.SockaddrLinklayer)
		// Loopback shows each packet leaving and arriving: count it once.
		if !ok || ll.Pkttype != unix.PACKET_OUTGOING {
			continue
		}
		seg, ok := parsePacket(buf[:n])
		if !ok {
			continue
		}
		seg.NetNS = c.netns
		seg.Time = packetTime(oob[:oobn]) - c.clock
		c.segs = append(c.segs, seg)
	}
}

// snapshot returns what has been captured so far; what a host has sent before
// the call is in it.
func (c *capture) snapshot() []Segment {
	if raw, err := c.file.SyscallConn(); err == nil {
		// After stop the file is closed and there is nothing left to take.
		_ = raw.Control(func(fd uintptr) { c.take(int(fd)) })
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]Segment(nil), c.segs...)
}

// stop ends the capture; its error says that segments were missed.
func (c *capture) stop() error {
	_ = c.file.SetReadDeadline(time.Unix(1, 0)) // fails only for files that cannot be polled
	<-c.done
	c.snapshot()
	raw, err := c.file.SyscallConn()
	if err == nil {
		var stats *unix.TpacketStats
		cerr := raw.Control(func(fd uintptr) {
			stats, err = unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS)
		})
		if err == nil {
			err = cerr
		}
		if err == nil && stats.Drops > 0 {
			err = fmt.Errorf("the packet capture missed %d packets", stats.Drops)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return errors.Join(c.err, err, c.file.Close())
}

// packetTime is the SO_TIMESTAMPNS of a control message, on CLOCK_REALTIME.
func packetTime(oob []byte) time.Duration {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return 0
	}
	for _, m := range msgs {
		if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SCM_TIMESTAMPNS && len(m.Data) >= 16 {
			sec := int64(binary.NativeEndian.Uint64(m.Data))
			nsec := int64(binary.NativeEndian.Uint64(m.Data[8:]))
			return time.Duration(sec*1e9 + nsec)
		}
	}
	return 0
}

// parsePacket reads an IP packet, possibly cut short behind its TCP header; ok
// is false for what is not TCP.
func parsePacket(b []byte) (s Segment, ok bool) {
	if len(b) < 20 {
		return s, false
	}
	var src, dst netip.Addr
	var total, header int
	switch b[0] >> 4 {
	case 4:
		header = int(b[0]&15) * 4
		if header < 20 || b[9] != unix.IPPROTO_TCP || binary.BigEndian.Uint16(b[6:])&0x1fff != 0 {
			return s, false
		}
		total = int(binary.BigEndian.Uint16(b[2:]))
		s.TTL, s.IPID = b[8], binary.BigEndian.Uint16(b[4:])
		src, _ = netip.AddrFromSlice(b[12:16])
		dst, _ = netip.AddrFromSlice(b[16:20])
	case 6:
		header = 40
		if len(b) < header || b[6] != unix.IPPROTO_TCP { // no extension headers on these paths
			return s, false
		}
		total = header + int(binary.BigEndian.Uint16(b[4:]))
		s.TTL = b[7]
		src, _ = netip.AddrFromSlice(b[8:24])
		dst, _ = netip.AddrFromSlice(b[24:40])
	default:
		return s, false
	}
	if len(b) < header+20 {
		return s, false
	}
	t := b[header:]
	offset := int(t[12]>>4) * 4
	if offset < 20 || total < header+offset {
		return s, false
	}
	s.Src = netip.AddrPortFrom(src, binary.BigEndian.Uint16(t[0:]))
	s.Dst = netip.AddrPortFrom(dst, binary.BigEndian.Uint16(t[2:]))
	s.Seq = binary.BigEndian.Uint32(t[4:])
	s.Ack = binary.BigEndian.Uint32(t[8:])
	s.Flags = event.TCPFlags(t[13] & 0x3f)
	s.Window = binary.BigEndian.Uint16(t[14:])
	s.Len = total - header - offset
	s.TSVal, s.Timestamped = timestamp(t[20:min(offset, len(t))])
	return s, true
}

// Kinds of TCP options.
const (
	tcpOptEnd        = 0
	tcpOptNop        = 1
	tcpOptTimestamps = 8

	tcpOptTimestampsLen = 10 // bytes
)

// timestamp finds the timestamps option's value among TCP options (RFC 9293 3.1).
func timestamp(options []byte) (value uint32, ok bool) {
	for len(options) > 0 {
		switch options[0] {
		case tcpOptEnd:
			return 0, false
		case tcpOptNop:
			options = options[1:]
			continue
		}
		if len(options) < 2 || options[1] < 2 || int(options[1]) > len(options) {
			return 0, false
		}
		if options[0] == tcpOptTimestamps && options[1] == tcpOptTimestampsLen {
			return binary.BigEndian.Uint32(options[2:]), true
		}
		options = options[options[1]:]
	}
	return 0, false
}
