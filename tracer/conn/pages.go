package conn

import "github.com/tcpbye/tcpbye/tracer/event"

// An event is large, and full of pointers: to allocate room for each connection's events
// would take most of the join's time. So the room is used again.
const (
	smallPage = 6   // events: what a listener has, or a refused connection
	largePage = 24  // as many as an end has, as a rule, and more than a story
	maxPages  = 256 // of each size: 4 MB
)

// pages are room for events that nobody uses.
type pages struct{ small, large [][]event.Event }

// take is room for so many; nil: it is more than a page.
func (p *pages) take(n int) []event.Event {
	size, from := smallPage, &p.small
	switch {
	case n > largePage:
		return nil
	case n > smallPage:
		size, from = largePage, &p.large
	}
	last := len(*from) - 1
	if last < 0 {
		return make([]event.Event, 0, size)
	}
	page := (*from)[last]
	*from = (*from)[:last]
	return page
}

func (p *pages) give(page []event.Event) {
	to := &p.small
	switch cap(page) {
	case smallPage:
	case largePage:
		to = &p.large
	default:
		return
	}
	if len(*to) < maxPages {
		*to = append(*to, page[:0])
	}
}

// grow makes room for the next event of a connection, and for what is at hand.
func (j *Joiner) grow(c *entry) {
	old := c.Events
	more := j.pages.take(len(old) + max(1, j.coming))
	if more == nil {
		more = make([]event.Event, 0, len(old)+max(largePage, len(old)))
	}
	c.Events = append(more, old...)
	if j.opts.Reuse {
		j.pages.give(old)
	}
}

// reuse takes the events of a connection that was judged, and of its peer, if both
// were: the judge looks at the other end, too.
func (j *Joiner) reuse(c *entry) {
	if !j.opts.Reuse || c.peer != nil && !c.peer.judged {
		return
	}
	for _, x := range []*entry{c, c.peer} {
		if x != nil {
			j.pages.give(x.Events)
			x.Events = nil
		}
	}
}
