package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

const (
	enterScreen = "\x1b[?1049h"
	leaveScreen = "\x1b[?1049l"
	showCursor  = "\x1b[?25h"
)

// shownOn gathers what a terminal gets, and tells when a text was among it.
type shownOn struct {
	mu   sync.Mutex
	more sync.Cond
	text []byte
}

func watch(master io.Reader) *shownOn {
	s := &shownOn{}
	s.more.L = &s.mu
	go func() {
		b := make([]byte, 1<<12)
		for {
			n, err := master.Read(b)
			s.mu.Lock()
			s.text = append(s.text, b[:n]...)
			s.more.Broadcast()
			s.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return s
}

// wait waits until a text was shown after the first from bytes, and returns how much
// was shown by then.
func (s *shownOn) wait(t *testing.T, text string, from int) int {
	t.Helper()
	late := false
	timer := time.AfterFunc(hang, func() { s.mu.Lock(); late = true; s.more.Broadcast(); s.mu.Unlock() })
	defer timer.Stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	for !bytes.Contains(s.text[from:], []byte(text)) {
		if late {
			t.Errorf("%q is not shown: %q", text, s.text[from:]) // on any goroutine
			break
		}
		s.more.Wait()
	}
	return len(s.text)
}

func (s *shownOn) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return string(s.text)
}

func termios(t *testing.T, f *os.File) unix.Termios {
	t.Helper()
	old, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return *old
}

// restored: the terminal is as it was.
func restored(t *testing.T, s *shownOn, slave *os.File, before unix.Termios) {
	t.Helper()
	s.wait(t, leaveScreen, 0)
	s.wait(t, showCursor, 0)
	if d := cmp.Diff(before, termios(t, slave)); d != "" {
		t.Errorf("the terminal's settings have changed: %s", d)
	}
}

// TestTop: what is typed does what the help says, and the terminal is left as it was,
// by q, by ^C and by a signal.
func TestTop(t *testing.T) {
	for _, end := range []string{"q", "^C", "SIGTERM", "SIGHUP"} {
		t.Run(end, func(t *testing.T) {
			master, slave := terminal(t, 100)
			defer slave.Close()
			before := termios(t, slave)
			s := watch(master)
			var talk bytes.Buffer
			cmd := exec.Command("tcpbye", "top", "-r", filepath.Join("testdata", "busy.tcpbye"))
			cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, &talk
			cmd.Env = append(os.Environ(), "TZ=UTC", "LC_ALL=C.UTF-8", "TERM=xterm", "NO_COLOR=1")
			cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			at := s.wait(t, "close-unread", 0)
			s.wait(t, enterScreen, 0)
			keys := func(text, shows string) {
				t.Helper()
				if _, err := master.WriteString(text); err != nil {
					t.Fatal(err)
				}
				at = s.wait(t, shows, at)
			}
			keys("/cause:close-unread\r", "filter  cause:close-unread")
			keys("\r", "Retry")
			keys("\x7f", "ENDINGS 1 of 8")
			switch end {
			case "q":
				keys("q", leaveScreen)
			case "^C":
				keys("\x03", leaveScreen)
			default:
				if err := cmd.Process.Signal(unix.SignalNum(end)); err != nil {
					t.Fatal(err)
				}
			}
			// SIGTERM cuts a run short that is not over yet, and its status says so.
			if err := cmd.Wait(); err != nil && !(end == "SIGTERM" && cmd.ProcessState.ExitCode() == 128+int(unix.SIGTERM)) {
				t.Errorf("%v: %s", err, &talk)
			}
			restored(t, s, slave, before)
			if !strings.Contains(talk.String(), "17 seen, 17 shown") {
				t.Errorf("afterwards it says %q", &talk)
			}
			if strings.Contains(s.String(), "\x1b[31m") {
				t.Error("NO_COLOR, and it is coloured")
			}
		})
	}
}

// TestTopCrash: also a defect, of the screen or of what it shows, leaves the terminal as
// it was, and is told.
func TestTopCrash(t *testing.T) {
	for name, crashes := range map[string]bool{"update": false, "work": true} {
		t.Run(name, func(t *testing.T) {
			master, slave := terminal(t, 80)
			defer slave.Close()
			before := termios(t, slave)
			s := watch(master)
			ctx, stop := context.WithCancel(context.Background())
			defer stop()
			shut := false
			err := onScreen(ctx, stop, crashing{}, slave, slave, func() error {
				s.wait(t, enterScreen, 0)
				if crashes {
					panic("oh")
				}
				_, err := master.WriteString("x")
				return err
			}, func() { shut = true })
			if err == nil || !strings.Contains(err.Error(), "a defect of tcpbye") {
				t.Errorf("error %v", err)
			}
			if !shut || ctx.Err() == nil {
				t.Error("what it shows is not told that the screen is gone")
			}
			restored(t, s, slave, before)
		})
	}
}

// TestTopEnds: an error of what is shown ends the screen; a normal end does not.
func TestTopEnds(t *testing.T) {
	master, slave := terminal(t, 80)
	defer slave.Close()
	before := termios(t, slave)
	s := watch(master)
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	want := errors.New("the disk is full")
	work := func() error { s.wait(t, enterScreen, 0); return want }
	if err := onScreen(ctx, stop, crashing{}, slave, slave, work, func() {}); !errors.Is(err, want) {
		t.Errorf("error %v, want %v", err, want)
	}
	restored(t, s, slave, before)
}

// crashing is a screen that cannot stand a key.
type crashing struct{}

func (c crashing) Init() tea.Cmd { return nil }

func (c crashing) Update(m tea.Msg) (tea.Model, tea.Cmd) {
	if _, key := m.(tea.KeyPressMsg); key {
		panic("ah")
	}
	return c, nil
}

func (c crashing) View() tea.View {
	v := tea.NewView("here")
	v.AltScreen = true
	return v
}

// TestTopNeedsATerminal: elsewhere it says so, and what else there is.
func TestTopNeedsATerminal(t *testing.T) {
	out, err := exec.Command("tcpbye", "top").CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != exitUsage || !strings.Contains(string(out), "needs a terminal; tcpbye trace") {
		t.Errorf("%v: %s", err, out)
	}
}
