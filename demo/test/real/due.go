package real

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tcpbye/tcpbye/demo/harness"
	"github.com/tcpbye/tcpbye/demo/scenario"
	"github.com/tcpbye/tcpbye/demo/stage"
	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// Ending is what both ends of a connection are due in common.
type Ending struct {
	Class  verdict.Class
	Cause  verdict.Cause
	Act    verdict.Act
	Signal int
	Actor  string // the role that acted; "" nobody
	// By is whose process or kernel ended it: "client" or "server"; "" nobody's.
	By string
	// Kernel: it was no process, but the kernel's own decision or answer.
	Kernel bool
	// Admin: an administrator did, whoever's the connection was.
	Admin bool
	// Path: nobody at either end did, but something between them.
	Path bool
	// Harmless: a RST after all had been said.
	Harmless bool
}

// Numbers of bytes or segments that are not known in advance.
const (
	Some = -1 // at least one
	Any  = -2 // any number, none included
)

// Side is what is due to one end alone.
type Side struct {
	Unread, Unsent, Unacked int
	// Sent and Received are payload bytes; 0: not looked at, beyond what the capture
	// has.
	Sent, Received uint64
	// Saw lists what its application was told of the ending. Where that depends
	// on which call came first, Or lists the others that may be.
	Saw []string
	Or  [][]string
	// SawAny: many calls were on their way, and any of them may have been told.
	SawAny bool
	FIN    int // different FINs that left
	RST    int // RSTs that left
	// HalfClose: one direction outlived the other.
	HalfClose bool
	// TimeWait: this end keeps the TIME_WAIT.
	TimeWait bool
	// Open is the cause of an end that has not ended, or outlived its peer; ""
	// it is due what the Ending says.
	Open verdict.Cause
	// None: there is no such socket, as where the connection was refused.
	None bool
}

// Link is a connection of a run's story.
type Link struct {
	Name   string // "curl > nginx"
	Port   uint16 // the server's
	Ending Ending
	Client Side
	Server Side
	// Retry is whether what was asked can be asked again; "" not looked at.
	Retry verdict.Retry
	// Idle is how long nothing had been said at least when the ending began; 0 not
	// looked at.
	Idle time.Duration
	// Probe: it was opened only to see whether somebody is there.
	Probe bool
	// NoPacket: the connection never got so far that anything left; the capture
	// knows nothing of it. There is only the client's end.
	NoPacket bool
	// Says are words that the client's or the server's verdict must have, in its
	// sentence, its advice or why it can be asked again: what the case's report came to in the end.
	Says []string
}

// LinkResult is a Link and what was found.
type LinkResult struct {
	Link           Link
	Client, Server *scenario.JudgedEnd // nil: no verdict
	Wrong          []error
	// Unsure says that hooks were missing, so that not all of it was held against
	// what is due.
	Unsure bool
}

