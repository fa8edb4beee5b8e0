package bench

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Ending is how the meter ends its connections.
type Ending string

// The endings that the meter knows.
const (
	Plain Ending = "plain" // the client closes, then the server
	Reset Ending = "reset" // the server closes with a byte unread
)

// Serve accepts n connections on an inherited listener and ends each as it is
// meant to end. It is the other half of Talk, in a process of its own.
func Serve(listener, n int, how Ending) error {
	b := make([]byte, 1)
	for range n {
		s, _, err := unix.Accept(listener)
		if err != nil {
			return fmt.Errorf("accept: %w", err)
		}
		if _, err = unix.Read(s, b); err == nil {
			_, err = unix.Write(s, b)
		}
		if err == nil && how == Plain {
			_, err = unix.Read(s, b) // the end
		} else if err == nil {
			_, _, err = unix.Recvfrom(s, b, unix.MSG_PEEK) // there is a byte to be left
		}
		if err != nil {
			return fmt.Errorf("serve: %w", err)
		}
		unix.Close(s)
	}
	return nil
}

// Talk opens and ends n connections to the process that serve starts with the
// listener as descriptor 3, and says how long one took.
func Talk(n int, how Ending, serve *exec.Cmd) (time.Duration, error) {
	l, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("make a socket: %w", err)
	}
	file := os.NewFile(uintptr(l), "listener")
	defer file.Close()
	if err := unix.Bind(l, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return 0, fmt.Errorf("bind: %w", err)
	}
	if err := unix.Listen(l, 128); err != nil {
		return 0, fmt.Errorf("listen: %w", err)
	}
	at, err := unix.Getsockname(l)
	if err != nil {
		return 0, fmt.Errorf("getsockname: %w", err)
	}
	serve.ExtraFiles = []*os.File{file}
	if err := serve.Start(); err != nil {
		return 0, fmt.Errorf("start the server: %w", err)
	}
	b := make([]byte, 1)
	one := func(i int) error {
		s, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(s)
		// An address for each 20,000, so that no port is wanted twice.
		from := unix.SockaddrInet4{Addr: [4]byte{127, 0, 1, byte(2 + i/20000)}}
		if err := errors.Join(unix.Bind(s, &from), unix.Connect(s, at)); err != nil {
			return err
		}
		if _, err = unix.Write(s, b); err == nil {
			_, err = unix.Read(s, b)
		}
		if err == nil && how == Reset {
			if _, err = unix.Write(s, b); err == nil {
				unix.Read(s, b) // the reset
			}
		}
		return err
	}
	// The first shows that the server runs; starting it is not to be measured.
	if err := one(0); err != nil {
		return 0, err
	}
	start := time.Now()
	for i := 1; i < n; i++ {
		if err := one(i); err != nil {
			return 0, err
		}
	}
	if err := serve.Wait(); err != nil {
		return 0, fmt.Errorf("the server: %w", err)
	}
	return time.Since(start) / time.Duration(n-1), nil
}

// Use is what processes have used so far.
type Use struct {
	CPU      time.Duration // of all their threads
	Switches uint64        // how often one of them was put on a CPU
	RSS      uint64        // bytes
	BPF      time.Duration // of the programs that they hold; the kernel must count it
	Runs     uint64        // of these programs
}

// Used reads the use of processes. One that is gone counts nothing.
func Used(pids ...int) (Use, error) {
	var u Use
	programs := map[string]bool{}
	for _, pid := range pids {
		dir := filepath.Join("/proc", strconv.Itoa(pid))
		threads, err := filepath.Glob(filepath.Join(dir, "task", "*", "schedstat"))
		if err != nil {
			return u, err
		}
		for _, name := range threads {
			// Time on a CPU in ns, time waiting, how often (Documentation/scheduler/sched-stats.rst).
			var run, wait, times uint64
			if text, err := os.ReadFile(name); err == nil {
				fmt.Sscan(string(text), &run, &wait, &times)
			}
			u.CPU += time.Duration(run)
			u.Switches += times
		}
		if text, err := os.ReadFile(filepath.Join(dir, "statm")); err == nil {
			var size, resident uint64
			fmt.Sscan(string(text), &size, &resident)
			u.RSS += resident * uint64(os.Getpagesize())
		}
		infos, err := filepath.Glob(filepath.Join(dir, "fdinfo", "*"))
		if err != nil {
			return u, err
		}
		for _, name := range infos {
			text, err := os.ReadFile(name)
			if err != nil {
				continue // closed since
			}
			u.program(string(text), programs)
		}
	}
	return u, nil
}

// program adds what a descriptor's information says of a BPF program
// (bpf_prog_show_fdinfo), once for each.
func (u *Use) program(info string, seen map[string]bool) {
	fields := map[string]string{}
	for line := range strings.Lines(info) {
		key, value, _ := strings.Cut(line, ":")
		fields[key] = strings.TrimSpace(value)
	}
	id := fields["prog_id"]
	if id == "" || fields["prog_type"] == "" || seen[id] {
		return
	}
	seen[id] = true
	ns, _ := strconv.ParseUint(fields["run_time_ns"], 10, 64)
	runs, _ := strconv.ParseUint(fields["run_cnt"], 10, 64)
	u.BPF += time.Duration(ns)
	u.Runs += runs
}
