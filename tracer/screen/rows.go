package screen

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/report"
	"github.com/tcpbye/tcpbye/tracer/snapshot"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// sorts are the orders of each pane, the default first.
var sorts = [panes][]string{
	paneOpen:    {"what stays", "count", "age", "queued", "state", "owner", "service"},
	paneCauses:  {"count", "lost", "last", "cause", "process"},
	paneEndings: {"time", "lost", "age", "process", "cause"},
}

func (m *Model) order(p pane) string { return sorts[p][m.sort[p]] }

// turn reverses rows where that is asked for.
func turn[T any](m *Model, p pane, rows []T) []T {
	if m.reverse[p] {
		slices.Reverse(rows)
	}
	return rows
}

// keys are the rows of a pane by what tells them apart.
func (m *Model) keys(p pane) []string {
	var keys []string
	switch p {
	case paneOpen:
		for _, g := range m.shownOpen() {
			keys = append(keys, g.key())
		}
	case paneCauses:
		for _, r := range m.shownCauses() {
			keys = append(keys, r.key())
		}
	case paneEndings:
		for _, e := range m.shownEndings() {
			keys = append(keys, strconv.FormatUint(e.ID, 10))
		}
	}
	return keys
}

// memo keeps what a view needs more than once. Each message makes it anew.
type memo struct {
	endings []*Ending
	causes  []*causeRow
	open    []*group
	opened  []*open
}

// once computes what the memo has not.
func once[T any](kept *[]T, compute func() []T) []T {
	if *kept == nil {
		*kept = compute()
	}
	return *kept
}

// shownEndings are those that the filter lets through.
func (m *Model) shownEndings() []*Ending { return once(&m.memo.endings, m.chooseEndings) }

// shownCauses are all kinds, or of the endings that are kept those that the filter
// lets through.
func (m *Model) shownCauses() []*causeRow { return once(&m.memo.causes, m.chooseCauses) }

// shownOpen are the groups of the ends that the filter lets through.
func (m *Model) shownOpen() []*group { return once(&m.memo.open, m.chooseOpen) }

// opened are the ends that are open, as far as that is known.
func (m *Model) opened() []*open {
	return once(&m.memo.opened, func() []*open {
		if m.o.Live {
			return m.sockets
		}
		return openLeft(m.left)
	})
}

func (m *Model) chooseEndings() []*Ending {
	var rows []*Ending
	for _, e := range slices.Backward(m.endings) {
		if m.wants(e) {
			rows = append(rows, e)
		}
	}
	by := func(less func(a, b *Ending) int) { slices.SortStableFunc(rows, less) }
	switch m.order(paneEndings) {
	case "time":
		by(func(a, b *Ending) int { return b.when(b.Ended()).Compare(a.when(a.Ended())) })
	case "lost":
		by(func(a, b *Ending) int {
			x, _ := a.Lost()
			y, _ := b.Lost()
			return cmp.Compare(y, x)
		})
	case "age":
		by(func(a, b *Ending) int { return cmp.Compare(age(b), age(a)) })
	case "process":
		by(func(a, b *Ending) int { return cmp.Compare(a.Blamed(), b.Blamed()) })
	case "cause":
		by(func(a, b *Ending) int { return cmp.Compare(a.What(), b.What()) })
	}
	return turn(m, paneEndings, rows)
}

func age(e *Ending) time.Duration {
	c := e.Main().Conn
	if c.Opened == 0 {
		return e.Ended() - c.First
	}
	return e.Ended() - c.Opened
}

// wants says whether an ending is shown.
func (m *Model) wants(e *Ending) bool {
	if m.ill && !e.Ill() {
		return false
	}
	return m.match.has(e.Pair, func() string {
		v := &e.Main().Verdict
		return e.Between(m.o.Report) + " " + e.What() + " " + string(v.Class) + " " + string(v.Cause) + " " + e.Blamed()
	})
}

// causeKey is what makes two endings of one kind.
type causeKey struct {
	what, process string
}

// causeRow counts the endings of a kind.
type causeRow struct {
	causeKey
	class   verdict.Class
	ill     bool
	n       int
	lost    uint64
	unknown int // of so many it is not known what was lost
	retry   map[verdict.Retry]int
	last    time.Time
}

