package enrich

import (
	"bytes"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// mapping is an executable line of /proc/PID/maps.
type mapping struct {
	start, end uint64
	off        uint64 // of start in the file, bytes
	base       uint64 // where the file's beginning is mapped; start if it is not
	major      uint32
	minor      uint32
	ino        uint64 // 0: no file
	path       string // "" anonymous; "[vdso]" and the like
	deleted    bool

	key   fileKey // of the module; zero: it was not opened
	tried bool    // it was to be opened
}

const (
	maxMaps     = 8 << 20 // bytes of a maps file that are read
	maxMappings = 1 << 14 // executable mappings that are kept
)

// readMaps says nil for a process whose address space is gone. What does not come
// in time, or is too much, is left out.
func readMaps(name string, until time.Time) []mapping {
	f, err := os.Open(name)
	if err != nil {
		return nil
	}
	defer f.Close()
	b := make([]byte, 0, 64<<10)
	for len(b) < maxMaps {
		// The kernel gives a page at a time.
		n, err := f.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		if err == io.EOF || n == 0 {
			break
		}
		if err != nil {
			return nil
		}
		if time.Now().After(until) {
			break
		}
		b = slices.Grow(b, 4<<10)
	}
	// A line that was cut is not of the shape, or has a shorter path.
	if i := bytes.LastIndexByte(b, '\n'); i >= 0 {
		b = b[:i+1]
	}
	return parseMaps(b)
}

func threadMaps(dir string, until time.Time) []mapping {
	tasks, err := os.Open(dir + "/task")
	if err != nil {
		return nil
	}
	defer tasks.Close()
	names, _ := tasks.Readdirnames(16)
	for _, tid := range names {
		if found := readMaps(dir+"/task/"+tid+"/maps", until); len(found) != 0 {
			return found
		}
	}
	return nil
}

// parseMaps keeps the executable mappings, in the order of their addresses.
// Lines of another shape are left out.
func parseMaps(b []byte) []mapping {
	var all []mapping
	var first mapping // the last mapping of a file's beginning
	for line := range bytes.Lines(b) {
		m, perms, ok := parseMapping(line)
		if !ok {
			continue
		}
		if m.ino != 0 && m.off == 0 {
			first = m
		}
		if len(perms) < 3 || perms[2] != 'x' || len(all) == maxMappings {
			continue
		}
		m.base = m.start
		if first.sameFile(&m) {
			m.base = first.start
		}
		all = append(all, m)
	}
	return all
}

// parseMapping reads "start-end perms offset major:minor inode   path".
func parseMapping(line []byte) (m mapping, perms string, ok bool) {
	s := strings.TrimSuffix(string(line), "\n")
	var fields [5]string
	for i := range fields {
		var found bool
		fields[i], s, found = strings.Cut(s, " ")
		if !found && i < len(fields)-1 {
			return m, "", false
		}
	}
	start, end, found := strings.Cut(fields[0], "-")
	major, minor, both := strings.Cut(fields[3], ":")
	if !found || !both {
		return m, "", false
	}
	ok = true
	number := func(s string, base, bits int) uint64 {
		v, err := strconv.ParseUint(s, base, bits)
		ok = ok && err == nil
		return v
	}
	m.start, m.end = number(start, 16, 64), number(end, 16, 64)
	m.off = number(fields[2], 16, 64)
	m.major, m.minor = uint32(number(major, 16, 32)), uint32(number(minor, 16, 32))
	m.ino = number(fields[4], 10, 64)
	if !ok || m.end <= m.start {
		return m, "", false
	}
	m.path = strings.TrimLeft(s, " ")
	if m.ino != 0 {
		// seq_file_path writes a line end as \012.
		m.path = strings.ReplaceAll(m.path, `\012`, "\n")
		m.path, m.deleted = strings.CutSuffix(m.path, " (deleted)")
	}
	return m, fields[1], true
}

// name is how the mapping is shown.
func (m *mapping) name() string {
	if m.path == "" {
		return "[anon]"
	}
	return m.path
}

func (m *mapping) sameFile(o *mapping) bool {
	return m.ino != 0 && m.ino == o.ino && m.major == o.major && m.minor == o.minor
}
