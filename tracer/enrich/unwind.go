package enrich

import (
	"encoding/binary"
	"runtime"
	"slices"
)

// maxCalls bounds a stack.
const maxCalls = 128

// registers are what unwinding needs of a thread.
type registers struct{ pc, sp, fp, lr uint64 }

func (s *Symbols) unwind(n *Naming, p *space) []uint64 {
	raw := n.stack
	r := registers{raw.PC, raw.SP, raw.FP, raw.LR}
	if _, known := machines[runtime.GOARCH]; !known || r.pc == 0 || r.sp == 0 {
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
		innermost := len(out) == 1
		next, ok := caller(s.row(n, p, call(len(out)-1, r.pc)), r, innermost, memory)
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

// caller is where a function returns to, by its row.
func caller(f *row, r registers, innermost bool, memory func(uint64) (uint64, bool)) (next registers, ok bool) {
	switch {
	case f == nil:
		return next, false
	case f.CFA == cfaSP:
		next.sp = r.sp
	case f.CFA == cfaFP:
		next.sp = r.fp
	default:
		return next, false
	}
	next.sp += uint64(f.Offset)
	if next.sp < r.sp {
		return next, false
	}
	saved := func(x rule, otherwise uint64) (uint64, bool) {
		switch x.Kind {
		case ruleUnset, ruleSame:
			return otherwise, true
		case ruleUndefined:
			return 0, true
		case ruleOffset:
			return memory(next.sp + uint64(x.Offset))
		}
		return 0, false
	}
	if next.pc, ok = saved(f.RA, r.lr); !ok {
		return next, false
	}
	if f.RA.Kind == ruleUnset && !innermost {
		return next, false // a link register that has been used by now
	}
	next.fp, ok = saved(f.FP, r.fp)
	return next, ok
}
