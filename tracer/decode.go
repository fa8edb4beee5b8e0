package tracer

import (
	"fmt"
	"math"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/bpf"
	"github.com/tcpbye/tcpbye/tracer/event"
)

// wireSize is the size of struct event (bpf/event.h).
const wireSize = int(unsafe.Sizeof(bpf.ProbeEvent{}))

// A DecodeError says why a ring record is not an event.
type DecodeError struct {
	Size int
	Hook uint8
}

func (e *DecodeError) Error() string {
	if e.Hook == 0 {
		return fmt.Sprintf("a ring record of %d bytes is not an event of %d bytes: the kernel half and this program do not belong together", e.Size, wireSize)
	}
	return fmt.Sprintf("an event of hook %d, which this program does not know", e.Hook)
}

// tails is how many bytes follow the events of a hook (struct stack and struct
// text, bpf/event.h).
var tails = map[event.Hook]int{event.HookStack: stackSize, event.HookReset: textSize, event.HookICMP: icmpSize}

const (
	stackSize = int(unsafe.Sizeof(bpf.ProbeStack{}))
	textSize  = int(unsafe.Sizeof(bpf.ProbeText{}))
	icmpSize  = int(unsafe.Sizeof(bpf.ProbeIcmp{}))
)

// jiffy is the length of the kernel's jiffy: that clock's resolution
// (clock_getres(2); posix_get_coarse_res, kernel/time/posix-timers.c).
var jiffy = sync.OnceValue(func() time.Duration {
	var ts unix.Timespec
	if unix.ClockGetres(unix.CLOCK_MONOTONIC_COARSE, &ts) != nil {
		return 0
	}
	return time.Duration(ts.Nano())
})

// Jiffy is the length of the kernel's jiffy; 0: not known.
func Jiffy() time.Duration { return jiffy() }

// stackOf makes a Stack of what follows an event; "" where its lengths are wrong.
func stackOf(tail []byte) event.Stack {
	var w bpf.ProbeStack
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&w)), stackSize), tail)
	if int(w.FrameBytes) > 8*len(w.Frames) || int(w.MemoryBytes) > len(w.Memory) {
		return ""
	}
	return event.StackOfRaw(event.RawStack{PC: w.Pc, SP: w.Sp, FP: w.Fp, LR: w.Lr,
		Chain: slices.Clone(w.Frames[:w.FrameBytes/8]), Memory: w.Memory[:w.MemoryBytes]})
}

// textOf is what a RST carried.
func textOf(tail []byte) string {
	var w bpf.ProbeText
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&w)), textSize), tail)
	return string(w.Text[:min(int(w.Bytes), len(w.Text))])
}

// stampsOf reads the timestamps of a reset. The kernel keeps the last one's age
// for a connection that has them only.
func stampsOf(w *bpf.ProbeEvent) event.Timestamps {
	t := event.Timestamps{Agreed: bpf.ProbeTimestamps(w.Timestamps)&bpf.ProbeTimestampsTIMESTAMPS_AGREED != 0}
	if !t.Agreed {
		return t
	}
	t.Recent, t.Age = w.TsRecent, time.Duration(w.TsAge)*time.Second
	if t.Carried = bpf.ProbeTimestamps(w.Timestamps)&bpf.ProbeTimestampsTIMESTAMPS_CARRIED != 0; t.Carried {
		t.Value = w.TsValue
	}
	return t
}

