package enrich

import (
	"bytes"
	"cmp"
	"debug/elf"
	"encoding/binary"
	"encoding/hex"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/ianlancetaylor/demangle"
)

// The most of a file that is read, in bytes.
const (
	maxDebugInfo  = 64 << 20  // .debug_info: beyond it symbols must do
	maxDebugAll   = 192 << 20 // all sections of DWARF
	maxSymbolData = 64 << 20  // a symbol table, and its strings
	maxGoTable    = 256 << 20 // a Go program's table of functions
	maxName       = 4 << 10   // a name that is demangled
	maxCompared   = 64 << 20  // all names that are compared, where one address has several
)

// tables are what one ELF file tells of its code. Addresses are the file's own.
type tables struct {
	segments []segment
	golang   *goTable
	dwarf    *dwarfTable
	symbols  *symbolTable
	unwind   *unwindTable
	cost     int64 // bytes held, about
}

type segment struct {
	off, vaddr, size uint64
	exec             bool
}

// readTables is nil for what is no 64-bit little-endian ELF file.
func readTables(r io.ReaderAt, size int64, debug func(buildID string) *os.File) (t *tables) {
	// The file is the traced process's choice, and debug/elf and debug/dwarf do
	// not promise to survive any file.
	defer func() {
		if recover() != nil {
			t = nil
		}
	}()
	f, err := elf.NewFile(io.NewSectionReader(r, 0, size))
	if err != nil || f.Class != elf.ELFCLASS64 || f.Data != elf.ELFDATA2LSB {
		return nil
	}
	return newTables(f, debug)
}

// newTables reads the tables of a program or library. Its debug file, if the
// system has one, stands in for what was stripped.
func newTables(f *elf.File, debug func(buildID string) *os.File) *tables {
	t := &tables{}
	for _, p := range f.Progs {
		if p.Type == elf.PT_LOAD {
			t.segments = append(t.segments, segment{p.Off, p.Vaddr, p.Filesz, p.Flags&elf.PF_X != 0})
		}
	}
	if t.unwind = newUnwindTable(f); t.unwind != nil {
		t.cost = t.unwind.cost()
	}
	if t.golang = newGoTable(f); t.golang != nil {
		t.cost += t.golang.cost()
	}
	if t.golang == nil || !t.golang.all(f) {
		t.dwarf = newDwarfTable(f)
		t.symbols = newSymbolTable(f, elf.SHT_SYMTAB)
		if (t.dwarf == nil || t.symbols == nil) && t.golang == nil {
			t.readDebug(f, debug)
		}
		if t.symbols == nil {
			t.symbols = newSymbolTable(f, elf.SHT_DYNSYM)
		}
	}
	if t.dwarf != nil {
		t.cost += t.dwarf.cost
	}
	if t.symbols != nil {
		t.cost += t.symbols.cost()
	}
	return t
}

func (t *tables) readDebug(f *elf.File, debug func(buildID string) *os.File) {
	id := buildID(f)
	if id == "" {
		return
	}
	file := debug(id)
	if file == nil {
		return
	}
	defer file.Close()
	d, err := elf.NewFile(file)
	if err != nil || d.Class != f.Class || d.Data != f.Data || buildID(d) != id {
		return
	}
	if t.dwarf == nil {
		t.dwarf = newDwarfTable(d)
	}
	if t.symbols == nil {
		t.symbols = newSymbolTable(d, elf.SHT_SYMTAB)
	}
}

// vaddr is the file's own address of a byte of the file that was mapped to run.
// Neighbouring segments share a page of the file, so executable ones go first.
func (t *tables) vaddr(off uint64) (uint64, bool) {
	for _, exec := range []bool{true, false} {
		for _, s := range t.segments {
			if s.exec == exec && off >= s.off && off-s.off < s.size {
				return off - s.off + s.vaddr, true
			}
		}
	}
	return 0, false
}

