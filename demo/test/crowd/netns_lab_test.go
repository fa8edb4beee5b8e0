//go:build lab

package crowd

import (
	"errors"
	"net"
	"os/exec"
	"testing"

	"github.com/tcpbye/tcpbye/demo/harness"
	"golang.org/x/sys/unix"
)

// netns is a network namespace for one test.
type netns struct{ *harness.Netns }

func newNetns(t testing.TB) *netns {
	t.Helper()
	n, err := harness.NewNetns()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	// On loopback a port can be used again a second after its connection's end;
	// here it is what tells one connection from another.
	err = n.Do(func() error {
		return errors.Join(harness.Sysctl("net.ipv4.tcp_tw_reuse", "0"), harness.Sysctl("net.ipv4.ip_local_port_range", "10000 65000"),
			harness.Sysctl("net.ipv4.tcp_max_tw_buckets", "65536"))
	})
	if err != nil {
		t.Fatal(err)
	}
	return &netns{n}
}

// listen opens a listener of this process in the namespace.
func (r *netns) listen(t testing.TB, backlog int) *net.TCPListener {
	t.Helper()
	var l *net.TCPListener
	err := r.Do(func() (err error) {
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

// start starts a program in the namespace.
func (r *netns) start(cmd *exec.Cmd) error { return r.Do(cmd.Start) }
