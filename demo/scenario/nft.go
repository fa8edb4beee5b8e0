package scenario

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/tcpbye/tcpbye/demo/harness"
	"golang.org/x/sys/unix"
)

// How a firewall rejects (enum nft_reject_types).
const (
	rejectTCPReset = 1
	rejectICMP     = 2 // the version-independent form; the code is "port unreachable"
)

// nftTable is the table of every rule here.
const nftTable = "tcpbye"

// Numbers of nf_tables (linux/netfilter/nf_tables.h, linux/netfilter.h).
const (
	hookLocalIn, hookLocalOut = 1, 3

	reg1, reg2 = 1, 2

	metaLength, metaNFProto, metaL4Proto = 0, 15, 16

	networkHeader, transportHeader = 1, 2
)

// rejectPort installs, in the calling thread's namespace, what
// `nft add rule inet tcpbye input tcp dport PORT reject with …` does. The rule is
// for IPv4 and IPv6.
func rejectPort(port uint16, how uint32) error {
	const icmpxPortUnreach = 1
	reject := [][]byte{nlUint32(1, how)}
	if how == rejectICMP {
		reject = append(reject, nlAttr(2, []byte{icmpxPortUnreach}))
	}
	return filterRule(hookLocalIn, append(toPort(port), nftExpr("reject", reject...))...)
}

// dropOutput installs, in the calling thread's namespace, what
// `nft add rule inet tcpbye output tcp dport PORT drop` does.
func dropOutput(port uint16) error {
	return filterRule(hookLocalOut, append(toPort(port), nftDrop())...)
}

// dropLarge installs, in the calling thread's namespace, what
// `nft add rule inet tcpbye input meta length > BYTES drop` does.
func dropLarge(bytes uint32) error {
	const greater = 4
	return filterRule(hookLocalIn,
		nftMeta(metaLength),
		// What is read is in host byte order, and compared byte by byte.
		nftExpr("byteorder", nlUint32(1, reg1), nlUint32(2, reg1), nlUint32(3, 1), nlUint32(4, 4), nlUint32(5, 4)),
		nftExpr("cmp", nlUint32(1, reg1), nlUint32(2, greater), nlNest(3, nlUint32(1, bytes))),
		nftDrop(),
	)
}

// translateOutput installs, in the calling thread's namespace, what
// `nft add rule inet tcpbye output ip daddr A tcp dport P dnat ip to B:Q` does, in a
// chain of the type nat.
func translateOutput(from, to netip.AddrPort) error {
	const (
		dnat        = 1
		priorityDST = -100 // NF_IP_PRI_NAT_DST
	)
	load := func(reg uint32, value []byte) []byte {
		return nftExpr("immediate", nlUint32(1, reg), nlNest(2, nlAttr(1, value)))
	}
	rule := [][]byte{
		nftMeta(metaNFProto),
		nftEqual(unix.NFPROTO_IPV4),
		nftPayload(networkHeader, 16, 4),
		nftEqual(from.Addr().AsSlice()...),
	}
	rule = append(rule, toPort(from.Port())...)
	rule = append(rule,
		load(reg1, to.Addr().AsSlice()),
		load(reg2, binary.BigEndian.AppendUint16(nil, to.Port())),
		nftExpr("nat", nlUint32(1, dnat), nlUint32(2, unix.NFPROTO_IPV4), nlUint32(3, reg1), nlUint32(5, reg2)),
	)
	return nftRule("nat", hookLocalOut, priorityDST, rule...)
}

// toPort matches what goes to a TCP port.
func toPort(port uint16) [][]byte {
	return [][]byte{
		nftMeta(metaL4Proto),
		nftEqual(unix.IPPROTO_TCP),
		nftPayload(transportHeader, 2, 2),
		nftEqual(byte(port>>8), byte(port)),
	}
}

// nftExpr is an expression of a rule.
func nftExpr(name string, data ...[]byte) []byte {
	return nlNest(1, nlString(1, name), nlNest(2, data...))
}

// nftMeta and nftPayload read into the first register; nftEqual goes on where it
// holds the value.

func nftMeta(key uint32) []byte { return nftExpr("meta", nlUint32(1, reg1), nlUint32(2, key)) }

func nftPayload(header, offset, bytes uint32) []byte {
	return nftExpr("payload", nlUint32(1, reg1), nlUint32(2, header), nlUint32(3, offset), nlUint32(4, bytes))
}

func nftEqual(value ...byte) []byte {
	return nftExpr("cmp", nlUint32(1, reg1), nlUint32(2, 0), nlNest(3, nlAttr(1, value)))
}

// nftDrop gives the verdict register NF_DROP.
func nftDrop() []byte {
	return nftExpr("immediate", nlUint32(1, 0), nlNest(2, nlNest(2, nlUint32(1, 0))))
}

