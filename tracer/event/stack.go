package event

import (
	"encoding/json"
	"fmt"
)

// A Frame is one call of a user stack, the innermost first. What is not known
// is zero.
type Frame struct {
	Addr     uint64 `json:"addr,omitempty"`     // in the process, until it is resolved
	Function string `json:"function,omitempty"` // demangled
	File     string `json:"file,omitempty"`
	Line     int    `json:"line,omitempty"`
	Module   string `json:"module,omitempty"` // path of the executable or library
	Offset   uint64 `json:"offset,omitempty"` // in the module's file
}

// A Stack is the calls that a thread was in, in a form that can be compared.
type Stack string

// StackOf makes a Stack.
func StackOf(frames []Frame) Stack {
	if len(frames) == 0 {
		return ""
	}
	// A slice of strings and numbers is always encoded.
	b, _ := json.Marshal(frames)
	return Stack(b)
}

// Frames are the calls, the innermost first.
func (s Stack) Frames() ([]Frame, error) {
	if s == "" {
		return nil, nil
	}
	var frames []Frame
	if err := json.Unmarshal([]byte(s), &frames); err != nil {
		return nil, fmt.Errorf("a stack that cannot be read: %w", err)
	}
	return frames, nil
}
