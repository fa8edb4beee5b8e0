package enrich

import (
	"bytes"
	"cmp"
	"debug/elf"
	"encoding/binary"
	"errors"
	"runtime"
	"slices"
)

// The call frame information of .eh_frame (LSB core, chapter 10; DWARF 5,
// section 6.4), as far as a return address and a frame pointer need it. Libraries
// that run these programs keep a rule for every register that one names, and copy
// all of them at each DW_CFA_remember_state: 118 KB can ask for gigabytes. Here
// a row has two rules, whatever is in the file.

// The most that is read of it.
const (
	maxUnwindData = 64 << 20 // bytes of .eh_frame
	maxFDEs       = 1 << 21
	maxCIEs       = 1 << 16
	maxCFI        = 1 << 16 // instructions that are run for one address
	maxRemembered = 64      // states; compilers need a few
)

// A machine says which of DWARF's registers are which (System V ABI, AMD64
// supplement, figure 3.36; DWARF for the Arm 64-bit Architecture, 4.1).
type machine struct{ fp, sp, ra uint64 }

var machines = map[string]machine{"amd64": {6, 7, 16}, "arm64": {29, 31, 30}}

// ruleKind says where a register's value of the caller is.
type ruleKind uint8

const (
	ruleUnset     ruleKind = iota // nothing is said: it still has it
	ruleSame                      // it still has it
	ruleUndefined                 // it is gone; of the return address: there is no caller
	ruleOffset                    // in memory, so far from the CFA
	ruleOther                     // a way that is not followed here
)

type rule struct {
	Kind   ruleKind `json:"k,omitempty"`
	Offset int64    `json:"o,omitempty"`
}

// cfaBase is the register that the canonical frame address is counted from.
type cfaBase uint8

const (
	cfaOther cfaBase = iota // another one, or an expression
	cfaSP
	cfaFP
)

// row is how to get from a function to its caller.
type row struct {
	CFA    cfaBase `json:"b,omitempty"`
	Offset int64   `json:"o,omitempty"`
	RA     rule    `json:"r"`
	FP     rule    `json:"f"`
}

// unwindTable is the functions of an .eh_frame.
type unwindTable struct {
	data []byte
	cies []cie
	fdes []fde // by begin
	m    machine
}

type cie struct {
	code       uint64 // factors of alignment
	data       int64
	from, to   uint32 // its instructions in the section
	encoding   byte   // of a FDE's addresses
	augmented  bool   // a FDE has augmentation data
	understood bool
}

type fde struct {
	begin, end uint64
	from, to   uint32
	cie        uint32
}

var errCFI = errors.New("malformed call frame information")

// newUnwindTable reads how to unwind a file's functions, which nearly every file
// tells, stripped or not: C++ exceptions need it. Go's own code has none.
func newUnwindTable(f *elf.File) *unwindTable {
	m, known := machines[runtime.GOARCH]
	s := f.Section(".eh_frame")
	if !known || s == nil {
		return nil
	}
	data := sectionData(s, maxUnwindData)
	if data == nil {
		return nil
	}
	return parseUnwind(data, s.Addr, m)
}

func parseUnwind(data []byte, addr uint64, m machine) *unwindTable {
	t := &unwindTable{data: data, m: m}
	cies := map[uint64]uint32{} // by place
	for at := uint64(0); at+4 <= uint64(len(data)); {
		start := at
		length := uint64(binary.LittleEndian.Uint32(data[at:]))
		at += 4
		if length == 0 {
			continue // the end, or what a linker left between two
		}
		if length == 0xffffffff {
			if at+8 > uint64(len(data)) {
				break
			}
			length = binary.LittleEndian.Uint64(data[at:])
			at += 8
		}
		if length < 4 || length > uint64(len(data))-at {
			break
		}
		end := at + length
		r := reader{b: data[:end], at: at + 4, addr: addr}
		if back := uint64(binary.LittleEndian.Uint32(data[at:])); back == 0 {
			if len(t.cies) == maxCIEs {
				break
			}
			cies[start] = uint32(len(t.cies))
			t.cies = append(t.cies, readCIE(&r))
		} else if index, ok := cies[at-back]; ok && t.cies[index].understood {
			if len(t.fdes) == maxFDEs {
				break
			}
			c := &t.cies[index]
			f := fde{begin: r.pointer(c.encoding), cie: index, to: uint32(end)}
			f.end = f.begin + r.pointer(c.encoding&0x0f)
			if c.augmented {
				r.skip(r.uleb())
			}
			if f.from = uint32(r.at); !r.failed && f.begin < f.end {
				t.fdes = append(t.fdes, f)
			}
		}
		at = end
	}
	if len(t.fdes) == 0 {
		return nil
	}
	t.fdes = slices.Clip(t.fdes)
	slices.SortFunc(t.fdes, func(a, b fde) int { return cmp.Compare(a.begin, b.begin) })
	return t
}

