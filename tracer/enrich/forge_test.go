package enrich

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// forger makes ELF files that are well formed as far as its bytes let them be, so
// that what is wrong with them is found late. Each byte is a choice; when they are
// used up all choices are 0.
type forger struct {
	choices []byte
	room    int // bytes of one section, more or less
	left    int // of this one
}

func (g *forger) begin() { g.left = g.room }

func (g *forger) byte() byte {
	if len(g.choices) == 0 {
		return 0
	}
	b := g.choices[0]
	g.choices = g.choices[1:]
	return b
}

func (g *forger) below(n int) int { return int(g.byte()) % n }

// number is small, or an address of .text, or at the edge of something.
func (g *forger) number() uint64 {
	switch b := g.byte(); b % 8 {
	case 0, 1, 2:
		return uint64(b >> 3)
	case 3:
		return uint64(g.byte())<<8 | uint64(g.byte())
	case 4, 5:
		return imageText + uint64(g.byte())
	case 6:
		return 1 << (b >> 3 << 1)
	default:
		return ^uint64(b >> 3)
	}
}

// times says how often something is repeated that has a size: mostly once, and
// then as often as there is room for.
func (g *forger) times(size int) int {
	n := 1
	if b := g.byte(); b%8 == 7 {
		n = 1 << (b >> 3 % 22)
	}
	n = max(1, min(n, g.left/max(1, size)))
	g.left -= n * size
	return n
}

func uleb(b []byte, v uint64) []byte { return binary.AppendUvarint(b, v) }

func (g *forger) repeat(out, piece []byte) []byte {
	return append(out, bytes.Repeat(piece, g.times(len(piece)))...)
}

// cfi is instructions for call frames.
func (g *forger) cfi() (out []byte) {
	for range g.below(12) {
		var op []byte
		switch g.below(10) {
		case 0:
			op = []byte{0x40 | g.byte()&0x3f}
		case 1:
			op = uleb([]byte{0x80 | g.byte()&0x3f}, g.number())
		case 2:
			op = []byte{0xc0 | g.byte()&0x3f}
		case 3:
			op = uleb(uleb([]byte{[]byte{cfaOffsetExtended, cfaDefCFA, cfaRegister, cfaValOffset}[g.below(4)]}, g.number()), g.number())
		case 4:
			op = []byte{cfaRememberState}
		case 5:
			op = []byte{cfaRestoreState}
		case 6:
			op = uleb([]byte{[]byte{cfaUndefined, cfaSameValue, cfaDefCFARegister, cfaDefCFAOffset, cfaRestoreExtended}[g.below(5)]}, g.number())
		case 7:
			op = uleb([]byte{cfaDefCFAExpr}, g.number())
		case 8:
			op = []byte{cfaDefCFA, byte(amd64.sp), g.byte()}
		case 9:
			op = []byte{g.byte()}
		}
		out = g.repeat(out, op)
	}
	return out
}

func sized(out, body []byte) []byte {
	return append(binary.LittleEndian.AppendUint32(out, uint32(len(body))), body...)
}

func (g *forger) ehFrame() (out []byte) {
	g.begin()
	for range 1 + g.below(3) {
		start := len(out)
		cie := append([]byte{0, 0, 0, 0, 1, 'z', 'R', 0}, uleb(uleb(nil, g.number()|1), uint64(g.byte()&0x7f))...)
		cie = append(cie, byte(amd64.ra), 1, []byte{0, 0, 0, 0, 0x1b, 0x10, 3, g.byte()}[g.below(8)])
		out = sized(out, append(cie, g.cfi()...))
		for range 1 + g.below(3) {
			fde := binary.LittleEndian.AppendUint32(nil, uint32(len(out)+4-start))
			fde = binary.LittleEndian.AppendUint64(fde, imageText+uint64(g.byte()))
			if g.byte()%4 == 3 {
				fde = binary.LittleEndian.AppendUint64(fde, g.number())
			} else {
				fde = binary.LittleEndian.AppendUint64(fde, 1+uint64(g.byte()))
			}
			piece := sized(nil, append(append(fde, 0), g.cfi()...))
			if n := g.times(len(piece)); n == 1 {
				out = append(out, piece...)
			} else {
				for range n { // each tells where its CIE is
					binary.LittleEndian.PutUint32(piece[4:], uint32(len(out)+4-start))
					out = append(out, piece...)
				}
			}
		}
	}
	return out
}

