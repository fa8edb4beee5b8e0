//go:build lab

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tcpbye/tcpbye/tracer/report"
)

// callerEnv makes this test program one that opens a connection to that address
// and ends it, once from its own PID namespace and, through a child, from one
// below it. It prints the PIDs that the two have in its own.
const callerEnv = "TCPBYE_TEST_CALL"

// callerOut is where tcpbye writes a line for each end.
const callerOut = "TCPBYE_TEST_OUT"

func init() {
	address := os.Getenv(callerEnv)
	if address == "" {
		return
	}
	if err := call(address); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func call(address string) error {
	c, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	if err := c.Close(); err != nil {
		return err
	}
	if os.Getpid() == 1 {
		return nil // the child
	}
	child := exec.Command("/proc/self/exe")
	child.Args[0] = "caller"
	child.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
	child.Stderr = os.Stderr
	if err := child.Start(); err != nil {
		return err
	}
	fmt.Println(os.Getpid(), child.Process.Pid)
	if err := child.Wait(); err != nil {
		return err
	}
	// A process is looked up while it lives: it does until both connections are told of.
	for ends := 0; ends < 4; {
		out, err := os.ReadFile(os.Getenv(callerOut))
		if err != nil {
			return err
		}
		if ends = bytes.Count(out, []byte("\n")); ends < 4 {
			time.Sleep(10 * time.Millisecond)
		}
	}
	return nil
}

// TestTraceInContainer: with a PID namespace of its own, tcpbye shows PIDs as that
// namespace has them, also of the processes of one below it, and looks up what it
// always does. A process outside has its name and no PID, and that is said.
func TestTraceInContainer(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- serve(l, 2) }()

	path := built(t)
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute) // or it would wait for a tcpbye that is never ready
	defer cancel()
	cmd := exec.CommandContext(ctx, "unshare", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc", "sh", "-c", `
		mkfifo "$3/ready" "$3/over"
		"$0" trace -o json --port "$4" --ready-file "$3/ready" > "$3/out" 2> "$3/err" &
		read -r ready < "$3/ready" && "$1" -test.run=^$ && read -r over < "$3/over" && kill -HUP $! && wait $!`,
		path, self, "", dir, fmt.Sprint(l.Addr().(*net.TCPAddr).Port))
	cmd.Env = append(os.Environ(), callerEnv+"="+l.Addr().String(), callerOut+"="+filepath.Join(dir, "out"))
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	// A SIGHUP that this program was started with as ignored would be ignored there,
	// too (nohup); one that it takes is not.
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	select {
	case err = <-served:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		t.Error(err)
		cancel()
	} else if err := os.WriteFile(filepath.Join(dir, "over"), []byte("over\n"), 0); err != nil { // once both ends have closed
		t.Error(err)
	}
	err = cmd.Wait()
	said, _ := os.ReadFile(filepath.Join(dir, "err"))
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != exitDegraded) {
		t.Fatalf("%v: %s%s", err, &stderr, said)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	var callers [2]uint32
	if _, err := fmt.Sscan(stdout.String(), &callers[0], &callers[1]); err != nil {
		t.Fatalf("%q: %v", &stdout, err)
	}
	if !strings.Contains(string(said), "PIDs are as this PID namespace has them") {
		t.Errorf("it does not say whose PIDs it shows: %s", said)
	}

	// Who is below this namespace is found by reading the kernel's memory.
	probes := strings.HasPrefix(doctor(t, nil, path, "doctor", "-o", "json").fact("probe reads"), "allowed")
	exe, err := filepath.EvalSymlinks(self)
	if err != nil {
		t.Fatal(err)
	}
	comm := filepath.Base(exe)[:min(15, len(filepath.Base(exe)))]
	var calls, answers int
	f, err := os.Open(filepath.Join(dir, "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for in := bufio.NewReader(f); ; {
		line, err := in.ReadBytes('\n')
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s", line)
		var r report.Record
		if err := json.Unmarshal(line, &r); err != nil {
			t.Fatal(err)
		}
		if r.Remote == nil {
			continue
		}
		if *r.Remote != l.Addr().String() {
			answers++
			if w := r.Owner; w == nil || w.PID != nil || w.NSPID != nil {
				t.Errorf("the server, which is outside, is %+v", w)
			}
			if !strings.Contains(r.Verdict.Sentence, comm+" (outside this PID namespace) followed") {
				t.Errorf("the server in words: %s", r.Verdict.Sentence)
			}
			continue
		}
		w, a := r.Owner, r.Verdict.Actor
		if w == nil || a == nil {
			t.Errorf("nobody owns or ended %s", *r.Local)
			continue
		}
		if w.Comm != comm && w.Comm != "exe" {
			t.Errorf("the caller is %q, not %q", w.Comm, comm)
		}
		nested := w.Comm == "exe" // what it executed was called so
		calls++
		if nested && !probes {
			if w.PID != nil || a.PID != nil {
				t.Errorf("the caller below is %+v and %+v, whom nothing here can tell", w, a)
			}
			continue
		}
		due, own := callers[0], callers[0]
		if nested {
			due, own = callers[1], 1
		}
		if w.PID == nil || *w.PID != due || a.PID == nil || *a.PID != due || a.TID == nil {
			t.Errorf("the caller's PID is %v and %v, not %d", w.PID, a.PID, due)
		}
		// The child may be gone before it can be looked up.
		if w.NSPID != nil && *w.NSPID != own || w.Exe != nil && *w.Exe != exe || !nested && w.Exe == nil {
			t.Errorf("the caller in its own namespace: %+v, not PID %d of %s", w, own, exe)
		}
	}
	if calls != 2 || answers != 2 {
		t.Errorf("%d ends of the callers and %d of the server, not 2 and 2", calls, answers)
	}
}

// serve takes n connections, one after another, and closes each when the other
// end has.
func serve(l net.Listener, n int) error {
	if err := l.(*net.TCPListener).SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return err
	}
	for range n {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, c)
		if err := errors.Join(err, c.Close()); err != nil {
			return err
		}
	}
	return nil
}
