package verdict

import (
	"fmt"
	"time"

	unix "github.com/tcpbye/tcpbye/tracer/linux"

	"github.com/tcpbye/tcpbye/tracer/event"
)

// This host could not send.
const (
	SendFailed Cause = "send-failed" // this host could not send: route, address, filter, neighbor, device
)

var sendFailed = Rule{
	Cause: SendFailed, Class: TimedOut, find: findSendFailed, describe: describeSendFailed, resends: true,
	symptoms: map[string]int{"ETIMEDOUT": 3, "EHOSTUNREACH": 2, "ENETUNREACH": 2, "TCPRetransFail": 1},
	What: "This host could not send: a route, an address, a filter, a neighbor or a device failed. " +
		"Each time the retransmission timer, the window probe or the keepalive timer tried, tcp_retransmit_skb or tcp_write_wakeup returned an error, or the segment was thrown away because ARP (neighbor discovery) had no answer; nothing reached the wire, and the timers ran out. " +
		"EPERM is a packet filter of this host at output or postrouting (such as one that drops what conntrack calls INVALID after its table was flushed), or a BPF program of the cgroup; EHOSTUNREACH, ENETUNREACH, EACCES and EINVAL are its routes or a source address that is gone; ENETDOWN is the device; a positive number is a queueing discipline or tc. " +
		"send(2) does not report it: the data waits in the queue. The process gets ETIMEDOUT, or the routing error; the peer hears nothing and may hold its end forever.",
	Prove: "`nstat -az TcpExtTCPRetransFail IpOutNoRoutes IpOutDiscards` moves at this host, and `tcpdump -nni any tcp port PORT` shows no segment leave. " +
		"`ip -s addr`, `ip route get ADDRESS from LOCAL`, `ip neigh` and `nft list ruleset` show what is missing; with `conntrack -E` a flow that vanishes shows.",
	Do:     "Fix this host, not the peer: its address, route, packet filter, neighbor or device, as the sentence says. Connections from an address that is gone must be opened again.",
	Belief: "\"Connection timed out, so the other side is down.\"",
	Truth:  "ETIMEDOUT says that no answer came. Whether a question ever left, TCP does not tell the application.",
	Refs:   []string{"tcp(7)", "ip-neighbour(8)", "nft(8)", "tcp_retransmit_skb", "tcp_write_wakeup", "ip_queue_xmit", "arp_error_report"},
}

// findSendFailed: this kernel gave up since it could not send: its own layers refused
// each try, or threw each segment away.
func findSendFailed(a, b *facts, s Scope) *finding {
	switch {
	case a.closed == none:
		return nil
	case a.gaveUp(), a.gaveUpProbing(s):
	// Otherwise it is an ICMP error that ended it (tcp_v4_err): unreachable.
	case a.gaveUpConnecting() && (a.end().Err == event.Errno(unix.ETIMEDOUT) || a.end().ErrSoft != 0 && a.end().Err == a.end().ErrSoft && a.noICMP(s)):
	default:
		return nil
	}
	x := &finding{by: byKernel, a: []int{a.release, a.addressGone(), a.closed}, needs: []event.Hook{event.HookReset}}
	n, last := a.thrownAway()
	switch tries := a.tries(); {
	case tries == 0:
		return nil
	case a.refused() >= tries:
		return x
	case a.refused() > 0 && a.end().Retransmits == 0:
		// Of its probes the last never left, and one before that may go without an
		// answer: a peer answers them once in half a second (tcp_invalid_ratelimit).
		x.likely = true
		return x
	case n > 0 && n+a.refused()+int(a.end().BusyTries) >= tries:
		x.a = append(x.a, last)
		return x
	}
	return a.windowWasOpen(x, s)
}

func describeSendFailed(t *trial) string {
	e := t.a.end()
	what := "data"
	switch {
	case e.State == event.SynSent:
		what = "the SYN"
	case e.WriteSeq == e.SndUna:
		what = "a keepalive probe"
	case e.Retransmits == 0:
		what = "data"
	}
	name := end(t.a)
	if t.a.orphan(t.a.closed) {
		name += ", which had closed,"
	}
	s := fmt.Sprintf("This host could not send %s of %s to %s: %s.", what, name, t.other(), t.a.whyUnsent(t.a.c.Family))
	tries := t.a.tries()
	n, _ := t.a.thrownAway()
	switch {
	case t.a.refused() == 0 && n == 0:
	case t.a.refused() >= tries:
		s += fmt.Sprintf(" None of the last %d tries left it.", tries)
	case t.a.refused() > 0 && e.Retransmits == 0:
		s += fmt.Sprintf(" The last %d of %d probes did not leave it.", t.a.refused(), tries)
	case n > tries-int(e.BusyTries):
		s += fmt.Sprintf(" Not one segment left it; %d were thrown away.", n)
	default:
		s += fmt.Sprintf(" Nothing that was sent again left it; %d segments were thrown away.", n)
	}
	s += " So this kernel gave up"
	if e.UserTimeout != 0 {
		s += fmt.Sprintf(", after TCP_USER_TIMEOUT (%d ms)", e.UserTimeout)
	}
	s += "; that says nothing about the peer"
	if e.State != event.SynSent {
		s += ", which may still think that the connection is open"
	}
	return s + "."
}

