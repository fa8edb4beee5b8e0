package real

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/tcpbye/tcpbye/demo/harness"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/verdict"
	"github.com/vishvananda/netlink"
)

// Host makes another machine: a namespace of its own, which a Python lives in,
// with a cable to the World's, which is its router. The machine's address is
// 10.0.N.2, the router's is 10.0.N.1.
func (w *World) Host(role string, n int) *Program {
	if w.Err != nil {
		return w.Python(role) // which does nothing any more
	}
	ns, err := w.AddUnwatched()
	if err == nil {
		router, host := netip.AddrFrom4([4]byte{10, 0, byte(n), 1}), netip.AddrFrom4([4]byte{10, 0, byte(n), 2})
		err = harness.Connect(harness.Port{Netns: w.Home.Netns, Name: fmt.Sprintf("host%d", n), Addr: netip.PrefixFrom(router, 24)},
			harness.Port{Netns: ns.Netns, Name: "eth0", Addr: netip.PrefixFrom(host, 24)})
		if err == nil {
			err = ns.Do(func() error { return netlink.RouteAdd(&netlink.Route{Gw: router.AsSlice()}) })
		}
	}
	if err != nil {
		w.Fail("cannot make the host %s: %w", role, err)
		return w.Python(role)
	}
	return w.pythonAt(ns.Netns, role)
}

// lastTo is the last segment that left the home namespace for a port so far.
func (w *World) lastTo(port uint16) (s harness.Segment) {
	if w.Err != nil {
		return s
	}
	for _, s := range slices.Backward(w.Segments()) {
		if s.Dst.Port() == port {
			return s
		}
	}
	w.Fail("the capture has nothing for port %d", port)
	return s
}

// rawSegment sends a TCP segment as it is.
const rawSegment = `
import socket, struct
def send(src, sport, dst, dport, seq, ack):
    def sum16(b):
        n = sum(struct.unpack("!%dH" % (len(b) // 2), b))
        while n >> 16: n = (n & 0xffff) + (n >> 16)
        return 0xffff & ~n
    tcp = lambda sum: struct.pack("!HHIIBBHHH", sport, dport, seq, ack, 5 << 4, 0x10, 1000, sum, 0)
    pseudo = socket.inet_aton(src) + socket.inet_aton(dst) + struct.pack("!HH", 6, 20)
    raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
    raw.sendto(tcp(sum16(pseudo + tcp(0))), (dst, 0))
`

// strayed is a connection through a router that translates addresses, and a
// segment of the server's so far from the window that the router's connection
// tracking calls it invalid, and hands it on untranslated to whom it names.
func (w *World) strayed(rules, to, meets string, says []string) {
	w.Sysctl("net.ipv4.ip_forward", "1")
	client, server := w.Host("client", 1), w.Host("server", 2)
	nft := w.Start("nft", "nft", "-f", w.File("rules", rules))
	w.Check(nft.WaitExit() == 0, "nft failed: %s", nft.Output())
	server.Do(rawSegment + `
l = socket.create_server(("10.0.2.2", 8000))
`)
	client.Do(`
import socket
s = socket.create_connection(("` + to + `", 8000))
s.sendall(b"question")
`)
	server.Do(`
s, peer = l.accept()
assert s.recv(100) == b"question"
s.sendall(b"the answer")
`)
	client.Do(`assert s.recv(100) == b"the answer"`)
	last := w.lastTo(8000) // it acknowledges the answer
	w.Until("the answer acknowledged", func() (bool, string) {
		last = w.lastTo(8000)
		return last.Len == 0 && last.Flags == event.ACK, last.String()
	})
	server.Do(fmt.Sprintf(`send("10.0.2.2", 8000, "%s", peer[1], (%d + (1 << 24)) %% (1 << 32), %d)`, meets, last.Ack, last.Seq))
	said := server.Try(`s.recv(100)`)
	w.Check(strings.Contains(said, "ConnectionResetError"), "the server should have been reset, but: %s", said)
	server.Do(`s.close()`)
	w.Due(Link{
		Name: "python3 > python3", Port: 8000,
		Ending: Ending{Class: verdict.Aborted, Cause: verdict.NoSocket, By: "client", Kernel: true},
		Client: Side{RST: 1, Open: verdict.StillOpen},
		Server: Side{Saw: []string{"ECONNRESET"}},
		Says:   says,
	})
}

var routers = []Run{
	{
		Name: "conntrack-invalid-dnat", Case: "C30", Programs: []string{"python3", "nft"},
		Title: "a segment that the router calls invalid reaches the client untranslated; the client's kernel resets the server",
		Play: func(w *World) {
			w.strayed(`
table ip nat {
	chain in {
		type nat hook prerouting priority -100;
		ip daddr 10.0.1.1 tcp dport 8000 dnat to 10.0.2.2
	}
}
`, "10.0.1.1", "10.0.1.2", []string{"10.0.1.2:", "no such connection exists", "the kernel there answered with a RST"})
		},
	},
	{
		Name: "conntrack-invalid-snat", Case: "C31", Programs: []string{"python3", "nft"},
		Title: "a segment that the router calls invalid is taken for the router's own, which resets the server",
		Play: func(w *World) {
			w.strayed(`
table ip nat {
	chain out {
		type nat hook postrouting priority 100;
		ip saddr 10.0.1.2 masquerade
	}
}
`, "10.0.2.2", "10.0.2.1", []string{"10.0.2.1:", "no such connection exists", "the kernel there answered with a RST"})
		},
	},
}
