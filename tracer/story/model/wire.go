package model

import (
	"encoding/binary"
	"time"

	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/story"
)

// offSteps is where the number of steps stands.
const offSteps = 36

// Wire is the form in which the kernel half tells a story, as story.Decode reads it.
// Addresses of IPv4 must be of family IPv4.
func Wire(s *story.Story, jiffy time.Duration) []byte {
	b := make([]byte, 0, story.Size)
	le := binary.LittleEndian
	u8 := func(v ...uint8) { b = append(b, v...) }
	u16 := func(v uint16) { b = le.AppendUint16(b, v) }
	u32 := func(v ...uint32) {
		for _, v := range v {
			b = le.AppendUint32(b, v)
		}
	}
	u64 := func(v ...uint64) {
		for _, v := range v {
			b = le.AppendUint64(b, v)
		}
	}
	flag := func(v bool) uint8 {
		if v {
			return 1
		}
		return 0
	}
	jiffies := func(d time.Duration) uint32 {
		if d == 0 {
			return 0
		}
		return uint32(d/jiffy) + 1
	}
	u64(uint64(s.Told), s.Sock, uint64(s.Born))
	u32(s.NetNS)
	u16(s.Local.Port())
	u16(s.Remote.Port())
	u16(uint16(s.Family))
	var looks uint8
	for i, l := range s.Looked {
		looks |= flag(l) << i
	}
	u8(uint8(event.HookStory), looks, uint8(s.Count), uint8(s.TaskCount), flag(s.Final), 0)
	for _, a := range []([]byte){s.Local.Addr().AsSlice(), s.Remote.Addr().AsSlice()} {
		b = append(append(b, a...), make([]byte, 16-len(a))...)
	}
	// Two hooks have places of their own, behind those of the others.
	const accept, entry = 14, 15
	var words [story.MaxSteps]uint64
	var places [story.MaxSteps]uint8
	locked := uint8(0)
	for i, t := range s.Steps[:s.Count] {
		states := uint64(t.State)
		if t.Hook == event.HookSetState {
			states |= uint64(t.ToState) << 4
		} else {
			states |= uint64(t.Arg&15) << 4
		}
		place := locked
		switch t.Hook {
		case event.HookAccept:
			place = accept
		case event.HookCloseEntry:
			place = entry
		default:
			locked++
		}
		places[i] = place
		words[place] = uint64(t.At-s.Born) | (uint64(t.Hook)|uint64(t.Task)<<6)<<48 | states<<56
	}
	b[offSteps] = locked
	u64(words[:]...)
	for _, t := range s.Tasks {
		preempt := uint32(0)
		if t.Context == event.ContextSoftirq {
			preempt = 0x100
		}
		u64(0, t.Cgroup)
		u32(t.PID, t.TID, t.UID, t.Flags, t.ExitCode, preempt, uint32(t.Syscall))
		u8(uint8(t.More), uint8(t.Has), uint8(t.CallOn), 0)
		b = append(b, t.Comm[:]...)
	}
	for _, l := range s.Looks {
		u64(l.BytesSent, l.BytesAcked, l.BytesReceived, l.LingerTime, l.Inode)
		u32(l.WriteSeq, l.SndUna, l.SndNxt, l.RcvNxt, l.CopiedSeq, uint32(l.SkFlags), l.UserTimeout, l.SockUID, uint32(l.Linger2))
		window := uint32(0)
		if l.WindowKnown {
			window = l.SndWnd + 1
		}
		u32(window, l.MSS, jiffies(l.SinceSent), jiffies(l.SinceReceived), l.UrgSeq)
		u16(l.UrgData)
		u16(l.Sacked)
		u8(l.Shutdown, flag(l.HasSk), flag(l.Repair), flag(l.MPTCP), l.Retransmits, l.ProbesOut, uint8(l.Queue), places[l.Step])
		u32(0)
	}
	h := &s.Handshake
	u32(h.Seq, h.Ack, h.Len)
	u16(h.Window)
	u16(h.IPID)
	u8(uint8(h.Flags), h.TTL, flag(s.HasShake))
	return append(b, make([]byte, story.Size-len(b))...)
}
