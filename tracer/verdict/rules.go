package verdict

import (
	"fmt"
	"slices"
	"time"

	unix "github.com/tcpbye/tcpbye/tracer/linux"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
)

// Rule says when a cause applies, and everything that is said of it.
type Rule struct {
	Cause Cause
	Class Class

	open bool // for connections that have not ended
	own  bool // about the judged end only, never found from its peer
	// again: another rule of this cause stands for it in lists.
	again bool
	// match looks at the end where the cause lies (a) and at the other end
	// (b, nil when it is remote). nil: no match.
	match func(a, b *facts, s Scope) *finding
	// sentence says who, how and why.
	sentence func(*telling) string

	Advice string // what to do
	Text          // what explain prints
}

// rules in the order in which they are tried.
var rules []Rule

func init() {
	rules = []Rule{
		// A connection that never was.
		{Cause: AcceptOverflow, Class: Refused, match: acceptOverflow, sentence: tellAcceptOverflow},
		{Cause: ConnectCancelled, Class: Refused, match: connectCancelled, sentence: tellConnectCancelled},
		{Cause: PortClosed, Class: Refused, match: portClosed, sentence: tellPortClosed},
		{Cause: SendFailed, Class: TimedOut, match: sendFailed, sentence: tellSendFailed},
		{Cause: ConnectTimeout, Class: TimedOut, match: connectTimeout, sentence: tellConnectTimeout},
		{Cause: Unreachable, Class: Refused, match: unreachable, sentence: tellUnreachable},
		{Cause: HandshakeReset, Class: Refused, match: handshakeReset, sentence: tellHandshakeReset},
		// A process or an operator aborted it.
		{Cause: PortReuse, Class: Aborted, own: true, match: portReuse, sentence: tellPortReuse},
		{Cause: RepairClose, Class: Aborted, match: repairClose, sentence: tellRepairClose},
		{Cause: SockDestroy, Class: Aborted, match: sockDestroy, sentence: tellSockDestroy},
		{Cause: NeverAccepted, Class: Aborted, again: true, match: leftQueue, sentence: tellLeftQueue},
		{Cause: ListenerClosed, Class: Aborted, match: listenerClosed, sentence: tellListenerClosed},
		{Cause: MPTCPReset, Class: Aborted, match: mptcpReset, sentence: tellMPTCPReset},
		{Cause: LingerZero, Class: Aborted, match: lingerZero, sentence: tellLingerZero},
		{Cause: CloseUnread, Class: Aborted, match: closeUnread, sentence: tellCloseUnread},
		{Cause: Disconnect, Class: Aborted, match: disconnect, sentence: tellDisconnect},
		// A kernel aborted it.
		{Cause: Linger2Negative, Class: Aborted, match: linger2Negative, sentence: tellLinger2Negative},
		{Cause: OrphanLimit, Class: Aborted, match: orphanLimit, sentence: tellOrphanLimit},
		{Cause: KeepaliveTimeout, Class: TimedOut, match: keepaliveTimeout, sentence: tellKeepaliveTimeout},
		{Cause: DataAfterClose, Class: Aborted, match: dataAfterClose, sentence: tellDataAfterClose},
		{Cause: DataAfterShutdown, Class: Aborted, match: dataAfterShutdown, sentence: tellDataAfterShutdown},
		// A kernel gave up.
		{Cause: UserTimeout, Class: TimedOut, match: userTimeout, sentence: tellUserTimeout},
		{Cause: OrphanTimeout, Class: TimedOut, match: orphanTimeout, sentence: tellOrphanTimeout},
		{Cause: RetransmitTimeout, Class: TimedOut, match: retransmitTimeout, sentence: tellRetransmitTimeout},
		{Cause: ZeroWindowTimeout, Class: TimedOut, match: zeroWindowTimeout, sentence: tellZeroWindowTimeout},
		{Cause: NamespaceRemoved, Class: Aborted, match: namespaceRemoved, sentence: tellNamespaceRemoved},
		{Cause: FinWait2Timeout, Class: TimedOut, match: finWait2Timeout, sentence: tellFinWait2Timeout},
		// A reset that came in, and whose cause lies elsewhere.
		{Cause: NoSocket, Class: Aborted, match: noSocket, sentence: tellNoSocket},
		{Cause: PathReset, Class: Aborted, match: pathReset, sentence: tellPathReset},
		{Cause: PeerAbort, Class: Aborted, own: true, match: peerAbort, sentence: tellPeerAbort},
		{Cause: PeerGone, Class: Aborted, own: true, match: peerGone, sentence: tellPeerGone},
		// Both said goodbye.
		{Cause: SimultaneousClose, Class: Graceful, match: simultaneousClose, sentence: tellSimultaneousClose},
		{Cause: HalfClose, Class: Graceful, match: halfClose, sentence: tellGraceful},
		{Cause: OrderlyClose, Class: Graceful, match: orderlyClose, sentence: tellGraceful},
		// Not ended.
		{Cause: DescriptorHeld, Class: Open, open: true, match: descriptorHeld, sentence: tellDescriptorHeld},
		{Cause: NeverAccepted, Class: Open, open: true, match: neverAccepted, sentence: tellNeverAccepted},
		{Cause: FinStuck, Class: Open, open: true, match: finStuck, sentence: tellFinStuck},
		{Cause: FinWait2Held, Class: Open, open: true, match: finWait2Held, sentence: tellFinWait2Held},
		{Cause: CloseWaitLeak, Class: Open, open: true, match: closeWaitLeak, sentence: tellCloseWaitLeak},
		{Cause: StillOpen, Class: Open, open: true, own: true, match: stillOpen, sentence: tellStillOpen},
		{Cause: UnknownCause, Class: Unknown, own: true, match: unknown, sentence: tellUnknown},
	}
	for i := range rules {
		rules[i].Text = texts[rules[i].Cause]
		rules[i].Advice = texts[rules[i].Cause].Do
	}
}

