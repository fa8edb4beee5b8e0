package model

import (
	"time"

	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/story"
)

// Item is an event or, where Story is not nil, a story.
type Item struct {
	Event event.Event
	Story *story.Story
}

// Tell makes stories of what is plain among events that are in the order of their
// times. A story that is open when the events end is told last.
func Tell(events []event.Event) []Item {
	m := model{open: map[uint64]*socket{}}
	for i := range events {
		m.event(&events[i])
	}
	for i := range events {
		if s := m.open[events[i].Sock]; s != nil {
			m.flush(s, events[len(events)-1].Time, false)
		}
	}
	return m.out
}

type socket struct{ story.Story }

type model struct {
	open map[uint64]*socket // by address
	out  []Item
}

func (m *model) full(e *event.Event) { m.out = append(m.out, Item{Event: *e}) }

func (m *model) flush(s *socket, at time.Duration, final bool) {
	s.Told, s.Final = at, final
	m.out = append(m.out, Item{Event: event.Event{Time: at}, Story: &s.Story})
	delete(m.open, s.Sock)
}

func (m *model) event(e *event.Event) {
	if e.Hook == event.HookTwskKill && event.State(e.Arg) == event.TimeWait && event.TwskEnd(e.Arg2) == event.TwskTimer {
		return
	}
	if e.Sock == 0 {
		m.full(e)
		return
	}
	if births(e) && e.Context != event.ContextUnknown && e.Has&event.HasTuple != 0 {
		if s := m.open[e.Sock]; s != nil {
			m.flush(s, e.Time, false)
		}
		s := &socket{Story: story.Story{Born: time.Duration(e.Conn), Sock: e.Sock}}
		s.tuple(e)
		m.open[e.Sock] = s
		if !s.step(e, e.ToState == event.SynSent) {
			delete(m.open, e.Sock)
			m.full(e)
		}
		return
	}
	s := m.open[e.Sock]
	if s == nil || e.Conn != 0 && e.Conn != uint64(s.Born) {
		m.full(e)
		return
	}
	switch e.Hook {
	case event.HookTwskKill, event.HookTwskSchedule:
		m.full(e)
		return
	case event.HookConnect:
		return
	case event.HookFileClose:
		if e.Refs <= 1 && e.Queue == 0 && (e.Call.Drops() || e.Exiting()) { // see plain_file_close
			return
		}
	case event.HookDestroy:
		if s.step(e, false) {
			m.flush(s, e.Time, true)
			return
		}
	default:
		if s.plain(e) {
			return
		}
	}
	if !s.Looked[story.LookOpen] {
		s.tuple(e)
	}
	m.flush(s, e.Time, false)
	m.full(e)
}

func births(e *event.Event) bool {
	return e.Hook == event.HookSetState && (e.ToState == event.SynSent || e.State == event.Listen && e.ToState == event.SynRecv)
}

func (s *socket) tuple(e *event.Event) {
	if e.Has&event.HasTuple != 0 {
		s.NetNS, s.Family, s.Local, s.Remote = e.NetNS, e.Family, e.Local, e.Remote
	}
}