// judge holds the verdicts on a run's connections against what is due. Where the
// tracer was blind to some hooks, only what it is certain of is.
func judge(links []Link, roles map[string]Process, segs []harness.Segment, waits []harness.Row, ends []scenario.JudgedEnd, blind bool) (results []LinkResult, wrong []error) {
	slices.SortStableFunc(ends, func(a, b scenario.JudgedEnd) int { return cmp.Compare(a.First, b.First) })
	taken := map[uint16]int{}
	used := map[*conn.Connection]bool{}
	// take is the first end with these ports that no link has yet; a port of 0 is
	// any.
	take := func(local, remote uint16) *scenario.JudgedEnd {
		for i := range ends {
			e := &ends[i]
			if !used[e.Connection] && (local == 0 || e.Local.Port() == local) && e.Remote.Port() == remote {
				used[e.Connection] = true
				return e
			}
		}
		return nil
	}
	for _, l := range links {
		if l.NoPacket {
			continue // what is left when the others have theirs
		}
		r := LinkResult{Link: l, Unsure: blind}
		all := calls(segs, l.Port)
		n := taken[l.Port]
		taken[l.Port]++
		if n >= len(all) {
			r.Wrong = append(r.Wrong, errors.New("the capture shows no such connection"))
			results = append(results, r)
			continue
		}
		c := all[n]
		if l.Ending.Class == verdict.Graceful && c.late() {
			l.Ending.Harmless = true
			l.Client.RST, l.Server.RST = Any, Any
			r.Link = l
		}
		r.Client, r.Server = take(c.client, l.Port), take(l.Port, c.client)
		waiting := func(local, remote uint16) *bool {
			if c.again || l.Ending.Harmless {
				return nil // the row would be the next one's; the RST has ended it
			}
			is := slices.ContainsFunc(waits, func(r harness.Row) bool { return r.Local.Port() == local && r.Remote.Port() == remote })
			return &is
		}
		r.check("client", r.Client, l.Client, roles, c.flow(l.Port), c.flow(c.client), waiting(c.client, l.Port))
		r.check("server", r.Server, l.Server, roles, c.flow(c.client), c.flow(l.Port), waiting(l.Port, c.client))
		r.checkWords()
		results = append(results, r)
	}
	for port, n := range taken {
		if have := len(calls(segs, port)); have > n {
			wrong = append(wrong, fmt.Errorf("the capture shows %d connections to port %d, the story tells of %d", have, port, n))
		}
	}
	for _, l := range links {
		if !l.NoPacket {
			continue
		}
		no := false
		r := LinkResult{Link: l, Unsure: blind, Client: take(0, l.Port)}
		r.check("client", r.Client, l.Client, roles, harness.Flow{}, harness.Flow{}, &no)
		r.checkWords()
		results = append(results, r)
	}
	for _, e := range ends {
		if !used[e.Connection] {
			wrong = append(wrong, fmt.Errorf("a connection that the story does not know: %v > %v, %s", e.Local, e.Remote, stage.Summary(e.Verdict)))
		}
	}
	return results, wrong
}

// checkWords looks for what the case came to in what tcpbye says of it.
func (r *LinkResult) checkWords() {
	if r.Unsure {
		return
	}
	var text string
	for _, e := range []*scenario.JudgedEnd{r.Client, r.Server} {
		if e != nil {
			text += e.Verdict.Sentence + " " + e.Verdict.RetryWhy + " " + e.Verdict.Advice + "\n"
		}
	}
	for _, word := range r.Link.Says {
		if !strings.Contains(text, word) {
			r.Wrong = append(r.Wrong, fmt.Errorf("nothing says %q, but:\n%s", word, text))
		}
	}
}

