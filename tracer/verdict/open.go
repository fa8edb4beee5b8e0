package verdict

import (
	"fmt"
	"strings"

	"github.com/tcpbye/tcpbye/tracer/event"
)

// The connection has not ended.
const (
	CloseWaitLeak  Cause = "close-wait-leak" // the peer has finished, and this process has not closed
	FinWait2Held   Cause = "fin-wait2-held"  // this end shut down its sending side, and the peer has not finished
	FinStuck       Cause = "fin-stuck"       // the FIN is not acknowledged yet
	DescriptorHeld Cause = "descriptor-held" // closed, but somebody else still holds the socket
	StillOpen      Cause = "still-open"      // nobody has begun to close it
)

var closeWaitLeak = Rule{
	Cause: CloseWaitLeak, Class: Open, open: true, find: findCloseWaitLeak,
	describe: func(t *trial) string {
		return fmt.Sprintf("%s has finished (FIN), and %s has not closed its end. No timer will: only the process can.", t.other(), end(t.a))
	},
	symptoms: map[string]int{"EADDRINUSE": 6, "EADDRNOTAVAIL": 3, "read() = 0": 4, "CLOSE_WAIT": 1},
	What: "The peer has finished, and the process at this end has not closed its socket. " +
		"The peer's FIN came in (tcp_fin): the state is CLOSE_WAIT, and read(2) returns 0 once everything before it has been read. From here on only this end's process can go further, with shutdown(2) or close(2); no timer exists for it (keepalive ends it only if the peer is gone). " +
		"A short stay is normal, and so is a long one while the answer is still being sent. Many of them that never go are a leak: the descriptors run out (EMFILE) sooner or later.",
	Prove: "`ss -tanp state close-wait` shows the process and descriptor; Recv-Q of 1 with no reader means that it has not even seen the FIN. " +
		"`ls /proc/PID/fd | wc -l` grows. " +
		"`strace -f -e trace=read,recvfrom,epoll_wait,close -p PID` shows whether it ever reads the 0 and what it does then.",
	Do:     "Make the process close the socket when read(2) returns 0. Look at the path that forgets it: an error return, a pool, a thread that hangs.",
	Belief: "\"CLOSE_WAIT and FIN_WAIT2 are a matter of the kernel or the network; tune the sysctls.\"",
	Truth:  "CLOSE_WAIT means that your process has not closed, and no sysctl has a timer for it. A FIN_WAIT2 that a process still holds has none either: tcp_fin_timeout is for closed sockets only.",
	Refs:   []string{"RFC 9293 3.6", "close(2)", "ss(8)", "tcp_fin"},
}

func findCloseWaitLeak(a, b *facts, s Scope) *finding {
	if a.c.State() != event.CloseWait {
		return nil
	}
	return &finding{a: []int{a.peerFin}, needs: []event.Hook{event.HookTwskKill, event.HookSendReset}}
}

var finWait2Held = Rule{
	Cause: FinWait2Held, Class: Open, open: true, find: findFinWait2Held,
	describe: func(t *trial) string {
		return fmt.Sprintf("%s shut down its sending side and still holds the descriptor; %s has not sent its FIN. No timer applies while a process holds the socket.", end(t.a), t.other())
	},
	symptoms: map[string]int{"EADDRINUSE": 4, "FIN_WAIT2": 1},
	What: "One end shut its sending side down and still holds the socket; the peer has not finished. " +
		"shutdown(2) sent the FIN and the peer acknowledged it: FIN_WAIT2. While a process holds the socket, no timer applies; net.ipv4.tcp_fin_timeout and TCP_LINGER2 count only after close(2). " +
		"For a half-close this is normal: the peer may send for as long as it likes. If nothing comes, the peer is in CLOSE_WAIT and its process has not closed, or the peer is gone and only keepalive would notice.",
	Prove: "`ss -tanpoe state fin-wait-2` shows the process and no timer; a closed one has no process and timer:(timewait,…). " +
		"At the peer, `ss -tanp state close-wait` names the process that has yet to close.",
	Do:   "Read to the end with a time limit of your own, then close(2): from then on the kernel limits the wait. If it lasts, look for the process in CLOSE_WAIT at the peer.",
	Refs: []string{"RFC 9293 3.6.1", "shutdown(2)", "tcp(7)", "tcp_shutdown", "tcp_time_wait"},
}

func findFinWait2Held(a, b *facts, s Scope) *finding {
	if a.c.State() != event.FinWait2 || a.release != none || b != nil && b.closed != none {
		return nil
	}
	x := &finding{a: []int{a.fin}}
	x.did(a, a.actEvent(a.finAct))
	x.by = byNobody
	return x
}

var finStuck = Rule{
	Cause: FinStuck, Class: Open, open: true, find: findFinStuck,
	describe: func(t *trial) string {
		return fmt.Sprintf("%s closed, but its FIN has not been acknowledged by %s yet: it waits behind data in the send queue, or for its acknowledgement.", t.who(), t.other())
	},
	symptoms: map[string]int{"EADDRINUSE": 5, "TCPWinProbe": 1, "TCPToZeroWindowAdv": 4, "FIN_WAIT1": 1},
	What: "Closing has begun, but the FIN is not acknowledged: it may not even have been sent. " +
		"tcp_send_fin queues the FIN behind the data. In FIN_WAIT1 it waits for the congestion window, for the peer's receive window (persist timer, Send-Q above 0) or for its acknowledgement (retransmit timer). " +
		"The peer can still read everything that is queued, if it reads. After close(2) the socket has no owner, and if the peer answers nothing the kernel gives up in the end (orphan-timeout); any data from the peer makes it throw the queue away (data-after-close).",
	Prove: "`ss -tanoei state fin-wait-1` shows Send-Q, the timer (persist: window closed; on: retransmitting) and ino:0 once it is closed. " +
		"`tcpdump -nni any tcp port PORT` shows win 0 from the peer, or the same segment again and again.",
	Do:     "Look at the peer: with win 0 its process does not read, without answers the path or the host is gone.",
	Belief: "\"A non-blocking socket never blocks in close().\"",
	Truth:  "With SO_LINGER on and a time above 0, close(2) waits for the close to finish on a non-blocking socket too (measured: it blocked for 1.0 s).",
	Refs:   []string{"RFC 9293 3.6", "close(2)", "socket(7)", "tcp_send_fin", "tcp_write_timer_handler"},
}

