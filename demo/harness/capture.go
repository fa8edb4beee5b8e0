package harness

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
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

// Capture records every segment that leaves an interface of one namespace.
type Capture struct {
	netns uint32
	file  *os.File
	// clock is CLOCK_REALTIME minus CLOCK_MONOTONIC at the start: the kernel
	// stamps packets with the former, events with the latter.
	clock time.Duration
	parse parser
	done  chan struct{}

	mu   sync.Mutex
	segs []Segment
	err  error
}

const snapLen = 160 // IPv6 header, options and a full TCP header

// Everything is the filter of a Capture that leaves nothing out.
var Everything = []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: snapLen}}

// OpensAndResets is the filter of a Capture of SYN and RST segments over IPv4.
var OpensAndResets = []unix.SockFilter{ // what is seen begins with the IP header
	{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: 9},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.IPPROTO_TCP, Jf: 4},
	{Code: unix.BPF_LDX | unix.BPF_B | unix.BPF_MSH, K: 0},
	{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_IND, K: 13}, // the flags
	{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, K: uint32(event.SYN | event.RST), Jf: 1},
	{Code: unix.BPF_RET | unix.BPF_K, K: snapLen},
	{Code: unix.BPF_RET | unix.BPF_K, K: 0},
}

// NewCapture starts a capture in a namespace.
func NewCapture(ns *Netns, filter []unix.SockFilter) (*Capture, error) {
	var fd int
	err := ns.Do(func() (err error) { fd, err = packetSocket(filter); return err })
	if err != nil {
		return nil, fmt.Errorf("start a packet capture: %w", err)
	}
	c := &Capture{
		netns: ns.Inode, file: os.NewFile(uintptr(fd), "capture"), clock: clockOffset(),
		parse: newParser(), done: make(chan struct{}),
	}
	go c.run()
	return c, nil
}

// packetSocket opens a socket that sees all packets of the calling thread's
// namespace from the IP header on.
func packetSocket(filter []unix.SockFilter) (int, error) {
	// Without a protocol nothing comes before the filter is there.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("packet socket: %w", err)
	}
	// Only a socket for all protocols sees packets leave. In network byte order.
	all := binary.NativeEndian.Uint16([]byte{unix.ETH_P_ALL >> 8, unix.ETH_P_ALL & 0xff})
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"SO_ATTACH_FILTER", func() error {
			return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]})
		}},
		{"SO_RCVBUFFORCE", func() error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 128<<20) }},
		{"SO_TIMESTAMPNS", func() error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1) }},
		{"bind", func() error { return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all}) }},
	} {
		if err := step.do(); err != nil {
			return -1, errors.Join(fmt.Errorf("%s: %w", step.name, err), unix.Close(fd))
		}
	}
	return fd, nil
}

// clockOffset is CLOCK_REALTIME minus CLOCK_MONOTONIC: of some readings the one
// that was interrupted least.
func clockOffset() (offset time.Duration) {
	best := time.Duration(1<<63 - 1)
	for range 16 {
		before := Monotonic()
		now := time.Duration(time.Now().UnixNano())
		after := Monotonic()
		if after-before < best {
			best, offset = after-before, now-before-(after-before)/2
		}
	}
	return offset
}

// Monotonic is CLOCK_MONOTONIC, the clock of the tracer's events.
func Monotonic() time.Duration {
	var ts unix.Timespec
	// It cannot fail for a clock that every kernel has.
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return time.Duration(ts.Nano())
}

// run takes packets as they come, until the deadline that Stop sets.
func (c *Capture) run() {
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
func (c *Capture) take(fd int) {
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
		seg, ok := c.parse(buf[:n])
		if !ok {
			continue
		}
		seg.NetNS = c.netns
		seg.Time = packetTime(oob[:oobn]) - c.clock
		c.segs = append(c.segs, seg)
	}
}

// Segments returns what has been captured so far; what a host has sent before
// the call is in it.
func (c *Capture) Segments() []Segment {
	if raw, err := c.file.SyscallConn(); err == nil {
		// After Stop the file is closed and there is nothing left to take.
		_ = raw.Control(func(fd uintptr) { c.take(int(fd)) })
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]Segment(nil), c.segs...)
}

// Stop ends the capture; its error says that segments were missed.
func (c *Capture) Stop() error {
	_ = c.file.SetReadDeadline(time.Unix(1, 0)) // fails only for files that cannot be polled
	<-c.done
	raw, err := c.file.SyscallConn()
	if err == nil {
		var stats *unix.TpacketStats
		cerr := raw.Control(func(fd uintptr) {
			c.take(int(fd))
			stats, err = unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS)
		})
		if err = errors.Join(err, cerr); err == nil && stats.Drops > 0 {
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

// parser reads an IP packet, possibly cut short behind its TCP header; ok is
// false for what is not TCP. It is not for concurrent use.
type parser func(packet []byte) (s Segment, ok bool)

func newParser() parser {
	var ip4 layers.IPv4
	var ip6 layers.IPv6
	var tcp layers.TCP
	var found []gopacket.LayerType
	p4 := gopacket.NewDecodingLayerParser(layers.LayerTypeIPv4, &ip4, &tcp)
	p6 := gopacket.NewDecodingLayerParser(layers.LayerTypeIPv6, &ip6, &tcp)
	p4.IgnoreUnsupported, p6.IgnoreUnsupported = true, true
	return func(packet []byte) (s Segment, ok bool) {
		if len(packet) == 0 {
			return s, false
		}
		p := p4
		if packet[0]>>4 == 6 {
			p = p6
		}
		if err := p.DecodeLayers(packet, &found); err != nil || len(found) != 2 {
			return s, false
		}
		var src, dst netip.Addr
		if p == p4 {
			src, dst = netip.AddrFrom4([4]byte(ip4.SrcIP)), netip.AddrFrom4([4]byte(ip4.DstIP))
			s.Len, s.TTL, s.IPID = int(ip4.Length)-4*int(ip4.IHL), ip4.TTL, ip4.Id
		} else {
			src, dst = netip.AddrFrom16([16]byte(ip6.SrcIP)), netip.AddrFrom16([16]byte(ip6.DstIP))
			s.Len, s.TTL = int(ip6.Length), ip6.HopLimit
		}
		s.Src, s.Dst = netip.AddrPortFrom(src, uint16(tcp.SrcPort)), netip.AddrPortFrom(dst, uint16(tcp.DstPort))
		s.Seq, s.Ack, s.Window = tcp.Seq, tcp.Ack, tcp.Window
		s.Flags = event.TCPFlags(tcp.Contents[13] & 0x3f)
		s.Len -= 4 * int(tcp.DataOffset)
		for _, o := range tcp.Options {
			if o.OptionType == layers.TCPOptionKindTimestamps && len(o.OptionData) == 8 {
				s.Timestamped, s.TSVal = true, binary.BigEndian.Uint32(o.OptionData)
			}
		}
		return s, s.Len >= 0
	}
}
