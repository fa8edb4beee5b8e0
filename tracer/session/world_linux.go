package session

import (
	"bufio"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/user"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/tracer/enrich"
	"github.com/tcpbye/tcpbye/tracer/filter"
)

// World is this machine, for the filters of a live run.
func World() filter.World {
	return filter.World{PID: pidExists, User: userNumber, NetNS: netnsNumber, Cgroup: cgroupPath,
		Containers: Containers, Service: servicePort, Host: hostAddrs}
}

// Containers lists those in which processes are, and the systemd units of the others.
func Containers() ([]string, error) {
	names, err := filepath.Glob("/proc/[0-9]*/cgroup")
	if err != nil {
		return nil, fmt.Errorf("look for containers: %w", err)
	}
	found := map[string]bool{}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			continue // it has ended
		}
		for line := range strings.Lines(string(b)) {
			// cgroups(7): number, controllers, path.
			if parts := strings.SplitN(strings.TrimSpace(line), ":", 3); len(parts) == 3 {
				if c := enrich.ContainerOf(parts[2]).String(); c != "" {
					found[c] = true
				}
			}
		}
	}
	return slices.Sorted(maps.Keys(found)), nil
}

func pidExists(pid uint32) error {
	if err := unix.Kill(int(pid), 0); err != nil && !errors.Is(err, unix.EPERM) {
		return errors.New("there is no such process")
	}
	return nil
}

func userNumber(name string) (uint32, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return 0, errors.New("there is no such user")
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	return uint32(uid), err
}

// netnsNumber finds a namespace by the name that ip-netns(8) gave it, or by a
// path.
func netnsNumber(name string) (uint32, error) {
	if !strings.Contains(name, "/") {
		name = "/run/netns/" + name
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(name, &fs); err != nil {
		return 0, fmt.Errorf("there is no network namespace %s: %w", name, err)
	}
	if fs.Type != unix.NSFS_MAGIC {
		return 0, fmt.Errorf("%s is not a namespace", name)
	}
	var st unix.Stat_t
	if err := unix.Stat(name, &st); err != nil {
		return 0, fmt.Errorf("look at the network namespace %s: %w", name, err)
	}
	return uint32(st.Ino), nil
}

// cgroupPath finds a cgroup by its path in a hierarchy, or by where that is
// mounted, and returns the former.
func cgroupPath(want string) (string, error) {
	mounts, err := cgroupMounts("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	isDir := func(name string) bool {
		st, err := os.Stat(name)
		return err == nil && st.IsDir()
	}
	for _, m := range mounts {
		if inside, ok := strings.CutPrefix(want+"/", m+"/"); ok && isDir(want) {
			return path.Clean("/" + inside), nil
		}
	}
	for _, m := range mounts {
		if isDir(m + want) {
			return want, nil
		}
	}
	return "", errors.New("there is no such cgroup")
}

func cgroupMounts(mountinfo string) ([]string, error) {
	f, err := os.Open(mountinfo)
	if err != nil {
		return nil, fmt.Errorf("find the cgroups: %w", err)
	}
	defer f.Close()
	var mounts []string
	for lines := bufio.NewScanner(f); lines.Scan(); {
		// proc_pid_mountinfo(5): the type comes after a single dash.
		before, after, ok := strings.Cut(lines.Text(), " - ")
		fields := strings.Fields(before)
		if ok && len(fields) >= 5 && (strings.HasPrefix(after, "cgroup2 ") || strings.HasPrefix(after, "cgroup ")) {
			mounts = append(mounts, fields[4])
		}
	}
	return mounts, nil
}
