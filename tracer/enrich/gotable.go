package enrich

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"slices"
	"sort"
	"sync"
)

// goTable answers from the runtime's own table of functions and lines, which a
// Go program keeps whatever it is stripped of: Go 1.18 and later. The layouts
// are in runtime/symtab.go, runtime/symtabinl.go and internal/abi/symtab.go.
//
// debug/gosym reads the same table but does not tell inlined functions, and
// takes the program's start of text on trust.
type goTable struct {
	data     []byte // .gopclntab
	text     uint64 // the address of runtime.text, which all others count from
	names    []byte
	units    []byte // file numbers of compilation units
	files    []byte
	values   []byte // pc-value tables
	funcs    []byte // index, then functions
	count    int
	quantum  uint64 // of pc deltas, bytes
	inlining []byte // from go:func.* on; nil: not to be had
}

// maxGoTries is how many places are tried for a table, and for the moduledata
// that tells of it. A program has one of each.
const maxGoTries = 64

const (
	goMagic118 = 0xfffffff0 // 1.18 and 1.19
	goMagic120 = 0xfffffff1 // 1.20 and later

	// Indices, internal/abi/symtab.go.
	pcdataInlTreeIndex = 2
	funcdataInlTree    = 3
	// sizeof(_func) before its tables, and sizeof(inlinedCall) since 1.20.
	goFuncSize    = 44
	goInlinedSize = 16
	maxGoValues   = 1 << 20 // bytes of one function's pc-value table
	// Words of moduledata, 1.20 and later.
	mdFuncNames = 1
	mdText      = 22
	mdGoFunc    = 40
	mdWords     = 41
)

// newGoTable is nil for what is no Go program, or an older one.
func newGoTable(f *elf.File) *goTable {
	relocations := sync.OnceValue(func() []relocation { return relativeRelocations(f) })
	for _, name := range []string{".gopclntab", ".data.rel.ro.gopclntab"} {
		if s := f.Section(name); s != nil {
			if t := parseGoTable(f, relocations, s.Addr, sectionData(s, maxGoTable)); t != nil {
				return t
			}
		}
	}
	// A system linker puts the table of a position-independent program into
	// .data.rel.ro, and a program may have no section headers.
	if len(f.Sections) > 0 && f.Section(".note.go.buildid") == nil && f.Section(".go.buildinfo") == nil {
		return nil
	}
	scanned, tries := uint64(0), 0
	for _, p := range f.Progs {
		if p.Type != elf.PT_LOAD || p.Filesz > maxGoTable-scanned {
			continue
		}
		scanned += p.Filesz
		b := memory(f, p.Vaddr, p.Filesz)
		for _, magic := range []uint32{goMagic120, goMagic118} {
			want := binary.LittleEndian.AppendUint32(nil, magic)
			for at := 0; ; {
				i := bytes.Index(b[at:], want)
				if i < 0 {
					break
				}
				at += i
				if at%8 == 0 && plausibleGoTable(b[at:]) {
					if tries++; tries > maxGoTries {
						return nil
					}
					if t := parseGoTable(f, relocations, p.Vaddr+uint64(at), b[at:]); t != nil {
						return t
					}
				}
				at += len(want)
			}
		}
	}
	return nil
}

// plausibleGoTable looks at a table's head: a magic number may stand anywhere.
func plausibleGoTable(data []byte) bool {
	if len(data) < 72 || data[4] != 0 || data[5] != 0 || data[7] != 8 {
		return false
	}
	magic := binary.LittleEndian.Uint32(data)
	return magic == goMagic118 || magic == goMagic120
}

// parseGoTable takes the program's relocations as a function: only some tables
// need them.
func parseGoTable(f *elf.File, relocations func() []relocation, addr uint64, data []byte) *goTable {
	if !plausibleGoTable(data) {
		return nil
	}
	magic := binary.LittleEndian.Uint32(data)
	t := &goTable{data: data, quantum: uint64(data[6])}
	word := func(i int) uint64 { return binary.LittleEndian.Uint64(data[8+8*i:]) }
	var parts [5][]byte
	for i := range parts {
		off := word(3 + i)
		if off >= uint64(len(data)) {
			return nil
		}
		parts[i] = data[off:]
	}
	t.names, t.units, t.files, t.values, t.funcs = parts[0], parts[1], parts[2], parts[3], parts[4]
	// The index: count pairs of entry and function, then the end of the last.
	count := word(0)
	if t.quantum == 0 || count == 0 || count > uint64(len(t.funcs))/8 || (count*2+1)*4 > uint64(len(t.funcs)) {
		return nil
	}
	t.count = int(count)
	t.text = word(2) // 0 since 1.26, and not relocated yet before that
	var gofunc uint64
	if module := goModule(f, relocations(), addr, addr+word(3)); module != nil {
		t.text, gofunc = module[mdText], module[mdGoFunc]
	} else if !inText(f, t.text) {
		s := f.Section(".text")
		if s == nil {
			return nil
		}
		t.text = s.Addr
	}
	if !inText(f, t.text) {
		return nil
	}
	if magic == goMagic120 && gofunc != 0 {
		t.readInlining(f, gofunc)
	}
	return t
}

