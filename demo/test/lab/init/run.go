package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/demo/test/lab/wire"
)

// run returns only when the guest has nothing left to do. What goes wrong
// before the port is open can only be returned; everything later is also told
// to the host.
func run() error {
	// A signal sent to process 1 must not end the guest. The signals are caught
	// and dropped, not ignored: what is ignored stays so in the command.
	signal.Notify(make(chan os.Signal, 1), unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	events, err := listenUevents()
	if err != nil {
		return err
	}
	if err := mountEarly(); err != nil {
		return err
	}
	raw, err := os.ReadFile(wire.SpecFile)
	if err != nil {
		return fmt.Errorf("read the lab's spec from the initramfs: %w", err)
	}
	spec, err := wire.UnmarshalSpec(raw)
	if err != nil {
		return err
	}
	for _, m := range spec.RootModules {
		if err := loadModule(m); err != nil {
			return err
		}
	}
	port, err := openPort(wire.Port, events)
	if err != nil {
		return err
	}
	host := wire.NewWriter(port)
	if err := serve(spec, port, host); err != nil {
		return errors.Join(err, host.Write(wire.Fail, []byte(err.Error())), waitForHost(port))
	}
	return nil
}

// serve sets the guest up, runs the command and reports.
func serve(spec wire.Spec, port *os.File, host *wire.Writer) error {
	note := func(format string, args ...any) { host.Write(wire.Note, fmt.Appendf(nil, format, args...)) }
	for _, m := range spec.MoreModules {
		if err := loadModule(m); err != nil {
			note("%v", err)
		}
	}
	if len(spec.Missing) > 0 {
		note("this kernel has no module %s", strings.Join(spec.Missing, ", "))
	}
	if spec.HostRoot {
		if err := enterHostRoot(spec); err != nil {
			return err
		}
	}
	if err := setUp(spec, note); err != nil {
		return err
	}
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return fmt.Errorf("uname: %w", err)
	}
	release := unix.ByteSliceToString(uts.Release[:])

	stdin, feed, err := commandStdin(spec)
	if err != nil {
		return err
	}
	outRead, outWrite, err := os.Pipe()
	if err != nil {
		return err
	}
	errRead, errWrite, err := os.Pipe()
	if err != nil {
		return err
	}
	pid, err := start(spec, stdin, outWrite, errWrite)
	stdin.Close()
	outWrite.Close()
	errWrite.Close()
	if err != nil {
		body := wire.NotFoundBody{Text: fmt.Sprintf("cannot start %q in the guest: %v", spec.Args[0], err)}
		var errno syscall.Errno
		if errors.As(err, &errno) {
			body.Errno = int(errno)
		}
		return errors.Join(host.WriteJSON(wire.NotFound, body), waitForHost(port))
	}
	if err := host.WriteJSON(wire.Started, wire.StartedBody{Release: release}); err != nil {
		return err
	}
	if feed != nil {
		go feedStdin(wire.NewReader(port), feed)
	}
	var copies sync.WaitGroup
	for _, c := range []struct {
		kind wire.Kind
		from *os.File
	}{{wire.Stdout, outRead}, {wire.Stderr, errRead}} {
		copies.Go(func() { io.CopyBuffer(onlyWriter{host.Stream(c.kind)}, onlyReader{c.from}, make([]byte, 16<<10)) })
	}
	exit, err := reap(pid)
	if err != nil {
		return err
	}
	// What the command left running would keep the pipes open; like a
	// container, the guest ends with its command.
	unix.Kill(-1, unix.SIGKILL)
	copies.Wait()
	unix.Sync()
	return errors.Join(host.WriteJSON(wire.Exit, exit), waitForHost(port))
}

// onlyWriter and onlyReader hide *os.File's ReadFrom and WriteTo, with which
// io.Copy would try splice(2) on a port that does not do it.
type onlyWriter struct{ io.Writer }
type onlyReader struct{ io.Reader }

// commandStdin returns the command's standard input and, if it is fed by the
// host, the end to feed.
func commandStdin(spec wire.Spec) (stdin, feed *os.File, err error) {
	if !spec.Stdin {
		stdin, err = os.Open(os.DevNull)
		return stdin, nil, err
	}
	return os.Pipe()
}

func feedStdin(frames *wire.Reader, feed *os.File) {
	defer feed.Close()
	broken := false
	for {
		kind, body, err := frames.Next()
		if err != nil || kind == wire.Stdin && len(body) == 0 {
			return
		}
		// What a command does not want to read is dropped, as a shell's
		// pipe does, so that the end of the port is still noticed.
		if kind == wire.Stdin && !broken {
			_, err := feed.Write(body)
			broken = err != nil
		}
	}
}

// start starts the command with the given descriptors as 0, 1 and 2.
func start(spec wire.Spec, stdin, stdout, stderr *os.File) (pid int, err error) {
	path, err := lookUp(string(spec.Args[0]), string(spec.Dir), wire.Strings(spec.Path))
	if err != nil {
		return 0, err
	}
	return syscall.ForkExec(path, wire.Strings(spec.Args), &syscall.ProcAttr{
		Dir:   string(spec.Dir),
		Env:   wire.Strings(spec.Env),
		Files: []uintptr{stdin.Fd(), stdout.Fd(), stderr.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
}

// lookUp finds a command as execvp(3) does, with the difference that a
// relative name is relative to dir.
func lookUp(name, dir string, path []string) (string, error) {
	if name == "" {
		return "", syscall.ENOENT
	}
	if strings.Contains(name, "/") {
		return name, nil
	}
	found := error(syscall.ENOENT)
	for _, d := range path {
		if !strings.HasPrefix(d, "/") {
			d = dir + "/" + d
		}
		file := d + "/" + name
		info, err := os.Stat(file)
		switch {
		case err != nil:
		case info.IsDir() || info.Mode()&0o111 == 0:
			found = syscall.EACCES
		default:
			return file, nil
		}
	}
	return "", found
}

// reap waits for every child, as process 1 must, until the command ended.
func reap(command int) (wire.ExitBody, error) {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return wire.ExitBody{}, fmt.Errorf("wait for the command: %w", err)
		case pid != command:
		case status.Exited():
			return wire.ExitBody{Code: status.ExitStatus()}, nil
		case status.Signaled():
			return wire.ExitBody{Code: 128 + int(status.Signal()), Signal: int(status.Signal())}, nil
		}
	}
}

// waitForHost returns when the host has closed the port. The host does so, or
// ends the whole guest, once it has read the last frame.
func waitForHost(port *os.File) error {
	_, err := io.Copy(io.Discard, onlyReader{port})
	return err
}