// Rules lists the table in its order, each cause once.
func Rules() []Rule {
	return slices.DeleteFunc(slices.Clone(rules), func(r Rule) bool { return r.again })
}

// neverEstablished: an active opener whose SYN was never answered with success.
func neverEstablished(a *facts) bool {
	// The state tells, also of a connection whose beginning was not seen.
	return a.closed != none && (a.end().State == event.SynSent || a.end().State == event.SynRecv && a.c.Open == conn.OpenActive)
}

// elsewhere finds an event of that hook that happened elsewhere for this end.
func (f *facts) elsewhere(ok func(*event.Event) bool) int {
	for i := range f.c.Elsewhere {
		if ok(&f.c.Elsewhere[i]) {
			return i
		}
	}
	return none
}

// resetElsewhere is a reset that this machine's kernel sent to this end for
// want of a socket, when it can be the one that came.
func (f *facts) resetElsewhere(state event.State) int {
	// Of several that can be the one that came, the first was.
	i := f.elsewhere(func(e *event.Event) bool {
		if e.Hook != event.HookSendReset || e.Segment.Flags&event.RST != 0 && e.Has&event.HasSegment != 0 {
			return false
		}
		if last := f.at(f.reset); last != nil && (told(e, last) > last.Time || last.Time-e.Time >= longestFlight || !fits(last, e)) {
			return false
		}
		return true
	})
	if i == none {
		return none
	}
	if e := &f.c.Elsewhere[i]; state == 0 && e.Sock != 0 || state != 0 && (e.Sock == 0 || e.State != state) {
		return none
	}
	return i
}

func acceptOverflow(a, b *facts, s Scope) *finding {
	drop := a.elsewhere(func(e *event.Event) bool { return e.Hook == event.HookSynDrop })
	// The kernel's own end, that is: the process may have lost patience first.
	if end := a.end(); neverEstablished(a) && !a.rst && drop != none && end.Context != event.ContextProcess &&
		end.Err == event.Errno(unix.ETIMEDOUT) {
		return &finding{by: byKernel, class: TimedOut, a: []int{a.closed}, elseA: []int{drop}}
	}
	// tcp_abort_on_overflow: the reset comes from the full listener.
	full := a.elsewhere(func(e *event.Event) bool {
		// Later it is data that finds its request forgotten, and the queue
		// is full by chance. The kernel calls the former INVALID_SYN (10).
		return e.Hook == event.HookSendReset && e.State == event.Listen && e.Sock != 0 && e.AckBacklog > e.MaxAckBacklog &&
			(e.Arg == 10 || e.Arg < 0 && e.Time-a.c.Established < time.Second)
	})
	if a.rst && full != none && b == nil {
		return &finding{by: byOther, a: []int{a.reset, a.closed}, elseA: []int{full}, needs: []event.Hook{event.HookSendReset}}
	}
	return nil
}

func connectCancelled(a, b *facts, s Scope) *finding {
	if !neverEstablished(a) || a.rst {
		return nil
	}
	end := a.end()
	for _, i := range []int{a.release, a.disconn} {
		if before(i, a.closed) && a.at(i).TID == end.TID && a.at(i).State == event.SynSent {
			x := &finding{a: []int{i, a.closed}}
			return x.did(a.hand(i))
		}
	}
	if end.State == event.SynSent && end.Context != event.ContextSoftirq && end.Err == 0 &&
		(end.Call == event.CallClose || end.Exiting() || end.Call == event.CallShutdown) {
		x := &finding{a: []int{a.closed}, needs: []event.Hook{event.HookClose, event.HookDisconnect}}
		return x.did(end)
	}
	return nil
}

func portClosed(a, b *facts, s Scope) *finding {
	// From SYN_RECV (a simultaneous open) a RST refuses nothing: there was an
	// end that had sent a SYN of its own.
	if !neverEstablished(a) || !a.rst || a.end().State != event.SynSent {
		return nil
	}
	x := &finding{by: byPeer, a: []int{a.reset, a.closed}}
	for _, state := range []event.State{0, event.Listen} {
		if i := a.resetElsewhere(state); i != none {
			x.by, x.elseA = byOther, []int{i}
			return x
		}
	}
	// Nobody on this machine refused: the peer is remote, or a filter on the way
	// refused in its name. The RST looks the same.
	x.needsAll, x.likely = []event.Hook{event.HookSendReset}, true
	if a.c.Remote.Addr().IsLoopback() && s.all(event.HookSendReset) {
		return nil
	}
	return x
}

func connectTimeout(a, b *facts, s Scope) *finding {
	if !neverEstablished(a) || a.rst {
		return nil
	}
	end := a.end()
	// What an ICMP error said on the way stands in the error (sk_err_soft).
	told := end.Err != 0 && end.Err != event.Errno(unix.ETIMEDOUT) || end.ErrSoft != 0
	if a.gaveUpConnecting() && !told {
		// Whether the SYN ever left this host, the hook on the repetitions says.
		x := &finding{by: byKernel, a: []int{a.closed}, needs: []event.Hook{event.HookRetransmit}, likely: a.heldBack()}
		if a.c.Remote.Addr().IsLoopback() {
			x.needs = append(x.needs, event.HookSynDrop) // a full accept queue looks the same from here
		}
		return x
	}
	return nil
}

func unreachable(a, b *facts, s Scope) *finding {
	if !neverEstablished(a) || a.rst {
		return nil
	}
	end := a.end()
	if end.Err == event.Errno(unix.ECONNABORTED) {
		return nil // tcp_abort
	}
	x := &finding{by: byKernel, a: []int{a.closed}, needs: []event.Hook{event.HookReset, event.HookDisconnect}}
	if end.Err == 0 && end.ErrSoft == 0 && end.Call == event.CallConnect {
		return x // this kernel, before anything was sent: tcp_v4_connect
	}
	errno := end.Err
	if errno == 0 {
		errno = end.ErrSoft
	}
	if errno == 0 {
		return nil
	}
	if _, last := a.thrownAway(); last != none && errno == event.Errno(unix.EHOSTUNREACH) {
		x.a = append(x.a, last)
		return x // its own neighbor look-up, of which it told itself by ICMP
	}
	switch i := a.icmp(errno); {
	case i == none && !s.has(event.HookICMP):
		// This kernel says so to itself in the same way as the network does.
		x.by = byNobody
		x.needs = append(x.needs, event.HookICMP, event.HookNeighbor)
	case i == none:
		x.by, x.likely = byNobody, true
	case a.at(i).Loopback:
		x.a = append(x.a, i) // a packet filter of this host rejects
		x.needs = append(x.needs, event.HookNeighbor)
	default:
		x.by, x.a = byPath, append(x.a, i)
	}
	return x
}

