package queue

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func open(t testing.TB, dir string, max int64) *Queue {
	t.Helper()
	q, err := Open(dir, max, func(err error) { t.Log(err) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = q.Close() })
	return q
}

// room is a directory that nobody else can write in, whatever the umask is.
func room(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

func batch(n int) Batch {
	return Batch{Kind: "logs", Gzip: n%2 == 0, Records: n, Body: []byte(strings.Repeat("x", 100))}
}

// taken takes all that waits off, and says what it was by the numbers of records.
func taken(t testing.TB, q *Queue) (all []int) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for {
		b, number, ok := q.First(ctx, nil)
		if !ok {
			return all
		}
		if want := batch(b.Records); b.Kind != want.Kind || b.Gzip != want.Gzip || string(b.Body) != string(want.Body) {
			t.Errorf("batch %d is %+v", b.Records, b)
		}
		all = append(all, b.Records)
		q.Done(number, "", 0)
	}
}

func TestOrder(t *testing.T) {
	for _, dir := range []string{"", room(t)} {
		q := open(t, dir, 1<<20)
		for i := range 5 {
			q.Put(batch(i + 1))
		}
		if c := q.Counts(); c.Records != 15 || c.Bytes != 500 || c.Kept != (dir != "") {
			t.Errorf("%+v", c)
		}
		if got := fmt.Sprint(taken(t, q)); got != "[1 2 3 4 5]" {
			t.Error(got)
		}
		if c := q.Counts(); c.Records != 0 || c.Bytes != 0 || len(c.Dropped) != 0 {
			t.Errorf("%+v", c)
		}
	}
}

// TestBound: beyond the bound the oldest go, but not the one that is being sent.
func TestBound(t *testing.T) {
	for _, dir := range []string{"", room(t)} {
		q := open(t, dir, 450)
		for i := range 4 {
			q.Put(batch(i + 1))
		}
		_, number, _ := q.First(t.Context(), nil)
		for i := range 3 {
			q.Put(batch(i + 5))
		}
		if c := q.Counts(); c.Dropped[Full] != 2+3+4 || c.Bytes != 400 {
			t.Errorf("%+v", c)
		}
		q.Done(number, "", 0)
		if got := fmt.Sprint(taken(t, q)); got != "[5 6 7]" {
			t.Error(got)
		}
		if dir != "" {
			if left, _ := filepath.Glob(filepath.Join(dir, "*.logs*")); len(left) > 0 {
				t.Errorf("files are left: %v", left)
			}
		}
	}
}

const childEnv = "TCPBYE_TEST_QUEUE"

