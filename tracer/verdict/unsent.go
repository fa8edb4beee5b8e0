package verdict

import (
	"fmt"
	"strings"
	"time"

	unix "github.com/tcpbye/tcpbye/tracer/linux"

	"github.com/tcpbye/tcpbye/tracer/event"
)

// tries is how often the kernel sent again, or probed, since the peer was last
// heard of, up to the end.
func (f *facts) tries() int {
	e := f.end()
	return int(max(e.Retransmits, e.ProbesOut))
}

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

// refused is how often in a row, up to the end, this host's own layers refused to
// send.
func (f *facts) refused() int { return int(f.end().UnsentTries) }

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

// gaveUpProbing says whether keepalive probes ran out.
func (f *facts) gaveUpProbing(s Scope) bool {
	if f.closed == none || f.rst {
		return false
	}
	e := f.at(f.active)
	if e == nil {
		if s.has(event.HookSendActiveReset) {
			return false
		}
		e = f.end()
	}
	return e.Context != event.ContextProcess && e.SkFlags&event.SockKeepOpen != 0 && e.SkFlags&event.SockDead == 0 &&
		e.WriteSeq == e.SndUna && e.ProbesOut != 0
}

// gaveUpConnecting says whether the repetitions of the SYN ran out.
func (f *facts) gaveUpConnecting() bool {
	if !neverEstablished(f) || f.rst {
		return false
	}
	e := f.end()
	return e.State == event.SynSent && e.Retransmits > 0 && e.Context != event.ContextProcess
}

// sendFailed: this kernel gave up since it could not send: its own layers refused
// each try, or threw each segment away.
func sendFailed(a, b *facts, s Scope) *finding {
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

// room is how many more bytes the peer's window takes at the end.
func (f *facts) room() uint32 {
	e := f.end()
	if left := e.SndUna + e.SndWnd - e.SndNxt; int32(left) > 0 {
		return left
	}
	return 0
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
		return "a rule of its own dropped them on the way out (a packet filter at output or postrouting, or a BPF program of the cgroup; EPERM)"
	case int32(unix.ENETUNREACH):
		return fmt.Sprintf("it has no route to %s any more (ENETUNREACH)", f.c.Remote.Addr())
	case int32(unix.EINVAL):
		return fmt.Sprintf("its address %s is not its own any more, or a blackhole route swallows %s (EINVAL)", f.c.Local.Addr(), f.c.Remote.Addr())
	case int32(unix.EACCES):
		return fmt.Sprintf("a route of its own prohibits %s (EACCES)", f.c.Remote.Addr())
	case int32(unix.EHOSTUNREACH):
		return fmt.Sprintf("it has no route from %s to %s any more (EHOSTUNREACH)", f.c.Local.Addr(), f.c.Remote.Addr())
	case int32(unix.ENETDOWN), int32(unix.ENODEV), int32(unix.ENXIO):
		return "the network device is down or gone (" + event.Errno(-errno).String() + ")"
	}
	if errno > 0 {
		return "a queue or a filter of the network device dropped them (queueing discipline, tc)"
	}
	return "its IP layer said " + event.Errno(-errno).String()
}

func tellSendFailed(t *telling) string {
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
		s += fmt.Sprintf(" Of what was sent again nothing left it; %d segments were thrown away.", n)
	}
	s += " So this kernel gave up"
	if e.UserTimeout != 0 {
		s += fmt.Sprintf(", after TCP_USER_TIMEOUT (%d ms)", e.UserTimeout)
	}
	s += "; it says nothing about the peer"
	if e.State != event.SynSent {
		s += ", which may still think that the connection is open"
	}
	return s + "."
}

// softly says which ICMP error was kept while the kernel went on trying, and by
// whom it was sent; it begins with a space.
func (f *facts) softly() string {
	e := f.end()
	if e.ErrSoft == 0 {
		return ""
	}
	i := f.icmp(e.ErrSoft)
	n, _ := f.thrownAway()
	switch {
	case n > 0:
		return fmt.Sprintf(" %d of its segments never left this host: the next hop did not answer, and the process was told %s instead of ETIMEDOUT.", n, e.ErrSoft)
	case i == none:
		return fmt.Sprintf(" On the way an error was noted (ICMP, or this host's own routing), so the process was told %s instead of ETIMEDOUT.", e.ErrSoft)
	case f.at(i).Loopback:
		return fmt.Sprintf(" On the way this host itself said %s (a packet filter that rejects, or its neighbor look-up), so the process was told %s instead of ETIMEDOUT.", ICMPText(f.at(i)), e.ErrSoft)
	}
	return fmt.Sprintf(" On the way %s said %s, so the process was told %s instead of ETIMEDOUT.", f.at(i).From.Addr(), ICMPText(f.at(i)), e.ErrSoft)
}