// readCIE reads a common information entry behind its id.
func readCIE(r *reader) (c cie) {
	version := r.byte()
	zero := bytes.IndexByte(r.b[min(r.at, uint64(len(r.b))):], 0)
	if zero < 0 || zero > 16 || version != 1 && version != 3 && version != 4 {
		return c
	}
	augmentation := string(r.b[r.at : r.at+uint64(zero)])
	r.skip(uint64(zero) + 1)
	if version == 4 {
		r.skip(2) // the sizes of an address and of a segment
	}
	c.code, c.data = r.uleb(), r.sleb()
	if version == 1 {
		r.byte() // the return address's column
	} else {
		r.uleb()
	}
	if augmentation != "" {
		if augmentation[0] != 'z' {
			return c
		}
		c.augmented = true
		size := r.uleb()
		behind := r.at + size
		for _, what := range augmentation[1:] {
			switch what {
			case 'R':
				c.encoding = r.byte()
			case 'L':
				r.byte()
			case 'P':
				r.pointer(r.byte() & 0x7f) // the personality routine, maybe by way of a pointer
			case 'S', 'B', 'G': // a signal's frame; arm64: signed return addresses, tagged memory
			default:
				return c
			}
		}
		if r.failed || size > uint64(len(r.b)) || behind > uint64(len(r.b)) {
			return c
		}
		r.at = behind
	}
	c.from, c.to = uint32(r.at), uint32(len(r.b))
	c.understood = !r.failed && encodingKnown(c.encoding)
	return c
}

// reader reads numbers of a section. What is not there is zero, and failed.
type reader struct {
	b      []byte
	at     uint64
	addr   uint64 // of b
	failed bool
}

func (r *reader) take(n uint64) []byte {
	if r.at > uint64(len(r.b)) || n > uint64(len(r.b))-r.at {
		r.failed = true
		return make([]byte, min(n, 8))
	}
	b := r.b[r.at : r.at+n]
	r.at += n
	return b
}

func (r *reader) skip(n uint64) {
	if r.at > uint64(len(r.b)) || n > uint64(len(r.b))-r.at {
		r.failed = true
		return
	}
	r.at += n
}

func (r *reader) left() bool { return !r.failed && r.at < uint64(len(r.b)) }

func (r *reader) byte() byte  { return r.take(1)[0] }
func (r *reader) u16() uint64 { return uint64(binary.LittleEndian.Uint16(r.take(2))) }
func (r *reader) u32() uint64 { return uint64(binary.LittleEndian.Uint32(r.take(4))) }
func (r *reader) u64() uint64 { return binary.LittleEndian.Uint64(r.take(8)) }

func (r *reader) uleb() (v uint64) {
	for shift := uint(0); ; shift += 7 {
		b := r.byte()
		if shift < 64 {
			v |= uint64(b&0x7f) << shift
		}
		if b&0x80 == 0 || r.failed {
			return v
		}
	}
}

func (r *reader) sleb() (v int64) {
	for shift := uint(0); ; {
		b := r.byte()
		if shift < 64 {
			v |= int64(b&0x7f) << shift
		}
		shift += 7
		if b&0x80 == 0 || r.failed {
			if b&0x40 != 0 && shift < 64 {
				v |= -1 << shift
			}
			return v
		}
	}
}

// The encodings of pointers (DW_EH_PE_*): a form, and what it is relative to.
func encodingKnown(e byte) bool {
	switch e & 0x0f {
	case 0, 1, 2, 3, 4, 9, 10, 11, 12:
		return e&0xf0 == 0 || e&0xf0 == 0x10
	}
	return false
}

func (r *reader) pointer(encoding byte) (v uint64) {
	if encoding == 0xff { // omitted
		return 0
	}
	place := r.addr + r.at
	switch encoding & 0x0f {
	case 0, 4, 12:
		v = r.u64()
	case 1:
		v = r.uleb()
	case 2:
		v = r.u16()
	case 3:
		v = r.u32()
	case 9:
		v = uint64(r.sleb())
	case 10:
		v = uint64(int16(r.u16()))
	case 11:
		v = uint64(int32(r.u32()))
	default:
		r.failed = true
	}
	if encoding&0xf0 == 0x10 {
		v += place
	}
	return v
}

// row runs the programs for an address. ok is false where no function with such
// a program is.
func (t *unwindTable) row(pc uint64) (out row, ok bool) {
	i, found := slices.BinarySearchFunc(t.fdes, pc, func(f fde, pc uint64) int { return cmp.Compare(f.begin, pc) })
	if !found {
		i--
	}
	if i < 0 || pc >= t.fdes[i].end {
		return row{}, false
	}
	f := &t.fdes[i]
	c := &t.cies[f.cie]
	p := program{cie: c, m: t.m, loc: f.begin, steps: maxCFI}
	if err := p.run(reader{b: t.data[:c.to], at: uint64(c.from)}, ^uint64(0)); err != nil {
		return row{}, false
	}
	p.initial, p.remembered, p.loc = p.row, nil, f.begin
	if err := p.run(reader{b: t.data[:f.to], at: uint64(f.from)}, pc); err != nil {
		return row{}, false
	}
	return p.row, true
}

// program is the state of a CFI program.
type program struct {
	cie        *cie
	m          machine
	loc        uint64
	row        row
	initial    row // as the CIE says
	remembered []row
	steps      int
}

