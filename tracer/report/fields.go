package report

import (
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"net/netip"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// Fields are the facts of an end by the names that CSV gives them, each as a text and in
// the same order, and after them the connection's identity (connection, as in JSON) and
// Zeek's conn_state. What is not known is left out. Texts are as processes own them:
// quote them before they reach a terminal.
func Fields(j Judged, clock Clock, each func(key, value string)) {
	e := newEntry(j, Options{Clock: clock})
	e.Record = newRecord(j, clock, false)
	for _, c := range columns {
		if c.exact == nil {
			continue
		}
		if v := c.exact(e); v != "" {
			each(c.key, v)
		}
	}
	if e.Record.Connection != nil {
		each("connection", *e.Record.Connection)
	}
	each("conn_state", connState(j.Conn, &j.Verdict))
}

// connState is how Zeek's conn.log names the end.
func connState(c *conn.Connection, v *verdict.Verdict) string {
	opener := servedBy(c) != conn.ThisSide // this end is the originator
	switch {
	case c.Open == conn.OpenUnknown || v.Class == verdict.Unknown:
		return "OTH" // its beginning was not seen
	case v.Class == verdict.Graceful:
		return "SF"
	case v.Cause == verdict.ConnectCancelled:
		return "RSTOS0"
	case v.Class == verdict.Refused && v.Cause != verdict.Unreachable:
		return "REJ"
	case c.Established == 0 && v.Class != verdict.Aborted:
		return "S0"
	case v.Class == verdict.Aborted:
		here := v.Ender == verdict.LocalProcess || v.Ender == verdict.LocalKernel || v.Ender == verdict.Admin
		if here == opener {
			return "RSTO"
		}
		return "RSTR"
	}
	local, peer := v.LocalFin != nil, v.PeerFin != nil
	if !opener {
		local, peer = peer, local
	}
	switch {
	case local && !peer:
		return "S2"
	case peer && !local:
		return "S3"
	}
	return "S1"
}

func servedBy(c *conn.Connection) conn.Side {
	if servedHere(c) {
		return conn.ThisSide
	}
	return conn.OtherSide
}

// communityID is the flow hash that network tools agree on (Community ID, version 1,
// seed 0): the same at both ends, but not through an address translation.
func communityID(a, b netip.AddrPort) string {
	if !a.IsValid() || !b.IsValid() {
		return ""
	}
	a, b = netip.AddrPortFrom(a.Addr().WithZone("").Unmap(), a.Port()), netip.AddrPortFrom(b.Addr().WithZone("").Unmap(), b.Port())
	if b.Compare(a) < 0 {
		a, b = b, a
	}
	in := make([]byte, 2, 40)
	in = append(append(in, a.Addr().AsSlice()...), b.Addr().AsSlice()...)
	in = append(in, 6, 0) // TCP, padding
	in = binary.BigEndian.AppendUint16(in, a.Port())
	in = binary.BigEndian.AppendUint16(in, b.Port())
	sum := sha1.Sum(in)
	return "1:" + base64.StdEncoding.EncodeToString(sum[:])
}
