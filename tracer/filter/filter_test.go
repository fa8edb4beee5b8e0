package filter

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// world knows one of each.
var world = World{
	PID: func(pid uint32) error {
		if pid == 812 || pid == 1 {
			return nil
		}
		return errors.New("there is no such process")
	},
	User: func(name string) (uint32, error) {
		if name == "www-data" {
			return 33, nil
		}
		return 0, errors.New("there is no such user")
	},
	NetNS: func(name string) (uint32, error) {
		if name == "blue" {
			return 4026532000, nil
		}
		return 0, errors.New("there is no such namespace")
	},
	Cgroup: func(p string) (string, error) { return strings.TrimPrefix(p, "/sys/fs/cgroup"), nil },
	Containers: func() ([]string, error) {
		return []string{"docker/3f2a00112233", "cron.service", "podman/aa", "podman/ab", "podman/ac", "podman/ad"}, nil
	},
	Service: func(name string) (uint16, error) {
		if port, ok := map[string]uint16{"https": 443, "http-alt": 8080}[name]; ok {
			return port, nil
		}
		return 0, errors.New("there is no such service")
	},
	Host: func(name string) ([]netip.Addr, error) {
		if name == "peer.example.org" {
			return []netip.Addr{netip.MustParseAddr("2001:db8::9"), netip.MustParseAddr("::ffff:203.0.113.9")}, nil
		}
		return nil, errors.New("there is no such host")
	},
}

func end(local, remote string) *conn.Connection {
	return &conn.Connection{
		Local: netip.MustParseAddrPort(local), Remote: netip.MustParseAddrPort(remote), NetNS: 4026531840,
		Owner: &conn.Process{PID: 900, Comm: "http-worker", Leader: "nginx", Exe: "/usr/sbin/nginx (deleted)", UID: 33,
			CgroupPath: "/system.slice/nginx.service/x", Container: "docker/3f2a00112233", Ancestors: []uint32{812, 1}},
		Hands: []conn.Process{{PID: 77, Comm: "closer", UID: 0, Container: "cron.service"}},
	}
}

func TestMatch(t *testing.T) {
	c := end("10.0.0.5:443", "203.0.113.9:51544")
	v := verdict.Verdict{Class: verdict.Aborted, Cause: verdict.CloseUnread}
	for _, tt := range []struct {
		name string
		spec Spec
		want bool
	}{
		{"everything", Spec{}, true},
		{"pid of the owner", Spec{PIDs: []string{"900"}}, true},
		{"pid of a hand", Spec{PIDs: []string{"77"}}, true},
		{"pid of nobody", Spec{PIDs: []string{"901"}}, false},
		{"parent", Spec{PIDs: []string{"812"}}, false},
		{"parent, followed", Spec{PIDs: []string{"812"}, Follow: true}, true},
		{"one of two", Spec{PIDs: []string{"901,900"}}, true},
		{"thread's name", Spec{Comms: []string{"http-worker"}}, true},
		{"process's name", Spec{Comms: []string{"nginx"}}, true},
		{"glob", Spec{Comms: []string{"ngin?"}}, true},
		{"part of a name", Spec{Comms: []string{"ngin"}}, false},
		{"longer than the kernel keeps", Spec{Comms: []string{"http-worker-of-something"}}, false},
		{"exe", Spec{Exes: []string{"/usr/sbin/nginx"}}, true},
		{"exe's name", Spec{Exes: []string{"nginx"}}, true},
		{"exe glob", Spec{Exes: []string{"/usr/*/ng*"}}, true},
		{"other exe", Spec{Exes: []string{"/usr/bin/nginx"}}, false},
		{"uid", Spec{Users: []string{"33"}}, true},
		{"user", Spec{Users: []string{"www-data"}}, true},
		{"other user", Spec{Users: []string{"1000"}}, false},
		{"two conditions, two processes", Spec{PIDs: []string{"77"}, Users: []string{"33"}}, false},
		{"two conditions, one process", Spec{PIDs: []string{"900"}, Users: []string{"33"}}, true},
		{"cgroup", Spec{Cgroups: []string{"/system.slice/nginx.service"}}, true},
		{"cgroup as mounted", Spec{Cgroups: []string{"/sys/fs/cgroup/system.slice/"}}, true},
		{"cgroup that begins alike", Spec{Cgroups: []string{"/system.slice/nginx"}}, false},
		{"root cgroup", Spec{Cgroups: []string{"/"}}, true},
		{"container", Spec{Containers: []string{"3f2a"}}, true},
		{"container, whole id", Spec{Containers: []string{"3f2a00112233" + strings.Repeat("ab", 26)}}, true},
		{"container with runtime", Spec{Containers: []string{"docker/3f2a"}}, true},
		{"container of another runtime", Spec{Containers: []string{"podman/3f2a"}}, false},
		{"middle of an id", Spec{Containers: []string{"2a00"}}, false},
		{"unit", Spec{Containers: []string{"cron.service"}}, true},
		{"local port", Spec{Ports: []string{"443"}}, true},
		{"remote port", Spec{Ports: []string{"51544"}}, true},
		{"list and range", Spec{Ports: []string{"80,8000-8099", "51000-52000"}}, true},
		{"edges", Spec{Ports: []string{"443-443"}}, true},
		{"beside", Spec{Ports: []string{"444-51543"}}, false},
		{"service", Spec{Ports: []string{"http-alt,https"}}, true},
		{"another service", Spec{Ports: []string{"http-alt"}}, false},
		{"port of this end", Spec{LocalPorts: []string{"https"}}, true},
		{"port of this end is not of the other", Spec{PeerPorts: []string{"443"}}, false},
		{"port of the other end", Spec{PeerPorts: []string{"50000-60000"}}, true},
		{"port of the other end is not of this", Spec{LocalPorts: []string{"51544"}}, false},
		{"host", Spec{Remote: []string{"peer.example.org"}}, true},
		{"host at the other end", Spec{Local: []string{"peer.example.org"}}, false},
		{"local", Spec{Local: []string{"10.0.0.0/8"}}, true},
		{"local, host bits", Spec{Local: []string{"10.9.9.9/8"}}, true},
		{"local is not remote", Spec{Local: []string{"203.0.113.9"}}, false},
		{"remote", Spec{Remote: []string{"203.0.113.9"}}, true},
		{"mapped", Spec{Remote: []string{"::ffff:203.0.113.0/120"}}, true},
		{"IPv6", Spec{Remote: []string{"::/0"}}, false},
		{"netns", Spec{NetNS: []string{"4026531840"}}, true},
		{"netns as a link", Spec{NetNS: []string{"net:[4026531840]"}}, true},
		{"another netns", Spec{NetNS: []string{"blue"}}, false},
		{"class", Spec{Classes: []string{"graceful,aborted"}}, true},
		{"another class", Spec{Classes: []string{"graceful"}}, false},
		{"cause", Spec{Causes: []string{"close-unread"}}, true},
		{"another cause", Spec{Causes: []string{"linger-zero"}}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := world
			w.PID, w.Containers = nil, nil
			f, err := Parse(tt.spec, w)
			if err != nil {
				t.Fatal(err)
			}
			if got := f.Match(c, v); got != tt.want {
				t.Errorf("%+v matches: %v", tt.spec, got)
			}
		})
	}
}

