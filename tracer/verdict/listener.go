package verdict

import (
	"fmt"
	"time"

	unix "github.com/tcpbye/tcpbye/tracer/linux"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
)

// Connections in a listener's accept queue.
const (
	AcceptOverflow Cause = "accept-overflow" // the queue was full
	ListenerClosed Cause = "listener-closed" // the listener went away with this connection still in its queue
	NeverAccepted  Cause = "never-accepted"  // nobody called accept(2) for it
)

var acceptOverflow = Rule{
	Cause: AcceptOverflow, Class: Refused, find: findAcceptOverflow, describe: describeAcceptOverflow, unaccepted: true, resends: true,
	symptoms: map[string]int{"ETIMEDOUT": 7, "ECONNREFUSED": 4, "upstream timed out": 4, "i/o timeout": 3, "TCP_FLAGS": 3, "INVALID_SYN": 1, "TCPAbortOnTimeout": 7, "AttemptFails": 5,
		"ListenOverflows": 1, "ListenDrops": 1, "EmbryonicRsts": 2, "TCPTimeouts": 5, "TCPSynRetrans": 2, "TCPReqQFullDrop": 2, "SYN_SENT": 2, "SYN_RECV": 1},
	What: "The listener's accept queue was full, so the kernel would not complete the handshake. " +
		"The queue holds completed connections until accept(2) takes them; its length is the smaller of listen(2)'s backlog and net.core.somaxconn, plus one. When it is full, tcp_conn_request drops new SYNs silently: the client tries again and hangs in SYN_SENT. " +
		"If it fills up between SYN and final ACK, that ACK is dropped as well and the client believes that it is connected. Only in that last case, and only with net.ipv4.tcp_abort_on_overflow=1, does tcp_check_req send a RST (from 6.12 with the misleading reason INVALID_SYN, 10). " +
		"ListenOverflows and ListenDrops move together.",
	Prove: "`ss -ltn` shows Recv-Q (waiting) above Send-Q (the limit) for the listener. " +
		"`nstat -az TcpExtListenOverflows TcpExtListenDrops` moves. " +
		"At the client, `ss -tano state syn-sent` shows the attempt with its timer.",
	Do:     "Find out why the server accepts too slowly; that is the cause. Then raise both listen(2)'s backlog and net.core.somaxconn.",
	Belief: "\"A full accept queue resets the clients.\"",
	Truth:  "SYNs are dropped and the clients hang in SYN_SENT. Switching net.ipv4.tcp_abort_on_overflow on changes nothing about that: it concerns only a handshake whose last ACK meets a full queue.",
	Refs:   []string{"listen(2)", "accept(2)", "tcp(7)", "tcp_conn_request", "tcp_check_req", "tcp_v4_syn_recv_sock"},
}