func handshakeReset(a, b *facts, s Scope) *finding {
	if a.c.Established != 0 || a.closed == none || !a.rst || a.c.Open != conn.OpenPassive && a.end().State != event.SynRecv {
		return nil
	}
	// An end that is here tells why it sent the RST; who did elsewhere is not known.
	if b != nil {
		return nil
	}
	return &finding{by: byPeer, a: []int{a.reset, a.closed}, likely: true}
}

// portReuse: the other side opened a new connection from the same address and
// port; our challenge ACK made its kernel reset this old one.
func portReuse(a, b *facts, s Scope) *finding {
	if !a.rst {
		return nil
	}
	if i := a.resetElsewhere(event.SynSent); i != none {
		return &finding{by: byOther, a: []int{a.reset, a.closed}, elseA: []int{i}}
	}
	return nil
}

func repairClose(a, b *facts, s Scope) *finding {
	if a.released() && a.at(a.release).Repair {
		x := &finding{a: []int{a.release, a.closed}, needs: []event.Hook{event.HookSendReset, event.HookReset}}
		return x.did(a.hand(a.release))
	}
	return nil
}

func sockDestroy(a, b *facts, s Scope) *finding {
	if e := a.early(); e != nil && e.Context == event.ContextProcess && !e.KernelThread() && e.Call == event.CallSend && a.closed != none && !a.rst {
		// A mini-socket has no tcp_abort (tcp_diag_destroy, 6.1 and later).
		return &finding{by: byAdmin, act: ActDestroy, a: []int{a.release, a.miniEnd},
			actor: &conn.Process{PID: e.PID, TID: e.TID, Comm: e.Comm.String(), UID: e.UID, Cgroup: e.Cgroup}}
	}
	if a.abort == none && !s.has(event.HookAbort) && a.closed != none && !a.rst && !a.abandoned {
		// Without the hook: only tcp_abort leaves ECONNABORTED, and it is
		// called for a netlink request.
		if end := a.end(); end.Err == event.Errno(unix.ECONNABORTED) && end.Call == event.CallSend && !end.Repair {
			x := &finding{by: byAdmin, act: ActDestroy, a: []int{a.active, a.closed}, needs: []event.Hook{event.HookAbort}}
			x.actor = &conn.Process{PID: end.PID, TID: end.TID, Comm: end.Comm.String(), UID: end.UID, Cgroup: end.Cgroup}
			return x
		}
	}
	if !before(a.abort, a.closed) || a.forget != none {
		return nil
	}
	e := a.at(a.abort)
	// tcp_abort may find nothing to do (5.10 leaves orphans alone), or the
	// process may close while it waits for the socket.
	if end := a.end(); e.TID != end.TID || end.Err != 0 && end.Err != event.Errno(e.Arg) {
		return nil
	}
	x := &finding{by: byAdmin, act: ActDestroy, actor: process(e), a: []int{a.abort, a.active, a.closed}}
	return x
}

func listenerClosed(a, b *facts, s Scope) *finding {
	if a.unheld(s) {
		if a.left(b, s) {
			return nil
		}
		end := a.end()
		x := &finding{by: byProcess, act: ActListener, actor: process(end), a: []int{a.closed, a.active}, needs: []event.Hook{event.HookChildForget}}
		if end.Exiting() {
			x.act, x.signal = act(end)
		}
		return x
	}
	if !before(a.forget, a.closed) || a.left(b, s) {
		return nil
	}
	e := a.at(a.forget)
	x := &finding{by: byProcess, act: ActListener, actor: process(e), a: []int{a.forget, a.closed, a.active}}
	if !e.ByProcess() {
		x.by = byKernel
	}
	if e.Exiting() {
		x.act, x.signal = act(e)
	}
	if a.elsewhere(func(e *event.Event) bool { return e.Hook == event.HookAbort }) != none {
		x.by, x.act = byAdmin, ActDestroy
	}
	// A client on another machine that has sent its FIN may have left before.
	x.likely = b == nil && before(a.peerFin, a.forget)
	return x
}

// unheld says, without the hook that tells it, whether this end went with its
// listener: no process ever held it, it is no orphan either, and it ended inside
// somebody's close.
func (f *facts) unheld(s Scope) bool {
	if f.forget != none || s.has(event.HookChildForget) || f.closed == none || f.c.Open != conn.OpenPassive {
		return false
	}
	end := f.end()
	return end.Has&event.HasSocket != 0 && !end.HasSk && end.SkFlags&event.SockDead == 0 && !f.rst && f.actedAt(f.closed) && !f.accepted()
}

// left says whether the other end (b) had let go of the connection while this
// one waited in the accept queue: what became of the queue then ended nothing.
// Its FIN alone does not say so, for it may still have read.
func (f *facts) left(b *facts, s Scope) bool {
	i := f.forget
	if f.unheld(s) {
		i = f.closed
	}
	return b != nil && i != none && b.release != none && b.at(b.release).Time < f.at(i).Time
}

// leftQueue: a client closed a connection that nobody had accepted yet.
func leftQueue(a, b *facts, s Scope) *finding {
	if b == nil || !b.left(a, s) || a.fin == none {
		return nil
	}
	x := &finding{a: []int{a.release, a.fin}, b: []int{b.peerFin, b.forget, b.closed, b.active}, both: true}
	_, did := a.leaves()
	if b.forget == none {
		x.needs = []event.Hook{event.HookChildForget}
	}
	return x.did(a.hand(did))
}

