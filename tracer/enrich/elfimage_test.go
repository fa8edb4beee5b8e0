package enrich

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"runtime"
)

// elfImage is an ELF file that a test makes up.
type elfImage struct {
	sections []imageSection
}

type imageSection struct {
	name string
	kind elf.SectionType
	addr uint64
	flag elf.SectionFlag
	link uint32
	data []byte
}

const imageText = 0x1000 // where .text is, in the file and by address

func (m *elfImage) add(s imageSection) { m.sections = append(m.sections, s) }

// bytes lays it out: the head, two segments, .text at its address, then the rest,
// then the section headers. The first section is the empty one, the second .text.
func (m *elfImage) bytes(text []byte) []byte {
	machine := elf.EM_X86_64
	if runtime.GOARCH == "arm64" {
		machine = elf.EM_AARCH64
	}
	names := []byte{0}
	name := func(s string) uint32 {
		at := uint32(len(names))
		names = append(append(names, s...), 0)
		return at
	}
	all := append([]imageSection{{}, {name: ".text", kind: elf.SHT_PROGBITS, addr: imageText, flag: elf.SHF_ALLOC | elf.SHF_EXECINSTR, data: text}}, m.sections...)
	out := make([]byte, imageText, imageText+len(text))
	var headers []elf.Section64
	for i, s := range all {
		if i == 0 {
			headers = append(headers, elf.Section64{})
			continue
		}
		headers = append(headers, elf.Section64{
			Name: name(s.name), Type: uint32(s.kind), Flags: uint64(s.flag), Addr: s.addr, Off: uint64(len(out)), Size: uint64(len(s.data)),
			Link: s.link, Addralign: 1, Entsize: map[elf.SectionType]uint64{elf.SHT_SYMTAB: elf.Sym64Size, elf.SHT_DYNSYM: elf.Sym64Size}[s.kind],
		})
		out = append(out, s.data...)
	}
	headers = append(headers, elf.Section64{Name: name(".shstrtab"), Type: uint32(elf.SHT_STRTAB), Off: uint64(len(out)), Size: uint64(len(names)), Addralign: 1})
	out = append(out, names...)
	body := uint64(len(out))
	head := elf.Header64{
		Ident: [16]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), 1}, Type: uint16(elf.ET_DYN), Machine: uint16(machine), Version: 1,
		Phoff: 64, Shoff: body, Ehsize: 64, Phentsize: 56, Phnum: 2, Shentsize: 64, Shnum: uint16(len(headers)), Shstrndx: uint16(len(headers) - 1),
	}
	segments := []elf.Prog64{
		{Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X), Off: imageText, Vaddr: imageText, Filesz: uint64(len(text)), Memsz: uint64(len(text))},
		{Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_W), Off: imageText, Vaddr: imageText, Filesz: body - imageText, Memsz: body - imageText},
	}
	var b bytes.Buffer
	for _, x := range []any{head, segments} {
		_ = binary.Write(&b, binary.LittleEndian, x) // a buffer takes everything
	}
	copy(out, b.Bytes())
	b.Reset()
	_ = binary.Write(&b, binary.LittleEndian, headers)
	return append(out, b.Bytes()...)
}

// address is where a section's data will be, if it is the next one that is added.
func (m *elfImage) address(text []byte) uint64 {
	at := uint64(imageText + len(text))
	for _, s := range m.sections {
		at += uint64(len(s.data))
	}
	return at
}

// addSymbols adds a symbol table of functions in .text.
func (m *elfImage) addSymbols(symbols []elf.Sym64, strings []byte) {
	var b bytes.Buffer
	_ = binary.Write(&b, binary.LittleEndian, symbols)
	m.add(imageSection{name: ".symtab", kind: elf.SHT_SYMTAB, link: uint32(len(m.sections) + 3), data: b.Bytes()})
	m.add(imageSection{name: ".strtab", kind: elf.SHT_STRTAB, data: strings})
}

// honest is a program with two functions.
func honest() []byte {
	text := make([]byte, 64)
	var m elfImage
	m.addSymbols([]elf.Sym64{
		{},
		{Name: 1, Info: elf.ST_INFO(elf.STB_GLOBAL, elf.STT_FUNC), Shndx: 1, Value: imageText, Size: 32},
		{Name: 7, Info: elf.ST_INFO(elf.STB_GLOBAL, elf.STT_FUNC), Shndx: 1, Value: imageText + 32, Size: 32},
	}, []byte("\x00first\x00second\x00"))
	return m.bytes(text)
}

// hungry makes the reader of its section names ask for 16 GB.
func hungry() []byte {
	const sections, length = 2000, 8 << 20
	b := (&elfImage{}).bytes(make([]byte, 64))
	names := bytes.Repeat([]byte{'a'}, length)
	names[length-1] = 0
	at := uint64(len(b))
	b = append(b, names...)
	binary.LittleEndian.PutUint64(b[40:], uint64(len(b))) // e_shoff
	binary.LittleEndian.PutUint16(b[60:], sections)       // e_shnum
	binary.LittleEndian.PutUint16(b[62:], 1)              // e_shstrndx
	headers := make([]elf.Section64, sections)
	for i := range headers {
		headers[i] = elf.Section64{Type: uint32(elf.SHT_STRTAB), Off: at, Size: length, Name: uint32(i)}
	}
	headers[0] = elf.Section64{}
	var out bytes.Buffer
	_ = binary.Write(&out, binary.LittleEndian, headers)
	return append(b, out.Bytes()...)
}

// slow has many units that share a list of ranges which says nothing, entry by
// entry.
func slow() []byte {
	var m elfImage
	m.add(imageSection{name: ".debug_abbrev", kind: elf.SHT_PROGBITS, data: []byte{1, 0x11, 0, 0x55, 0x17, 0x11, 0x01, 0, 0, 0}})
	base := bytes.Repeat(append(bytes.Repeat([]byte{0xff}, 8), make([]byte, 8)...), 1<<20) // base address 0, again and again
	m.add(imageSection{name: ".debug_ranges", kind: elf.SHT_PROGBITS, data: append(base, make([]byte, 16)...)})
	var info []byte
	for range 20000 {
		info = binary.LittleEndian.AppendUint32(info, 20)
		info = append(binary.LittleEndian.AppendUint16(info, 4), 0, 0, 0, 0, 8, 1)
		info = append(info, make([]byte, 12)...)
	}
	m.add(imageSection{name: ".debug_info", kind: elf.SHT_PROGBITS, data: info})
	return m.bytes(make([]byte, 64))
}
