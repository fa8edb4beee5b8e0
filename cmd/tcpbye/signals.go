package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/tcpbye/tcpbye/tracer/session"
)

// signals makes of SIGINT, SIGHUP and SIGTERM the end of what runs: the first one
// lets it finish what it has begun. A run that can be cut short is, by SIGTERM and
// by a second signal of any kind.
type signals struct {
	stop context.CancelFunc
	exit func(status int)
	cut  chan struct{} // closed: end at once

	mu      sync.Mutex
	cuts    bool             // what runs can be cut short
	command *session.Command // gets the signals while it runs; nil: none
	hup     func()           // takes SIGHUP; nil: it is one as the others
	stopped bool
	by      syscall.Signal // what cut the run short; 0: nothing
}

// patience is how long a run that is cut short may take to write what it has.
// Whoever reads that may stand still.
const patience = 500 * time.Millisecond

// newSignals makes the context that the first signal ends.
func newSignals(exit func(status int)) (context.Context, *signals) {
	ctx, stop := context.WithCancel(context.Background())
	return ctx, &signals{stop: stop, exit: exit, cut: make(chan struct{})}
}

// listen takes signals until the function that it returns is called. A SIGHUP that
// is ignored stays so: nohup(1).
func (s *signals) listen() (stop func()) {
	all := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) {
		all = append(all, syscall.SIGHUP)
	}
	c := make(chan os.Signal, 4)
	signal.Notify(c, all...)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for sig := range c {
			s.take(sig.(syscall.Signal))
		}
	}()
	return func() { signal.Stop(c); close(c); <-done }
}

// take takes a signal.
func (s *signals) take(sig syscall.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	// The command says when it is over, and not the signal that it gets, too. ^C at
	// a terminal goes to the command as well.
	if s.command != nil && s.command.Running() {
		if sig != syscall.SIGINT || !inForeground() {
			s.command.Signal(sig)
		}
		return
	}
	if sig == syscall.SIGHUP && s.hup != nil {
		go s.hup() // which may take its time
		return
	}
	again := s.stopped
	s.stopped = true
	s.stop()
	if !s.cuts || s.by != 0 || sig != syscall.SIGTERM && !again {
		return
	}
	s.by = sig
	close(s.cut)
	time.AfterFunc(patience, func() { s.exit(cutStatus(sig)) })
}

// cuttable says that what runs can be cut short, and which command it runs; nil:
// none.
func (s *signals) cuttable(c *session.Command) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cuts, s.command = true, c
}

// hangup says who takes SIGHUP, which a service reads its settings at; nil: it ends the
// run.
func (s *signals) hangup(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hup = f
}

// short is the error of a run that was cut short.
func (s *signals) short() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &statusError{cutStatus(s.by), fmt.Errorf("ended at once by %s; what was not judged by then is not shown", signalName(s.by))}
}

// cutStatus is what a shell says of a process that a signal ended.
func cutStatus(s syscall.Signal) int { return 128 + int(s) }
