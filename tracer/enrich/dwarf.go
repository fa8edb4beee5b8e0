package enrich

import (
	"cmp"
	"debug/dwarf"
	"debug/elf"
	"encoding/binary"
	"errors"
	"io"
	"slices"
)

// dwarfTable answers from DWARF, versions 2 to 5.
type dwarfTable struct {
	data  *dwarf.Data
	lines []byte // .debug_line
	units []unitRange
	funcs map[dwarf.Offset][]funcRange // of the units that were asked for
	cost  int64
}

type unitRange struct {
	low, high uint64
	offset    dwarf.Offset // of the unit's first entry
}

type funcRange struct {
	low, high uint64
	offset    dwarf.Offset
}

const (
	maxRanges  = 1 << 20  // address ranges that are read for one question: of units, of a unit's functions, of what is inlined
	badRanges  = 1 << 12  // what a list that cannot be read counts for
	maxRows    = 1 << 22  // of a unit's line table
	maxLines   = 64 << 20 // bytes of a unit's line program
	maxEntries = 1 << 22  // entries of one unit that are looked at
	maxDepth   = 64       // functions inlined into each other
	maxUnits   = 64       // units whose functions are remembered
)

// dwarfSections are those that functions, lines and inlining are told by. The
// rest, places of variables above all, is as large again.
var dwarfSections = []string{".debug_info", ".debug_abbrev", ".debug_line", ".debug_ranges", ".debug_str",
	".debug_addr", ".debug_line_str", ".debug_str_offsets", ".debug_rnglists"}

// newDwarfTable is nil where there is no DWARF, or too much of it. Compressed
// sections are read (SHF_COMPRESSED), the .zdebug ones of before 2016 are not.
func newDwarfTable(f *elf.File) *dwarfTable {
	var total uint64
	sections := make(map[string]*elf.Section)
	for _, s := range f.Sections {
		if s.Type == elf.SHT_NOBITS || !slices.Contains(dwarfSections, s.Name) || sections[s.Name] != nil {
			continue
		}
		// Size is that of the contents, compressed or not.
		if s.Name == ".debug_info" && s.Size > maxDebugInfo || s.Size > maxDebugAll-total {
			return nil
		}
		sections[s.Name] = s
		total += s.Size
	}
	if sections[".debug_info"] == nil || sections[".debug_abbrev"] == nil {
		return nil
	}
	contents := make(map[string][]byte)
	for name, s := range sections {
		b, err := s.Data()
		if err != nil {
			return nil
		}
		contents[name] = b
	}
	raw := contents[".debug_info"]
	data, err := dwarf.New(contents[".debug_abbrev"], nil, nil, raw, contents[".debug_line"], nil,
		contents[".debug_ranges"], contents[".debug_str"])
	if err != nil {
		return nil
	}
	for _, name := range dwarfSections[5:] {
		if err := data.AddSection(name, contents[name]); err != nil {
			return nil
		}
	}
	t := &dwarfTable{data: data, lines: contents[".debug_line"], funcs: make(map[dwarf.Offset][]funcRange), cost: int64(total)}
	reader, left := data.Reader(), maxRanges
	for _, offset := range unitOffsets(raw) {
		reader.Seek(offset)
		e, err := reader.Next()
		if err != nil || e == nil || e.Tag != dwarf.TagCompileUnit {
			continue
		}
		for _, r := range t.ranges(e, &left) {
			if r[0] < r[1] {
				t.units = append(t.units, unitRange{r[0], r[1], offset})
			}
		}
		if left < 0 {
			return nil
		}
	}
	if len(t.units) == 0 {
		return nil
	}
	slices.SortStableFunc(t.units, func(a, b unitRange) int { return cmp.Compare(a.low, b.low) })
	t.cost += int64(len(t.units)) * 24
	return t
}

// ranges are the addresses of an entry. Many entries may share one long list, so
// what is read is counted, and not what is of use.
func (t *dwarfTable) ranges(e *dwarf.Entry, left *int) [][2]uint64 {
	if *left < 0 {
		return nil
	}
	ranges, err := t.data.Ranges(e)
	if err != nil {
		*left -= badRanges
		return nil
	}
	*left -= len(ranges)
	return ranges
}

