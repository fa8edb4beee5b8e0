package conn

import (
	"time"

	"github.com/tcpbye/tcpbye/tracer/event"
)

// indexOwner files a connection under its owner, whose exit and whose stacks concern it.
func (j *Joiner) indexOwner(c *entry) {
	var pid uint32
	if c.Owner != nil && !c.judged {
		pid = c.Owner.PID
	}
	if pid == c.byPID {
		return
	}
	j.disown(c)
	if pid == 0 {
		return
	}
	list := j.byOwner[pid]
	c.byPID, c.ownerPlace = pid, len(list)
	j.byOwner[pid] = append(list, c)
}

// disown takes a connection out of what is known by owner and by thread.
func (j *Joiner) disown(c *entry) {
	if c.thread != 0 && j.byThread[c.thread] == c {
		delete(j.byThread, c.thread)
	}
	if c.byPID == 0 {
		return
	}
	list := j.byOwner[c.byPID]
	last := list[len(list)-1]
	list[c.ownerPlace], last.ownerPlace = last, c.ownerPlace
	list[len(list)-1] = nil
	if list = list[:len(list)-1]; len(list) == 0 {
		delete(j.byOwner, c.byPID)
	} else {
		j.byOwner[c.byPID] = list
	}
	c.byPID = 0
}

// signalAfter is how long after sk_stream_error its SIGPIPE can be sent: both are in
// one call, which can be preempted.
const signalAfter = time.Second

// expectSignal notes that send(2) has failed with SIGPIPE: it follows.
func (j *Joiner) expectSignal(c *entry, e *event.Event) {
	if e.Hook != event.HookStreamError || e.Arg2 != 1 {
		return
	}
	if c.thread != 0 && c.thread != e.TID && j.byThread[c.thread] == c {
		delete(j.byThread, c.thread)
	}
	c.thread, c.pipeAt = e.TID, e.Time
	j.byThread[e.TID] = c
}

// signal gives a SIGPIPE to the connection whose send(2) failed in that thread
// just before. That of a pipe is nobody's.
func (j *Joiner) signal(e *event.Event) {
	c := j.byThread[e.TID]
	delete(j.byThread, e.TID)
	if c != nil && !c.judged && e.Time-c.pipeAt <= signalAfter {
		j.append(c, e)
	}
}

// A grave is a socket that was destroyed and whose story has been judged.
type grave struct{ sock, gen uint64 }

// graves are the last ones: an event of theirs that comes too late begins nothing.
type graves struct {
	known map[grave]struct{}
	order []grave // a ring
	next  int
}

const maxGraves = 8192

func (g *graves) add(sock, gen uint64) {
	if gen == 0 {
		return
	}
	if g.known == nil {
		g.known = map[grave]struct{}{}
	}
	x := grave{sock, gen}
	if _, ok := g.known[x]; ok {
		return
	}
	g.known[x] = struct{}{}
	if len(g.order) < maxGraves {
		g.order = append(g.order, x)
		return
	}
	delete(g.known, g.order[g.next])
	g.order[g.next] = x
	g.next = (g.next + 1) % maxGraves
}

// buried says whether a late event is about a socket that was judged already.
func (j *Joiner) buried(a *arrival) bool {
	e := &a.Event
	if e.Sock == 0 || e.Conn == 0 {
		return false
	}
	if _, ok := j.graves.known[grave{e.Sock, e.Conn}]; ok {
		return true
	}
	if a.story != nil {
		return false // nothing was seen of its socket before, as a rule
	}
	// Not the first that was seen of its socket, of which nothing is known: it has
	// been judged longer ago.
	c := j.bySock[e.Sock]
	return e.Conn < uint64(e.Time) && (c == nil || c.Gen != e.Conn)
}
