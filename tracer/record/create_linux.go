package record

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Create opens a file for writing, empty, and makes it if there is none, for its
// owner alone. The process may be root's and the directory everybody's, so
// nothing that another user put there decides where the data goes:
//
//   - the name itself is never a symbolic link, and on the way to it only links
//     of root and of this user are followed;
//   - what is there already is this user's own file with this one name, or a
//     device; a FIFO may also be that of the directory's owner, where nobody else
//     can write to the directory.
//
// A FIFO is waited for until somebody reads it, or the context ends. What is
// written to a pipe once the context has ended must be read soon.
//
// /dev/stdout, /dev/fd/3 and their like are this process's own descriptors.
func Create(ctx context.Context, name string) (io.WriteCloser, error) {
	f, err := create(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("create %s: %w", name, err)
	}
	return patient(ctx, f), nil
}

// Own is a Create for a descriptor that this process has.
func Own(ctx context.Context, f *os.File) io.WriteCloser {
	st, err := f.Stat()
	if err == nil && st.Mode()&os.ModeNamedPipe != 0 {
		// Opened again it can be made non-blocking for this process alone.
		again, err := os.OpenFile("/proc/self/fd/"+strconv.Itoa(int(f.Fd())), os.O_WRONLY|unix.O_NONBLOCK, 0)
		if err == nil {
			return patient(ctx, again)
		}
	}
	return unclosed{f}
}

// unclosed is a file that others use, too.
type unclosed struct{ io.Writer }

func (unclosed) Close() error { return nil }

var descriptor = regexp.MustCompile(`^(?:/dev/fd|/proc/self/fd)/(\d+)$`)

func create(ctx context.Context, name string) (*os.File, error) {
	switch name {
	case "/dev/stdout":
		name = "/dev/fd/1"
	case "/dev/stderr":
		name = "/dev/fd/2"
	}
	if m := descriptor.FindStringSubmatch(name); m != nil {
		n, err := strconv.Atoi(m[1])
		if err != nil {
			return nil, err
		}
		fd, err := unix.FcntlInt(uintptr(n), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			return nil, fmt.Errorf("descriptor %d: %w", n, err)
		}
		f := os.NewFile(uintptr(fd), name)
		if st, err := f.Stat(); err == nil && st.Mode()&os.ModeNamedPipe != 0 {
			if again, err := os.OpenFile("/proc/self/fd/"+strconv.Itoa(fd), os.O_WRONLY|unix.O_NONBLOCK, 0); err == nil {
				return again, f.Close()
			}
		}
		return f, nil
	}
	dir, base, err := parent(name)
	if err != nil {
		return nil, err
	}
	defer unix.Close(dir)
	for {
		const flags = unix.O_WRONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_CLOEXEC | unix.O_NOCTTY
		fd, err := unix.Openat(dir, base, flags|unix.O_CREAT|unix.O_EXCL, 0o600)
		if err == nil {
			return os.NewFile(uintptr(fd), name), nil
		}
		if !errors.Is(err, unix.EEXIST) {
			return nil, err
		}
		// What is there is looked at before it is opened: to open a FIFO or a
		// device does something.
		at, err := unix.Openat(dir, base, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.ENOENT) {
			continue // it is gone again
		}
		if err != nil {
			return nil, err
		}
		f, err := existing(ctx, dir, at, name)
		return f, errors.Join(err, unix.Close(at))
	}
}

// existing opens what at, which is in dir, is a path to.
func existing(ctx context.Context, dir, at int, name string) (*os.File, error) {
	var st, parent unix.Stat_t
	if err := errors.Join(unix.Fstat(at, &st), unix.Fstat(dir, &parent)); err != nil {
		return nil, err
	}
	me := uint32(unix.Geteuid())
	mine := st.Uid == me
	fifo := false
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		switch {
		case !mine:
			return nil, fmt.Errorf("there is a file of another user (uid %d) with this name: remove it, or take another name", st.Uid)
		case st.Nlink > 1:
			return nil, fmt.Errorf("there is a file with this name that has %d names: it is not written to, since its other names may be anything; remove it, or take another name", st.Nlink)
		}
	case unix.S_IFIFO:
		fifo = true
		if private := parent.Mode&0o022 == 0 && parent.Uid == st.Uid; !mine && !private {
			return nil, fmt.Errorf("there is a FIFO of another user (uid %d) with this name, in a directory where others can write", st.Uid)
		}
	case unix.S_IFCHR:
		if !mine && st.Uid != 0 {
			return nil, fmt.Errorf("there is a device of another user (uid %d) with this name", st.Uid)
		}
	case unix.S_IFLNK:
		return nil, errors.New("there is a symbolic link with this name, which is not followed: name the file itself")
	case unix.S_IFDIR:
		return nil, unix.EISDIR
	default:
		return nil, errors.New("there is something with this name that is neither a file nor a pipe")
	}
	for {
		// The path is to what was looked at, whatever has its name by now.
		fd, err := unix.Open("/proc/self/fd/"+strconv.Itoa(at), unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
		switch {
		case errors.Is(err, unix.ENXIO) && fifo: // nobody reads it yet: fifo(7)
			select {
			case <-ctx.Done():
				return nil, errors.New("nobody has opened the FIFO to read it")
			case <-time.After(readerEvery):
			}
			continue
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return nil, err
		}
		if st.Mode&unix.S_IFMT == unix.S_IFREG {
			if err := unix.Ftruncate(fd, 0); err != nil {
				return nil, errors.Join(err, unix.Close(fd))
			}
		}
		return os.NewFile(uintptr(fd), name), nil
	}
}

