package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/term"
	"github.com/spf13/cobra"

	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/report"
	"github.com/tcpbye/tcpbye/tracer/screen"
	"github.com/tcpbye/tcpbye/tracer/session"
)

func newTop(env environment) *cobra.Command {
	t := &tracing{output: output{env: env}}
	cmd := &cobra.Command{
		Use:   "top",
		Short: "what is open, what ends, and why, on a full screen",
		Long: `A full screen of what is open now, by state, owner and service, the causes of what
has ended, with the bytes lost and whether what was asked can be asked again, and the
endings as they come. Enter on a row opens it: who, why, the timeline and the verdict.
/ filters (process:nginx port:443 cause:close-unread), s sorts, p pauses, ? lists the
keys, q quits. With -r it shows a recording.`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, args []string) error { return t.top(cmd) },
	}
	t.flags(cmd, report.Table)
	for _, name := range notOnScreen {
		cmd.Flags().Lookup(name).Hidden = true
	}
	return cmd
}

// notOnScreen are the flags of trace that say how to write what a screen shows in its
// own way.
var notOnScreen = []string{"output", "no-events", "count", "fail-on", "verbose", "fields", "sort", "wide"}

// lookEvery is how often the kernel is asked for what is open, and lookShare how much
// more time passes between two looks than one takes.
const (
	lookEvery = 2 * time.Second
	lookShare = 20
)

// top runs what trace does, and shows it on a screen.
func (t *tracing) top(cmd *cobra.Command) error {
	if err := excluded(cmd, "a full screen", notOnScreen...); err != nil {
		return err
	}
	if t.write == "-" {
		return usage(errors.New("-w -: standard output is the screen"))
	}
	// What is wrong with the call is said before there is a screen.
	choice, err := t.check(cmd, nil)
	if err != nil {
		return err
	}
	in, out, err := t.screen()
	if err != nil {
		return err
	}
	if in != t.env.stdin {
		defer in.Close()
	}
	feed := screen.NewFeed()
	notes := &notes{feed: feed}
	stderr := t.env.stderr
	t.env.stderr = notes
	defer func() {
		t.env.stderr = stderr
		_, _ = io.WriteString(stderr, notes.text.String())
	}()
	live := t.read == nil
	opts := screen.Options{Live: live, Title: topTitle(t.read), Source: func() screen.Batch {
		b := feed.Take()
		if live {
			b.Now = time.Now()
		}
		return b
	}}
	if opts.Report, err = t.options(report.Clock{}); err != nil {
		return err
	}
	t.sink = func(_ io.Writer, o report.Options) []report.Sink {
		// Each run of a recording has a clock of its own, and so has this machine.
		feed.Clock(o.Clock)
		return []report.Sink{feed}
	}
	t.pulse = func(s *session.Session) { feed.Lost(s.Counts().Lost) }
	ctx, stop := context.WithCancel(cmd.Context())
	defer stop()
	cmd.SetContext(ctx)
	return onScreen(ctx, stop, screen.New(opts), in, out, func() error {
		defer feed.Over()
		if live {
			var around sync.WaitGroup
			defer around.Wait()
			looking, enough := context.WithCancel(ctx)
			defer enough()
			around.Go(func() { lookAround(looking, feed, choice) })
		}
		return t.run(cmd, nil)
	}, feed.Shut)
}

// screen is the terminal, for keys and for what is shown.
func (t *tracing) screen() (in, out *os.File, err error) {
	out, ok := t.env.stdout.(*os.File)
	if !ok || !term.IsTerminal(out.Fd()) || t.env.getenv("TERM") == "dumb" {
		return nil, nil, usage(errors.New("top needs a terminal; tcpbye trace and tcpbye rst write anywhere"))
	}
	if in = t.env.stdin; term.IsTerminal(in.Fd()) {
		return in, out, nil
	}
	// A recording comes through standard input.
	if in, err = os.Open("/dev/tty"); err != nil {
		return nil, nil, fmt.Errorf("read the keyboard: %w", err)
	}
	return in, out, nil
}

func topTitle(read []string) string {
	if read == nil {
		name, err := os.Hostname()
		if err != nil {
			return "this machine"
		}
		return event.Quote(name)
	}
	var names []string
	for _, r := range read {
		names = append(names, event.Quote(filepath.Base(r)))
	}
	return strings.Join(names, ", ")
}

// onScreen shows a model while work is done, and returns the error of either. The
// terminal is left as it was, also when one of the two panics.
func onScreen(ctx context.Context, stop func(), model tea.Model, in, out *os.File, work func() error, shut func()) error {
	p := tea.NewProgram(model, tea.WithInput(in), tea.WithOutput(out), tea.WithoutSignalHandler())
	defer context.AfterFunc(ctx, p.Quit)()
	done := make(chan error, 1)
	go func() {
		defer func() {
			if r := recover(); r != nil {
				done <- fmt.Errorf("a defect of tcpbye, please report it: %v\n%s", r, debug.Stack())
				p.Quit()
			}
		}()
		err := work()
		done <- err
		if err != nil {
			p.Quit() // an end that is none stays on the screen
		}
	}()
	_, err := p.Run()
	if errors.Is(err, tea.ErrProgramPanic) {
		err = fmt.Errorf("a defect of tcpbye, please report it: %w", err)
	}
	stop()
	shut()
	return errors.Join(err, <-done)
}

// notes shows what would be talk on standard error, and keeps it for when the screen
// is gone.
type notes struct {
	feed *screen.Feed
	text strings.Builder
}

func (n *notes) Write(p []byte) (int, error) {
	n.feed.Note(strings.TrimPrefix(strings.TrimSpace(string(p)), "tcpbye: "))
	return n.text.Write(p)
}