func inText(f *elf.File, addr uint64) bool {
	return slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool {
		return p.Type == elf.PT_LOAD && p.Flags&elf.PF_X != 0 && addr >= p.Vaddr && addr-p.Vaddr < p.Memsz
	})
}

// goModule finds the runtime's moduledata by its first two words, the addresses
// of the table and of the names in it. In a position-independent program they
// are relocations.
func goModule(f *elf.File, relocations []relocation, table, names uint64) []uint64 {
	tries := 0
	read := func(addr uint64) []uint64 {
		if tries++; tries > maxGoTries {
			return nil
		}
		b := memory(f, addr, mdWords*8)
		if len(b) < mdWords*8 {
			return nil
		}
		words := make([]uint64, mdWords)
		for i := range words {
			words[i] = binary.LittleEndian.Uint64(b[8*i:])
		}
		first := sort.Search(len(relocations), func(i int) bool { return relocations[i].at >= addr })
		for _, r := range relocations[first:] {
			if r.at >= addr+mdWords*8 {
				break
			}
			if (r.at-addr)%8 == 0 {
				words[(r.at-addr)/8] = r.to
			}
		}
		if words[0] != table || words[mdFuncNames] != names || !inText(f, words[mdText]) {
			return nil
		}
		return words
	}
	if s := f.Section(".go.module"); s != nil { // since 1.26
		if words := read(s.Addr); words != nil {
			return words
		}
	}
	for _, r := range relocations {
		if r.to == table {
			if words := read(r.at); words != nil {
				return words
			}
		}
	}
	want := binary.LittleEndian.AppendUint64(nil, table)
	scanned := uint64(0)
	for _, p := range f.Progs {
		if p.Type != elf.PT_LOAD || p.Flags&elf.PF_W == 0 || p.Filesz > maxSymbolData-scanned {
			continue
		}
		scanned += p.Filesz
		b := memory(f, p.Vaddr, p.Filesz)
		for at := 0; tries < maxGoTries; at += 8 {
			i := bytes.Index(b[at:], want)
			if i < 0 {
				break
			}
			at += i &^ 7
			if i%8 == 0 {
				if words := read(p.Vaddr + uint64(at)); words != nil {
					return words
				}
			}
			if at+8 > len(b) {
				break
			}
		}
	}
	return nil
}

type relocation struct{ at, to uint64 }

// relativeRelocations are the words that become an address of the program itself
// when it is loaded, by place.
func relativeRelocations(f *elf.File) []relocation {
	if f.Type != elf.ET_DYN {
		return nil
	}
	var relative uint32
	switch f.Machine {
	case elf.EM_X86_64:
		relative = uint32(elf.R_X86_64_RELATIVE)
	case elf.EM_AARCH64:
		relative = uint32(elf.R_AARCH64_RELATIVE)
	default:
		return nil
	}
	var out []relocation
	for _, b := range relocationTables(f) {
		for ; len(b) >= 24; b = b[24:] { // Elf64_Rela: offset, info, addend
			if uint32(binary.LittleEndian.Uint64(b[8:])) == relative {
				out = append(out, relocation{binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[16:])})
			}
		}
	}
	slices.SortFunc(out, func(a, b relocation) int {
		switch {
		case a.at < b.at:
			return -1
		case a.at > b.at:
			return 1
		}
		return 0
	})
	return out
}

// relocationTables finds DT_RELA, which works without section headers.
func relocationTables(f *elf.File) [][]byte {
	for _, p := range f.Progs {
		if p.Type != elf.PT_DYNAMIC || p.Filesz > 1<<16 {
			continue
		}
		b := make([]byte, p.Filesz)
		if _, err := p.ReadAt(b, 0); err != nil {
			return nil
		}
		var addr, size uint64
		for ; len(b) >= 16; b = b[16:] {
			switch elf.DynTag(binary.LittleEndian.Uint64(b)) {
			case elf.DT_RELA:
				addr = binary.LittleEndian.Uint64(b[8:])
			case elf.DT_RELASZ:
				size = binary.LittleEndian.Uint64(b[8:])
			}
		}
		if addr == 0 || size > maxSymbolData {
			return nil
		}
		return [][]byte{memory(f, addr, size)}
	}
	return nil
}

// goFunc is one function: its address and its _func.
type goFunc struct {
	entry uint64
	body  []byte
}

func (t *goTable) entry(i int) uint64 {
	return t.text + uint64(binary.LittleEndian.Uint32(t.funcs[8*i:]))
}

func (t *goTable) at(i int) (goFunc, bool) {
	off := uint64(binary.LittleEndian.Uint32(t.funcs[8*i+4:]))
	if off > uint64(len(t.funcs)) || uint64(len(t.funcs))-off < goFuncSize {
		return goFunc{}, false
	}
	return goFunc{t.entry(i), t.funcs[off:]}, true
}

