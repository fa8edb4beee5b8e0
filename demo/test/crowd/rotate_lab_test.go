//go:build lab

package crowd

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/record"
)

// TestRotationIsBounded: beside 10,000 open connections, while others come and go,
// the parts of a recording never take more than they may, a run ends with its
// command, and one without a command ends when it is told to.
func TestRotationIsBounded(t *testing.T) {
	const open = 10_000
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 1 << 15, Max: 1 << 15}); err != nil {
		t.Fatalf("raise the limit of open files: %v; run as root", err)
	}
	r := newNetns(t)
	l := r.listen(t, 4096)
	go serveAll(l)
	held := make([]net.Conn, 0, open)
	defer func() {
		for _, c := range held {
			c.Close()
		}
	}()
	if err := r.Do(func() error {
		for len(held) < open {
			c, err := net.DialTCP("tcp4", nil, l.Addr().(*net.TCPAddr))
			if err != nil {
				return fmt.Errorf("connection %d: %w", len(held), err)
			}
			held = append(held, c)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	var stop atomic.Bool
	churned := make(chan error, 1)
	n := 0
	go func() {
		churned <- r.Do(func() (err error) {
			for ; !stop.Load() && err == nil; n++ {
				var c *net.TCPConn
				if c, err = net.DialTCP("tcp4", nil, l.Addr().(*net.TCPAddr)); err == nil {
					err = errors.Join(c.SetLinger(0), c.Close()) // it leaves no port in TIME_WAIT
				}
			}
			return err
		})
	}()
	const lasts = 10 * time.Second
	for _, tt := range []struct {
		size    string
		bytes   int64
		command bool
	}{{"1", 1_000_000, true}, {"64k", 64 << 10, true}, {"64k", 64 << 10, false}} {
		dir := t.TempDir()
		name := filepath.Join(dir, "r.")
		args := []string{"trace", "-o", "csv", "-w", name, "-C", tt.size, "-W", "3", "--all-events"}
		if tt.command {
			args = append(args, "--", "sleep", fmt.Sprint(lasts.Seconds()))
		}
		b := launchBye(t, args...)
		b.waitReady()
		begun, told := time.Now(), time.Time{}
		var most int64
		for !b.gone() {
			var now int64
			for i := range 3 {
				if st, err := os.Stat(fmt.Sprintf("%s%d", name, i)); err == nil {
					now += st.Size()
				}
			}
			most = max(most, now)
			if told.IsZero() && time.Since(begun) > lasts {
				told = time.Now()
				if !tt.command {
					b.signal(unix.SIGINT)
				}
			}
			if !told.IsZero() && time.Since(told) > patience {
				t.Fatalf("-C %s: it did not end within %v after it was to\n%s", tt.size, patience, b.said())
			}
			time.Sleep(time.Millisecond) // between two looks
		}
		took := time.Since(told)
		if !b.cmd.ProcessState.Success() {
			t.Errorf("-C %s: %v\n%s", tt.size, b.cmd.ProcessState, b.said())
		}
		// One head is told of beside what the parts may take.
		const head = 8 << 10
		if most > 3*tt.bytes+head || most < tt.bytes {
			t.Errorf("-C %s -W 3: the parts took %d bytes", tt.size, most)
		}
		var parts []int
		events, seeds := 0, 0
		for i := range 3 {
			f, err := os.Open(fmt.Sprintf("%s%d", name, i))
			if err != nil {
				t.Fatal(err)
			}
			err = record.Read(f, record.Handler{
				Meta:  func(m record.Meta) error { parts = append(parts, m.Part); return nil },
				Event: func(event.Event) error { events++; return nil },
				Seed:  func(record.Seed) error { seeds++; return nil },
			})
			if err = errors.Join(err, f.Close()); err != nil {
				t.Error(err)
			}
		}
		slices.Sort(parts)
		if len(parts) != 3 || parts[2] != parts[0]+2 || parts[2] < 3 || events == 0 {
			t.Errorf("-C %s: the parts %v with %d events are left", tt.size, parts, events)
		}
		t.Logf("-C %s -W 3 beside %d open: most on the disk %d bytes, part %d at the end, %d events and %d older connections in the last three, over %v after it was to end: %s",
			tt.size, open, most, parts[len(parts)-1], events, seeds, took.Round(10*time.Millisecond), closingLine.FindString(b.said()))
	}
	stop.Store(true)
	if err := <-churned; err != nil {
		t.Errorf("after %d connections: %v", n, err)
	}
	t.Logf("%d connections came and went", n)
}

// serveAll closes each connection when its other end does.
func serveAll(l *net.TCPListener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			var b [1]byte
			_, _ = c.Read(b[:])
			c.Close()
		}()
	}
}