func findAcceptOverflow(a, b *facts, s Scope) *finding {
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

func describeAcceptOverflow(t *trial) string {
	if t.class() == TimedOut {
		return fmt.Sprintf("The SYN of %s was dropped because the accept queue of the listener at %s was full; after %d more tries the kernel gave up.",
			end(t.a), t.a.c.Remote, t.a.end().Retransmits)
	}
	return fmt.Sprintf("The accept queue of the listener at %s was full when %s completed the handshake, and tcp_abort_on_overflow is set: the kernel reset the connection.",
		t.a.c.Remote, end(t.a))
}

var listenerClosed = Rule{
	Cause: ListenerClosed, Class: Aborted, find: findListenerClosed,
	describe: func(t *trial) string {
		return fmt.Sprintf("The connection was complete and waited in the accept queue of the listener at %s. %s closed the listener, so the kernel reset the connection. The application never saw it: what %s had sent was not processed.", t.a.c.Local, t.who(), t.other())
	},
	unaccepted: true,
	symptoms:   map[string]int{"ECONNRESET": 6, "recv() failed (104": 3, "TCP_STATE": 2, "EstabResets": 5, "OutRsts": 6, "TCPMigrateReqSuccess": 1},
	What: "The listener was closed while this connection still waited in its accept queue. " +
		"The kernel completes handshakes by itself; a connection waits in the listener's queue until accept(2) takes it. When the listener goes (close, exit, shutdown, SOCK_DESTROY), inet_csk_listen_stop walks the queue and inet_child_forget calls tcp_disconnect for each child: RST with ACK. " +
		"A child that completes at that very moment gets the same from inet_csk_reqsk_queue_add. " +
		"From 5.14 net.ipv4.tcp_migrate_req can move the children to another listener of the same SO_REUSEPORT group (TCPMigrateReqSuccess). " +
		"EstabResets and OutRsts move once for each child; TCPAbortOnClose does not, even if the client's request was in the queue. From 6.12 the reset reason is TCP_STATE (14).",
	Prove: "`ss -ltn` just before shows Recv-Q above 0 for the listener: that many were waiting. " +
		"`bpftrace -e 'kprobe:inet_child_forget { printf(\"%d %s\\n\", pid, comm); }'` names the process that closed the listener. " +
		"`tcpdump -nni any tcp port PORT` shows a complete handshake, perhaps a request, then [R.] from the server.",
	Do:     "Stop new connections first (load balancer, readiness), accept(2) until the queue is empty, then close the listener. With SO_REUSEPORT and 5.14 or later, net.ipv4.tcp_migrate_req=1 hands the queue on.",
	Belief: "\"Retrying after a reset is always safe.\" \"Retrying after a reset is never safe.\"",
	Truth: "It depends on whether the request was read. A request that no process had read or even accepted, as here or when it met a closed socket, can be sent again. " +
		"One that was read may have been carried out although the answer is lost; tcpbye says which bytes were unread.",
	Refs: []string{"listen(2)", "accept(2)", "inet_csk_listen_stop", "inet_child_forget", "inet_csk_reqsk_queue_add"},
}

func findListenerClosed(a, b *facts, s Scope) *finding {
	if a.unheld(s) {
		if a.left(b, s) {
			return nil
		}
		end := a.end()
		x := &finding{by: byProcess, act: ActListener, actor: a.process(end), a: []int{a.closed, a.active}, needs: []event.Hook{event.HookChildForget}}
		if end.Exiting() {
			x.act, x.signal = act(end)
		}
		return x
	}
	if !before(a.forget, a.closed) || a.left(b, s) {
		return nil
	}
	e := a.at(a.forget)
	x := &finding{by: byProcess, act: ActListener, actor: a.process(e), a: []int{a.forget, a.closed, a.active}}
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

var neverAccepted = Rule{
	Cause: NeverAccepted, Class: Open, open: true, find: findNeverAccepted,
	describe: func(t *trial) string {
		return fmt.Sprintf("The kernel completed the handshake with %s, but the application that listens on %s has not accepted the connection.", t.a.c.Remote, t.a.c.Local)
	},
	unaccepted: true,
	symptoms:   map[string]int{"ENOTCONN": 4, "upstream timed out": 2, "i/o timeout": 4, "ListenOverflows": 2, "CLOSE_WAIT": 3, "ESTABLISHED": 3},
	What: "The kernel completed the handshake, but the application has not accepted the connection. " +
		"The three-way handshake needs no process: the new socket is ESTABLISHED and waits in the listener's accept queue. The client can send, and its data is acknowledged up to the receive buffer. " +
		"Until inet_csk_accept takes it the socket belongs to no descriptor, so no process shows for it. " +
		"If it stays there, the process is stuck, too busy, or has stopped accepting (often because it has no descriptors left, EMFILE). If the listener closes, the kernel resets it (listener-closed).",
	Prove: "`ss -ltnp` shows Recv-Q above 0: that many are waiting. " +
		"`ss -tanpe` shows the connection as ESTAB without a process. " +
		"`strace -f -e trace=accept,accept4 -p PID` shows whether the server accepts, and with which error.",
	Do:     "Find out why the server does not call accept(2): stuck, too busy, out of descriptors.",
	Belief: "\"connect() returned, so the server has accepted me.\" \"accept() fails if the client has already reset.\"",
	Truth: "The kernel alone completed it; the application may never accept. " +
		"Linux returns the dead connection: accept(2) succeeds, then recv(2) says ECONNRESET and getpeername(2) ENOTCONN.",
	Refs: []string{"listen(2)", "accept(2)", "getpeername(2)", "inet_csk_accept", "tcp_conn_request"},
}

func findNeverAccepted(a, b *facts, s Scope) *finding {
	if a.c.Open != conn.OpenPassive || a.c.Established == 0 || a.closed != none || a.accepted() || !s.has(event.HookAccept) {
		return nil
	}
	// A return probe has a limited number of instances, and accept(2) sleeps in
	// one: with many waiting, an accept can be missed.
	return &finding{needs: []event.Hook{event.HookAccept}, likely: true}
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

var leftUnaccepted = Rule{
	Cause: NeverAccepted, Class: Aborted, again: true, find: findLeftUnaccepted, describe: describeLeftUnaccepted, unaccepted: true,
}

// findLeftUnaccepted: a client closed a connection that nobody had accepted yet.
func findLeftUnaccepted(a, b *facts, s Scope) *finding {
	if b == nil || !b.left(a, s) || a.fin == none {
		return nil
	}
	x := &finding{a: []int{a.release, a.fin}, b: []int{b.peerFin, b.forget, b.closed, b.active}, both: true}
	_, did := a.leaves()
	if b.forget == none {
		x.needs = []event.Hook{event.HookChildForget}
	}
	return x.did(a, a.actEvent(did))
}

func describeLeftUnaccepted(t *trial) string {
	left, _ := t.a.leaves()
	s := fmt.Sprintf("%s closed first%s%s: nobody had accepted the connection, which waited in the queue of the listener at %s.",
		t.who(), parted(t.how()), t.when(t.a.at(left)), t.a.c.Remote)
	if l := t.b.lost.Unread; l != nil && *l > 0 {
		s += fmt.Sprintf(" Nobody read what it had sent (%s).", plural(*l))
	}
	if t.b.active != none {
		s += fmt.Sprintf(" When the listener was closed %s later, its kernel sent a RST, which no longer ended anything.", span(t.b.end().Time-t.a.at(left).Time))
	}
	return s
}

// leaves is when an end that has closed began to leave, and by which act: it may have
// shut its sending side down, and closed later.
func (f *facts) leaves() (at, act int) {
	if before(f.fin, f.release) {
		return f.fin, f.finAct
	}
	return f.release, f.release
}

// noDescriptor says that the process which accepts had no descriptor left when the
// peer of a connection that waited gave up, and what to do; "" it had, or that is not
// known.
func (f *facts) noDescriptor() (says, do string) {
	for i := range f.c.Events {
		if e := f.at(i); e.Full > 0 && f.c.Acceptor != nil {
			who := named(f.c.Acceptor)
			return fmt.Sprintf("%s, which accepts there, had all its %d descriptors in use (RLIMIT_NOFILE), so accept(2) fails with EMFILE.", who, e.Full),
				fmt.Sprintf("Raise the descriptor limit of %s (LimitNOFILE, ulimit -n), or find what it does not close: ls -l /proc/%s/fd.", who, event.PIDText(f.c.Acceptor.PID))
		}
	}
	return "", ""
}