func (f goFunc) field(i int) uint32 { return binary.LittleEndian.Uint32(f.body[4*i:]) }

// The fields of _func, in words.
const (
	goNameOff  = 1
	goPCFile   = 5
	goPCLine   = 6
	goNPCData  = 7
	goCUOffset = 8
)

func (f goFunc) pcdata(i int) uint32 {
	if uint32(i) >= f.field(goNPCData) {
		return 0
	}
	return binary.LittleEndian.Uint32(f.body[goFuncSize+4*i:])
}

func (f goFunc) funcdata(i int) (uint32, bool) {
	if i >= int(f.body[goFuncSize-1]) {
		return 0, false
	}
	off := binary.LittleEndian.Uint32(f.body[goFuncSize+4*(int(f.field(goNPCData))+i):])
	return off, off != ^uint32(0)
}

// all says whether the table covers all code but what the linker makes, so that
// there is nothing for DWARF to tell.
func (t *goTable) all(f *elf.File) bool {
	s := f.Section(".text")
	return s != nil && t.entry(0) <= s.Addr && t.entry(t.count)+64 >= s.Addr+s.Size
}

func (t *goTable) cost() int64 { return int64(len(t.data) + len(t.inlining)) }

// frames are the functions at an address, the innermost first; nil if none is
// there. It may panic on a malformed table.
func (t *goTable) frames(pc uint64) []Frame {
	if pc < t.entry(0) || pc >= t.entry(t.count) {
		return nil
	}
	i := sort.Search(t.count, func(i int) bool { return t.entry(i) > pc }) - 1
	f, ok := t.at(i)
	if !ok {
		return nil
	}
	var out []Frame
	tree, inlined := f.funcdata(funcdataInlTree)
	for len(out) < maxDepth {
		frame := Frame{Function: t.text0(t.names, f.field(goNameOff))}
		frame.File, frame.Line = t.position(f, pc)
		index := int32(-1)
		if inlined && t.inlining != nil {
			index = t.value(f, f.pcdata(pcdataInlTreeIndex), pc)
		}
		var call []byte
		if index >= 0 {
			at := uint64(tree) + uint64(index)*goInlinedSize
			if at+goInlinedSize <= uint64(len(t.inlining)) {
				call = t.inlining[at:] // funcID u8, pad, name i32, parent pc i32, line i32
			}
		}
		if call == nil {
			return append(out, frame)
		}
		frame.Function, frame.Inlined = t.text0(t.names, binary.LittleEndian.Uint32(call[4:])), true
		out = append(out, frame)
		pc = f.entry + uint64(binary.LittleEndian.Uint32(call[8:]))
	}
	return out
}

func (t *goTable) position(f goFunc, pc uint64) (string, int) {
	number, line := t.value(f, f.field(goPCFile), pc), t.value(f, f.field(goPCLine), pc)
	if number < 0 || line < 0 {
		return "", 0
	}
	off := binary.LittleEndian.Uint32(t.units[4*(uint64(f.field(goCUOffset))+uint64(number)):])
	if off == ^uint32(0) {
		return "", 0
	}
	return t.text0(t.files, off), int(line)
}

// value looks an address up in a pc-value table: pairs of a zigzag delta of the
// value and a delta of the pc, up to a zero delta of the value. -1: no value.
func (t *goTable) value(f goFunc, table uint32, target uint64) int32 {
	if table == 0 {
		return -1
	}
	b, pc, value := t.values[table:], f.entry, int32(-1)
	b = b[:min(len(b), maxGoValues)]
	for first := true; ; first = false {
		delta, n := binary.Uvarint(b)
		if n <= 0 || delta == 0 && !first {
			return -1
		}
		b = b[n:]
		value += int32(-(uint32(delta) & 1) ^ (uint32(delta) >> 1))
		step, n := binary.Uvarint(b)
		if n <= 0 {
			return -1
		}
		b = b[n:]
		if pc += step * t.quantum; target < pc {
			return value
		}
	}
}

func (t *goTable) text0(b []byte, off uint32) string {
	b = b[off:]
	if i := bytes.IndexByte(b[:min(len(b), 2*maxName)], 0); i >= 0 {
		return string(b[:i])
	}
	return ""
}

// readInlining reads the trees of inlined calls, as far as functions refer to
// them: they are part of .rodata before 1.26, without a symbol for their end.
func (t *goTable) readInlining(f *elf.File, gofunc uint64) {
	var last uint64
	for i := range t.count {
		fn, ok := t.at(i)
		if !ok || uint64(goFuncSize)+4*(uint64(fn.field(goNPCData))+funcdataInlTree+1) > uint64(len(fn.body)) {
			continue
		}
		if off, ok := fn.funcdata(funcdataInlTree); ok {
			last = max(last, uint64(off))
		}
	}
	const longest = 64 << 10 // the last tree: 4096 calls
	if last < maxSymbolData {
		t.inlining = memory(f, gofunc, last+longest)
	}
}
