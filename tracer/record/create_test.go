package record

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// stranger is another user.
const stranger = 1000

// shared is a directory where everybody may write, as /tmp is, but for its sticky
// bit.
func shared(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return dir
}

// give gives a name to another user.
func give(t *testing.T, name string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can make files of another user")
	}
	if err := os.Lchown(name, stranger, stranger); err != nil {
		t.Fatal(err)
	}
}

func createAndWrite(name string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	f, err := Create(ctx, name)
	if err != nil {
		return err
	}
	_, err = io.WriteString(f, "new")
	return errors.Join(err, f.Close())
}

func TestCreate(t *testing.T) {
	dir := shared(t)
	name := filepath.Join(dir, "r")
	old := unix.Umask(0)
	defer unix.Umask(old)
	if err := createAndWrite(name); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(name)
	if err != nil || st.Mode() != 0o600 {
		t.Errorf("mode %v, error %v", st.Mode(), err)
	}
	if err := os.WriteFile(name, []byte("an older and longer one"), 0); err != nil {
		t.Fatal(err)
	}
	// By another way, and over what is there.
	if err := os.Symlink(dir, filepath.Join(dir, "way")); err != nil {
		t.Fatal(err)
	}
	if err := createAndWrite(dir + "/way/./../" + filepath.Base(dir) + "//r"); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(name); string(b) != "new" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
	for _, name := range []string{"/dev/null", "/proc/self/fd/2"} {
		if f, err := Create(context.Background(), name); err != nil {
			t.Errorf("%s: %v", name, err)
		} else if err := f.Close(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	t.Chdir(dir)
	if err := createAndWrite("here"); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"", ".", "..", "no/such", "r/r", "new/", "/dev/fd/77"} {
		if err := createAndWrite(name); err == nil {
			t.Errorf("%q was created", name)
		}
	}
}

// TestCreateIsNotLed: nothing that another user has put into a shared directory
// says where the data goes.
func TestCreateIsNotLed(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	const kept = "kept"
	for _, tt := range []struct {
		name string
		put  func(dir string) error
		own  string // what is the stranger's; "": nothing
		at   string
		want string
	}{
		{"a link", func(dir string) error { return os.Symlink(secret, dir+"/r") }, "r", "r", "symbolic link"},
		{"a link of one's own", func(dir string) error { return os.Symlink(secret, dir+"/r") }, "", "r", "symbolic link"},
		{"a link to nothing", func(dir string) error { return os.Symlink(secret+"2", dir+"/r") }, "r", "r", "symbolic link"},
		{"a directory's link", func(dir string) error { return os.Symlink(filepath.Dir(secret), dir+"/way") }, "way", "way/secret", "belongs to another user (uid 1000)"},
		{"a new name by a directory's link", func(dir string) error { return os.Symlink(filepath.Dir(secret), dir+"/way") }, "way", "way/secret2", "belongs to another user (uid 1000)"},
		{"links in a ring", func(dir string) error { return errors.Join(os.Symlink("b", dir+"/a"), os.Symlink("a", dir+"/b")) }, "", "a/r", "too many levels"},
		{"a hard link", func(dir string) error { return os.Link(secret, dir+"/r") }, "", "r", "has 2 names"},
		{"a file", func(dir string) error { return os.WriteFile(dir+"/r", nil, 0o666) }, "r", "r", "another user (uid 1000)"},
		{"a FIFO", func(dir string) error { return unix.Mkfifo(dir+"/r", 0o666) }, "r", "r", "FIFO of another user (uid 1000)"},
		{"a socket", func(dir string) error { return unix.Mknod(dir+"/r", unix.S_IFSOCK|0o666, 0) }, "", "r", "neither a file nor a pipe"},
		{"a directory", func(dir string) error { return os.Mkdir(dir+"/r", 0o777) }, "", "r", "is a directory"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := os.WriteFile(secret, []byte(kept), 0o600); err != nil {
				t.Fatal(err)
			}
			dir := shared(t)
			if err := tt.put(dir); err != nil {
				t.Fatal(err)
			}
			if tt.own != "" {
				give(t, filepath.Join(dir, tt.own))
			}
			err := createAndWrite(filepath.Join(dir, tt.at))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
			if b, err := os.ReadFile(secret); string(b) != kept || err != nil {
				t.Errorf("the file holds %q, %v", b, err)
			}
			if _, err := os.Lstat(secret + "2"); err == nil {
				t.Error("a file was created where the link pointed")
			}
			if err := os.Remove(secret); err != nil {
				t.Fatal(err)
			}
		})
	}
	// In a directory of one's own one's own FIFO is what was meant.
	dir := t.TempDir()
	if err := errors.Join(unix.Mkfifo(dir+"/r", 0o600), os.Chmod(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	give(t, dir)
	give(t, dir+"/r")
	r, err := os.OpenFile(dir+"/r", os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := createAndWrite(dir + "/r"); err != nil {
		t.Error(err)
	}
}

// TestFIFO: a FIFO is waited for, and the end of the context ends the waiting:
// for a reader, and for one that does not read on.
func TestFIFO(t *testing.T) {
	name := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(name, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	failed := make(chan error)
	go func() {
		_, err := Create(ctx, name)
		failed <- err
	}()
	cancel()
	if err := <-failed; err == nil || !strings.Contains(err.Error(), "nobody has opened the FIFO") {
		t.Errorf("error %v", err)
	}

	ctx, cancel = context.WithCancel(context.Background())
	defer cancel()
	go func() {
		f, err := Create(ctx, name)
		if err == nil {
			_, err = f.Write(make([]byte, 1<<20))
			err = errors.Join(err, f.Close())
		}
		failed <- err
	}()
	r, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := io.ReadFull(r, make([]byte, 100)); err != nil { // it writes
		t.Fatal(err)
	}
	cancel()
	if err := <-failed; err == nil || !strings.Contains(err.Error(), "nobody reads the pipe") {
		t.Errorf("error %v", err)
	}
	// One that reads gets everything, also once the context has ended.
	name = filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(name, 0o600); err != nil {
		t.Fatal(err)
	}
	r2, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r2.Close()
	go func() {
		f, err := Create(ctx, name)
		if err == nil {
			_, err = f.Write(make([]byte, 1<<20))
			err = errors.Join(err, f.Close())
		}
		failed <- err
	}()
	total := 0
	for b := make([]byte, 1<<16); total < 1<<20; {
		n, err := r2.Read(b)
		total += n
		if err != nil && !errors.Is(err, io.EOF) { // nobody writes yet
			t.Fatal(err)
		}
	}
	if err := <-failed; err != nil || total != 1<<20 {
		t.Errorf("%d bytes came, error %v", total, err)
	}
}