// filterRule installs a rule that lets through or not.
func filterRule(hook uint32, rule ...[]byte) error { return nftRule("filter", hook, 0, rule...) }

// nftRule installs a rule in the hook's chain.
func nftRule(kind string, hook uint32, priority int32, rule ...[]byte) error {
	const newTable, newChain, newRule = 0, 3, 6
	chain := "input"
	if hook == hookLocalOut {
		chain = "output"
	}
	return nftBatch(
		nftMessage{newTable, [][]byte{nlString(1, nftTable)}},
		nftMessage{newChain, [][]byte{
			nlString(1, nftTable), nlString(3, chain),
			nlNest(4, nlUint32(1, hook), nlUint32(2, uint32(priority))), nlString(7, kind),
		}},
		nftMessage{newRule, [][]byte{nlString(1, nftTable), nlString(2, chain), nlNest(4, rule...)}},
	)
}

// probeNAT translates an address in a namespace that is gone afterwards.
func probeNAT() error {
	ns, err := harness.NewNetns()
	if err != nil {
		return err
	}
	defer ns.Close()
	return ns.Do(func() error {
		return translateOutput(virtualAddr, netip.MustParseAddrPort("127.0.0.1:80"))
	})
}

// rejectNothing takes the table away again.
func rejectNothing() error {
	const delTable = 2
	return nftBatch(nftMessage{delTable, [][]byte{nlString(1, nftTable)}})
}

type nftMessage struct {
	kind  uint16
	attrs [][]byte
}

// nftBatch sends nf_tables messages for the inet family as one transaction.
func nftBatch(msgs ...nftMessage) error {
	const (
		subsystem            = 10
		batchBegin, batchEnd = 0x10, 0x11
		inet                 = 1
	)
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("cannot talk to the packet filter: %w", err)
	}
	defer unix.Close(fd)
	var b []byte
	add := func(kind, flags uint16, family byte, res uint16, attrs [][]byte) {
		m := make([]byte, unix.SizeofNlMsghdr+4)
		m[unix.SizeofNlMsghdr] = family
		binary.BigEndian.PutUint16(m[unix.SizeofNlMsghdr+2:], res)
		for _, a := range attrs {
			m = append(m, a...)
		}
		binary.NativeEndian.PutUint32(m[0:], uint32(len(m)))
		binary.NativeEndian.PutUint16(m[4:], kind)
		binary.NativeEndian.PutUint16(m[6:], flags|unix.NLM_F_REQUEST)
		b = append(b, m...)
	}
	add(batchBegin, 0, 0, subsystem, nil)
	for _, m := range msgs {
		add(subsystem<<8|m.kind, unix.NLM_F_CREATE|unix.NLM_F_ACK, inet, 0, m.attrs)
	}
	add(batchEnd, 0, 0, subsystem, nil)
	if err := unix.Sendto(fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("cannot change the packet filter: %w", err)
	}
	buf := make([]byte, 16<<10)
	for acks := 0; acks < len(msgs); {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if err != nil {
			return fmt.Errorf("cannot change the packet filter: %w", err)
		}
		for r := buf[:n]; len(r) >= unix.SizeofNlMsghdr+4; acks++ {
			size := int(binary.NativeEndian.Uint32(r))
			if kind := binary.NativeEndian.Uint16(r[4:]); kind != unix.NLMSG_ERROR {
				return fmt.Errorf("cannot change the packet filter: an answer of the unknown type %d", kind)
			}
			if e := int32(binary.NativeEndian.Uint32(r[unix.SizeofNlMsghdr:])); e != 0 {
				return fmt.Errorf("cannot change the packet filter: %w (the modules nf_tables and nft_reject_inet may not be loaded)", unix.Errno(-e))
			}
			r = r[min(len(r), (size+3)&^3):]
		}
	}
	return nil
}

func nlAttr(kind uint16, data []byte) []byte {
	b := make([]byte, 4, 4+len(data)+3)
	binary.NativeEndian.PutUint16(b[0:], uint16(4+len(data)))
	binary.NativeEndian.PutUint16(b[2:], kind)
	b = append(b, data...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

func nlString(kind uint16, s string) []byte { return nlAttr(kind, append([]byte(s), 0)) }

// nlUint32 is in network byte order, as nf_tables wants every number.
func nlUint32(kind uint16, v uint32) []byte {
	return nlAttr(kind, binary.BigEndian.AppendUint32(nil, v))
}

func nlNest(kind uint16, attrs ...[]byte) []byte {
	var all []byte
	for _, a := range attrs {
		all = append(all, a...)
	}
	return nlAttr(kind|unix.NLA_F_NESTED, all)
}