func TestNothingKnown(t *testing.T) {
	nobody := &conn.Connection{}
	for _, s := range []Spec{
		{PIDs: []string{"1"}}, {Comms: []string{"*"}}, {Exes: []string{"*"}}, {Users: []string{"0"}},
		{Cgroups: []string{"/"}}, {Containers: []string{"a"}}, {Ports: []string{"1-65535"}},
		{Local: []string{"0.0.0.0/0,::/0"}}, {Remote: []string{"0.0.0.0/0"}}, {NetNS: []string{"1"}},
	} {
		f, err := Parse(s, world)
		if err != nil {
			t.Fatal(err)
		}
		if f.Match(nobody, verdict.Verdict{}) {
			t.Errorf("%+v matches an end of which nothing is known", s)
		}
	}
}

func TestMapped(t *testing.T) {
	c := end("[2001:db8::1]:1", "[fe80::1%eth0]:2")
	for v, want := range map[string]bool{"2001:db8::/32": true, "10.0.0.0/8": false, "2001:db9::/32": false} {
		f, err := Parse(Spec{Local: []string{v}}, world)
		if err != nil {
			t.Fatal(err)
		}
		if f.Match(c, verdict.Verdict{}) != want {
			t.Errorf("--local %s matches: %v", v, !want)
		}
	}
	f, err := Parse(Spec{Remote: []string{"fe80::/10"}}, world)
	if err != nil {
		t.Fatal(err)
	}
	if !f.Match(c, verdict.Verdict{}) {
		t.Error("an address with a zone is in no prefix")
	}
}

