package scenario

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// held is what both ends are due when a close(2) ended nothing: who closed in
// vain is known, but nobody has ended the connection.
func held(x Expect) Expect {
	x = open(verdict.DescriptorHeld, x)
	x.Act, x.Actor = verdict.ActClose, "client"
	return x
}

// finAfter says that the first FIN of the end left after the last call of this
// kind, not before.
func finAfter(end, op string) func(*Outcome) error {
	return func(o *Outcome) error {
		var at time.Duration
		for _, c := range o.Calls {
			if c.Conn == end && c.Op == op {
				at = c.Start
			}
		}
		if at == 0 {
			return fmt.Errorf("the story has no %s on %s", op, end)
		}
		// The clocks of capture and calls are set against each other once, by
		// software: a millisecond is as good as that gets.
		if fin := o.Flow(o.Ends[end]).FirstFIN; fin < at-time.Millisecond {
			return fmt.Errorf("the FIN left %v before the last %s", at-fin, op)
		}
		return nil
	}
}

var descriptors = []Scenario{
	{
		Name:        "fork-held",
		Title:       "the client closes, but its child holds the socket",
		Description: "The client starts a child that inherits the socket, and closes its own descriptor. Nothing happens on the wire: the child holds the connection, and the server's data is still acknowledged.",
		Run: func(w *World) {
			c, s := w.Pair()
			c.Exchange(s, 100, 200)
			c.Fork("child")
			c.Close()
			s.Send(50)
			s.WaitAcked()
		},
		Ends: map[string]Expect{"client": held(Expect{}), "server": held(Expect{})},
	},
	{
		Name:        "fork-exit",
		Title:       "the last copy of the socket goes with the child that held it",
		Description: "As in fork-held, but then the child exits. Only now is the connection closed, by a process that never used it.",
		Run: func(w *World) {
			c, s := w.Pair()
			c.Exchange(s, 100, 200)
			child := c.Fork("child")
			c.Close()
			s.Send(50)
			s.WaitAcked()
			child.Recv(50)
			child.p.Exit(0)
			followUp(c, s)
		},
		Ends: politely("child", verdict.ActExit).pair("client", first, "server", then),
	},
	{
		Name:        "dup",
		Title:       "the client closes one of two descriptors, then the other",
		Description: "The socket has two descriptors. Closing the first does nothing; a request still passes. Closing the second is the goodbye.",
		Run: func(w *World) {
			c, s := w.Pair()
			d := c.Dup()
			c.Close()
			d.Exchange(s, 100, 200)
			d.Close()
			followUp(d, s)
		},
		Ends:   politely("client", verdict.ActClose).pair("client", first, "server", then),
		Verify: finAfter("client", opClose),
	},
	{
		Name:        "dup2",
		Title:       "the client puts another file over the socket's descriptor",
		Description: "dup2(2) over the last descriptor closes the socket without any close(2).",
		Run: func(w *World) {
			c, s := w.Pair()
			c.Exchange(s, 100, 200)
			c.Dup2Over()
			followUp(c, s)
		},
		Ends: politely("client", verdict.ActDup2).pair("client", first, "server", then),
	},
	{
		Name:        "dup2-32-bit",
		Title:       "the same by a system call of a 32-bit program",
		Description: "The client calls dup2(2) over its descriptor in the way of 32-bit programs (int 0x80), whose numbers of system calls are others: this one is uname(2) for 64-bit ones.",
		Needs:       []Feature{HasCompat},
		Run: func(w *World) {
			c, s := w.Pair()
			c.Exchange(s, 100, 200)
			other := c.p.must(nil, &request{Op: opEventFD}, "")
			c.p.must(c.end, &request{Op: opCompatDup2, FD: other, FD2: c.fd}, fmt.Sprintf("%d, %d", other, c.fd))
			followUp(c, s)
		},
		Ends: politely("client", verdict.ActDup2).pair("client", first, "server", then),
	},
	{
		Name:        "scm-rights",
		Title:       "the client passes its socket to another process, which closes it",
		Description: "The client sends the descriptor over a unix socket (SCM_RIGHTS) and closes its own. The heir uses the connection, and closes it.",
		Run: func(w *World) {
			c, s := w.Pair()
			heir := w.Puppet("heir")
			from, to := w.Link(c.p, heir)
			c.SendOver(from)
			h := heir.ReceiveOver(to, c)
			c.Close()
			h.Exchange(s, 100, 200)
			h.Close()
			followUp(c, s)
		},
		Ends:   politely("heir", verdict.ActClose).pair("client", first, "server", then),
		Verify: finAfter("client", opClose),
	},
	{
		Name:        "scm-in-flight",
		Title:       "the socket is lost inside a unix socket that is closed",
		Description: "The client sends the descriptor over a unix socket and closes its own. Nobody receives it: for a while no process has the connection at all. The close of the unix socket's other side closes it.",
		Run: func(w *World) {
			c, s := w.Pair()
			c.Exchange(s, 100, 200)
			heir := w.Puppet("heir")
			from, to := w.Link(c.p, heir)
			c.SendOver(from)
			c.Close()
			s.Send(50)
			s.WaitAcked()
			heir.closeFD(to)
			s.RecvFails(unix.ECONNRESET)
			s.Close()
		},
		Ends: aborted(verdict.CloseUnread, "heir", verdict.ActClose).pair(
			"client", Expect{Lost: Lost{Unread: 50}, RST: 1}, "server", reset),
		Counters: onClose,
	},
	{
		Name:        "close-range",
		Title:       "the client closes a range of descriptors",
		Description: "close_range(2), as service managers and sandboxes do before they start a program, closes the socket.",
		Run: func(w *World) {
			c, s := w.Pair()
			c.Exchange(s, 100, 200)
			c.CloseRange()
			followUp(c, s)
		},
		Ends: politely("client", verdict.ActClose).pair("client", first, "server", then),
	},
	{
		Name:        "close-blocked-read",
		Title:       "the client closes while another of its threads reads",
		Description: "A thread sits in recv(2) while another closes the descriptor. The reader keeps the file: nothing is sent, and the server's next 10 bytes go to the reader. When its call returns, the connection is closed.",
		Run: func(w *World) {
			c, s := w.Pair()
			c.Exchange(s, 100, 200)
			reader := c.RecvThread(100)
			c.Close()
			s.Send(10)
			if r := reader.wait(); w.Err == nil && r.N != 10 {
				w.Fail("the reader got %d bytes, error %v", r.N, r.Errno)
			}
			followUp(c, s)
		},
		Ends: politely("client", verdict.ActClose).pair("client", first, "server", then),
		Verify: func(o *Outcome) error {
			if err := finAfter("client", opClose)(o); err != nil {
				return err
			}
			send, err := o.last("server", opSend)
			if err != nil {
				return err
			}
			if fin := o.Flow(o.Ends["client"]).FirstFIN; fin < send.Start-time.Millisecond {
				return fmt.Errorf("the FIN left before the reader had its bytes")
			}
			return nil
		},
	},
	{
		Name:        "close-blocked-read-held",
		Title:       "the client has closed, but another of its threads still reads",
		Description: "A thread sits in recv(2) while another closes the descriptor. As long as the reader waits, the connection stays open, with no descriptor left that could close it.",
		Run: func(w *World) {
			c, s := w.Pair()
			c.Exchange(s, 100, 200)
			c.RecvThread(100)
			c.Close()
			w.WaitOrphan(c.end, event.Established)
		},
		Ends: map[string]Expect{"client": held(Expect{}), "server": held(Expect{})},
	},
	{
		Name:        "io-uring-close",
		Title:       "the client closes its socket through io_uring",
		Description: "IORING_OP_CLOSE closes the socket; no close(2) is ever called.",
		Needs:       []Feature{HasIOUring},
		Run: func(w *World) {
			c, s := w.Pair()
			c.Exchange(s, 100, 200)
			c.CloseByUring()
			followUp(c, s)
		},
		Ends: politely("client", verdict.ActClose).pair("client", first, "server", then),
	},
	{
		Name:        "io-uring-held",
		Title:       "the client closes while a receive of io_uring is pending",
		Description: "The client has begun a receive through io_uring, and closes its descriptor. The request keeps the file: nothing is sent, and the server's next 10 bytes complete the request. Only then is the connection closed.",
		Needs:       []Feature{HasIOUring},
		Run: func(w *World) {
			c, s := w.Pair()
			c.Exchange(s, 100, 200)
			c.RecvByUring()
			c.Close()
			w.Dwell(300 * time.Millisecond)
			s.Send(10)
			followUp(c, s)
		},
		// The request took the 10 bytes, and no call of the story.
		Ends:   politely("client", verdict.ActClose).pair("client", Expect{TimeWait: true, FIN: 1, Deaf: true}, "server", then),
		Verify: finAfter("server", opSend),
	},
	{
		Name:        "fd-thrown-away",
		Title:       "a socket that was passed on is thrown away where it arrives",
		Description: "The client sends the descriptor over a unix socket and closes its own. The heir receives the message without room for a descriptor: the kernel throws the socket away with it, inside recv(2). Nobody has called close(2) on it last.",
		Run: func(w *World) {
			c, s := w.Pair()
			c.Exchange(s, 100, 200)
			heir := w.Puppet("heir")
			from, to := w.Link(c.p, heir)
			c.SendOver(from)
			c.Close()
			heir.must(nil, &request{Op: opRecvNoRoom, FD: to}, "")
			followUp(c, s)
		},
		Ends: politely("heir", verdict.ActDiscard).pair("client", first, "server", then),
	},
	{
		Name:        "thread-table",
		Title:       "the last copy goes with a thread that has descriptors of its own",
		Description: "A thread of the client has made a table of descriptors of its own (unshare(2), CLONE_FILES), with a copy of the socket. The client closes its descriptor: nothing happens. Then the thread ends, and with it the connection; the process lives on.",
		Run: func(w *World) {
			c, s := w.Pair()
			c.Exchange(s, 100, 200)
			c.p.start(nil, &request{Op: opTable, Thread: true}, "").wait()
			c.Close()
			w.WaitOrphan(c.end, event.Established)
			c.p.must(nil, &request{Op: opLeave}, "")
			followUp(c, s)
		},
		Ends: politely("client", verdict.ActThread).pair("client", first, "server", then),
	},
	{
		Name:        "closed-twice",
		Title:       "the client closes a descriptor twice, and hits another connection",
		Description: "The client closes its socket. The number is given to its next connection at once. A second close of the old number, a classic bug, closes the new connection behind its owner's back.",
		Run: func(w *World) {
			l := w.Puppet("server").Listen(16)
			p := w.Puppet("client")
			c := p.Connect("client", l)
			s := l.Accept("server")
			c.Exchange(s, 100, 200)
			c.Close()
			followUp(c, s)
			c2 := p.Connect("client#2", l)
			s2 := l.Accept("server#2")
			if w.Err == nil && c2.fd != c.fd {
				w.Fail("the number %d was not used again, but %d", c.fd, c2.fd)
			}
			c2.Exchange(s2, 100, 200)
			again := *c2 // what the buggy code believes to be its first socket
			again.fd = c.fd
			again.Close()
			followUp(c2, s2)
		},
		Ends: politely("client", verdict.ActClose).pair("client", first, "server", then),
	},
}

// last returns the last call of this kind on the end.
func (o *Outcome) last(end, op string) (Call, error) {
	for i := len(o.Calls) - 1; i >= 0; i-- {
		if c := o.Calls[i]; c.Conn == end && c.Op == op {
			return c, nil
		}
	}
	return Call{}, fmt.Errorf("the story has no %s on %s", op, end)
}
