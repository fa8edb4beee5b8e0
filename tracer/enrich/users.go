package enrich

import (
	"bytes"
	"io"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// users names users as the process sees them: the passwd of a container is not
// the host's, and the same number means somebody else in it. The files are read
// by this package and not through libc, which may ask the network.
type users struct {
	procfs string
	own    string // this process's mount namespace
	files  *lru[fileKey, map[uint32]string]
}

// fileKey tells a version of a file.
type fileKey struct {
	dev, ino    uint64
	mtime, size int64
}

const (
	maxPasswd      = 1 << 20 // bytes
	maxPasswdFiles = 64
	passwd         = "/etc/passwd"
)

func newUsers(procfs string) *users {
	own, _ := os.Readlink("/proc/self/ns/mnt")
	return &users{procfs: procfs, own: own, files: newLRU[fileKey, map[uint32]string](maxPasswdFiles, nil)}
}

// name is "" if the user has none.
func (u *users) name(pid, uid uint32) string {
	dir := u.procfs + "/" + strconv.FormatUint(uint64(pid), 10)
	mount, err := os.Readlink(dir + "/ns/mnt")
	if err != nil || mount == u.own {
		// Also for kernel threads, which have no file system of their own, and
		// for processes that may not be asked.
		f, err := openRegular(passwd)
		if err != nil {
			return ""
		}
		return u.read(f)[uid]
	}
	b, err := readSmall(dir + "/uid_map")
	if err != nil {
		return ""
	}
	inside, ok := insideUID(b, uid)
	if !ok {
		return ""
	}
	f, err := openInRoot(dir+"/root", passwd)
	if err != nil {
		return ""
	}
	return u.read(f)[inside]
}

func (u *users) read(f *os.File) map[uint32]string {
	defer f.Close()
	key, err := keyOf(f)
	if err != nil {
		return nil
	}
	names, ok := u.files.get(key)
	if !ok {
		b, err := io.ReadAll(io.LimitReader(f, maxPasswd))
		if err != nil {
			return nil
		}
		names = parsePasswd(b)
		u.files.put(key, names)
	}
	return names
}

func parsePasswd(b []byte) map[uint32]string {
	names := make(map[uint32]string)
	for line := range bytes.Lines(b) {
		fields := bytes.SplitN(line, []byte{':'}, 4)
		if len(fields) < 4 || len(fields[0]) == 0 || fields[0][0] == '#' {
			continue
		}
		uid, err := strconv.ParseUint(string(fields[2]), 10, 32)
		if err != nil {
			continue
		}
		if _, taken := names[uint32(uid)]; !taken { // as getpwuid: the first counts
			names[uint32(uid)] = string(fields[0])
		}
	}
	return names
}

// insideUID translates a user by a uid_map (user_namespaces(7)): lines of first
// inside, first outside, count.
func insideUID(b []byte, uid uint32) (uint32, bool) {
	for line := range bytes.Lines(b) {
		var v [3]uint64
		fields := bytes.Fields(line)
		if len(fields) != 3 {
			continue
		}
		ok := true
		for i := range v {
			var err error
			v[i], err = strconv.ParseUint(string(fields[i]), 10, 32)
			ok = ok && err == nil
		}
		if ok && uint64(uid) >= v[1] && uint64(uid)-v[1] < v[2] {
			return uint32(v[0] + uint64(uid) - v[1]), true
		}
	}
	return 0, false
}

// keyOf identifies an open file.
func keyOf(f *os.File) (fileKey, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return fileKey{}, err
	}
	return fileKey{
		dev: uint64(st.Dev), ino: st.Ino,
		mtime: time.Unix(st.Mtim.Unix()).UnixNano(), size: st.Size,
	}, nil
}