// unitOffsets finds each unit's first entry by the headers alone. The readers of
// debug/dwarf would go through all the entries between.
func unitOffsets(info []byte) []dwarf.Offset {
	var out []dwarf.Offset
	for at := 0; at+12 <= len(info); {
		b := info[at:]
		length, head, word := uint64(binary.LittleEndian.Uint32(b)), 4, 4
		if length == 0xffffffff { // 64-bit DWARF
			if len(b) < 24 {
				break
			}
			length, head, word = binary.LittleEndian.Uint64(b[4:]), 12, 8
		}
		if length < 7 || length > uint64(len(b)-head) {
			break
		}
		version := binary.LittleEndian.Uint16(b[head:])
		first, compile := head+2+word+1, true // version, abbreviations, address size
		if version >= 5 {
			const (
				utCompile  = 1
				utPartial  = 3
				utSkeleton = 4
			)
			kind := b[head+2]
			first = head + 2 + 1 + 1 + word
			switch kind {
			case utCompile, utPartial:
			case utSkeleton:
				first += 8 // the id of the split unit
			default:
				compile = false
			}
		}
		if compile && uint64(first) < uint64(head)+length {
			out = append(out, dwarf.Offset(at+first))
		}
		at += head + int(length)
	}
	return out
}

// frames are the functions at an address, the innermost first. A function whose
// name is not told has an empty one.
func (t *dwarfTable) frames(pc uint64) []Frame {
	offset, ok := t.unit(pc)
	if !ok {
		return nil
	}
	reader := t.data.Reader()
	reader.Seek(offset)
	unit, err := reader.Next()
	if err != nil || unit == nil {
		return nil
	}
	file, line, files := t.line(unit, pc)
	// The outermost function is first until the end.
	out := []Frame{{}}
	if f, ok := t.function(offset, pc); ok {
		out = t.inlined(f.offset, pc, files)
	}
	out[len(out)-1].File, out[len(out)-1].Line = file, line
	slices.Reverse(out)
	if len(out) == 1 && out[0].Function == "" && line == 0 {
		return nil
	}
	return out
}

func (t *dwarfTable) unit(pc uint64) (dwarf.Offset, bool) {
	i, found := slices.BinarySearchFunc(t.units, pc, func(u unitRange, pc uint64) int { return cmp.Compare(u.low, pc) })
	if !found {
		i--
	}
	for back := 0; i >= 0 && back < 16; i, back = i-1, back+1 {
		if u := t.units[i]; pc < u.high && pc >= u.low {
			return u.offset, true
		}
	}
	return 0, false
}

// function finds the function with machine code of its own at an address.
func (t *dwarfTable) function(unit dwarf.Offset, pc uint64) (funcRange, bool) {
	funcs, ok := t.funcs[unit]
	if !ok {
		funcs = t.functions(unit)
		if len(t.funcs) >= maxUnits {
			clear(t.funcs)
		}
		t.funcs[unit] = funcs
	}
	i, found := slices.BinarySearchFunc(funcs, pc, func(f funcRange, pc uint64) int { return cmp.Compare(f.low, pc) })
	if !found {
		i--
	}
	for back := 0; i >= 0 && back < 16; i, back = i-1, back+1 {
		if f := funcs[i]; pc >= f.low && pc < f.high {
			return f, true
		}
	}
	return funcRange{}, false
}

func (t *dwarfTable) functions(unit dwarf.Offset) []funcRange {
	var out []funcRange
	reader := t.data.Reader()
	reader.Seek(unit)
	if e, err := reader.Next(); err != nil || e == nil || !e.Children {
		return nil
	}
	left := maxRanges
	for depth, n := 1, 0; depth > 0 && n < maxEntries && left >= 0; n++ {
		e, err := reader.Next()
		if err != nil || e == nil {
			break
		}
		switch e.Tag {
		case 0:
			depth--
			continue
		case dwarf.TagSubprogram:
			for _, r := range t.ranges(e, &left) {
				if r[0] < r[1] {
					out = append(out, funcRange{r[0], r[1], e.Offset})
				}
			}
			reader.SkipChildren()
		case dwarf.TagNamespace, dwarf.TagModule, dwarf.TagStructType, dwarf.TagClassType:
			if e.Children {
				depth++
			}
		default:
			reader.SkipChildren()
		}
	}
	slices.SortStableFunc(out, func(a, b funcRange) int { return cmp.Compare(a.low, b.low) })
	return out
}

