package enrich

import (
	"cmp"
	"debug/elf"
	"encoding/binary"
	"runtime"
	"slices"

	"github.com/go-delve/delve/pkg/dwarf/frame"

	"github.com/tcpbye/tcpbye/tracer/event"
)

// maxUnwindData is the most of .eh_frame that is read, in bytes.
const maxUnwindData = 64 << 20

// maxCalls bounds a stack.
const maxCalls = 128

// A machine says which of DWARF's registers are which (System V ABI, AMD64
// supplement, figure 3.36; DWARF for the Arm 64-bit Architecture, 4.1).
type machine struct{ fp, sp, ra uint64 }

var machines = map[string]machine{"amd64": {6, 7, 16}, "arm64": {29, 31, 30}}

// newUnwindTable reads how to unwind a file's functions, which nearly every file
// tells, stripped or not: C++ exceptions need it. Go's own code has none.
func newUnwindTable(f *elf.File) (entries frame.FrameDescriptionEntries, cost int64) {
	s := f.Section(".eh_frame")
	if s == nil || s.Type == elf.SHT_NOBITS || s.Size > maxUnwindData {
		return nil, 0
	}
	data, err := s.Data()
	if err != nil {
		return nil, 0
	}
	defer func() {
		if recover() != nil { // as readTables
			entries, cost = nil, 0
		}
	}()
	if entries, err = frame.Parse(data, binary.LittleEndian, 0, 8, s.Addr); err != nil {
		return nil, 0
	}
	slices.SortFunc(entries, func(a, b *frame.FrameDescriptionEntry) int { return cmp.Compare(a.Begin(), b.Begin()) })
	return entries, int64(len(data) + 128*len(entries))
}

// registers are what unwinding needs of a thread.
type registers struct{ pc, sp, fp, lr uint64 }

// ResolveStack names the calls of a stack, the innermost first. Where a file
// tells how to unwind it, that is done; else frame pointers must do. See Resolve.
func (s *Symbols) ResolveStack(pid uint32, raw event.RawStack) []Frame {
	s.resolving.Lock()
	s.mu.Lock()
	s.sweep()
	p := s.space(pid, append([]uint64{raw.PC}, raw.Chain...))
	s.mu.Unlock()
	addresses := s.unwind(pid, p, raw)
	s.resolving.Unlock()
	return s.Resolve(pid, addresses)
}

func (s *Symbols) unwind(pid uint32, p *space, raw event.RawStack) []uint64 {
	r := registers{raw.PC, raw.SP, raw.FP, raw.LR}
	if r.pc == 0 || r.sp == 0 {
		return raw.Chain
	}
	memory := func(at uint64) (uint64, bool) {
		if at < raw.SP || at-raw.SP > uint64(len(raw.Memory)) || uint64(len(raw.Memory))-(at-raw.SP) < 8 {
			return 0, false
		}
		return binary.LittleEndian.Uint64(raw.Memory[at-raw.SP:]), true
	}
	out := []uint64{r.pc}
	for len(out) < maxCalls {
		next, ok := s.caller(pid, p, r, len(out) == 1, memory)
		if !ok {
			break
		}
		if next.pc == 0 {
			return out // the outermost
		}
		r = next
		out = append(out, r.pc)
	}
	// What has no table has frame pointers, or so it is hoped: the kernel has
	// followed them from the beginning, and further than the piece goes. What it
	// found holds from a call on that was found here, too.
	if i := slices.Index(raw.Chain, r.pc); i >= 0 {
		return append(out, raw.Chain[i+1:]...)
	}
	if len(out) == 1 {
		return raw.Chain
	}
	for len(out) < maxCalls {
		fp, ok1 := memory(r.fp)
		pc, ok2 := memory(r.fp + 8)
		if !ok1 || !ok2 || fp <= r.fp || p.find(pc) == nil {
			break
		}
		r.fp, r.pc = fp, pc
		out = append(out, pc)
		if i := slices.Index(raw.Chain, pc); i >= 0 {
			return append(out, raw.Chain[i+1:]...)
		}
	}
	return out
}

// caller is where a function returns to, by its file's table.
func (s *Symbols) caller(pid uint32, p *space, r registers, innermost bool, memory func(uint64) (uint64, bool)) (next registers, ok bool) {
	m, known := machines[runtime.GOARCH]
	pc := r.pc
	if !innermost {
		pc-- // the call, which may be the function's last instruction
	}
	mapped := p.find(pc)
	if !known || mapped == nil {
		return next, false
	}
	mod := s.load(pid, mapped)
	if mod == nil || mod.tables == nil || mod.tables.unwind == nil {
		return next, false
	}
	vaddr, ok := mod.tables.vaddr(pc - mapped.start + mapped.off)
	if !ok {
		return next, false
	}
	defer func() {
		if recover() != nil { // as readTables
			next, ok = registers{}, false
		}
	}()
	fde, err := mod.tables.unwind.FDEForPC(vaddr)
	if err != nil {
		return next, false
	}
	f, err := fde.EstablishFrame(vaddr)
	if err != nil || f.CFA.Rule != frame.RuleCFA {
		return next, false
	}
	switch f.CFA.Reg {
	case m.sp:
		next.sp = r.sp
	case m.fp:
		next.sp = r.fp
	default:
		return next, false
	}
	next.sp += uint64(f.CFA.Offset)
	if next.sp < r.sp {
		return next, false
	}
	saved := func(reg, otherwise uint64) (uint64, bool) {
		rule, has := f.Regs[reg]
		switch {
		case !has || rule.Rule == frame.RuleSameVal:
			return otherwise, true
		case rule.Rule == frame.RuleUndefined:
			return 0, true
		case rule.Rule == frame.RuleOffset:
			return memory(next.sp + uint64(rule.Offset))
		}
		return 0, false
	}
	if next.pc, ok = saved(m.ra, r.lr); !ok {
		return next, false
	}
	if _, has := f.Regs[m.ra]; !has && !innermost {
		return next, false // a link register that has been used by now
	}
	next.fp, ok = saved(m.fp, r.fp)
	return next, ok
}
