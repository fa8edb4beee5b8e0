package verdict_test

import (
	"path/filepath"
	"slices"
	"testing"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

var (
	graceful = []verdict.Cause{verdict.OrderlyClose, verdict.HalfClose, verdict.SimultaneousClose}
	// An end aborted, and its kernel sent a RST.
	aborts = []verdict.Cause{verdict.CloseUnread, verdict.LingerZero, verdict.Disconnect, verdict.ListenerClosed, verdict.SockDestroy,
		verdict.MPTCPReset, verdict.Linger2Negative, verdict.OrphanLimit, verdict.KeepaliveTimeout}
	// An end had said goodbye, and its kernel answered what came with a RST.
	refusals = []verdict.Cause{verdict.DataAfterClose, verdict.DataAfterShutdown}
	// An end is gone, and no packet said so.
	silent = []verdict.Cause{verdict.RepairClose, verdict.RetransmitTimeout, verdict.UserTimeout, verdict.ZeroWindowTimeout, verdict.OrphanTimeout,
		verdict.SendFailed, verdict.NamespaceRemoved}
	// A RST came, from wherever.
	resets = []verdict.Cause{verdict.PeerAbort, verdict.PeerGone, verdict.PathReset, verdict.NoSocket, verdict.PortReuse}
	// An end stands, for all that this end knows.
	standing = []verdict.Cause{verdict.StillOpen, verdict.DescriptorHeld, verdict.NeverAccepted, verdict.CloseWaitLeak, verdict.FinWait2Held, verdict.FinStuck}
)

// together are the causes that the two ends of one ending may report, beside the
// same: of each pair in one of these products, one end may say the one and the other
// the other. Whatever never was a connection (port-closed, connect-timeout,
// unreachable, connect-cancelled) has no other end.
var together = []struct {
	a, b []verdict.Cause
	why  string
}{
	{graceful, graceful, "the stronger of them need both ends, or one that was in CLOSING"},
	{graceful, []verdict.Cause{verdict.StillOpen, verdict.FinStuck}, "one end has everything; the other still waits in LAST_ACK or CLOSING for the last acknowledgement"},
	{graceful, []verdict.Cause{verdict.CloseUnread, verdict.LingerZero, verdict.Disconnect, verdict.SockDestroy, verdict.MPTCPReset, verdict.OrphanLimit, verdict.RepairClose},
		"one end has everything and was gone, when the other, whose FIN was sent, threw away what it had not read, or was ended"},
	{graceful, []verdict.Cause{verdict.OrphanTimeout, verdict.RetransmitTimeout, verdict.UserTimeout, verdict.SendFailed}, "the last acknowledgement was lost, again and again"},
	{graceful, resets, "one end has everything; a RST came to the other's LAST_ACK"},
	{aborts, resets, "it arrived"},
	{aborts, aborts, "both aborted, before the other's RST came; or it was lost"},
	{aborts, refusals, "one had said goodbye, and refused what the other sent before it aborted"},
	{aborts, silent, "the RST was lost, or came to an end that had given up"},
	{aborts, standing, "the RST was lost"},
	{aborts, []verdict.Cause{verdict.FinWait2Timeout}, "the RST was lost"},
	{refusals, resets, "it arrived"},
	{refusals, refusals, "each had said goodbye before the other's data came"},
	{refusals, silent, "the RST was lost"},
	{refusals, standing, "the RST was lost"},
	{refusals, []verdict.Cause{verdict.FinWait2Timeout}, "data came when the time of the mini-socket was over"},
	{silent, silent, "neither heard of the other"},
	{silent, resets, "what one sent later met no socket at the other"},
	{silent, standing, "the other has heard of nothing"},
	{silent, []verdict.Cause{verdict.FinWait2Timeout}, "no FIN came, since the other end was gone or cut off"},
	{resets, resets, "the path reset both"},
	{resets, standing, "the path reset one"},
	{resets, []verdict.Cause{verdict.FinWait2Timeout}, "no FIN came, since the other end was reset; or what it sent met no socket"},
	{standing, standing, "each sees its own side of it"},
	{standing, []verdict.Cause{verdict.FinWait2Timeout}, "the other has not closed"},
	{[]verdict.Cause{verdict.FinWait2Timeout}, []verdict.Cause{verdict.FinWait2Timeout}, "the FIN of each was acknowledged, and neither came"},
	{[]verdict.Cause{verdict.HandshakeReset}, slices.Concat(aborts, []verdict.Cause{verdict.ConnectCancelled}), "the opener aborted before the handshake was complete"},
}

// mayBoth says whether the two ends of one ending may have these causes.
func mayBoth(a, b verdict.Cause) bool {
	if a == b {
		return true
	}
	for _, p := range together {
		if slices.Contains(p.a, a) && slices.Contains(p.b, b) || slices.Contains(p.a, b) && slices.Contains(p.b, a) {
			return true
		}
	}
	return false
}

// strangers says whether two ends cannot be ends of one ending, by their verdicts.
func strangers(x, y *judged) string {
	if y == nil || x.v.Confidence == verdict.NotKnown || y.v.Confidence == verdict.NotKnown || mayBoth(x.v.Cause, y.v.Cause) {
		return ""
	}
	return "the other end says " + string(y.v.Cause)
}

// TestTogether: what the two ends of one recorded ending report, each alone and
// both together, fits together.
func TestTogether(t *testing.T) {
	for name, rung := range rungsOfViews() {
		pairs := 0
		for _, path := range recordings(t) {
			for _, r := range readRuns(t, path) {
				scope := rung.scope
				scope.Missing = slices.Concat(scope.Missing, r.missing)
				for c := range verdict.JudgeAll(r.seen(rung.of), scope) {
					if c.Peer == nil || c.Gen > c.Peer.Gen {
						continue
					}
					pairs++
					for what, cut := range map[string]func(*conn.Connection) *conn.Connection{"joined": func(c *conn.Connection) *conn.Connection { return c }, "alone": alone} {
						x := &judged{c, verdict.Judge(cut(c), scope)}
						y := &judged{c.Peer, verdict.Judge(cut(c.Peer), scope)}
						if bad := strangers(x, y); bad != "" {
							t.Errorf("%s, %s, %s, %s: %v says %s, %s", name, filepath.Base(path), r.scenario, what, c.Local, x.v.Cause, bad)
						}
					}
				}
			}
		}
		t.Logf("%s: %d pairs", name, pairs)
	}
	// The table is no licence for everything.
	for _, p := range [][2]verdict.Cause{
		{verdict.PortClosed, verdict.OrderlyClose}, {verdict.ConnectTimeout, verdict.StillOpen}, {verdict.OrderlyClose, verdict.CloseWaitLeak},
		{verdict.HalfClose, verdict.FinWait2Timeout}, {verdict.OrderlyClose, verdict.DataAfterClose}, {verdict.OrderlyClose, verdict.ListenerClosed},
		{verdict.SimultaneousClose, verdict.ZeroWindowTimeout}, {verdict.OrderlyClose, verdict.NeverAccepted},
	} {
		if mayBoth(p[0], p[1]) {
			t.Errorf("%s and %s fit together", p[0], p[1])
		}
	}
}
