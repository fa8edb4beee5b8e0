package record

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/tcpbye/tcpbye/tracer/event"
)

// Rotation says when a recording goes on in another file, as tcpdump's -C and
// -W do.
type Rotation struct {
	// Size is how many bytes a file has at most, with what it repeats of the ones
	// before; 0: there is one file. Only a record that does not fit into a file
	// of its own makes one larger.
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
	name   string
	how    Rotation
	meta   Meta
	create func(name string) (io.WriteCloser, error)

	w      *Writer
	file   io.WriteCloser
	size   counter
	choice *Choice // is repeated in each file
	walls  []Wall  // so are the last ones
	head   int64   // size of the current file's head
	total  End
	err    error
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
	if r.w, err = NewWriter(&r.size, r.meta); err == nil && r.choice != nil {
		err = r.w.Choice(*r.choice)
	}
	for _, wall := range r.walls {
		if err == nil {
			wall.Again = true
			err = r.w.Wall(wall)
		}
	}
	if err == nil {
		err = r.w.Flush()
	}
	r.head = r.size.n
	if least := 2 * r.head; err == nil && r.meta.Part == 0 && r.how.Size > 0 && r.how.Size < least {
		err = errors.Join(fmt.Errorf("files of %d bytes are too small: the head of each takes %d of them; take %dk or more", r.how.Size, r.head, least>>10+1), file.Close())
	}
	return err
}

// endSize is more than the record of an End takes.
const endSize = 80

// Fits says whether so many bytes go into this file.
func (r *Rotator) Fits(n int) bool {
	if r.err != nil || r.how.Size == 0 {
		return true
	}
	used := r.size.n + int64(r.w.w.Buffered())
	return used == r.head || used+int64(n)+endSize <= r.how.Size
}

// Rotates says whether there are several files.
func (r *Rotator) Rotates() bool { return r.how.Size > 0 }

// Next goes on in the next file.
func (r *Rotator) Next() error {
	if r.err != nil {
		return r.err
	}
	r.err = errors.Join(r.w.Close(r.total), r.file.Close())
	if r.err == nil {
		r.meta.Part++
		r.err = r.begin()
	}
	return r.err
}

// Raw records what Append and AppendEvent made, with so many events in it.
func (r *Rotator) Raw(records []byte, events uint64) error {
	err := r.put(records)
	r.total.Events += events
	return err
}

func (r *Rotator) put(records []byte) error {
	if !r.Fits(len(records)) {
		if err := r.Next(); err != nil {
			return err
		}
	}
	if r.err != nil {
		return r.err
	}
	return r.w.Raw(records, 0)
}

// Event records an event.
func (r *Rotator) Event(e event.Event) error { return r.Raw(AppendEvent(nil, &e), 1) }

// Story records a socket's story, see Writer.
func (r *Rotator) Story(raw []byte, jiffy time.Duration) error {
	return r.Raw(AppendStory(nil, raw, jiffy), 1)
}

// Loss records a loss.
func (r *Rotator) Loss(l Loss) error {
	r.total.Lost += l.Lost
	return r.put(Append(nil, l))
}

// Process records what is known of a process.
func (r *Rotator) Process(p Process) error { return r.put(Append(nil, p)) }

// Seed records a connection that was there when the run began.
func (r *Rotator) Seed(s Seed) error { return r.put(Append(nil, s)) }

// maxWalls is how many settings of the wall clock a file repeats.
const maxWalls = 16

// Wall records that the wall clock was set, in this file and the ones to come.
func (r *Rotator) Wall(c Wall) error {
	err := r.put(Append(nil, c))
	if r.walls = append(r.walls, c); len(r.walls) > maxWalls {
		r.walls = r.walls[1:]
	}
	return err
}

// Look records what the table of sockets said.
func (r *Rotator) Look(l Look) error { return r.put(Append(nil, l)) }

// Tick records that no older event will come.
func (r *Rotator) Tick(t Tick) error { return r.put(Append(nil, t)) }

// Choice records what the run is about, in this file and the ones to come.
func (r *Rotator) Choice(c Choice) error {
	r.choice = &c
	if r.err != nil {
		return r.err
	}
	r.err = errors.Join(r.w.Choice(c), r.w.Flush())
	r.head = r.size.n // it is part of it
	return r.err
}

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