// plain takes a step, or says that the life is not plain any more.
func (s *socket) plain(e *event.Event) bool {
	if e.Has&event.HasSocket != 0 && (e.Err != 0 || e.ErrSoft != 0) || e.Repair || e.Has&event.HasTuple == 0 {
		return false
	}
	last := &s.Steps[s.Count-1]
	timeWait := last.Hook == event.HookTimeWait
	switch e.Hook {
	case event.HookSetState:
		switch {
		case e.State == event.SynSent && e.ToState == event.Established, e.State == event.SynRecv && e.ToState == event.Established:
			s.tuple(e)
			if !s.step(e, false) {
				return false
			}
			s.look(story.LookOpen, e)
			if e.Has&event.HasSegment != 0 {
				s.HasShake, s.Handshake = true, e.Segment
			}
			return true
		case e.State == event.Established && e.ToState == event.FinWait1, e.State == event.CloseWait && e.ToState == event.LastAck:
			if !s.step(e, false) {
				return false
			}
			if !s.Looked[story.LookAct] {
				s.look(story.LookAct, e)
			}
			return true
		case e.State == event.Established && e.ToState == event.CloseWait:
			if !s.step(e, false) {
				return false
			}
			s.look(story.LookFIN, e)
			return true
		case e.State == event.FinWait1 && e.ToState == event.FinWait2:
			return s.step(e, false)
		case e.SkFlags&event.SockDead == 0:
			return false // its process may read on, and close it later
		case e.State == event.LastAck && e.ToState == event.Close,
			timeWait && e.ToState == event.Close && (e.State == event.FinWait1 || e.State == event.FinWait2):
			if !s.step(e, false) {
				return false
			}
			s.look(story.LookEnd, e)
			return true
		}
		return false
	case event.HookAccept, event.HookCloseEntry:
		return s.step(e, true)
	case event.HookClose:
		unread := e.RcvNxt - e.CopiedSeq
		if unread != 0 && s.heardFIN() {
			unread--
		}
		if unread != 0 || e.SkFlags&event.SockLinger != 0 && e.LingerTime == 0 {
			return false
		}
		if s.Looked[story.LookAct] || e.State == event.Close || !s.step(e, false) {
			return false
		}
		s.look(story.LookAct, e)
		return true
	case event.HookShutdown:
		if s.Looked[story.LookAct] || !s.step(e, true) {
			return false
		}
		s.look(story.LookAct, e)
		return true
	case event.HookSendFin:
		return s.step(e, false)
	case event.HookTimeWait:
		return event.State(e.Arg) == event.TimeWait && e.SkFlags&event.SockDead != 0 && s.step(e, false)
	}
	return false
}

func (s *socket) heardFIN() bool {
	for i := range s.Steps[:s.Count] {
		t := &s.Steps[i]
		if t.Hook == event.HookSetState && t.ToState == event.CloseWait || t.Hook == event.HookTimeWait {
			return true
		}
	}
	return false
}

// step appends a step, if there is room. act: a call that begins.
func (s *socket) step(e *event.Event, act bool) bool {
	if s.Count == story.MaxSteps || e.Time-s.Born >= 1<<48 {
		return false
	}
	task := uint8(story.NoTask)
	if e.Context != event.ContextSoftirq {
		i := s.TaskCount - 1
		for ; i >= 0 && !act; i-- {
			if s.Tasks[i].TID == e.TID {
				break
			}
		}
		if act || i < 0 {
			if i = s.TaskCount; i == story.MaxTasks {
				return false
			}
			s.Tasks[i] = story.Task{
				Has: e.Has & (event.HasTask | event.HasPreempt | event.HasSyscall), Context: e.Context, PID: e.PID, TID: e.TID, UID: e.UID,
				Flags: e.TaskFlags, ExitCode: e.ExitCode, Syscall: e.Syscall, More: e.Task, Call: e.Call, CallOn: e.CallOn, Comm: e.Comm, Cgroup: e.Cgroup,
			}
			s.TaskCount++
		}
		task = uint8(i)
	}
	t := story.Step{At: e.Time, Hook: e.Hook, Task: task, State: e.State}
	switch e.Hook {
	case event.HookSetState:
		t.ToState = e.ToState
	case event.HookShutdown, event.HookTimeWait:
		t.Arg = e.Arg
	}
	s.Steps[s.Count] = t
	s.Count++
	return true
}

func (s *socket) look(which int, e *event.Event) {
	s.Looked[which] = true
	s.Looks[which] = story.Look{
		Step: uint8(s.Count - 1), BytesSent: e.BytesSent, BytesAcked: e.BytesAcked, BytesReceived: e.BytesReceived, LingerTime: e.LingerTime, Inode: e.Inode,
		WriteSeq: e.WriteSeq, SndUna: e.SndUna, SndNxt: e.SndNxt, RcvNxt: e.RcvNxt, CopiedSeq: e.CopiedSeq,
		SkFlags: e.SkFlags, UserTimeout: e.UserTimeout, SockUID: e.SockUID, Linger2: e.Linger2, SndWnd: e.SndWnd, WindowKnown: e.WindowKnown, MSS: e.MSS,
		SinceSent: e.SinceSent, SinceReceived: e.SinceReceived, UrgSeq: e.UrgSeq, UrgData: e.UrgData, Sacked: e.Sacked,
		Shutdown: e.Shutdown, HasSk: e.HasSk, Repair: e.Repair, MPTCP: e.MPTCP, Retransmits: e.Retransmits, ProbesOut: e.ProbesOut, Queue: e.Queue,
	}
}
