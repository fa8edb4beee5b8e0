package session

import (
	"net/netip"
	"slices"
	"time"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/story"
)

// move is a step without its time and its task.
type move struct {
	hook     event.Hook
	from, to event.State
}

var (
	activeOpen = []move{
		{event.HookSetState, event.Close, event.SynSent}, {event.HookSetState, event.SynSent, event.Established},
	}
	passiveOpen = []move{
		{event.HookSetState, event.Listen, event.SynRecv}, {event.HookSetState, event.SynRecv, event.Established},
		{event.HookAccept, event.Established, 0},
	}
	closesFirst = []move{
		{event.HookCloseEntry, event.Established, 0}, {event.HookClose, event.Established, 0},
		{event.HookSetState, event.Established, event.FinWait1}, {event.HookSendFin, event.FinWait1, 0},
		{event.HookSetState, event.FinWait1, event.FinWait2}, {event.HookTimeWait, event.FinWait2, 0},
		{event.HookSetState, event.FinWait2, event.Close}, {event.HookDestroy, event.Close, 0},
	}
	closesSecond = []move{
		{event.HookSetState, event.Established, event.CloseWait},
		{event.HookCloseEntry, event.CloseWait, 0}, {event.HookClose, event.CloseWait, 0},
		{event.HookSetState, event.CloseWait, event.LastAck}, {event.HookSendFin, event.LastAck, 0},
		{event.HookSetState, event.LastAck, event.Close}, {event.HookDestroy, event.Close, 0},
	}
)

// pattern is what the kernel tells of a shape, step by step.
type pattern struct {
	locked []uint16 // the steps with the socket's lock held, as story.Kind makes them
	accept uint16   // 0: none
	entry  uint16
	close  int // place of __tcp_close in locked; the FIN's state follows
}

// The tasks of a story.
const (
	taskOpener = 0
	taskCloser = 2
)

// task is who takes it, in a story of a shape.
func (m move) task() uint8 {
	switch {
	case m.hook == event.HookSetState && m.to == event.SynSent, m.hook == event.HookAccept:
		return taskOpener
	case m.hook == event.HookCloseEntry, m.hook == event.HookClose, m.hook == event.HookSendFin,
		m.hook == event.HookSetState && (m.to == event.FinWait1 || m.to == event.LastAck):
		return taskCloser
	}
	return story.NoTask
}

func patternOf(open, end []move) (p pattern) {
	for _, m := range slices.Concat(open, end) {
		to := m.to
		if m.hook == event.HookTimeWait {
			to = event.TimeWait
		}
		kind := story.Kind(m.hook, m.task(), m.from, to)
		switch m.hook {
		case event.HookAccept:
			p.accept = kind
			continue
		case event.HookCloseEntry:
			p.entry = kind
			continue
		case event.HookClose:
			p.close = len(p.locked)
		}
		p.locked = append(p.locked, kind)
	}
	return p
}

// patterns are those of the shapes, by who opened and who closed first.
var patterns = [2][2]pattern{
	{patternOf(activeOpen, closesSecond), patternOf(activeOpen, closesFirst)},
	{patternOf(passiveOpen, closesSecond), patternOf(passiveOpen, closesFirst)},
}

func (sh shape) pattern() *pattern {
	p := &patterns[sh.open-conn.OpenActive]
	if sh.first {
		return &p[1]
	}
	return &p[0]
}

