package story

import (
	"github.com/tcpbye/tcpbye/tracer/event"
)

// unknownCPU stands for the CPU of a step, which a story does not keep.
const unknownCPU = ^uint32(0)

// Events appends the events that a story stands for, in their order. They tell
// less than those that hooks submit one by one: only some steps have looked at the
// socket. Steps of one moment, with the socket's lock held, share a look.
func (s *Story) Events(to []event.Event) []event.Event {
	at := [MaxSteps]int{} // the look that holds for a step, plus one
	for i := range s.Looks {
		if s.Looked[i] {
			at[s.Looks[i].Step] = i + 1
		}
	}
	for i := 1; i < s.Count; i++ {
		// What close(2) or shutdown(2) found holds for the FIN that it makes.
		a, b := &s.Steps[i-1], &s.Steps[i]
		if at[i] == 0 && at[i-1] == LookAct+1 && a.Task == b.Task && a.Task != NoTask &&
			(b.Hook == event.HookSendFin || b.Hook == event.HookSetState && (b.ToState == event.FinWait1 || b.ToState == event.LastAck)) {
			at[i] = at[i-1]
		}
		// tcp_time_wait closes the socket; nothing of the socket changes until it is destroyed.
		if at[i] == LookEnd+1 && a.Hook == event.HookTimeWait {
			at[i-1] = at[i]
		}
		if at[i] == 0 && at[i-1] == LookEnd+1 && b.Hook == event.HookDestroy {
			at[i] = at[i-1]
		}
	}
	for i := range s.Steps[:s.Count] {
		to = append(to, event.Event{})
		s.event(&to[len(to)-1], i, at[i]-1)
	}
	return to
}

func (s *Story) event(e *event.Event, i, look int) {
	t := &s.Steps[i]
	*e = event.Event{
		Time: t.At, Hook: t.Hook, CPU: unknownCPU, Sock: s.Sock, Conn: uint64(s.Born),
		Has: event.HasTuple | event.HasPreempt, Context: event.ContextSoftirq, Syscall: -1,
		Family: s.Family, Local: s.Local, Remote: s.Remote, NetNS: s.NetNS, Protocol: 6,
		State: t.State, ToState: t.ToState, Arg: t.Arg,
	}
	if t.Task != NoTask {
		w := &s.Tasks[t.Task]
		e.Has |= w.Has
		e.Context, e.PID, e.TID, e.UID, e.Comm, e.Cgroup = w.Context, w.PID, w.TID, w.UID, w.Comm, w.Cgroup
		e.TaskFlags, e.ExitCode, e.Syscall, e.Task, e.Call = w.Flags, w.ExitCode, w.Syscall, w.More, w.Call
		if t.Hook == event.HookClose {
			e.CallOn = w.CallOn
		}
	}
	if t.Hook == event.HookSetState && t.ToState == event.Established && s.HasShake {
		e.Has |= event.HasSegment
		e.Segment = s.Handshake
	}
	if look < 0 {
		return
	}
	l := &s.Looks[look]
	e.Has |= event.HasSocket
	e.SkFlags, e.LingerTime, e.Shutdown, e.HasSk, e.Inode, e.SockUID = l.SkFlags, l.LingerTime, l.Shutdown, l.HasSk, l.Inode, l.SockUID
	if t.Hook == event.HookDestroy {
		return
	}
	e.Has |= event.HasTCP
	e.WriteSeq, e.SndUna, e.SndNxt, e.RcvNxt, e.CopiedSeq = l.WriteSeq, l.SndUna, l.SndNxt, l.RcvNxt, l.CopiedSeq
	e.BytesSent, e.BytesAcked, e.BytesReceived = l.BytesSent, l.BytesAcked, l.BytesReceived
	e.Retransmits, e.ProbesOut, e.UserTimeout, e.Linger2, e.Repair, e.MPTCP = l.Retransmits, l.ProbesOut, l.UserTimeout, l.Linger2, l.Repair, l.MPTCP
	e.SinceSent, e.SinceReceived = l.SinceSent, l.SinceReceived
	e.SndWnd, e.WindowKnown, e.MSS, e.Sacked = l.SndWnd, l.WindowKnown, l.MSS, l.Sacked
	e.Queue, e.UrgSeq, e.UrgData = l.Queue, l.UrgSeq, l.UrgData
}
