package real

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// netns is a network namespace that one locked thread lives in; the thread ends
// with it.
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

func (n *netns) enter() error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("cannot make a network namespace: %w; run as root", err)
	}
	var st unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &st); err != nil {
		return fmt.Errorf("cannot identify the network namespace: %w", err)
	}
	n.inode = uint32(st.Ino)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cannot set lo up: %w", err)
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req); err != nil {
		return fmt.Errorf("cannot set lo up: %w", err)
	}
	return nil
}

// do runs f in the namespace. Processes that f starts live there.
func (n *netns) do(f func() error) error {
	done := make(chan error)
	n.work <- func() { done <- f() }
	return <-done
}

func (n *netns) close() { close(n.work) }
