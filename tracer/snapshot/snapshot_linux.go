package snapshot

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/enrich"
	"github.com/tcpbye/tcpbye/tracer/event"
)

// Take looks at every network namespace. It fails only where nothing at all
// could be learnt.
func Take(o Options) (*Snapshot, error) {
	if o.Procfs == "" {
		o.Procfs = "/proc"
	}
	pids, err := processes(o.Procfs)
	if err != nil {
		return nil, err
	}
	now, err := monotonic()
	if err != nil {
		return nil, err
	}
	own, _ := netnsOf(o.Procfs, "self")
	s := &Snapshot{}
	var listeners []Socket
	known := map[place]bool{} // whatever its state
	for _, ns := range namespaces(o.Procfs, pids, own) {
		all, err := ns.dump(o.Procfs, own)
		if err != nil {
			s.Skipped = append(s.Skipped, err)
			continue
		}
		for i := range all {
			k := &all[i]
			k.Time, k.NetNS = now, ns.inode
			known[place{k.NetNS, k.Local, k.Remote}] = true
			switch {
			case k.State == event.Listen:
				listeners = append(listeners, *k)
			case k.State == event.TimeWait:
				s.TimeWait++
			case k.State != event.Close && k.Remote.Port() != 0:
				s.Sockets = append(s.Sockets, *k)
			}
		}
	}
	if len(s.Sockets) == 0 && len(s.Skipped) > 0 && s.TimeWait == 0 && len(listeners) == 0 {
		return nil, errors.Join(s.Skipped...)
	}
	here, err := enrich.PIDNamespaceOf(o.Procfs)
	hold(o, pids, err == nil && here.Initial, s.Sockets, listeners)
	s.Listening = listeners
	slices.SortStableFunc(s.Sockets, func(a, b Socket) int {
		if a.NetNS != b.NetNS {
			return int(int64(a.NetNS) - int64(b.NetNS))
		}
		if c := a.Local.Compare(b.Local); c != 0 {
			return c
		}
		return a.Remote.Compare(b.Remote)
	})
	mirror(s.Sockets, known)
	return s, nil
}

// Here lists the connections of this process's network namespace, by themselves:
// that needs no privileges. netns is the inode of the namespace.
func Here(o Options) (netns uint32, sockets []Socket, err error) {
	if o.Procfs == "" {
		o.Procfs = "/proc"
	}
	netns, ok := netnsOf(o.Procfs, "self")
	if !ok {
		return 0, nil, errors.New("this process's network namespace is not known")
	}
	all, err := namespace{inode: netns}.dump(o.Procfs, netns)
	if err != nil {
		return 0, nil, err
	}
	now, err := monotonic()
	for i := range all {
		all[i].Time, all[i].NetNS = now, netns
	}
	return netns, all, err
}

// place is where a socket is.
type place struct {
	netns         uint32
	local, remote netip.AddrPort
}

// mirror finds the other end of each connection, and those that have none where
// they must.
func mirror(sockets []Socket, known map[place]bool) {
	at := map[place]*Socket{}
	for i := range sockets {
		at[place{sockets[i].NetNS, sockets[i].Local, sockets[i].Remote}] = &sockets[i]
	}
	for i := range sockets {
		s := &sockets[i]
		k := place{s.NetNS, s.Remote, s.Local}
		if s.Peer = at[k]; s.Peer == s {
			s.Peer = nil // it is connected to itself
		}
		s.Alone = s.Remote.Addr().IsLoopback() && !known[k]
	}
}

