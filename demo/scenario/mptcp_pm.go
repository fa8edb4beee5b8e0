package scenario

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// pathManager sends a command to the calling thread's namespace's MPTCP path
// manager (include/uapi/linux/mptcp_pm.h; linux/mptcp.h on older kernels).
func pathManager(command uint8, attrs ...*nl.RtAttr) error {
	family, err := netlink.GenlFamilyGet("mptcp_pm")
	if err != nil {
		return fmt.Errorf("cannot find the MPTCP path manager: %w", err)
	}
	req := nl.NewNetlinkRequest(int(family.ID), unix.NLM_F_ACK)
	req.AddData(&nl.Genlmsg{Command: command, Version: 1})
	for _, a := range attrs {
		req.AddData(a)
	}
	if _, err := req.Execute(unix.NETLINK_GENERIC, 0); err != nil {
		return fmt.Errorf("cannot set the MPTCP path manager: %w", err)
	}
	return nil
}

// limitSubflows says how many subflows a connection may have besides the first.
func limitSubflows(n uint32) error {
	const setLimits, attrSubflows = 5, 3
	return pathManager(setLimits, nl.NewRtAttr(attrSubflows, nl.Uint32Attr(n)))
}

// joinFrom makes connections open a further subflow from this address.
func joinFrom(addr netip.Addr) error {
	const (
		addAddr                                  = 1
		attrAddr                                 = 1
		attrFamily, attrID, attrAddr4, attrFlags = 1, 2, 3, 6
		flagSubflow                              = 2
	)
	a := nl.NewRtAttr(attrAddr|unix.NLA_F_NESTED, nil)
	a.AddRtAttr(attrFamily, nl.Uint16Attr(unix.AF_INET))
	a.AddRtAttr(attrID, nl.Uint8Attr(1))
	a.AddRtAttr(attrAddr4, addr.AsSlice())
	a.AddRtAttr(attrFlags, nl.Uint32Attr(flagSubflow))
	return pathManager(addAddr, a)
}
