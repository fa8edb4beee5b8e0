package verdict

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/tracer/event"
)

// icmp is the last ICMP error about this end before its end that says what the
// errno says: an errno stands for several types (icmp_err_convert).
func (f *facts) icmp(errno event.Errno) int {
	found := none
	for i := range f.c.Events {
		e := &f.c.Events[i]
		if e.Hook == event.HookICMP && before(i, f.closed) && icmpErrno(e) == errno {
			found = i
		}
	}
	return found
}

// icmpErrno is the errno that tcp_v4_err and tcp_v6_err make of a message
// (icmp_err_convert, net/ipv4/icmp.c; tab_unreach, net/ipv6/icmp.c); 0: none.
func icmpErrno(e *event.Event) event.Errno {
	unreach4 := [...]unix.Errno{unix.ENETUNREACH, unix.EHOSTUNREACH, unix.ENOPROTOOPT, unix.ECONNREFUSED, unix.EMSGSIZE,
		unix.EOPNOTSUPP, unix.ENETUNREACH, unix.EHOSTDOWN, unix.ENONET, unix.ENETUNREACH, unix.EHOSTUNREACH,
		unix.ENETUNREACH, unix.EHOSTUNREACH, unix.EHOSTUNREACH, unix.EHOSTUNREACH, unix.EHOSTUNREACH}
	unreach6 := [...]unix.Errno{unix.ENETUNREACH, unix.EACCES, unix.EHOSTUNREACH, unix.EHOSTUNREACH, unix.ECONNREFUSED, unix.EACCES, unix.EACCES}
	six := e.From.Addr().Is6()
	switch {
	case !six && e.Arg == 3 && int(e.Arg2) < len(unreach4):
		return event.Errno(unreach4[e.Arg2])
	case six && e.Arg == 1 && int(e.Arg2) < len(unreach6):
		return event.Errno(unreach6[e.Arg2])
	case !six && e.Arg == 11, six && e.Arg == 3: // time exceeded
		return event.Errno(unix.EHOSTUNREACH)
	case !six && e.Arg == 12, six && e.Arg == 4: // parameter problem
		return event.Errno(unix.EPROTO)
	case six && e.Arg == 2: // packet too big
		return event.Errno(unix.EMSGSIZE)
	}
	return 0
}

// ICMPText names a message as its RFC does.
func ICMPText(e *event.Event) string {
	v4 := map[int32]string{0: "network unreachable", 1: "host unreachable", 2: "protocol unreachable", 3: "port unreachable", 4: "fragmentation needed",
		5: "source route failed", 9: "network administratively prohibited", 10: "host administratively prohibited", 13: "communication administratively prohibited"}
	v6 := map[int32]string{0: "no route to destination", 1: "communication administratively prohibited", 2: "beyond scope of source address",
		3: "address unreachable", 4: "port unreachable", 5: "source address failed policy", 6: "reject route to destination"}
	name, text := "ICMP", ""
	switch six := e.From.Addr().Is6(); {
	case !six && e.Arg == 3:
		text = v4[e.Arg2]
	case six:
		name = "ICMPv6"
		if e.Arg == 1 {
			text = v6[e.Arg2]
		}
	}
	switch {
	case text != "":
		return name + " " + text
	case name == "ICMP" && e.Arg == 11, name == "ICMPv6" && e.Arg == 3:
		return name + " time exceeded"
	}
	return fmt.Sprintf("%s type %d code %d", name, e.Arg, e.Arg2)
}