// read says which shape a story has, if the judge says the same of all stories of
// that shape: each step is the one that is expected, one process opened and closed,
// in calls of its own, and no byte is unaccounted for.
func (r *resting) read(raw []byte, jiffy time.Duration, calls *plainCalls) bool {
	s := story.RawOf(raw)
	sh := &r.shape
	*sh = shape{open: conn.OpenActive}
	if s.Child() {
		sh.open = conn.OpenPassive
	}
	n := s.Steps()
	if n <= 2 {
		return false
	}
	sh.first = s.What(2)&0x3f != uint16(event.HookSetState) // __tcp_close, and not the peer's FIN
	p := sh.pattern()
	if n != len(p.locked) || s.What(story.PlaceAccept) != p.accept || s.What(story.PlaceCloseEntry) != p.entry {
		return false
	}
	for i, kind := range p.locked {
		if s.What(i) != kind {
			return false
		}
	}
	// The two without the lock have come where they are expected.
	if at := s.At(story.PlaceCloseEntry); at < s.At(p.close-1) || at > s.At(p.close) {
		return false
	}
	r.opened = s.At(0)
	if sh.open == conn.OpenPassive {
		next := 2
		if sh.first {
			next = story.PlaceCloseEntry
		}
		r.opened = s.At(story.PlaceAccept)
		if r.opened < s.At(1) || r.opened > s.At(next) {
			return false
		}
	}
	o, c := s.Task(taskOpener), s.Task(taskCloser)
	const known = event.HasTask | event.HasPreempt | event.HasSyscall
	if (o.Has()&c.Has())&known != known || event.ContextOf(o.Preempt()|c.Preempt()) != event.ContextProcess ||
		(o.Flags()|c.Flags())&(event.PFExiting|event.PFKthread) != 0 || c.Syscall() != calls.close || o.More()|c.More() != 0 || c.CallOn() != 0 ||
		o.PID() != c.PID() || o.PID() == 0 || o.UID() != c.UID() || o.Cgroup() != c.Cgroup() || event.Outside(o.PID()) {
		return false
	}
	if sh.open == conn.OpenActive && o.Syscall() != calls.connect {
		return false
	}
	looks := uint8(1<<story.LookOpen | 1<<story.LookAct | 1<<story.LookEnd)
	if !sh.first {
		looks |= 1 << story.LookFIN
	}
	if s.Looks() != looks {
		return false
	}
	begin, at, last := s.Look(story.LookOpen), s.Look(story.LookAct), s.Look(story.LookEnd)
	if !begin.Usual() || !at.Usual() || !last.Usual() || (begin.SkFlags()|at.SkFlags()|last.SkFlags())&event.SockLinger != 0 {
		return false
	}
	sent, received := at.Since(jiffy)
	// Where functions are not typed, the state after the call has the look of it.
	if sent == 0 || received == 0 || at.Step() != p.close || begin.Step() != 1 || last.Step() != n-2 || last.SkFlags()&event.SockDead == 0 ||
		last.SndUna() != last.WriteSeq() || last.Shutdown() != 3 || last.BytesReceived() == 0 {
		return false
	}
	isn := numbersAt(begin, sh.open)
	if isn != numbersAt(at, sh.open) || last.BytesAcked() < at.BytesAcked() || last.BytesAcked() < 2 {
		return false
	}
	if sh.first {
		// It had read everything, and nothing came after the close but the FIN.
		if at.CopiedSeq() != at.RcvNxt() || last.BytesReceived() > at.BytesReceived()+1 {
			return false
		}
	} else {
		d := at.RcvNxt() - at.CopiedSeq()
		fin := s.Look(story.LookFIN)
		sent, received = fin.Since(jiffy)
		if d > 1 || last.BytesReceived() != at.BytesReceived() || fin.Step() != 2 || !fin.Usual() || fin.SkFlags()&event.SockLinger != 0 ||
			sent == 0 || received == 0 || isn != numbersAt(fin, sh.open) {
			return false // it had read everything but, perhaps, the FIN
		}
		switch {
		case d == 1:
			sh.eof = eofUnread
		case fin.RcvNxt()-fin.CopiedSeq() == 1:
			sh.eof = eofAlone
		default:
			sh.eof = eofBehind
		}
	}
	// The SYN of who opened it and both FINs are in the counters.
	r.sent, r.received = last.BytesAcked()-1, last.BytesReceived()-1
	if sh.open == conn.OpenActive {
		r.sent--
	}
	r.isn, r.quiet = isn, min(sent, received)
	r.born, r.told = s.Born(), s.Told()
	r.ended, r.gone, r.closed, r.fin = s.At(n-2), s.At(n-1), s.At(p.close), s.At(p.close+1)
	if r.heard = s.At(n - 3); !sh.first { // TIME_WAIT
		r.heard = s.At(2) // CLOSE_WAIT
	}
	return !maybeUnanswered(sh, r.sent, r.received, sent, received)
}

// maybeUnanswered says whether the service may have ended without an answer
// (verdict.Unanswered): then the judge is asked. since* are of when the service's FIN
// was sent, or came.
func maybeUnanswered(sh *shape, sent, received uint64, sinceSent, sinceReceived time.Duration) bool {
	// Of the service, which closed first; else there is nothing to answer.
	answer, asked, sinceAnswer, sinceAsked := sent, received, sinceSent, sinceReceived
	if sh.open == conn.OpenActive {
		answer, asked, sinceAnswer, sinceAsked = received, sent, sinceReceived, sinceSent
	}
	switch {
	case sh.first == (sh.open == conn.OpenActive) || asked == 0:
		return false
	case answer == 0:
		return true
	}
	return sinceAsked+jiffies <= sinceAnswer
}

// jiffies is less than how far apart the judge takes two times to be apart.
const jiffies = time.Millisecond

// numbersOf are the initial sequence numbers, own and the peer's, as the join finds
// them (conn.isns); zero where the story has not got so far.
func numbersOf(s *story.Raw) [2]uint32 {
	open := conn.OpenActive
	if s.Child() {
		open = conn.OpenPassive
	}
	for _, at := range []int{story.LookOpen, story.LookAct, story.LookFIN} {
		if s.Looks()>>at&1 != 0 {
			return numbersAt(s.Look(at), open)
		}
	}
	return [2]uint32{}
}

func numbersAt(l *story.RawLook, open conn.Open) [2]uint32 {
	snd := l.SndUna() - uint32(l.BytesAcked())
	if open == conn.OpenPassive {
		snd--
	}
	return [2]uint32{snd, l.RcvNxt() - uint32(l.BytesReceived()) - 1}
}

func keyOf(isn [2]uint32) uint64 {
	return uint64(max(isn[0], isn[1]))<<32 | uint64(min(isn[0], isn[1]))
}