func (r *LinkResult) check(side string, e *scenario.JudgedEnd, due Side, roles map[string]Process, wire, back harness.Flow, waits *bool) {
	bad := func(format string, args ...any) {
		r.Wrong = append(r.Wrong, fmt.Errorf("%s: %w", side, fmt.Errorf(format, args...)))
	}
	// First what happened, which needs no tracer.
	left := func(what string, n, due int) {
		if n != due && due != Any && !(due == Some && n > 0) {
			bad("%d %s left, not %d", n, what, due)
		}
	}
	left("FINs", wire.FINs, due.FIN)
	left("RSTs", wire.RSTs, due.RST)
	if waits != nil && *waits != due.TimeWait {
		bad("the kernel's table says %v of a TIME_WAIT, not %v", *waits, due.TimeWait)
	}
	switch {
	case due.None && e != nil:
		bad("there is a verdict on a socket that never was: %s", stage.Summary(e.Verdict))
		return
	case due.None:
		return
	case e == nil:
		bad("no verdict")
		return
	}
	v, end := e.Verdict, r.Link.Ending
	class, cause, ender := end.Class, end.Cause, end.ender(side)
	act, signal, actor := end.Act, end.Signal, end.Actor
	if due.Open != "" {
		class, cause, ender = verdict.Open, due.Open, verdict.NoEnder
		if end.Class != verdict.Open { // it outlived its peer, and nobody said goodbye to it
			act, signal, actor = verdict.NoAct, 0, ""
		}
	}
	differs := v.Class != class || v.Cause != cause || v.Ender != ender
	if r.Unsure && v.Confidence != verdict.Certain {
		return
	}
	// That nothing has ended is certain only with the kernel's own table, and nobody
	// asks it here.
	if v.Confidence != verdict.Certain && v.Cause != verdict.StillOpen {
		bad("the confidence is %s, though nothing was missing", v.Confidence)
	}
	if differs {
		bad("judged %s, ender %q, not %s: %s, ender %q", stage.Summary(v), v.Ender, class, cause, ender)
	}
	if n := v.Bytes.Sent; n != nil && *n != uint64(wire.Sent) {
		bad("it is said to have sent %d bytes, the capture has %d", *n, wire.Sent)
	}
	for _, c := range []struct {
		what      string
		got       *uint64
		due, most uint64
	}{{"sent", v.Bytes.Sent, due.Sent, uint64(wire.Sent)}, {"received", v.Bytes.Received, due.Received, uint64(back.Sent)}} {
		switch {
		case c.got == nil && c.due != 0:
			bad("the number of bytes that it %s is not known", c.what)
		case c.got != nil && (c.due != 0 && *c.got != c.due || *c.got > c.most):
			bad("it is said to have %s %d bytes; the capture has %d, due are %d", c.what, *c.got, c.most, c.due)
		}
	}
	if r.Unsure {
		return
	}
	if v.Act != act || v.Signal != signal {
		bad("the act is %q (signal %d), not %q (signal %d)", v.Act, v.Signal, act, signal)
	}
	if harmless := end.Harmless && due.Open == ""; v.Harmless != harmless {
		bad("harmless is %v, not %v", v.Harmless, harmless)
	}
	if l := r.Link; due.Open == "" {
		if l.Retry != "" && v.Retry != l.Retry {
			bad("asking again is %q, not %q: %s", v.Retry, l.Retry, v.RetryWhy)
		}
		if l.Idle > 0 && (v.Idle == nil || *v.Idle < l.Idle) {
			bad("it had been idle for %v when the ending began, not for %v or more", v.Idle, l.Idle)
		}
		if v.Probe != l.Probe {
			bad("that it is a probe is %v, not %v", v.Probe, l.Probe)
		}
	}
	if (v.HalfClose != nil) != due.HalfClose {
		bad("the half-close is %v, but there being one is %v", v.HalfClose, due.HalfClose)
	}
	if v.TimeWait != due.TimeWait {
		bad("the TIME_WAIT is %v, not %v", v.TimeWait, due.TimeWait)
	}
	if !due.SawAny && !slices.ContainsFunc(append(due.Or, due.Saw), func(saw []string) bool { return slices.Equal(saw, v.AppSaw) }) {
		bad("the application saw %v, not %v", v.AppSaw, append([][]string{due.Saw}, due.Or...))
	}
	switch p, known := roles[actor]; {
	case actor == "" && v.Actor != nil:
		bad("the actor is %s (%d), but nobody acted", v.Actor.Comm, v.Actor.PID)
	case actor == "":
	case !known:
		bad("the story has no process %s", actor)
	case v.Actor == nil:
		bad("no actor, but it was %s, %s (%d)", actor, p.Comm, p.PID)
	case int(v.Actor.PID) != p.PID || v.Actor.Comm != p.Comm:
		bad("the actor is %s (%d), not %s, %s (%d)", v.Actor.Comm, v.Actor.PID, actor, p.Comm, p.PID)
	}
	lost := func(what string, got *uint64, want int) {
		switch {
		case class == verdict.Open && got != nil:
			bad("%s is %d on a connection that has not ended", what, *got)
		case class == verdict.Open:
		case got == nil:
			bad("%s is not known", what)
		case want == Some && *got == 0:
			bad("%s is 0, but there was some", what)
		case want >= 0 && *got != uint64(want):
			bad("%s is %d, not %d", what, *got, want)
		}
	}
	lost("unread", v.Lost.Unread, due.Unread)
	lost("unsent", v.Lost.Unsent, due.Unsent)
	lost("unacked", v.Lost.Unacked, due.Unacked)
	if v.Sentence == "" {
		bad("the verdict has no sentence")
	}
}

// ender is who ended it, seen from a side.
func (e Ending) ender(side string) verdict.Ender {
	mine := e.By == side
	switch {
	case e.Admin:
		return verdict.Admin
	case e.Path:
		return verdict.Path
	case e.By == "":
		return verdict.NoEnder
	case e.Kernel && mine:
		return verdict.LocalKernel
	case e.Kernel:
		return verdict.PeerKernel
	case mine:
		return verdict.LocalProcess
	}
	return verdict.PeerProcess
}