// The attributes of an entry, with forms of both kinds: inside and by reference.
var attributes = [][2]byte{
	{0x55, 0x17}, // ranges, section offset
	{0x11, 0x01}, // low_pc, address
	{0x12, 0x01}, // high_pc
	{0x12, 0x06}, // as a size, data4
	{0x10, 0x17}, // stmt_list
	{0x03, 0x08}, // name, in place
	{0x03, 0x0e}, // .debug_str
	{0x6e, 0x0e}, // linkage_name
	{0x31, 0x13}, // abstract_origin, ref4
	{0x47, 0x13}, // specification
	{0x58, 0x0b}, // call_file
	{0x59, 0x0b}, // call_line
	{0x01, 0x13}, // sibling
	{0x55, 0x23}, // rnglistx
	{0x03, 0x0a}, // block1
	{0x03, 0x25}, // strx1
}

var tags = []byte{0x11, 0x2e, 0x1d, 0x0b, 0x39, 0x13, 0x34}

const maxAbbrevs = 8

func (g *forger) dwarf(m *elfImage) {
	g.begin()
	var abbrev, info []byte
	forms := make([][]byte, maxAbbrevs)
	for i := range forms {
		tag := tags[g.below(len(tags))]
		if i == 0 {
			tag = 0x11
		}
		abbrev = append(abbrev, byte(i+1), tag, g.byte()&1)
		if i == 0 {
			abbrev[2] = 1
		}
		with := attributes[:0:0]
		switch {
		case g.byte()%4 == 3:
		case i == 0: // most units have addresses and lines
			with = [][2]byte{{0x11, 0x01}, {0x12, 0x06}, {0x10, 0x17}}
		case tag == 0x2e || tag == 0x1d:
			with = [][2]byte{{0x11, 0x01}, {0x12, 0x06}, {0x03, 0x08}}
		}
		for range g.below(6) {
			with = append(with, attributes[g.below(len(attributes))])
		}
		for _, a := range with {
			abbrev = append(abbrev, a[0], a[1])
			forms[i] = append(forms[i], a[1])
		}
		abbrev = append(abbrev, 0, 0)
	}
	abbrev = append(abbrev, 0)
	entry := func(i int) []byte {
		out := []byte{byte(i + 1)}
		for _, form := range forms[i] {
			switch form {
			case 0x06:
				out = binary.LittleEndian.AppendUint32(out, 16*uint32(g.byte()))
			case 0x17, 0x0e, 0x13:
				if g.byte()%4 != 3 {
					out = append(out, 0, 0, 0, 0) // the section's beginning
					continue
				}
				out = binary.LittleEndian.AppendUint32(out, uint32(g.number()))
			case 0x01:
				out = binary.LittleEndian.AppendUint64(out, imageText+uint64(g.byte()))
			case 0x08:
				out = append(append(out, "_Z1fv"[:g.below(6)]...), 0)
			case 0x0a:
				out = append(out, 1, 0)
			default:
				out = append(out, g.byte())
			}
		}
		return out
	}
	for range 1 + g.below(3) {
		version := []uint16{4, 5, 3, 2}[g.below(4)]
		unit := binary.LittleEndian.AppendUint16(nil, version)
		if version == 5 {
			unit = append(unit, 1, 8, 0, 0, 0, 0)
		} else {
			unit = append(unit, 0, 0, 0, 0, 8)
		}
		unit = append(unit, entry(0)...)
		for range g.below(8) {
			var piece []byte
			for range 1 + g.below(3) {
				if i := g.below(maxAbbrevs + 1); i < maxAbbrevs {
					piece = append(piece, entry(i)...)
				} else {
					piece = append(piece, 0)
				}
			}
			unit = g.repeat(unit, piece)
		}
		info = g.repeat(info, sized(nil, unit))
	}
	g.begin()
	var ranges, lists []byte
	for range 1 + g.below(4) {
		pair := binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, g.number()), g.number())
		ranges = g.repeat(ranges, pair)
		lists = g.repeat(lists, append([]byte{[]byte{7, 6, 5, 4, 3, g.byte()}[g.below(6)]}, pair...))
	}
	for _, s := range []imageSection{
		{name: ".debug_abbrev", data: abbrev}, {name: ".debug_info", data: info},
		{name: ".debug_ranges", data: append(ranges, make([]byte, 16)...)},
		{name: ".debug_rnglists", data: append(sized(nil, append([]byte{5, 0, 8, 0, 0, 0, 0, 0}, lists...)), 0)},
		{name: ".debug_line", data: g.lines()}, {name: ".debug_str", data: g.repeat(nil, []byte("_ZN1aIiE1bEv"[:g.below(13)]))},
	} {
		s.kind = elf.SHT_PROGBITS
		m.add(s)
	}
}

