package pair

import (
	"context"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tcpbye/tcpbye/demo/echo"
)

func TestExperiment(t *testing.T) {
	dir := t.TempDir()
	if out, err := exec.Command("go", "build", "-o", dir, "../client", "../server").CombinedOutput(); err != nil {
		t.Fatalf("build the pair: %v\n%s", err, out)
	}
	client, server := filepath.Join(dir, "client"), filepath.Join(dir, "server")
	for _, c := range []struct {
		goodbye Goodbye
		sigpipe echo.SigpipeAction
		host    string
		server  func(syscall.WaitStatus) bool
		said    []string
		never   string
	}{
		{Close, echo.SigpipeDefault, "127.0.0.1", func(w syscall.WaitStatus) bool { return w.Signaled() && w.Signal() == syscall.SIGPIPE },
			[]string{"received 5 bytes: data1", "send bytes: 9", "received 5 bytes: data2"}, "Hi,"},
		{Close, echo.SigpipeIgnore, "[::1]", func(w syscall.WaitStatus) bool { return w.ExitStatus() == 1 },
			[]string{"received 5 bytes: data2", "send: broken pipe (EPIPE)"}, "Hi,"},
		{Close, echo.SigpipeHandler, "127.0.0.1", func(w syscall.WaitStatus) bool { return w.Exited() && w.ExitStatus() == 0 },
			[]string{"received 2 datagrams"}, "Hi,"},
		{Shutdown, echo.SigpipeDefault, "[::1]", func(w syscall.WaitStatus) bool { return w.Exited() && w.ExitStatus() == 0 },
			[]string{"Hi, data1", "Hi, data2", "server terminated", "client closed"}, "EPIPE"},
	} {
		t.Run(string(c.goodbye)+"/"+c.sigpipe.String(), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			var lines []string
			r, err := Experiment{
				Server: []string{server}, Client: []string{client}, Host: c.host, Goodbye: c.goodbye,
				Delay: 10 * time.Millisecond, Sigpipe: c.sigpipe,
				Said: func(_, line string) { lines = append(lines, line) },
			}.Run(ctx)
			if err != nil {
				t.Fatalf("%v; said: %q", err, lines)
			}
			if !c.server(r.Server) {
				t.Errorf("the server ended with %v", r.Server)
			}
			if !r.Client.Exited() || r.Client.ExitStatus() != 0 {
				t.Errorf("the client ended with %v", r.Client)
			}
			for _, want := range c.said {
				if !slices.Contains(lines, want) {
					t.Errorf("nobody said %q; said: %q", want, lines)
				}
			}
			if i := slices.IndexFunc(lines, func(l string) bool { return strings.Contains(l, c.never) }); i >= 0 {
				t.Errorf("somebody said %q", lines[i])
			}
		})
	}
}
