package filter

import (
	"net/netip"
	"path"
	"slices"
	"strings"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// Filter says which ends to keep: those that satisfy every condition. A
// condition with several values is satisfied by one of them. The zero Filter
// keeps everything.
//
// The conditions on the process must be satisfied by one process: the one that
// opened the connection, held it last, or acted on it.
type Filter struct {
	PIDs       []uint32
	Follow     bool            // PIDs also means their descendants
	Comms      []string        // names of the thread or the process; globs
	Exes       []string        // paths, or names without directory; globs
	UIDs       []uint32        //
	Cgroups    []string        // paths from the hierarchy's root: the cgroup and all below it
	Containers []string        // beginnings of ids, or whole RUNTIME/ID
	Ports      []Range         // at either end
	LocalPorts []Range         //
	PeerPorts  []Range         // at the other end
	Local      []netip.Prefix  // IPv4-mapped prefixes are IPv4 ones
	Remote     []netip.Prefix  //
	NetNS      []uint32        // inode numbers
	Classes    []verdict.Class //
	Causes     []verdict.Cause //
}

// Range is a range of ports, both of its ends included.
type Range struct{ First, Last uint16 }

// Match says whether an end is wanted.
func (f *Filter) Match(c *conn.Connection, v verdict.Verdict) bool {
	return some(f.Classes, func(x verdict.Class) bool { return v.Class == x }) &&
		some(f.Causes, func(x verdict.Cause) bool { return v.Cause == x }) &&
		f.MatchConnection(c)
}

// MatchConnection is Match without the conditions on the verdict.
func (f *Filter) MatchConnection(c *conn.Connection) bool {
	return some(f.Ports, func(r Range) bool { return r.has(c.Local) || r.has(c.Remote) }) &&
		some(f.LocalPorts, func(r Range) bool { return r.has(c.Local) }) &&
		some(f.PeerPorts, func(r Range) bool { return r.has(c.Remote) }) &&
		some(f.Local, func(p netip.Prefix) bool { return inside(p, c.Local) }) &&
		some(f.Remote, func(p netip.Prefix) bool { return inside(p, c.Remote) }) &&
		some(f.NetNS, func(n uint32) bool { return c.NetNS == n }) &&
		f.someone(c)
}

// Empty says whether the filter keeps everything.
func (f *Filter) Empty() bool {
	return len(f.PIDs)+len(f.Comms)+len(f.Exes)+len(f.UIDs)+len(f.Cgroups)+len(f.Containers)+len(f.Ports)+len(f.LocalPorts)+len(f.PeerPorts)+
		len(f.Local)+len(f.Remote)+len(f.NetNS)+len(f.Classes)+len(f.Causes) == 0
}

// Splits says whether the filter may keep one connection of a process and not another.
func (f *Filter) Splits() bool {
	return len(f.Ports)+len(f.LocalPorts)+len(f.PeerPorts)+len(f.Local)+len(f.Remote)+len(f.NetNS)+len(f.Classes)+len(f.Causes) > 0
}

// Excludes says whether two addresses are those of no connection that is wanted,
// from whichever of its ends they are seen. As long as one of them is not whole,
// nothing is excluded.
func (f *Filter) Excludes(a, b netip.AddrPort) bool {
	if !whole(a) || !whole(b) {
		return false
	}
	if !some(f.Ports, func(r Range) bool { return r.has(a) || r.has(b) }) {
		return true
	}
	between := func(local, remote netip.AddrPort) bool {
		return some(f.LocalPorts, func(r Range) bool { return r.has(local) }) &&
			some(f.PeerPorts, func(r Range) bool { return r.has(remote) }) &&
			some(f.Local, func(p netip.Prefix) bool { return inside(p, local) }) &&
			some(f.Remote, func(p netip.Prefix) bool { return inside(p, remote) })
	}
	return !between(a, b) && !between(b, a)
}

func whole(a netip.AddrPort) bool {
	return a.IsValid() && a.Port() != 0 && !a.Addr().IsUnspecified()
}

// some says whether a condition with these values is satisfied; one without
// values is.
func some[T any](values []T, ok func(T) bool) bool {
	return len(values) == 0 || slices.ContainsFunc(values, ok)
}

func (r Range) has(a netip.AddrPort) bool {
	return a.IsValid() && r.First <= a.Port() && a.Port() <= r.Last
}

func inside(p netip.Prefix, a netip.AddrPort) bool {
	return a.IsValid() && p.Contains(a.Addr().Unmap().WithZone(""))
}

// someone says whether one of the connection's processes satisfies the
// conditions on processes.
func (f *Filter) someone(c *conn.Connection) bool {
	if len(f.PIDs)+len(f.Comms)+len(f.Exes)+len(f.UIDs)+len(f.Cgroups)+len(f.Containers) == 0 {
		return true
	}
	return c.Owner != nil && f.MatchProcess(c.Owner) ||
		c.Opener != nil && f.MatchProcess(c.Opener) ||
		slices.ContainsFunc(c.Hands, func(p conn.Process) bool { return f.MatchProcess(&p) })
}

// MatchProcess says whether a process satisfies all conditions on processes.
func (f *Filter) MatchProcess(p *conn.Process) bool {
	return some(f.PIDs, func(pid uint32) bool {
		return p.PID == pid || f.Follow && slices.Contains(p.Ancestors, pid)
	}) &&
		some(f.Comms, func(x string) bool { return commIs(x, p.Comm) || p.Leader != "" && commIs(x, p.Leader) }) &&
		some(f.Exes, func(x string) bool { return exeIs(x, p.Exe) }) &&
		some(f.UIDs, func(uid uint32) bool { return p.UID == uid }) &&
		some(f.Cgroups, func(x string) bool { return cgroupIs(x, p.CgroupPath) }) &&
		some(f.Containers, func(x string) bool { return containerIs(x, p.Container) })
}

// commIs compares with what the kernel keeps of a name: the first 15 bytes.
func commIs(pattern, comm string) bool {
	if !isGlob(pattern) {
		return event.CommOf(pattern).String() == comm
	}
	ok, err := path.Match(pattern, comm)
	return ok && err == nil
}

func isGlob(s string) bool { return strings.ContainsAny(s, `*?[\`) }

func exeIs(pattern, exe string) bool {
	if exe == "" {
		return false
	}
	exe = strings.TrimSuffix(exe, " (deleted)") // d_path, fs/d_path.c
	if !strings.Contains(pattern, "/") {
		exe = path.Base(exe)
	}
	if exe == pattern {
		return true
	}
	ok, err := path.Match(pattern, exe)
	return ok && err == nil
}

func cgroupIs(want, have string) bool {
	return have != "" && (want == "/" || have == want || strings.HasPrefix(have, want+"/"))
}

// containerIs compares with RUNTIME/ID, in which a hexadecimal id is cut to
// twelve digits, or with the name of a systemd unit.
func containerIs(want, have string) bool {
	if have == "" || want == "" {
		return false
	}
	if runtime, id, ok := strings.Cut(have, "/"); ok {
		if r, rest, ok := strings.Cut(want, "/"); ok {
			if r != runtime {
				return false
			}
			want = rest
		}
		have = id
	}
	const shown = 12
	if len(want) > shown && len(have) == shown && isHex(want) && isHex(have) {
		want = want[:shown]
	}
	return strings.HasPrefix(have, want)
}

func isHex(s string) bool {
	return strings.Trim(s, "0123456789abcdef") == ""
}
