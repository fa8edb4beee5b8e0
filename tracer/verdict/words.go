package verdict

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"time"

	unix "github.com/tcpbye/tcpbye/tracer/linux"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
)

// who names the actor, or the causing end.
func (t *trial) who() string {
	if t.x.actor != nil {
		return named(t.x.actor)
	}
	return end(t.a)
}

// other names the end that is not a.
func (t *trial) other() string {
	if t.b != nil {
		return end(t.b)
	}
	return t.a.c.Remote.String()
}

// how says the act in words.
func (t *trial) how() string {
	if t.x.act == NoAct && t.x.by == byProcess {
		return "with shutdown(2)"
	}
	return how(t.x.act, t.x.signal)
}

func how(act Act, signal int) string {
	switch act {
	case ActClose:
		return "with close(2)"
	case ActExit:
		return "by exiting"
	case ActKilled:
		return "when it was killed by " + event.SignalName(signal)
	case ActExec:
		return "by exec (the descriptor was close-on-exec)"
	case ActDup2:
		return "with dup2(2) over its last descriptor"
	case ActThread:
		return "by the exit of a thread that had descriptors of its own (the process lives on)"
	case ActDiscard:
		return "by throwing it away in recvmsg(2) (MSG_CTRUNC: no descriptor was free, or there was no room for it)"
	case ActShutWr:
		return "with shutdown(SHUT_WR)"
	case ActShutRdWr:
		return "with shutdown(SHUT_RDWR)"
	case ActShutRd:
		return "with shutdown(SHUT_RD)"
	}
	return ""
}

// when says how far into the connection an event was.
func (t *trial) when(e *event.Event) string {
	if e == nil {
		return ""
	}
	for _, f := range []*facts{t.a, t.b} {
		// A close is when the descriptor was given up.
		if f != nil && f.kept() != 0 && (e == f.at(f.release) || e == f.at(f.fin) && f.fin > f.release) {
			e = f.at(f.letGo)
		}
	}
	d := e.Time - firstSeen(t.a, t.b)
	if t.a.c.Open == conn.OpenUnknown || d < 0 {
		return "" // what was seen of its beginning came later
	}
	return " " + seconds(d) + " after it was opened"
}

func named(p *conn.Process) string { return string(appendNamed(make([]byte, 0, 64), p)) }

func appendNamed(b []byte, p *conn.Process) []byte {
	b = append(b, event.Quote(p.Comm)...)
	on := ""
	if p.Host != "" {
		on = " on " + event.Quote(p.Host)
	}
	if event.Outside(p.PID) {
		return append(append(b, on...), " (outside this PID namespace)"...)
	}
	b = strconv.AppendUint(append(b, " (pid "...), uint64(p.PID), 10)
	return append(append(b, on...), ')')
}

func appendSeconds(b []byte, d time.Duration) []byte {
	return append(strconv.AppendFloat(b, d.Seconds(), 'f', 3, 64), " s"...)
}

// end names an end: its process, where one is known, else its address.
func end(f *facts) string {
	switch {
	case f.c.Owner != nil:
		return named(f.c.Owner)
	case f.c.Local.IsValid():
		return f.c.Local.String()
	}
	return "this end"
}

// lostAt says what an end lost, in words; "" nothing that is known of.
func lostAt(f *facts) string {
	if f == nil {
		return ""
	}
	l := f.lost
	var parts []string
	if l.Unread != nil && *l.Unread > 0 {
		parts = append(parts, plural(*l.Unread)+" that it had received and not read")
	}
	if l.Unacked != nil && *l.Unacked > 0 {
		parts = append(parts, plural(*l.Unacked)+" that it had sent and that were never acknowledged")
	}
	if l.Unsent != nil && *l.Unsent > 0 {
		parts = append(parts, plural(*l.Unsent)+" that never left its send queue")
	}
	return strings.Join(parts, ", ")
}

// heldOn says what held the socket of an end after its last descriptor was gone,
// with a space before it; "" nothing did.
func heldOn(f *facts) string {
	d := f.kept()
	if d == 0 {
		return ""
	}
	what := "a request in progress (io_uring) or a message in flight"
	switch r := f.at(f.release); {
	case r.Call == event.CallReceive || r.Call == event.CallSend:
		what = "a call in progress"
	case r.Call == event.CallIOUring:
		what = "a request in progress (io_uring)"
	}
	return fmt.Sprintf(" %s held the socket for another %s; only then did its kernel send anything.", strings.ToUpper(what[:1])+what[1:], span(d))
}

