package pcapng

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"
)

// The types of blocks.
const (
	SectionHeader  = 0x0a0d0d0a
	Interface      = 1
	OldPacket      = 2 // obsolete
	SimplePacket   = 3
	Statistics     = 5
	EnhancedPacket = 6
)

// The codes of options. Those of packets are EPB_*.
const (
	OptEnd         = 0
	OptComment     = 1
	OptSystem      = 3 // shb_os
	OptApplication = 4 // shb_userappl
	OptName        = 2 // if_name
	OptDescription = 3 // if_description
	OptResolution  = 9 // if_tsresol
	OptFlags       = 2 // epb_flags
	OptProcess     = 8 // epb_processid_threadid: two 32-bit numbers; 0 unknown
)

// The direction in epb_flags.
const (
	Inbound  = 1
	Outbound = 2
)

// MaxBlock is how large a block may be, bytes.
const MaxBlock = 64 << 20

const magic = 0x1a2b3c4d

// Option is an option of a block, its value in the byte order of the section.
type Option struct {
	Code  uint16
	Value []byte
}

// maxValue is the length that an option can have.
const maxValue = 1<<16 - 1

// Text is an option that holds text in UTF-8, cut to what fits.
func Text(code uint16, text string) Option {
	text = strings.ToValidUTF8(text, "\uFFFD")
	if len(text) > maxValue {
		n := maxValue
		for !utf8.RuneStart(text[n]) {
			n--
		}
		text = text[:n]
	}
	return Option{code, []byte(text)}
}

func appendOptions(b []byte, order binary.AppendByteOrder, options []Option) []byte {
	if len(options) == 0 {
		return b
	}
	for _, o := range options {
		b = order.AppendUint16(b, o.Code)
		b = order.AppendUint16(b, uint16(len(o.Value)))
		b = pad(append(b, o.Value...))
	}
	return order.AppendUint32(b, OptEnd)
}

