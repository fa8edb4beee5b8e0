package event

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

// A Frame is one call of a user stack. What is not known is zero.
type Frame struct {
	Addr     uint64 `json:"addr,omitempty"`     // in the process, where nothing else is known
	Function string `json:"function,omitempty"` // demangled
	File     string `json:"file,omitempty"`
	Line     int    `json:"line,omitempty"`
	Module   string `json:"module,omitempty"` // path of the executable or library
	Offset   uint64 `json:"offset,omitempty"` // in the module, as addr2line(1) takes it
}

// A RawStack is a thread's stack as the kernel half found it.
type RawStack struct {
	PC, SP, FP, LR uint64   // registers, 0: not known; LR: 0 on amd64
	Chain          []uint64 // by frame pointers, the innermost first: PC and return addresses
	Memory         []byte   // from SP on
}

// A Stack is the calls that a thread was in, in a form that can be compared: a
// RawStack, or the Frames that were made of it. Only the latter is recorded:
// memory may hold anything.
type Stack string

// StackOf makes a Stack of named calls, the innermost first.
func StackOf(frames []Frame) Stack {
	if len(frames) == 0 {
		return ""
	}
	// A slice of strings and numbers is always encoded.
	b, _ := json.Marshal(frames)
	return Stack(b)
}

// rawMark begins a RawStack: no JSON begins so.
const rawMark = 0

// StackOfRaw makes a Stack of what is not named yet.
func StackOfRaw(r RawStack) Stack {
	b := make([]byte, 0, 1+8*(5+len(r.Chain))+len(r.Memory))
	b = append(b, rawMark)
	for _, x := range slices.Concat([]uint64{r.PC, r.SP, r.FP, r.LR, uint64(len(r.Chain))}, r.Chain) {
		b = binary.LittleEndian.AppendUint64(b, x)
	}
	return Stack(append(b, r.Memory...))
}

// Raw is the RawStack, if it is one.
func (s Stack) Raw() (r RawStack, ok bool) {
	const head = 1 + 8*5
	if len(s) < head || s[0] != rawMark {
		return r, false
	}
	b := []byte(s[1:])
	word := func(i int) uint64 { return binary.LittleEndian.Uint64(b[8*i:]) }
	r.PC, r.SP, r.FP, r.LR = word(0), word(1), word(2), word(3)
	n := word(4)
	if n > uint64(len(b)/8-5) {
		return r, false
	}
	for i := range int(n) {
		r.Chain = append(r.Chain, word(5+i))
	}
	r.Memory = b[8*(5+n):]
	return r, true
}

// Named is the stack without what must not be recorded.
func (s Stack) Named() Stack {
	raw, ok := s.Raw()
	if !ok {
		return s
	}
	var frames []Frame
	for _, a := range raw.Chain {
		frames = append(frames, Frame{Addr: a})
	}
	return StackOf(frames)
}

// Frames are the calls, the innermost first.
func (s Stack) Frames() ([]Frame, error) {
	s = s.Named()
	if s == "" {
		return nil, nil
	}
	if s[0] == rawMark {
		return nil, errors.New("a stack that is cut")
	}
	var frames []Frame
	if err := json.Unmarshal([]byte(s), &frames); err != nil {
		return nil, fmt.Errorf("a stack that cannot be read: %w", err)
	}
	return frames, nil
}