// leaves is when an end that has closed began to leave, and by which act: it may have
// shut its sending side down, and closed later.
func (f *facts) leaves() (at, act int) {
	if before(f.fin, f.release) {
		return f.fin, f.finAct
	}
	return f.release, f.release
}

func mptcpReset(a, b *facts, s Scope) *finding {
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
	if p := process(e); p != nil {
		x.by, x.actor = byProcess, p
		x.act, x.signal = act(e)
	}
	return x
}

// abortedAtClose says whether the state went to CLOSE inside the call that
// dropped the last reference, without a FIN of that call.
func (f *facts) abortedAtClose() bool {
	if !f.released() || f.fin != none && f.fin > f.release {
		return false
	}
	if f.timeWait != none && f.timeWait < f.closed {
		return false // close(2) found the peer's FIN there: tcp_time_wait
	}
	rel, end := f.at(f.release), f.end()
	if f.inferred && (end.State == event.FinWait2 || end.State == event.Closing || end.State == event.LastAck) && f.active == none {
		return false
	}
	return rel.TID == end.TID && end.Context != event.ContextSoftirq
}

func lingerZero(a, b *facts, s Scope) *finding {
	if a.unheld(s) || !a.abortedAtClose() {
		return nil
	}
	rel := a.at(a.release)
	inside := a.disconn != none && a.disconn < a.closed && (a.inferred || a.disconn > a.release)
	if rel.SkFlags&event.SockLinger == 0 || rel.LingerTime != 0 || rel.Has&event.HasSocket == 0 || rel.Repair {
		return nil
	}
	if !inside && s.has(event.HookDisconnect) {
		return nil
	}
	if l := a.lost(); !inside && (l.Unread == nil || *l.Unread != 0 || a.queued(a.reader()) != 0) {
		return nil // what is unread decides before the time does
	}
	if a.active == none && s.has(event.HookSendActiveReset) {
		return nil // LAST_ACK or CLOSING with everything sent: no reset at all
	}
	x := &finding{a: []int{a.release, a.disconn, a.closed, a.active}}
	if a.active == none {
		x.needs = []event.Hook{event.HookSendActiveReset}
	}
	return x.did(a.hand(a.release))
}

func closeUnread(a, b *facts, s Scope) *finding {
	if a.unheld(s) || !a.abortedAtClose() || a.disconn != none && a.disconn < a.closed {
		return nil
	}
	if a.active == none && s.has(event.HookSendActiveReset) {
		return nil
	}
	// The kernel's own count decides, which still has an urgent byte that was read
	// with MSG_OOB in it, and what something above TCP had yet to take.
	reader := a.reader()
	if a.subflow || reader == nil || reader.Has&event.HasTCP == 0 || a.queued(reader) == 0 {
		return nil
	}
	if reader == a.end() && a.release != a.closed && a.end().HasSk {
		return nil // it may have been read since
	}
	if a.at(a.release).Repair {
		return nil
	}
	x := &finding{a: []int{a.release, a.closed, a.active}, needs: []event.Hook{event.HookSendActiveReset}}
	return x.did(a.hand(a.release))
}

func disconnect(a, b *facts, s Scope) *finding {
	if a.closed == none || a.forget != none || a.c.Established == 0 && a.c.Open != conn.OpenUnknown {
		return nil
	}
	if a.active == none && s.has(event.HookSendActiveReset) && (a.end().State == event.LastAck || a.end().State == event.Closing) {
		return nil // both FINs are sent, and nothing else waits: no reset (tcp_need_reset)
	}
	if !before(a.disconn, a.closed) {
		// Without the hook: → CLOSE inside connect(2) on what was established.
		if end := a.end(); s.has(event.HookDisconnect) || end.Call != event.CallConnect || !a.actedAt(a.closed) || end.Err != 0 {
			return nil
		}
		x := &finding{a: []int{a.closed, a.active}, needs: []event.Hook{event.HookDisconnect}}
		x.did(a.end())
		x.act = ActDisconnect
		return x
	}
	e := a.at(a.disconn)
	if before(a.release, a.disconn) || !e.ByProcess() || e.Exiting() || e.Call != event.CallConnect && e.Call != event.CallUnknown {
		return nil
	}
	x := &finding{a: []int{a.disconn, a.closed, a.active}, needs: []event.Hook{event.HookChildForget, event.HookClose}}
	x.did(e)
	x.act = ActDisconnect
	return x
}

// ours is the act that began the goodbye of this end: the close where there
// was one before the end, else the shutdown that sent the FIN.
func (f *facts) ours() *event.Event {
	if f.released() && f.at(f.release).Call != event.CallShutdown {
		return f.hand(f.release)
	}
	return f.hand(f.finAct)
}

// leftBy is how this end let go of a socket that no process held any more. A
// shutdown does not do that: where the close was not seen, its act is not known.
func (x *finding) leftBy(f *facts) *finding {
	o := f.ours()
	if i := f.cut(); i != none && o == f.hand(f.finAct) {
		o = f.hand(i)
	}
	if o == nil {
		return x
	}
	x.did(o)
	switch x.act {
	case ActShutRd, ActShutWr, ActShutRdWr:
		x.act = NoAct
		x.needs = append(x.needs, event.HookClose)
	}
	return x
}

// complete says whether it is known that nothing was lost, at either end that is.
func complete(a, b *facts) bool {
	return !losses(a, b, func(n *uint64) bool { return n == nil || *n != 0 })
}

// incomplete says whether it is known that something was lost.
func incomplete(a, b *facts) bool {
	return losses(a, b, func(n *uint64) bool { return n != nil && *n != 0 })
}

// losses says whether that is so of any number of bytes that an end may have lost.
func losses(a, b *facts, is func(*uint64) bool) bool {
	for _, f := range []*facts{a, b} {
		if f == nil {
			continue
		}
		if l := f.lost(); is(l.Unread) || is(l.Unsent) || is(l.Unacked) {
			return true
		}
	}
	return false
}

