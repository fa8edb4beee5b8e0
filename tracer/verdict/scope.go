package verdict

import (
	"slices"

	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/record"
)

// Scope is what the trace could see. The zero value means that every hook was
// attached, and tells everything.
type Scope struct {
	Missing []event.Hook // hooks that were not attached
	// Partial are hooks that do not tell every event where they are attached.
	Partial []event.Hook

	// Brief leaves out what a row of a table does not show, and what takes most of
	// the time: AppSaw, Retry, RetryWhy, Sentence, Advice and Evidence.
	Brief bool
}

func (s Scope) has(h event.Hook) bool { return !slices.Contains(s.Missing, h) }

// all says whether the hook tells every event: what it did not tell did not
// happen.
func (s Scope) all(h event.Hook) bool { return s.has(h) && !slices.Contains(s.Partial, h) }

// ScopeOf is what a trace could see, by its head.
func ScopeOf(m record.Meta) Scope {
	s := Scope{Missing: m.Missing()}
	for _, r := range m.Rungs {
		if r.Hook != event.HookSendReset || r.Rung == "" {
			continue
		}
		all := !r.Blind && r.Rung != "tp_btf" && r.Rung != "tracepoint" // rather less certain than wrong
		if r.All != nil {
			all = *r.All
		}
		if !all {
			s.Partial = append(s.Partial, r.Hook)
		}
	}
	return s
}

// Detail is how much of a plain ending somebody asks for.
type Detail uint8

const (
	DetailRow     Detail = iota // who, how, when, and how much
	DetailVerdict               // all of the verdict but the evidence
	DetailEvents                // the events, too
)
