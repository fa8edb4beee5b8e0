package snapshot

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// LeakAfter is how long a process may take to close after its peer before that
// is called a leak.
const LeakAfter = time.Minute

// Bound says how an age was told.
type Bound uint8

const (
	Unknown Bound = iota // nothing tells
	AtLeast
	AtMost
)

// Age is how long the socket has been in its state, as far as tcp_info tells:
// the kernel keeps no time of a state change.
func (s *Socket) Age() (time.Duration, Bound) {
	if s.Info == nil {
		return 0, Unknown
	}
	switch s.State {
	case event.CloseWait, event.FinWait2:
		// The segment that made the state acknowledged something; later ones
		// may have, too.
		return s.Info.LastAckReceived, AtLeast
	case event.FinWait1, event.LastAck, event.Closing:
		// The FIN comes after the last data.
		return s.Info.LastDataSent, AtMost
	case event.Established:
		if s.waits() {
			return s.Info.LastAckReceived, AtLeast
		}
	}
	return 0, Unknown
}

// waits says whether the connection waits to be accepted.
func (s *Socket) waits() bool {
	return s.Inode == 0 && !s.Mini && (s.State == event.Established || s.State == event.CloseWait)
}

// Mark is why a connection will not end by itself.
type Mark struct {
	Cause verdict.Cause // still-open: nothing is wrong with the connection that can be seen
	Note  string        // for a person; "" nothing to say
	// Stuck: it is open, and stays so: a process is stopped, or the other end is
	// not there.
	Stuck bool
}

// Marked says whether the mark is one.
func (m Mark) Marked() bool { return m.Cause != verdict.StillOpen || m.Stuck }

// Mark judges a socket by its state, its holders and its queues, and those of its
// other end.
func (s *Socket) Mark() Mark {
	m := s.mark()
	add := func(note string) {
		if m.Stuck = true; m.Note != "" {
			note = m.Note + "; " + note
		}
		m.Note = note
	}
	here := s.holder()
	switch {
	case here != nil && here.Halt != Running:
		add(here.halted())
	case s.Peer != nil && s.Peer.holder() != nil && s.Peer.holder().Halt != Running:
		add("at the other end " + s.Peer.holder().halted())
	}
	if here != nil && here.Full > 0 {
		add(fmt.Sprintf("%s has all its %d descriptors in use (RLIMIT_NOFILE): accept(2) fails with EMFILE", here.name(), here.Full))
	}
	if age := s.Info; s.Alone && s.State == event.Established && age != nil && age.LastAckReceived >= settled {
		add("no socket mirrors it: the other end is gone, or never came to be (the last ACK of the handshake was lost under SYN cookies)")
	}
	return m
}

// settled is how long nothing must have come before a missing other end counts: the
// sockets are not listed in one moment.
const settled = time.Second

func (s *Socket) mark() Mark {
	age, bound := s.Age()
	switch {
	case s.waits() && s.Listener != nil:
		return Mark{Cause: verdict.NeverAccepted, Note: "established, but the process has not accepted it" + ended(s.State)}
	case s.waits():
		return Mark{Cause: verdict.StillOpen, Note: "no process has it"}
	case s.State == event.CloseWait:
		note := "peer finished; this process has not closed"
		if bound == AtLeast && age >= LeakAfter {
			note = "peer finished; this process never closes: a leak"
		}
		if s.Unread > 0 {
			note += fmt.Sprintf(", with %s unread", Bytes(s.Unread))
		}
		return Mark{Cause: verdict.CloseWaitLeak, Note: note}
	case s.State == event.FinWait2 && s.Inode != 0:
		return Mark{Cause: verdict.FinWait2Held, Note: "this process finished sending; the peer has not, and nothing limits the wait"}
	case s.State == event.FinWait1 || s.State == event.LastAck || s.State == event.Closing:
		return s.stuck()
	}
	return Mark{Cause: verdict.StillOpen}
}

func ended(s event.State) string {
	if s == event.CloseWait {
		return "; the peer has finished already"
	}
	return ""
}

// stuck is about a FIN that is not acknowledged.
func (s *Socket) stuck() Mark {
	tries := s.Tries
	if s.Info != nil {
		tries = max(tries, s.Info.Retransmits, s.Info.Probes)
	}
	switch {
	case s.Unacked > 0 && s.Timer == TimerProbe:
		return Mark{Cause: verdict.FinStuck, Note: fmt.Sprintf("FIN is stuck behind %s: the peer's window is 0", Bytes(s.Unacked))}
	case s.Unacked > 0 && s.Timer == TimerRetransmit && tries > 0:
		return Mark{Cause: verdict.FinStuck, Note: fmt.Sprintf("FIN is stuck behind %s: the peer does not acknowledge, sent again %s", Bytes(s.Unacked), times(tries))}
	case tries > 0:
		return Mark{Cause: verdict.FinStuck, Note: "the peer does not acknowledge the FIN, sent again " + times(tries)}
	}
	return Mark{Cause: verdict.StillOpen}
}

func times(n uint8) string {
	if n == 1 {
		return "once"
	}
	return strconv.Itoa(int(n)) + " times"
}

// Bytes is a count for a sentence: 100 bytes, 1.20 kB, 3.78 MB.
func Bytes(n uint32) string {
	switch {
	case n == 1:
		return "1 byte"
	case n < 1000:
		return strconv.Itoa(int(n)) + " bytes"
	}
	return short(n, " ") + "B"
}

// short is a count with three digits: 3.78M.
func short(n uint32, space string) string {
	if n < 1000 {
		return strconv.Itoa(int(n))
	}
	v, unit := float64(n)/1000, 0
	for v >= 999.5 {
		v, unit = v/1000, unit+1
	}
	digits := 2
	switch {
	case v >= 99.95:
		digits = 0
	case v >= 9.995:
		digits = 1
	}
	text := strconv.FormatFloat(v, 'f', digits, 64)
	if strings.Contains(text, ".") {
		text = strings.TrimRight(strings.TrimRight(text, "0"), ".")
	}
	return text + space + "kMG"[unit:unit+1]
}

// Short is a count with three digits at most: 3.78M.
func Short(n uint64) string { return short(uint32(min(n, 1<<32-1)), "") }
