package record

import (
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/tcpbye/tcpbye/tracer/event"
)

// Rotation says when a recording goes on in another file, as tcpdump's -C and
// -W do.
type Rotation struct {
	// Size is how many bytes of events a file gets before the next one begins;
	// 0: there is one file. What a file repeats of the ones before does not
	// count, so a file is somewhat larger.
	Size int64
	// Count is how many files there are at most: then the first is written
	// again. 0: no limit.
	Count int
	// First is how many files other runs filled already.
	First int
}

// Name is the name of a file, of which the first has the number 0.
func (how Rotation) Name(name string, file int) string {
	if how.Count == 0 {
		if file == 0 {
			return name
		}
		return name + strconv.Itoa(file)
	}
	digits := len(strconv.Itoa(how.Count - 1))
	return fmt.Sprintf("%s%0*d", name, digits, file%how.Count)
}

// Rotator is a Writer that writes a run to several files. Each file can be read
// alone; in their order, one after the other, they are the whole run.
type Rotator struct {
	// Preamble writes what a file must repeat of the ones before, with Again
	// set; nil: nothing.
	Preamble func(*Writer) error

	name   string
	how    Rotation
	meta   Meta
	create func(name string) (io.WriteCloser, error)

	w     *Writer
	file  io.WriteCloser
	size  counter
	head  int64 // size of the current file's head
	total End
	err   error
}

// counter counts what goes into a file.
type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// NewRotator creates the first file. Its name is the given one, and a number
// follows in the next ones; with a Count the first has a number too, and all
// have as many digits as the last, so that they sort.
func NewRotator(name string, m Meta, how Rotation, create func(name string) (io.WriteCloser, error)) (*Rotator, error) {
	if how.Size < 0 || how.Count < 0 {
		return nil, fmt.Errorf("rotate recordings after %d bytes, %d files: want no negative number", how.Size, how.Count)
	}
	if m.Run == "" {
		m.Run = strconv.FormatInt(int64(m.Offset), 36)
	}
	r := &Rotator{name: name, how: how, meta: m, create: create}
	if err := r.begin(); err != nil {
		return nil, err
	}
	return r, nil
}

// Files is how many files were begun.
func (r *Rotator) Files() int { return r.meta.Part + 1 }

func (r *Rotator) begin() error {
	file, err := r.create(r.how.Name(r.name, r.how.First+r.meta.Part))
	if err != nil {
		return fmt.Errorf("create the recording: %w", err)
	}
	r.file = file
	r.size = counter{w: file}
	if r.w, err = NewWriter(&r.size, r.meta); err == nil && r.meta.Part > 0 && r.Preamble != nil {
		err = r.Preamble(r.w)
	}
	if err == nil {
		err = r.w.Flush()
	}
	r.head = r.size.n
	return err
}

// next goes on in the next file when this one is full.
func (r *Rotator) next() error {
	if r.err != nil || r.how.Size == 0 || r.size.n+int64(r.w.w.Buffered())-r.head < r.how.Size {
		return r.err
	}
	r.err = errors.Join(r.w.Close(r.total), r.file.Close())
	if r.err == nil {
		r.meta.Part++
		r.err = r.begin()
	}
	return r.err
}

// Event records an event.
func (r *Rotator) Event(e event.Event) error {
	if err := r.next(); err != nil {
		return err
	}
	r.total.Events++
	return r.w.Event(e)
}

// Loss records a loss.
func (r *Rotator) Loss(l Loss) error {
	r.total.Lost += l.Lost
	return r.w.Loss(l)
}

// Process records what is known of a process.
func (r *Rotator) Process(p Process) error { return r.w.Process(p) }

// Seed records a connection that was there when the run began.
func (r *Rotator) Seed(s Seed) error { return r.w.Seed(s) }

// Choice records what the run is about.
func (r *Rotator) Choice(c Choice) error { return r.w.Choice(c) }

// Wall records that the wall clock was set.
func (r *Rotator) Wall(c Wall) error { return r.w.Wall(c) }

// Tick records that no older event will come.
func (r *Rotator) Tick(t Tick) error { return r.w.Tick(t) }

// Flush hands everything on that was recorded so far.
func (r *Rotator) Flush() error {
	if r.err != nil {
		return r.err
	}
	return r.w.Flush()
}

// Close records the end, flushes and closes the last file. It does not repeat an
// error that was returned before.
func (r *Rotator) Close(end End) error {
	if r.err != nil {
		return nil
	}
	return errors.Join(r.w.Close(end), r.file.Close())
}