// readerEvery is how often it is asked whether somebody reads a FIFO: nothing
// tells.
const readerEvery = 50 * time.Millisecond

// maxLinks is how many symbolic links the kernel follows on the way to a name
// (MAXSYMLINKS).
const maxLinks = 40

// parent opens the directory of a name as a path, and returns the last part of
// the name.
func parent(name string) (dir int, base string, err error) {
	if strings.HasSuffix(name, "/") {
		return -1, "", unix.EISDIR
	}
	way, base := filepath.Split(name)
	if base == "" {
		return -1, "", unix.ENOENT
	}
	if base == "." || base == ".." {
		return -1, "", unix.EISDIR
	}
	const flags = unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC
	begin := func(absolute bool, in int) (int, error) {
		if absolute {
			return unix.Open("/", flags|unix.O_DIRECTORY, 0)
		}
		return unix.FcntlInt(uintptr(in), unix.F_DUPFD_CLOEXEC, 3)
	}
	if strings.HasPrefix(way, "/") {
		dir, err = begin(true, -1)
	} else {
		dir, err = unix.Open(".", flags|unix.O_DIRECTORY, 0)
	}
	if err != nil {
		return -1, "", err
	}
	links := 0
	parts := strings.Split(way, "/")
	for len(parts) > 0 {
		part := parts[0]
		parts = parts[1:]
		if part == "" || part == "." {
			continue
		}
		next, err := unix.Openat(dir, part, flags, 0)
		if err != nil {
			return -1, "", errors.Join(err, unix.Close(dir))
		}
		var st unix.Stat_t
		if err := unix.Fstat(next, &st); err != nil {
			return -1, "", errors.Join(err, unix.Close(next), unix.Close(dir))
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFDIR:
			unix.Close(dir)
			dir = next
		case unix.S_IFLNK:
			to, err := follow(next, &st)
			links++
			if err == nil && links > maxLinks {
				err = unix.ELOOP
			}
			unix.Close(next)
			if err == nil {
				var in int
				if in, err = begin(strings.HasPrefix(to, "/"), dir); err == nil {
					unix.Close(dir)
					dir = in
					parts = append(strings.Split(to, "/"), parts...)
					continue
				}
			}
			unix.Close(dir)
			return -1, "", fmt.Errorf("the symbolic link %s on the way to it: %w", part, err)
		default:
			unix.Close(next)
			unix.Close(dir)
			return -1, "", unix.ENOTDIR
		}
	}
	return dir, base, nil
}

// follow reads a symbolic link of root's or of this user.
func follow(link int, st *unix.Stat_t) (string, error) {
	if st.Uid != 0 && st.Uid != uint32(unix.Geteuid()) {
		return "", fmt.Errorf("it belongs to another user (uid %d) and is not followed", st.Uid)
	}
	b := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(link, "", b)
	if err != nil {
		return "", err
	}
	return string(b[:n]), nil
}

// patience is how long a write to a pipe may wait once the context has ended.
const patience = time.Second

// patient is a file that a pipe which nobody reads does not hold up for ever.
func patient(ctx context.Context, f *os.File) io.WriteCloser {
	if f.SetWriteDeadline(time.Time{}) != nil {
		return f // it is no pipe: nothing holds it up
	}
	p := &patientWriter{ctx: ctx, f: f}
	p.stop = context.AfterFunc(ctx, p.hurry)
	return p
}

type patientWriter struct {
	ctx  context.Context
	f    *os.File
	stop func() bool
}

func (p *patientWriter) hurry() {
	_ = p.f.SetWriteDeadline(time.Now().Add(patience)) // it took one before
}

func (p *patientWriter) Write(b []byte) (int, error) {
	if p.ctx.Err() != nil {
		p.hurry()
	}
	n, err := p.f.Write(b)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = fmt.Errorf("nobody reads the pipe any more: %w", err)
	}
	return n, err
}

func (p *patientWriter) Close() error {
	p.stop()
	return p.f.Close()
}