func linger2Negative(a, b *facts, s Scope) *finding {
	e := a.at(a.active)
	switch {
	case e != nil && e.SkFlags&event.SockDead != 0 && e.Linger2 < 0:
	case a.closed != none && a.answer != none && a.end().State == event.FinWait2 && a.end().Err == 0 && a.end().Linger2 < 0:
	default:
		return nil
	}
	x := &finding{a: []int{a.release, a.closed, a.active, a.answer}}
	return x.leftBy(a)
}

func orphanLimit(a, b *facts, s Scope) *finding {
	e := a.at(a.active)
	if e == nil || e.SkFlags&event.SockDead == 0 || e.Linger2 < 0 || e.Call == event.CallSend {
		return nil
	}
	switch e.State {
	case event.Close, event.FinWait1, event.Closing, event.LastAck:
		return &finding{by: byKernel, a: []int{a.release, a.closed, a.active}}
	}
	return nil
}

func keepaliveTimeout(a, b *facts, s Scope) *finding {
	if !a.gaveUpProbing(s) {
		return nil
	}
	return a.heardNothing(&finding{by: byKernel, a: []int{a.active, a.closed}, needs: []event.Hook{event.HookSendActiveReset, event.HookProbe}})
}

func dataAfterClose(a, b *facts, s Scope) *finding {
	x := &finding{}
	switch {
	case a.mini != none && event.State(a.at(a.mini).Arg2) == event.FinWait2 && payload(a.at(a.mini), b):
		x.a = []int{a.release, a.mini}
	case a.answer != none && a.closed != none && a.orphan(a.closed) &&
		(a.abandoned || a.end().State == event.FinWait2 && a.end().Err == 0):
		x.a = []int{a.release, a.closed, a.answer}
		if a.end().Has&event.HasSocket == 0 {
			x.needs = append(x.needs, event.HookClose) // TCP_LINGER2 may be below zero
		}
	case a.dead != none && a.closed != none && a.fin != none && a.finAcked && a.end().Err == 0 && payload(a.at(a.dead), b) &&
		(b != nil && b.rst || b == nil && a.peerFin == none && a.fresh(a.at(a.dead))):
		x.a = []int{a.release, a.miniEnd, a.dead}
		// It waited for the peer's FIN in a mini-socket. Where that ended was not
		// told: its time may have been up before, or the kernel made none
		// (tcp_max_tw_buckets).
		if x.likely = a.miniEnd == none; x.likely {
			x.needs = append(x.needs, event.HookTwskKill)
		}
	default:
		return nil
	}
	x.needs = append(x.needs, event.HookSendReset)
	if b != nil {
		x.b = []int{b.reset, b.closed}
		for i := range b.c.Events {
			if b.c.Events[i].Hook == event.HookStreamError {
				x.b = append(x.b, i)
			}
		}
	}
	return x.leftBy(a)
}

// payload says whether the segment that a reset answered carried any: a FIN alone
// takes nothing with it. Where the segment was not seen, what its sender (b) had
// sent and not had acknowledged tells; nil: that is not known, and counts as none.
func payload(answer *event.Event, b *facts) bool {
	if answer.Has&event.HasSegment != 0 {
		return answer.Segment.Flags&event.SYN == 0 && answer.Segment.Len > 0
	}
	if b == nil || b.closed == none {
		return false
	}
	if b.end().Has&event.HasTCP == 0 {
		return b.fin == none // a classic tracepoint: nothing else can have been sent
	}
	sent, _ := b.unacknowledged(b.end())
	return sent > 0
}

// fresh says whether a segment carries what this end has not received yet: an old
// duplicate means nothing.
func (f *facts) fresh(e *event.Event) bool {
	return e.Has&event.HasSegment != 0 && f.end().Has&event.HasTCP != 0 && int32(e.Segment.Seq+e.Segment.Len-f.end().RcvNxt) > 0
}

func dataAfterShutdown(a, b *facts, s Scope) *finding {
	if a.answer == none || !a.abandoned || a.closed == none || a.orphan(a.closed) || a.fin == none {
		return nil
	}
	x := &finding{a: []int{a.finAct, a.closed, a.answer}, needs: []event.Hook{event.HookSendReset}}
	if a.end().Has&event.HasSocket == 0 {
		x.needs = append(x.needs, event.HookClose) // it may have been closed since
	}
	if b != nil {
		x.b = []int{b.reset, b.closed}
	}
	return x.did(a.hand(a.finAct))
}

// gaveUp says whether this end's kernel ended it from a timer, without a
// packet.
func (f *facts) gaveUp() bool {
	if f.closed == none || f.rst || f.abandoned || f.active != none || f.timeWait != none && f.timeWait < f.closed || f.answer != none {
		return false
	}
	e := f.end()
	// tcp_write_err: the soft error that ICMP left, else ETIMEDOUT.
	if e.Err != event.Errno(unix.ETIMEDOUT) && (e.Err == 0 || e.Err != e.ErrSoft) {
		return false
	}
	return e.Context != event.ContextProcess && (e.Err != 0 || e.SkFlags&event.SockDead != 0) && e.WriteSeq != e.SndUna &&
		e.State != event.SynSent
}

func orphanTimeout(a, b *facts, s Scope) *finding {
	if !a.gaveUp() || a.end().SkFlags&event.SockDead == 0 {
		return nil
	}
	return a.heardNothing(&finding{by: byKernel, a: []int{a.release, a.closed}, needs: []event.Hook{event.HookReset}})
}

func userTimeout(a, b *facts, s Scope) *finding {
	if !a.gaveUp() || a.end().UserTimeout == 0 {
		return nil
	}
	// tcp_retransmit_timer looks at nothing else then; tcp_probe_timer ends
	// earlier where the probes have run out.
	e := a.end()
	if limit := time.Duration(e.UserTimeout) * time.Millisecond; e.Retransmits == 0 && e.SinceProbing != 0 && e.SinceProbing < limit-jiffies {
		return nil
	}
	return a.heardNothing(&finding{by: byKernel, a: []int{a.closed}, needs: []event.Hook{event.HookReset}})
}