// whyUnsent says what this host's layers said.
func (f *facts) whyUnsent(family event.Family) string {
	e := f.end()
	resolution := "ARP"
	if family == event.IPv6 && f.c.Remote.Addr().Is6() {
		resolution = "neighbor discovery"
	}
	if i := f.addressGone(); i != none {
		return fmt.Sprintf("its own address %s is gone", f.c.Local.Addr())
	}
	if n, _ := f.thrownAway(); n > 0 && f.refused() < f.tries() {
		return fmt.Sprintf("the next hop to %s does not answer %s, so this kernel threw the segments away", f.c.Remote.Addr(), resolution)
	}
	errno := e.UnsentErr
	// What the route look-up said before a repetition (inet_sk_rebuild_header).
	if errno == -int32(unix.EHOSTUNREACH) && e.ErrSoft != 0 {
		errno = -int32(e.ErrSoft)
	}
	switch -errno {
	case 0:
		return "the peer's window was open, and nothing was sent"
	case int32(unix.EPERM):
		return "a rule of its own dropped it on the way out (a packet filter at output or postrouting, or a BPF program of the cgroup; EPERM)"
	case int32(unix.ENETUNREACH):
		return fmt.Sprintf("it no longer has a route to %s (ENETUNREACH)", f.c.Remote.Addr())
	case int32(unix.EINVAL):
		return fmt.Sprintf("its address %s is no longer its own, or a blackhole route swallows %s (EINVAL)", f.c.Local.Addr(), f.c.Remote.Addr())
	case int32(unix.EACCES):
		return fmt.Sprintf("a route of its own prohibits %s (EACCES)", f.c.Remote.Addr())
	case int32(unix.EHOSTUNREACH):
		return fmt.Sprintf("it no longer has a route from %s to %s (EHOSTUNREACH)", f.c.Local.Addr(), f.c.Remote.Addr())
	case int32(unix.ENETDOWN), int32(unix.ENODEV), int32(unix.ENXIO):
		return "the network device is down or gone (" + event.Errno(-errno).String() + ")"
	}
	if errno > 0 {
		return "a queue or a filter of the network device dropped it (queueing discipline, tc)"
	}
	return "its IP layer said " + event.Errno(-errno).String()
}

// tries is how often the kernel sent again, or probed, since the peer was last
// heard of, up to the end.
func (f *facts) tries() int {
	e := f.end()
	return int(max(e.Retransmits, e.ProbesOut))
}

// refused is how often in a row, up to the end, this host's own layers refused to
// send.
func (f *facts) refused() int { return int(f.end().UnsentTries) }

// thrownAway counts the segments that were thrown away since the last progress
// because their neighbor did not answer (ARP, NDP).
func (f *facts) thrownAway() (n, last int) {
	last = none
	for i := range f.c.Events {
		if e := &f.c.Events[i]; e.Hook == event.HookNeighbor && (f.closed == none || i < f.closed && e.SndUna == f.end().SndUna) {
			n, last = n+1, i
		}
	}
	return n, last
}

// addressGone is the event that took this end's own address away from this host.
func (f *facts) addressGone() int {
	for i := range f.c.Events {
		if f.c.Events[i].Hook == event.HookAddress && before(i, f.closed) {
			return i
		}
	}
	return none
}

// heldBack says whether each segment that was to be sent again was still held in this
// host, or refused by it: that the first ever left is not known then. A neighbor that is
// looked for keeps a few (unres_qlen_bytes), and a queue may.
func (f *facts) heldBack() bool {
	tries := f.tries()
	return tries > 0 && f.end().BusyTries > 0 && f.refused()+int(f.end().BusyTries) >= tries
}

// neighborTime is how long the kernel looks for a neighbor before it says so, with the
// usual settings: five seconds until it doubts one, three questions to that one, and
// three to all, a second each (neigh_timer_handler).
const neighborTime = 11 * time.Second

