package enrich

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	cgroupKeep  = 10 * time.Minute // how long a path is believed without looking again
	cgroupRetry = time.Second      // how long an id that is not there is not looked for again
	cgroupWalk  = 1 << 16          // directories that one walk visits
)

// Cgroups tells the paths of cgroups by their cgroup v2 ids and back. An id is
// never used twice while the machine runs (kernfs gives ids a generation), so
// what was found stays true after the cgroup is gone.
// It may be used from several goroutines.
type Cgroups struct {
	mount string // of the cgroup2 hierarchy; "" there is none
	max   int
	now   func() time.Time
	find  func(id uint64) (string, error) // byHandle

	mu      sync.Mutex
	paths   *lru[uint64, cgroup]
	ids     map[string]uint64
	missing *lru[uint64, time.Time]
	walked  time.Time
}

type cgroup struct {
	path string
	seen time.Time
}

// NewCgroups finds the cgroup2 hierarchy at root ("/sys/fs/cgroup"), or below it
// at "unified" where the host is a hybrid one, and learns the cgroups that exist.
// It remembers at most max. Where there is no such hierarchy nothing is found:
// /proc/PID/cgroup is all there is then.
func NewCgroups(root string, max int) *Cgroups {
	c := &Cgroups{
		max: max, now: time.Now,
		ids:     make(map[string]uint64),
		missing: newLRU[uint64, time.Time](max, nil),
	}
	c.find = c.byHandle
	c.paths = newLRU(max, func(_ uint64, g cgroup) { delete(c.ids, g.path) })
	for _, dir := range []string{root, filepath.Join(root, "unified")} {
		var st unix.Statfs_t
		if unix.Statfs(dir, &st) == nil && int64(st.Type) == unix.CGROUP2_SUPER_MAGIC {
			c.mount = dir
			break
		}
	}
	c.walk()
	return c
}

// Path is the cgroup's path below the mount point of the hierarchy, "/" for the
// root. It says false for an id that is not there and was not seen in the last
// ten minutes.
func (c *Cgroups) Path(id uint64) (string, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	g, ok := c.paths.get(id)
	if ok && now.Sub(g.seen) < cgroupKeep {
		return g.path, true
	}
	if c.mount == "" {
		return "", false
	}
	if asked, missing := c.missing.get(id); missing && now.Sub(asked) < cgroupRetry {
		return "", false
	}
	if path, err := c.find(id); err == nil {
		c.learn(id, path, now)
		return path, true
	} else if !errors.Is(err, unix.ESTALE) && now.Sub(c.walked) >= cgroupRetry {
		// Not allowed (CAP_DAC_READ_SEARCH) or not known: look for it. A stale
		// handle is a cgroup that is gone, and no walk would find it.
		c.walk()
		if g, ok := c.paths.get(id); ok && !g.seen.Before(now) {
			return g.path, true
		}
	}
	c.paths.remove(id)
	c.missing.put(id, now)
	return "", false
}

// ID is the id of the cgroup at a path below the mount point.
func (c *Cgroups) ID(path string) (uint64, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	path = filepath.Join("/", path)
	if c.mount != "" {
		// The directory first: a path, unlike an id, can be used again.
		var st unix.Stat_t
		if unix.Stat(c.mount+path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
			c.learn(st.Ino, path, c.now())
			return st.Ino, true
		}
	}
	id, ok := c.ids[path]
	return id, ok
}

func (c *Cgroups) learn(id uint64, path string, now time.Time) {
	if old, ok := c.paths.get(id); ok && old.path != path {
		delete(c.ids, old.path)
	}
	c.paths.put(id, cgroup{path, now})
	c.ids[path] = id
	c.missing.remove(id)
}

// byHandle asks the kernel for the directory with an id: kernfs takes ids as
// file handles (kernfs_fh_to_dentry, 5.5).
func (c *Cgroups) byHandle(id uint64) (string, error) {
	const fileidKernfs = 0xfe // FILEID_KERNFS, include/linux/exportfs.h
	mount, err := unix.Open(c.mount, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(mount)
	var handle [8]byte
	binary.NativeEndian.PutUint64(handle[:], id)
	fd, err := unix.OpenByHandleAt(mount, unix.NewFileHandle(fileidKernfs, handle[:]), unix.O_PATH|unix.O_CLOEXEC)
	if err != nil {
		return "", err
	}
	dir := os.NewFile(uintptr(fd), "")
	defer dir.Close()
	info, err := dir.Stat()
	if err != nil {
		return "", err
	}
	path, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
	if err != nil {
		return "", err
	}
	if !info.IsDir() {
		return "", unix.ENOTDIR
	}
	inside, ok := strings.CutPrefix(path, c.mount)
	if !ok || strings.HasSuffix(path, " (deleted)") {
		return "", unix.ESTALE
	}
	return filepath.Join("/", inside), nil
}

// walk learns all cgroups there are, up to a bound.
func (c *Cgroups) walk() {
	c.walked = c.now()
	if c.mount == "" {
		return
	}
	seen, bound := 0, min(c.max, cgroupWalk)
	// Errors are cgroups that went away under the walk.
	_ = filepath.WalkDir(c.mount, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			if d != nil && d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if !d.IsDir() {
			return nil
		}
		if seen++; seen > bound {
			return fs.SkipAll
		}
		var st unix.Stat_t
		if unix.Stat(path, &st) == nil {
			c.learn(st.Ino, filepath.Join("/", strings.TrimPrefix(path, c.mount)), c.walked)
		}
		return nil
	})
}

// cgroupPath picks from /proc/PID/cgroup the path that tells most: the v2 path,
// unless it is the root or names no container while another hierarchy does, as
// on cgroup v1 and hybrid hosts; then the path with the container, systemd's, or
// the longest.
func cgroupPath(b []byte) string {
	var unified, systemd, other, container string
	inContainer := func(path string) bool {
		c := ContainerOf(path)
		return c.Runtime != "" && c.Runtime != Systemd
	}
	for line := range bytes.Lines(b) {
		parts := strings.SplitN(strings.TrimSuffix(string(line), "\n"), ":", 3)
		if len(parts) != 3 {
			continue
		}
		path := parts[2]
		switch {
		case parts[0] == "0" && parts[1] == "":
			unified = path
		case parts[1] == "name=systemd":
			systemd = path
		case len(path) > len(other):
			other = path
		}
		if container == "" && inContainer(path) {
			container = path
		}
	}
	if container != "" && !inContainer(unified) {
		return container
	}
	for _, path := range []string{unified, systemd, other} {
		if path != "" && path != "/" {
			return path
		}
	}
	return "/"
}
