package real

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/tracer/event"
)

// segment is a TCP segment over IPv4 as it left a host.
type segment struct {
	src, dst uint16 // ports
	seq, ack uint32
	flags    event.TCPFlags
	len      int // payload bytes
}

func (s segment) String() string {
	return fmt.Sprintf("%d > %d %v seq %d ack %d len %d", s.src, s.dst, s.flags, s.seq, s.ack, s.len)
}

// capture records every segment that leaves an interface of one namespace.
type capture struct {
	file *os.File
	done chan struct{}

	mu   sync.Mutex
	segs []segment
	err  error
}

const snapLen = 120 // IPv4 and TCP headers with all options

// newCapture starts a capture in the calling thread's namespace.
func newCapture() (*capture, error) {
	all := binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL}) // in network byte order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(all))
	if err != nil {
		return nil, fmt.Errorf("cannot open a packet socket: %w; run as root", err)
	}
	cut := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: snapLen}}
	err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &cut[0]})
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 128<<20)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("cannot set up the packet capture: %w", err)
	}
	c := &capture{file: os.NewFile(uintptr(fd), "capture"), done: make(chan struct{})}
	go c.run()
	return c, nil
}

// run takes packets as they come, until stop.
func (c *capture) run() {
	defer close(c.done)
	raw, err := c.file.SyscallConn()
	if err == nil {
		err = raw.Read(func(fd uintptr) bool { c.take(int(fd)); return false })
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
	for {
		n, from, err := unix.Recvfrom(fd, buf, unix.MSG_DONTWAIT)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return // EAGAIN, or an error that the next wait reports
		}
		ll, ok := from.(*unix.SockaddrLinklayer)
		// Loopback shows each packet leaving and arriving: count it once.
		if !ok || ll.Pkttype != unix.PACKET_OUTGOING {
			continue
		}
		if s, ok := parseSegment(buf[:n]); ok {
			c.segs = append(c.segs, s)
		}
	}
}

// stop ends the capture and returns all of it; the error says that segments
// were missed.
func (c *capture) stop() ([]segment, error) {
	raw, err := c.file.SyscallConn()
	if err == nil {
		var stats *unix.TpacketStats
		cerr := raw.Control(func(fd uintptr) {
			c.take(int(fd))
			stats, err = unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS)
		})
		switch err = errors.Join(err, cerr); {
		case err == nil && stats.Drops > 0:
			err = fmt.Errorf("the packet capture missed %d packets", stats.Drops)
		}
	}
	err = errors.Join(err, c.file.SetReadDeadline(time.Unix(1, 0)))
	<-c.done
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.segs, errors.Join(c.err, err, c.file.Close())
}

// parseSegment reads an IPv4 packet, possibly cut short behind its TCP header;
// ok is false for what is not TCP.
func parseSegment(b []byte) (s segment, ok bool) {
	if len(b) < 20 || b[0]>>4 != 4 {
		return s, false
	}
	header := int(b[0]&15) * 4
	if header < 20 || b[9] != unix.IPPROTO_TCP || binary.BigEndian.Uint16(b[6:])&0x1fff != 0 || len(b) < header+20 {
		return s, false
	}
	total := int(binary.BigEndian.Uint16(b[2:]))
	t := b[header:]
	offset := int(t[12]>>4) * 4
	if offset < 20 || total < header+offset {
		return s, false
	}
	return segment{
		src: binary.BigEndian.Uint16(t[0:]), dst: binary.BigEndian.Uint16(t[2:]),
		seq: binary.BigEndian.Uint32(t[4:]), ack: binary.BigEndian.Uint32(t[8:]),
		flags: event.TCPFlags(t[13] & 0x3f), len: total - header - offset,
	}, true
}

// flow is what left one end of a connection.
type flow struct {
	fins  int // different ones: a FIN sent again counts once
	rsts  int
	bytes int // payload, each byte once
}

// call is one connection in a capture: what went between two ports from a first
// SYN to the next that is another one.
type call struct {
	client, server uint16
	segs           []segment
	// again: its ports were used again, by a later call.
	again bool
}

// calls are the connections to a port, in the order of their SYNs.
func calls(segs []segment, port uint16) []call {
	var list []call
	last := map[uint16]int{} // by client port
	isn := map[uint16]uint32{}
	for _, s := range segs {
		client := s.src
		if s.src == port {
			client = s.dst
		} else if s.dst != port {
			continue
		}
		i, known := last[client]
		if s.dst == port && s.flags&event.SYN != 0 && s.flags&event.ACK == 0 && (!known || s.seq != isn[client]) {
			if known {
				list[i].again = true
			}
			i, known = len(list), true
			list = append(list, call{client: client, server: port})
			last[client], isn[client] = i, s.seq
		}
		if known {
			list[i].segs = append(list[i].segs, s)
		}
	}
	return list
}

// late says whether a RST came after both ends had sent their FINs: where the last
// acknowledgement is told to a socket that is gone, which happens where both
// handle the other's FIN at the same moment. The RST ends a TIME_WAIT (RFC 1337).
func (c call) late() bool {
	var client, server bool
	for _, s := range c.segs {
		switch {
		case s.flags&event.RST != 0:
			return client && server
		case s.flags&event.FIN != 0 && s.src == c.client:
			client = true
		case s.flags&event.FIN != 0:
			server = true
		}
	}
	return false
}

// flow sums up what was sent to one of the ports.
func (c call) flow(to uint16) flow {
	var f flow
	fins := map[uint32]bool{}
	var first, next uint32
	started := false
	for _, s := range c.segs {
		if s.dst != to {
			continue
		}
		if s.flags&event.SYN != 0 {
			first, next, started = s.seq+1, s.seq+1, true
			continue
		}
		if s.flags&event.RST != 0 {
			f.rsts++
			continue
		}
		end := s.seq + uint32(s.len)
		// What has no payload may come after the FIN, which has a number, too.
		if started && s.len > 0 && int32(end-next) > 0 {
			next = end
		}
		if s.flags&event.FIN != 0 {
			fins[end] = true
		}
	}
	f.fins, f.bytes = len(fins), int(next-first)
	return f
}
