//go:build lab

package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// The suites: a client that hangs up before it has read the whole answer, if PLANTED is
// set. The line with the fault says so.
const (
	goClient = `package suite

import "net"

func Ask(addr string, read int) error {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	if _, err := c.Write([]byte("question\n")); err != nil {
		return err
	}
	if _, err := c.Read(make([]byte, read)); err != nil {
		return err
	}
	return c.Close() // FAULT
}
`
	goTest = `package suite

import (
	"io"
	"net"
	"os"
	"testing"
	"time"
)

func TestAsk(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	n := 100
	if os.Getenv("PLANTED") != "" {
		n = 10
	}
	done := make(chan bool)
	go func() {
		defer close(done)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		c.Read(make([]byte, 100))
		if n < 100 {
			time.Sleep(100 * time.Millisecond) // the work
		}
		c.Write(make([]byte, 25))
		io.Copy(io.Discard, c)
	}()
	if err := Ask(l.Addr().String(), n); err != nil {
		t.Fatal(err)
	}
	<-done
}
`
	pyClient = `import socket

def ask(port, read):
    s = socket.create_connection(("127.0.0.1", port))
    s.sendall(b"question")
    s.recv(read)
    s.close()  # FAULT
`
	pyTest = `import os, socket, threading
import client

def test_ask():
    l = socket.create_server(("127.0.0.1", 0))
    def serve():
        c, _ = l.accept()
        c.recv(100)
        c.sendall(bytes(25))
        try:
            c.recv(100)
        except ConnectionResetError:
            pass
        c.close()
    t = threading.Thread(target=serve)
    t.start()
    client.ask(l.getsockname()[1], 10 if os.environ.get("PLANTED") else 100)
    t.join()
    l.close()
`
)

// TestPlantedFaults runs suites of two runtimes under tcpbye test, with one planted fault
// each: it is found at its line, and nothing is in runs without.
func TestPlantedFaults(t *testing.T) {
	dir := t.TempDir()
	tcpbye := filepath.Join(dir, "tcpbye")
	if out, err := exec.Command("go", "build", "-o", tcpbye, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	lineOf := func(source string) int {
		before, _, ok := strings.Cut(source, "FAULT")
		if !ok {
			t.Fatal("no line has the fault")
		}
		return strings.Count(before, "\n") + 1
	}
	python := "pytest"
	if _, err := exec.LookPath(python); err != nil {
		python = "pytest-3"
	}
	for name, x := range map[string]struct {
		files   map[string]string
		command []string
		many    []string // the same test again and again
		file    string
	}{
		"go": {map[string]string{"go.mod": "module example.com/suite\n\ngo 1.24\n", "client.go": goClient, "client_test.go": goTest}, []string{"go", "test", "-count=1", "./..."},
			[]string{"go", "test", "-count=1000", "./..."}, "client.go"},
		"pytest": {map[string]string{"client.py": pyClient, "test_client.py": pyTest}, []string{python, "-q", "-p", "no:cacheprovider"}, nil, "client.py"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := exec.LookPath(x.command[0]); err != nil {
				t.Fatalf("%v: apt-get install python3-pytest golang", err)
			}
			root := filepath.Join(dir, name)
			if err := os.Mkdir(root, 0o755); err != nil {
				t.Fatal(err)
			}
			for file, text := range x.files {
				if err := os.WriteFile(filepath.Join(root, file), []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			run := func(planted string, command ...string) (out string, status int) {
				cmd := exec.Command(tcpbye, append([]string{"test", "--github", "always", "--exit-code", "9", "--"}, command...)...)
				cmd.Dir, cmd.Env = root, append(os.Environ(), "PLANTED="+planted)
				b, err := cmd.CombinedOutput()
				var exit *exec.ExitError
				if err != nil && !errors.As(err, &exit) {
					t.Fatal(err)
				}
				return string(b), cmd.ProcessState.ExitCode()
			}
			out, status := run("1", x.command...)
			want := "::error file=" + x.file + ",line=" + strconv.Itoa(lineOf(x.files[x.file])) + ",title=tcpbye%3A close-unread::"
			if status != 9 || strings.Count(out, "::error") != 1 || !strings.Contains(out, want) {
				t.Errorf("status %d, want 9 and %s:\n%s", status, want, out)
			}
			if x.many == nil {
				x.many = x.command
			}
			if out, status := run("", x.many...); status != 0 || strings.Contains(out, "::error") {
				t.Errorf("runs without a fault: status %d:\n%s", status, out)
			}
		})
	}
}
