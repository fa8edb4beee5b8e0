package record

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/tcpbye/tcpbye/tracer/event"
)

// The fields of an event are written one by one, and not by reflection: a
// recording is written while a machine is busy, and reflection took twenty times
// as long. A test holds this file against the struct and its tags.

// appendEvent encodes an event.
func appendEvent(b []byte, e *event.Event) []byte {
	b = appendInt(b, 1, int64(e.Time))
	b = appendUint(b, 2, uint64(e.Hook))
	b = appendUint(b, 3, uint64(e.Has))
	b = appendUint(b, 4, uint64(e.CPU))
	b = appendUint(b, 5, uint64(e.Sock))
	b = appendUint(b, 6, uint64(e.Conn))
	b = appendUint(b, 7, uint64(e.Other))
	b = appendUint(b, 8, uint64(e.Context))
	b = appendUint(b, 9, uint64(e.PID))
	b = appendUint(b, 10, uint64(e.TID))
	b = appendUint(b, 11, uint64(e.UID))
	b = appendComm(b, 12, &e.Comm)
	b = appendUint(b, 13, uint64(e.Cgroup))
	b = appendUint(b, 14, uint64(e.TaskFlags))
	b = appendUint(b, 15, uint64(e.ExitCode))
	b = appendInt(b, 16, int64(e.Syscall))
	b = appendUint(b, 17, uint64(e.Family))
	b = appendAddr(b, 18, e.Local)
	b = appendAddr(b, 19, e.Remote)
	b = appendUint(b, 20, uint64(e.NetNS))
	b = appendUint(b, 21, uint64(e.State))
	b = appendUint(b, 22, uint64(e.ToState))
	b = appendUint(b, 23, uint64(e.Protocol))
	b = appendUint(b, 24, uint64(e.WriteSeq))
	b = appendUint(b, 25, uint64(e.SndUna))
	b = appendUint(b, 26, uint64(e.SndNxt))
	b = appendUint(b, 27, uint64(e.RcvNxt))
	b = appendUint(b, 28, uint64(e.CopiedSeq))
	b = appendUint(b, 29, uint64(e.BytesSent))
	b = appendUint(b, 30, uint64(e.BytesAcked))
	b = appendUint(b, 31, uint64(e.BytesReceived))
	b = appendUint(b, 32, uint64(e.Retransmits))
	b = appendUint(b, 33, uint64(e.ProbesOut))
	b = appendUint(b, 34, uint64(e.UserTimeout))
	b = appendInt(b, 35, int64(e.Linger2))
	b = appendBool(b, 36, e.Repair)
	b = appendBool(b, 37, e.MPTCP)
	b = appendInt(b, 38, int64(e.Err))
	b = appendInt(b, 39, int64(e.ErrSoft))
	b = appendUint(b, 40, uint64(e.SkFlags))
	b = appendUint(b, 41, uint64(e.LingerTime))
	b = appendUint(b, 42, uint64(e.Shutdown))
	b = appendBool(b, 43, e.HasSk)
	b = appendUint(b, 44, uint64(e.Inode))
	b = appendUint(b, 45, uint64(e.SockUID))
	b = appendUint(b, 46, uint64(e.AckBacklog))
	b = appendUint(b, 47, uint64(e.MaxAckBacklog))
	b = appendInt(b, 48, int64(e.Refs))
	b = appendInt(b, 49, int64(e.Arg))
	b = appendInt(b, 50, int64(e.Arg2))
	b = appendSegment(b, 51, &e.Segment)
	b = appendUint(b, 52, uint64(e.Call))
	b = appendInt(b, 53, int64(e.SinceSent))
	b = appendInt(b, 54, int64(e.SinceReceived))
	b = appendText(b, 55, string(e.Text))
	b = appendText(b, 56, string(e.Stack))
	b = appendStamps(b, 57, &e.Timestamps)
	b = appendUint(b, 58, uint64(e.SndWnd))
	b = appendBool(b, 59, e.WindowKnown)
	b = appendUint(b, 60, uint64(e.MSS))
	b = appendUint(b, 61, uint64(e.Sacked))
	b = appendInt(b, 62, int64(e.SinceProbing))
	b = appendUint(b, 63, uint64(e.UnsentTries))
	b = appendInt(b, 64, int64(e.UnsentErr))
	b = appendAddr(b, 65, e.From)
	b = appendBool(b, 66, e.Loopback)
	b = appendUint(b, 67, uint64(e.BusyTries))
	b = appendUint(b, 70, uint64(e.Queue))
	b = appendUint(b, 71, uint64(e.UrgSeq))
	b = appendUint(b, 72, uint64(e.UrgData))
	b = appendUint(b, 73, uint64(e.Task))
	b = appendUint(b, 74, uint64(e.CallOn))
	b = appendUint(b, 75, uint64(e.Full))
	return b
}

