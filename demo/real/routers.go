package real

import (
	"fmt"
	"strings"

	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// Host makes another machine: a namespace of its own, which a Python lives in,
// with a cable to the World's, which is its router. The machine's address is
// 10.0.N.2, the router's is 10.0.N.1.
func (w *World) Host(role string, n int) *Program {
	if w.err != nil {
		return w.Python(role) // which does nothing any more
	}
	ns, err := newNetns()
	if err != nil {
		w.Fail("%w", err)
		return w.Python(role)
	}
	w.others = append(w.others, ns)
	p := w.pythonAt(ns, role)
	ip := func(ns *netns, args string) {
		tool := w.start(ns, "ip "+args, "ip", strings.Fields(args)...)
		w.Check(tool.WaitExit() == 0, "ip %s: %s", args, tool.Output())
	}
	ip(w.ns, fmt.Sprintf("link add host%d type veth peer name eth0 netns %d", n, p.PID()))
	ip(w.ns, fmt.Sprintf("address add 10.0.%d.1/24 dev host%d", n, n))
	ip(w.ns, fmt.Sprintf("link set host%d up", n))
	ip(ns, fmt.Sprintf("address add 10.0.%d.2/24 dev eth0", n))
	ip(ns, "link set eth0 up")
	ip(ns, fmt.Sprintf("route add default via 10.0.%d.1", n))
	return p
}

// last is the last segment that left for a port so far.
func (w *World) lastTo(port uint16) (s segment) {
	if w.err != nil {
		return s
	}
	w.capture.mu.Lock()
	defer w.capture.mu.Unlock()
	for i := len(w.capture.segs) - 1; i >= 0; i-- {
		if w.capture.segs[i].dst == port {
			return w.capture.segs[i]
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
	w.Sysctl("ip_forward", "1")
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
	w.until("the answer acknowledged", func() (bool, error) {
		last = w.lastTo(8000)
		return last.len == 0 && last.flags == event.ACK, nil
	})
	server.Do(fmt.Sprintf(`send("10.0.2.2", 8000, "%s", peer[1], (%d + (1 << 24)) %% (1 << 32), %d)`, meets, last.ack, last.seq))
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
		Name: "conntrack-invalid-dnat", Case: "C30", Programs: []string{"python3", "nft", "ip"},
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
		Name: "conntrack-invalid-snat", Case: "C31", Programs: []string{"python3", "nft", "ip"},
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
