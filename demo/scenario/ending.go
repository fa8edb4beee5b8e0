package scenario

import "github.com/tcpbye/tcpbye/tracer/verdict"

// ending is what both ends of a pair are due in common.
type ending struct {
	class  verdict.Class
	cause  verdict.Cause
	act    verdict.Act
	signal int
	actor  string // the role that acted; "" with kernel
	comm   string // the actor's name then, where it is not its role
	kernel bool   // no process: the ender's kernel gave up or answered
	likely bool   // another ender cannot be excluded
	// ender is who ended it for both ends alike (admin, path); "" seen from each.
	ender verdict.Ender
}

// pair gives the ender's end and its peer what they are due. What x and y say
// for themselves stands.
func (e ending) pair(ender string, x Expect, peer string, y Expect) map[string]Expect {
	return map[string]Expect{ender: e.local(x), peer: e.remote(y)}
}

// local completes the expectation of the ender's own end.
func (e ending) local(x Expect) Expect {
	who := verdict.LocalProcess
	if e.kernel {
		who = verdict.LocalKernel
	}
	return e.complete(x, who)
}

// remote completes the expectation of the other end.
func (e ending) remote(x Expect) Expect {
	who := verdict.PeerProcess
	if e.kernel {
		who = verdict.PeerKernel
	}
	return e.complete(x, who)
}

func (e ending) complete(x Expect, who verdict.Ender) Expect {
	if x.Class == "" {
		x.Class = e.class
	}
	if x.Cause == "" {
		x.Cause = e.cause
	}
	if e.ender != "" {
		who = e.ender
	}
	if x.Ender == "" {
		x.Ender = who
	}
	if e.likely && x.Confidence == "" {
		x.Confidence = verdict.Likely
	}
	x.Act, x.Signal, x.Actor, x.ActorComm = e.act, e.signal, e.actor, e.comm
	return x
}

// open is what an end is due that has not ended: no ender, no act.
// That nothing has ended is only certain where the kernel's own table was asked, too,
// and on the stage nobody asks it.
func open(cause verdict.Cause, x Expect) Expect {
	x.Class, x.Cause = verdict.Open, cause
	if cause == verdict.StillOpen {
		x.Confidence = verdict.Likely
	}
	return x
}

var (
	everyFamily = []Family{IPv4, IPv6, Mapped}
	bothIP      = []Family{IPv4, IPv6}
)