// frames are the functions at an address, the innermost first; nil if none is
// known to be there.
func (t *tables) frames(pc uint64) (out []Frame) {
	defer func() {
		if recover() != nil { // as readTables
			out = nil
		}
	}()
	if t.golang != nil {
		if out = t.golang.frames(pc); out != nil {
			return out
		}
	}
	symbol := ""
	if t.symbols != nil {
		symbol = t.symbols.name(pc)
	}
	if t.dwarf != nil {
		out = t.dwarf.frames(pc)
	}
	if out == nil && symbol != "" {
		out = []Frame{{}}
	}
	if len(out) == 0 {
		return nil
	}
	// The linker's name of the machine code is the one that callers use (close,
	// where the source says __close), but for the parts that a compiler splits off.
	if last := &out[len(out)-1]; symbol != "" && (last.Function == "" || !strings.HasPrefix(symbol, last.Function+".")) {
		last.Function = symbol
	}
	for i := range out {
		out[i].Function = demangled(out[i].Function)
	}
	return out
}

func demangled(name string) string {
	if len(name) > maxName {
		return name
	}
	return demangle.Filter(name, demangle.MaxLength(12)) // 2^12 bytes
}

// buildID is the NT_GNU_BUILD_ID in hexadecimal; "" there is none.
func buildID(f *elf.File) string {
	s := f.Section(".note.gnu.build-id")
	if s == nil || s.Type != elf.SHT_NOTE || s.Size > 1<<10 {
		return ""
	}
	b, err := s.Data()
	if err != nil {
		return ""
	}
	for len(b) >= 12 {
		name, desc := int(binary.LittleEndian.Uint32(b)), int(binary.LittleEndian.Uint32(b[4:]))
		kind := binary.LittleEndian.Uint32(b[8:])
		b = b[12:]
		end := (name + 3) &^ 3
		if name < 0 || desc < 0 || end > len(b) || desc > len(b)-end {
			return ""
		}
		if kind == 3 && string(b[:name]) == "GNU\x00" {
			return hex.EncodeToString(b[end : end+desc])
		}
		b = b[min(len(b), end+(desc+3)&^3):]
	}
	return ""
}

// sectionData reads a section up to a size; nil if it is larger or not there.
func sectionData(s *elf.Section, most uint64) []byte {
	if s == nil || s.Type == elf.SHT_NOBITS || s.Size > most || s.FileSize > most {
		return nil
	}
	b, err := s.Data()
	if err != nil {
		return nil
	}
	return b
}

// memory reads the file's bytes by address, as they are before relocation.
func memory(f *elf.File, vaddr, size uint64) []byte {
	for _, p := range f.Progs {
		if p.Type != elf.PT_LOAD || vaddr < p.Vaddr || vaddr-p.Vaddr >= p.Filesz {
			continue
		}
		b := make([]byte, min(size, p.Filesz-(vaddr-p.Vaddr)))
		if _, err := p.ReadAt(b, int64(vaddr-p.Vaddr)); err != nil && err != io.EOF {
			return nil
		}
		return b
	}
	return nil
}

// symbolTable is the functions of a symbol table.
type symbolTable struct {
	symbols []symbol // by value
	strings []byte
}

type symbol struct {
	value, size uint64
	end         uint64 // where the section ends
	name        uint32 // in strings
	rank        uint8  // smaller is better
}