func retransmitTimeout(a, b *facts, s Scope) *finding {
	if !a.gaveUp() || a.end().SndNxt == a.end().SndUna || a.end().Retransmits == 0 {
		return nil
	}
	x := &finding{by: byKernel, a: []int{a.closed}, needs: []event.Hook{event.HookReset}}
	if sure, may := a.tooLarge(); sure || may {
		x.advice = blackHoleAdvice
	}
	return a.heardNothing(x)
}

func zeroWindowTimeout(a, b *facts, s Scope) *finding {
	if !a.gaveUp() || a.end().ProbesOut == 0 {
		return nil
	}
	x := &finding{by: byKernel, a: []int{a.closed}, needs: []event.Hook{event.HookReset}}
	// An open window that a whole segment fits into is not why it was probed.
	if e := a.end(); e.WindowKnown && a.room() >= max(1, e.MSS) {
		return nil
	} else if !e.WindowKnown {
		x.likely = true
	}
	return a.heardNothing(x)
}

// jiffies is how much a kernel timer and the clock of the jiffies may differ.
const jiffies = 20 * time.Millisecond

// heardNothing completes a finding that says that the peer did not answer what
// this host sent: whether it was sent, the hooks on sending say.
func (f *facts) heardNothing(x *finding) *finding {
	e := f.end()
	x.likely = x.likely || f.heldBack() || f.neighborPending()
	if e.Retransmits > 0 {
		x.needs = append(x.needs, event.HookRetransmit)
	}
	if e.ProbesOut > 0 {
		x.needs = append(x.needs, event.HookProbe)
	}
	if e.ErrSoft != 0 {
		x.needs = append(x.needs, event.HookNeighbor, event.HookICMP)
		if i := f.icmp(e.ErrSoft); i != none {
			x.a = append(x.a, i)
			if !f.at(i).Loopback && x.advice == "" {
				x.advice = fmt.Sprintf("Ask %s, or whoever runs it, why it does not forward: it said %s.", f.at(i).From.Addr(), ICMPText(f.at(i)))
			}
		}
	}
	slices.Sort(x.needs)
	x.needs = slices.Compact(x.needs)
	return x
}

func finWait2Timeout(a, b *facts, s Scope) *finding {
	if a.closed == none || a.fin == none || a.peerFin != none || a.rst {
		return nil
	}
	if e := a.at(a.active); e != nil && e.State == event.FinWait2 && e.SkFlags&event.SockDead != 0 {
		return &finding{by: byKernel, a: []int{a.release, a.active}, needs: []event.Hook{event.HookSendReset, event.HookReset}}
	}
	// A mini-socket that ends before its time was ended by a RST, by an operator,
	// or with its namespace (tcp_timewait_state_process, inet_twsk_purge).
	if a.miniEnd != none && event.State(a.at(a.miniEnd).Arg) == event.FinWait2 && a.mini == none {
		given, lived := a.waitTimes()
		how := twskEnd(a.at(a.miniEnd))
		if how == event.TwskEarly || how == event.TwskUnknown && a.timeWait != none && lived < time.Second/2 {
			return nil
		}
		// The peer was reset, and by what was not seen: it may have sent more,
		// before the time was over or after.
		if b != nil && b.rst {
			return nil
		}
		return &finding{by: byKernel, a: []int{a.release, a.miniEnd}, needs: []event.Hook{event.HookReset}, needsAll: []event.Hook{event.HookSendReset},
			likely: how == event.TwskUnknown || given != 0 && lived < given-jiffies}
	}
	return nil
}

func noSocket(a, b *facts, s Scope) *finding {
	if !a.rst || a.refusedFin(b) {
		return nil // of the latter nothing was lost: it is as if both had said goodbye
	}
	for _, state := range []event.State{0, event.Listen} {
		if i := a.resetElsewhere(state); i != none {
			// A listener of MPTCP also resets a subflow that it does not want: what
			// became of that is the other end's to tell.
			return &finding{by: byOther, a: []int{a.reset, a.closed}, elseA: []int{i}, needs: []event.Hook{event.HookSendReset},
				likely: state == event.Listen && a.at(a.reset).MPTCP}
		}
	}
	return nil
}

// sameStep is how much later than its effect at the other end an event may be
// told that the same step of the kernel made.
const sameStep = 20 * time.Millisecond

// fits says whether the RST that came to an end (last) can be the one whose sending an
// event tells. An abort's has an ACK (tcp_send_active_reset). An answer takes its
// sequence number from the ACK of what it answers, and has none itself; only what has
// no ACK is answered with one (tcp_v4_send_reset, RFC 9293 3.10.7.1).
func fits(last, sent *event.Event) bool {
	if last.Has&event.HasSegment == 0 || last.Segment.Flags&event.RST == 0 {
		return true // it was not seen
	}
	acks := last.Segment.Flags&event.ACK != 0
	switch {
	case sent.Hook == event.HookSendActiveReset:
		return acks
	case sent.Has&event.HasSegment == 0:
		return true
	case sent.Segment.Flags&event.ACK == 0:
		return acks
	}
	return !acks && last.Segment.Seq == sent.Segment.Ack
}

// sentReset says whether this end's stack had sent any reset for this connection
// that can have made an event at the other end.
func (f *facts) sentReset(last *event.Event) bool {
	for _, i := range append([]int{f.active, f.answer, f.mini, f.dead}, f.strays...) {
		if i != none && told(f.at(i), last) <= last.Time && last.Time-f.at(i).Time < longestFlight && fits(last, f.at(i)) {
			return true
		}
	}
	return false
}