// sentAgain says how often, of which some tries may not have left this host.
func (f *facts) sentAgain() string {
	e := f.end()
	n, refused, busy := int(e.Retransmits), f.refused(), int(e.BusyTries)
	s := fmt.Sprintf("%d times", max(0, n-refused-busy))
	if max(0, n-refused-busy) == 1 {
		s = "once"
	}
	if refused > 0 {
		s += fmt.Sprintf(", and in the last %d tries could not leave this host", refused)
	}
	if busy > 0 {
		s += fmt.Sprintf(" (%d more tries were put off, since an earlier copy was still held in this host)", busy)
	}
	return s
}

// tooLarge says whether only full-size segments had no answer: what came behind
// them was acknowledged selectively, or all that ever was acknowledged was
// smaller.
func (f *facts) tooLarge() (sure, may bool) {
	e := f.end()
	if !e.WindowKnown || e.MSS == 0 || e.SndNxt-e.SndUna < e.MSS || f.refused() > 0 {
		return false, false
	}
	acked := f.bytes().Acked
	return e.Sacked > 0, acked != nil && *acked > 0 && *acked < uint64(e.MSS)
}

// blackHole is the hint at a path that swallows full-size segments; it begins with
// a space.
func (f *facts) blackHole() string {
	mss := f.end().MSS
	switch sure, may := f.tooLarge(); {
	case sure:
		return fmt.Sprintf(" Smaller segments behind it were acknowledged (SACK), the full-size one (%d bytes) never: so does a path look that takes no packets of that size and does not say so (a path MTU black hole).", mss)
	case may:
		return fmt.Sprintf(" Only segments smaller than a full-size one (%d bytes) were ever acknowledged: the path may take no packets of that size and not say so (a path MTU black hole).", mss)
	}
	return ""
}

const blackHoleAdvice = "Try `ping -M do -s SIZE` along the path. Let ICMP \"fragmentation needed\" (IPv6: packet too big) pass there, clamp the MSS to the path MTU, or set net.ipv4.tcp_mtu_probing to 1."

// early is what ended a FIN_WAIT2 mini-socket before its time; nil: nothing did,
// or that is not known.
func (f *facts) early() *event.Event {
	e := f.at(f.miniEnd)
	if e == nil || event.State(e.Arg) != event.FinWait2 || twskEnd(e) != event.TwskEarly || f.mini != none || f.peerFin != none {
		return nil
	}
	return e
}

// twskEnd is what ended a mini-socket. No timer runs in a process: on 5.10 the
// end of a namespace calls inet_twsk_kill from within its own file, where
// inet_twsk_deschedule_put is inlined.
func twskEnd(e *event.Event) event.TwskEnd {
	if how := event.TwskEnd(e.Arg2); how != event.TwskTimer || e.Context != event.ContextProcess {
		return how
	}
	return event.TwskEarly
}

// resetInFinWait2 says whether a segment ended the mini-socket that waited for the
// peer's FIN, and was not answered with a RST: it was one itself
// (tcp_timewait_state_process).
func (f *facts) resetInFinWait2() bool {
	e := f.early()
	return e != nil && e.Context == event.ContextSoftirq
}

// waitTimes is the time that a FIN_WAIT2 mini-socket was given, and for how long it
// lived; 0: not known.
func (f *facts) waitTimes() (given, lived time.Duration) {
	if f.timeWait == none {
		return 0, 0
	}
	e := f.at(f.timeWait)
	if f.miniEnd != none {
		lived = f.at(f.miniEnd).Time - e.Time
	}
	return time.Duration(e.Arg2) * time.Millisecond, lived
}

func namespaceRemoved(a, b *facts, s Scope) *finding {
	e := a.early()
	// inet_twsk_purge, from a worker (cleanup_net): a mini-socket does not keep
	// its namespace alive.
	if e == nil || e.Context != event.ContextProcess || !e.KernelThread() || a.closed == none || a.rst {
		return nil
	}
	return &finding{by: byKernel, a: []int{a.release, a.miniEnd}}
}

func tellNamespaceRemoved(t *telling) string {
	_, lived := t.a.waitTimes()
	s := fmt.Sprintf("%s had closed, and its kernel waited for the FIN of %s; then the network namespace of this end was removed", end(t.a), t.other())
	if lived > 0 {
		s += ", " + seconds(lived) + " into the wait"
	}
	return s + ", and what was left of the connection with it. No packet was sent: the peer is not told, and nobody answers it any more."
}

// waitText is how long a closed socket was waited for, and which setting said so.
func (f *facts) waitText() string {
	given, _ := f.waitTimes()
	if given == 0 {
		return ""
	}
	text := strings.TrimSuffix(fmt.Sprintf("%.1f", given.Seconds()), ".0") + " s"
	if e := f.at(f.timeWait); e.Has&event.HasTCP != 0 {
		if e.Linger2 > 0 {
			return " after " + text + " (TCP_LINGER2)"
		}
		return " after " + text + " (tcp_fin_timeout)"
	}
	return " after " + text
}