func newSymbolTable(f *elf.File, kind elf.SectionType) *symbolTable {
	s := f.SectionByType(kind)
	if s == nil || int(s.Link) >= len(f.Sections) {
		return nil
	}
	data, strs := sectionData(s, maxSymbolData), sectionData(f.Sections[s.Link], maxSymbolData)
	if len(data) == 0 || len(strs) == 0 {
		return nil
	}
	t := &symbolTable{strings: strs}
	for ; len(data) >= elf.Sym64Size; data = data[elf.Sym64Size:] {
		// Elf64_Sym: name u32, info u8, other u8, shndx u16, value u64, size u64.
		info, shndx := data[4], elf.SectionIndex(binary.LittleEndian.Uint16(data[6:]))
		y := symbol{
			name:  binary.LittleEndian.Uint32(data),
			value: binary.LittleEndian.Uint64(data[8:]),
			size:  binary.LittleEndian.Uint64(data[16:]),
		}
		if shndx == elf.SHN_UNDEF || int(shndx) >= len(f.Sections) {
			continue
		}
		in := f.Sections[shndx]
		if in.Flags&elf.SHF_EXECINSTR == 0 || y.value < in.Addr || y.value-in.Addr >= in.Size {
			continue
		}
		y.end = in.Addr + in.Size
		switch elf.ST_TYPE(info) {
		case elf.STT_FUNC, elf.STT_GNU_IFUNC:
		case elf.STT_NOTYPE:
			// Labels of assembly; $x and $d mark code and data on arm64.
			if first := t.first(y.name); first == 0 || first == '$' {
				continue
			}
			y.rank += 8
		default:
			continue
		}
		if y.size == 0 {
			y.rank += 4
		}
		if elf.ST_BIND(info) == elf.STB_LOCAL {
			y.rank++
		}
		t.symbols = append(t.symbols, y)
	}
	if len(t.symbols) == 0 {
		return nil
	}
	slices.SortFunc(t.symbols, func(a, b symbol) int {
		return cmp.Or(cmp.Compare(a.value, b.value), cmp.Compare(a.rank, b.rank), cmp.Compare(a.name, b.name))
	})
	// Of several names for one address the best stays. A label inside a function
	// is no function.
	kept := t.symbols[:0]
	var covered uint64
	budget := maxCompared
	for _, y := range t.symbols {
		if last := len(kept) - 1; last >= 0 && kept[last].value == y.value {
			if best := &kept[last]; best.rank == y.rank && budget > 0 {
				x, z := t.text(best.name), t.text(y.name)
				if budget -= len(x) + len(z); compareNames(z, x) < 0 {
					covered = max(covered, y.value+y.size)
					*best = y
				}
			}
			continue
		}
		if y.size == 0 && y.value < covered {
			continue
		}
		covered = max(covered, y.value+y.size)
		kept = append(kept, y)
	}
	t.symbols = slices.Clip(kept)
	return t
}

// compareNames puts the name that people use first: close before __close.
func compareNames(x, y string) int {
	underscores := func(s string) int { return len(s) - len(strings.TrimLeft(s, "_")) }
	if strings.HasPrefix(x, "_Z") && strings.HasPrefix(y, "_Z") {
		return cmp.Or(cmp.Compare(len(x), len(y)), cmp.Compare(x, y))
	}
	return cmp.Or(cmp.Compare(underscores(x), underscores(y)), cmp.Compare(len(x), len(y)), cmp.Compare(x, y))
}

func (t *symbolTable) text(off uint32) string {
	if uint64(off) >= uint64(len(t.strings)) {
		return ""
	}
	s := t.strings[off:]
	s = s[:min(len(s), 2*maxName)]
	if i := bytes.IndexByte(s, 0); i >= 0 {
		s = s[:i]
	}
	return string(s)
}

// first is the first byte of a name; 0: it has none.
func (t *symbolTable) first(off uint32) byte {
	if uint64(off) >= uint64(len(t.strings)) {
		return 0
	}
	return t.strings[off]
}

// name is the function that covers an address; "" none.
func (t *symbolTable) name(pc uint64) string {
	i, found := slices.BinarySearchFunc(t.symbols, pc, func(y symbol, pc uint64) int { return cmp.Compare(y.value, pc) })
	if !found {
		i--
	}
	// A function may lie in another one's range, and end before the address.
	for back := 0; i >= 0 && back < 16; i, back = i-1, back+1 {
		y := t.symbols[i]
		if pc-y.value < y.size || y.size == 0 && back == 0 && pc < y.end {
			name := t.text(y.name)
			if at := strings.IndexByte(name, '@'); at > 0 { // a symbol version
				name = name[:at]
			}
			return name
		}
	}
	return ""
}

func (t *symbolTable) cost() int64 { return int64(len(t.symbols))*40 + int64(len(t.strings)) }
