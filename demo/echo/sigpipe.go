package echo

import (
	"errors"
	"fmt"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

// SigpipeAction is what SIGPIPE does to the server, the signal that comes with
// a send on a connection whose peer has reset it. It is a flag.Value and a
// pflag.Value.
type SigpipeAction int

const (
	// SigpipeDefault is the kernel's action, SIG_DFL: the process is killed.
	SigpipeDefault SigpipeAction = iota
	// SigpipeIgnore is SIG_IGN: the send fails with EPIPE.
	SigpipeIgnore
	// SigpipeHandler catches the signal: the server prints how many messages it
	// received and ends.
	SigpipeHandler
)

var sigpipeNames = [...]string{
	SigpipeDefault: "default",
	SigpipeIgnore:  "ignore",
	SigpipeHandler: "handler",
}

// String returns "default", "ignore" or "handler".
func (a SigpipeAction) String() string {
	return sigpipeNames[a]
}

// Set parses what String returns.
func (a *SigpipeAction) Set(s string) error {
	for action, name := range sigpipeNames {
		if s == name {
			*a = SigpipeAction(action)
			return nil
		}
	}
	return fmt.Errorf("%q is none of default, ignore, handler", s)
}

// caught gets the signal that the handler caught; nil without a handler.
type caught chan os.Signal

// errStopped reports that a signal ended the server.
var errStopped = errors.New("stopped by a signal")

// install puts the action in force for the whole process. The caller has locked its
// goroutine to the thread that will send: the kernel directs SIGPIPE at that thread,
// and a mask inherited with SIGPIPE blocked, as some service managers leave it, would
// hold the signal back for ever.
func (a SigpipeAction) install() (c caught, err error) {
	switch a {
	case SigpipeDefault:
		// The Go runtime has its own handler for SIGPIPE, which drops the signal
		// when it comes from a socket, and os/signal can only go back to that
		// handler. So the disposition is set under the runtime's feet.
		if err := setDefaultAction(unix.SIGPIPE); err != nil {
			return nil, failed("rt_sigaction(SIGPIPE, SIG_DFL)", err)
		}
	case SigpipeIgnore:
		signal.Ignore(unix.SIGPIPE)
	case SigpipeHandler:
		c = make(caught, 1)
		signal.Notify(c, unix.SIGPIPE)
	}
	var set unix.Sigset_t
	set.Val[0] = 1 << (unix.SIGPIPE - 1)
	return c, failed("rt_sigprocmask(SIG_UNBLOCK, SIGPIPE)", unix.PthreadSigmask(unix.SIG_UNBLOCK, &set, nil))
}