func (g *forger) lines() (out []byte) {
	g.begin()
	for range 1 + g.below(2) {
		head := []byte{1, 1, 1, 0xfb, 14, 13, 0, 1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 1, 0}
		for range g.below(3) {
			head = g.repeat(head, append([]byte("a.c\x00"), 0, 0, 0))
		}
		head = append(head, 0)
		program := binary.LittleEndian.AppendUint64([]byte{0, 9, 2}, imageText)
		for range g.below(10) {
			program = g.repeat(program, [][]byte{
				{g.byte()}, {0x20 + g.byte()%0xd0}, {1}, {8}, {9, g.byte(), g.byte()}, {2, g.byte()}, {3, g.byte() & 0x7f}, {0, 1, 1}, {0, g.byte() & 0x7f, g.byte()},
			}[g.below(9)])
		}
		program = append(program, 0, 1, 1)
		body := binary.LittleEndian.AppendUint16(nil, 4)
		body = append(sized(body, head), program...)
		out = sized(out, body)
	}
	return out
}

// golang is a table of the Go runtime, and what may be taken for one.
func (g *forger) golang() (out []byte) {
	g.begin()
	word := func(v uint64) { out = binary.LittleEndian.AppendUint64(out, v) }
	if g.byte()%4 == 3 {
		out = g.repeat(out, binary.LittleEndian.AppendUint64(nil, goMagic120|0x0801<<48))
	}
	count := 1 + g.below(8)
	out = binary.LittleEndian.AppendUint32(out, []uint32{goMagic120, goMagic118}[g.below(2)])
	out = append(out, 0, 0, 1, 8)
	base := len(out) - 8
	word(uint64(count))
	word(1)
	word(imageText)
	for range 5 {
		word(72 + uint64(g.below(4))*16)
	}
	for len(out)-base < 72 {
		out = append(out, 0)
	}
	for i := range count {
		out = binary.LittleEndian.AppendUint32(out, uint32(i*16))
		out = binary.LittleEndian.AppendUint32(out, uint32(g.number()))
	}
	out = binary.LittleEndian.AppendUint32(out, uint32(count*16))
	for range g.below(6) {
		out = g.repeat(out, [][]byte{{g.byte(), g.byte()}, binary.LittleEndian.AppendUint32(nil, uint32(g.number())), {2, 1}}[g.below(3)])
	}
	return out
}

func (g *forger) symbols(m *elfImage) {
	g.begin()
	strings := []byte{0}
	for range 1 + g.below(4) {
		strings = append(g.repeat(strings, []byte{'_', 'Z', g.byte()}[:1+g.below(3)]), 0)
	}
	var all []elf.Sym64
	for range 1 + g.below(6) {
		y := elf.Sym64{Name: uint32(g.number()), Info: g.byte()&0x11 | 2, Shndx: 1, Value: imageText + uint64(g.byte()), Size: g.number()}
		if g.byte()%4 == 3 {
			y.Info &= 0x10
		}
		for range g.times(elf.Sym64Size) {
			y.Name++
			all = append(all, y)
		}
	}
	m.addSymbols(all, strings)
}

// forge is a file, with sections of about so many bytes at most.
func forge(choices []byte, room int) []byte {
	g := &forger{choices: choices, room: room, left: room}
	var m elfImage
	text := make([]byte, 256)
	what := g.byte()
	if what&1 == 0 {
		data := g.ehFrame()
		m.add(imageSection{name: ".eh_frame", kind: elf.SHT_PROGBITS, flag: elf.SHF_ALLOC, addr: m.address(text), data: data})
	}
	if what&2 == 0 {
		g.dwarf(&m)
	}
	if what&4 == 0 {
		name := ".gopclntab"
		if g.byte()%2 == 1 {
			name = ".note.go.buildid"
		}
		data := g.golang()
		for m.address(text)%8 != 0 {
			text = append(text, 0)
		}
		m.add(imageSection{name: name, kind: elf.SHT_PROGBITS, flag: elf.SHF_ALLOC, addr: m.address(text), data: data})
		module := binary.LittleEndian.AppendUint64(nil, m.address(text)-uint64(len(data)))
		m.add(imageSection{name: ".go.module", kind: elf.SHT_PROGBITS, addr: m.address(text), data: g.repeat(nil, append(module, make([]byte, 8)...))})
	}
	if what&8 == 0 {
		g.symbols(&m)
	}
	b := m.bytes(text)
	for range max(0, g.below(8)-4) { // what the forger would not do
		b[64+int(g.number()*257%uint64(len(b)-64))] = g.byte()
	}
	return b
}