// DW_CFA_*.
const (
	cfaSetLoc          = 0x01
	cfaAdvanceLoc1     = 0x02
	cfaAdvanceLoc2     = 0x03
	cfaAdvanceLoc4     = 0x04
	cfaOffsetExtended  = 0x05
	cfaRestoreExtended = 0x06
	cfaUndefined       = 0x07
	cfaSameValue       = 0x08
	cfaRegister        = 0x09
	cfaRememberState   = 0x0a
	cfaRestoreState    = 0x0b
	cfaDefCFA          = 0x0c
	cfaDefCFARegister  = 0x0d
	cfaDefCFAOffset    = 0x0e
	cfaDefCFAExpr      = 0x0f
	cfaExpression      = 0x10
	cfaOffsetExtSF     = 0x11
	cfaDefCFASF        = 0x12
	cfaDefCFAOffsetSF  = 0x13
	cfaValOffset       = 0x14
	cfaValOffsetSF     = 0x15
	cfaValExpression   = 0x16
	cfaNegateRAState   = 0x2d // arm64; on amd64 a window save, which is not there
	cfaGNUArgsSize     = 0x2e
)

// run goes on until the row of an address is complete.
func (p *program) run(r reader, until uint64) error {
	for r.left() && p.loc <= until {
		if p.steps--; p.steps < 0 {
			return errCFI
		}
		op := r.byte()
		low := uint64(op & 0x3f)
		switch op >> 6 {
		case 1:
			p.loc += low * p.cie.code
			continue
		case 2:
			p.set(low, rule{ruleOffset, int64(r.uleb()) * p.cie.data})
			continue
		case 3:
			p.restore(low)
			continue
		}
		switch op {
		case 0:
		case cfaSetLoc:
			r.addr = 0
			p.loc = r.pointer(p.cie.encoding & 0x0f)
			if p.cie.encoding&0xf0 != 0 {
				return errCFI // nobody makes it
			}
		case cfaAdvanceLoc1:
			p.loc += uint64(r.byte()) * p.cie.code
		case cfaAdvanceLoc2:
			p.loc += r.u16() * p.cie.code
		case cfaAdvanceLoc4:
			p.loc += r.u32() * p.cie.code
		case cfaOffsetExtended:
			reg := r.uleb()
			p.set(reg, rule{ruleOffset, int64(r.uleb()) * p.cie.data})
		case cfaOffsetExtSF:
			reg := r.uleb()
			p.set(reg, rule{ruleOffset, r.sleb() * p.cie.data})
		case cfaRestoreExtended:
			p.restore(r.uleb())
		case cfaUndefined:
			p.set(r.uleb(), rule{Kind: ruleUndefined})
		case cfaSameValue:
			p.set(r.uleb(), rule{Kind: ruleSame})
		case cfaRegister:
			reg := r.uleb()
			r.uleb()
			p.set(reg, rule{Kind: ruleOther})
		case cfaRememberState:
			if len(p.remembered) == maxRemembered {
				return errCFI
			}
			p.remembered = append(p.remembered, p.row)
		case cfaRestoreState:
			last := len(p.remembered) - 1
			if last < 0 {
				return errCFI
			}
			p.row, p.remembered = p.remembered[last], p.remembered[:last]
		case cfaDefCFA:
			p.base(r.uleb())
			p.row.Offset = int64(r.uleb())
		case cfaDefCFASF:
			p.base(r.uleb())
			p.row.Offset = r.sleb() * p.cie.data
		case cfaDefCFARegister:
			p.base(r.uleb())
		case cfaDefCFAOffset:
			p.row.Offset = int64(r.uleb())
		case cfaDefCFAOffsetSF:
			p.row.Offset = r.sleb() * p.cie.data
		case cfaDefCFAExpr:
			r.skip(r.uleb())
			p.row.CFA = cfaOther
		case cfaExpression, cfaValExpression:
			reg := r.uleb()
			r.skip(r.uleb())
			p.set(reg, rule{Kind: ruleOther})
		case cfaValOffset, cfaValOffsetSF:
			reg := r.uleb()
			r.uleb() // as long, signed or not
			p.set(reg, rule{Kind: ruleOther})
		case cfaNegateRAState:
		case cfaGNUArgsSize:
			r.uleb()
		default:
			return errCFI
		}
	}
	if r.failed {
		return errCFI
	}
	return nil
}

func (p *program) base(reg uint64) {
	switch reg {
	case p.m.sp:
		p.row.CFA = cfaSP
	case p.m.fp:
		p.row.CFA = cfaFP
	default:
		p.row.CFA = cfaOther
	}
}

func (p *program) set(reg uint64, to rule) {
	switch reg {
	case p.m.ra:
		p.row.RA = to
	case p.m.fp:
		p.row.FP = to
	}
}

func (p *program) restore(reg uint64) {
	switch reg {
	case p.m.ra:
		p.row.RA = p.initial.RA
	case p.m.fp:
		p.row.FP = p.initial.FP
	}
}

func (t *unwindTable) cost() int64 {
	return int64(len(t.data)) + int64(len(t.fdes))*32 + int64(len(t.cies))*40
}
