//go:build !linux

package session

import (
	"context"
	"io"
	"os"

	"github.com/tcpbye/tcpbye/tracer/filter"
)

// Elsewhere than on Linux nothing is traced; recordings are read.

// Witness knows nobody here.
type Witness struct{}

func (*Witness) lost() uint64 { return 0 }

// Command is never run here.
type Command struct{}

// Running says that it is not.
func (*Command) Running() bool { return false }

// Signal is for a command that runs.
func (*Command) Signal(os.Signal) {}

// World is what a recording's filter may ask of this machine.
func World() filter.World { return filter.World{Service: servicePort, Host: hostAddrs} }

// Containers are for Linux alone.
func Containers() ([]string, error) { return nil, nil }

// Input reads a recording until it ends or the context does.
func Input(ctx context.Context, f *os.File) io.Reader { return interrupted{ctx, f} }

type interrupted struct {
	ctx context.Context
	f   *os.File
}

func (i interrupted) Read(p []byte) (int, error) {
	if i.ctx.Err() != nil {
		return 0, ErrInterrupted
	}
	return i.f.Read(p)
}