// seeds are choices that lead far.
func seeds() [][]byte {
	all := [][]byte{{}}
	for i := range byte(64) {
		b := make([]byte, 400)
		x := uint32(i)*2654435761 + 1
		for j := range b {
			x = x*1664525 + 1013904223
			b[j] = byte(x >> 24)
		}
		b[0] = i
		all = append(all, b)
	}
	return all
}

// What is forged is taken for what it looks like.
func TestForge(t *testing.T) {
	var unwind, rows, info, named, golang, symbols int
	for _, b := range seeds() {
		program := forge(b, 16<<10)
		tables := readTables(bytes.NewReader(program), int64(len(program)), func(string) *os.File { return nil })
		if tables == nil {
			continue
		}
		if tables.unwind != nil {
			unwind++
			for pc := uint64(imageText); pc < imageText+256; pc++ {
				if _, ok := tables.unwind.row(pc); ok {
					rows++
				}
			}
		}
		if tables.dwarf != nil {
			info++
			for pc := uint64(imageText); pc < imageText+256; pc++ {
				named += len(tables.dwarf.frames(pc))
			}
		}
		if tables.golang != nil {
			golang++
		}
		if tables.symbols != nil {
			symbols++
		}
	}
	t.Logf("%d unwind tables with %d rows, %d of DWARF with %d frames, %d of Go, %d of symbols", unwind, rows, info, named, golang, symbols)
	for what, n := range map[string]int{"unwind tables": unwind, "rows": rows, "DWARF": info, "frames of DWARF": named, "tables of Go": golang, "symbols": symbols} {
		if n == 0 {
			t.Errorf("no forged file has %s", what)
		}
	}
}

// askAll asks tables all that a stack would.
func askAll(tables *tables) (names []string) {
	for _, s := range tables.segments {
		for pc := s.vaddr; pc < s.vaddr+min(s.size, 256); pc += 17 {
			for _, x := range tables.frames(pc) {
				names = append(names, x.Function)
			}
			if tables.unwind != nil {
				tables.unwind.row(pc)
			}
		}
	}
	return names
}

// FuzzForged reads small forged files: whatever is in them, the work and the
// memory stay in proportion.
func FuzzForged(f *testing.F) {
	for _, b := range seeds() {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, choices []byte) {
		program := forge(choices, 16<<10)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		began := time.Now()
		if tables := readTables(bytes.NewReader(program), int64(len(program)), func(string) *os.File { return nil }); tables != nil {
			askAll(tables)
		}
		took := time.Since(began)
		runtime.ReadMemStats(&after)
		if most := uint64(512 << 20); after.TotalAlloc-before.TotalAlloc > most {
			t.Errorf("%d bytes ask for %d MB", len(program), (after.TotalAlloc-before.TotalAlloc)>>20)
		}
		if took > 10*time.Second {
			t.Errorf("%d bytes take %v", len(program), took)
		}
	})
}

// FuzzHostile has forged files of megabytes read as those of a traced process are:
// nothing but their names is lost.
func FuzzHostile(f *testing.F) {
	if raced {
		f.Skip("the race detector needs more memory than the process that reads symbols may have")
	}
	for _, b := range seeds()[:16] {
		f.Add(b)
	}
	s := limitedSymbols(f, 8, limits{time.Second, 20 * time.Second, 256 << 20})
	pid := uint32(nobodys)
	f.Fuzz(func(t *testing.T, choices []byte) {
		program := forge(choices, 1<<20)
		pid += 2
		evil := Owner{UID: pid}
		theirs, own := invent(t, s, pid+1, program), invent(t, s, pid, honest())
		var addresses []uint64
		for i := range uint64(12) {
			addresses = append(addresses, theirs+17*i)
		}
		began := time.Now()
		frames := s.Name(pid+1, evil, event0(addresses)).Wait(t.Context())
		if len(frames) < 1 {
			t.Error("a stack without a frame")
		}
		for _, x := range frames {
			if x.Module != "/program" {
				t.Errorf("%+v", x)
			}
		}
		if took := time.Since(began); took > time.Minute {
			t.Errorf("%d bytes take %v", len(program), took)
		}
		if got, missed := s.names(pid, Owner{UID: 1}, own, own+33); missed || strings.Join(got, " ") != "first second" {
			t.Errorf("another program's: %q, %s", got, fmt.Sprint(s.Unnamed()))
		}
	})
}