// A field's number on the wire is its tag shifted left, plus one when its value
// has a length of its own. What is zero is left out.

func appendUint(b []byte, tag uint64, v uint64) []byte {
	if v == 0 {
		return b
	}
	return binary.AppendUvarint(binary.AppendUvarint(b, tag<<1), v)
}

func appendInt(b []byte, tag uint64, v int64) []byte {
	if v == 0 {
		return b
	}
	return binary.AppendVarint(binary.AppendUvarint(b, tag<<1), v)
}

func appendBool(b []byte, tag uint64, v bool) []byte {
	if !v {
		return b
	}
	return appendUint(b, tag, 1)
}

func appendSize(b []byte, tag uint64, size int) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(b, tag<<1|1), uint64(size))
}

func appendText(b []byte, tag uint64, s string) []byte {
	if s == "" {
		return b
	}
	return append(appendSize(b, tag, len(s)), s...)
}

func appendComm(b []byte, tag uint64, c *event.Comm) []byte {
	if *c == (event.Comm{}) {
		return b
	}
	raw := bytes.TrimRight(c[:], "\x00")
	return append(appendSize(b, tag, len(raw)), raw...)
}

// appendAddr writes what netip.AddrPort.MarshalBinary makes.
func appendAddr(b []byte, tag uint64, a netip.AddrPort) []byte {
	if a == (netip.AddrPort{}) {
		return b
	}
	var most [16 + 2 + 16]byte // most zones are short
	raw, err := a.AppendBinary(most[:0])
	if err != nil {
		return b // it has none
	}
	return append(appendSize(b, tag, len(raw)), raw...)
}

func appendSegment(b []byte, tag uint64, s *event.Segment) []byte {
	if *s == (event.Segment{}) {
		return b
	}
	b = appendSize(b, tag, segmentSize)
	b = binary.LittleEndian.AppendUint32(b, s.Seq)
	b = binary.LittleEndian.AppendUint32(b, s.Ack)
	b = binary.LittleEndian.AppendUint32(b, s.Len)
	b = append(b, byte(s.Flags), s.TTL)
	b = binary.LittleEndian.AppendUint16(b, s.IPID)
	return binary.LittleEndian.AppendUint16(b, s.Window)
}

func appendStamps(b []byte, tag uint64, s *event.Timestamps) []byte {
	if *s == (event.Timestamps{}) {
		return b
	}
	var flags byte
	if s.Agreed {
		flags |= stampsAgreed
	}
	if s.Carried {
		flags |= stampsCarried
	}
	b = append(appendSize(b, tag, stampsSize), flags)
	b = binary.LittleEndian.AppendUint32(b, s.Value)
	b = binary.LittleEndian.AppendUint32(b, s.Recent)
	return binary.LittleEndian.AppendUint64(b, uint64(s.Age))
}

const (
	segmentSize = 18
	stampsSize  = 17

	stampsAgreed  = 1
	stampsCarried = 2
)

var errShort = errors.New("an event ends in the middle of a field")

