package lineage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// perfRecord writes a record: its words, a name, and the time.
func perfRecord(kind uint32, misc uint16, at uint64, name string, words ...uint32) []byte {
	o := binary.NativeEndian
	b := make([]byte, recordHeader)
	for _, w := range words {
		b = o.AppendUint32(b, w)
	}
	if name != "" {
		b = append(append(b, name...), make([]byte, 8-len(name)%8)...)
	}
	b = o.AppendUint64(b, at)
	o.PutUint32(b, kind)
	o.PutUint16(b[4:], misc)
	o.PutUint16(b[6:], uint16(len(b)))
	return b
}

func mapRecord(at uint64, pid uint32, name string) []byte {
	return perfRecord(unix.PERF_RECORD_MMAP, 0, at, name, pid, pid, 0, 0, 0, 0, 0, 0)
}

func TestMappings(t *testing.T) {
	fork := func(at uint64, parent, child uint32) []byte {
		return perfRecord(unix.PERF_RECORD_FORK, 0, at, "", child, parent, child, parent, 0, 0)
	}
	execs := func(at uint64, pid uint32) []byte {
		return perfRecord(unix.PERF_RECORD_COMM, commExec, at, "name", pid, pid)
	}
	m := &mapped{known: map[uint32]image{}}
	feed := func(records ...[]byte) {
		t.Helper()
		for _, b := range records {
			if e, ok := parseMapping(b); ok {
				m.take(e)
			}
		}
	}
	feed(
		fork(1, 1, 10), execs(2, 10),
		mapRecord(3, 10, "//anon"), mapRecord(4, 10, "[vdso]"), mapRecord(5, 10, "/bin/first"), mapRecord(6, 10, "/lib/ld.so"),
		fork(7, 10, 11),                                            // executes what its parent does
		fork(8, 10, 12), execs(9, 12), mapRecord(10, 12, "/bin/2"), // and this does not
		fork(11, 10, 13), execs(12, 13), // this is about to
		perfRecord(unix.PERF_RECORD_COMM, 0, 13, "renamed", 11, 11),
		perfRecord(unix.PERF_RECORD_FORK, 0, 14, "", 10, 10, 99, 10, 0, 0), // a thread
		mapRecord(15, 20, "/lib/plugin.so"),                                // of one that is older
	)
	for pid, want := range map[uint32]string{10: "/bin/first", 11: "/bin/first", 12: "/bin/2", 13: "", 20: "", 99: ""} {
		if got := m.known[pid].exe; got != want {
			t.Errorf("%d executes %q, want %q", pid, got, want)
		}
	}
	feed(perfRecord(unix.PERF_RECORD_LOST, 0, 16, "", 0, 0, 7, 0), fork(17, 10, 14))
	if got := m.known[14].exe; got != "" || m.known[10].exe != "" {
		t.Errorf("after a loss it is said to be known what is executed: %q", got)
	}
	for i := range uint32(3 * most) {
		m.learn(i, image{exe: "/x"})
	}
	if len(m.known) != most {
		t.Errorf("%d processes are remembered", len(m.known))
	}
}

func TestRing(t *testing.T) {
	page := os.Getpagesize()
	r := &ring{page: make([]byte, 2*page)}
	data := r.page[page:]
	o := binary.NativeEndian
	at := uint64(3*page - 100) // it has run around before
	o.PutUint64(r.page[offsetDataTail:], at)
	var want []string
	for i := range 20 {
		name := fmt.Sprintf("/bin/%d", i)
		want = append(want, name)
		for _, c := range mapRecord(uint64(i), 1, name) {
			data[at%uint64(page)] = c
			at++
		}
	}
	o.PutUint64(r.page[offsetDataHead:], at)
	var got []string
	r.each(func(b []byte) {
		e, _ := parseMapping(b)
		got = append(got, e.name)
	})
	if !slices.Equal(got, want) || o.Uint64(r.page[offsetDataTail:]) != at {
		t.Errorf("read %v, up to %d of %d", got, o.Uint64(r.page[offsetDataTail:]), at)
	}
	// A record that makes no sense ends the reading, and does not go on for ever.
	o.PutUint64(r.page[offsetDataHead:], at+64)
	clear(data)
	r.each(func([]byte) { t.Error("zeros are read as a record") })
}

func TestCPUs(t *testing.T) {
	for text, want := range map[string][]int{"0\n": {0}, "0-3\n": {0, 1, 2, 3}, "0,2-3,7\n": {0, 2, 3, 7}} {
		if got, err := parseCPUs(text); err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "x", "0-", "0-y"} {
		if got, err := parseCPUs(text); err == nil {
			t.Errorf("%q: %v", text, got)
		}
	}
}

// TestMappedByKernel: what was executed by processes that are gone when they are
// asked for, each under a name of its own.
func TestMappedByKernel(t *testing.T) {
	m, err := openMapped()
	if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSYS) || errors.Is(err, os.ErrNotExist) {
		if os.Geteuid() == 0 {
			t.Logf("this kernel does not tell root: %v", err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	shell, err := exec.LookPath("sh")
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(shell)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for i := range 50 {
		path := filepath.Join(dir, fmt.Sprint("shell-", i))
		if err := os.WriteFile(path, b, 0o755); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(path, "-c", ":")
		if err := cmd.Run(); err != nil {
			t.Fatal(err)
		}
		if got := m.exe(uint32(cmd.Process.Pid)); got != path {
			t.Errorf("%d executed %q, want %q", cmd.Process.Pid, got, path)
		}
	}
	if err := m.close(); err != nil {
		t.Error(err)
	}
}

func FuzzParseMapping(f *testing.F) {
	f.Add(mapRecord(1, 2, "/bin/x"))
	f.Fuzz(func(t *testing.T, b []byte) { parseMapping(b) })
}
