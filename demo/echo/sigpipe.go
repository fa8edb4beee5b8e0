package echo

import (
	"context"
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

func (a SigpipeAction) valid() bool { return a >= 0 && int(a) < len(sigpipeNames) }

// String returns "default", "ignore" or "handler".
func (a SigpipeAction) String() string {
	if !a.valid() {
		return fmt.Sprintf("SigpipeAction(%d)", int(a))
	}
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

// Type names the value in help texts.
func (SigpipeAction) Type() string { return "default|ignore|handler" }

// sigpipe is the action while it is in force.
type sigpipe struct {
	caught chan os.Signal // nil unless the action is SigpipeHandler
	mask   unix.Sigset_t  // the thread's mask before
}

// install puts the action in force for the whole process. The caller has
// locked its goroutine to the thread that will send: the kernel directs
// SIGPIPE at that thread, and a mask inherited with SIGPIPE blocked, as some
// service managers leave it, would hold the signal back for ever.
func (a SigpipeAction) install() (*sigpipe, error) {
	p := new(sigpipe)
	switch a {
	case SigpipeDefault:
		// The Go runtime has its own handler for SIGPIPE, which drops the signal
		// when it comes from a socket, and os/signal can only go back to that
		// handler. So the disposition is set under the runtime's feet.
		if err := setDefaultAction(unix.SIGPIPE); err != nil {
			return nil, callFailed("rt_sigaction(SIGPIPE, SIG_DFL)", err)
		}
	case SigpipeIgnore:
		signal.Ignore(unix.SIGPIPE)
	case SigpipeHandler:
		p.caught = make(chan os.Signal, 1)
		signal.Notify(p.caught, unix.SIGPIPE)
	}
	var set unix.Sigset_t
	set.Val[0] = 1 << (unix.SIGPIPE - 1)
	if err := unix.PthreadSigmask(unix.SIG_UNBLOCK, &set, &p.mask); err != nil {
		p.uninstall()
		return nil, callFailed("rt_sigprocmask(SIG_UNBLOCK, SIGPIPE)", err)
	}
	return p, nil
}

// uninstall gives the thread its mask back and stops the handler. SIG_DFL and
// SIG_IGN stay: they belong to a process that is about to exit.
func (p *sigpipe) uninstall() {
	if p.caught != nil {
		signal.Stop(p.caught)
	}
	_ = unix.PthreadSigmask(unix.SIG_SETMASK, &p.mask, nil)
}

// handled reports, after a send that failed with EPIPE, whether the handler
// caught the signal. The runtime's signal handler ran before the send returned,
// but it hands the signal over on a channel, which takes a moment.
func (p *sigpipe) handled(ctx context.Context) bool {
	if p.caught == nil {
		return false
	}
	select {
	case <-p.caught:
		return true
	case <-ctx.Done():
		return false
	}
}
