package export

import (
	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// Ended says whether it is an end at all: a connection that is open when the agent
// stops has none.
func Ended(v *verdict.Verdict) bool { return v.Class != verdict.Open }

// Notable says whether an end is always an event. The others ended gracefully: both
// sides said goodbye, nothing was lost, and nobody waits for an answer.
func Notable(v *verdict.Verdict) bool {
	return v.Class != verdict.Graceful || v.Unanswered != nil || lost(v) > 0
}

// Sure says whether nothing could refute the verdict.
func Sure(v *verdict.Verdict) bool { return v.Confidence == verdict.Certain }

func lost(v *verdict.Verdict) (n uint64) {
	for _, b := range []*uint64{v.Lost.Unread, v.Lost.Unsent, v.Lost.Unacked} {
		if b != nil {
			n += *b
		}
	}
	return n
}

// Severity is how much an end is worth a look.
type Severity uint8

const (
	Info  Severity = iota // graceful, or harmless
	Warn                  // refused, aborted, timed out, without an answer, or not known
	Error                 // bytes were lost, and to ask again is not known to be safe
)

// SeverityOf is that of an end.
func SeverityOf(v *verdict.Verdict) Severity {
	switch {
	case v.Class == verdict.Open, v.Harmless, v.Probe, !Notable(v):
		return Info
	case lost(v) > 0 && v.Retry != verdict.RetrySafe:
		return Error
	}
	return Warn
}

// Missing names what would have made an unsure verdict certain, in few words that are
// always the same: the hooks that it lacked, or "events" that were lost, "unseen" for
// a story that contradicts itself, "other-end" where only the connection's other end,
// which does not live here, could tell. "" for a certain one.
func Missing(c *conn.Connection, v *verdict.Verdict) []string {
	switch {
	case Sure(v):
		return nil
	case len(v.Missing) > 0:
		return v.Missing
	case c.Lossy:
		return []string{"events"}
	case v.Unseen != "":
		return []string{"unseen"}
	case c.Peer == nil:
		return []string{"other-end"}
	}
	return []string{"nothing"}
}
