package verdict

import (
	"fmt"
	"net/netip"
	"strings"

	unix "github.com/tcpbye/tcpbye/tracer/linux"

	"github.com/tcpbye/tcpbye/tracer/event"
)

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

// tellItself is about a socket that was connected to itself.
func tellItself(f *facts) string {
	s := fmt.Sprintf("%s was connected to itself: nobody listened on %s, and the kernel chose that port as the source of its own SYN (a simultaneous open with itself). There is one socket",
		end(f), f.c.Local)
	if f.keepsTimeWait() {
		return s + ", one FIN and one TIME_WAIT."
	}
	return s + ", and no other end."
}

const itselfAdvice = "Keep ports that are listened on out of net.ipv4.ip_local_port_range (or in net.ipv4.ip_local_reserved_ports), and after connect(2) compare getsockname(2) with getpeername(2): a client that retries to a dead local port meets itself sooner or later, and then holds the port that the service needs."

// listenElsewhere names who listens on the port that was closed, on another address
// of the host that refused.
func (f *facts) listenElsewhere() (says, do string) {
	if f.elsewhere(func(e *event.Event) bool { return e.Hook == event.HookSendReset }) == none || len(f.c.Listeners) == 0 {
		return "", ""
	}
	var all []string
	for _, l := range f.c.Listeners {
		text := "a listener on " + l.Local.String()
		if l.Owner != nil {
			text += fmt.Sprintf(" (%s/%s)", quoteName(l.Owner.Comm), event.PIDText(l.Owner.PID))
		}
		all = append(all, text)
	}
	verb := "exists; it does"
	if len(all) > 1 {
		verb = "exist; they do"
	}
	list := strings.Join(all, " and ")
	to := f.c.Remote.Addr()
	do = fmt.Sprintf("Let the service listen on %s, too, or let the client connect to %s.", to, f.c.Listeners[0].Local.Addr())
	if names := f.c.Listeners[0].Local.Addr(); names.IsLoopback() && to.IsLoopback() && names.Is4() != to.Is4() {
		do += " The name localhost stands for both 127.0.0.1 and ::1, and a client may try only one."
	}
	return fmt.Sprintf("But %s %s not take %s.", list, verb, bracketed(to)), do
}

func bracketed(a netip.Addr) string {
	if a.Is6() {
		return "[" + a.String() + "]"
	}
	return a.String()
}

// answeredFromElsewhere: SYN-ACKs came for this end's SYN from an address that it
// had not called, and this kernel reset them.
func (f *facts) answeredFromElsewhere() (says, do string) {
	n, from := 0, netip.AddrPort{}
	for i := range f.c.Elsewhere {
		e := &f.c.Elsewhere[i]
		if e.Hook == event.HookSendReset && e.Has&event.HasSegment != 0 && e.Segment.Flags&(event.SYN|event.ACK|event.RST) == event.SYN|event.ACK &&
			e.Local == f.c.Local && e.Remote != f.c.Remote {
			n, from = n+1, e.Remote
		}
	}
	if n == 0 {
		return "", ""
	}
	times := "once"
	if n > 1 {
		times = fmt.Sprintf("%d times", n)
	}
	return fmt.Sprintf("Its SYN was answered, but from %s, %s, and this kernel reset each of those SYN-ACKs, for it had not called that address: an address translation is not undone on the way back.", from, times),
		fmt.Sprintf("Look where %s is translated to %s (DNAT, a load balancer): the answer must go back through that place. In one subnet it goes around it unless the source is translated, too (SNAT, masquerade).", f.c.Remote, from)
}

// moved: another network namespace of this machine, which has the address by now,
// answered for a connection that still stands in the first.
func (f *facts) moved(other *facts) (says, do string) {
	if other == nil || other.c.NetNS == 0 {
		return "", ""
	}
	i := f.resetElsewhere(0)
	if i == none {
		i = f.resetElsewhere(event.Listen)
	}
	if i == none {
		return "", ""
	}
	e := &f.c.Elsewhere[i]
	if e.NetNS == 0 || e.NetNS == other.c.NetNS || f.c.Host != other.c.Host || other.closed != none && other.at(other.closed).Time <= e.Time {
		return "", ""
	}
	return fmt.Sprintf("The RST came from the network namespace %d, which has the address %s now; the connection is still open in the namespace %d, at %s.",
			e.NetNS, f.c.Remote.Addr(), other.c.NetNS, end(other)),
		"The address has moved to another host or container, which knows nothing of the connections of the first: after a failover clients have to connect again. The old end learns of it by keepalive only."
}

// neverClosed: the old connection that a new one met was over for the other end long
// before, but this end's process had not closed.
func (f *facts) neverClosed() (says, do string) {
	if !before(f.peerFin, f.reset) || f.at(f.reset).State != event.CloseWait {
		return "", ""
	}
	return fmt.Sprintf("%s had finished the old connection itself, %s before, and %s never closed its end (CLOSE_WAIT): that is why there was still one to meet.",
			f.c.Remote, span(f.at(f.reset).Time-f.at(f.peerFin).Time), end(f)),
		fmt.Sprintf("Close the connection in %s when its peer has finished (recv(2) returns 0); `ss -tanp state close-wait` lists those that are left.", end(f))
}

// large is a segment that no path is too narrow for; the least that IPv6 asks of each
// link, with the headers off.
const large = 1220

// onlyLarge: what was never acknowledged fills a segment, and smaller ones had come
// through before. It is a hint, no more.
func (f *facts) onlyLarge() (says, do string) {
	e := f.end()
	if e.Has&event.HasTCP == 0 || e.ErrSoft == event.Errno(unix.EHOSTUNREACH) {
		return "", ""
	}
	flight, queued := f.unacknowledged(e)
	b := f.bytes()
	if flight < large || flight+queued < large || b.Acked == nil || b.Received == nil || *b.Acked == 0 && *b.Received == 0 || *b.Acked >= large {
		return "", ""
	}
	return "Only small segments had come through before; the first that was full did not. So it may be a path that takes no full-size packets and does not say so (a path MTU black hole).",
		fmt.Sprintf("Try the path with a full packet: ping -M do -s 1472 %s, and smaller, until one comes back. Then let the ICMP \"fragmentation needed\" or \"packet too big\" through, lower the MTU or clamp the MSS at the tunnel; net.ipv4.tcp_mtu_probing=1 finds the size by itself.", f.c.Remote.Addr())
}

// noDescriptor says that the process which accepts had no descriptor left when the
// peer of a connection that waited gave up, and what to do; "" it had, or that is not
// known.
func (f *facts) noDescriptor() (says, do string) {
	for i := range f.c.Events {
		if e := f.at(i); e.Full > 0 && f.c.Acceptor != nil {
			who := named(f.c.Acceptor)
			return fmt.Sprintf("%s, which accepts there, had all its %d descriptors in use (RLIMIT_NOFILE), so that accept(2) fails with EMFILE.", who, e.Full),
				fmt.Sprintf("Raise the limit of descriptors of %s (LimitNOFILE, ulimit -n), or find what it does not close: ls -l /proc/%s/fd.", who, event.PIDText(f.c.Acceptor.PID))
		}
	}
	return "", ""
}

// addHint puts the hint to the verdict.
func (v *Verdict) addHint(self, other *facts) {
	if self.toItself() {
		switch {
		case v.Class == Refused || v.Class == TimedOut && v.Cause == ConnectTimeout:
		case v.Cause == SimultaneousClose:
			v.Sentence, v.Advice = tellItself(self), itselfAdvice
		default:
			v.Sentence, v.Advice = v.Sentence+" "+tellItself(self), itselfAdvice
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