// plainCalls are the numbers of close(2) and connect(2).
type plainCalls struct{ close, connect int32 }

func callsOf(arch string) plainCalls {
	return plainCalls{event.NumberOf(arch, event.CallClose), event.NumberOf(arch, event.CallConnect)}
}

// specimen is a story of a shape, in which a byte went each way. Specimens of both
// ends of a connection fit together.
func specimen(open conn.Open, read eof) story.Story {
	first := read == eofNone
	client, server := netip.MustParseAddrPort("192.0.2.1:40000"), netip.MustParseAddrPort("192.0.2.2:80")
	const clientISN, serverISN, mine, theirs = 1000, 900000, 0x10, 0x20
	born := time.Second
	s := story.Story{Born: born, Sock: mine, Final: true, NetNS: 1, Family: event.IPv4, Local: client, Remote: server}
	snd, rcv := uint32(clientISN), uint32(serverISN)
	moves := activeOpen
	if open == conn.OpenPassive {
		s.Sock, s.Local, s.Remote, snd, rcv, moves = theirs, server, client, serverISN, clientISN, passiveOpen
		s.Born += time.Millisecond
	}
	end := closesFirst
	if !first {
		end = closesSecond
	}
	call := func(i int, c event.Call) {
		pid := uint32(10 + open)
		s.Tasks[i] = story.Task{Has: event.HasTask | event.HasPreempt | event.HasSyscall, Context: event.ContextProcess,
			PID: pid, TID: pid, Call: c, Syscall: event.NumberOf("amd64", c), Comm: event.CommOf("specimen")}
		s.TaskCount = i + 1
	}
	call(taskOpener, event.CallConnect)
	if open == conn.OpenPassive {
		call(taskOpener, event.CallOther)
	}
	call(taskCloser, event.CallClose)
	// At which times: the second to close does so after the first one's FIN came.
	at := s.Born
	look := func(which int, step int, more func(*story.Look)) {
		l := story.Look{Step: uint8(step), BytesSent: 1, BytesAcked: 1, BytesReceived: 1, WriteSeq: snd + 2, SndUna: snd + 2, SndNxt: snd + 2,
			RcvNxt: rcv + 2, CopiedSeq: rcv + 2, HasSk: true, SinceSent: 5 * time.Millisecond, SinceReceived: 5 * time.Millisecond, WindowKnown: true, MSS: 1460, SndWnd: 65535}
		if open == conn.OpenActive {
			l.BytesAcked++
		}
		more(&l)
		s.Looked[which], s.Looks[which] = true, l
	}
	for i, m := range slices.Concat(moves, end) {
		switch {
		case m.hook == event.HookCloseEntry:
			at = born + 100*time.Millisecond
			if !first {
				at += 10 * time.Millisecond
			}
		case m.to == event.CloseWait:
			at = born + 101*time.Millisecond
		case m.to == event.FinWait2:
			at = born + 111*time.Millisecond
		case m.hook == event.HookSetState && m.from == event.LastAck:
			at = born + 112*time.Millisecond
		default:
			at += 10 * time.Microsecond
		}
		st := story.Step{At: at, Hook: m.hook, Task: m.task(), State: m.from, ToState: m.to}
		if m.hook == event.HookTimeWait {
			st.Arg = int32(event.TimeWait)
		}
		s.Steps[i], s.Count = st, i+1
		switch {
		case m.to == event.Established:
			look(story.LookOpen, i, func(l *story.Look) {
				l.BytesSent, l.BytesReceived, l.WriteSeq, l.SndUna, l.SndNxt, l.RcvNxt, l.CopiedSeq = 0, 0, snd+1, snd+1, snd+1, rcv+1, rcv+1
				l.BytesAcked--
			})
		case m.to == event.CloseWait:
			look(story.LookFIN, i, func(l *story.Look) {
				l.RcvNxt, l.BytesReceived, l.Shutdown, l.SkFlags = rcv+3, 2, 1, event.SockDone
				if read == eofBehind {
					l.CopiedSeq = rcv + 1
				}
			})
		case m.hook == event.HookClose:
			look(story.LookAct, i, func(l *story.Look) {
				if !first {
					l.RcvNxt, l.CopiedSeq, l.BytesReceived, l.Shutdown, l.SkFlags = rcv+3, rcv+3, 2, 1, event.SockDone
					if read == eofUnread {
						l.CopiedSeq--
					}
				}
			})
		case m.hook == event.HookSetState && m.to == event.Close:
			look(story.LookEnd, i, func(l *story.Look) {
				l.RcvNxt, l.CopiedSeq, l.BytesReceived = rcv+3, rcv+2, 2
				if !first && read != eofUnread {
					l.CopiedSeq = rcv + 3
				}
				l.WriteSeq, l.SndUna, l.SndNxt, l.BytesAcked = snd+3, snd+3, snd+3, l.BytesAcked+1
				l.Shutdown, l.SkFlags, l.HasSk = 3, event.SockDead|event.SockDone, false
			})
		}
	}
	s.Told = at
	return s
}
