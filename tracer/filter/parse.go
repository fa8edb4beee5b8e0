package filter

import (
	"errors"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// Spec is a filter as a person writes it. Each value may be a list with commas.
type Spec struct {
	PIDs       []string // 812
	Follow     bool
	Comms      []string // nginx, php-fpm*
	Exes       []string // /usr/sbin/nginx, nginx, /opt/*/bin/java
	Users      []string // 33, www-data
	Cgroups    []string // /system.slice/nginx.service, or where it is mounted
	Containers []string // 3f2a, docker/3f2a
	Ports      []string // 80, 8000-8099, https
	LocalPorts []string
	PeerPorts  []string
	Local      []string // 10.0.0.5, 10.0.0.0/8, 2001:db8::/32
	Remote     []string // and db.example.org
	NetNS      []string // 4026531840, net:[4026531840], blue, /run/netns/blue
	Classes    []string // aborted
	Causes     []string // close-unread
}

// World answers what only a machine knows. A nil function is not asked: then
// numbers are taken as they are, and names are an error.
type World struct {
	PID    func(pid uint32) error                 // is there such a process?
	User   func(name string) (uint32, error)      // the number of a user
	NetNS  func(name string) (uint32, error)      // the inode number of a named namespace, or of a path
	Cgroup func(path string) (cg string, e error) // the path from the root of the hierarchy
	// Containers are those in which processes are now.
	Containers func() ([]string, error)
	Service    func(name string) (uint16, error)       // the TCP port of a service
	Host       func(name string) ([]netip.Addr, error) // the addresses of a host
}

// Parse reads a filter. Its errors say what is wrong with which value.
func Parse(s Spec, w World) (*Filter, error) {
	f := &Filter{Follow: s.Follow}
	if s.Follow && len(s.PIDs) == 0 {
		return nil, errors.New("--follow: whose children? it goes with -p PID")
	}
	err := errors.Join(
		each("-p", s.PIDs, &f.PIDs, func(v string) (uint32, error) { return parsePID(v, w) }),
		each("--comm", s.Comms, &f.Comms, parseGlob),
		each("--exe", s.Exes, &f.Exes, parseGlob),
		each("--uid", s.Users, &f.UIDs, func(v string) (uint32, error) { return parseUser(v, w) }),
		each("--cgroup", s.Cgroups, &f.Cgroups, func(v string) (string, error) { return parseCgroup(v, w) }),
		each("--container", s.Containers, &f.Containers, func(v string) (string, error) { return parseContainer(v, w) }),
		each("--port", s.Ports, &f.Ports, func(v string) (Range, error) { return parseRange(v, w) }),
		each("--lport", s.LocalPorts, &f.LocalPorts, func(v string) (Range, error) { return parseRange(v, w) }),
		each("--rport", s.PeerPorts, &f.PeerPorts, func(v string) (Range, error) { return parseRange(v, w) }),
		all("--local", s.Local, &f.Local, func(v string) ([]netip.Prefix, error) { return parsePrefix(v, w) }),
		all("--remote", s.Remote, &f.Remote, func(v string) ([]netip.Prefix, error) { return parsePrefix(v, w) }),
		each("--netns", s.NetNS, &f.NetNS, func(v string) (uint32, error) { return parseNetNS(v, w) }),
		each("--class", s.Classes, &f.Classes, parseClass),
		each("--cause", s.Causes, &f.Causes, parseCause),
	)
	if err == nil && len(f.Local) > 0 && len(f.Remote) > 0 && !slices.ContainsFunc(f.Local, func(l netip.Prefix) bool {
		return slices.ContainsFunc(f.Remote, func(r netip.Prefix) bool { return l.Addr().Is4() == r.Addr().Is4() })
	}) {
		err = errors.New("--local and --remote are addresses of two families: no connection has both")
	}
	return f, err
}

// each parses lists of values; the first that is wrong is named.
func each[T any](flag string, lists []string, to *[]T, parse func(string) (T, error)) error {
	return all(flag, lists, to, func(v string) ([]T, error) {
		x, err := parse(v)
		return []T{x}, err
	})
}

// all is each for a value that may stand for several.
func all[T any](flag string, lists []string, to *[]T, parse func(string) ([]T, error)) error {
	for _, list := range lists {
		for v := range strings.SplitSeq(list, ",") {
			v = strings.TrimSpace(v)
			if v == "" {
				return fmt.Errorf("%s %q: a value is missing", flag, list)
			}
			x, err := parse(v)
			if err != nil {
				return fmt.Errorf("%s %s: %w", flag, v, err)
			}
			*to = append(*to, x...)
		}
	}
	return nil
}

func parsePID(v string, w World) (uint32, error) {
	pid, err := strconv.ParseUint(v, 10, 31)
	if err != nil || pid == 0 {
		return 0, errors.New("want the number of a process")
	}
	if w.PID != nil {
		if err := w.PID(uint32(pid)); err != nil {
			return 0, err
		}
	}
	return uint32(pid), nil
}

func parseGlob(v string) (string, error) {
	if _, err := path.Match(v, ""); err != nil {
		return "", errors.New(`a [ without its ], or a \ at the end`)
	}
	return v, nil
}

func parseUser(v string, w World) (uint32, error) {
	if uid, err := strconv.ParseUint(v, 10, 32); err == nil {
		return uint32(uid), nil
	}
	if w.User == nil {
		return 0, errors.New("want the number of a user: the names are those of the machine that recorded")
	}
	return w.User(v)
}

func parseCgroup(v string, w World) (string, error) {
	if !strings.HasPrefix(v, "/") {
		return "", errors.New("want a path, such as /system.slice/nginx.service")
	}
	v = path.Clean(v)
	if w.Cgroup == nil {
		return v, nil
	}
	return w.Cgroup(v)
}

func parseContainer(v string, w World) (string, error) {
	if _, id, ok := strings.Cut(v, "/"); ok && id == "" {
		return "", errors.New("want RUNTIME/ID, or the beginning of an id")
	}
	if w.Containers == nil {
		return v, nil
	}
	here, err := w.Containers()
	switch {
	case err != nil:
		return "", err
	case slices.ContainsFunc(here, func(c string) bool { return containerIs(v, c) }):
		return v, nil
	case len(here) == 0:
		return "", errors.New("no process here is in a container, or of a systemd unit")
	}
	const most = 5
	slices.Sort(here)
	text := strings.Join(here[:min(most, len(here))], ", ")
	if more := len(here) - most; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return "", errors.New("no process here is in such a container; there are " + text)
}

// parseRange reads a port, a range of ports, or the name of a service. Such a name may
// have a dash.
func parseRange(v string, w World) (Range, error) {
	first, last, isRange := strings.Cut(v, "-")
	a, err := parsePort(first)
	if err != nil {
		if strings.Trim(v, "0123456789- ") == "" || w.Service == nil {
			return Range{}, err
		}
		port, unknown := w.Service(v)
		if unknown != nil {
			return Range{}, fmt.Errorf("%w, or the name of a service: %w", err, unknown)
		}
		return Range{port, port}, nil
	}
	if !isRange {
		return Range{a, a}, nil
	}
	b, err := parsePort(last)
	if err != nil {
		return Range{}, err
	}
	if b < a {
		return Range{}, errors.New("the range ends before it begins")
	}
	return Range{a, b}, nil
}

func parsePort(v string) (uint16, error) {
	n, err := strconv.ParseUint(strings.TrimSpace(v), 10, 16)
	if err != nil || n == 0 {
		return 0, errors.New("want a port from 1 to 65535, or a range such as 8000-8099")
	}
	return uint16(n), nil
}

// parsePrefix reads an address, a prefix, or the name of a host, which may have
// several addresses.
func parsePrefix(v string, w World) ([]netip.Prefix, error) {
	bad := errors.New("want an address or a prefix, such as 10.0.0.5, 10.0.0.0/8 or 2001:db8::/32")
	addr, bits, isPrefix := strings.Cut(v, "/")
	a, err := netip.ParseAddr(addr)
	if err != nil && !isPrefix && w.Host != nil && strings.Trim(v, "0123456789.:") != "" {
		addrs, err := w.Host(v)
		if err != nil {
			return nil, fmt.Errorf("%w, or the name of a host: %w", bad, err)
		}
		var found []netip.Prefix
		for _, a := range addrs {
			a = a.Unmap().WithZone("")
			found = append(found, netip.PrefixFrom(a, a.BitLen()))
		}
		return found, nil
	}
	if err != nil || a.Zone() != "" && isPrefix {
		return nil, bad
	}
	n := a.BitLen()
	if isPrefix {
		// Not by netip.ParsePrefix, which refuses a mapped address.
		var u uint64
		if u, err = strconv.ParseUint(bits, 10, 8); err != nil || int(u) > n {
			return nil, bad
		}
		n = int(u)
	}
	if a.Is4In6() {
		if n < 96 {
			return nil, errors.New("a prefix of mapped addresses has 96 bits or more: write it as IPv4")
		}
		a, n = a.Unmap(), n-96
	}
	return []netip.Prefix{netip.PrefixFrom(a.WithZone(""), n).Masked()}, nil
}

func parseNetNS(v string, w World) (uint32, error) {
	number := strings.TrimSuffix(strings.TrimPrefix(v, "net:["), "]")
	if n, err := strconv.ParseUint(number, 10, 32); err == nil && n != 0 {
		return uint32(n), nil
	}
	if w.NetNS == nil {
		return 0, errors.New("want the inode number of a network namespace")
	}
	return w.NetNS(v)
}

var classes = []verdict.Class{verdict.Graceful, verdict.Aborted, verdict.TimedOut, verdict.Refused, verdict.Open, verdict.Unknown}

func parseClass(v string) (verdict.Class, error) {
	if c := verdict.Class(v); slices.Contains(classes, c) {
		return c, nil
	}
	var names []string
	for _, c := range classes {
		names = append(names, string(c))
	}
	return "", fmt.Errorf("there is no such class: want one of %s", strings.Join(names, ", "))
}

func parseCause(v string) (verdict.Cause, error) {
	for _, r := range verdict.Rules() {
		if string(r.Cause) == v {
			return r.Cause, nil
		}
	}
	return "", errors.New("there is no such cause: tcpbye explain lists them")
}