// resetSent says whether a stack on this machine is known to have sent the reset
// that came to this end: the peer's, or this kernel's for a socket that is not
// there.
func (f *facts) resetSent(peer *facts) bool {
	last := f.at(f.reset)
	if last == nil {
		return false
	}
	return peer != nil && peer.sentReset(last) || f.elsewhere(func(e *event.Event) bool {
		return e.Hook == event.HookSendReset && told(e, last) <= last.Time && last.Time-e.Time < longestFlight && fits(last, e)
	}) != none
}

func pathReset(a, b *facts, s Scope) *finding {
	if !a.rst {
		return nil
	}
	// What came from as far as the handshake did, came from where it did.
	if b == nil && !neverEstablished(a) && (a.incoming().Elsewhere() || a.incoming().Unprompted()) {
		return &finding{by: byPath, a: []int{a.established, a.reset, a.closed}, likely: true}
	}
	loopback := a.c.Remote.Addr().IsLoopback()
	if b == nil && !(loopback && neverEstablished(a)) {
		return nil
	}
	if a.resetSent(b) {
		return nil
	}
	x := &finding{by: byPath, a: []int{a.reset, a.closed}, needs: []event.Hook{event.HookSendReset, event.HookSendActiveReset, event.HookReset}}
	if neverEstablished(a) {
		x.class = Refused
	}
	// With the other end still there its silence is proof. With none, it may
	// live elsewhere under other addresses (NAT).
	x.likely = b == nil || (b.closed != none || b.destroy != none) && !b.rst
	// A classic tracepoint does not record to whom a listener's reset went.
	if x.likely && a.end().Has&event.HasSocket == 0 {
		return nil
	}
	// "Nobody here sent it" is only as good as the view of everything sent.
	for _, h := range []event.Hook{event.HookSendReset, event.HookSendActiveReset} {
		if !s.all(h) && x.likely || !s.has(h) {
			return nil
		}
	}
	if a.c.Lossy || b != nil && b.c.Lossy {
		return nil
	}
	return x
}

func peerAbort(a, b *facts, s Scope) *finding {
	if b == nil && a.closed != none && a.resetInFinWait2() {
		// Everything was acknowledged, so it answered nothing.
		return &finding{by: byPeer, a: []int{a.release, a.miniEnd}, likely: true}
	}
	if !a.rst || b != nil || neverEstablished(a) {
		return nil
	}
	// Without the segment the two kinds of reset cannot be told apart.
	e := a.at(a.reset)
	if e.Has&event.HasSegment == 0 || e.Segment.Flags&event.ACK == 0 {
		return nil
	}
	// Middleboxes send this form, too.
	return &finding{by: byPeer, a: []int{a.reset, a.closed}, needs: []event.Hook{event.HookSendActiveReset}, likely: true}
}

func peerGone(a, b *facts, s Scope) *finding {
	if !a.rst || b != nil || neverEstablished(a) || a.at(a.reset).Has&event.HasSegment == 0 {
		return nil
	}
	// A filter on the path answers in just the same way.
	return &finding{by: byPeer, a: []int{a.reset, a.closed}, needs: []event.Hook{event.HookSendReset}, likely: true}
}

// saidBoth says whether both FINs were sent as far as this end can tell, and its
// own end came without a reset.
func (f *facts) saidBoth() bool {
	return f.closed != none && !f.rst && !f.abandoned && f.active == none && f.answer == none && f.mini == none &&
		f.fin != none && f.end().Err == 0 && !f.end().Repair
}

// bothSaid says whether both FINs were sent, and the end came without a reset.
func bothSaid(a, b *facts) bool {
	if !a.saidBoth() {
		return a.refusedFin(b)
	}
	if a.peerFin != none && a.finAcked && (b == nil || b.fin != none) {
		return true // what became of the other end after that is its own affair
	}
	if b == nil {
		return a.peerFin != none || a.lateFin()
	}
	return b.fin != none && !b.rst && !b.abandoned && b.active == none && b.answer == none && b.mini == none &&
		(b.closed == none || b.end().Err == 0) || b.refusedFin(a)
}

// lateFin says whether the peer's FIN came when there was no mini-socket to take
// it (tcp_max_tw_buckets), with nothing else in the segment.
func (f *facts) lateFin() bool {
	e := f.at(f.dead)
	return e != nil && e.Has&event.HasSegment != 0 && e.Segment.Flags&event.FIN != 0 && e.Segment.Len == 0 && f.finAcked
}

// refusedFin says whether a RST came in answer to this end's FIN alone, when the
// other end (b) had said goodbye and this one had nothing else to send: there
// was no mini-socket to take it. Nothing was lost by it.
func (f *facts) refusedFin(b *facts) bool {
	if f.closed == none || !f.rst || f.abandoned || f.peerFin == none || f.fin == none || f.end().State != event.LastAck || f.active != none {
		return false
	}
	e := f.at(f.reset)
	if e.Has&event.HasTCP == 0 || e.SndNxt != e.WriteSeq || e.SndNxt-e.SndUna != 1 {
		return false
	}
	if e.Has&event.HasSegment != 0 && e.Segment.Flags&event.ACK != 0 {
		return false // an abort of its own
	}
	return b == nil || b.saidBoth()
}

func simultaneousClose(a, b *facts, s Scope) *finding {
	if !bothSaid(a, b) || !a.crossed && (b == nil || !b.crossed) {
		return nil
	}
	x := &finding{a: []int{a.fin, a.closed}}
	if b != nil {
		x.b = []int{b.fin, b.closed}
	}
	x.heard(a, b)
	x.heard(b, a)
	return x.did(a.hand(a.finAct))
}

// first says whether this end said goodbye first.
func (f *facts) first(b *facts) bool {
	if b != nil && b.fin != none {
		return f.at(f.fin).Time <= b.at(b.fin).Time
	}
	return f.peerFin == none || f.fin < f.peerFin
}

