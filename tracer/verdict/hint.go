package verdict

import (
	"cmp"
	"fmt"
)

// hint adds to the sentence what else was seen that leads to the bottom of it, and puts
// what to do about that in the place of the advice.
func (t *trial) hint(v *Verdict, sentence, advice string) (string, string) {
	if t.self.toItself() {
		switch {
		case v.Class == Refused || v.Class == TimedOut && v.Cause == ConnectTimeout:
			return sentence, advice
		case v.Cause == SimultaneousClose:
			return describeItself(t.self), itselfAdvice
		}
		return sentence + " " + describeItself(t.self), itselfAdvice
	}
	var says, do string
	if t.rule.hint != nil {
		says, do = t.rule.hint(t)
	}
	for _, f := range []*facts{t.self, t.peer} {
		if says == "" && f != nil {
			says, do = f.noDescriptor()
		}
	}
	if says == "" {
		return sentence, advice
	}
	return sentence + " " + says, cmp.Or(do, advice)
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

const itselfAdvice = "Keep ports that are listened on out of net.ipv4.ip_local_port_range (or in net.ipv4.ip_local_reserved_ports), and after connect(2) compare getsockname(2) with getpeername(2): a client that keeps retrying a dead local port sooner or later connects to itself, and then holds the port that the service needs."
