package scenario

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/demo/harness"
	"github.com/tcpbye/tcpbye/tracer/event"
)

// Family is which sockets a run uses.
type Family string

const (
	IPv4   Family = "ipv4"
	IPv6   Family = "ipv6"
	Mapped Family = "mapped" // AF_INET6 sockets that speak IPv4
)

// domain is the address family of the sockets.
func (f Family) domain() int {
	if f == IPv4 {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func (f Family) loopback() netip.Addr {
	switch f {
	case IPv6:
		return netip.IPv6Loopback()
	case Mapped:
		return netip.MustParseAddr("::ffff:127.0.0.1")
	}
	return netip.MustParseAddr("127.0.0.1")
}

// End is one end of a connection of the story.
type End struct {
	Name   string // in the story: "client", "server", "client#2"
	Family event.Family
	Local  netip.AddrPort // IPv4-mapped addresses unmapped
	Remote netip.AddrPort
	NetNS  uint32

	Written int64    // bytes that its processes' sends were told to be accepted
	Read    int64    // bytes that its processes' reads returned
	AppSaw  []string // what they were told because of the ending, in order, each once
}

// Call is one system call of a puppet, and what came of it.
type Call struct {
	Role     string
	Conn     string // the name of the end that it was about; "" none
	PID, TID int
	Op       string
	Args     string
	N        int64
	Errno    unix.Errno    // 0: success
	Signal   unix.Signal   // the call did not return: this killed the process
	Start    time.Duration // CLOCK_MONOTONIC
	End      time.Duration
	wanted   int // bytes asked for
}

func (c Call) String() string {
	s := fmt.Sprintf("%s: %s %s = ", c.Role, c.Op, c.Args)
	switch {
	case c.Signal != 0:
		return s + unix.SignalName(c.Signal)
	case c.Errno != 0:
		return s + fmt.Sprintf("%d %s", c.N, unix.ErrnoName(c.Errno))
	}
	return s + fmt.Sprint(c.N)
}

// World is a harness.World with puppets, and the connection ends that the story
// names.
type World struct {
	*harness.World
	family    Family
	stderr    io.Writer
	self      string         // this program
	second    *harness.Space // another host; nil: none yet
	transient *harness.Space // a host that can be taken away; nil: none

	// translated are addresses that another one stands for on the wire.
	translated []translation
	notes      map[string]int64 // what the story measured, for its own checks

	puppets []*Puppet
	procs   map[string]*Process
	ends    map[string]*End
	calls   []Call
}

// newWorld makes a World on its ground.
func newWorld(ground *harness.World, opt Options) (*World, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("cannot find this program, which the puppets run: %w", err)
	}
	return &World{
		World: ground, family: opt.Family, stderr: opt.Stderr, self: self,
		procs: make(map[string]*Process), ends: make(map[string]*End), notes: make(map[string]int64),
	}, nil
}

// close kills what lives in the World and lets go of it.
func (w *World) close() error {
	var errs []error
	// Children first: their parent waits for them.
	for _, p := range slices.Backward(w.puppets) {
		if p.gone || p.ctl == nil {
			continue
		}
		if err := unix.Kill(p.pid, unix.SIGKILL); err != nil && err != unix.ESRCH {
			errs = append(errs, fmt.Errorf("cannot kill the puppet %s: %w", p.role, err))
		}
		if p.cmd != nil {
			_ = p.cmd.Wait() // it was killed
		}
		p.gone = true
		p.ctl.Close()
	}
	return errors.Join(append(errs, w.Close())...)
}

// Puppet returns the puppet of this role, and starts it if there is none yet.
func (w *World) Puppet(role string) *Puppet { return w.puppetIn(role, w.Home) }

func (w *World) puppetIn(role string, ns *harness.Space) *Puppet {
	for _, p := range w.puppets {
		if p.role == role {
			return p
		}
	}
	if w.Err != nil {
		return &Puppet{w: w, role: role}
	}
	p, err := w.startPuppet(role, ns)
	if err != nil {
		w.Fail("%v", err)
		return &Puppet{w: w, role: role}
	}
	w.procs[role] = &Process{Role: role, PID: p.pid, Comm: comm(role)}
	return p
}

// rows are the lines of the socket tables of an end.
func (w *World) rows(e *End) []harness.Row {
	return slices.DeleteFunc(w.Rows(e.NetNS), func(r harness.Row) bool { return r.Local != e.Local || r.Remote != e.Remote })
}

// waitRow waits until one line of the end's satisfies the condition.
func (w *World) waitRow(e *End, what string, cond func(harness.Row) bool) {
	w.Until(fmt.Sprintf("%s: %s", e.Name, what), func() (bool, string) {
		rows := w.rows(e)
		for _, r := range rows {
			if cond(r) {
				return true, ""
			}
		}
		if len(rows) == 0 {
			return false, "no such socket"
		}
		r := rows[0]
		return false, fmt.Sprintf("%v, send queue %d, receive queue %d, timer %d", r.State, r.Send, r.Receive, r.Timer)
	})
}

// WaitGone waits until the kernel has nothing left of the end, not even a
// mini-socket.
func (w *World) WaitGone(e *End) {
	w.Until(e.Name+" to be gone", func() (bool, string) {
		rows := w.rows(e)
		if len(rows) == 0 {
			return true, ""
		}
		return false, rows[0].State.String()
	})
}

// WaitOrphan waits until the end's full socket is in this state, or one of them,
// whoever holds it.
func (w *World) WaitOrphan(e *End, states ...event.State) {
	w.waitRow(e, fmt.Sprintf("state %v", states), func(r harness.Row) bool {
		return r.Timer != harness.TimeWaitTimer && slices.Contains(states, r.State)
	})
}

// WaitMini waits until the end is a mini-socket in FIN_WAIT2 or TIME_WAIT.
func (w *World) WaitMini(e *End, state event.State) {
	w.waitRow(e, fmt.Sprintf("a mini-socket in %v", state), func(r harness.Row) bool {
		return r.Timer == harness.TimeWaitTimer && r.State == state
	})
}

// Sock is a socket that a puppet holds.
type Sock struct {
	p   *Puppet
	fd  int
	end *End // nil: a listener
	at  netip.AddrPort
}

// End is the connection end that the socket is.
func (s *Sock) End() *End { return s.end }

func (p *Puppet) socket(proto, flags int) *Sock {
	fd := p.must(nil, &request{Op: opSocket, Level: p.w.family.domain(), N: proto, Flags: flags}, string(p.w.family))
	return &Sock{p: p, fd: fd}
}

// bind gives the socket an address; port 0 lets the kernel choose.
func (s *Sock) bind(ap netip.AddrPort) {
	s.p.must(s.end, &request{Op: opBind, FD: s.fd, Level: s.p.w.family.domain(), Remote: ap.String()}, ap.String())
}

// local asks for the socket's own address.
func (s *Sock) local() netip.AddrPort {
	if s.p.w.Err != nil {
		return netip.AddrPort{}
	}
	r := s.p.probe(&request{Op: opLocal, FD: s.fd})
	ap, err := netip.ParseAddrPort(r.Addr)
	if err != nil || r.Errno != 0 {
		s.p.w.Fail("%s: getsockname: %v %v", s.p.role, r.Errno, err)
	}
	return ap
}

// host is the address that the puppet's namespace is reached by.
func (p *Puppet) host() netip.Addr {
	if p.ns != nil && p.ns != p.w.Home {
		return farAddr
	}
	return p.w.family.loopback()
}

// Listen opens a listener on a free port.
func (p *Puppet) Listen(backlog int) *Sock { return p.listen(p.host(), 0, backlog, unix.IPPROTO_TCP) }

func (p *Puppet) listen(addr netip.Addr, port uint16, backlog, proto int) *Sock {
	s := p.socket(proto, 0)
	s.bind(netip.AddrPortFrom(addr, port))
	s.listen(backlog)
	return s
}

func (s *Sock) listen(backlog int) {
	s.p.must(nil, &request{Op: opListen, FD: s.fd, N: backlog}, fmt.Sprint(backlog))
	s.at = netip.AddrPortFrom(s.p.hostOf(s), s.local().Port())
}

// hostOf keeps the IPv4-mapped form that a connect of the same family needs.
func (p *Puppet) hostOf(s *Sock) netip.Addr {
	if p.w.family == Mapped {
		return p.w.family.loopback()
	}
	return s.local().Addr()
}

// newEnd names a connection end of the story.
func (w *World) newEnd(name string, ns *harness.Space, local, remote netip.AddrPort) *End {
	unmap := func(ap netip.AddrPort) netip.AddrPort {
		if !ap.IsValid() {
			return ap
		}
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	e := &End{Name: name, Family: event.Family(w.family.domain()), Local: unmap(local), Remote: unmap(remote)}
	if ns != nil {
		e.NetNS = ns.Inode
	}
	if w.Err == nil && w.ends[name] != nil {
		w.Fail("the story has two ends named %s", name)
	}
	w.ends[name] = e
	return e
}

// Connect connects to a listener; the new end gets the name.
func (p *Puppet) Connect(name string, to *Sock) *Sock {
	s := p.socket(unix.IPPROTO_TCP, 0)
	s.connect(name, to)
	return s
}

func (s *Sock) connect(name string, to *Sock) {
	s.connectTo(name, to.at)
	s.p.w.finishConnect(s)
}

func (s *Sock) connectTo(name string, at netip.AddrPort) {
	s.end = s.p.w.newEnd(name, s.p.ns, netip.AddrPort{}, at)
	s.p.must(s.end, &request{Op: opConnect, FD: s.fd, Level: s.p.w.family.domain(), Remote: at.String()}, at.String())
}

func (w *World) finishConnect(s *Sock) {
	s.end.Local = s.local()
}

// ConnectFails connects in vain.
func (p *Puppet) ConnectFails(name string, at netip.AddrPort, errno unix.Errno) *Sock {
	s := p.socket(unix.IPPROTO_TCP, 0)
	s.connectFails(name, at, errno)
	return s
}

func (s *Sock) connectFails(name string, at netip.AddrPort, errno unix.Errno) {
	s.end = s.p.w.newEnd(name, s.p.ns, netip.AddrPort{}, at)
	r := s.p.call(s.end, &request{Op: opConnect, FD: s.fd, Level: s.p.w.family.domain(), Remote: at.String()}, at.String())
	s.expect(r, opConnect, errno)
}

// ConnectStart begins a connect on a non-blocking socket.
func (p *Puppet) ConnectStart(name string, at netip.AddrPort) *Sock {
	s := p.socket(unix.IPPROTO_TCP, unix.SOCK_NONBLOCK)
	s.connectStart(name, at)
	return s
}

func (s *Sock) connectStart(name string, at netip.AddrPort) {
	s.connectFails(name, at, unix.EINPROGRESS)
	s.end.Local = s.local()
}

// fastOpen sends n bytes with the SYN, on a non-blocking socket.
func (s *Sock) fastOpen(name string, at netip.AddrPort, n int) {
	s.end = s.p.w.newEnd(name, s.p.ns, netip.AddrPort{}, at)
	r := s.p.call(s.end, &request{Op: opFastOpen, FD: s.fd, Level: s.p.w.family.domain(), Remote: at.String(), N: n},
		fmt.Sprintf("%v, %d bytes", at, n))
	if s.p.w.Err == nil && (r.Errno != 0 || r.N != int64(n)) {
		s.p.w.Fail("%s: connect with data: %d %s", s.p.role, r.N, unix.ErrnoName(r.Errno))
	}
	s.end.Local = s.local()
}

func (s *Sock) expect(r *reply, op string, errno unix.Errno) {
	if s.p.w.Err == nil && r.Errno != errno {
		s.p.w.Fail("%s: %s was to fail with %s, but: %d %s", s.p.role, op, unix.ErrnoName(errno), r.N, unix.ErrnoName(r.Errno))
	}
}

// Accept accepts the next connection as the end of this name.
func (s *Sock) Accept(name string) *Sock {
	if s.p.w.Err != nil {
		return &Sock{p: s.p, end: &End{Name: name}}
	}
	pd := s.p.start(nil, &request{Op: opAccept, FD: s.fd}, "")
	r := pd.wait()
	if r.Errno != 0 {
		s.p.w.Fail("%s: accept: %v", s.p.role, r.Errno)
	}
	remote, err := netip.ParseAddrPort(r.Addr)
	if err != nil && s.p.w.Err == nil {
		s.p.w.Fail("%s: accept gave the address %q", s.p.role, r.Addr)
	}
	n := &Sock{p: s.p, fd: int(r.N)}
	n.end = s.p.w.newEnd(name, s.p.ns, n.local(), remote)
	if i := len(s.p.w.calls) - 1; i >= 0 {
		s.p.w.calls[i].Conn = name
	}
	return n
}

// Unaccepted names the end that the kernel holds for a connection in an accept
// queue.
func (w *World) Unaccepted(name string, client, listener *Sock) *End {
	return w.newEnd(name, listener.p.ns, client.end.Remote, client.end.Local)
}

// Pair connects the puppet client to the puppet server.
func (w *World) Pair() (client, server *Sock) {
	l := w.Puppet("server").Listen(16)
	client = w.Puppet("client").Connect("client", l)
	return client, l.Accept("server")
}

// Exchange sends a request of n bytes and an answer of m, each read in full, and
// waits until all is acknowledged.
func (s *Sock) Exchange(peer *Sock, n, m int) {
	s.Send(n)
	peer.Recv(n)
	peer.Send(m)
	s.Recv(m)
	s.WaitAcked()
	peer.WaitAcked()
}

// Send sends n bytes that the kernel must accept at once.
func (s *Sock) Send(n int) {
	r := s.p.call(s.end, &request{Op: opSend, FD: s.fd, N: n, Flags: unix.MSG_NOSIGNAL}, fmt.Sprintf("%d bytes", n))
	if s.p.w.Err == nil && (r.Errno != 0 || r.N != int64(n)) {
		s.p.w.Fail("%s: send %d: %d %s", s.p.role, n, r.N, unix.ErrnoName(r.Errno))
	}
}

// SendFails sends in vain, without SIGPIPE.
func (s *Sock) SendFails(n int, errno unix.Errno) {
	r := s.p.call(s.end, &request{Op: opSend, FD: s.fd, N: n, Flags: unix.MSG_NOSIGNAL}, fmt.Sprintf("%d bytes", n))
	s.expect(r, opSend, errno)
}

// SendUrgent sends n bytes, the last of them urgent.
func (s *Sock) SendUrgent(n int) {
	r := s.p.call(s.end, &request{Op: opSend, FD: s.fd, N: n, Flags: unix.MSG_NOSIGNAL | unix.MSG_OOB}, fmt.Sprintf("%d bytes, MSG_OOB", n))
	if s.p.w.Err == nil && (r.Errno != 0 || r.N != int64(n)) {
		s.p.w.Fail("%s: send %d: %d %s", s.p.role, n, r.N, unix.ErrnoName(r.Errno))
	}
}

// RecvUrgent reads the urgent byte with MSG_OOB.
func (s *Sock) RecvUrgent() {
	r := s.p.call(s.end, &request{Op: opRecv, FD: s.fd, N: 1, Flags: unix.MSG_OOB}, "1 byte, MSG_OOB")
	if s.p.w.Err == nil && (r.Errno != 0 || r.N != 1) {
		s.p.w.Fail("%s: recv of the urgent byte: %d %s", s.p.role, r.N, unix.ErrnoName(r.Errno))
	}
}

// Peek looks at n bytes without taking them.
func (s *Sock) Peek(n int) {
	r := s.p.call(nil, &request{Op: opRecv, FD: s.fd, N: n, Flags: unix.MSG_PEEK | unix.MSG_WAITALL}, fmt.Sprintf("%d bytes, MSG_PEEK", n))
	if s.p.w.Err == nil && (r.Errno != 0 || r.N != int64(n)) {
		s.p.w.Fail("%s: peek at %d: %d %s", s.p.role, n, r.N, unix.ErrnoName(r.Errno))
	}
}

// Splice takes n bytes by splice(2); 0: the end of the stream.
func (s *Sock) Splice(n int) {
	r := s.p.call(s.end, &request{Op: opSplice, FD: s.fd, N: max(n, 1)}, fmt.Sprintf("%d bytes", max(n, 1)))
	if s.p.w.Err == nil && (r.Errno != 0 || r.N != int64(n)) {
		s.p.w.Fail("%s: splice of %d: %d %s", s.p.role, n, r.N, unix.ErrnoName(r.Errno))
	}
}

// RecvByUring begins a receive through io_uring, which stays pending.
func (s *Sock) RecvByUring() {
	s.p.must(nil, &request{Op: opUringRecv, FD: s.fd}, fmt.Sprint(s.fd))
}

// SendRaises sends in vain, without MSG_NOSIGNAL: EPIPE comes with a SIGPIPE.
func (s *Sock) SendRaises(n int) {
	s.expect(s.p.call(s.end, &request{Op: opSend, FD: s.fd, N: n}, fmt.Sprintf("%d bytes", n)), opSend, unix.EPIPE)
}

// SendKilled sends as a program that thought of nothing: SIGPIPE kills it.
func (s *Sock) SendKilled(n int) {
	s.p.must(nil, &request{Op: opSignalDfl, N: int(unix.SIGPIPE)}, "SIGPIPE")
	s.p.last(s.end, &request{Op: opSend, FD: s.fd, N: n}, fmt.Sprintf("%d bytes", n))
	if proc := s.p.w.procs[s.p.role]; s.p.w.Err == nil && proc.Signal != unix.SIGPIPE {
		s.p.w.Fail("%s did not die of SIGPIPE: status %d, signal %v", s.p.role, proc.Status, proc.Signal)
	}
}

// Fill sends until the kernel takes no more, or limit bytes, and returns what it
// took.
func (s *Sock) Fill(limit int) int64 {
	r := s.p.call(s.end, &request{Op: opFill, FD: s.fd, N: limit}, fmt.Sprintf("up to %d bytes", limit))
	s.expect(r, opFill, 0)
	return r.N
}

// Recv reads exactly n bytes.
func (s *Sock) Recv(n int) {
	r := s.p.call(s.end, &request{Op: opRecv, FD: s.fd, N: n, Flags: unix.MSG_WAITALL}, fmt.Sprintf("%d bytes", n))
	if s.p.w.Err == nil && (r.Errno != 0 || r.N != int64(n)) {
		s.p.w.Fail("%s: recv %d: %d %s", s.p.role, n, r.N, unix.ErrnoName(r.Errno))
	}
}

// RecvEOF reads the end of the stream.
func (s *Sock) RecvEOF() {
	r := s.p.call(s.end, &request{Op: opRecv, FD: s.fd, N: 4096}, "4096 bytes")
	if s.p.w.Err == nil && (r.Errno != 0 || r.N != 0) {
		s.p.w.Fail("%s: recv was to find the end of the stream, but: %d %s", s.p.role, r.N, unix.ErrnoName(r.Errno))
	}
}

// RecvFails reads in vain.
func (s *Sock) RecvFails(errno unix.Errno) {
	s.expect(s.p.call(s.end, &request{Op: opRecv, FD: s.fd, N: 4096}, "4096 bytes"), opRecv, errno)
}

// Drain reads to the end of the stream; errno 0 is a clean end.
func (s *Sock) Drain(errno unix.Errno) int64 {
	r := s.p.call(s.end, &request{Op: opDrain, FD: s.fd}, "until the end")
	s.expect(r, opDrain, errno)
	return r.N
}

// SendPages sends n bytes, whole pages, in a form that the peer can map.
func (s *Sock) SendPages(n int) {
	r := s.p.call(s.end, &request{Op: opSendPages, FD: s.fd, N: n}, fmt.Sprintf("%d bytes", n))
	if s.p.w.Err == nil && (r.Errno != 0 || r.N != int64(n)) {
		s.p.w.Fail("%s: zero-copy send %d: %d %s", s.p.role, n, r.N, unix.ErrnoName(r.Errno))
	}
}

// RecvPages reads n bytes by mapping them.
func (s *Sock) RecvPages(n int) {
	r := s.p.call(s.end, &request{Op: opZeroCopy, FD: s.fd, N: n}, fmt.Sprintf("%d bytes", n))
	if s.p.w.Err == nil && (r.Errno != 0 || r.N != int64(n)) {
		s.p.w.Fail("%s: zero-copy receive of %d: %d %s", s.p.role, n, r.N, unix.ErrnoName(r.Errno))
	}
}

// RecvThread blocks another thread of the process in recv.
func (s *Sock) RecvThread(n int) *pending {
	pd := s.p.start(s.end, &request{Op: opRecv, Thread: true, FD: s.fd, N: n}, fmt.Sprintf("%d bytes, in a thread", n))
	s.p.w.waitSyscall(pd.p.pid, pd.tid, unix.SYS_RECVFROM)
	return pd
}

// waitSyscall waits until a thread sleeps in a system call.
func (w *World) waitSyscall(pid, tid int, nr int) {
	w.Until(fmt.Sprintf("thread %d to sleep in system call %d", tid, nr), func() (bool, string) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/syscall", pid, tid))
		if err != nil {
			w.Fail("cannot see what a puppet's thread does: %v", err)
			return false, ""
		}
		var got int
		_, err = fmt.Sscan(string(b), &got) // "running" is no number: not yet
		return err == nil && got == nr, string(b)
	})
}

// Close closes the descriptor.
func (s *Sock) Close() { s.p.must(s.end, &request{Op: opClose, FD: s.fd}, fmt.Sprint(s.fd)) }

// CloseRange closes it by close_range(2).
func (s *Sock) CloseRange() {
	s.p.must(s.end, &request{Op: opCloseRange, FD: s.fd, FD2: s.fd}, fmt.Sprint(s.fd))
}

// CloseByUring closes it by IORING_OP_CLOSE.
func (s *Sock) CloseByUring() {
	s.p.must(s.end, &request{Op: opUringClose, FD: s.fd}, fmt.Sprint(s.fd))
}

// Shutdown is shutdown(2): unix.SHUT_RD, SHUT_WR or SHUT_RDWR.
func (s *Sock) Shutdown(how int) {
	name := [...]string{"SHUT_RD", "SHUT_WR", "SHUT_RDWR"}[how]
	s.p.must(s.end, &request{Op: opShutdown, FD: s.fd, N: how}, name)
}

// Disconnect is connect(2) to AF_UNSPEC.
func (s *Sock) Disconnect() { s.p.must(s.end, &request{Op: opDisconnect, FD: s.fd}, "") }

// Linger sets SO_LINGER on, with this time.
func (s *Sock) Linger(seconds int) {
	s.p.must(s.end, &request{Op: opLinger, FD: s.fd, Value: 1, Value2: seconds}, fmt.Sprintf("on, %d s", seconds))
}

// Set sets an integer socket option.
func (s *Sock) Set(level, name, value int, text string) {
	s.p.must(s.end, &request{Op: opSetInt, FD: s.fd, Level: level, Name: name, Value: value}, fmt.Sprintf("%s %d", text, value))
}

// DropIncoming makes the socket deaf: every segment for it vanishes before TCP
// sees it, as with a dead host or a pulled cable.
func (s *Sock) DropIncoming() { s.drop(filterAll) }

func (s *Sock) drop(kind int) {
	s.p.must(s.end, &request{Op: opDrop, FD: s.fd, N: kind}, [...]string{"drop everything", "drop all but SYN"}[kind])
}

// Hear undoes DropIncoming.
func (s *Sock) Hear() { s.p.must(s.end, &request{Op: opUndrop, FD: s.fd}, "") }

// Vanish closes the socket in repair mode: not a packet leaves, as if the host
// had crashed and come back.
func (s *Sock) Vanish() {
	s.Set(unix.IPPROTO_TCP, unix.TCP_REPAIR, 1, "TCP_REPAIR")
	s.Close()
}

// Dup duplicates the descriptor.
func (s *Sock) Dup() *Sock {
	d := *s
	d.fd = s.p.must(s.end, &request{Op: opDup, FD: s.fd}, fmt.Sprint(s.fd))
	return &d
}

// Dup2Over puts another file over the descriptor.
func (s *Sock) Dup2Over() {
	other := s.p.must(nil, &request{Op: opEventFD}, "")
	s.p.must(s.end, &request{Op: opDup2, FD: other, FD2: s.fd}, fmt.Sprintf("%d, %d", other, s.fd))
}

// Fork starts a child of the process, named role, that inherits the socket.
func (s *Sock) Fork(role string) *Sock {
	child := s.p.inherit(role, s.fd)
	return &Sock{p: child, fd: puppetInherited, end: s.end}
}

// Link connects two puppets by a unix socket; the numbers are their ends of it.
func (w *World) Link(a, b *Puppet) (int, int) {
	if w.Err != nil {
		return -1, -1
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		w.Fail("cannot link %s and %s: %v", a.role, b.role, err)
		return -1, -1
	}
	return a.inbox(os.NewFile(uintptr(fds[0]), "link")), b.inbox(os.NewFile(uintptr(fds[1]), "link"))
}

// SendOver puts the descriptor into a unix socket of the puppet's.
func (s *Sock) SendOver(link int) {
	s.p.must(s.end, &request{Op: opSendFD, FD: link, FD2: s.fd}, fmt.Sprint(s.fd))
}

// ReceiveOver takes the socket out of a unix socket.
func (p *Puppet) ReceiveOver(link int, s *Sock) *Sock {
	fd := p.must(s.end, &request{Op: opRecvFD, FD: link}, "")
	return &Sock{p: p, fd: fd, end: s.end}
}

// closeFD closes a descriptor that is no TCP socket.
func (p *Puppet) closeFD(fd int) { p.must(nil, &request{Op: opClose, FD: fd}, fmt.Sprint(fd)) }

// Destroy is `ss -K` for the socket.
func (p *Puppet) Destroy(e *End) {
	p.destroy(p.w.family.domain(), e.Local, e.Remote, 0)
}

func (p *Puppet) destroy(domain int, local, remote netip.AddrPort, errno unix.Errno) {
	r := p.call(nil, &request{Op: opDestroy, Level: domain, Local: local.String(), Remote: remote.String()},
		fmt.Sprintf("%v %v", local, remote))
	if p.w.Err == nil && r.Errno != errno {
		p.w.Fail("%s: SOCK_DESTROY %v %v: %s", p.role, local, remote, unix.ErrnoName(r.Errno))
	}
}

// WaitState waits until the socket, which a process holds, is in one of the
// states.
func (s *Sock) WaitState(states ...event.State) {
	s.p.w.Until(fmt.Sprintf("%s to be in %v", s.end.Name, states), func() (bool, string) {
		r := s.p.probe(&request{Op: opState, FD: s.fd})
		if r.Errno != 0 {
			s.p.w.Fail("%s: TCP_INFO: %v", s.p.role, r.Errno)
		}
		return slices.Contains(states, event.State(r.N)), event.State(r.N).String()
	})
}

// WaitAcked waits until the peer has acknowledged all that was sent.
func (s *Sock) WaitAcked() {
	s.p.w.waitRow(s.end, "everything acknowledged", func(r harness.Row) bool { return r.Send == 0 })
}

// WaitUnread waits until n bytes (an EOF counts as one) wait to be read.
func (s *Sock) WaitUnread(n int) { s.p.w.waitUnread(s.end, n) }

func (w *World) waitUnread(e *End, n int) {
	w.waitRow(e, fmt.Sprintf("%d bytes unread", n), func(r harness.Row) bool { return r.Receive == uint64(n) })
}

// queueOf waits for a connection in the accept queue of one of two listeners on
// the same port, both empty before, and says which.
func (w *World) queueOf(a, b *Sock) *Sock {
	found := a
	w.Until("a connection in an accept queue", func() (bool, string) {
		for _, l := range []*Sock{a, b} {
			link, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", l.p.pid, l.fd))
			if err != nil {
				w.Fail("cannot identify a listener: %v", err)
				return false, ""
			}
			key := &End{Local: l.at, Remote: netip.AddrPortFrom(unspecified(l.at.Addr()), 0), NetNS: l.p.ns.Inode}
			for _, r := range w.rows(key) {
				if link == fmt.Sprintf("socket:[%d]", r.Inode) && r.Receive > 0 {
					found = l
					return true, ""
				}
			}
		}
		return false, "both queues are empty"
	})
	return found
}

// unspecified is the zero address of the same kind.
func unspecified(a netip.Addr) netip.Addr {
	if a.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

// rename gives an end another name, also in what was recorded of it.
func (w *World) rename(e *End, name string) {
	delete(w.ends, e.Name)
	for i := range w.calls {
		if w.calls[i].Conn == e.Name {
			w.calls[i].Conn = name
		}
	}
	e.Name = name
	if w.Err == nil && w.ends[name] != nil {
		w.Fail("the story has two ends named %s", name)
	}
	w.ends[name] = e
}

// farAddr and nearAddr are the addresses of the second and of the home namespace
// on the link between them.
var (
	nearAddr   = netip.MustParseAddr("10.77.0.1")
	secondAddr = netip.MustParseAddr("10.77.0.3") // another one of the home namespace
	farAddr    = netip.MustParseAddr("10.77.0.2")
)