func (r *causeRow) key() string { return r.what + " " + r.process }

// maxCauses is how many kinds are told apart: names are free to choose for whoever
// starts processes.
const maxCauses = 1024

// tally adds an ending to its kind, or takes it away.
func tally(to map[causeKey]*causeRow, e *Ending, n int) {
	main := e.Main()
	k := causeKey{e.What(), e.Blamed()}
	if to[k] == nil && len(to) >= maxCauses {
		k.process = "(others)"
	}
	r := to[k]
	if r == nil {
		r = &causeRow{causeKey: k, class: main.Verdict.Class, ill: e.Ill(), retry: map[verdict.Retry]int{}}
		to[k] = r
	}
	lost, unknown := e.Lost()
	r.n += n
	r.lost += lost * uint64(n)
	if unknown {
		r.unknown += n
	}
	r.retry[main.Verdict.Retry] += n
	if at := e.when(e.Ended()); at.After(r.last) {
		r.last = at
	}
	if r.n == 0 {
		delete(to, k)
	}
}

func (m *Model) chooseCauses() []*causeRow {
	from := m.causes
	if m.match != nil {
		from = map[causeKey]*causeRow{}
		for _, e := range m.endings {
			if m.wants(e) {
				tally(from, e, 1)
			}
		}
	}
	var rows []*causeRow
	for _, r := range from {
		if !m.ill || r.ill {
			rows = append(rows, r)
		}
	}
	slices.SortFunc(rows, func(a, b *causeRow) int {
		first := 0
		switch m.order(paneCauses) {
		case "lost":
			first = cmp.Compare(b.lost, a.lost)
		case "last":
			first = b.last.Compare(a.last)
		case "cause":
			first = cmp.Compare(a.what, b.what)
		case "process":
			first = cmp.Compare(a.process, b.process)
		}
		return cmp.Or(first, cmp.Compare(b.n, a.n), cmp.Compare(a.what, b.what), cmp.Compare(a.process, b.process))
	})
	return turn(m, paneCauses, rows)
}

// open is an end that is open.
type open struct {
	conn    *conn.Connection
	verdict verdict.Verdict // class and cause, of a snapshot no more
	state   event.State
	owner   string // quoted
	service string
	unread  uint64
	unacked uint64
	note    string
	marked  bool
	socket  *snapshot.Socket // nil: of a recording
	ending  *Ending          // nil: of a snapshot
}

// openOf are the ends of a snapshot.
func openOf(s *snapshot.Snapshot) []*open {
	type port struct {
		netns uint32
		port  uint16
	}
	listens := map[port]bool{}
	for i := range s.Listening {
		listens[port{s.Listening[i].NetNS, s.Listening[i].Local.Port()}] = true
	}
	all := make([]*open, 0, len(s.Sockets))
	for i := range s.Sockets {
		k := &s.Sockets[i]
		mark := k.Mark()
		o := &open{conn: k.Connection(), verdict: verdict.Verdict{Class: verdict.Open, Cause: mark.Cause}, state: k.State,
			unread: uint64(k.Unread), unacked: uint64(k.Unacked), note: mark.Note, marked: mark.Marked(), socket: k}
		o.owner = ownerText(o.conn.Owner)
		if k.Owner() == nil && o.conn.Owner != nil {
			o.owner = "(" + o.owner + ")" // it may yet take it
		}
		o.service = k.Remote.String()
		if listens[port{k.NetNS, k.Local.Port()}] {
			o.service = ":" + strconv.Itoa(int(k.Local.Port()))
		}
		all = append(all, o)
	}
	return all
}

func ownerText(who *conn.Process) string {
	if who == nil {
		return "-"
	}
	return event.Quote(who.Comm) + "/" + event.PIDText(who.PID)
}

