package main

import (
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/charmbracelet/x/ansi"
	"github.com/charmbracelet/x/term"

	"github.com/tcpbye/tcpbye/tracer/session"
)

// statusLine is the line at the bottom of a terminal that says what a run is doing. What is
// written through its writers takes its place, and it comes back after that.
type statusLine struct {
	mu       sync.Mutex
	terminal *os.File // standard error; nil: it is no terminal, and there is no line
	line     string   // that is to be seen
	shown    string   // that is on the screen; "": none
	said     time.Time
	counts   atomic.Pointer[session.Counts]
	open     atomic.Pointer[openCount]
	progress atomic.Pointer[string]
	asked    atomic.Bool // for the counts, by a signal
}

// openCount is how many connections are open, and what of them was chosen.
type openCount struct{ chosen, all, processes int }

const (
	// refreshEvery is how often the line changes, and countEvery how often the kernel
	// is asked how many connections are open.
	refreshEvery = time.Second
	countEvery   = 10 * time.Second
	// soon is how long a recording may take to be read before that is shown.
	soon = time.Second
)

// newStatusLine looks at where standard error goes.
func newStatusLine(stderr io.Writer) *statusLine {
	s := &statusLine{said: time.Now().Add(soon - refreshEvery)}
	if f, ok := stderr.(*os.File); ok && term.IsTerminal(f.Fd()) {
		s.terminal = f
	}
	return s
}

// hide takes the line away.
func (s *statusLine) hide() {
	if s.shown != "" {
		_, _ = io.WriteString(s.terminal, "\r\x1b[K") // a line that is not seen is no failure
		s.shown = ""
	}
}

// show shows what is to be seen, if it is not there.
func (s *statusLine) show() {
	if s.terminal == nil || s.line == s.shown {
		return
	}
	width, _, err := term.GetSize(s.terminal.Fd())
	if err != nil || width < 2 {
		return
	}
	s.hide()
	if s.line != "" {
		_, _ = io.WriteString(s.terminal, ansi.Truncate(s.line, width-1, ""))
	}
	s.shown = s.line
}

// end takes the line away for good.
func (s *statusLine) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hide()
	s.terminal = nil
}

// besides writes where the line may be, too.
type besides struct {
	io.Writer
	s *statusLine
}

func (a besides) Write(p []byte) (int, error) {
	a.s.mu.Lock()
	defer a.s.mu.Unlock()
	a.s.hide()
	n, err := a.Writer.Write(p)
	if len(p) > 0 && p[len(p)-1] == '\n' {
		a.s.show()
	}
	return n, err
}

// writer is w, where the line makes room for what is written. What is no terminal is
// left alone.
func (s *statusLine) writer(w io.Writer) io.Writer {
	if f, ok := w.(*os.File); ok && s.terminal != nil && term.IsTerminal(f.Fd()) {
		return besides{w, s}
	}
	return w
}

// tick looks whether something is to be said. It is called often.
func (s *statusLine) tick(w io.Writer) {
	if s.asked.Swap(false) {
		fmt.Fprintf(w, "tcpbye: %s\n", s.text(false))
	}
	if s.terminal == nil || time.Since(s.said) < refreshEvery {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.said, s.line = time.Now(), s.text(true)
	s.show()
}

// text is what the run is doing.
func (s *statusLine) text(line bool) string {
	var parts []string
	if p := s.progress.Load(); p != nil {
		parts = append(parts, *p)
	}
	o, c := s.open.Load(), s.counts.Load()
	switch {
	case o == nil:
	case o.chosen == o.all:
		parts = append(parts, fmt.Sprintf("watching %d open connections of %d processes", o.all, o.processes))
	default:
		parts = append(parts, fmt.Sprintf("watching %d of %d open connections", o.chosen, o.all))
	}
	switch {
	case c == nil:
	case line && c.Shown == c.Seen:
		parts = append(parts, fmt.Sprintf("%d ended", c.Seen))
	case line:
		parts = append(parts, fmt.Sprintf("%d ended, %d shown", c.Seen, c.Shown))
	default:
		parts = append(parts, countsText(*c))
	}
	if line {
		parts = append(parts, "^C stops")
	}
	return strings.Join(parts, ", ")
}

// onSignal has the counts said when the signal for it comes, until the function that it
// returns is called.
func (s *statusLine) onSignal() (stop func()) {
	c := make(chan os.Signal, 1)
	signal.Notify(c, countSignals...)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range c {
			s.asked.Store(true)
		}
	}()
	return func() { signal.Stop(c); close(c); <-done }
}
