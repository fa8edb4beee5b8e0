package scenario

import (
	"cmp"
	"net"
	"net/netip"

	"github.com/tcpbye/tcpbye/demo/harness"
	"github.com/vishvananda/netlink"
)

// far makes the second namespace, once: another host, on a link of its own.
func (w *World) far() *harness.Space {
	if w.second != nil || w.Err != nil {
		return cmp.Or(w.second, w.Home)
	}
	ns, err := w.AddSpace()
	if err == nil {
		err = connect(w.Home.Netns, ns.Netns)
	}
	if err != nil {
		w.Fail("cannot make a second host: %w", err)
		return w.Home
	}
	w.second = ns
	return ns
}

// FarPuppet is a puppet on the second host.
func (w *World) FarPuppet(role string) *Puppet { return w.puppetIn(role, w.far()) }

// connect lays a cable between two namespaces, 10.77.0.1 and 10.77.0.2.
func connect(a, b *harness.Netns) error {
	return harness.Connect(harness.Port{Netns: a, Name: "near", Addr: netip.PrefixFrom(nearAddr, 24)},
		harness.Port{Netns: b, Name: "far", Addr: netip.PrefixFrom(farAddr, 24)})
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
	w.In(far, "route to nowhere", func() error {
		if err := harness.Sysctl("net.ipv4.ip_forward", "1"); err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{Dst: network(nowhere, 24), Type: kind})
	})
	w.In(w.Home, "route to nowhere", func() error {
		return netlink.RouteAdd(&netlink.Route{Dst: network(nowhere, 24), Gw: farAddr.AsSlice()})
	})
}

// probeVeth makes a link between two namespaces.
func probeVeth() error {
	a, err := harness.NewNetns()
	if err != nil {
		return err
	}
	defer a.Close()
	b, err := harness.NewNetns()
	if err != nil {
		return err
	}
	defer b.Close()
	return connect(a, b)
}

// probeReject installs a rejecting rule.
func probeReject() error {
	ns, err := harness.NewNetns()
	if err != nil {
		return err
	}
	defer ns.Close()
	return ns.Do(func() error { return rejectPort(9, rejectTCPReset) })
}

// Reject makes the home namespace's packet filter reject segments to a port.
func (w *World) Reject(port uint16, how uint32) {
	w.In(w.Home, "filter packets", func() error { return rejectPort(port, how) })
}

// RejectNothing undoes Reject.
func (w *World) RejectNothing() {
	w.In(w.Home, "filter packets", rejectNothing)
}
