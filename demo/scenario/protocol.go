package scenario

import (
	"net/netip"

	"golang.org/x/sys/unix"
)

// request is one command to a puppet: one system call, or one loop over one.
type request struct {
	ID     uint64 `json:"id"`
	Op     string `json:"op"`
	Thread bool   `json:"thread,omitempty"` // in a new thread; the answer comes when it is done
	FD     int    `json:"fd,omitempty"`
	FD2    int    `json:"fd2,omitempty"`
	N      int    `json:"n,omitempty"`
	Flags  int    `json:"flags,omitempty"`
	Level  int    `json:"level,omitempty"`
	Name   int    `json:"name,omitempty"`
	Value  int    `json:"value,omitempty"`
	Value2 int    `json:"value2,omitempty"`
	Local  string `json:"local,omitempty"`
	Remote string `json:"remote,omitempty"`
	Path   string `json:"path,omitempty"`
	Data   []byte `json:"data,omitempty"`
}

// reply is what came of a command. Times are CLOCK_MONOTONIC nanoseconds.
type reply struct {
	ID      uint64     `json:"id"`
	Started bool       `json:"started,omitempty"` // the thread is about to make its call
	Op      string     `json:"op"`
	PID     int        `json:"pid"`
	TID     int        `json:"tid"`
	N       int64      `json:"n"` // bytes, a descriptor, a state: by op
	N2      int64      `json:"n2,omitempty"`
	Errno   unix.Errno `json:"errno,omitempty"`
	Start   int64      `json:"start"`
	End     int64      `json:"end"`
	Addr    string     `json:"addr,omitempty"`
	Fault   string     `json:"fault,omitempty"` // the puppet could not make the call at all
}

// The puppets' vocabulary.
const (
	opHello         = "hello"
	opSocket        = "socket"
	opBind          = "bind"
	opListen        = "listen"
	opConnect       = "connect"
	opFastOpen      = "sendto(MSG_FASTOPEN)"
	opAccept        = "accept"
	opSend          = "send"
	opFill          = "fill" // send until EAGAIN
	opRecv          = "recv"
	opDrain         = "drain" // recv until EOF or an error
	opSendPages     = "send(MSG_ZEROCOPY)"
	opZeroCopy      = "zerocopy-receive"
	opClose         = "close"
	opCloseRange    = "close_range"
	opUringClose    = "io_uring-close"
	opShutdown      = "shutdown"
	opDisconnect    = "connect(AF_UNSPEC)"
	opSetInt        = "setsockopt"
	opLinger        = "setsockopt(SO_LINGER)"
	opDrop          = "setsockopt(SO_ATTACH_FILTER)" // FD drops what the filter of kind N says
	opUndrop        = "setsockopt(SO_DETACH_FILTER)"
	opDup           = "dup"
	opTLS           = "setsockopt(TCP_ULP tls)"
	opSockmap       = "bpf(BPF_MAP_UPDATE_ELEM)" // into a sockmap
	opCompatDup2    = "dup2 (32-bit)"
	opDup2          = "dup2"
	opEventFD       = "eventfd"
	opLocal         = "getsockname"
	opState         = "tcp_info"
	opInbox         = "receive-descriptor" // from the harness, over the control channel
	opSendFD        = "sendmsg(SCM_RIGHTS)"
	opRecvFD        = "recvmsg(SCM_RIGHTS)"
	opRecvNoRoom    = "recvmsg without room for a descriptor"
	opSplice        = "splice"               // into a pipe
	opUringRecv     = "io_uring-recv"        // stays pending
	opTable         = "unshare(CLONE_FILES)" // by a thread that waits for opLeave, and then ends
	opLeave         = "leave"
	opSignalBlock   = "sigprocmask(SIG_BLOCK)"
	opSpawn         = "spawn"
	opWait          = "wait"
	opExec          = "exec"
	opExit          = "exit"
	opSignalDfl     = "sigaction(SIG_DFL)"
	opKillSelf      = "kill-self"
	opDestroy       = "SOCK_DESTROY"
	opRawSend       = "raw-send"
	filterAll       = 0 // drop every segment
	filterNotSyn    = 1 // drop every segment that is no SYN
	puppetCtl       = 3 // the control channel's descriptor in a puppet
	puppetInherited = 4 // the first descriptor that a spawned puppet inherits
	maxMessage      = 64 << 10
	envPuppet       = "TCPBYE_PUPPET"
	puppetPattern   = "bye"
)

// sockaddr makes the kernel's address of one for a socket of this family.
func sockaddr(domain int, ap netip.AddrPort) unix.Sockaddr {
	if domain == unix.AF_INET {
		return &unix.SockaddrInet4{Port: int(ap.Port()), Addr: ap.Addr().Unmap().As4()}
	}
	return &unix.SockaddrInet6{Port: int(ap.Port()), Addr: ap.Addr().As16()}
}

// addrPort is the address of a kernel's one, IPv4-mapped addresses unmapped.
func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch a := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), uint16(a.Port))
	}
	return netip.AddrPort{}
}
