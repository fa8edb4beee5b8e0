//go:build lab

package session_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/tcpbye/tcpbye/tracer"
	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/record"
	"github.com/tcpbye/tcpbye/tracer/session"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// stackAtExit says whether the last trace had hooks on functions: the
// tracepoints see a process's exit only when its memory is gone.
var stackAtExit bool

// ended is one end as it was shown.
type ended struct {
	c *conn.Connection
	v verdict.Verdict
}

// traced runs do under a trace with stacks. wait waits until a connection's end
// was shown.
func traced(t *testing.T, do func(wait func(local, remote net.Addr))) []ended {
	t.Helper()
	shown := make(chan ended, 1000)
	seen := map[string]bool{}
	name := func(local, remote string) string { return local + " > " + remote }
	wait := func(local, remote net.Addr) {
		for want := name(local.String(), remote.String()); !seen[want]; {
			select {
			case e := <-shown:
				seen[name(e.c.Local.String(), e.c.Remote.String())] = true
			case <-t.Context().Done():
				return
			}
		}
	}
	witness, warnings := session.NewWitness(session.WitnessOptions{Stacks: true, Patience: time.Minute})
	for _, w := range warnings {
		t.Log(w)
	}
	defer witness.Close()
	ctx, stop := context.WithCancel(t.Context())
	var all []ended
	var refused error // why no stacks are taken
	_, err := session.Live(ctx, tracer.Options{Stack: true}, func(_ record.Meta, attached []tracer.Attachment) (session.Config, error) {
		for _, a := range attached {
			if a.Hook == event.HookStack {
				refused = a.Err
				stackAtExit = a.Rung == tracer.RungFentry || a.Rung == tracer.RungKprobe
			}
		}
		return session.Config{
			Witness: witness,
			Started: func() error {
				go func() { defer stop(); do(wait) }()
				return nil
			},
			Show: func(c *conn.Connection, v verdict.Verdict) error {
				all = append(all, ended{c, v})
				select {
				case shown <- ended{c, v}:
				default: // nobody waits
				}
				return nil
			},
		}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if note := witness.Unnamed(); note != "" {
		t.Log(note)
	}
	if refused != nil {
		// What the loader puts in the place of bpf_probe_read_user there is refused.
		if mode, err := os.ReadFile("/sys/kernel/security/lockdown"); err != nil || !strings.Contains(string(mode), "[confidentiality]") {
			t.Fatalf("this kernel should let stacks be taken: %v", refused)
		}
		t.Skip("not on this kernel: lockdown=confidentiality lets no program read a process's stack")
	}
	return all
}

// find returns this end of a connection.
func find(t *testing.T, all []ended, local, remote net.Addr) ended {
	t.Helper()
	for _, e := range all {
		if e.c.Local.String() == local.String() && e.c.Remote.String() == remote.String() {
			return e
		}
	}
	t.Fatalf("the end %v > %v was not shown", local, remote)
	return ended{}
}

// calls says whether a stack has a function at a place.
func calls(t *testing.T, who *conn.Process, function, file string, line int) {
	t.Helper()
	if who == nil {
		t.Fatalf("%s: nobody is named", function)
	}
	frames, err := who.Stack.Frames()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range frames {
		if strings.HasSuffix(f.Function, function) && filepath.Base(f.File) == file && f.Line == line {
			return
		}
	}
	t.Errorf("no %s at %s:%d among the calls of %s: %+v", function, file, line, who.Comm, frames)
}

//go:noinline
func closeHere(c net.Conn) (line int, err error) {
	_, _, line, _ = runtime.Caller(0)
	err = c.Close()
	return line + 1, err
}

// TestStackOfGo closes a connection on a known line of this program.
func TestStackOfGo(t *testing.T) {
	var local, remote net.Addr
	var line int
	all := traced(t, func(func(local, remote net.Addr)) {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Error(err)
			return
		}
		defer l.Close()
		client, err := net.Dial("tcp4", l.Addr().String())
		if err != nil {
			t.Error(err)
			return
		}
		defer client.Close()
		server, err := l.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		local, remote = server.LocalAddr(), server.RemoteAddr()
		if line, err = closeHere(server); err != nil {
			t.Error(err)
		}
		if n, err := io.Copy(io.Discard, client); n != 0 || err != nil {
			t.Errorf("the client read %d bytes, %v", n, err)
		}
	})
	if t.Failed() {
		return
	}
	e := find(t, all, local, remote)
	if e.v.Act != verdict.ActClose {
		t.Fatalf("%s", e.v.Sentence)
	}
	calls(t, e.v.Actor, "session_test.closeHere", "stack_lab_test.go", line)
	calls(t, find(t, all, remote, local).v.PeerFin.Actor, "session_test.closeHere", "stack_lab_test.go", line)
}

// lineOf is the line of the source that has the comment.
func lineOf(t *testing.T, path, comment string) int {
	t.Helper()
	src, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i, l := range strings.Split(string(src), "\n") {
		if strings.Contains(l, "/* "+comment+" */") {
			return i + 1
		}
	}
	t.Fatalf("%s has no line %q", path, comment)
	return 0
}

// TestStackOfC does so in a C server, by close, by shutdown and by exit.
func TestStackOfC(t *testing.T) {
	for name, flag := range map[string]string{
		"frame pointers":    "-fno-omit-frame-pointer", // which the C library lacks
		"no frame pointers": "-fomit-frame-pointer",
	} {
		t.Run(name, func(t *testing.T) { stackOfC(t, flag) })
	}
}

func stackOfC(t *testing.T, flag string) {
	source, err := filepath.Abs("testdata/server.c")
	if err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(t.TempDir(), "server")
	if out, err := exec.Command("gcc", "-g", "-O1", flag, "-fno-optimize-sibling-calls", "-o", bin, source).CombinedOutput(); err != nil {
		t.Fatalf("gcc (Debian's packages gcc and libc6-dev): %v: %s", err, out)
	}
	var local [3]net.Addr
	var remote net.Addr
	var pid int
	all := traced(t, func(wait func(local, remote net.Addr)) {
		cmd := exec.Command(bin)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		stdin, err := cmd.StdinPipe()
		if err != nil {
			t.Error(err)
			return
		}
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Error(err)
			return
		}
		if err := cmd.Start(); err != nil {
			t.Error(err)
			return
		}
		defer func() {
			stdin.Close()
			if err := cmd.Wait(); err != nil {
				t.Errorf("the server: %v: %s", err, stderr.String())
			}
		}()
		pid = cmd.Process.Pid
		s := bufio.NewScanner(stdout)
		if !s.Scan() {
			t.Error("the server told no port")
			return
		}
		for i := range local {
			c, err := net.Dial("tcp4", net.JoinHostPort("127.0.0.1", s.Text()))
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			local[i], remote = c.LocalAddr(), c.RemoteAddr()
			if i == 2 {
				// A program's tables are read while it lives.
				wait(remote, local[0])
				wait(remote, local[1])
				fmt.Fprintln(stdin, "exit")
			}
			if n, err := io.Copy(io.Discard, c); n != 0 || err != nil {
				t.Errorf("the client read %d bytes, %v", n, err)
			}
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	if t.Failed() {
		return
	}
	rung := map[string]verdict.Act{"by_close": verdict.ActClose, "by_shutdown": verdict.ActShutWr, "by_exit": verdict.ActExit}
	for i, function := range []string{"by_close", "by_shutdown", "by_exit"} {
		t.Run(function, func(t *testing.T) {
			e := find(t, all, remote, local[i])
			if e.v.Act != rung[function] || e.v.Actor == nil || int(e.v.Actor.PID) != pid {
				t.Fatalf("%s by %v: %s", e.v.Act, e.v.Actor, e.v.Sentence)
			}
			if function == "by_exit" && !stackAtExit {
				if e.v.Actor.Stack != "" {
					t.Errorf("a stack of a process that has given its memory up: %s", e.v.Actor.Stack)
				}
				return
			}
			calls(t, e.v.Actor, function, "server.c", lineOf(t, source, strings.Replace(function, "_", " ", 1)))
		})
	}
}
