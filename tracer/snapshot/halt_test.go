package snapshot

import (
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/tracer/enrich"
	"github.com/tcpbye/tcpbye/tracer/event"
)

// TestHalt: a stopped process is known as one, at both ends of its connections.
func TestHalt(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	pid := uint32(cmd.Process.Pid)
	if h := haltOf("/proc", pid); h != Running {
		t.Errorf("it runs, and is said to be %d", h)
	}
	if err := cmd.Process.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	var st unix.WaitStatus
	if _, err := unix.Wait4(int(pid), &st, unix.WUNTRACED, nil); err != nil || !st.Stopped() {
		t.Fatalf("it does not stop: %v", err)
	}
	if h := haltOf("/proc", pid); h != Stopped {
		t.Errorf("it is stopped, and is said to be %d", h)
	}
	if h := haltOf("/proc", 1<<22+1); h != Running {
		t.Errorf("a process that there is not is said to be %d", h)
	}
	server := Socket{State: event.Established, Inode: 5, Holders: holder("srv", 7, 3), Info: ago(time.Second)}
	server.Holders[0].Halt = Stopped
	client := Socket{State: event.Established, Inode: 6, Holders: holder("cli", 8, 3), Info: ago(time.Second), Peer: &server}
	for s, want := range map[*Socket]string{&server: "srv/7 is stopped (SIGSTOP)", &client: "at the other end srv/7 is stopped"} {
		if m := s.Mark(); !m.Marked() || !strings.HasPrefix(m.Note, want) {
			t.Errorf("%q, want %q", m.Note, want)
		}
	}
}

// TestMirror: the other end of a connection on this machine is found, and that there
// is none is said when it must be there.
func TestMirror(t *testing.T) {
	all := []Socket{
		{NetNS: 1, State: event.Established, Local: end("127.0.0.1:1000"), Remote: end("127.0.0.1:80"), Info: ago(5 * time.Second)},
		{NetNS: 1, State: event.Established, Local: end("127.0.0.1:80"), Remote: end("127.0.0.1:1000"), Info: ago(5 * time.Second)},
		{NetNS: 1, State: event.Established, Local: end("127.0.0.1:1001"), Remote: end("127.0.0.1:80"), Info: ago(5 * time.Second)},
		{NetNS: 2, State: event.Established, Local: end("127.0.0.1:80"), Remote: end("127.0.0.1:1001"), Info: ago(0)},
		{NetNS: 1, State: event.FinWait2, Local: end("127.0.0.1:1002"), Remote: end("127.0.0.1:80"), Info: ago(5 * time.Second)},
		{NetNS: 1, State: event.Established, Local: end("10.0.0.1:1003"), Remote: end("10.0.0.2:80"), Info: ago(5 * time.Second)},
		{NetNS: 1, State: event.Established, Local: end("127.0.0.1:1004"), Remote: end("127.0.0.1:1004"), Info: ago(5 * time.Second)},
	}
	known := map[place]bool{}
	for _, s := range all {
		known[place{s.NetNS, s.Local, s.Remote}] = true
	}
	mirror(all, known)
	if all[0].Peer != &all[1] || all[1].Peer != &all[0] || all[2].Peer != nil || all[6].Peer != nil {
		t.Error("the ends are not told apart")
	}
	for i, s := range all {
		if said := strings.Contains(s.Mark().Note, "no socket mirrors it"); said != (i == 2) {
			t.Errorf("%v: %q", s.Local, s.Mark().Note)
		}
	}
}

// TestFull: a process with no descriptor left is one that has as many as it may.
func TestFull(t *testing.T) {
	if n := enrich.Full("/proc", uint32(os.Getpid())); n != 0 {
		t.Errorf("%d descriptors are all that this process may have", n)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	// The shell has three descriptors, and may have no more.
	cmd := exec.Command("sh", "-c", "ulimit -n 3; echo ready; read line")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	if _, err := out.Read(make([]byte, 6)); err != nil {
		t.Fatal(err)
	}
	if n := enrich.Full("/proc", uint32(cmd.Process.Pid)); n != 3 {
		t.Errorf("%d, want 3", n)
	}
	waits := Socket{State: event.Established, Listener: &Holder{FD: 3, Full: 1024}, Info: ago(5 * time.Second)}
	waits.Listener.PID, waits.Listener.Comm = 9, "srv"
	if m := waits.Mark(); !strings.Contains(m.Note, "srv/9 has all its 1024 descriptors in use (RLIMIT_NOFILE)") {
		t.Errorf("%q", m.Note)
	}
}