func graceful(a, b *facts, want func(Act) bool) *finding {
	if !bothSaid(a, b) {
		return nil
	}
	x := &finding{a: []int{a.fin, a.closed}, harmless: late(a, b)}
	if a.refusedFin(b) {
		x.harmless = true
		x.a = append(x.a, a.reset)
		x.likely = b == nil // the reset of an abort may have been lost before
	}
	if a.refusedFin(b) || b != nil && b.refusedFin(a) {
		// There was no mini-socket to take it: whether one had waited, and been ended
		// before, only its end tells.
		x.needs = append(x.needs, event.HookTwskKill)
	}
	x.heard(a, b)
	x.heard(b, a)
	if b != nil {
		x.b = []int{b.fin, b.closed}
	}
	if !a.first(b) {
		if b == nil && want(NoAct) {
			x.by = byPeer
			return x
		}
		return nil
	}
	x.did(a.hand(a.finAct))
	if !want(x.act) {
		return nil
	}
	// The other FIN is not acknowledged yet, and nothing shows that it arrived: this
	// end may have been gone by then.
	if b != nil && b.closed == none && !b.finAcked && a.peerFin == none {
		x.likely = true
		x.needs = append(x.needs, event.HookTwskSchedule, event.HookTwskKill)
	}
	return x
}

// heard notes what is not certain of the FIN of an end (f): whether it arrived. A
// process or an operator may drop a socket whose FIN is not acknowledged, and a
// kernel may give it up.
func (x *finding) heard(f, other *facts) {
	switch {
	case f == nil || f.finAcked || other != nil && other.peerFin != none:
	case f.closed == none || f.end().Has&event.HasTCP != 0:
		x.likely = x.likely || !x.harmless
	default:
		// A classic tracepoint does not tell.
		x.needs = append(x.needs, event.HookClose)
	}
}

// late says whether a reset followed the complete exchange: an old segment met
// no socket any more.
func late(a, b *facts) bool {
	reset := func(e *event.Event) bool { return e.Hook == event.HookSendReset }
	return a.dead != none || a.elsewhere(reset) != none || b != nil && (b.dead != none || b.elsewhere(reset) != none)
}

// halfClose and orderlyClose share what is graceful. Of a peer on another machine
// it is not known whether its FIN crossed this end's, nor whether it shut its
// sending side down or closed: then both said goodbye, and no more is claimed.
func halfClose(a, b *facts, s Scope) *finding {
	if b == nil {
		return nil
	}
	return graceful(a, b, func(act Act) bool { return act == ActShutWr && a.cut() == none })
}

func orderlyClose(a, b *facts, s Scope) *finding {
	return graceful(a, b, func(act Act) bool { return b == nil || act != ActShutWr || a.cut() != none })
}

func (f *facts) accepted() bool {
	for i := range f.c.Events {
		switch f.c.Events[i].Hook {
		case event.HookAccept, event.HookClose, event.HookShutdown, event.HookStreamError:
			return true
		}
		if f.c.Events[i].HasSk {
			return true
		}
	}
	return false
}

func descriptorHeld(a, b *facts, s Scope) *finding {
	if a.held == none || a.fin != none || a.closed != none {
		return nil
	}
	// Whoever drops a copy that it never used (a child that execs) is not the
	// one who closed.
	e := a.at(a.held)
	if a.c.Owner == nil || a.c.Owner.PID != e.PID || e.Call == event.CallExec {
		return nil
	}
	x := &finding{a: []int{a.held}, needs: []event.Hook{event.HookFileClose}}
	x.did(e)
	x.by = byNobody
	return x
}

func neverAccepted(a, b *facts, s Scope) *finding {
	if a.c.Open != conn.OpenPassive || a.c.Established == 0 || a.closed != none || a.accepted() || !s.has(event.HookAccept) {
		return nil
	}
	// A return probe has a limited number of instances, and accept(2) sleeps in
	// one: with many waiting, an accept can be missed.
	return &finding{needs: []event.Hook{event.HookAccept}, likely: true}
}

func closeWaitLeak(a, b *facts, s Scope) *finding {
	if a.c.State() != event.CloseWait {
		return nil
	}
	return &finding{a: []int{a.peerFin}, needs: []event.Hook{event.HookTwskKill, event.HookSendReset}}
}

func finWait2Held(a, b *facts, s Scope) *finding {
	if a.c.State() != event.FinWait2 || a.release != none || b != nil && b.closed != none {
		return nil
	}
	x := &finding{a: []int{a.fin}}
	x.did(a.hand(a.finAct))
	x.by = byNobody
	return x
}

func finStuck(a, b *facts, s Scope) *finding {
	if a.fin == none || a.c.State() != event.FinWait1 || b != nil && b.closed != none {
		return nil
	}
	x := &finding{a: []int{a.fin}}
	x.did(a.hand(a.finAct))
	x.by = byNobody
	return x
}

func stillOpen(a, b *facts, s Scope) *finding {
	// An end whose peer had its FIN acknowledged was in TIME-WAIT then: the kernel
	// ran no program for that change, as it runs none inside another. A classic
	// tracepoint does not tell an acknowledged FIN from one that was given up.
	if a.closed == none && b != nil && b.closed != none && b.at(b.closed).State == event.LastAck &&
		(b.finAcked && b.active == none || b.end().Has&event.HasTCP == 0) {
		return nil
	}
	x := &finding{needs: []event.Hook{event.HookFileClose, event.HookAccept}}
	// That nothing was told of an end, of a descriptor that is closed, or of an
	// accept that failed to come, proves nothing by itself.
	x.likely = !a.c.Found
	// Its FIN has arrived, so its acknowledgement is on its way, or has come.
	if a.c.State() == event.LastAck && b != nil && b.peerFin != none {
		x.likely = true
	}
	if a.closed != none {
		x.needs = append(x.needs, event.HookTwskSchedule, event.HookTwskKill, event.HookSendReset)
		// One event tells that the mini-socket got the peer's FIN, and the kernel
		// may have skipped it; the peer's end would tell.
		x.likely = b == nil
	}
	return x
}

func unknown(a, b *facts, s Scope) *finding { return &finding{a: []int{a.closed}} }