// Decode makes an Event of a ring record. It does not allocate, except for a
// stack or the text of a RST.
func Decode(raw []byte) (event.Event, error) {
	if len(raw) < wireSize {
		return event.Event{}, &DecodeError{Size: len(raw)}
	}
	var w bpf.ProbeEvent
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&w)), wireSize), raw)
	hook := event.Hook(w.Hook)
	if !hook.Valid() {
		return event.Event{}, &DecodeError{Size: len(raw), Hook: w.Hook}
	}
	tail := raw[wireSize:]
	if len(tail) != tails[hook] {
		return event.Event{}, &DecodeError{Size: len(raw)}
	}
	e := event.Event{
		Time: time.Duration(w.Time),
		Hook: hook,
		Has:  event.Group(w.Has),
		CPU:  w.Cpu,

		Sock:  w.Sock,
		Conn:  w.Conn,
		Other: w.Other,

		PID:       w.Pid,
		TID:       w.Tid,
		UID:       w.Uid,
		Comm:      w.Comm,
		Cgroup:    w.Cgroup,
		TaskFlags: w.TaskFlags,
		ExitCode:  w.ExitCode,
		Syscall:   w.Syscall,

		Family:   event.Family(w.Family),
		NetNS:    w.Netns,
		State:    event.State(w.State),
		ToState:  event.State(w.ToState),
		Protocol: w.Protocol,

		WriteSeq:      w.WriteSeq,
		SndUna:        w.SndUna,
		SndNxt:        w.SndNxt,
		RcvNxt:        w.RcvNxt,
		CopiedSeq:     w.CopiedSeq,
		BytesSent:     w.BytesSent,
		BytesAcked:    w.BytesAcked,
		BytesReceived: w.BytesReceived,
		Retransmits:   w.Retransmits,
		ProbesOut:     w.ProbesOut,
		UserTimeout:   w.UserTimeout,
		Linger2:       w.Linger2,
		Repair:        w.Repair != 0,
		MPTCP:         w.IsMptcp != 0,

		Err:           event.Errno(w.Err),
		ErrSoft:       event.Errno(w.ErrSoft),
		SkFlags:       event.SkFlags(w.SkFlags),
		LingerTime:    w.Lingertime,
		Shutdown:      w.SkShutdown,
		HasSk:         w.HasSocket != 0,
		Inode:         w.Inode,
		SockUID:       w.SockUid,
		AckBacklog:    w.AckBacklog,
		MaxAckBacklog: w.MaxAckBacklog,
		Refs:          w.Refs,

		Queue: event.Queue(w.Queue), UrgSeq: w.UrgSeq, UrgData: w.UrgData,
		Task: event.TaskFlag(w.Task), CallOn: event.Family(w.CallOn),

		Arg:  w.Arg,
		Arg2: w.Arg2,
		Segment: event.Segment{
			Seq: w.SegSeq, Ack: w.SegAck, Len: w.SegLen, Flags: event.TCPFlags(w.SegFlags),
			TTL: w.SegTtl, IPID: w.SegIpId, Window: w.SegWindow,
		},
	}
	if e.Has&event.HasTCP != 0 {
		e.SinceSent, e.SinceReceived, e.SinceProbing = event.Since(w.SinceSent, jiffy()), event.Since(w.SinceReceived, jiffy()), event.Since(w.SinceProbing, jiffy())
		if w.SndWnd != 0 {
			e.SndWnd, e.WindowKnown, e.MSS, e.Sacked = w.SndWnd-1, true, w.Mss, w.Sacked
		}
		e.UnsentTries, e.UnsentErr, e.BusyTries = w.UnsentTries, w.UnsentErr, w.BusyTries
	}
	switch hook {
	case event.HookStack:
		e.Stack = stackOf(tail)
	case event.HookICMP:
		var w bpf.ProbeIcmp
		copy(unsafe.Slice((*byte)(unsafe.Pointer(&w)), icmpSize), tail)
		e.From, e.Loopback = netip.AddrPortFrom(event.AddrOf(e.Family, w.Source), 0), w.Loopback != 0
	case event.HookTimeWait:
		e.Arg2 = int32(min(time.Duration(w.Arg2)*jiffy()/time.Millisecond, math.MaxInt32))
	case event.HookReset:
		e.Text = textOf(tail)
		if e.Has&event.HasTCP != 0 {
			e.Timestamps = stampsOf(&w)
		}
	}
	if e.Has&event.HasPreempt != 0 {
		e.Context = event.ContextOf(w.Preempt)
	}
	if e.Has&event.HasSyscall != 0 {
		e.Call = event.CallOfTask(runtime.GOARCH, e.Syscall, e.Task)
	}
	if e.Has&event.HasTuple != 0 {
		e.Local = netip.AddrPortFrom(event.AddrOf(e.Family, w.Laddr), w.Sport)
		e.Remote = netip.AddrPortFrom(event.AddrOf(e.Family, w.Raddr), w.Dport)
	}
	return e, nil
}
