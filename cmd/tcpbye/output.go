package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/charmbracelet/x/term"
	"github.com/spf13/cobra"

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
	given   bool // an output was named
	color   string
	verbose bool
	// fields, sort and wide are for the table, and CSV.
	fields string
	sort   string
	wide   bool
	// noEvents leaves the events out of JSON.
	noEvents bool
	attach   rungFlag
	// into is where the output goes instead of standard output; "": it does not. more
	// are the other outputs.
	into string
	more []target
	// files are those of into and more that are open. All runs of a recording that is
	// read go into them.
	files map[string]*outputFile
	// rotation is how a recording goes on in other files; zero: it does not.
	rotation record.Rotation
	// beside is standard output where something else may be on the terminal; nil: it
	// is as it is.
	beside io.Writer
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
	o.format = string(format)
	cmd.Flags().VarP((*outputFlag)(o), "output", "o", "how to show: "+strings.Join(names, ", ")+"; `FORMAT`=FILE, or a FILE whose name ends in the format, goes there; several may be given")
	cmd.Flags().StringVar(&o.fields, "fields", "", "show these `COLUMNS` of the table or of CSV, with commas: time,process,remote,how,cause,sentence")
	cmd.Flags().StringVar(&o.sort, "sort", "", "sort the table or CSV by this `COLUMN`, and show it at the end: lost, age, process, … (numbers the largest first, names from a on; -age: the other way round)")
	cmd.Flags().BoolVar(&o.wide, "wide", false, "let the table be wider than the terminal: cut nothing")
	cmd.Flags().StringVar(&o.color, "color", "auto", "auto, always or never")
	cmd.Flags().BoolVarP(&o.verbose, "verbose", "v", false, "show the events that prove each verdict")
}

// target is an output that goes into a file.
type target struct{ format, file string }

// outputFile is a file that an output goes into.
type outputFile struct {
	io.WriteCloser
	buf *bufio.Writer
}

// outputFlag is -o, once or several times: FORMAT, FORMAT=FILE, or FILE.
type outputFlag output

func (o *outputFlag) String() string { return o.format }

func (o *outputFlag) Type() string { return "format" }

// extensions are the formats of files by their names.
var extensions = map[string]report.Format{".json": report.JSON, ".jsonl": report.JSON, ".ndjson": report.JSON, ".csv": report.CSV, ".html": report.HTML, ".svg": report.SVG,
	".mmd": report.Mermaid, ".txt": report.Timeline, ".pcapng": report.Pcapng, ".log": report.Table}

// Set takes one output. The first that goes to standard output is the main one, else
// the first.
func (o *outputFlag) Set(text string) error {
	format, file, named := strings.Cut(text, "=")
	if !named && strings.ContainsAny(text, "./") { // no format has such a name
		f, ok := extensions[filepath.Ext(text)]
		if !ok {
			return fmt.Errorf("%q: which format? FORMAT=FILE says it", text)
		}
		format, file, named = string(f), text, true
	}
	switch {
	case named && file == "":
		return fmt.Errorf("%q: into which file?", text)
	case o.given && !named && o.into == "":
		return fmt.Errorf("%q: only one output goes to standard output; %s=FILE goes into a file", text, text)
	case !o.given:
		o.format, o.into = format, file
	case !named:
		o.more = append(o.more, target{o.format, o.into})
		o.format, o.into = format, ""
	default:
		o.more = append(o.more, target{format, file})
	}
	o.given = true
	return nil
}

// file opens a file for an output, once.
func (o *output) openFile(ctx context.Context, name string) (*bufio.Writer, error) {
	if f := o.files[name]; f != nil {
		return f.buf, nil
	}
	f, err := record.Create(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("-o: %w", err)
	}
	if o.files == nil {
		o.files = map[string]*outputFile{}
	}
	o.files[name] = &outputFile{f, bufio.NewWriterSize(f, 1<<16)}
	return o.files[name].buf, nil
}

// formats are all that are shown.
func (o *output) formats() []report.Format {
	all := []report.Format{report.Format(o.format)}
	for _, t := range o.more {
		all = append(all, report.Format(t.format))
	}
	return all
}

// flush has everything seen that was shown by now.
func (o *output) flush() error {
	var err error
	for _, f := range o.files {
		err = errors.Join(err, f.buf.Flush())
	}
	return err
}

