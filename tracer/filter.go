package tracer

import (
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"

	"github.com/tcpbye/tcpbye/bpf"
)

// Filter is what the kernel half leaves out by itself. It lets more through than
// it says, never less: what is not known yet matches, and so does the other end of
// a connection that is wanted. A condition without values, or with more than
// maxConditions of them, is left to whoever reads the events. The zero Filter
// lets everything through.
//
// Of a connection that this machine translates (NAT) on its way to itself, the
// other end has other addresses and ports, and is left out.
//
// The classic tracepoints do not filter.
type Filter struct {
	Ports  []PortRange    // at either end
	Local  []netip.Prefix // of one end; IPv4 as such, not mapped
	Remote []netip.Prefix // of the other
	NetNS  []uint32       // inode numbers; only what does not leave a namespace is held against them
}

// PortRange is a range of ports, both of its ends included.
type PortRange struct{ First, Last uint16 }

// maxConditions is how many values of a condition the kernel half takes
// (FILTER_MAX, bpf/filter.h).
const maxConditions = 8

// configure writes the filter into an object's constants.
func (f *Filter) configure(spec *ebpf.CollectionSpec) error {
	var ports [maxConditions]struct{ First, Last uint16 }
	var local, remote [maxConditions]struct{ Addr, Mask [4][4]byte }
	var netns [maxConditions]uint32
	nPorts := fill(ports[:], f.Ports, func(r PortRange) struct{ First, Last uint16 } { return r })
	nLocal := fill(local[:], f.Local, mapped)
	nRemote := fill(remote[:], f.Remote, mapped)
	nNetNS := fill(netns[:], f.NetNS, func(n uint32) uint32 { return n })
	for name, value := range map[string]any{
		bpf.TypedVarCfgFilter: nPorts+nLocal+nRemote+nNetNS > 0,
		bpf.TypedVarCfgPort:   ports, bpf.TypedVarCfgPorts: nPorts,
		bpf.TypedVarCfgLocal: local, bpf.TypedVarCfgLocals: nLocal,
		bpf.TypedVarCfgRemote: remote, bpf.TypedVarCfgRemotes: nRemote,
		bpf.TypedVarCfgNetns: netns, bpf.TypedVarCfgNamespaces: nNetNS,
	} {
		v, ok := spec.Variables[name]
		if !ok {
			return fmt.Errorf("the BPF object has no constant %s", name)
		}
		if err := v.Set(value); err != nil {
			return fmt.Errorf("set the constant %s of the BPF object: %w", name, err)
		}
	}
	return nil
}

// fill says how many values the kernel half gets: none where there are too many.
func fill[From, To any](to []To, from []From, as func(From) To) uint32 {
	if len(from) > len(to) {
		return 0
	}
	for i, v := range from {
		to[i] = as(v)
	}
	return uint32(len(from))
}

// mapped is a prefix as bpf/filter.h has it: IPv4 as an IPv4-mapped address.
func mapped(p netip.Prefix) (out struct{ Addr, Mask [4][4]byte }) {
	bits := p.Bits()
	if p.Addr().Is4() {
		bits += 96
	}
	for i, b := range p.Masked().Addr().As16() {
		out.Addr[i/4][i%4] = b
	}
	for i := range bits {
		out.Mask[i/32][i/8%4] |= 0x80 >> (i % 8)
	}
	return out
}