func findFinStuck(a, b *facts, s Scope) *finding {
	if a.fin == none || a.c.State() != event.FinWait1 || b != nil && b.closed != none {
		return nil
	}
	x := &finding{a: []int{a.fin}}
	x.did(a, a.actEvent(a.finAct))
	x.by = byNobody
	return x
}

var descriptorHeld = Rule{
	Cause: DescriptorHeld, Class: Open, open: true, find: findDescriptorHeld, describe: describeDescriptorHeld,
	symptoms: map[string]int{"EADDRINUSE": 2, "CLOSE_WAIT": 4, "ESTABLISHED": 2},
	What: "A process closed its descriptor, but others still refer to the socket: nothing was sent. " +
		"close(2) gives up one reference to the open file (filp_close up to 6.1, filp_flush from 6.12). Only when the last one goes does __fput reach sock_close, inet_release and tcp_close. " +
		"Holders are forked children, dup(2) copies, descriptors passed with SCM_RIGHTS (even in flight), io_uring's fixed files, and any thread inside a call on the socket. epoll holds none. " +
		"The connection stays ESTABLISHED and goes on acknowledging data. When the last holder exits with data unread, the peer gets a RST.",
	Prove: "`ss -tanpe` still shows ESTAB, and names every process that has the socket in its descriptor table. " +
		"`lsof -nP -iTCP:PORT` lists the copies; descriptors in flight and io_uring's do not show there. " +
		"`strace -f -e trace=close,dup,dup2,dup3,fork,clone,sendmsg -p PID` shows how they arose.",
	Do:     "Open sockets with SOCK_CLOEXEC (accept4 too) and close them in the child. To end a connection whoever holds it, or to wake a thread blocked on it, call shutdown(2) before close(2).",
	Belief: "\"Closing a descriptor wakes the threads that are blocked on it.\" \"The parent closed it, so it is closed.\"",
	Truth: "Not on Linux, and dup2(2) over it does not either: the thread keeps the socket alive, and the next data goes to it. shutdown(2) wakes it at once. " +
		"Not while a forked child holds it: data is still acknowledged, and a listener that a child holds even completes new handshakes.",
	Refs: []string{"close(2)", "shutdown(2)", "fork(2)", "dup(2)", "unix(7)", "filp_close", "filp_flush", "__fput"},
}

func findDescriptorHeld(a, b *facts, s Scope) *finding {
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
	x.did(a, e)
	x.by = byNobody
	return x
}

func describeDescriptorHeld(t *trial) string {
	e := t.a.at(t.a.held)
	if who := t.a.c.Holders; len(who) > 0 {
		names := make([]string, len(who))
		for i := range who {
			names[i] = named(&who[i])
		}
		last := len(names) - 1
		list := names[last]
		if last > 0 {
			list = strings.Join(names[:last], ", ") + " and " + list
		}
		return fmt.Sprintf("%s closed its descriptor%s, but %s still held the socket when the trace ended: nothing was sent, and the connection is open.",
			t.who(), t.when(e), list)
	}
	return fmt.Sprintf("%s closed its descriptor%s, but %d more reference(s) to the socket exist (a forked child, dup, a descriptor passed on, or a thread inside a call): nothing was sent, and the connection is open.",
		t.who(), t.when(e), e.Refs-1)
}

var stillOpen = Rule{
	Cause: StillOpen, Class: Open, open: true, own: true, find: findStillOpen, describe: describeStillOpen,
	symptoms: map[string]int{"upstream timed out": 1, "i/o timeout": 5, "TCPKeepAlive": 2, "TCPWinProbe": 5, "RetransSegs": 5, "TCPToZeroWindowAdv": 1, "TCPBacklogDrop": 3, "ESTABLISHED": 1},
	What: "The connection is open, and neither end has begun to close it. " +
		"No FIN and no RST has been seen in either direction. Without keepalive an idle connection costs no packet and has no time limit: it stays even if the peer's host has vanished. " +
		"Devices on the path are less patient: NAT, firewalls and load balancers forget idle flows after minutes.",
	Prove: "When a trace ends tcpbye asks the kernel's own table about what has not ended, in its network namespace; the verdict is certain only if it is there, too. `ss -tanpoei` shows the state ESTAB, the process, lastsnd and lastrcv in milliseconds, and the keepalive timer if there is one.",
	Refs:  []string{"RFC 9293 3.3.2", "tcp(7)", "ss(8)"},
}

func findStillOpen(a, b *facts, s Scope) *finding {
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

func describeStillOpen(t *trial) string {
	if !t.a.c.Found {
		return fmt.Sprintf("The connection between %s and %s is open as far as the trace shows: the kernel's own table was not read, or did not show it so.", end(t.a), t.other())
	}
	return fmt.Sprintf("The connection between %s and %s is open.", end(t.a), t.other())
}
