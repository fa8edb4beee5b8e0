package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/record"
	"github.com/tcpbye/tcpbye/tracer/report"
	"github.com/tcpbye/tcpbye/tracer/session"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// output is what demo, trace and rst share: how to show, and whether to record.
type output struct {
	env     environment
	format  string
	write   string
	color   string
	verbose bool
	// noEvents leaves the events out of JSON.
	noEvents bool
	attach   rungFlag
	// rotation is how a recording goes on in other files; zero: it does not.
	rotation record.Rotation
	// file is that of the recording; nil: not created yet. All runs of a
	// recording that is read go into it.
	file io.WriteCloser
}

func (o *output) flags(cmd *cobra.Command, format report.Format) {
	o.showFlags(cmd, format)
	cmd.Flags().StringVarP(&o.write, "write", "w", "", "record the events in `FILE` (- for standard output)")
	o.attach.flag(cmd)
}

// showFlags say how to show.
func (o *output) showFlags(cmd *cobra.Command, format report.Format) {
	var names []string
	for _, f := range report.Formats() {
		names = append(names, string(f))
	}
	cmd.Flags().StringVarP(&o.format, "output", "o", string(format), "how to show: "+strings.Join(names, ", "))
	cmd.Flags().StringVar(&o.color, "color", "auto", "auto, always or never")
	cmd.Flags().BoolVarP(&o.verbose, "verbose", "v", false, "show the events that prove each verdict")
}

// terminal looks at where standard output goes.
func (o *output) options(clock report.Clock) (report.Options, error) {
	opts := report.Options{Clock: clock, Verbose: o.verbose, NoEvents: o.noEvents}
	f, _ := o.env.stdout.(*os.File)
	tty := false
	if f != nil {
		if ws, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ); err == nil {
			tty, opts.Width = true, int(ws.Col)
		}
	}
	switch o.color {
	case "auto":
		opts.Color = tty && o.env.getenv("NO_COLOR") == "" && o.env.getenv("TERM") != "dumb"
	case "always":
		opts.Color = true
	case "never":
	default:
		return opts, usage(fmt.Errorf("--color %q: want auto, always or never", o.color))
	}
	if tty && report.Format(o.format).Binary() && o.write != "-" {
		return opts, usage(fmt.Errorf("-o %s is not for a terminal: > FILE, or a pipe to a program that reads it", o.format))
	}
	opts.ASCII = tty && !utf8Locale(o.env.getenv)
	return opts, nil
}

// utf8Locale reads the locale as setlocale(3) does: LC_ALL, LC_CTYPE, LANG.
func utf8Locale(getenv func(string) string) bool {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if v := strings.ToLower(getenv(name)); v != "" {
			return strings.Contains(v, "utf-8") || strings.Contains(v, "utf8")
		}
	}
	return false
}

// shower is an open output.
type shower struct {
	sink   report.Sink
	after  []report.Sink // shown when the sink is closed
	opts   report.Options
	buf    *bufio.Writer
	record session.Recorder
	done   func() // with the recording; nil: nothing
	talk   io.Writer
}

// open makes the sink, or those that sinks makes, and the recording with its
// head.
func (o *output) open(ctx context.Context, meta record.Meta, heading func(left, right *report.Judged) (string, string), sinks func(io.Writer, report.Options) []report.Sink) (*shower, error) {
	opts, err := o.options(report.Clock{Offset: meta.Offset, Set: &report.Settings{}})
	if err != nil {
		return nil, err
	}
	opts.Heading, opts.Kernel = heading, meta.Kernel
	quietPipes()
	s := &shower{opts: opts, talk: o.env.stderr}
	w := o.env.stdout
	if o.write == "-" {
		w = io.Discard // standard output is the recording
	}
	s.buf = bufio.NewWriterSize(w, 1<<16)
	if sinks != nil {
		all := sinks(s.buf, opts)
		s.sink, s.after = all[0], all[1:]
	} else if s.sink, err = report.New(report.Format(o.format), s.buf, opts); err != nil {
		return nil, usage(err)
	}
	if o.write == "" {
		return s, nil
	}
	if err := o.create(ctx); err != nil {
		return nil, err
	}
	if o.rotation.Size > 0 {
		next := func(name string) (io.WriteCloser, error) {
			if file := o.file; file != nil {
				o.file = nil
				return file, nil
			}
			return record.Create(ctx, name)
		}
		r, err := record.NewRotator(o.write, meta, o.rotation, next)
		if err != nil {
			return nil, err
		}
		s.record = r
		s.done = func() { o.rotation.First += r.Files() }
		return s, nil
	}
	recording, err := record.NewWriter(o.file, meta)
	if err != nil {
		return nil, err
	}
	s.record = recording
	return s, nil
}

