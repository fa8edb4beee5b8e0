package hosts

import (
	"testing"

	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// TestWeigh: which of two verdicts holds, that of one end or that of both, and what is
// said of it.
func TestWeigh(t *testing.T) {
	type v = verdict.Verdict
	closed := v{Class: verdict.Graceful, Cause: verdict.OrderlyClose, Ender: verdict.Peer}
	half := v{Class: verdict.Graceful, Cause: verdict.HalfClose, Ender: verdict.PeerProcess, Act: verdict.ActShutWr}
	abort := v{Class: verdict.Aborted, Cause: verdict.PeerAbort, Ender: verdict.Peer}
	unread := v{Class: verdict.Aborted, Cause: verdict.CloseUnread, Ender: verdict.PeerProcess, Act: verdict.ActClose}
	path := v{Class: verdict.Aborted, Cause: verdict.PathReset, Ender: verdict.Path}
	unknown := v{Class: verdict.Unknown, Cause: verdict.UnknownCause}
	as := func(x v, c verdict.Confidence, missing ...string) v {
		x.Confidence, x.Missing = c, missing
		return x
	}
	const certain, likely, not = verdict.Certain, verdict.Likely, verdict.NotKnown
	for _, x := range []struct {
		name        string
		alone, both v
		want        Outcome
		cause       verdict.Cause
		sure        verdict.Confidence
	}{
		{"nothing new", as(closed, certain), as(closed, certain), Kept, verdict.OrderlyClose, certain},
		{"surer", as(path, likely), as(path, certain), Confirmed, verdict.PathReset, certain},
		{"says more of the same", as(closed, certain), as(half, certain), Learned, verdict.HalfClose, certain},
		{"where there was none", as(unknown, not), as(unread, certain), Learned, verdict.CloseUnread, certain},
		{"another", as(abort, likely), as(unread, certain), Refuted, verdict.CloseUnread, certain},
		{"another, and the first was certain", as(path, certain), as(unread, certain), Disputed, verdict.CloseUnread, certain},
		{"another, for a hole at the other host", as(path, certain), as(unread, likely, "tcp_close"), Kept, verdict.PathReset, certain},
		{"less certain, for a hole at the other host", as(closed, certain), as(closed, likely, "tcp_close"), Kept, verdict.OrderlyClose, certain},
		{"nobody knows", as(unknown, not), as(unknown, not), Kept, verdict.UnknownCause, not},
		{"both ends do not fit together", as(abort, likely), as(unknown, not), Kept, verdict.PeerAbort, likely},
	} {
		j := Joint{Alone: x.alone}
		got := j.weigh(x.both)
		if j.Outcome != x.want || got.Cause != x.cause || got.Confidence != x.sure {
			t.Errorf("%s: %s, %s %s; want %s, %s %s", x.name, j.Outcome, got.Cause, got.Confidence, x.want, x.cause, x.sure)
		}
	}
}
