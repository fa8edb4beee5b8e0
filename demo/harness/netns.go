package harness

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Netns is a network namespace that one locked thread lives in. The thread dies
// with it, so that no other goroutine can ever run there by accident.
type Netns struct {
	Inode uint32 // what the kernel and the tracer call it
	work  chan func()
}

// NewNetns makes a namespace with the loopback interface up.
func NewNetns() (*Netns, error) {
	n := &Netns{work: make(chan func())}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		err := n.enter()
		ready <- err
		if err != nil {
			return
		}
		for f := range n.work {
			f()
		}
	}()
	if err := <-ready; err != nil {
		return nil, err
	}
	return n, nil
}

func (n *Netns) enter() error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("make a network namespace: %w; run as root", err)
	}
	var st unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &st); err != nil {
		return fmt.Errorf("identify the network namespace: %w", err)
	}
	n.Inode = uint32(st.Ino)
	return up("lo")
}

func up(name string) error {
	link, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkSetUp(link)
	}
	if err != nil {
		return fmt.Errorf("set %s up: %w", name, err)
	}
	return nil
}

// Do runs f in the namespace. Processes that f starts live there.
func (n *Netns) Do(f func() error) error {
	done := make(chan error)
	n.work <- func() { done <- f() }
	return <-done
}

// Close lets the namespace go; what still holds it are its processes and sockets.
func (n *Netns) Close() { close(n.work) }

// Port is one end of a cable between two namespaces.
type Port struct {
	Netns *Netns
	Name  string
	Addr  netip.Prefix // IPv4
}

// Connect lays a cable, a veth pair.
func Connect(a, b Port) error {
	var peer int
	if err := b.Netns.Do(func() (err error) {
		peer, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		return err
	}); err != nil {
		return err
	}
	defer unix.Close(peer)
	err := a.Netns.Do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = a.Name
		err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: b.Name, PeerNamespace: netlink.NsFd(peer)})
		if err != nil {
			return fmt.Errorf("make a veth pair: %w (the module veth may not be loaded)", err)
		}
		return a.configure()
	})
	if err != nil {
		return err
	}
	return b.Netns.Do(b.configure)
}

// configure gives the port its address and sets it up, in the calling thread's
// namespace.
func (p Port) configure() error {
	link, err := netlink.LinkByName(p.Name)
	if err != nil {
		return err
	}
	mask := net.CIDRMask(p.Addr.Bits(), p.Addr.Addr().BitLen())
	if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{IP: p.Addr.Addr().AsSlice(), Mask: mask}}); err != nil {
		return err
	}
	return netlink.LinkSetUp(link)
}

// Sysctl writes a setting such as "net.ipv4.tcp_fin_timeout" in the calling
// thread's namespace.
func Sysctl(name, value string) error {
	f, err := os.OpenFile(SysctlPath(name), os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("set %s: %w", name, err)
	}
	_, err = f.WriteString(value)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("set %s to %s: %w", name, value, err)
	}
	return nil
}

// SysctlPath is the file of a setting.
func SysctlPath(name string) string { return "/proc/sys/" + strings.ReplaceAll(name, ".", "/") }
