package scenario

import (
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// far makes the second namespace, once: another host, on a link of its own.
func (w *World) far() *netns {
	if len(w.spaces) > 1 || w.err != nil {
		return w.spaces[len(w.spaces)-1]
	}
	ns, err := w.addSpace()
	if err == nil {
		err = joinSpaces(w.home, ns)
	}
	if err != nil {
		w.fail("cannot make a second host: %w", err)
		return w.home
	}
	return ns
}

// FarPuppet is a puppet on the second host.
func (w *World) FarPuppet(role string) *Puppet { return w.puppetIn(role, w.far()) }

// joinSpaces lays a veth link between two namespaces, 10.77.0.1 and 10.77.0.2.
func joinSpaces(a, b *netns) error {
	var peer int
	if err := b.do(func() (err error) {
		peer, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		return err
	}); err != nil {
		return err
	}
	defer unix.Close(peer)
	err := a.do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "near"
		err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "far", PeerNamespace: netlink.NsFd(peer)})
		if err != nil {
			return fmt.Errorf("cannot make a veth pair: %w (the module veth may not be loaded)", err)
		}
		return address("near", nearAddr.AsSlice())
	})
	if err != nil {
		return err
	}
	return b.do(func() error { return address("far", farAddr.AsSlice()) })
}

// address gives an interface an IPv4 address in a network of 24 bits, and sets it
// up.
func address(name string, ip net.IP) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: network(ip, 32-8)}); err != nil {
		return err
	}
	return netlink.LinkSetUp(link)
}

func network(ip net.IP, bits int) *net.IPNet {
	return &net.IPNet{IP: ip, Mask: net.CIDRMask(bits, 32)}
}

// nowhere is a network behind the second host that it knows to be unreachable.
var nowhere = net.IPv4(10, 77, 9, 0)

// RouteNowhere makes the second host a router that answers for that network with
// ICMP: kind is unix.RTN_UNREACHABLE or unix.RTN_PROHIBIT.
func (w *World) RouteNowhere(kind int) {
	far := w.far()
	if w.err != nil {
		return
	}
	err := far.do(func() error {
		if err := sysctl("net.ipv4.ip_forward", "1"); err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{Dst: network(nowhere, 24), Type: kind})
	})
	if err == nil {
		err = w.home.do(func() error {
			return netlink.RouteAdd(&netlink.Route{Dst: network(nowhere, 24), Gw: farAddr.AsSlice()})
		})
	}
	if err != nil {
		w.fail("cannot route to nowhere: %w", err)
	}
}

// probeVeth makes a link between two namespaces.
func probeVeth() error {
	a, err := newNetns()
	if err != nil {
		return err
	}
	defer a.close()
	b, err := newNetns()
	if err != nil {
		return err
	}
	defer b.close()
	return joinSpaces(a, b)
}

// probeReject installs a rejecting rule.
func probeReject() error {
	ns, err := newNetns()
	if err != nil {
		return err
	}
	defer ns.close()
	return ns.do(func() error { return rejectPort(9, rejectTCPReset) })
}

// Reject makes the home namespace's packet filter reject segments to a port.
func (w *World) Reject(port uint16, how uint32) {
	if w.err != nil {
		return
	}
	if err := w.home.do(func() error { return rejectPort(port, how) }); err != nil {
		w.fail("%w", err)
	}
}

// RejectNothing undoes Reject.
func (w *World) RejectNothing() {
	if w.err != nil {
		return
	}
	if err := w.home.do(rejectNothing); err != nil {
		w.fail("%w", err)
	}
}