// decodeEvent decodes what appendEvent made.
func decodeEvent(b []byte, e *event.Event) error {
	*e = event.Event{}
	for len(b) > 0 {
		number, n := binary.Uvarint(b)
		if n <= 0 {
			return errShort
		}
		b = b[n:]
		value, n := binary.Uvarint(b)
		if n <= 0 {
			return errShort
		}
		b = b[n:]
		var err error
		if number&1 == 1 {
			if value > uint64(len(b)) {
				return errShort
			}
			err = setBytes(e, number>>1, b[:value])
			b = b[value:]
		} else {
			err = setNumber(e, number>>1, value)
		}
		if err != nil {
			return err
		}
	}
	if !e.Hook.Valid() {
		return fmt.Errorf("an event of hook %d, which this version does not know", uint8(e.Hook))
	}
	if e.Time < 0 || e.Time > 1<<62*time.Nanosecond {
		return fmt.Errorf("an event at %d ns, which is no time", int64(e.Time))
	}
	return nil
}

// setNumber sets the field with a tag; one that is not known is skipped.
func setNumber(e *event.Event, number, value uint64) error {
	switch number {
	case 1:
		return setInt(&e.Time, number, value)
	case 2:
		return setUint(&e.Hook, number, value)
	case 3:
		return setUint(&e.Has, number, value)
	case 4:
		return setUint(&e.CPU, number, value)
	case 5:
		return setUint(&e.Sock, number, value)
	case 6:
		return setUint(&e.Conn, number, value)
	case 7:
		return setUint(&e.Other, number, value)
	case 8:
		return setUint(&e.Context, number, value)
	case 9:
		return setUint(&e.PID, number, value)
	case 10:
		return setUint(&e.TID, number, value)
	case 11:
		return setUint(&e.UID, number, value)
	case 13:
		return setUint(&e.Cgroup, number, value)
	case 14:
		return setUint(&e.TaskFlags, number, value)
	case 15:
		return setUint(&e.ExitCode, number, value)
	case 16:
		return setInt(&e.Syscall, number, value)
	case 17:
		return setUint(&e.Family, number, value)
	case 20:
		return setUint(&e.NetNS, number, value)
	case 21:
		return setUint(&e.State, number, value)
	case 22:
		return setUint(&e.ToState, number, value)
	case 23:
		return setUint(&e.Protocol, number, value)
	case 24:
		return setUint(&e.WriteSeq, number, value)
	case 25:
		return setUint(&e.SndUna, number, value)
	case 26:
		return setUint(&e.SndNxt, number, value)
	case 27:
		return setUint(&e.RcvNxt, number, value)
	case 28:
		return setUint(&e.CopiedSeq, number, value)
	case 29:
		return setUint(&e.BytesSent, number, value)
	case 30:
		return setUint(&e.BytesAcked, number, value)
	case 31:
		return setUint(&e.BytesReceived, number, value)
	case 32:
		return setUint(&e.Retransmits, number, value)
	case 33:
		return setUint(&e.ProbesOut, number, value)
	case 34:
		return setUint(&e.UserTimeout, number, value)
	case 35:
		return setInt(&e.Linger2, number, value)
	case 36:
		e.Repair = value != 0
	case 37:
		e.MPTCP = value != 0
	case 38:
		return setInt(&e.Err, number, value)
	case 39:
		return setInt(&e.ErrSoft, number, value)
	case 40:
		return setUint(&e.SkFlags, number, value)
	case 41:
		return setUint(&e.LingerTime, number, value)
	case 42:
		return setUint(&e.Shutdown, number, value)
	case 43:
		e.HasSk = value != 0
	case 44:
		return setUint(&e.Inode, number, value)
	case 45:
		return setUint(&e.SockUID, number, value)
	case 46:
		return setUint(&e.AckBacklog, number, value)
	case 47:
		return setUint(&e.MaxAckBacklog, number, value)
	case 48:
		return setInt(&e.Refs, number, value)
	case 49:
		return setInt(&e.Arg, number, value)
	case 50:
		return setInt(&e.Arg2, number, value)
	case 52:
		return setUint(&e.Call, number, value)
	case 53:
		return setInt(&e.SinceSent, number, value)
	case 54:
		return setInt(&e.SinceReceived, number, value)
	case 58:
		return setUint(&e.SndWnd, number, value)
	case 59:
		e.WindowKnown = value != 0
	case 60:
		return setUint(&e.MSS, number, value)
	case 61:
		return setUint(&e.Sacked, number, value)
	case 62:
		return setInt(&e.SinceProbing, number, value)
	case 63:
		return setUint(&e.UnsentTries, number, value)
	case 64:
		return setInt(&e.UnsentErr, number, value)
	case 66:
		e.Loopback = value != 0
	case 67:
		return setUint(&e.BusyTries, number, value)
	case 70:
		return setUint(&e.Queue, number, value)
	case 71:
		return setUint(&e.UrgSeq, number, value)
	case 72:
		return setUint(&e.UrgData, number, value)
	case 73:
		return setUint(&e.Task, number, value)
	case 74:
		return setUint(&e.CallOn, number, value)
	case 75:
		return setUint(&e.Full, number, value)
	}
	return nil
}

