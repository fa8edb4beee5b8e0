//go:build lab

package crowd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// link is a connection as its client calls it.
type link struct{ client, server netip.AddrPort }

func (l link) String() string { return fmt.Sprintf("%v > %v", l.client, l.server) }

// wire counts the connections and the resets of a room, by a packet socket on
// its loopback that sees every SYN and every RST leave.
type wire struct {
	t    testing.TB
	file *os.File
	done chan struct{}
	err  error // valid once done is closed

	opened map[link][]uint32 // connections, by the sequence numbers that they began with
	resets map[link]int      // RSTs, of either end
}

const (
	flagSYN, flagRST, flagACK = 0x02, 0x04, 0x10
	offsetFlags               = 13 // in a TCP header
)

// newWire starts to count. Segments are IPv4.
func newWire(t testing.TB, r *room) *wire {
	t.Helper()
	w := &wire{t: t, done: make(chan struct{}), opened: map[link][]uint32{}, resets: map[link]int{}}
	err := r.do(func() (err error) { w.file, err = openWire(); return err })
	if err != nil {
		t.Fatalf("capture the packets of the room: %v", err)
	}
	go w.follow()
	t.Cleanup(func() { w.file.Close() })
	return w
}

func openWire() (*os.File, error) {
	// Only who wants all protocols sees packets leave; what there is in a room is
	// IPv4. The number is in network byte order.
	all := binary.NativeEndian.Uint16([]byte{unix.ETH_P_ALL >> 8, unix.ETH_P_ALL & 0xff})
	// Without a protocol nothing comes before the filter is there.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	filter := []unix.SockFilter{ // what is seen begins with the IP header
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: 9},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.IPPROTO_TCP, Jf: 4},
		{Code: unix.BPF_LDX | unix.BPF_B | unix.BPF_MSH, K: 0},
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_IND, K: offsetFlags},
		{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, K: flagSYN | flagRST, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: snap},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	}
	err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]})
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20)
	}
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all})
	}
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), "wire"), nil
}

// snap is as much as is looked at: both headers.
const snap = 120

func (w *wire) follow() {
	defer close(w.done)
	raw, err := w.file.SyscallConn()
	if err == nil {
		err = raw.Read(func(fd uintptr) bool {
			w.drain(int(fd))
			return false
		})
	}
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		w.err = err
	}
}

func (w *wire) drain(fd int) {
	b := make([]byte, snap)
	for {
		n, from, err := unix.Recvfrom(fd, b, unix.MSG_DONTWAIT)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return // EAGAIN; the next wait says what else
		}
		// Loopback shows each packet leaving and arriving.
		if ll, ok := from.(*unix.SockaddrLinklayer); ok && ll.Pkttype == unix.PACKET_OUTGOING {
			w.take(b[:n])
		}
	}
}

func (w *wire) take(b []byte) {
	if len(b) < 20 {
		return
	}
	ihl := int(b[0]&15) * 4
	if len(b) < ihl+20 {
		return
	}
	tcp := b[ihl:]
	src := netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[12:16])), binary.BigEndian.Uint16(tcp[0:]))
	dst := netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[16:20])), binary.BigEndian.Uint16(tcp[2:]))
	switch flags := tcp[offsetFlags]; {
	case flags&flagRST != 0:
		// The client is known: its SYN came before.
		if l := (link{dst, src}); w.opened[l] != nil {
			w.resets[l]++
		} else {
			w.resets[link{src, dst}]++
		}
	case flags&flagACK == 0:
		// The same port may be used again; a SYN that is sent again is the same.
		l, seq := link{src, dst}, binary.BigEndian.Uint32(tcp[4:])
		if !slices.Contains(w.opened[l], seq) {
			w.opened[l] = append(w.opened[l], seq)
		}
	}
}

// connections counts them.
func (w *wire) connections() (n int) {
	for _, c := range w.opened {
		n += len(c)
	}
	return n
}

// stop ends the counting, with all that was sent until now.
func (w *wire) stop() {
	w.t.Helper()
	if err := w.file.SetReadDeadline(time.Unix(1, 0)); err != nil {
		w.t.Fatal(err)
	}
	<-w.done
	raw, err := w.file.SyscallConn()
	if err != nil {
		w.t.Fatal(err)
	}
	var stats *unix.TpacketStats
	cerr := raw.Control(func(fd uintptr) {
		w.drain(int(fd))
		stats, err = unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS)
	})
	if err := errors.Join(w.err, cerr, err); err != nil {
		w.t.Fatalf("capture the packets of the room: %v", err)
	}
	if stats.Drops > 0 {
		w.t.Fatalf("the capture missed %d packets", stats.Drops)
	}
}
