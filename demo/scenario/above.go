package scenario

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/demo/harness"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// kernelTLS gives a socket's records to the kernel (kTLS), both ways, with a key
// that is no secret.
func kernelTLS(fd int) error {
	const (
		tx, rx        = 1, 2 // TLS_TX, TLS_RX
		version12     = 0x0303
		aesGCM128     = 51
		cryptoInfoLen = 4 + 8 + 16 + 4 + 8 // struct tls12_crypto_info_aes_gcm_128
	)
	if err := unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_ULP, "tls"); err != nil {
		return err
	}
	info := make([]byte, cryptoInfoLen)
	binary.NativeEndian.PutUint16(info, version12)
	binary.NativeEndian.PutUint16(info[2:], aesGCM128)
	for _, way := range []int{tx, rx} {
		if err := unix.SetsockoptString(fd, unix.SOL_TLS, way, string(info)); err != nil {
			return err
		}
	}
	return nil
}

// intoSockmap puts a socket into a new map of BPF, which stays as long as the
// process.
func intoSockmap(fd int) error {
	attr := struct { // of BPF_MAP_CREATE
		kind, keySize, valueSize, maxEntries, flags uint32
	}{kind: unix.BPF_MAP_TYPE_SOCKMAP, keySize: 4, valueSize: 4, maxEntries: 1}
	m, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_MAP_CREATE, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	if errno != 0 {
		return errno
	}
	key, value := uint32(0), uint32(fd)
	set := struct { // of BPF_MAP_UPDATE_ELEM
		fd         uint32
		_          uint32
		key, value uint64
		flags      uint64
	}{fd: uint32(m), key: uint64(uintptr(unsafe.Pointer(&key))), value: uint64(uintptr(unsafe.Pointer(&value)))}
	_, _, errno = unix.Syscall(unix.SYS_BPF, unix.BPF_MAP_UPDATE_ELEM, uintptr(unsafe.Pointer(&set)), unsafe.Sizeof(set))
	// The kernel has read them by now; the compiler does not know that they are used.
	if errno != 0 || key != 0 || value != uint32(fd) {
		return errno
	}
	return nil
}

// tryOnPair says whether that can be done to a connected socket here.
func tryOnPair(do func(fd int) error) error {
	return withPair(func(client, server int) error {
		defer unix.Close(client)
		defer unix.Close(server)
		return do(client)
	})
}

// KernelTLS gives both ends of a connection to kTLS.
func (s *Sock) KernelTLS(peer *Sock) {
	for _, x := range []*Sock{s, peer} {
		x.p.must(nil, &request{Op: opTLS, FD: x.fd}, fmt.Sprint(x.fd))
	}
}

// readAbove is what an end is due whose queue is another layer's: what its process
// read, and was told, is not TCP's to know.
func readAbove(x Expect) Expect {
	x.Layered, x.Deaf = true, true
	return x
}

var aboves = []Scenario{
	{
		Name:        "ktls-unread",
		Title:       "the server throws away what kTLS had decrypted and it had not read",
		Description: "Both ends have given their TLS records to the kernel (kTLS). The server reads 100 bytes of 1000, answers and closes. TCP's own queue is empty, so the kernel says goodbye with a FIN; the 900 bytes were lost in the queue above.",
		Needs:       []Feature{HasKernelTLS},
		Run: func(w *World) {
			c, s := w.Pair()
			c.KernelTLS(s)
			c.Send(1000)
			s.Recv(100)
			s.Send(10)
			c.Recv(10)
			c.WaitAcked()
			s.WaitAcked()
			s.Close()
			followUp(s, c)
		},
		Ends: politely("server", verdict.ActClose).pair("server", readAbove(first), "client", readAbove(then)),
	},
	{
		Name:        "sockmap-close",
		Title:       "the client's socket is in a sockmap",
		Description: "BPF has the client's socket in a map of sockets, as service meshes do: reads may take from a queue of the map's. The client closes. Both said goodbye; what the client had read is not TCP's to know.",
		Needs:       []Feature{HasSockmap},
		NeedsHook:   event.HookFileClose, // the next hook sees a socket that is out of the map
		Run: func(w *World) {
			c, s := w.Pair()
			c.p.must(nil, &request{Op: opSockmap, FD: c.fd}, fmt.Sprint(c.fd))
			c.Exchange(s, 100, 200)
			c.Close()
			followUp(c, s)
		},
		Ends: politely("client", verdict.ActClose).pair("client", readAbove(Expect{TimeWait: true, FIN: 1, OwnWrites: true}), "server", then),
	},
}

// virtualAddr is an address of the home namespace at which nothing listens.
var virtualAddr = netip.MustParseAddrPort("198.51.100.7:80")

// Translated connects a client to an address that the home namespace's packet filter
// translates to a listener there, as it does for a sidecar.
func (w *World) Translated() (client, server *Sock) {
	l := w.Puppet("server").Listen(16)
	w.In(w.Home, "translate an address", func() error {
		// So that there is a way to it before it is translated.
		err := onLink("lo", func(lo netlink.Link) error {
			return netlink.AddrAdd(lo, &netlink.Addr{IPNet: network(virtualAddr.Addr().AsSlice(), 32)})
		})
		return errors.Join(err, translateOutput(virtualAddr, l.at))
	})
	w.translated = append(w.translated, translation{virtualAddr, l.at})
	client = w.Puppet("client").socket(unix.IPPROTO_TCP, 0)
	client.bind(netip.AddrPortFrom(w.family.loopback(), 0))
	client.connectTo("client", virtualAddr)
	w.finishConnect(client)
	return client, l.Accept("server")
}

// translation is an address that is another one on the wire.
type translation struct{ asked, wire netip.AddrPort }

// seen adds to the capture the segments as the other end sees them: some are
// captured before they are translated, and some after.
func (t translation) seen(all []harness.Segment) []harness.Segment {
	out := all
	for _, s := range all {
		switch {
		case s.Dst == t.wire:
			s.Dst = t.asked
		case s.Dst == t.asked:
			s.Dst = t.wire
		case s.Src == t.wire:
			s.Src = t.asked
		case s.Src == t.asked:
			s.Src = t.wire
		default:
			continue
		}
		s.Again = true
		out = append(out, s)
	}
	return out
}

var translations = []Scenario{
	{
		Name:        "nat-close",
		Title:       "a client whose connection is translated to a local port closes",
		Description: "The client calls an address at which nothing listens; its host translates that to a local port, as for a sidecar. The two ends see different addresses, and are one connection.",
		Needs:       []Feature{HasNAT},
		Run: func(w *World) {
			c, s := w.Translated()
			c.Exchange(s, 100, 200)
			c.Close()
			followUp(c, s)
		},
		Ends: politely("client", verdict.ActClose).pair("client", first, "server", then),
	},
	{
		Name:        "nat-close-unread",
		Title:       "a sidecar behind a translated address closes with the request unread",
		Description: "The client's connection is translated to a local port, as for a sidecar, and the sidecar closes without having read the request. The reset comes to the client in the name of the address that it called.",
		Needs:       []Feature{HasNAT},
		Run: func(w *World) {
			c, s := w.Translated()
			c.Exchange(s, 100, 200)
			c.Send(60)
			c.WaitAcked()
			s.Close()
			wasReset(c)
		},
		Ends: ending{class: verdict.Aborted, cause: verdict.CloseUnread, act: verdict.ActClose, actor: "server"}.pair(
			"server", Expect{Lost: Lost{Unread: 60}, RST: 1}, "client", reset),
		Counters: onClose,
	},
}
