package enrich

import (
	"hash/fnv"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// openModule opens what is mapped, and says which version of which file it is.
func openModule(dir, exe string, m *mapping) (*os.File, fileKey, bool) {
	switch {
	case m.ino != 0:
		f := openMapped(dir, exe, m)
		if f == nil {
			return nil, fileKey{}, false
		}
		key, err := keyOf(f)
		if err != nil {
			f.Close()
			return nil, fileKey{}, false
		}
		return f, key, true
	case m.path == "[vdso]":
		b := readMemory(dir, m.start, m.end)
		if b == nil {
			return nil, fileKey{}, false
		}
		f := memoryFile("vdso", b)
		if f == nil {
			return nil, fileKey{}, false
		}
		h := fnv.New64a()
		h.Write(b)
		// No file is on device 0 with such a time.
		return f, fileKey{ino: h.Sum64(), mtime: -1, size: int64(len(b))}, true
	}
	return nil, fileKey{}, false
}

// readMemory reads a small part of the process's memory: the vdso is no file.
func readMemory(dir string, start, end uint64) []byte {
	const most = 64 << 10
	mem, err := os.Open(dir + "/mem")
	if err != nil || end-start > most {
		return nil
	}
	defer mem.Close()
	b := make([]byte, end-start)
	if _, err := mem.ReadAt(b, int64(start)); err != nil {
		return nil
	}
	return b
}

// memoryFile is a file of its own for what is none.
func memoryFile(name string, b []byte) *os.File {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil
	}
	f := os.NewFile(uintptr(fd), name)
	if _, err := f.Write(b); err != nil {
		f.Close()
		return nil
	}
	return f
}

// openMapped opens the very file that is mapped. The kernel's own link to it
// works for deleted files and in any container, but takes
// CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN; the ways by name are checked against
// the inode, as the name may belong to another file by now.
func openMapped(dir, exe string, m *mapping) *os.File {
	same := func(f *os.File, err error) *os.File {
		if err != nil {
			return nil
		}
		if key, err := keyOf(f); err != nil || key.ino != m.ino {
			f.Close()
			return nil
		}
		return f
	}
	link := strconv.FormatUint(m.start, 16) + "-" + strconv.FormatUint(m.end, 16)
	if f, err := openRegular(dir + "/map_files/" + link); err == nil {
		return f
	}
	path := m.path
	if m.deleted {
		path += " (deleted)"
	}
	if path == exe {
		if f := same(openRegular(dir + "/exe")); f != nil {
			return f
		}
	}
	if m.deleted || !filepath.IsAbs(m.path) {
		return nil
	}
	if f := same(openInRoot(dir+"/root", m.path)); f != nil {
		return f
	}
	f := same(openRegular(m.path))
	if f == nil {
		return nil
	}
	// A name in this process's own root: the device has to be the same too.
	if key, err := keyOf(f); err != nil || unix.Major(key.dev) != m.major || unix.Minor(key.dev) != m.minor {
		f.Close()
		return nil
	}
	return f
}

// openDebug finds the separate debug file of a build.
func (s *Symbols) openDebug(buildID string) *os.File {
	if len(buildID) < 4 {
		return nil
	}
	for _, dir := range s.debug {
		if f, err := openRegular(filepath.Join(dir, buildID[:2], buildID[2:]+".debug")); err == nil {
			return f
		}
	}
	return nil
}