func TestErrors(t *testing.T) {
	for _, tt := range []struct {
		spec Spec
		want string
	}{
		{Spec{PIDs: []string{"4711"}}, "-p 4711: there is no such process"},
		{Spec{PIDs: []string{"0"}}, "-p 0: want the number of a process"},
		{Spec{PIDs: []string{"nginx"}}, "-p nginx: want the number"},
		{Spec{Follow: true}, "--follow: whose children"},
		{Spec{Comms: []string{"[a"}}, "--comm [a: a [ without its ]"},
		{Spec{Comms: []string{""}}, `--comm "": a value is missing`},
		{Spec{Users: []string{"nobody-at-all"}}, "there is no such user"},
		{Spec{Cgroups: []string{"system.slice"}}, "want a path"},
		{Spec{Containers: []string{"docker/"}}, "want RUNTIME/ID"},
		{Spec{Containers: []string{"nosuch"}}, "--container nosuch: no process here is in such a container; there are cron.service, docker/3f2a00112233, podman/aa, podman/ab, podman/ac and 1 more"},
		{Spec{Ports: []string{"gopher"}}, "--port gopher: want a port from 1 to 65535, or a range such as 8000-8099, or the name of a service: there is no such service"},
		{Spec{LocalPorts: []string{"0"}}, "--lport 0: want a port"},
		{Spec{PeerPorts: []string{"x"}}, "--rport x: want a port"},
		{Spec{Ports: []string{"0"}}, "--port 0: want a port from 1"},
		{Spec{Ports: []string{"70000"}}, "want a port"},
		{Spec{Ports: []string{"8099-8000"}}, "--port 8099-8000: the range ends before it begins"},
		{Spec{Ports: []string{"http"}}, "want a port"},
		{Spec{Ports: []string{"80,"}}, "a value is missing"},
		{Spec{Local: []string{"10.0.0"}}, "want an address or a prefix"},
		{Spec{Local: []string{"10.0.0.0/33"}}, "want an address or a prefix"},
		{Spec{Remote: []string{"::ffff:10.0.0.0/8"}}, "96 bits or more"},
		{Spec{Remote: []string{"example.org"}}, "--remote example.org: want an address or a prefix, such as 10.0.0.5, 10.0.0.0/8 or 2001:db8::/32, or the name of a host: there is no such host"},
		{Spec{NetNS: []string{"red"}}, "there is no such namespace"},
		{Spec{Classes: []string{"rude"}}, "--class rude: there is no such class: want one of graceful, aborted"},
		{Spec{Causes: []string{"bad-luck"}}, "--cause bad-luck: there is no such cause: tcpbye explain lists them"},
	} {
		if _, err := Parse(tt.spec, world); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: error %v, want %q", tt.spec, err, tt.want)
		}
	}
	// A recording's machine cannot be asked.
	for _, s := range []Spec{{Users: []string{"www-data"}}, {NetNS: []string{"blue"}}} {
		if _, err := Parse(s, World{}); err == nil {
			t.Errorf("%+v: no error without a world", s)
		}
	}
	if _, err := Parse(Spec{PIDs: []string{"4711"}, Cgroups: []string{"/a/../b/"}}, World{}); err != nil {
		t.Error(err)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"80", "8000-8099", "10.0.0.0/8", "::ffff:1.2.3.4/128", "net:[1]", "[a-", "docker/3f2a"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		v := []string{s}
		for _, spec := range []Spec{{PIDs: v}, {Comms: v}, {Exes: v}, {Users: v}, {Cgroups: v}, {Containers: v},
			{Ports: v}, {Local: v}, {Remote: v}, {NetNS: v}, {Classes: v}, {Causes: v}, {LocalPorts: v}, {PeerPorts: v}} {
			x, err := Parse(spec, World{})
			if err != nil {
				continue
			}
			x.Match(end("10.0.0.5:443", "[2001:db8::1]:51544"), verdict.Verdict{})
			for _, p := range append(x.Local, x.Remote...) {
				if !p.IsValid() || p.Addr().Is4In6() {
					t.Fatalf("%q gives the prefix %v", s, p)
				}
			}
			for _, r := range x.Ports {
				if r.First == 0 || r.Last < r.First {
					t.Fatalf("%q gives the range %v", s, fmt.Sprint(r))
				}
			}
		}
	})
}

// TestSplits: only conditions on the process keep all of its connections.
func TestSplits(t *testing.T) {
	for _, x := range []struct {
		spec Spec
		want bool
	}{
		{Spec{}, false},
		{Spec{PIDs: []string{"812"}, Comms: []string{"nginx"}, Users: []string{"33"}, Containers: []string{"docker/3f2a"}}, false},
		{Spec{Ports: []string{"80"}}, true},
		{Spec{LocalPorts: []string{"80"}}, true},
		{Spec{PeerPorts: []string{"80"}}, true},
		{Spec{Local: []string{"10.0.0.1"}}, true},
		{Spec{Remote: []string{"10.0.0.0/8"}}, true},
		{Spec{NetNS: []string{"blue"}}, true},
		{Spec{Classes: []string{"aborted"}}, true},
		{Spec{Causes: []string{"close-unread"}, PIDs: []string{"812"}}, true},
	} {
		if f, err := Parse(x.spec, world); err != nil || f.Splits() != x.want {
			t.Errorf("%+v: want %v (%v)", x.spec, x.want, err)
		}
	}
}
