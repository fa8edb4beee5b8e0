package record

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"strconv"
	"time"

	"github.com/tcpbye/tcpbye/tracer/event"
)

// field is one field of an Event, found by its rec tag. Its number on the wire
// is the tag shifted left, plus one when its value has a length of its own.
type field struct {
	number uint64
	index  int
	bytes  bool
}

var fields, byNumber = func() ([]field, map[uint64]field) {
	var all []field
	byNumber := map[uint64]field{}
	t := reflect.TypeFor[event.Event]()
	for i := range t.NumField() {
		tag, err := strconv.ParseUint(t.Field(i).Tag.Get("rec"), 10, 16)
		if err != nil {
			continue
		}
		f := field{number: tag << 1, index: i}
		switch t.Field(i).Type.Kind() {
		case reflect.Struct, reflect.Array, reflect.String:
			f.bytes = true
			f.number |= 1
		}
		all = append(all, f)
		byNumber[f.number] = f
	}
	return all, byNumber
}()

var (
	addrPortType = reflect.TypeFor[netip.AddrPort]()
	commType     = reflect.TypeFor[event.Comm]()
	segmentType  = reflect.TypeFor[event.Segment]()
	stampsType   = reflect.TypeFor[event.Timestamps]()
)

// appendEvent encodes an event.
func appendEvent(b []byte, e *event.Event) ([]byte, error) {
	v := reflect.ValueOf(e).Elem()
	for _, f := range fields {
		fv := v.Field(f.index)
		if fv.IsZero() {
			continue
		}
		b = binary.AppendUvarint(b, f.number)
		if f.bytes {
			raw, err := encodeBytes(fv)
			if err != nil {
				return nil, err
			}
			b = binary.AppendUvarint(b, uint64(len(raw)))
			b = append(b, raw...)
			continue
		}
		switch fv.Kind() {
		case reflect.Bool:
			b = binary.AppendUvarint(b, 1)
		case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
			b = binary.AppendVarint(b, fv.Int())
		default:
			b = binary.AppendUvarint(b, fv.Uint())
		}
	}
	return b, nil
}

func encodeBytes(v reflect.Value) ([]byte, error) {
	if v.Kind() == reflect.String {
		return []byte(v.String()), nil
	}
	switch v.Type() {
	case addrPortType:
		return v.Interface().(netip.AddrPort).MarshalBinary()
	case commType:
		c := v.Interface().(event.Comm)
		return bytes.TrimRight(c[:], "\x00"), nil
	case segmentType:
		s := v.Interface().(event.Segment)
		b := binary.LittleEndian.AppendUint32(nil, s.Seq)
		b = binary.LittleEndian.AppendUint32(b, s.Ack)
		b = binary.LittleEndian.AppendUint32(b, s.Len)
		b = append(b, byte(s.Flags), s.TTL)
		b = binary.LittleEndian.AppendUint16(b, s.IPID)
		return binary.LittleEndian.AppendUint16(b, s.Window), nil
	case stampsType:
		s := v.Interface().(event.Timestamps)
		var flags byte
		if s.Agreed {
			flags |= stampsAgreed
		}
		if s.Carried {
			flags |= stampsCarried
		}
		b := append([]byte(nil), flags)
		b = binary.LittleEndian.AppendUint32(b, s.Value)
		b = binary.LittleEndian.AppendUint32(b, s.Recent)
		return binary.LittleEndian.AppendUint64(b, uint64(s.Age)), nil
	}
	return nil, fmt.Errorf("an event field of type %v cannot be recorded", v.Type())
}

const (
	segmentSize = 18
	stampsSize  = 17

	stampsAgreed  = 1
	stampsCarried = 2
)

var errShort = errors.New("an event ends in the middle of a field")

// decodeEvent decodes what appendEvent made.
func decodeEvent(b []byte) (event.Event, error) {
	var e event.Event
	v := reflect.ValueOf(&e).Elem()
	for len(b) > 0 {
		number, n := binary.Uvarint(b)
		if n <= 0 {
			return e, errShort
		}
		b = b[n:]
		f, known := byNumber[number]
		if number&1 == 1 {
			size, n := binary.Uvarint(b)
			if n <= 0 || size > uint64(len(b)-n) {
				return e, errShort
			}
			raw := b[n : n+int(size)]
			b = b[n+int(size):]
			if known {
				if err := decodeBytes(v.Field(f.index), raw); err != nil {
					return e, err
				}
			}
			continue
		}
		value, n := binary.Uvarint(b)
		if n <= 0 {
			return e, errShort
		}
		b = b[n:]
		if !known {
			continue
		}
		fv := v.Field(f.index)
		switch fv.Kind() {
		case reflect.Bool:
			fv.SetBool(value != 0)
		case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
			signed := int64(value>>1) ^ -int64(value&1)
			if fv.OverflowInt(signed) {
				return e, fmt.Errorf("field %d of an event holds %d, which is too large", number>>1, signed)
			}
			fv.SetInt(signed)
		default:
			if fv.OverflowUint(value) {
				return e, fmt.Errorf("field %d of an event holds %d, which is too large", number>>1, value)
			}
			fv.SetUint(value)
		}
	}
	if !e.Hook.Valid() {
		return e, fmt.Errorf("an event of hook %d, which this version does not know", uint8(e.Hook))
	}
	if e.Time < 0 || e.Time > 1<<62*time.Nanosecond {
		return e, fmt.Errorf("an event at %d ns, which is no time", int64(e.Time))
	}
	return e, nil
}

func decodeBytes(v reflect.Value, raw []byte) error {
	if v.Kind() == reflect.String {
		v.SetString(string(raw))
		return nil
	}
	switch v.Type() {
	case addrPortType:
		var a netip.AddrPort
		if err := a.UnmarshalBinary(raw); err != nil {
			return fmt.Errorf("an address of %d bytes in an event: %w", len(raw), err)
		}
		v.Set(reflect.ValueOf(a))
	case commType:
		var c event.Comm
		if len(raw) > len(c) {
			return fmt.Errorf("a task name of %d bytes in an event; the kernel keeps %d", len(raw), len(c))
		}
		copy(c[:], raw)
		v.Set(reflect.ValueOf(c))
	case segmentType:
		if len(raw) < segmentSize {
			return errShort
		}
		v.Set(reflect.ValueOf(event.Segment{
			Seq: binary.LittleEndian.Uint32(raw), Ack: binary.LittleEndian.Uint32(raw[4:]), Len: binary.LittleEndian.Uint32(raw[8:]),
			Flags: event.TCPFlags(raw[12]), TTL: raw[13], IPID: binary.LittleEndian.Uint16(raw[14:]), Window: binary.LittleEndian.Uint16(raw[16:]),
		}))
	case stampsType:
		if len(raw) < stampsSize {
			return errShort
		}
		v.Set(reflect.ValueOf(event.Timestamps{
			Agreed: raw[0]&stampsAgreed != 0, Carried: raw[0]&stampsCarried != 0,
			Value: binary.LittleEndian.Uint32(raw[1:]), Recent: binary.LittleEndian.Uint32(raw[5:]),
			Age: time.Duration(binary.LittleEndian.Uint64(raw[9:])),
		}))
	}
	return nil
}
