package verdict

import (
	"fmt"
)

// addHint puts the hint to the verdict.
func (v *Verdict) addHint(self, other *facts) {
	if self.toItself() {
		switch {
		case v.Class == Refused || v.Class == TimedOut && v.Cause == ConnectTimeout:
		case v.Cause == SimultaneousClose:
			v.Sentence, v.Advice = describeItself(self), itselfAdvice
		default:
			v.Sentence, v.Advice = v.Sentence+" "+describeItself(self), itselfAdvice
		}
		return
	}
	says, do := v.hint(self, other)
	for _, f := range []*facts{self, other} {
		if says == "" && f != nil {
			says, do = f.noDescriptor()
		}
	}
	if says == "" {
		return
	}
	v.Sentence += " " + says
	if do != "" {
		v.Advice = do
	}
}

// hint says beside a cause what else was seen that leads to the bottom of it: a
// sentence more, and what to do where that is not the cause's own advice. "" there
// is nothing. Each names a fact that was seen, and the setting or place behind it.
func (v *Verdict) hint(self, other *facts) (says, do string) {
	switch v.Cause {
	case PortClosed:
		return self.listenElsewhere()
	case ConnectTimeout, ConnectCancelled, Unreachable:
		return self.answeredFromElsewhere()
	case NoSocket:
		return self.moved(other)
	case PortReuse:
		return self.neverClosed()
	case RetransmitTimeout:
		if self.blackHole() == "" { // which is in the sentence
			return self.onlyLarge()
		}
	}
	return "", ""
}

// toItself says whether a socket is connected to itself, as the kernel does when a
// program connects to a port of this host that it may also choose as the source, and
// nobody listens there.
func (f *facts) toItself() bool {
	return f.c.Local.IsValid() && f.c.Local.Port() != 0 && f.c.Local == f.c.Remote
}

// describeItself is about a socket that was connected to itself.
func describeItself(f *facts) string {
	s := fmt.Sprintf("%s was connected to itself: nobody listened on %s, and the kernel chose that port as the source of its own SYN (a simultaneous open with itself). There is one socket",
		end(f), f.c.Local)
	if f.keepsTimeWait() {
		return s + ", one FIN and one TIME_WAIT."
	}
	return s + ", and no other end."
}

const itselfAdvice = "Keep ports that are listened on out of net.ipv4.ip_local_port_range (or in net.ipv4.ip_local_reserved_ports), and after connect(2) compare getsockname(2) with getpeername(2): a client that retries to a dead local port meets itself sooner or later, and then holds the port that the service needs."