// terminal looks at where standard output goes.
func (o *output) options(clock report.Clock) (report.Options, error) {
	opts := report.Options{Clock: clock, Verbose: o.verbose, NoEvents: o.noEvents}
	f, _ := o.env.stdout.(*os.File)
	tty := false
	if f != nil {
		if width, _, err := term.GetSize(f.Fd()); err == nil {
			tty, opts.Width = true, width
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
	if tty && report.Format(o.format).Binary() && o.write != "-" && o.into == "" {
		return opts, usage(fmt.Errorf("-o %s is not for a terminal: > FILE, or a pipe to a program that reads it", o.format))
	}
	if o.wide {
		opts.Width = 0
	}
	if o.fields != "" {
		opts.Fields = strings.Split(o.fields, ",")
		if err := report.CheckFields(opts.Fields); err != nil {
			return opts, usage(fmt.Errorf("--fields: %w", err))
		}
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

// printer is an open output: it prints endings, and records them if that is wanted.
type printer struct {
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
func (o *output) open(ctx context.Context, meta record.Meta, heading func(left, right *report.Judged) (string, string), sinks func(io.Writer, report.Options) []report.Sink) (*printer, error) {
	opts, err := o.options(report.Clock{Offset: meta.Offset, Set: &report.Settings{}})
	if err != nil {
		return nil, err
	}
	opts.Heading, opts.Kernel = heading, meta.Kernel
	quietPipes()
	s := &printer{opts: opts, talk: o.env.stderr}
	w := o.env.stdout
	if o.beside != nil {
		w = o.beside
	}
	if o.write == "-" {
		w = io.Discard // standard output is the recording
	}
	s.buf = bufio.NewWriterSize(w, 1<<16)
	if o.into != "" {
		if s.buf, err = o.openFile(ctx, o.into); err != nil {
			return nil, err
		}
		opts = o.forFile(opts)
	}
	if sinks != nil {
		all := sinks(s.buf, opts)
		s.sink, s.after = all[0], all[1:]
	} else if s.sink, err = o.newSink(report.Format(o.format), s.buf, opts); err != nil {
		return nil, usage(err)
	}
	for _, t := range o.more {
		w, err := o.openFile(ctx, t.file)
		if err != nil {
			return nil, err
		}
		sink, err := o.newSink(report.Format(t.format), w, o.forFile(opts))
		if err != nil {
			return nil, usage(err)
		}
		s.after = append(s.after, sink)
	}
	s.record, s.done, err = o.recording(ctx, meta)
	return s, err
}

// recording begins the recording of a run; a nil one where none was asked for. done,
// if not nil, is to be called when the run is over.
func (o *output) recording(ctx context.Context, meta record.Meta) (r session.Recorder, done func(), err error) {
	if o.write == "" {
		return nil, nil, nil
	}
	if err := o.create(ctx); err != nil {
		return nil, nil, err
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
			return nil, nil, err
		}
		return r, func() { o.rotation.First += r.Files() }, nil
	}
	w, err := record.NewWriter(o.file, meta)
	if err != nil {
		return nil, nil, err
	}
	return w, nil, nil
}

// newSink is the sink of a format, sorted where that is asked for.
func (o *output) newSink(f report.Format, w io.Writer, opts report.Options) (report.Sink, error) {
	sink, err := report.New(f, w, opts)
	if err != nil || o.sort == "" || f != report.Table && f != report.CSV {
		return sink, err
	}
	return report.NewSorted(sink, o.sort, opts)
}

// columnsAsked says whether what is only for tables has one.
func (o *output) columnsAsked() error {
	if o.sort != "" {
		if _, err := report.NewSorted(nil, o.sort, report.Options{}); err != nil {
			return fmt.Errorf("--sort: %w", err)
		}
	}
	tables := slices.ContainsFunc(o.formats(), func(f report.Format) bool { return f == report.Table || f == report.CSV })
	if (o.sort != "" || o.fields != "") && !tables {
		return errors.New("--fields and --sort go with -o table and -o csv")
	}
	return nil
}

// forFile are the options where no terminal is.
func (o *output) forFile(opts report.Options) report.Options {
	opts.Width, opts.ASCII, opts.Color = 0, false, o.color == "always"
	return opts
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
	err := o.flush()
	for _, f := range o.files {
		err = errors.Join(err, f.Close())
	}
	if o.file == nil {
		return err
	}
	return errors.Join(err, o.file.Close())
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
func (s *printer) show(scenario string) func(*conn.Connection, verdict.Verdict) error {
	return func(c *conn.Connection, v verdict.Verdict) error {
		return s.end(report.Judged{Conn: c, Verdict: v, Scenario: scenario})
	}
}

func (s *printer) end(j report.Judged) error {
	for _, sink := range append([]report.Sink{s.sink}, s.after...) {
		if err := sink.End(j); err != nil {
			return err
		}
	}
	return nil
}

// brief is the sink, where it also takes plain endings in the short form; nil: it
// does not.
func (s *printer) brief() report.Brief {
	if sink, ok := s.sink.(report.Brief); ok && len(s.after) == 0 && !s.opts.Verbose && s.opts.Fields == nil {
		return sink
	}
	return nil
}

// wall takes a new setting of the wall clock.
func (s *printer) wall(w record.Wall) { s.opts.Clock.Set.Add(w.Time, w.Offset) }

func (s *printer) close() error {
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
func closing(w io.Writer, c session.Counts) { fmt.Fprintln(w, countsText(c)) }

func countsText(c session.Counts) string {
	text := fmt.Sprintf("%d seen, %d shown, %d filtered, %d lost", c.Seen, c.Shown, c.Filtered, c.Lost)
	if c.Late > 0 {
		text += fmt.Sprintf(", %d came too late", c.Late)
	}
	if c.News > 0 {
		text += fmt.Sprintf(", news of processes lost %d times (some children may be missing)", c.News)
	}
	return text
}