// TestKill: what was put before a SIGKILL waits for the next process, and what was
// being written is not taken for a batch.
func TestKill(t *testing.T) {
	if dir := os.Getenv(childEnv); dir != "" {
		q := open(t, dir, 1<<20)
		for i := range 3 {
			q.Put(batch(i + 1))
		}
		if err := os.WriteFile(filepath.Join(dir, "0000000000000003-4.logs"+unfinished), []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
		_ = unix.Kill(os.Getpid(), unix.SIGKILL)
	}
	dir := room(t)
	child := exec.Command(os.Args[0], "-test.run=^TestKill$")
	child.Env = append(os.Environ(), childEnv+"="+dir)
	out, err := child.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.String() != "signal: killed" {
		t.Fatalf("%v: %s", err, out)
	}
	q := open(t, dir, 1<<20)
	q.Put(batch(9))
	if got := fmt.Sprint(taken(t, q)); got != "[1 2 3 9]" {
		t.Error(got)
	}
}

// TestFullDisk: while nothing can be written batches wait in memory; when there is no
// room, either, they are dropped and counted; and what is on disk is not harmed.
func TestFullDisk(t *testing.T) {
	var said []string
	q, err := Open(room(t), 1<<30, func(err error) { said = append(said, err.Error()) })
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	q.Put(batch(1))
	q.put = func(string, []byte) error { return unix.ENOSPC }
	q.Put(batch(2))
	huge := Batch{Kind: "logs", Records: 1000, Body: make([]byte, memory)}
	q.Put(huge)
	q.put = write
	q.Put(batch(3))
	if c := q.Counts(); c.Dropped[Disk] != 1000 || c.Records != 6 || c.Kept {
		t.Errorf("%+v", c)
	}
	if len(said) != 2 || !strings.Contains(said[0], "no space left on device; the records wait in memory") || !strings.Contains(said[1], "are dropped") {
		t.Errorf("it says %q", said)
	}
	if got := fmt.Sprint(taken(t, q)); got != "[1 2 3]" {
		t.Error(got)
	}
	if q.inside != 0 {
		t.Errorf("%d bytes in memory when nothing waits", q.inside)
	}
}

// TestTinyDisk fills a real one.
func TestTinyDisk(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("to mount a small tmpfs takes root; TestFullDisk has the same with an error of the writer")
	}
	dir := room(t)
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k,mode=0700"); err != nil {
		t.Skipf("mount a tmpfs: %v", err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	var said []string
	q, err := Open(dir, 1<<30, func(err error) { said = append(said, err.Error()) })
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	for i := range 40 {
		q.Put(batch(i + 1)) // each takes a page
	}
	if len(said) == 0 || !strings.Contains(said[0], "no space left on device") {
		t.Errorf("it says %q", said)
	}
	if c := q.Counts(); c.Records != 40*41/2 || len(c.Dropped) > 0 {
		t.Errorf("%+v", c)
	}
	if got := taken(t, q); len(got) != 40 || got[39] != 40 {
		t.Errorf("%v", got)
	}
	q.Put(batch(7))
	if c := q.Counts(); !c.Kept {
		t.Errorf("there is room again, and still %+v", c)
	}
}

func TestForeign(t *testing.T) {
	dir := room(t)
	for _, name := range []string{"README", "x-1.logs", "0000000000000001-x.logs", "0000000000000001.logs", "1-1.a.b.gz"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	q := open(t, dir, 1<<20)
	if got := taken(t, q); got != nil {
		t.Errorf("files of others are taken for batches: %v", got)
	}
	if _, err := Open(dir, 1<<20, nil); err == nil || !strings.Contains(err.Error(), "another process uses it") {
		t.Errorf("two use one directory: %v", err)
	}
	if _, err := Open("", 0, nil); err == nil {
		t.Error("a queue without room is opened")
	}
}

// TestLinks: nothing is written in a directory, or through a link, that another user may
// have put there.
func TestLinks(t *testing.T) {
	refused := func(dir, why string) {
		t.Helper()
		q, err := Open(dir, 1<<20, nil)
		if err == nil {
			_ = q.Close()
		}
		if err == nil || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: %v, want %q", dir, err, why)
		}
	}
	dir := room(t)
	link := filepath.Join(room(t), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	refused(link, "it is a link")
	refused(link+"/", "it is a link")
	for _, mode := range []os.FileMode{0o770, 0o707} {
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
		refused(dir, fmt.Sprintf("others may write in it (mode %04o)", mode))
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := private(dir, os.Geteuid()+1); err == nil || !strings.Contains(err.Error(), "it is the directory of user") {
		t.Errorf("the directory of another user: %v", err)
	}

	victim := filepath.Join(room(t), "victim")
	if err := os.Symlink(victim, filepath.Join(dir, "lock")); err != nil {
		t.Fatal(err)
	}
	refused(dir, "lock is a link")
	if err := os.Remove(filepath.Join(dir, "lock")); err != nil {
		t.Fatal(err)
	}
	// A file that waits, and one that is written next.
	if err := os.WriteFile(victim, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(victim, filepath.Join(dir, "0000000000000009-4.logs")); err != nil {
		t.Fatal(err)
	}
	q := open(t, dir, 1<<20)
	part := filepath.Join(dir, "0000000000000000-1.logs"+unfinished)
	if err := os.Symlink(victim, part); err != nil {
		t.Fatal(err)
	}
	q.Put(batch(1))
	if got := fmt.Sprint(taken(t, q)); got != "[1]" {
		t.Errorf("%s wait", got)
	}
	if b, err := os.ReadFile(victim); err != nil || string(b) != "mine" {
		t.Errorf("what a link points to has %q, %v", b, err)
	}
}
