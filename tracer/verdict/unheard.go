package verdict

import (
	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
)

// Unheard says whether nothing speaks of a reset or of an error in an ending of
// which events were lost: it is unknown for want of them, and the closing line
// counts them. That alone is no alarm.
func Unheard(c *conn.Connection, v Verdict) bool {
	return c.Lossy && v.Class == Unknown && v.Reset == nil && !event.Any(c.Events, func(e *event.Event) bool {
		switch e.Hook {
		case event.HookReset, event.HookSendReset, event.HookSendActiveReset, event.HookAbort, event.HookDisconnect, event.HookChildForget, event.HookSynDrop:
			return true
		case event.HookStreamError, event.HookReceive:
			return e.Arg < 0
		case event.HookSetState:
			return e.ToState == event.Close && e.Err != 0
		}
		return false
	})
}
