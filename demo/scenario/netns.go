package scenario

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// netns is a network namespace that one locked thread lives in. The thread dies
// with it, so that no other goroutine can ever run there by accident.
type netns struct {
	inode uint32
	work  chan func()
}

// newNetns makes a namespace with the loopback interface up.
func newNetns() (*netns, error) {
	n := &netns{work: make(chan func())}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := n.enter(); err != nil {
			ready <- err
			return
		}
		ready <- nil
		for f := range n.work {
			f()
		}
	}()
	if err := <-ready; err != nil {
		return nil, err
	}
	return n, nil
}

func (n *netns) enter() error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("cannot make a network namespace: %w; run as root", err)
	}
	var st unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &st); err != nil {
		return fmt.Errorf("cannot identify the network namespace: %w", err)
	}
	n.inode = uint32(st.Ino)
	return interfaceUp("lo")
}

// do runs f in the namespace.
func (n *netns) do(f func() error) error {
	done := make(chan error)
	n.work <- func() { done <- f() }
	return <-done
}

// close lets the namespace go; what still holds it are its sockets.
func (n *netns) close() { close(n.work) }

// interfaceUp sets an interface of the calling thread's namespace up.
func interfaceUp(name string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cannot set %s up: %w", name, err)
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq(name)
	if err != nil {
		return fmt.Errorf("cannot set %s up: %w", name, err)
	}
	req.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req); err != nil {
		return fmt.Errorf("cannot set %s up: %w", name, err)
	}
	return nil
}

// sysctl writes a setting such as "net.ipv4.tcp_fin_timeout" in the calling
// thread's namespace.
func sysctl(name, value string) error {
	f, err := os.OpenFile(sysctlPath(name), os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("cannot set %s: %w", name, err)
	}
	_, err = f.WriteString(value)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("cannot set %s to %s: %w", name, value, err)
	}
	return nil
}

func sysctlPath(name string) string { return "/proc/sys/" + strings.ReplaceAll(name, ".", "/") }

// htons is for the few kernel fields that want network byte order in an integer.
func htons(v uint16) uint16 {
	b := [2]byte{byte(v >> 8), byte(v)}
	return *(*uint16)(unsafe.Pointer(&b))
}
