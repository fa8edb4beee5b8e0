package verdict

import (
	"fmt"
	"time"

	unix "github.com/tcpbye/tcpbye/tracer/linux"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
)

// Unanswered says that the service ended a connection without answering what the client
// had sent last: "empty reply from server", an EOF where a response was due. On the wire
// such an end is usually graceful.
//
// Only the service's end counts, and only if the service ended it itself, by close,
// shutdown of its sending side, exit or death, after it had received payload and sent
// none since. These are not ends without an answer:
//
//   - A client that has its response and closes: it owes nobody an answer. So it must be
//     known which end is the service (see conn.Connection.Service).
//   - A client that says its last word and closes, as many protocols do (MySQL's COM_QUIT,
//     PostgreSQL's Terminate, TLS's close_notify), or one that only delivers (syslog):
//     nobody waits. So the client must not have closed on its own before the service's FIN
//     came; if it lives on another machine, its FIN must not have come first. A client that
//     is known to have done no more than shut down its sending side waits.
//   - A service that answers before it has everything (413). What counts is whether payload
//     came after it sent last. These times are in jiffies, so they must be far apart; for
//     a service that has sent nothing at all the byte counts show it.
//
// If the service is on another machine, its FIN must come before this end has closed, with
// no payload since this end sent last.
type Unanswered struct {
	Received *uint64 // payload that came to the service since it sent last; nil: not known how much
	Sent     *uint64 // payload that the service had sent before; nil: not known
	// Act, Signal and Actor say how the service ended; zero: it is on another
	// machine, or that was not seen. OOM: the kernel killed it to get its memory.
	Act    Act
	Signal int
	Actor  *conn.Process
	OOM    bool
	// Status is the exit status of the process that ended so; nil: it did not, or
	// that was not seen.
	Status *int
}

// UnansweredName is what it is called where a cause is asked for.
const UnansweredName = "unanswered"

// apart is how far apart times in jiffies must be to say which came first: two
// jiffies of the slowest clock.
const apart = 20 * time.Millisecond

// unanswered finds whether the service ended without an answer.
func (t *trial) unanswered(class Class) *Unanswered {
	self, peer := t.self, t.peer
	if class == Open || class == Refused || self.subflow || self.toItself() {
		return nil
	}
	switch self.c.Service() {
	case conn.ThisSide:
		return self.leftUnanswered(peer)
	case conn.OtherSide:
		if peer != nil {
			return peer.leftUnanswered(self)
		}
		return self.gotNoAnswer()
	}
	return nil
}

// leftUnanswered is about the service's end; client is nil where that is on another
// machine.
func (f *facts) leftUnanswered(client *facts) *Unanswered {
	at, did := f.fin, f.finAct
	if at == none {
		at, did = f.release, f.release
	}
	e := f.at(at)
	if e == nil || e.Has&event.HasTCP == 0 || f.crossed || before(f.reset, at) || f.subflow || e.KernelThread() || f.forget != none {
		return nil
	}
	act, signal := act(f.at(did))
	switch act {
	case ActClose, ActShutWr, ActShutRdWr, ActExit, ActKilled, ActExec, ActDup2:
	default:
		return nil
	}
	if client == nil && before(f.peerFin, at) {
		return nil // it may have closed, and wait for nothing
	}
	if client != nil && client.hadLeft(e.Time) {
		return nil
	}
	received, sent, known := f.soFar(e)
	if received == 0 {
		return nil
	}
	u := &Unanswered{Act: act, Signal: signal}
	if known && sent == 0 {
		u.Received, u.Sent = &received, &sent
	} else {
		toUs, byUs, ok := f.since(at)
		if queued, more := f.unacknowledged(e); !ok || queued+more > 0 || toUs+apart > byUs || before(f.peerFin, at) {
			return nil // after the client's FIN it may be the answer that came before the last of the request
		}
		if known {
			u.Sent = &sent
		}
	}
	u.Actor = f.process(f.at(did))
	for i := range f.c.Elsewhere {
		x := &f.c.Elsewhere[i]
		if x.Hook != event.HookExit || u.Actor == nil || x.PID != u.Actor.PID || act != ActExit && act != ActKilled {
			continue
		}
		u.OOM = x.Arg == event.OOMVictim
		if act == ActExit && x.Has&event.HasTask != 0 {
			status := int(x.ExitCode >> 8 & 0xff)
			u.Status = &status
		}
	}
	return u
}