// neighborPending says whether the probes that were not answered may have waited for a
// neighbor all the time: a probe that waits is sent for all that TCP knows.
func (f *facts) neighborPending() bool {
	e := f.end()
	lasted := e.SinceProbing
	if lasted == 0 {
		lasted = time.Duration(e.ProbesOut) * time.Second // keepalive: at least (MAX_TCP_KEEPINTVL is in seconds)
	}
	return e.ProbesOut > 0 && !f.c.Remote.Addr().IsLoopback() && f.c.Remote.Addr() != f.c.Local.Addr() && lasted < neighborTime
}

// noICMP says that no ICMP error ended an attempt to connect, as one does that this
// host's own packet filter answers a repetition of the SYN with: the error would be
// the same that the first SYN's left.
func (f *facts) noICMP(s Scope) bool {
	i := f.icmp(f.end().Err)
	return s.has(event.HookICMP) && (i == none || f.end().Time-f.at(i).Time > sameStep)
}

// windowWasOpen: what was never sent would have fitted into the peer's window,
// and yet the kernel only probed. Without the hook on the probes that is all there
// is to see of a send that fails: a success, or an answer, would have made it
// retransmit instead (tcp_write_wakeup, tcp_event_new_data_sent).
func (f *facts) windowWasOpen(x *finding, s Scope) *finding {
	e := f.end()
	if s.has(event.HookProbe) || !e.WindowKnown || !f.gaveUp() || e.ProbesOut == 0 || e.SndNxt != e.SndUna || f.room() < e.MSS || e.MSS == 0 {
		return nil
	}
	x.needs = append(x.needs, event.HookProbe)
	return x
}

// icmp is the last ICMP error about this end before its end that says what the
// errno says: an errno stands for several types (icmp_err_convert).
func (f *facts) icmp(errno event.Errno) int {
	found := none
	for i := range f.c.Events {
		e := &f.c.Events[i]
		if e.Hook == event.HookICMP && before(i, f.closed) && icmpErrno(e) == errno {
			found = i
		}
	}
	return found
}

// icmpErrno is the errno that tcp_v4_err and tcp_v6_err make of a message
// (icmp_err_convert, net/ipv4/icmp.c; tab_unreach, net/ipv6/icmp.c); 0: none.
func icmpErrno(e *event.Event) event.Errno {
	unreach4 := [...]unix.Errno{unix.ENETUNREACH, unix.EHOSTUNREACH, unix.ENOPROTOOPT, unix.ECONNREFUSED, unix.EMSGSIZE,
		unix.EOPNOTSUPP, unix.ENETUNREACH, unix.EHOSTDOWN, unix.ENONET, unix.ENETUNREACH, unix.EHOSTUNREACH,
		unix.ENETUNREACH, unix.EHOSTUNREACH, unix.EHOSTUNREACH, unix.EHOSTUNREACH, unix.EHOSTUNREACH}
	unreach6 := [...]unix.Errno{unix.ENETUNREACH, unix.EACCES, unix.EHOSTUNREACH, unix.EHOSTUNREACH, unix.ECONNREFUSED, unix.EACCES, unix.EACCES}
	six := e.From.Addr().Is6()
	switch {
	case !six && e.Arg == 3 && int(e.Arg2) < len(unreach4):
		return event.Errno(unreach4[e.Arg2])
	case six && e.Arg == 1 && int(e.Arg2) < len(unreach6):
		return event.Errno(unreach6[e.Arg2])
	case !six && e.Arg == 11, six && e.Arg == 3: // time exceeded
		return event.Errno(unix.EHOSTUNREACH)
	case !six && e.Arg == 12, six && e.Arg == 4: // parameter problem
		return event.Errno(unix.EPROTO)
	case six && e.Arg == 2: // packet too big
		return event.Errno(unix.EMSGSIZE)
	}
	return 0
}

// ICMPText names a message as its RFC does.
func ICMPText(e *event.Event) string {
	v4 := map[int32]string{0: "network unreachable", 1: "host unreachable", 2: "protocol unreachable", 3: "port unreachable", 4: "fragmentation needed",
		5: "source route failed", 9: "network administratively prohibited", 10: "host administratively prohibited", 13: "communication administratively prohibited"}
	v6 := map[int32]string{0: "no route to destination", 1: "communication administratively prohibited", 2: "beyond scope of source address",
		3: "address unreachable", 4: "port unreachable", 5: "source address failed policy", 6: "reject route to destination"}
	name, text := "ICMP", ""
	switch six := e.From.Addr().Is6(); {
	case !six && e.Arg == 3:
		text = v4[e.Arg2]
	case six:
		name = "ICMPv6"
		if e.Arg == 1 {
			text = v6[e.Arg2]
		}
	}
	switch {
	case text != "":
		return name + " " + text
	case name == "ICMP" && e.Arg == 11, name == "ICMPv6" && e.Arg == 3:
		return name + " time exceeded"
	}
	return fmt.Sprintf("%s type %d code %d", name, e.Arg, e.Arg2)
}
