package scenario

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/tcpbye/tcpbye/demo/harness"
	"golang.org/x/sys/unix"
)

// Kernel is a kernel version, such as {6, 1}.
type Kernel [2]int

func (k Kernel) String() string { return fmt.Sprintf("%d.%d", k[0], k[1]) }

// Before says whether k is older than o.
func (k Kernel) Before(o Kernel) bool {
	return k[0] < o[0] || k[0] == o[0] && k[1] < o[1]
}

// RunningKernel is the version that uname tells.
func RunningKernel() (Kernel, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return Kernel{}, fmt.Errorf("cannot read the kernel's version: %w", err)
	}
	return parseKernel(unix.ByteSliceToString(u.Release[:]))
}

func parseKernel(release string) (k Kernel, err error) {
	if _, err = fmt.Sscanf(release, "%d.%d", &k[0], &k[1]); err != nil {
		return k, fmt.Errorf("cannot read the kernel version %q: %w", release, err)
	}
	return k, nil
}

// Feature is something that a kernel may lack, found out by trying.
type Feature struct {
	Name  string
	Since Kernel // the first version that Debian ships with it
	// Until is the first version that no longer has it; zero: all have it.
	Until Kernel
	// Built: whoever builds a kernel can leave it out, and only Debian's are known to
	// have it.
	Built bool
	probe func() error
}

// Missing is the error of a scenario that this kernel cannot play.
type Missing struct {
	Feature Feature
	Reason  error
}

func (m *Missing) Error() string {
	f := m.Feature
	versions := "since " + f.Since.String()
	if f.Until != (Kernel{}) {
		versions = "before " + f.Until.String()
	}
	return fmt.Sprintf("not on this kernel: no %s (Debian has it %s): %v", f.Name, versions, m.Reason)
}

func (m *Missing) Unwrap() error { return m.Reason }

// Expected says whether a kernel of this version was expected to lack the
// feature; if not, a test that finds it missing has found a fault.
func (m *Missing) Expected(k Kernel) bool {
	return m.Feature.Built && !debian() || k.Before(m.Feature.Since) || m.Feature.Until != (Kernel{}) && !k.Before(m.Feature.Until)
}

// debian says whether the running kernel is one of Debian's.
var debian = sync.OnceValue(func() bool {
	b, err := os.ReadFile("/proc/version")
	return err == nil && bytes.Contains(b, []byte("Debian"))
})

func (f Feature) check() error {
	if err := f.probe(); err != nil {
		return &Missing{Feature: f, Reason: err}
	}
	return nil
}

// The features that scenarios need.
var (
	HasIPv6 = Feature{Name: "IPv6", Since: Kernel{2, 6}, probe: sync.OnceValue(func() error {
		_, err := os.Stat("/proc/net/tcp6")
		return err
	})}
	HasMPTCP = Feature{Name: "MPTCP", Since: Kernel{6, 1}, probe: sync.OnceValue(func() error {
		return trySocket(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_MPTCP)
	})}
	HasIOUring = Feature{Name: "io_uring", Since: Kernel{5, 10}, probe: sync.OnceValue(func() error {
		fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
		if err != nil {
			return err
		}
		if err := uringClose(fd); err != nil {
			unix.Close(fd)
			return err
		}
		return nil
	})}
	HasDestroyTimeWait = Feature{Name: "SOCK_DESTROY of mini-sockets", Since: Kernel{6, 1}, probe: sync.OnceValue(probeDestroyTimeWait)}
	HasDestroyOrphan   = Feature{Name: "SOCK_DESTROY of sockets that no process holds", Since: Kernel{6, 1}, probe: sync.OnceValue(probeDestroyOrphan)}
	HasVeth            = Feature{Name: "veth", Since: Kernel{5, 10}, probe: sync.OnceValue(probeVeth)}
	HasNftReject       = Feature{Name: "nf_tables reject", Since: Kernel{5, 10}, probe: sync.OnceValue(probeReject)}
	HasNAT             = Feature{Name: "nf_tables nat", Since: Kernel{5, 10}, Built: true, probe: sync.OnceValue(probeNAT)}
	HasKernelTLS       = Feature{Name: "kTLS", Since: Kernel{6, 1}, Built: true, probe: sync.OnceValue(func() error { return tryOnPair(kernelTLS) })}
	HasSockmap         = Feature{Name: "sockmap", Since: Kernel{5, 10}, Built: true, probe: sync.OnceValue(func() error { return tryOnPair(intoSockmap) })}
	HasCompat          = Feature{Name: "32-bit system calls", Since: Kernel{5, 10}, Built: true, probe: sync.OnceValue(probeCompat)}
	HasDiagDestroy     = Feature{Name: "SOCK_DESTROY", Since: Kernel{5, 10}, probe: sync.OnceValue(probeDestroy)}
)