// hold finds the processes behind the inodes. all: there are no others than pids.
func hold(o Options, pids []int, all bool, sockets, listeners []Socket) {
	wanted := map[uint64][]Holder{}
	for _, list := range [][]Socket{sockets, listeners} {
		for i := range list {
			if n := list[i].Inode; n != 0 {
				wanted[n] = nil
			}
		}
	}
	for _, pid := range pids {
		for _, f := range socketsOf(o.Procfs, pid) {
			if _, ok := wanted[f.inode]; ok {
				wanted[f.inode] = append(wanted[f.inode], Holder{Process: conn.Process{PID: uint32(pid), TID: uint32(pid)}, FD: f.fd})
			}
		}
	}
	known := people{o, map[uint32]conn.Process{}}
	for n, holders := range wanted {
		for i := range holders {
			holders[i].Process = known.get(holders[i].PID)
		}
		wanted[n] = holders
	}
	if all {
		holdInCalls(o, pids, sockets, wanted, known)
	}
	for i := range listeners {
		listeners[i].Holders = wanted[listeners[i].Inode]
	}
	for i := range sockets {
		k := &sockets[i]
		if k.Inode != 0 {
			k.Holders = wanted[k.Inode]
			for h := range k.Holders {
				k.Holders[h].Halt = haltOf(o.Procfs, k.Holders[h].PID)
			}
			continue
		}
		if !k.waits() {
			continue
		}
		if l := listenerOf(k, listeners); l != nil && len(wanted[l.Inode]) > 0 {
			h := wanted[l.Inode][0]
			h.Halt, h.Full = haltOf(o.Procfs, h.PID), enrich.Full(o.Procfs, h.PID)
			k.Listener = &h
		}
	}
}

// people are the processes that were looked up.
type people struct {
	o  Options
	by map[uint32]conn.Process
}

func (p people) get(pid uint32) conn.Process {
	who, ok := p.by[pid]
	if !ok {
		who = conn.Process{PID: pid, TID: pid}
		who.Comm, who.UID = commOf(p.o.Procfs, pid)
		if p.o.Who != nil {
			p.o.Who(&who)
		}
		p.by[pid] = who
	}
	return who
}

// listenerOf finds the socket in whose queue a connection waits: bound to the
// same address, or else to any.
func listenerOf(k *Socket, listeners []Socket) *Socket {
	var best *Socket
	for i := range listeners {
		l := &listeners[i]
		if l.NetNS != k.NetNS || l.Local.Port() != k.Local.Port() {
			continue
		}
		if l.Local.Addr() == k.Local.Addr() {
			return l
		}
		if l.Local.Addr().IsUnspecified() && (best == nil || l.Family == k.Family) {
			best = l
		}
	}
	return best
}

// processes lists the PIDs in ascending order.
func processes(procfs string) ([]int, error) {
	entries, err := os.ReadDir(procfs)
	if err != nil {
		return nil, fmt.Errorf("list the processes: %w", err)
	}
	var pids []int
	for _, e := range entries {
		if n, err := strconv.Atoi(e.Name()); err == nil {
			pids = append(pids, n)
		}
	}
	slices.Sort(pids)
	return pids, nil
}

type descriptor struct {
	fd    int
	inode uint64
}

// socketsOf lists a process's descriptors of sockets, in ascending order. A
// process that is gone, or that may not be looked at, has none.
func socketsOf(procfs string, pid int) []descriptor {
	dir := procfs + "/" + strconv.Itoa(pid) + "/fd"
	d, err := os.Open(dir)
	if err != nil {
		return nil
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil
	}
	var all []descriptor
	for _, name := range names {
		fd, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		link, err := os.Readlink(dir + "/" + name)
		if err != nil {
			continue
		}
		number, ok := strings.CutPrefix(link, "socket:[")
		if !ok {
			continue
		}
		inode, err := strconv.ParseUint(strings.TrimSuffix(number, "]"), 10, 64)
		if err != nil {
			continue
		}
		all = append(all, descriptor{fd, inode})
	}
	slices.SortFunc(all, func(a, b descriptor) int { return a.fd - b.fd })
	return all
}

func commOf(procfs string, pid uint32) (comm string, uid uint32) {
	dir := procfs + "/" + strconv.FormatUint(uint64(pid), 10)
	if b, err := os.ReadFile(dir + "/comm"); err == nil {
		comm = strings.TrimSuffix(string(b), "\n")
	}
	var st unix.Stat_t
	if unix.Stat(dir, &st) == nil {
		uid = st.Uid
	}
	return comm, uid
}

func monotonic() (time.Duration, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0, fmt.Errorf("read CLOCK_MONOTONIC: %w", err)
	}
	return time.Duration(ts.Nano()), nil
}