// inlined goes from a function down to what is inlined at an address; the
// outermost is first. A frame's place is where the call of the next one stands;
// the last one's is left to the line table.
func (t *dwarfTable) inlined(offset dwarf.Offset, pc uint64, files []*dwarf.LineFile) []Frame {
	reader := t.data.Reader()
	reader.Seek(offset)
	e, err := reader.Next()
	if err != nil || e == nil {
		return []Frame{{}}
	}
	out := []Frame{{Function: t.functionName(e)}}
	if !e.Children {
		return out
	}
	left := maxRanges
	for depth, n := 1, 0; depth > 0 && n < maxEntries && len(out) < maxDepth && left >= 0; n++ {
		e, err := reader.Next()
		if err != nil || e == nil {
			break
		}
		switch e.Tag {
		case 0:
			depth--
		case dwarf.TagLexDwarfBlock, dwarf.TagInlinedSubroutine:
			if !e.Children && e.Tag == dwarf.TagLexDwarfBlock {
				continue
			}
			if !slices.ContainsFunc(t.ranges(e, &left), func(r [2]uint64) bool { return pc >= r[0] && pc < r[1] }) {
				reader.SkipChildren()
				continue
			}
			if e.Tag == dwarf.TagInlinedSubroutine {
				caller := &out[len(out)-1]
				if i, ok := e.Val(dwarf.AttrCallFile).(int64); ok && i >= 0 && i < int64(len(files)) && files[i] != nil {
					caller.File = files[i].Name
				}
				if line, ok := e.Val(dwarf.AttrCallLine).(int64); ok {
					caller.Line = int(line)
				}
				out = append(out, Frame{Function: t.functionName(e), Inlined: true})
			}
			// Only what is inside can tell more.
			if !e.Children {
				return out
			}
			depth = 1
		default:
			reader.SkipChildren()
		}
	}
	return out
}

// functionName is the linker's name, which tells namespace and arguments, or
// else the source's. Out-of-line and inlined copies refer to the declaration.
func (t *dwarfTable) functionName(e *dwarf.Entry) string {
	plain := ""
	for hops := 0; hops < 4; hops++ {
		for _, attr := range []dwarf.Attr{dwarf.AttrLinkageName, 0x2007 /* DW_AT_MIPS_linkage_name */} {
			if name, ok := e.Val(attr).(string); ok && name != "" {
				return name
			}
		}
		if name, ok := e.Val(dwarf.AttrName).(string); ok && plain == "" {
			plain = name
		}
		next, ok := e.Val(dwarf.AttrAbstractOrigin).(dwarf.Offset)
		if !ok {
			if next, ok = e.Val(dwarf.AttrSpecification).(dwarf.Offset); !ok {
				break
			}
		}
		reader := t.data.Reader()
		reader.Seek(next)
		var err error
		if e, err = reader.Next(); err != nil || e == nil {
			break
		}
	}
	return plain
}

// line reads the unit's line program to the address. LineReader.SeekPC wants the
// sequences in order, which sections per function do not give.
func (t *dwarfTable) line(unit *dwarf.Entry, pc uint64) (file string, line int, files []*dwarf.LineFile) {
	at, ok := unit.Val(dwarf.AttrStmtList).(int64)
	if !ok || at < 0 || at > int64(len(t.lines))-4 {
		return "", 0, nil
	}
	length := uint64(binary.LittleEndian.Uint32(t.lines[at:]))
	if length == 0xffffffff && at <= int64(len(t.lines))-12 { // 64-bit DWARF
		length = binary.LittleEndian.Uint64(t.lines[at+4:])
	}
	if length > maxLines {
		return "", 0, nil
	}
	reader, err := t.data.LineReader(unit)
	if err != nil || reader == nil {
		return "", 0, nil
	}
	var last, e dwarf.LineEntry
	inside := false
	for n := 0; ; n++ {
		if n == maxRows {
			return "", 0, reader.Files()
		}
		if err := reader.Next(&e); err != nil {
			if !errors.Is(err, io.EOF) {
				return "", 0, nil
			}
			return "", 0, reader.Files()
		}
		if inside && last.Address <= pc && pc < e.Address {
			if last.File != nil {
				file = last.File.Name
			}
			return file, last.Line, reader.Files()
		}
		last, inside = e, !e.EndSequence
	}
}
