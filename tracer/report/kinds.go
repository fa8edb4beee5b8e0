package report

import (
	"net/netip"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// party is one of the two that a connection is between.
type party struct {
	addr netip.AddrPort
	who  *conn.Process // nil: not known
	here bool          // on this machine
}

// parties are the two of a connection by what they are to each other, whichever
// end is told of.
type parties struct {
	client, service party
	guess           bool // the port with the lower number is taken for the service's
}

// sides says who is the client and who the service.
func sides(j *Judged) parties {
	c := j.Conn
	self, peer := party{c.Local, headOf(j), true}, party{addr: c.Remote}
	if p := c.Peer; p != nil {
		peer.who, peer.here = headOf(&Judged{Conn: p}), true
	}
	if servedHere(c) {
		self, peer = peer, self
	}
	return parties{self, peer, c.Service() == conn.NoSide}
}

// servedHere says whether the service is this end's.
func servedHere(c *conn.Connection) bool {
	side := c.Service()
	// Ports for the length of a connection are high ones.
	return side == conn.ThisSide || side == conn.NoSide && c.Local.Port() < c.Remote.Port()
}

// swapped takes the other one for the service.
func (p parties) swapped() parties {
	p.client, p.service = p.service, p.client
	return p
}

// resetKind is what makes two endings the same, whichever end tells of them.
type resetKind struct {
	cause           verdict.Cause
	unanswered      bool
	client, service string // names of their processes; "" not known
	actor           string
	port            uint16     // the service's: it does not change from connection to connection
	far             conn.Side  // of client (ThisSide) and service (OtherSide) the one on another machine
	remote          netip.Addr // of that one, or the service's; invalid: all for which there is no block
}

// kindsOf are the kinds that an ending can be of. They are two where it is not
// known which port is the service's: endings of one kind have one in common.
func kindsOf(j *Judged) []resetKind {
	p := sides(j)
	kinds := []resetKind{p.kind(j)}
	if p.guess {
		kinds = append(kinds, p.swapped().kind(j))
	}
	return kinds
}

func (p parties) kind(j *Judged) resetKind {
	k := resetKind{cause: j.Verdict.Cause, unanswered: unanswered(&j.Verdict), port: p.service.addr.Port(), remote: p.service.addr.Addr()}
	switch {
	case !p.client.here:
		k.far, k.remote = conn.ThisSide, p.client.addr.Addr()
	case !p.service.here:
		k.far = conn.OtherSide
	}
	for to, who := range map[*string]*conn.Process{&k.client: p.client.who, &k.service: p.service.who, &k.actor: j.Verdict.Actor} {
		if who != nil {
			*to = who.Comm
		}
	}
	return k
}

// what names the kind: a cause, or what is to be explained.
func (k resetKind) what() string { return whatOf(k.cause, k.unanswered) }

func whatOf(cause verdict.Cause, unanswered bool) string {
	if unanswered {
		return verdict.UnansweredName
	}
	return string(cause)
}

func (k resetKind) anyPeer() resetKind {
	k.remote = netip.Addr{}
	return k
}

// between names the two ends, the client first.
func (p parties) between(pen pen, k resetKind) string {
	port := ":" + itoa(int(p.service.addr.Port()))
	client, service := pen.process(p.client.who), pen.process(p.service.who)
	others := !k.remote.IsValid()
	switch {
	case !p.client.here && others:
		client = "other clients"
	case client == "":
		client = p.client.addr.Addr().String()
	}
	switch {
	case !p.service.here && others:
		service = "other services" + port
	case service != "":
		service = port + " (" + service + ")"
	default:
		service = addr(p.service.addr)
	}
	return client + pen.glyphs(" → ") + service
}
