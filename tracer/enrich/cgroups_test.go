package enrich

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// tree stands for the cgroup2 hierarchy: ids are inode numbers there as well.
func tree(t *testing.T, max int) (*Cgroups, *time.Time) {
	t.Helper()
	c := NewCgroups(t.TempDir(), max)
	if c.mount != "" {
		t.Fatal("a directory was taken for a cgroup2 hierarchy")
	}
	c.mount = t.TempDir()
	c.find = func(uint64) (string, error) { return "", unix.EPERM } // not root
	c.walked = time.Time{}
	now := time.Unix(1_000_000, 0)
	c.now = func() time.Time { return now }
	return c, &now
}

func mkdir(t *testing.T, c *Cgroups, path string) uint64 {
	t.Helper()
	if err := os.MkdirAll(c.mount+path, 0o755); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(c.mount+path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

func TestCgroupBothWays(t *testing.T) {
	c, now := tree(t, 100)
	const path = "/system.slice/nginx.service"
	id := mkdir(t, c, path)
	if got, ok := c.Path(id); !ok || got != path {
		t.Fatalf("Path: %q %v", got, ok)
	}
	if got, ok := c.ID(path); !ok || got != id {
		t.Fatalf("ID: %d %v, want %d", got, ok, id)
	}
	if _, ok := c.ID("/not/there"); ok {
		t.Error("a path that is not there has an id")
	}

	// Gone, and remembered for ten minutes.
	if err := os.Remove(c.mount + path); err != nil {
		t.Fatal(err)
	}
	*now = now.Add(cgroupKeep - time.Second)
	if got, ok := c.Path(id); !ok || got != path {
		t.Errorf("gone: %q %v", got, ok)
	}
	if got, ok := c.ID(path); !ok || got != id {
		t.Errorf("gone: id %d %v", got, ok)
	}
	*now = now.Add(2 * time.Second)
	if got, ok := c.Path(id); ok {
		t.Errorf("after ten minutes: %q", got)
	}
	if _, ok := c.ID(path); ok {
		t.Error("after ten minutes there is still an id")
	}
}

func TestCgroupStaysWhileItLives(t *testing.T) {
	c, now := tree(t, 100)
	id := mkdir(t, c, "/a")
	c.Path(id)
	*now = now.Add(2 * cgroupKeep)
	if got, ok := c.Path(id); !ok || got != "/a" {
		t.Errorf("%q %v", got, ok)
	}
}

func TestCgroupNotThere(t *testing.T) {
	c, now := tree(t, 100)
	mkdir(t, c, "/a")
	const unknown = 1 << 60
	if got, ok := c.Path(unknown); ok {
		t.Fatalf("an id of nothing is %q", got)
	}
	first := c.walked
	*now = now.Add(cgroupRetry / 2)
	if c.Path(unknown); c.walked != first {
		t.Error("looked for again at once")
	}
	*now = now.Add(cgroupRetry)
	if c.Path(unknown); c.walked == first {
		t.Error("never looked for again")
	}
	if c.Path(unknown + 1); c.missing.len() != 2 {
		t.Errorf("%d ids are known to be missing", c.missing.len())
	}
}

func TestCgroupByHandle(t *testing.T) {
	c, now := tree(t, 100)
	asked := 0
	c.find = func(id uint64) (string, error) {
		if asked++; id == 42 {
			return "/a", nil
		}
		return "", unix.ESTALE
	}
	before := c.walked
	for range 3 {
		if got, ok := c.Path(42); !ok || got != "/a" {
			t.Errorf("%q %v", got, ok)
		}
		if got, ok := c.Path(43); ok {
			t.Errorf("a stale handle is %q", got)
		}
	}
	if asked != 2 || c.walked != before {
		t.Errorf("asked %d times for two ids; walked: %v", asked, c.walked != before)
	}
	*now = now.Add(2 * cgroupRetry)
	if c.Path(43); asked != 3 {
		t.Errorf("asked %d times", asked)
	}
}

func TestCgroupsAreBounded(t *testing.T) {
	c, now := tree(t, 3)
	for _, p := range []string{"/a", "/b", "/c", "/d", "/e"} {
		c.ID(p) // not there yet
		id := mkdir(t, c, p)
		if got, ok := c.ID(p); !ok || got != id {
			t.Errorf("%s: %d %v", p, got, ok)
		}
	}
	for id := range uint64(10) {
		*now = now.Add(2 * cgroupRetry)
		c.Path(1<<60 + id)
	}
	if c.paths.len() > 3 || len(c.ids) > 3 || c.missing.len() > 3 {
		t.Errorf("%d paths, %d ids, %d missing", c.paths.len(), len(c.ids), c.missing.len())
	}
}

// The hierarchy of this machine, where there is one: every directory's id leads
// back to it.
func TestCgroupsOfThisMachine(t *testing.T) {
	c := NewCgroups("/sys/fs/cgroup", 1000)
	if c.mount == "" {
		t.Skip("no cgroup2 hierarchy is mounted here")
	}
	entries, err := os.ReadDir(c.mount)
	if err != nil {
		t.Fatal(err)
	}
	paths := []string{"/"}
	for _, e := range entries {
		if e.IsDir() {
			paths = append(paths, filepath.Join("/", e.Name()))
		}
	}
	for _, path := range paths {
		id, ok := c.ID(path)
		if !ok {
			continue // removed since
		}
		c.paths.remove(id)
		c.walked = time.Time{} // without the right to ask by id, a walk is due
		if got, ok := c.Path(id); !ok || got != path {
			t.Errorf("%s has id %d, which is %q %v", path, id, got, ok)
		}
	}
}