// setBytes is setNumber for a field whose value has a length of its own.
func setBytes(e *event.Event, number uint64, raw []byte) error {
	switch number {
	case 12:
		return decodeComm(&e.Comm, raw)
	case 18:
		return decodeAddr(&e.Local, raw)
	case 19:
		return decodeAddr(&e.Remote, raw)
	case 51:
		return decodeSegment(&e.Segment, raw)
	case 55:
		e.Text = string(raw)
	case 56:
		e.Stack = event.Stack(raw)
	case 57:
		return decodeStamps(&e.Timestamps, raw)
	case 65:
		return decodeAddr(&e.From, raw)
	}
	return nil
}

func setUint[T ~uint8 | ~uint16 | ~uint32 | ~uint64](to *T, number, value uint64) error {
	if *to = T(value); uint64(*to) != value {
		return fmt.Errorf("field %d of an event holds %d, which is too large", number, value)
	}
	return nil
}

func setInt[T ~int32 | ~int64](to *T, number, value uint64) error {
	signed := int64(value>>1) ^ -int64(value&1)
	if *to = T(signed); int64(*to) != signed {
		return fmt.Errorf("field %d of an event holds %d, which is too large", number, signed)
	}
	return nil
}

func decodeAddr(to *netip.AddrPort, raw []byte) error {
	if err := to.UnmarshalBinary(raw); err != nil {
		return fmt.Errorf("an address of %d bytes in an event: %w", len(raw), err)
	}
	return nil
}

func decodeComm(to *event.Comm, raw []byte) error {
	if len(raw) > len(to) {
		return fmt.Errorf("a task name of %d bytes in an event; the kernel keeps %d", len(raw), len(to))
	}
	*to = event.Comm{}
	copy(to[:], raw)
	return nil
}

func decodeSegment(to *event.Segment, raw []byte) error {
	if len(raw) < segmentSize {
		return errShort
	}
	*to = event.Segment{
		Seq: binary.LittleEndian.Uint32(raw), Ack: binary.LittleEndian.Uint32(raw[4:]), Len: binary.LittleEndian.Uint32(raw[8:]),
		Flags: event.TCPFlags(raw[12]), TTL: raw[13], IPID: binary.LittleEndian.Uint16(raw[14:]), Window: binary.LittleEndian.Uint16(raw[16:]),
	}
	return nil
}

func decodeStamps(to *event.Timestamps, raw []byte) error {
	if len(raw) < stampsSize {
		return errShort
	}
	*to = event.Timestamps{
		Agreed: raw[0]&stampsAgreed != 0, Carried: raw[0]&stampsCarried != 0,
		Value: binary.LittleEndian.Uint32(raw[1:]), Recent: binary.LittleEndian.Uint32(raw[5:]),
		Age: time.Duration(binary.LittleEndian.Uint64(raw[9:])),
	}
	return nil
}