// hadLeft says whether this end, the client's, had let go of the connection by a time,
// or did so on its own, without having heard of the other end's FIN.
func (f *facts) hadLeft(by time.Duration) bool {
	for _, i := range []int{f.release, f.disconn, f.abort, f.active} {
		if e := f.at(i); e != nil && (e.Time <= by || !before(f.peerFin, i) && f.peerFin != none) {
			return true
		}
	}
	if f.crossed || f.closed != none && f.peerFin == none && !f.rst && f.at(f.closed).Time <= by {
		return true
	}
	if !before(f.fin, f.peerFin) {
		return false
	}
	act, _ := act(f.at(f.finAct))
	return act != ActShutWr // that one reads on
}

// gotNoAnswer is about the client's end, where the service is on another machine.
func (f *facts) gotNoAnswer() *Unanswered {
	e := f.at(f.peerFin)
	if e == nil || e.Has&event.HasTCP == 0 || f.crossed || f.rst || f.subflow {
		return nil
	}
	for _, i := range []int{f.release, f.disconn, f.abort, f.entry} {
		if before(i, f.peerFin) {
			return nil
		}
	}
	if before(f.fin, f.peerFin) {
		// It waits if it has only shut down its sending side.
		if act, _ := act(f.at(f.finAct)); act != ActShutWr {
			return nil
		}
	}
	received, sent, known := f.soFar(e)
	if !known || sent == 0 {
		return nil
	}
	if flight, queued := f.unacknowledged(e); flight+queued > 0 {
		return nil // the service may not have got it
	}
	u := &Unanswered{}
	if received == 0 {
		u.Received, u.Sent = &sent, &received
		return u
	}
	if in, out, ok := f.since(f.peerFin); !ok || out+apart > in {
		return nil
	}
	u.Sent = &received
	return u
}

// soFar counts the payload up to an event; sent is what the process had given to the
// kernel. known: sent is.
func (f *facts) soFar(e *event.Event) (received, sent uint64, known bool) {
	received = e.BytesReceived
	if received > 0 && f.finReceived(e) {
		received--
	}
	sent = e.BytesAcked
	if f.c.Open == conn.OpenActive && sent > 0 {
		sent--
	}
	if sent > 0 && (e.State == event.FinWait2 || e.State == event.TimeWait) {
		sent--
	}
	flight, queued := f.unacknowledged(e)
	return received, sent + uint64(flight) + uint64(queued), f.c.Open != conn.OpenUnknown && !e.Repair
}

// describe says it in a sentence.
func (u *Unanswered) describe(self, peer *facts) string {
	service := self
	if self.c.Service() == conn.OtherSide {
		service = peer
	}
	name := self.c.Remote.String()
	if service != nil {
		name = end(service)
	}
	s := name + " gave no answer: it had received "
	switch {
	case u.Received != nil && u.Sent != nil && *u.Sent == 0:
		s += plural(*u.Received) + " and sent none"
	default:
		s += "more since it last sent anything"
	}
	if how := u.Ended(); how != "" {
		s += "; " + how
	}
	return s + "."
}

// Ended says how the service's process ended, where it did; "" it lived on, or that
// is not known.
func (u *Unanswered) Ended() string {
	switch {
	case u.OOM:
		return fmt.Sprintf("it was killed by %s: out of memory", event.SignalName(u.Signal))
	case u.Act == ActKilled:
		return "it was killed by " + event.SignalName(u.Signal)
	case u.Act == ActExit && u.Status != nil:
		return fmt.Sprintf("it exited with status %d", *u.Status)
	case u.Act == ActExit:
		return "it exited"
	}
	return ""
}

// advice is what to do about it.
func (u *Unanswered) advice() string {
	switch {
	case u.OOM:
		return oomAdvice
	case u.Act == ActKilled && unix.Signal(u.Signal) == unix.SIGTERM, u.Act == ActExit && u.Status != nil && *u.Status == 0:
		return "Let the service answer what it has begun before it ends: stop new connections first (load balancer, readiness), then wait for those that have a request."
	case u.Act == ActKilled:
		return killedAdvice(u.Signal)
	case u.Act == ActExit:
		return "Check the service's log for why it ended while a request was waiting."
	case u.Act == NoAct:
		return "Check the service's log, or trace there: it read the request, or at least acknowledged it, and closed."
	}
	return "Check the service's log at that time, and look for what closes without answering: a filter (nginx return 444), a limit, a caught crash of a worker, another protocol on that port."
}

const oomAdvice = "The kernel ran out of memory and killed this process: raise the limit (memory.max of its cgroup; journalctl -k names it), or find out what uses so much."
