package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/demo/test/lab/wire"
)

type mount struct {
	source, target, fstype, options string
	flags                           uintptr
	optional                        bool // a kernel without this file system is still a lab
}

func (m mount) do() error {
	if err := os.MkdirAll(m.target, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(m.source, m.target, m.fstype, m.flags, m.options); err != nil && err != unix.EBUSY {
		return fmt.Errorf("mount %s (%s) on %s: %w", m.source, m.fstype, m.target, err)
	}
	return nil
}

func mountAll(list []mount, note func(string, ...any)) error {
	for _, m := range list {
		if err := m.do(); err != nil {
			if !m.optional {
				return err
			}
			note("%v", err)
		}
	}
	return nil
}

const noExec = unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_NODEV

// mountEarly mounts what is needed to find the port.
func mountEarly() error {
	return mountAll([]mount{
		{"proc", "/proc", "proc", "", noExec, false},
		{"sysfs", "/sys", "sysfs", "", noExec, false},
		{"devtmpfs", "/dev", "devtmpfs", "mode=0755", unix.MS_NOSUID, false},
	}, nil)
}

// listenUevents returns a socket that receives the kernel's uevents from now on.
func listenUevents() (int, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return -1, fmt.Errorf("listen for the kernel's device events: %w", err)
	}
	const kernelGroup = 1
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: kernelGroup}); err != nil {
		return -1, fmt.Errorf("listen for the kernel's device events: %w", err)
	}
	return fd, nil
}

// openPort opens the virtio-serial port with the given name, waiting until the
// driver has made it: a port appears, and gets its name, some messages after
// the module is loaded, and a uevent tells of each.
func openPort(name string, events int) (*os.File, error) {
	defer unix.Close(events)
	for buf := make([]byte, 16<<10); ; {
		file, err := findPort(name)
		if err != nil {
			return nil, err
		}
		if file != "" {
			return os.OpenFile(file, os.O_RDWR, 0)
		}
		// ENOBUFS says that events were lost; looking again is right then too.
		if _, err := unix.Read(events, buf); err != nil && err != unix.EINTR && err != unix.ENOBUFS {
			return nil, fmt.Errorf("wait for the lab's port: %w", err)
		}
	}
}

// findPort returns the device file of the port with the given name, or "".
func findPort(name string) (string, error) {
	const class = "/sys/class/virtio-ports"
	ports, err := os.ReadDir(class)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("look for the lab's port: %w", err)
	}
	for _, p := range ports {
		got, err := os.ReadFile(filepath.Join(class, p.Name(), "name"))
		if err == nil && strings.TrimSpace(string(got)) == name {
			return filepath.Join("/dev", p.Name()), nil
		}
	}
	return "", nil
}

func loadModule(m wire.Module) error {
	f, err := os.Open(m.File)
	if err != nil {
		return fmt.Errorf("load a module: %w", err)
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), m.Params, 0); err != nil && err != unix.EEXIST {
		return fmt.Errorf("load the module %s: %w", filepath.Base(m.File), err)
	}
	return nil
}

// 9p over virtio: large messages, because programs of tens of megabytes are
// read through it. The host's root is read-only here, so the guest may cache
// what it has read; it then does not see later changes on the host.
const (
	p9     = "trans=virtio,version=9p2000.L,msize=512000,"
	p9Host = p9 + "cache=loose"
	p9Out  = p9 + "cache=none,access=any"
)

// enterHostRoot makes the host's root, under a tmpfs overlay, the root.
func enterHostRoot(spec wire.Spec) error {
	err := mountAll([]mount{
		{"tmpfs", "/lab/tmpfs", "tmpfs", "mode=0755,size=75%", 0, false},
		{wire.HostTag, "/lab/host", "9p", p9Host, unix.MS_RDONLY, false},
	}, nil)
	if err != nil {
		return err
	}
	for _, d := range []string{"/lab/tmpfs/upper", "/lab/tmpfs/work"} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return err
		}
	}
	overlay := mount{"overlay", "/lab/root", "overlay", "lowerdir=/lab/host,upperdir=/lab/tmpfs/upper,workdir=/lab/tmpfs/work", 0, false}
	if err := overlay.do(); err != nil {
		return err
	}
	for _, d := range []string{"/proc", "/sys", "/dev"} {
		target := "/lab/root" + d
		if err := os.MkdirAll(target, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(d, target, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s to the new root: %w", d, err)
		}
	}
	if err := os.Chdir("/lab/root"); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the new root to /: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("chroot to the new root: %w", err)
	}
	return os.Chdir("/")
}

