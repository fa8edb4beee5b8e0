package verdict

import (
	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
)

// Rule says when a cause applies, and everything that is said of it.
type Rule struct {
	Cause Cause
	Class Class

	open bool // for connections that have not ended
	own  bool // about the judged end only, never found from its peer
	// again: the cause has another rule, which stands for it in lists.
	again bool
	// find looks at the end where the cause lies (a) and at the other end
	// (b, nil when it is remote). nil: no match.
	find func(a, b *facts, s Scope) *finding
	// describe says who, how and why.
	describe func(*trial) string

	// hint says what else was seen beside the cause that leads to the bottom of it: one
	// more sentence, and what to do if that is not the cause's own advice. Each names a
	// fact, and the setting or place behind it. nil, or "": there is nothing.
	hint func(*trial) (says, do string)
	// probe says whether the end that opened the connection aborted it: if that was at
	// once, it can be a health check or a scan. nil: it is never one.
	probe func(*trial) bool
	// unaccepted: no application had accepted the connection.
	unaccepted bool
	// resends: the kernel kept sending until it gave up, so the time since it sent last is
	// no silence.
	resends bool

	// symptoms are those that the cause can be behind, by their first names, with its place
	// among the causes of each: 1 is the likeliest.
	symptoms map[string]int

	// What is known of the cause beyond one connection: tcpbye explain, the man page and
	// the README print it. Commands stand in backquotes.
	What   string   // what happens, in the kernel and on the wire; the first sentence stands alone in lists
	Prove  string   // how to prove it with standard tools
	Do     string   // what to do, in two sentences at most: it is the verdict's advice, too
	Belief string   // what people believe, in their words; "" none
	Truth  string   // what is true instead, in the same order
	Refs   []string // RFC sections, man pages, kernel functions
}

// rules in the order in which they are tried: the first that matches names the cause.
var rules = []*Rule{
	// Never established.
	&acceptOverflow, &connectCancelled, &portClosed, &sendFailed, &connectTimeout, &unreachable,
	&handshakeReset,
	// A process or an operator aborted it.
	&portReuse, &repairClose, &sockDestroy, &leftUnaccepted, &listenerClosed, &mptcpReset,
	&lingerZero, &closeUnread, &disconnect,
	// A kernel aborted it.
	&linger2Negative, &orphanLimit, &keepaliveTimeout, &dataAfterClose, &dataAfterShutdown,
	// A kernel gave up.
	&userTimeout, &orphanTimeout, &retransmitTimeout, &zeroWindowTimeout, &namespaceRemoved, &finWait2Timeout,
	// A reset that came in, and whose cause lies elsewhere.
	&noSocket, &pathReset, &peerAbort, &peerGone,
	// Both ends sent a FIN.
	&simultaneousClose, &halfClose, &orderlyClose,
	// Not ended.
	&descriptorHeld, &neverAccepted, &finStuck, &finWait2Held, &closeWaitLeak, &stillOpen,
}

// Rules lists the rules in their order, each cause once, and the unknown cause last.
func Rules() []Rule {
	var all []Rule
	for _, r := range rules {
		if !r.again {
			all = append(all, *r)
		}
	}
	return append(all, unknownCause)
}

// ruleOf is the rule of a cause.
func ruleOf(c Cause) *Rule {
	for _, r := range append(rules, &unknownCause) {
		if r.Cause == c && !r.again {
			return r
		}
	}
	return nil
}

// by is whose doing an ending was, from the causing end.
type by uint8

const (
	byNobody  by = iota
	byProcess    // a process at the causing end
	byKernel     // the kernel of the causing end
	byOther      // the other end's kernel, on this machine
	byPeer       // the remote end: cannot tell further
	byPath
	byAdmin
)

// finding is what a rule found.
type finding struct {
	by       by
	class    Class // "" the rule's own
	act      Act
	signal   int
	actor    *conn.Process
	harmless bool
	a, b     []int        // evidence: events of the causing end, and of the other
	elseA    []int        // evidence among the causing end's Elsewhere
	needs    []event.Hook // hooks without which it is only likely
	needsAll []event.Hook // hooks whose silence proves something: they must report every event
	likely   bool         // another cause cannot be excluded whatever is attached
	advice   string       // instead of the rule's
	both     bool         // the rule itself says that this ended both ends
}

// did fills in who acted, from the event of the act at the causing end.
func (x *finding) did(a *facts, e *event.Event) *finding {
	if e == nil {
		return x
	}
	if e.KernelThread() {
		// A worker closes a file where a process could not sleep, and MPTCP's worker closes
		// subflows some time after the process closed the connection: which process that
		// was, the subflow does not show.
		x.by, x.likely = byKernel, true
		return x
	}
	x.by = byProcess
	switch x.act, x.signal = act(e); {
	case x.act != NoAct:
	case e.Call != event.CallShutdown && (e.Hook == event.HookClose || e.Hook == event.HookCloseEntry || e.Hook == event.HookSetState):
		// Who gave the descriptor up was not seen, with the hook or without.
		x.needs, x.likely = append(x.needs, event.HookFileClose), true
	default:
		x.needs = append(x.needs, event.HookShutdown)
	}
	x.actor = a.process(e)
	return x
}
