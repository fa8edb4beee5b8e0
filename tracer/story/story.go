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
	n, tasks := int(raw[offSteps]), int(raw[offTasks])
	if n == 0 || n > lockedSteps || tasks > MaxTasks {
		return &DecodeError{fmt.Sprintf("%d steps of %d tasks", n, tasks)}
	}
	s.Told, s.Born, s.Sock = time.Duration(le.Uint64(raw[offTime:])), time.Duration(le.Uint64(raw[offConn:])), le.Uint64(raw[offSock:])
	s.Final, s.NetNS, s.Family = raw[offFinal] != 0, le.Uint32(raw[offNetNS:]), event.Family(le.Uint16(raw[offFamily:]))
	s.Local = netip.AddrPortFrom(address(s.Family, raw[offLaddr:]), le.Uint16(raw[offSport:]))
	s.Remote = netip.AddrPortFrom(address(s.Family, raw[offRaddr:]), le.Uint16(raw[offDport:]))
	for i := range s.Steps[:n] {
		if err := s.Steps[i].decode(raw, i, s.Born, tasks); err != nil {
			return err
		}
	}
	var places [MaxSteps]uint8 // where the steps with the lock held have come to stand
	for i := range places {
		places[i] = uint8(i)
	}
	s.Count = n
	for i := lockedSteps; i < MaxSteps; i++ {
		if raw[offStep+i*stepSize+6] == 0 {
			continue // not taken
		}
		var t Step
		if err := t.decode(raw, i, s.Born, tasks); err != nil {
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
		s.Tasks[i].decode(raw[offTask+i*taskSize:], arch)
	}
	for i := range s.Looks {
		if s.Looked[i] = raw[offLooks]>>i&1 != 0; s.Looked[i] {
			s.Looks[i].decode(raw[offLook+i*lookSize:], jiffy)
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
func (t *Step) decode(raw []byte, place int, born time.Duration, tasks int) error {
	w := le.Uint64(raw[offStep+place*stepSize:])
	what, states := uint8(w>>48), uint8(w>>56)
	*t = Step{At: born + time.Duration(w&(1<<48-1)), Hook: event.Hook(what & 0x3f), Task: what >> 6, State: event.State(states & 15)}
	switch t.Hook {
	case event.HookSetState:
		t.ToState = event.State(states >> 4)
	case event.HookShutdown, event.HookTimeWait:
		t.Arg = int32(states >> 4)
	case event.HookAccept, event.HookCloseEntry, event.HookClose, event.HookSendFin, event.HookDestroy:
	default:
		return &DecodeError{fmt.Sprintf("a step of hook %d", what&0x3f)}
	}
	if t.Task != NoTask && int(t.Task) >= tasks {
		return &DecodeError{"a step of nobody"}
	}
	return nil
}

func (t *Task) decode(w []byte, arch string) {
	_ = w[taskSize-1]
	*t = Task{Cgroup: le.Uint64(w[8:]), PID: le.Uint32(w[16:]), TID: le.Uint32(w[20:]), UID: le.Uint32(w[24:]), Flags: le.Uint32(w[28:]),
		ExitCode: le.Uint32(w[32:]), Syscall: int32(le.Uint32(w[40:])), More: event.TaskFlag(w[44]), Has: event.Group(w[45]), CallOn: event.Family(w[46])}
	copy(t.Comm[:], w[48:64])
	if t.Has&event.HasPreempt != 0 {
		t.Context = event.ContextOf(le.Uint32(w[36:]))
	}
	if t.Has&event.HasSyscall != 0 {
		t.Call = event.CallOfTask(arch, t.Syscall, t.More)
	}
}

func (l *Look) decode(w []byte, jiffy time.Duration) {
	_ = w[lookSize-1]
	*l = Look{
		BytesSent: le.Uint64(w), BytesAcked: le.Uint64(w[8:]), BytesReceived: le.Uint64(w[16:]), LingerTime: le.Uint64(w[24:]), Inode: le.Uint64(w[32:]),
		WriteSeq: le.Uint32(w[40:]), SndUna: le.Uint32(w[44:]), SndNxt: le.Uint32(w[48:]), RcvNxt: le.Uint32(w[52:]), CopiedSeq: le.Uint32(w[56:]),
		SkFlags: event.SkFlags(le.Uint32(w[60:])), UserTimeout: le.Uint32(w[64:]), SockUID: le.Uint32(w[68:]), Linger2: int32(le.Uint32(w[72:])),
		MSS: le.Uint32(w[80:]), SinceSent: since(le.Uint32(w[84:]), jiffy), SinceReceived: since(le.Uint32(w[88:]), jiffy), UrgSeq: le.Uint32(w[92:]),
		UrgData: le.Uint16(w[96:]), Sacked: le.Uint16(w[98:]),
		Shutdown: w[100], HasSk: w[101] != 0, Repair: w[102] != 0, MPTCP: w[103] != 0, Retransmits: w[104], ProbesOut: w[105], Queue: event.Queue(w[106]), Step: w[107],
	}
	if n := le.Uint32(w[76:]); n != 0 {
		l.SndWnd, l.WindowKnown = n-1, true
	} else {
		l.MSS, l.Sacked = 0, 0
	}
}

// since makes a duration of jiffies that have passed, plus one (struct event).
func since(jiffies uint32, jiffy time.Duration) time.Duration {
	if jiffies == 0 || jiffy == 0 {
		return 0
	}
	return max(time.Nanosecond, time.Duration(jiffies-1)*jiffy)
}

// address unmaps IPv4-mapped addresses, as event decoding does.
func address(f event.Family, raw []byte) netip.Addr {
	if f == event.IPv6 {
		return netip.AddrFrom16([16]byte(raw[:16])).Unmap()
	}
	return netip.AddrFrom4([4]byte(raw[:4]))
}