// setUp makes the machine that a command expects. The host's /tmp stays
// visible, since test programs are built there; like every directory of the
// overlay it is writable, and what is written stays in the guest.
func setUp(spec wire.Spec, note func(string, ...any)) error {
	err := mountAll([]mount{
		{"devpts", "/dev/pts", "devpts", "gid=5,mode=620,ptmxmode=666", unix.MS_NOSUID | unix.MS_NOEXEC, false},
		{"tmpfs", "/dev/shm", "tmpfs", "mode=1777", unix.MS_NOSUID | unix.MS_NODEV, false},
		{"tmpfs", "/run", "tmpfs", "mode=0755", unix.MS_NOSUID | unix.MS_NODEV, false},
		{"tracefs", "/sys/kernel/tracing", "tracefs", "", noExec, false},
		{"bpf", "/sys/fs/bpf", "bpf", "mode=0700", noExec, false},
		{"cgroup2", "/sys/fs/cgroup", "cgroup2", "", noExec, false},
		{"securityfs", "/sys/kernel/security", "securityfs", "", noExec, true},
	}, note)
	if err != nil {
		return err
	}
	for link, target := range map[string]string{"/dev/fd": "/proc/self/fd", "/dev/stdin": "/proc/self/fd/0", "/dev/stdout": "/proc/self/fd/1", "/dev/stderr": "/proc/self/fd/2"} {
		if err := os.Symlink(target, link); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	for _, d := range []string{"/run/lock", "/tmp"} {
		if err := os.MkdirAll(d, 0o777); err != nil {
			return err
		}
		if err := os.Chmod(d, 0o777|fs.ModeSticky); err != nil {
			return err
		}
	}
	if !spec.HostRoot {
		if err := unix.Mount("tmpfs", "/tmp", "tmpfs", 0, "mode=1777"); err != nil {
			return fmt.Errorf("mount tmpfs on /tmp: %w", err)
		}
	}
	if out := string(spec.Out); out != "" {
		if err := (mount{wire.OutTag, out, "9p", p9Out, 0, false}).do(); err != nil {
			return err
		}
	}
	if err := bindKernelFiles(spec); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte("lab")); err != nil {
		return fmt.Errorf("set the host name: %w", err)
	}
	if err := loopbackUp(); err != nil {
		return err
	}
	none := unix.Rlimit{}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &none); err != nil {
		return fmt.Errorf("set the core file limit to 0: %w", err)
	}
	if dir := string(spec.Dir); !spec.HostRoot {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	} else if info, err := os.Stat(dir); err != nil {
		return fmt.Errorf("the working directory: %w", err)
	} else if !info.IsDir() {
		return fmt.Errorf("the working directory: %s is no directory", dir)
	}
	return nil
}

// bindKernelFiles puts the kernel's modules and configuration where programs
// look for those of the running kernel.
func bindKernelFiles(spec wire.Spec) error {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return fmt.Errorf("uname: %w", err)
	}
	release := unix.ByteSliceToString(uts.Release[:])
	if from := string(spec.ModuleTree); from != "" {
		to := "/lib/modules/" + release
		if err := os.MkdirAll(to, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind the modules of %s to %s: %w", from, to, err)
		}
	}
	if from := string(spec.KernelConfig); from != "" {
		to := "/boot/config-" + release
		if err := os.MkdirAll("/boot", 0o755); err != nil {
			return err
		}
		f, err := os.OpenFile(to, os.O_CREATE|os.O_RDONLY, 0o644)
		if err != nil {
			return err
		}
		f.Close()
		if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind %s to %s: %w", from, to, err)
		}
	}
	return nil
}

// loopbackUp brings lo up; the kernel then gives it 127.0.0.1 and ::1 itself.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("bring lo up: %w", err)
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, req); err != nil {
		return fmt.Errorf("read lo's flags: %w", err)
	}
	req.SetUint16(req.Uint16() | unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req); err != nil {
		return fmt.Errorf("bring lo up: %w", err)
	}
	return nil
}