func pad(b []byte) []byte {
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

// order is a byte order that reads and appends.
type order interface {
	binary.ByteOrder
	binary.AppendByteOrder
}

func appendBlock(b []byte, o order, kind uint32, body []byte) []byte {
	size := uint32(len(body) + 12)
	b = o.AppendUint32(b, kind)
	b = o.AppendUint32(b, size)
	b = append(b, body...)
	return o.AppendUint32(b, size)
}

// Writer writes a section, in little-endian order, its times in nanoseconds. It does
// not buffer.
type Writer struct {
	w          io.Writer
	buf        []byte
	interfaces uint32
}

var little order = binary.LittleEndian

// NewWriter begins a section.
func NewWriter(w io.Writer, options ...Option) (*Writer, error) {
	p := &Writer{w: w}
	body := little.AppendUint32(nil, magic)
	body = little.AppendUint16(body, 1)
	body = little.AppendUint16(body, 0)
	body = little.AppendUint64(body, 1<<64-1) // its length is not known yet
	return p, p.block(SectionHeader, appendOptions(body, little, options))
}

func (p *Writer) block(kind uint32, body []byte) error {
	p.buf = appendBlock(p.buf[:0], little, kind, body)
	_, err := p.w.Write(p.buf)
	return err
}

// Interface describes where packets come from: the link type (LINKTYPE_*), and how
// much of each is kept at most; 0: all. It returns the interface's number.
func (p *Writer) Interface(link uint16, snap uint32, options ...Option) (uint32, error) {
	body := little.AppendUint16(nil, link)
	body = little.AppendUint16(body, 0)
	body = little.AppendUint32(body, snap)
	body = appendOptions(body, little, append([]Option{{OptResolution, []byte{9}}}, options...))
	p.interfaces++
	return p.interfaces - 1, p.block(Interface, body)
}

// Packet writes a packet, of which data was kept, and which was length bytes long.
func (p *Writer) Packet(on uint32, at time.Time, data []byte, length uint32, options ...Option) error {
	if on >= p.interfaces {
		return fmt.Errorf("write a packet of interface %d: %d are described", on, p.interfaces)
	}
	body := little.AppendUint32(nil, on)
	ns := uint64(at.UnixNano())
	body = little.AppendUint32(body, uint32(ns>>32))
	body = little.AppendUint32(body, uint32(ns))
	body = little.AppendUint32(body, uint32(len(data)))
	body = little.AppendUint32(body, length)
	body = pad(append(body, data...))
	return p.block(EnhancedPacket, appendOptions(body, little, options))
}

// Statistics writes what there is to say of an interface after its packets.
func (p *Writer) Statistics(on uint32, at time.Time, options ...Option) error {
	body := little.AppendUint32(nil, on)
	ns := uint64(at.UnixNano())
	body = little.AppendUint32(body, uint32(ns>>32))
	body = little.AppendUint32(body, uint32(ns))
	return p.block(Statistics, appendOptions(body, little, options))
}

// Flags is epb_flags as [Writer] writes it.
func Flags(direction uint32) Option { return Option{OptFlags, little.AppendUint32(nil, direction)} }

// Process is epb_processid_threadid as [Writer] writes it; 0: not known.
func Process(pid, tid uint32) Option {
	return Option{OptProcess, little.AppendUint32(little.AppendUint32(nil, pid), tid)}
}

// Block is one block of a file.
type Block struct {
	Type uint32
	raw  []byte // the whole block
	o    order
}

// Bytes is the block as it stands in the file. It is valid until the next one is
// read.
func (b Block) Bytes() []byte { return b.raw }

func (b Block) body() []byte { return b.raw[8 : len(b.raw)-4] }

// Reader reads blocks.
type Reader struct {
	r   io.Reader
	o   order
	buf []byte
	at  int64
}

// NewReader reads the blocks of a file.
func NewReader(r io.Reader) *Reader { return &Reader{r: r} }

// Next is the next block; io.EOF after the last.
func (r *Reader) Next() (Block, error) {
	b, err := r.next()
	if err != nil && err != io.EOF {
		err = fmt.Errorf("read the block at byte %d: %w", r.at, err)
	}
	r.at += int64(len(b.raw))
	return b, err
}

func (r *Reader) next() (Block, error) {
	r.buf = append(r.buf[:0], make([]byte, 12)...)
	if n, err := io.ReadFull(r.r, r.buf); err == io.ErrUnexpectedEOF {
		return Block{}, fmt.Errorf("the file is cut short after %d bytes of it: %w", n, err)
	} else if err != nil {
		return Block{}, err
	}
	if little.Uint32(r.buf) == SectionHeader { // the same in both orders
		switch {
		case binary.LittleEndian.Uint32(r.buf[8:]) == magic:
			r.o = binary.LittleEndian
		case binary.BigEndian.Uint32(r.buf[8:]) == magic:
			r.o = binary.BigEndian
		default:
			return Block{}, errors.New("a section header without a byte order")
		}
	}
	if r.o == nil {
		return Block{}, errors.New("it is no section header, which a pcapng file begins with")
	}
	size := r.o.Uint32(r.buf[4:])
	if size < 12 || size%4 != 0 || size > MaxBlock {
		return Block{}, fmt.Errorf("it claims to have %d bytes", size)
	}
	for have := len(r.buf); have < int(size); have = len(r.buf) {
		// What the length claims is made room for as it comes.
		part := min(int(size)-have, 1<<16)
		r.buf = append(r.buf, make([]byte, part)...)
		if n, err := io.ReadFull(r.r, r.buf[have:]); err != nil {
			if err == io.EOF || err == io.ErrUnexpectedEOF {
				err = fmt.Errorf("the file is cut short after %d of its %d bytes: %w", have+n, size, io.ErrUnexpectedEOF)
			}
			return Block{}, err
		}
	}
	if tail := r.o.Uint32(r.buf[size-4:]); tail != size {
		return Block{}, fmt.Errorf("its length is %d at the beginning and %d at the end", size, tail)
	}
	return Block{r.o.Uint32(r.buf), r.buf, r.o}, nil
}

// Link is what an interface description says.
type Link struct {
	Type       uint16 // LINKTYPE_*
	resolution uint8
	offset     int64 // seconds
}

// Link reads an interface description.
func (b Block) Link() (Link, error) {
	body := b.body()
	if b.Type != Interface || len(body) < 8 {
		return Link{}, errors.New("an interface description that is cut")
	}
	l := Link{Type: b.o.Uint16(body), resolution: 6}
	options, err := b.options(body[8:])
	for _, o := range options {
		switch {
		case o.Code == OptResolution && len(o.Value) == 1:
			l.resolution = o.Value[0]
		case o.Code == 14 && len(o.Value) == 8: // if_tsoffset
			l.offset = int64(b.o.Uint64(o.Value))
		}
	}
	return l, err
}

// Time is the time of a packet of the interface.
func (l Link) Time(ticks uint64) time.Time {
	exponent := l.resolution &^ 0x80
	if l.resolution&0x80 != 0 {
		if exponent > 63 {
			return time.Time{}
		}
		seconds := ticks >> exponent
		// Below a second: less than 2^30 parts of 2^-30 s each.
		part := ticks & (1<<exponent - 1)
		if exponent > 30 {
			part >>= exponent - 30
			exponent = 30
		}
		return time.Unix(int64(seconds)+l.offset, int64(part*1e9>>exponent)).UTC()
	}
	switch {
	case exponent > 19:
		return time.Time{}
	case exponent > 9:
		for ; exponent > 9; exponent-- {
			ticks /= 10
		}
	}
	per := uint64(1)
	scale := uint64(1e9)
	for range exponent {
		per *= 10
		scale /= 10
	}
	return time.Unix(int64(ticks/per)+l.offset, int64(ticks%per*scale)).UTC()
}

// Packet is what a block of a packet says.
type Packet struct {
	Interface uint32
	Ticks     uint64 // see [Link.Time]
	Timed     bool   // a simple packet has no time
	Data      []byte // valid until the next block is read
	Length    uint32 // on the wire
	options   int    // where they begin in the block; 0: it has no room for any
}

// Packet reads a packet; false: the block is none.
func (b Block) Packet() (p Packet, is bool, err error) {
	body := b.body()
	head := 20
	switch b.Type {
	case SimplePacket:
		if len(body) < 4 {
			return p, true, errors.New("a packet that is cut")
		}
		p.Length = b.o.Uint32(body)
		p.Data = body[4:]
		if int64(p.Length) < int64(len(p.Data)) {
			p.Data = p.Data[:p.Length]
		}
		return p, true, nil
	case EnhancedPacket, OldPacket:
		if len(body) < head {
			return p, true, errors.New("a packet that is cut")
		}
	default:
		return p, false, nil
	}
	p.Interface = b.o.Uint32(body)
	if b.Type == OldPacket {
		p.Interface = uint32(b.o.Uint16(body))
	}
	p.Ticks = uint64(b.o.Uint32(body[4:]))<<32 | uint64(b.o.Uint32(body[8:]))
	p.Timed = true
	kept := b.o.Uint32(body[12:])
	p.Length = b.o.Uint32(body[16:])
	if int64(kept) > int64(len(body)-head) {
		return p, true, fmt.Errorf("a packet of which %d bytes are said to be kept, in a block of %d", kept, len(b.raw))
	}
	p.Data = body[head : head+int(kept)]
	p.options = 8 + head + (int(kept)+3)&^3
	return p, true, nil
}

// Options are those of a packet.
func (b Block) Options(p Packet) ([]Option, error) {
	if p.options == 0 || p.options > len(b.raw)-4 {
		return nil, nil
	}
	return b.options(b.raw[p.options : len(b.raw)-4])
}

func (b Block) options(raw []byte) (all []Option, err error) {
	for len(raw) >= 4 {
		code, n := b.o.Uint16(raw), int(b.o.Uint16(raw[2:]))
		if code == OptEnd {
			return all, nil
		}
		end := 4 + (n+3)&^3
		if end > len(raw) {
			return all, errors.New("an option that is cut")
		}
		all = append(all, Option{code, raw[4 : 4+n]})
		raw = raw[end:]
	}
	return all, nil
}

// With is the block of a packet with more options behind its own; false: it cannot
// have options.
func (b Block) With(p Packet, more ...Option) ([]byte, bool, error) {
	if p.options == 0 {
		return nil, false, nil
	}
	have, err := b.Options(p)
	if err != nil {
		return nil, false, err
	}
	end := min(p.options, len(b.raw)-4)
	body := append([]byte(nil), b.raw[8:end]...)
	return appendBlock(nil, b.o, b.Type, appendOptions(pad(body), b.o, append(have, more...))), true, nil
}

// Unsized is a section header that does not say how long its section is.
func (b Block) Unsized() []byte {
	raw := append([]byte(nil), b.raw...)
	if len(raw) >= 28 {
		b.o.PutUint64(raw[16:], 1<<64-1)
	}
	return raw
}