// withPair runs f over the two ends of a loopback connection in a namespace that
// is gone afterwards. f owns the descriptors.
func withPair(f func(client, server int) error) error {
	ns, err := harness.NewNetns()
	if err != nil {
		return err
	}
	defer ns.Close()
	return ns.Do(func() error {
		l, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(l)
		if err := unix.Bind(l, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
			return err
		}
		if err := unix.Listen(l, 1); err != nil {
			return err
		}
		at, err := unix.Getsockname(l)
		if err != nil {
			return err
		}
		client, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		if err := unix.Connect(client, at); err != nil {
			unix.Close(client)
			return err
		}
		server, _, err := unix.Accept4(l, unix.SOCK_CLOEXEC)
		if err != nil {
			unix.Close(client)
			return err
		}
		return f(client, server)
	})
}

// nameOf is the SOCK_DESTROY request for a connected socket.
func nameOf(fd int) (*request, error) {
	local, err := unix.Getsockname(fd)
	if err != nil {
		return nil, err
	}
	remote, err := unix.Getpeername(fd)
	if err != nil {
		return nil, err
	}
	return &request{Level: unix.AF_INET, Local: addrPort(local).String(), Remote: addrPort(remote).String()}, nil
}

// probeDestroyTimeWait destroys a mini-socket, which waits for a goodbye that
// does not come.
func probeDestroyTimeWait() error {
	return withPair(func(client, server int) error {
		defer unix.Close(server)
		req, err := nameOf(client)
		if err != nil {
			return err
		}
		if err := unix.Close(client); err != nil {
			return err
		}
		for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
			table, err := harness.ReadTable("thread-self")
			if err != nil {
				return err
			}
			for _, r := range table {
				if r.Local.String() == req.Local && r.Remote.String() == req.Remote && r.Timer == harness.TimeWaitTimer {
					return destroySocket(req)
				}
			}
		}
		return fmt.Errorf("a closed connection did not become a mini-socket")
	})
}

// probeDestroyOrphan destroys a full socket that no process holds. tcp_abort of
// 5.10 says that it did, and does nothing.
func probeDestroyOrphan() error {
	return withPair(func(client, server int) error {
		defer unix.Close(server)
		// Above 60 s the kernel keeps the full socket in FIN_WAIT2.
		if err := unix.SetsockoptInt(client, unix.IPPROTO_TCP, unix.TCP_LINGER2, 120); err != nil {
			return err
		}
		req, err := nameOf(client)
		if err != nil {
			return err
		}
		if err := unix.Close(client); err != nil {
			return err
		}
		if err := destroySocket(req); err != nil {
			return err
		}
		table, err := harness.ReadTable("thread-self")
		if err != nil {
			return err
		}
		for _, r := range table {
			if r.Local.String() == req.Local && r.Remote.String() == req.Remote {
				return fmt.Errorf("the kernel says that it destroyed it, and did not")
			}
		}
		return nil
	})
}

func trySocket(domain, kind, proto int) error {
	fd, err := unix.Socket(domain, kind|unix.SOCK_CLOEXEC, proto)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// probeDestroy destroys a connected socket.
func probeDestroy() error {
	return withPair(func(client, server int) error {
		defer unix.Close(client)
		defer unix.Close(server)
		req, err := nameOf(client)
		if err != nil {
			return err
		}
		err = destroySocket(req)
		if errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("%w (the modules inet_diag and tcp_diag may not be loaded)", err)
		}
		return err
	})
}
