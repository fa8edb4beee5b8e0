package story

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"

	"github.com/tcpbye/tcpbye/tracer/event"
)

// What a story has room for (bpf/story.h).
const (
	MaxSteps = 16
	MaxTasks = 3
	MaxLooks = 4

	// lockedSteps of them are steps with the socket's lock held, in their order;
	// the others have places of their own.
	lockedSteps = 14
)

// Which look is which.
const (
	LookOpen = iota // at ESTABLISHED
	LookAct         // at the close or shutdown
	LookEnd         // at CLOSE
	LookFIN         // at CLOSE_WAIT
)

// NoTask is the task of a step that no process took.
const NoTask = MaxTasks

// Step is one hook that was reached.
type Step struct {
	At      time.Duration // CLOCK_MONOTONIC
	Hook    event.Hook
	Task    uint8       // index of Tasks; NoTask: a segment or a timer, whoever was on the CPU
	State   event.State // at the hook; for HookSetState the old state
	ToState event.State // for HookSetState
	Arg     int32       // HookShutdown: mask; HookTimeWait: substate
}

// Task is who took a step.
type Task struct {
	Has      event.Group // HasTask, HasPreempt, HasSyscall
	Context  event.Context
	PID, TID uint32 // in the tracer's PID namespace, or event.Outside it
	UID      uint32
	Flags    uint32 // PF_*
	ExitCode uint32
	Syscall  int32
	More     event.TaskFlag
	Call     event.Call
	CallOn   event.Family
	Comm     event.Comm
	Cgroup   uint64
}

// Look is what a full look at the socket found. Units are those of event.Event.
type Look struct {
	Step          uint8 // at which step it was taken
	BytesSent     uint64
	BytesAcked    uint64
	BytesReceived uint64
	LingerTime    uint64
	Inode         uint64
	WriteSeq      uint32
	SndUna        uint32
	SndNxt        uint32
	RcvNxt        uint32
	CopiedSeq     uint32
	SkFlags       event.SkFlags
	UserTimeout   uint32
	SockUID       uint32
	Linger2       int32
	SndWnd        uint32
	WindowKnown   bool
	MSS           uint32
	SinceSent     time.Duration
	SinceReceived time.Duration
	UrgSeq        uint32
	UrgData       uint16
	Sacked        uint16
	Shutdown      uint8
	HasSk         bool
	Repair        bool
	MPTCP         bool
	Retransmits   uint8
	ProbesOut     uint8
	Queue         event.Queue
}

// Story is a socket's life as far as it was plain.
type Story struct {
	Told   time.Duration // CLOCK_MONOTONIC
	Born   time.Duration // of the first step, and the connection's Gen
	Sock   uint64
	Final  bool // the socket is no more: this is all of its life
	NetNS  uint32
	Family event.Family
	Local  netip.AddrPort // IPv4-mapped addresses are unmapped; port 0: not chosen when it was told
	Remote netip.AddrPort

	Count     int // of Steps
	Steps     [MaxSteps]Step
	TaskCount int
	Tasks     [MaxTasks]Task
	Looked    [MaxLooks]bool
	Looks     [MaxLooks]Look
	Handshake event.Segment // that established it
	HasShake  bool
}

// The wire form: struct story, little endian.
const (
	Size = 864 // bytes

	offTime      = 0
	offSock      = 8
	offConn      = 16
	offNetNS     = 24
	offSport     = 28
	offDport     = 30
	offFamily    = 32
	offHook      = 34
	offLooks     = 35
	offSteps     = 36
	offTasks     = 37
	offFinal     = 38
	offLaddr     = 40
	offRaddr     = 56
	offStep      = 72
	stepSize     = 8
	offTask      = offStep + MaxSteps*stepSize
	taskSize     = 64
	offLook      = offTask + MaxTasks*taskSize
	lookSize     = 112
	offShake     = offLook + MaxLooks*lookSize
	offShakeHas  = offShake + 18
	expectedSize = offShake + 24
)

var _ [0]struct{} = [expectedSize - Size]struct{}{}

// A DecodeError says why a record is not a story.
type DecodeError struct{ Why string }

func (e *DecodeError) Error() string { return "a record is not a socket's story: " + e.Why }

var le = binary.LittleEndian

// Is says whether a record of the ring is a story.
func Is(raw []byte) bool { return len(raw) == Size && event.Hook(raw[offHook]) == event.HookStory }

