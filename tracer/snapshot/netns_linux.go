package snapshot

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/tracer/event"
)

// namespace is a network namespace and the processes that live in it.
type namespace struct {
	inode uint32
	pids  []int
}

// namespaces lists the network namespaces that have processes, by inode number.
// The own one is there even where no process may be asked.
func namespaces(procfs string, pids []int, own uint32) []namespace {
	found := map[uint32]*namespace{}
	if own != 0 {
		found[own] = &namespace{inode: own}
	}
	for _, pid := range pids {
		inode, ok := netnsOf(procfs, strconv.Itoa(pid))
		if !ok {
			continue
		}
		if found[inode] == nil {
			found[inode] = &namespace{inode: inode}
		}
		found[inode].pids = append(found[inode].pids, pid)
	}
	var all []namespace
	for _, ns := range found {
		all = append(all, *ns)
	}
	slices.SortFunc(all, func(a, b namespace) int { return int(int64(a.inode) - int64(b.inode)) })
	return all
}

func netnsOf(procfs, process string) (uint32, bool) {
	link, err := os.Readlink(procfs + "/" + process + "/ns/net")
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimPrefix(link, "net:["), "]"), 10, 32)
	return uint32(n), err == nil
}

// dump lists the sockets of the namespace.
func (n namespace) dump(procfs string, own uint32) ([]Socket, error) {
	all, err := n.diag(procfs, own)
	if err == nil {
		return all, nil
	}
	// Without sock_diag there is the text, which tells less.
	process := "self"
	if n.inode != own && len(n.pids) > 0 {
		process = strconv.Itoa(n.pids[0])
	}
	text, textErr := readText(procfs + "/" + process + "/net")
	if textErr == nil {
		return text, nil
	}
	return nil, fmt.Errorf("list the sockets of the network namespace %d: %w, and %w", n.inode, err, textErr)
}

func (n namespace) diag(procfs string, own uint32) ([]Socket, error) {
	h, err := n.handle(procfs, own)
	if err != nil {
		return nil, err
	}
	defer h.Close()
	var all []Socket
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		found, err := h.SocketDiagTCPInfo(family)
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			if family == unix.AF_INET6 && errors.Is(err, unix.ENOENT) {
				continue // a kernel without IPv6
			}
			return nil, fmt.Errorf("ask sock_diag: %w (is the module tcp_diag there?)", err)
		}
		for _, f := range found {
			if f != nil && f.InetDiagMsg != nil {
				all = append(all, socketOf(f))
			}
		}
	}
	return all, nil
}

// handle opens a netlink socket in the namespace. A process that goes in the
// meantime takes its namespace's name with it, so each is tried.
func (n namespace) handle(procfs string, own uint32) (*netlink.Handle, error) {
	if n.inode == own {
		h, err := netlink.NewHandle(unix.NETLINK_INET_DIAG)
		if err != nil {
			return nil, fmt.Errorf("open sock_diag: %w", err)
		}
		return h, nil
	}
	var last error
	for _, pid := range n.pids {
		ns, err := netns.GetFromPath(procfs + "/" + strconv.Itoa(pid) + "/ns/net")
		if err != nil {
			last = err
			continue
		}
		h, err := netlink.NewHandleAt(ns, unix.NETLINK_INET_DIAG)
		ns.Close()
		if err == nil {
			return h, nil
		}
		last = err
		if errors.Is(err, unix.EPERM) {
			break
		}
	}
	return nil, fmt.Errorf("enter the network namespace: %w", last)
}

func socketOf(f *netlink.InetDiagTCPInfoResp) Socket {
	m := f.InetDiagMsg
	s := Socket{
		Family: event.Family(m.Family), State: event.State(m.State), Inode: uint64(m.INode), UID: m.UID,
		Local:  netip.AddrPortFrom(addrOf(m.ID.Source), m.ID.SourcePort),
		Remote: netip.AddrPortFrom(addrOf(m.ID.Destination), m.ID.DestinationPort),
		Timer:  Timer(m.Timer), Tries: m.Retrans,
	}
	// TIME_WAIT and FIN_WAIT2 of mini-sockets (inet_twsk_diag_fill).
	s.Mini = s.Timer == TimerTimeWait
	s.queues(m.RQueue, m.WQueue)
	if i := f.TCPInfo; i != nil && !s.Mini {
		ms := func(n uint32) time.Duration { return time.Duration(n) * time.Millisecond }
		s.Info = &Info{LastDataSent: ms(i.Last_data_sent), LastDataReceived: ms(i.Last_data_recv),
			LastAckReceived: ms(i.Last_ack_recv), Retransmits: i.Retransmits, Probes: i.Probes}
	}
	return s
}

// queues takes the FINs out of the queues: they have a place in the sequence,
// but are no bytes.
func (s *Socket) queues(received, sent uint32) {
	switch s.State {
	case event.CloseWait, event.LastAck, event.Closing:
		if received > 0 {
			received--
		}
	case event.Listen, event.SynSent, event.SynRecv, event.NewSynRecv:
		received, sent = 0, 0
	}
	switch s.State {
	case event.FinWait1, event.LastAck, event.Closing:
		if sent > 0 {
			sent--
		}
	}
	s.Unread, s.Unacked = received, sent
}

func addrOf(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}