// above says at which ends TCP does not know what was read, with a space before
// it; "" at none.
func above(ends ...*facts) string {
	var all, last string
	for _, f := range ends {
		var s string
		switch {
		case f == nil:
		case f.subflow:
			s = fmt.Sprintf(" What %s read is not known: MPTCP keeps the receive queue.", end(f))
		case f.aboveIn:
			s = fmt.Sprintf(" What %s read or threw away is not known: a layer above TCP (kTLS, sockmap) keeps the receive queue.", end(f))
		}
		if s != last { // one process may have both ends
			all += s
		}
		last = s
	}
	return all
}

func plural(n uint64) string {
	if n == 1 {
		return "1 byte"
	}
	return strconv.FormatUint(n, 10) + " bytes"
}

func seconds(d time.Duration) string { return string(appendSeconds(make([]byte, 0, 16), d)) }

// span is a short time in the unit that suits it.
func span(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return "less than 1 ms"
	case d < time.Second:
		return strconv.FormatInt(d.Milliseconds(), 10) + " ms"
	}
	return seconds(d)
}

// spaced and parted put a part behind what is said already; an unknown part leaves
// nothing behind.
func spaced(part string) string { return after(" ", part) }

func parted(part string) string { return after(", ", part) }

func after(mark, part string) string {
	if part == "" {
		return ""
	}
	return mark + part
}

// killedAdvice is what to do about a process that was killed: it could not have
// closed in another way.
func killedAdvice(signal int) string {
	switch unix.Signal(signal) {
	case unix.SIGSEGV, unix.SIGBUS, unix.SIGILL, unix.SIGFPE, unix.SIGABRT, unix.SIGTRAP, unix.SIGSYS:
		return "It crashed: its log and its core dump (coredumpctl) say why."
	case unix.SIGPIPE:
		return "It wrote to a connection that can no longer send, and did not ignore SIGPIPE: ignore the signal or send with MSG_NOSIGNAL, and handle EPIPE."
	case unix.SIGKILL:
		return "Find out who sent SIGKILL: the kernel when it ran out of memory (journalctl -k), or a supervisor that had waited long enough after SIGTERM."
	}
	return "Find out who sent " + event.SignalName(signal) + ". A program stopped this way can catch the signal, finish what it has begun, and then close."
}

// hint adds to the sentence what else was seen that leads to the bottom of it, and puts
// what to do about that in the place of the advice.
func (t *trial) hint(v *Verdict, sentence, advice string) (string, string) {
	if t.self.toItself() {
		switch {
		case v.Class == Refused || v.Class == TimedOut && v.Cause == ConnectTimeout:
			return sentence, advice
		case v.Cause == SimultaneousClose:
			return describeItself(t.self), itselfAdvice
		}
		return sentence + " " + describeItself(t.self), itselfAdvice
	}
	var says, do string
	if t.rule.hint != nil {
		says, do = t.rule.hint(t)
	}
	for _, f := range []*facts{t.self, t.peer} {
		if says == "" && f != nil {
			says, do = f.noDescriptor()
		}
	}
	if says == "" {
		return sentence, advice
	}
	return sentence + " " + says, cmp.Or(do, advice)
}

// toItself says whether a socket is connected to itself, as the kernel does when a
// program connects to a port of this host that it may also choose as the source, and
// nobody listens there.
func (f *facts) toItself() bool {
	return f.c.Local.IsValid() && f.c.Local.Port() != 0 && f.c.Local == f.c.Remote
}

// describeItself is about a socket that was connected to itself.
func describeItself(f *facts) string {
	s := fmt.Sprintf("%s was connected to itself: nobody listened on %s, and the kernel chose that port as the source of its own SYN (a simultaneous open with itself). There is one socket",
		end(f), f.c.Local)
	if f.keepsTimeWait() {
		return s + ", one FIN and one TIME_WAIT."
	}
	return s + ", and no other end."
}

const itselfAdvice = "Keep ports that are listened on out of net.ipv4.ip_local_port_range (or in net.ipv4.ip_local_reserved_ports), and after connect(2) compare getsockname(2) with getpeername(2): a client that keeps retrying a dead local port sooner or later connects to itself, and then holds the port that the service needs."