// Decode reads the wire form. jiffy is the length of the kernel's jiffy, 0 where it
// is not known; arch (GOARCH) says what a system call's number means. It does not
// allocate.
func (s *Story) Decode(raw []byte, jiffy time.Duration, arch string) error {
	if !Is(raw) {
		return &DecodeError{fmt.Sprintf("%d bytes", len(raw))}
	}
	r := RawOf(raw)
	n, tasks := r.Steps(), int(raw[offTasks])
	if n == 0 || n > lockedSteps || tasks > MaxTasks {
		return &DecodeError{fmt.Sprintf("%d steps of %d tasks", n, tasks)}
	}
	s.Told, s.Born, s.Sock, s.Final, s.NetNS, s.Family = r.Told(), r.Born(), r.Sock(), r.Final(), r.NetNS(), r.Family()
	s.Local, s.Remote = r.Ends()
	for i := range s.Steps[:n] {
		if err := s.Steps[i].decode(r, i, tasks); err != nil {
			return err
		}
	}
	var places [MaxSteps]uint8 // where the steps with the lock held have come to stand
	for i := range places {
		places[i] = uint8(i)
	}
	s.Count = n
	for i := lockedSteps; i < MaxSteps; i++ {
		if uint8(r.What(i)) == 0 {
			continue // not taken
		}
		var t Step
		if err := t.decode(r, i, tasks); err != nil {
			return err
		}
		at := s.Count
		for ; at > 0 && s.Steps[at-1].At > t.At; at-- {
			s.Steps[at] = s.Steps[at-1]
		}
		s.Steps[at] = t
		s.Count++
		for i := range places[:n] {
			if int(places[i]) >= at {
				places[i]++
			}
		}
	}
	s.TaskCount = tasks
	for i := range s.Tasks[:tasks] {
		s.Tasks[i].decode(r.Task(uint8(i)), arch)
	}
	for i := range s.Looks {
		if s.Looked[i] = r.Looks()>>i&1 != 0; s.Looked[i] {
			s.Looks[i].decode(r.Look(i), jiffy)
			if int(s.Looks[i].Step) >= n {
				return &DecodeError{"a look at no step"}
			}
			s.Looks[i].Step = places[s.Looks[i].Step]
		}
	}
	h := raw[offShake:]
	if s.HasShake = raw[offShakeHas] != 0; s.HasShake {
		s.Handshake = event.Segment{Seq: le.Uint32(h), Ack: le.Uint32(h[4:]), Len: le.Uint32(h[8:]), Window: le.Uint16(h[12:]), IPID: le.Uint16(h[14:]),
			Flags: event.TCPFlags(h[16]), TTL: h[17]}
	} else {
		s.Handshake = event.Segment{}
	}
	return nil
}

// decode reads a step by its place.
func (t *Step) decode(r *Raw, place, tasks int) error {
	what := r.What(place) // as Kind makes it
	*t = Step{At: r.At(place), Hook: event.Hook(what & 0x3f), Task: uint8(what) >> 6, State: event.State(what >> 8 & 15)}
	switch t.Hook {
	case event.HookSetState:
		t.ToState = event.State(what >> 12)
	case event.HookShutdown, event.HookTimeWait:
		t.Arg = int32(what >> 12)
	case event.HookAccept, event.HookCloseEntry, event.HookClose, event.HookSendFin, event.HookDestroy:
	default:
		return &DecodeError{fmt.Sprintf("a step of hook %d", what&0x3f)}
	}
	if t.Task != NoTask && int(t.Task) >= tasks {
		return &DecodeError{"a step of nobody"}
	}
	return nil
}

func (t *Task) decode(r *RawTask, arch string) {
	*t = Task{Cgroup: r.Cgroup(), PID: r.PID(), TID: r.TID(), UID: r.UID(), Flags: r.Flags(), ExitCode: le.Uint32(r[32:]),
		Syscall: r.Syscall(), More: r.More(), Has: r.Has(), CallOn: r.CallOn(), Comm: r.Comm()}
	if t.Has&event.HasPreempt != 0 {
		t.Context = event.ContextOf(r.Preempt())
	}
	if t.Has&event.HasSyscall != 0 {
		t.Call = event.CallOfTask(arch, t.Syscall, t.More)
	}
}

func (l *Look) decode(r *RawLook, jiffy time.Duration) {
	*l = Look{
		BytesSent: le.Uint64(r[:]), BytesAcked: r.BytesAcked(), BytesReceived: r.BytesReceived(), LingerTime: le.Uint64(r[24:]), Inode: le.Uint64(r[32:]),
		WriteSeq: r.WriteSeq(), SndUna: r.SndUna(), SndNxt: le.Uint32(r[48:]), RcvNxt: r.RcvNxt(), CopiedSeq: r.CopiedSeq(),
		SkFlags: r.SkFlags(), UserTimeout: le.Uint32(r[64:]), SockUID: le.Uint32(r[68:]), Linger2: int32(le.Uint32(r[72:])), MSS: le.Uint32(r[80:]),
		UrgSeq: le.Uint32(r[92:]), UrgData: le.Uint16(r[96:]), Sacked: le.Uint16(r[98:]),
		Shutdown: r.Shutdown(), HasSk: r[101] != 0, Repair: r[102] != 0, MPTCP: r[103] != 0, Retransmits: r[104], ProbesOut: r[105], Queue: event.Queue(r[106]), Step: uint8(r.Step()),
	}
	l.SinceSent, l.SinceReceived = r.Since(jiffy)
	if n := le.Uint32(r[76:]); n != 0 {
		l.SndWnd, l.WindowKnown = n-1, true
	} else {
		l.MSS, l.Sacked = 0, 0
	}
}