// openLeft are the ends that a recording left open.
func openLeft(endings []*Ending) []*open {
	var all []*open
	for _, e := range endings {
		for _, j := range []*report.Judged{e.First, e.Second} {
			if j == nil {
				continue
			}
			c, v := j.Conn, j.Verdict
			o := &open{conn: c, verdict: v, state: c.State(), owner: ownerText(c.Owner), service: c.Remote.String(),
				marked: v.Cause != verdict.StillOpen, ending: e}
			if o.state == 0 {
				o.state = c.Before
			}
			if c.Service() == conn.ThisSide || c.Service() == conn.NoSide && c.Local.Port() < c.Remote.Port() {
				o.service = ":" + strconv.Itoa(int(c.Local.Port()))
			}
			if o.marked {
				o.note = string(v.Cause)
			}
			if n := v.Lost.Unread; n != nil {
				o.unread = *n
			}
			for _, n := range []*uint64{v.Lost.Unacked, v.Lost.Unsent} {
				if n != nil {
					o.unacked += *n
				}
			}
			all = append(all, o)
		}
	}
	return all
}

// group are open ends of one owner in one state, with one service.
type group struct {
	state          event.State
	owner, service string
	cause          verdict.Cause
	all            []*open
	oldest         *open
	age            time.Duration
	unread         uint64
	unacked        uint64
}

func (g *group) key() string {
	return g.state.String() + " " + g.owner + " " + g.service + " " + string(g.cause)
}

func (g *group) marked() bool { return g.all[0].marked }

func (m *Model) chooseOpen() []*group {
	var groups []*group
	by := map[string]*group{}
	for _, o := range m.opened() {
		if m.match != nil && (!m.match.end(o.conn, o.verdict) || !m.match.inWords(func() string {
			return strings.Join([]string{o.state.String(), o.owner, o.service, o.note, o.conn.Local.String(), o.conn.Remote.String(), string(o.verdict.Cause)}, " ")
		})) {
			continue
		}
		g := &group{state: o.state, owner: o.owner, service: o.service, cause: o.verdict.Cause}
		if known := by[g.key()]; known != nil {
			g = known
		} else {
			by[g.key()] = g
			groups = append(groups, g)
		}
		g.add(o, m.now)
	}
	slices.SortStableFunc(groups, func(a, b *group) int {
		first := 0
		switch m.order(paneOpen) {
		case "what stays":
			first = cmp.Compare(btoi(b.marked()), btoi(a.marked()))
		case "age":
			first = cmp.Compare(b.age, a.age)
		case "queued":
			first = cmp.Compare(b.unread+b.unacked, a.unread+a.unacked)
		case "state":
			first = cmp.Compare(a.state, b.state)
		case "owner":
			first = cmp.Compare(a.owner, b.owner)
		case "service":
			first = cmp.Compare(a.service, b.service)
		}
		return cmp.Or(first, cmp.Compare(len(b.all), len(a.all)), cmp.Compare(a.key(), b.key()))
	})
	return turn(m, paneOpen, groups)
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// add adds an end.
func (g *group) add(o *open, now time.Time) {
	g.all = append(g.all, o)
	g.unread, g.unacked = g.unread+o.unread, g.unacked+o.unacked
	age := time.Duration(0)
	if o.socket != nil {
		age, _ = o.socket.Age()
	} else {
		age = now.Sub(o.ending.when(o.conn.First))
	}
	if g.oldest == nil || age > g.age {
		g.oldest, g.age = o, age
	}
}

// write shows each connection of the group, and what its mark means.
func (g *group) write(o report.Options) string {
	var b strings.Builder
	var sockets []snapshot.Socket
	for _, x := range g.all {
		if x.socket != nil {
			sockets = append(sockets, *x.socket)
		}
	}
	if len(sockets) > 0 {
		if err := snapshot.Table(&b, snapshot.Rows(sockets, true), o); err != nil {
			return err.Error()
		}
	}
	seen := map[*Ending]bool{}
	for _, x := range g.all {
		if x.ending != nil && !seen[x.ending] {
			seen[x.ending] = true
			b.WriteString(x.ending.text(o) + "\n")
		}
	}
	for _, r := range verdict.Rules() {
		if g.marked() && len(sockets) > 0 && r.Cause == g.cause {
			b.WriteString("\n" + r.Explain())
		}
	}
	return b.String()
}
