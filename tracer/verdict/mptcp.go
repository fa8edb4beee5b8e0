package verdict

import (
	"fmt"

	"github.com/tcpbye/tcpbye/tracer/event"
)

// What MPTCP does to its subflows.
const (
	MPTCPReset Cause = "mptcp-reset" // MPTCP: fastclose or subflow reset
)

var mptcpReset = Rule{
	Cause: MPTCPReset, Class: Aborted, find: findMptcpReset, describe: describeMPTCPReset,
	symptoms: map[string]int{"ECONNRESET": 14, "TCP_ABORT_ON_CLOSE": 2, "MPTCP_RST": 1, "MPRstTx": 1},
	What: "MPTCP reset one of its subflows, or all of them at once (fastclose). " +
		"mptcp_do_fastclose, mptcp_subflow_reset and mptcp_check_fastclose send the RST with ACK while the subflow is still alive, often from a kernel worker, so that the process is not the one on the CPU. " +
		"A fastclose ends the whole connection; a subflow reset ends one path (a join that failed, a checksum or mapping that a middlebox damaged, a fallback that is not allowed any more) and the others may go on. " +
		"The subflow is closed through __tcp_close, past tcp_close. MPTcpExt counts it (MPRstTx, MPRstRx, MPFastcloseTx, MPFastcloseRx); from 6.12 the reset reason is TCP_ABORT_ON_CLOSE (11) for a fastclose and 17 to 23 for the others.",
	Prove: "`nstat -az 'MPTcpExtMP*'` shows which of the counters moved. " +
		"`ss -Mani` shows the MPTCP connection, `ss -tani` its subflows. " +
		"`tcpdump -nni any tcp port PORT` prints the MPTCP option of the RST with its reason.",
	Do:   "Tell a fastclose (the application aborted) from a subflow reset (the path failed) by the MPTcpExt counters. For the second, look for a middlebox that strips or changes MPTCP options.",
	Refs: []string{"RFC 8684 3.5", "RFC 8684 3.6", "mptcp_do_fastclose", "mptcp_subflow_reset", "__mptcp_close_ssk"},
}

func findMptcpReset(a, b *facts, s Scope) *finding {
	// A join that is not wanted is reset by the listener.
	if b != nil && b.rst && b.at(b.reset).MPTCP && a.dead != none && a.at(a.dead).State == event.Listen {
		return &finding{by: byKernel, a: []int{a.dead}, b: []int{b.reset, b.closed}, needs: []event.Hook{event.HookSendReset}}
	}
	if a.rst && a.reset < a.active {
		return nil // MPTCP answers a reset of a subflow with one of its own
	}
	if a.active == none || !a.at(a.active).MPTCP || a.forget != none {
		return nil
	}
	e := a.at(a.active)
	// A subflow's own close goes the way of every socket; what is MPTCP's own
	// is a reset while the subflow is still alive (mptcp_do_fastclose,
	// mptcp_subflow_reset).
	if e.State == event.Close || a.abort != none {
		return nil
	}
	x := &finding{by: byKernel, a: []int{a.active, a.closed}}
	// One that answers a segment may answer a reset that was not seen: also in a
	// worker, which takes what came while it had the socket.
	x.likely = e.Context == event.ContextSoftirq || e.KernelThread()
	if p := a.process(e); p != nil {
		x.by, x.actor = byProcess, p
		x.act, x.signal = act(e)
	}
	return x
}

func describeMPTCPReset(t *trial) string {
	return fmt.Sprintf("MPTCP reset this subflow between %s and %s (fastclose, or a subflow that could not go on).", end(t.a), t.other())
}