// create creates the file of the recording. It may wait for a reader of a pipe.
func (o *output) create(ctx context.Context) error {
	if o.write == "" || o.file != nil {
		return nil
	}
	var err error
	f, isFile := o.env.stdout.(*os.File)
	switch {
	case o.write == "-" && isFile:
		o.file = record.Own(ctx, f)
	case o.write == "-":
		o.file = unclosed{o.env.stdout}
	case o.rotation.Size > 0:
		o.file, err = record.Create(ctx, o.rotation.Name(o.write, 0))
	default:
		o.file, err = record.Create(ctx, o.write)
	}
	if err != nil {
		return fmt.Errorf("-w: %w", err)
	}
	return nil
}

// unclosed is what others write to, too.
type unclosed struct{ io.Writer }

func (unclosed) Close() error { return nil }

// close closes the file of the recording.
func (o *output) close() error {
	if o.file == nil {
		return nil
	}
	return o.file.Close()
}

// quietPipes makes a write to a pipe that nobody reads an error, EPIPE, and not
// the end by a signal. The signal is not ignored, since what is run inherits
// that.
var quietPipes = sync.OnceFunc(func() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGPIPE)
	go func() {
		for range signals {
		}
	}()
})

// show shows endings. What it writes is seen when the buffer is flushed.
func (s *shower) show(scenario string) func(*conn.Connection, verdict.Verdict) error {
	return func(c *conn.Connection, v verdict.Verdict) error {
		return s.end(report.Judged{Conn: c, Verdict: v, Scenario: scenario})
	}
}

func (s *shower) end(j report.Judged) error {
	for _, sink := range append([]report.Sink{s.sink}, s.after...) {
		if err := sink.End(j); err != nil {
			return err
		}
	}
	return nil
}

// brief is the sink, where it also takes plain endings in the short form; nil: it
// does not.
func (s *shower) brief() report.Brief {
	if sink, ok := s.sink.(report.Brief); ok && len(s.after) == 0 {
		return sink
	}
	return nil
}

// wall takes a new setting of the wall clock.
func (s *shower) wall(w record.Wall) { s.opts.Clock.Set.Add(w.Time, w.Offset) }

func (s *shower) close() error {
	if s == nil {
		return nil
	}
	err := s.sink.Close()
	for _, sink := range s.after {
		if err == nil {
			err = sink.Close()
		}
	}
	err = errors.Join(err, s.buf.Flush())
	if n, ok := s.sink.(report.Noter); ok && n.Note() != "" && err == nil {
		fmt.Fprintf(s.talk, "tcpbye: %s\n", n.Note())
	}
	if s.done != nil {
		s.done()
	}
	return err
}

// fallenBehind says that a live run is slower than what it looks at.
func fallenBehind(w io.Writer, by time.Duration, lost uint64) {
	fmt.Fprintf(w, "tcpbye: %.1f s behind, %s events lost\n", by.Seconds(), report.Grouped(lost))
}

// closing writes the line that every run ends with.
func closing(w io.Writer, c session.Counts) {
	fmt.Fprintf(w, "%d seen, %d shown, %d filtered, %d lost", c.Seen, c.Shown, c.Filtered, c.Lost)
	if c.Late > 0 {
		fmt.Fprintf(w, ", %d came too late", c.Late)
	}
	if c.News > 0 {
		fmt.Fprintf(w, ", news of processes lost %d times (some children may be missing)", c.News)
	}
	fmt.Fprintln(w)
}
