package verdict

import (
	"slices"

	unix "github.com/tcpbye/tcpbye/tracer/linux"

	"github.com/tcpbye/tcpbye/tracer/event"
)

// appSaw is what this end's process was told, in order; nil: that is not known,
// or not whole.
//
// What recv(2) returned is known where the tcp_recvmsg hook is attached, except for what
// splice(2) reads past it. Elsewhere the end of input shows in copied_seq, which
// passes the FIN when it is read (found_fin_ok in tcp_recvmsg_locked,
// tcp_read_sock): with an empty queue at the FIN's arrival that read returned 0.
// With data before it, one read can have taken both, and only the next would
// return 0: then nothing is claimed.
func (f *facts) appSaw(s Scope) []string {
	if f.aboveIn || f.aboveOut || !f.gone() && f.closed != none {
		return nil // another layer tells it; or it may yet be told of the end
	}
	var saw []string
	add := func(s string) {
		if !slices.Contains(saw, s) {
			saw = append(saw, s)
		}
	}
	var pending event.Errno // sk_err that nobody has taken yet
	alone := false          // the FIN met an empty receive queue
	passed := false         // a read went past the FIN
	unsure := false         // there was more, and whether the process was told is not known
	orphan := false
	take := func(e *event.Event, i int) {
		if pending != 0 && e.Has&event.HasSocket != 0 && e.Err == 0 && i > f.closed {
			add(pending.String())
			// send(2) may have taken it, with a SIGPIPE.
			unsure = unsure || pending == event.Errno(unix.EPIPE) && !s.has(event.HookStreamError)
			pending = 0
		}
	}
	for i := range f.c.Events {
		e := &f.c.Events[i]
		if e.Has&event.HasSocket != 0 && e.SkFlags&event.SockDead != 0 {
			orphan = true
		}
		if i == f.peerFin && e.Has&event.HasTCP != 0 {
			alone = e.RcvNxt-e.CopiedSeq == 1
		}
		if !orphan && f.disconn == none && e.Has&event.HasTCP != 0 && f.peerFin != none && i > f.peerFin &&
			f.finReceived(e) && e.CopiedSeq == e.RcvNxt {
			passed = true
			if alone {
				add("EOF")
			}
		}
		switch e.Hook {
		case event.HookSetState:
			if e.ToState == event.Close && e.State != event.Close && e.Err != 0 && !orphan {
				pending = e.Err
			}
		case event.HookReceive, event.HookStreamError:
			if e.Peeked() {
				continue
			}
			errno := event.Errno(-e.Arg)
			// It had been taken before: else it is what this call had been told (sock_error).
			if errno == 0 && e.Hook == event.HookReceive || errno == event.Errno(unix.EPIPE) && e.Hook == event.HookStreamError && errno != pending {
				take(e, i)
			}
			if errno == pending {
				pending = 0
			}
			if errno == 0 {
				add("EOF")
			} else {
				add(errno.String())
			}
			if e.Hook == event.HookStreamError {
				switch e.Arg2 {
				case event.PipeDelivered:
					add("SIGPIPE")
				case event.PipeRaised:
					unsure = true
				}
			}
		case event.HookAbort, event.HookReset, event.HookDisconnect, event.HookErrorReport:
		default:
			take(e, i) // by connect(2), SO_ERROR, or a recv(2) that was not watched
		}
	}
	if unsure {
		return nil
	}
	// That it was told nothing is certain only if each call was watched and none read
	// past the hook, or if there was nothing to tell: no FIN, no reset, no error.
	watched := s.has(event.HookReceive) && s.has(event.HookStreamError) && !passed
	if saw == nil && f.gone() && (watched || f.nothingToTell()) {
		saw = []string{}
	}
	return saw
}

// nothingToTell says whether nothing came, and no timer ran out, that the process could
// have been told of: once it has closed, nobody tells it anything.
func (f *facts) nothingToTell() bool {
	for _, i := range []int{f.peerFin, f.reset, f.closed} {
		switch e := f.at(i); {
		case e == nil, e.Has&event.HasSocket != 0 && (e.SkFlags&event.SockDead != 0 || i == f.closed && i != f.peerFin && e.Err == 0):
		default:
			return false
		}
	}
	return true
}

// gone says whether no process held the socket any more after its last event: nobody can
// be told anything then.
func (f *facts) gone() bool {
	if f.release != none || f.entry != none || f.destroy != none {
		return true
	}
	e := f.end()
	return e != nil && e.Has&event.HasSocket != 0 && !e.HasSk
}
