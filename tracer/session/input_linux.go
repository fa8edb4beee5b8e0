package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Input reads a recording until it ends or the context does. A pipe is then read
// on for as long as something comes, as whoever writes it was told to end, too.
func Input(ctx context.Context, f *os.File) io.Reader {
	return &patientReader{ctx: ctx, f: f}
}

type patientReader struct {
	ctx   context.Context
	f     *os.File
	quiet time.Time // since when nothing came
}

// patience is how long a pipe may be silent once the context has ended.
const patience = 500 * time.Millisecond

func (i *patientReader) Read(p []byte) (int, error) {
	if i.ctx.Err() != nil && i.regular() {
		return 0, ErrInterrupted
	}
	i.quiet = time.Now()
	for {
		fds := []unix.PollFd{{Fd: int32(i.f.Fd()), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, int(patience/5/time.Millisecond))
		switch {
		case err != nil && !errors.Is(err, unix.EINTR):
			return 0, fmt.Errorf("wait for the recording: %w", err)
		case n > 0:
			return i.f.Read(p)
		case i.ctx.Err() != nil && time.Since(i.quiet) > patience:
			return 0, ErrInterrupted
		}
	}
}

func (i *patientReader) regular() bool {
	st, err := i.f.Stat()
	return err == nil && st.Mode().IsRegular()
}
