package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/tcpbye/tcpbye/tracer/record"
	"github.com/tcpbye/tcpbye/tracer/session"
)

// recordingFiles are that are read one after the other. It knows which one an error
// is about.
type recordingFiles struct {
	names  []string
	in     []io.Reader
	starts []int64 // what was read before each that was begun
	read   int64
	size   int64             // of all; 0: not known
	told   func(done string) // is told how far it is, for a person; nil: nobody
	files  []*os.File
}

// openRecordings opens all of them, so that a wrong name is said at once.
func openRecordings(ctx context.Context, names []string, stdin *os.File) (*recordingFiles, error) {
	r := &recordingFiles{names: names}
	known := true
	for _, name := range names {
		f := stdin
		if name != "-" {
			var err error
			if f, err = os.Open(name); err != nil {
				return nil, errors.Join(fmt.Errorf("open the recording: %w", err), r.close())
			}
			r.files = append(r.files, f)
		}
		st, err := f.Stat()
		if known = known && err == nil && st.Mode().IsRegular(); known {
			r.size += st.Size()
		}
		r.in = append(r.in, session.Input(ctx, f))
	}
	if !known {
		r.size = 0
	}
	return r, nil
}

func (r *recordingFiles) close() error {
	var err error
	for _, f := range r.files {
		err = errors.Join(err, f.Close())
	}
	return err
}

// Read reads on in the next file where one ends.
func (r *recordingFiles) Read(p []byte) (int, error) {
	for len(r.starts) <= len(r.in) {
		if len(r.starts) == 0 {
			r.starts = append(r.starts, 0)
		}
		n, err := r.in[len(r.starts)-1].Read(p)
		r.read += int64(n)
		if r.told != nil {
			r.told(r.done())
		}
		if n > 0 || !errors.Is(err, io.EOF) {
			return n, err
		}
		if len(r.starts) == len(r.in) {
			return 0, io.EOF
		}
		r.starts = append(r.starts, r.read)
	}
	return 0, io.EOF
}

// done says how much of them was read.
func (r *recordingFiles) done() string {
	if r.size > 0 {
		return fmt.Sprintf("read %d%% of %d MB", 100*min(r.read, r.size)/r.size, (r.size+999_999)/1_000_000)
	}
	return fmt.Sprintf("read %d MB", r.read/1_000_000)
}

// named says in an error of what was read which file it is about: that of its place, or
// the one that was read last.
func (r *recordingFiles) named(err error) error {
	if err == nil || len(r.starts) == 0 {
		return err
	}
	at := len(r.starts) - 1
	var damage *record.DamageError
	if errors.As(err, &damage) {
		for at > 0 && r.starts[at] > damage.Offset {
			at--
		}
		damage.Offset -= r.starts[at]
	}
	return fmt.Errorf("-r %s: %w", r.names[at], err)
}
