package scenario

import (
	"errors"
	"fmt"
	"os"
	"sync"

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
	probe func() error
}

// Missing is the error of a scenario that this kernel cannot play.
type Missing struct {
	Feature Feature
	Reason  error
}

func (m *Missing) Error() string {
	return fmt.Sprintf("not on this kernel: no %s (Debian has it since %v): %v", m.Feature.Name, m.Feature.Since, m.Reason)
}

func (m *Missing) Unwrap() error { return m.Reason }

// Expected says whether a kernel of this version was expected to lack the
// feature; if not, a test that finds it missing has found a fault.
func (m *Missing) Expected(k Kernel) bool {
	return k.Before(m.Feature.Since) || m.Feature.Until != Kernel{} && !k.Before(m.Feature.Until)
}

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
	HasDestroyTimeWait = Feature{Name: "SOCK_DESTROY of mini-sockets", Since: Kernel{6, 1}, probe: notBefore(Kernel{6, 1})}
	HasDestroyOrphan   = Feature{Name: "SOCK_DESTROY of sockets that no process holds", Since: Kernel{6, 1}, probe: notBefore(Kernel{6, 1})}
	HasVeth            = Feature{Name: "veth", Since: Kernel{5, 10}, probe: sync.OnceValue(probeVeth)}
	HasNftReject       = Feature{Name: "nf_tables reject", Since: Kernel{5, 10}, probe: sync.OnceValue(probeReject)}
	HasDiagDestroy     = Feature{Name: "SOCK_DESTROY", Since: Kernel{5, 10}, probe: sync.OnceValue(probeDestroy)}
)

// notBefore stands for a probe where trying would be the scenario itself.
func notBefore(first Kernel) func() error {
	return func() error {
		k, err := RunningKernel()
		if err == nil && k.Before(first) {
			err = fmt.Errorf("kernel %v", k)
		}
		return err
	}
}

func trySocket(domain, kind, proto int) error {
	fd, err := unix.Socket(domain, kind|unix.SOCK_CLOEXEC, proto)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// probeDestroy destroys a listening socket of its own.
func probeDestroy() error {
	ns, err := newNetns()
	if err != nil {
		return err
	}
	defer ns.close()
	return ns.do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
			return err
		}
		if err := unix.Listen(fd, 1); err != nil {
			return err
		}
		sa, err := unix.Getsockname(fd)
		if err != nil {
			return err
		}
		err = destroySocket(&request{Level: unix.AF_INET, Local: addrPort(sa).String(), Remote: "0.0.0.0:0"})
		if errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("%w (the modules inet_diag and tcp_diag may not be loaded)", err)
		}
		return err
	})
}
