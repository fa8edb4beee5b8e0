//go:build !linux

package main

import (
	"context"
	"errors"
	"io"
	"runtime"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/tcpbye/tcpbye/tracer/filter"
	"github.com/tcpbye/tcpbye/tracer/record"
	"github.com/tcpbye/tcpbye/tracer/screen"
	"github.com/tcpbye/tcpbye/tracer/session"
)

// What this program cannot do elsewhere than on Linux.

var errNotLinux = errors.New("on " + runtime.GOOS + " nothing can be traced: record on Linux (-w FILE), and read the recording here (-r FILE)")

func helper() (status int, ok bool) { return 0, false }

func cannotTrace(err error) bool { return errors.Is(err, errNotLinux) }

func ofLinux(environment) []*cobra.Command { return nil }

func (t *tracing) live(context.Context, []string, *filter.Filter, func(record.Meta) (session.Config, error)) (counts session.Counts, status, err error) {
	return counts, nil, errNotLinux
}

func (t *tracing) open(*cobra.Command, []string) error { return errNotLinux }

func lookAround(context.Context, *screen.Feed, *filter.Filter) {}

func wayNames() []string { return nil }

func inForeground() bool { return false }

func signalName(s syscall.Signal) string { return s.String() }

// rungFlag is the flag that forces one way to attach.
type rungFlag struct{}

func (rungFlag) flag(*cobra.Command) {}

// gone is for what waits, which a reader of recordings does not.
func gone(io.Writer) error { return nil }
