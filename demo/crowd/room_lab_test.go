//go:build lab

package crowd

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// room is a network namespace with loopback that one locked thread lives in.
// What is started or opened on that thread is in it.
type room struct {
	inode uint32
	work  chan func()
}

func newRoom(t testing.TB) *room {
	t.Helper()
	r := &room{work: make(chan func())}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		ready <- r.enter()
		for f := range r.work {
			f()
		}
	}()
	t.Cleanup(func() { close(r.work) })
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *room) enter() error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("make a network namespace: %w; run as root", err)
	}
	var st unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &st); err != nil {
		return fmt.Errorf("identify the network namespace: %w", err)
	}
	r.inode = uint32(st.Ino)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	lo.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	// On loopback a port can be used again a second after its connection's end;
	// here it is what tells one connection from another.
	for name, setting := range map[string]string{"tcp_tw_reuse": "0", "ip_local_port_range": "10000 65000", "tcp_max_tw_buckets": "65536"} {
		if err := os.WriteFile("/proc/sys/net/ipv4/"+name, []byte(setting), 0); err != nil {
			return fmt.Errorf("set net.ipv4.%s: %w", name, err)
		}
	}
	return nil
}

// do runs f in the room.
func (r *room) do(f func() error) error {
	done := make(chan error)
	r.work <- func() { done <- f() }
	return <-done
}

// listen opens a listener of this process in the room.
func (r *room) listen(t testing.TB, backlog int) *net.TCPListener {
	t.Helper()
	var l *net.TCPListener
	err := r.do(func() (err error) {
		l, err = net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			return err
		}
		raw, err := l.SyscallConn()
		if err != nil {
			return err
		}
		var lerr error
		err = raw.Control(func(fd uintptr) { lerr = unix.Listen(int(fd), backlog) })
		if err == nil {
			err = lerr
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// start starts a program in the room.
func (r *room) start(cmd *exec.Cmd) error { return r.do(cmd.Start) }
