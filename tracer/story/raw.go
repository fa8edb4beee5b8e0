package story

import (
	"net/netip"
	"time"

	"github.com/tcpbye/tcpbye/tracer/event"
)

// Raw is a story in the kernel's own form, for whoever needs a few things of it and
// has no time for the rest. Is must have said that it is one; its numbers are not
// checked.
type Raw [Size]byte

// RawOf is a record as a story; it is the record's own memory. Is must have said that it
// is one.
func RawOf(record []byte) *Raw { return (*Raw)(record) }

// Where the steps stand that run without the socket's lock.
const (
	PlaceAccept     = 14
	PlaceCloseEntry = 15
)

func (r *Raw) Told() time.Duration { return time.Duration(le.Uint64(r[offTime:])) }
func (r *Raw) Born() time.Duration { return time.Duration(le.Uint64(r[offConn:])) }
func (r *Raw) Sock() uint64        { return le.Uint64(r[offSock:]) }
func (r *Raw) Final() bool         { return r[offFinal] != 0 }
func (r *Raw) NetNS() uint32       { return le.Uint32(r[offNetNS:]) }
func (r *Raw) Family() event.Family {
	return event.Family(le.Uint16(r[offFamily:]))
}

// Steps is how many steps there are with the socket's lock held.
func (r *Raw) Steps() int { return int(r[offSteps]) }

// Looks has a bit for each look that was taken.
func (r *Raw) Looks() uint8 { return r[offLooks] }

// Ends are the two addresses.
func (r *Raw) Ends() (local, remote netip.AddrPort) {
	f := r.Family()
	return netip.AddrPortFrom(event.AddrOf(f, [16]byte(r[offLaddr:])), le.Uint16(r[offSport:])),
		netip.AddrPortFrom(event.AddrOf(f, [16]byte(r[offRaddr:])), le.Uint16(r[offDport:]))
}

// What is the step at a place: hook, task and states, as Kind makes it; 0: none.
func (r *Raw) What(place int) uint16 { return le.Uint16(r[offStep+place*stepSize+6:]) }

// Child says whether it begins as a listener's child.
func (r *Raw) Child() bool {
	return r[offStep+7] == byte(event.Listen)|byte(event.SynRecv)<<4
}

// At is when it was taken.
func (r *Raw) At(place int) time.Duration {
	return r.Born() + time.Duration(le.Uint64(r[offStep+place*stepSize:])&(1<<48-1))
}

// Kind is a step without its time. to is the new state or, of HookTimeWait, the
// substate.
func Kind(h event.Hook, task uint8, from, to event.State) uint16 {
	return uint16(h) | uint16(task)<<6 | uint16(from)<<8 | uint16(to)<<12
}

// Task is who took a step, in the kernel's form.
func (r *Raw) Task(i uint8) *RawTask {
	return (*RawTask)(r[offTask+int(i)*taskSize:])
}

// RawTask is a Task in the kernel's form.
type RawTask [taskSize]byte

func (t *RawTask) Cgroup() uint64       { return le.Uint64(t[8:]) }
func (t *RawTask) PID() uint32          { return le.Uint32(t[16:]) }
func (t *RawTask) TID() uint32          { return le.Uint32(t[20:]) }
func (t *RawTask) UID() uint32          { return le.Uint32(t[24:]) }
func (t *RawTask) Flags() uint32        { return le.Uint32(t[28:]) }
func (t *RawTask) Preempt() uint32      { return le.Uint32(t[36:]) }
func (t *RawTask) Syscall() int32       { return int32(le.Uint32(t[40:])) }
func (t *RawTask) More() event.TaskFlag { return event.TaskFlag(t[44]) }
func (t *RawTask) Has() event.Group     { return event.Group(t[45]) }
func (t *RawTask) CallOn() event.Family { return event.Family(t[46]) }
func (t *RawTask) Comm() event.Comm     { return event.Comm(t[48:64]) }

// Look is a look, in the kernel's form.
func (r *Raw) Look(i int) *RawLook { return (*RawLook)(r[offLook+i*lookSize:]) }

// RawLook is a Look in the kernel's form.
type RawLook [lookSize]byte

func (l *RawLook) BytesAcked() uint64     { return le.Uint64(l[8:]) }
func (l *RawLook) BytesReceived() uint64  { return le.Uint64(l[16:]) }
func (l *RawLook) WriteSeq() uint32       { return le.Uint32(l[40:]) }
func (l *RawLook) SndUna() uint32         { return le.Uint32(l[44:]) }
func (l *RawLook) RcvNxt() uint32         { return le.Uint32(l[52:]) }
func (l *RawLook) CopiedSeq() uint32      { return le.Uint32(l[56:]) }
func (l *RawLook) SkFlags() event.SkFlags { return event.SkFlags(le.Uint32(l[60:])) }
func (l *RawLook) Shutdown() uint8        { return l[100] }

// Since is how long payload had been neither sent nor received, each; 0: not told.
func (l *RawLook) Since(jiffy time.Duration) (sent, received time.Duration) {
	return event.Since(le.Uint32(l[84:]), jiffy), event.Since(le.Uint32(l[88:]), jiffy)
}

// Usual says whether it shows nothing out of the ordinary: no MPTCP, no TCP_REPAIR,
// queues of its own, no urgent data, nothing sent again.
func (l *RawLook) Usual() bool {
	return le.Uint32(l[92:]) == 0 && le.Uint16(l[96:]) == 0 && l[102]|l[103]|l[104]|l[105]|l[106] == 0
}

// Step is the place of the step at which it was taken.
func (l *RawLook) Step() int { return int(l[107]) }
