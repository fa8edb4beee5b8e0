package report

import (
	"slices"

	"github.com/tcpbye/tcpbye/tracer/conn"
)

// maxHeld is how many first ends wait for their second at most: the other end
// may live on for days, or be filtered out.
const maxHeld = 4096

// pairing brings the two ends of a connection together.
type pairing struct {
	held  map[*conn.Connection]Judged
	order []*conn.Connection
	// show gets the client's end first; right is nil for a connection
	// of which only one end is known.
	show func(left, right *Judged) error
}

func (p *pairing) End(j Judged) error {
	if j.Conn == nil {
		return errNoConn
	}
	if j.Conn.Peer == nil {
		return p.show(&j, nil)
	}
	if first, ok := p.held[j.Conn.Peer]; ok {
		p.forget(j.Conn.Peer)
		return p.both(first, j)
	}
	if p.held == nil {
		p.held = map[*conn.Connection]Judged{}
	}
	if _, twice := p.held[j.Conn]; !twice {
		p.order = append(p.order, j.Conn)
	}
	p.held[j.Conn] = j
	if len(p.order) > maxHeld {
		return p.alone(p.order[0])
	}
	return nil
}

// flush shows the ends whose other end never came.
func (p *pairing) flush() error {
	for len(p.order) > 0 {
		if err := p.alone(p.order[0]); err != nil {
			return err
		}
	}
	return nil
}

func (p *pairing) alone(c *conn.Connection) error {
	j := p.held[c]
	p.forget(c)
	return p.show(&j, nil)
}

func (p *pairing) forget(c *conn.Connection) {
	delete(p.held, c)
	if i := slices.Index(p.order, c); i >= 0 {
		p.order = slices.Delete(p.order, i, i+1)
	}
}

func (p *pairing) both(a, b Judged) error {
	if servedHere(a.Conn) && !servedHere(b.Conn) {
		a, b = b, a
	}
	return p.show(&a, &b)
}
