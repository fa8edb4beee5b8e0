package session

import (
	"github.com/tcpbye/tcpbye/tracer"
	"github.com/tcpbye/tcpbye/tracer/filter"
)

// KernelFilter is the part of a filter that the kernel half can decide when it
// first sees a socket: ports, addresses, namespaces. Who owns a connection and how
// it ends is learnt later.
func KernelFilter(f *filter.Filter) tracer.Filter {
	k := tracer.Filter{Local: f.Local, Remote: f.Remote, NetNS: f.NetNS}
	// It knows no ends: a port of one end is the other one's at the other end.
	ports := f.Ports
	for _, more := range [][]filter.Range{f.LocalPorts, f.PeerPorts} {
		if len(ports) == 0 {
			ports = more
		}
	}
	for _, r := range ports {
		k.Ports = append(k.Ports, tracer.PortRange(r))
	}
	return k
}
