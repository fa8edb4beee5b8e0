package verdict

import (
	"fmt"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
)

// What was seen does not say how it ended.
const (
	UnknownCause Cause = "unknown"
)

var unknownCause = Rule{
	Cause: UnknownCause, Class: Unknown, describe: describeUnknown,
	symptoms: map[string]int{"ERROR": 3},
	What: "What was seen does not say how the connection ended. " +
		"Either it was open before the trace began and too little of it was seen, or events were lost, or a hook that tells two causes apart could not be attached on this kernel: the verdict names the missing ones. " +
		"The state, the error and the counters at the end are still true; but they do not show the cause.",
	Prove: "Narrow it down with `tcpdump -nni any tcp port PORT` (who sent FIN or RST) and `nstat` before and after (which TcpExtTCPAbort counter moved).",
	Do:    "Trace from before the connection is opened, with every hook attached.",
	Refs:  []string{"tcp(7)", "nstat(8)", "tcpdump(8)", "inet_sk_state_store"},
}

func describeUnknown(t *trial) string {
	if r := t.a.incoming(); r != nil && t.b == nil {
		return fmt.Sprintf("%s, or something that answers for it, reset the connection of %s. The RST itself was not seen here, so whether it came on its own or in answer to a segment is not known.%s",
			t.a.c.Remote, end(t.a), r.reading(t))
	}
	s := "What was seen does not say how this connection ended"
	if t.a.c.Replaced {
		return "The end of this connection was not seen: the kernel has used the memory of its socket for another connection since."
	}
	if t.a.closed != none {
		s += fmt.Sprintf(" (%s → CLOSE, %s)", t.a.end().State, t.a.end().Err)
	}
	return s + "."
}

// UnknownForLoss says whether an ending is unknown only because events were lost: nothing
// that was seen hints at a reset or an error. The closing line counts the losses; such
// an ending alone is no alarm.
func UnknownForLoss(c *conn.Connection, v Verdict) bool {
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
