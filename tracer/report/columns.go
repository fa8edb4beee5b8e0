package report

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// column is one fact of a judged end: short is how a table shows it, exact how
// CSV does. A column without one of the two is not in that format.
type column struct {
	key   string // in CSV; never changes its meaning
	title string // in a table
	short func(*entry, int) (string, ink)
	exact func(*entry) string
}

// name is how a person asks for a column.
func (c *column) name() string {
	return strings.ReplaceAll(strings.ToLower(cmp.Or(c.title, c.key)), " ", "-")
}

// FieldNames are the columns that can be asked for.
func FieldNames() []string {
	var names []string
	for i := range columns {
		names = append(names, columns[i].name())
		if key := columns[i].key; key != "" && key != columns[i].name() {
			names = append(names, key)
		}
	}
	return names
}

// findColumn finds a column by its title or by its name in CSV.
func findColumn(name string) (column, bool) {
	name = strings.ToLower(name)
	for _, c := range columns {
		if name == c.name() || name == c.key && c.key != "" {
			return c, true
		}
	}
	return column{}, false
}

// CheckFields says which of the names is no column.
func CheckFields(names []string) error {
	for _, name := range names {
		if _, ok := findColumn(name); !ok {
			return fmt.Errorf("there is no field %q: there are %s", name, strings.Join(FieldNames(), ", "))
		}
	}
	return nil
}

// entry is what columns read: the record for what is exact, the judged end for
// the rest.
type entry struct {
	Judged
	*Record
	pen pen
	o   Options
}

func newEntry(j Judged, o Options) *entry {
	return &entry{Judged: j, pen: pen{color: o.Color, ascii: o.ASCII}, o: o}
}

// The columns of CSV in their order; a new one goes to the end.
var columns = []column{
	{key: "ended", title: "TIME", short: shortTime, exact: func(e *entry) string { return deref(e.Record.Ended) }},
	{key: "opened", exact: func(e *entry) string { return deref(e.Record.Opened) }},
	{key: "id", exact: func(e *entry) string { return e.Record.ID }},
	{key: "peer_id", exact: func(e *entry) string { return deref(e.Record.PeerID) }},
	{key: "family", exact: func(e *entry) string { return deref(e.Record.Family) }},
	{key: "pid", title: "PROCESS", short: shortProcess, exact: func(e *entry) string {
		if e.Record.Owner == nil {
			return ""
		}
		return count(e.Record.Owner.PID)
	}},
	{key: "comm", exact: func(e *entry) string {
		if e.Record.Owner == nil {
			return ""
		}
		return e.Record.Owner.Comm
	}},
	{key: "exe", exact: func(e *entry) string {
		if e.Record.Owner == nil {
			return ""
		}
		return deref(e.Record.Owner.Exe)
	}},
	{key: "uid", exact: func(e *entry) string {
		if e.Record.Owner == nil {
			return ""
		}
		return number(uint64(e.Record.Owner.UID))
	}},
	{key: "container", exact: func(e *entry) string {
		if e.Record.Owner == nil {
			return ""
		}
		return deref(e.Record.Owner.Container)
	}},
	{key: "netns", exact: func(e *entry) string {
		if e.Record.NetNS == nil {
			return ""
		}
		return number(uint64(*e.Record.NetNS))
	}},
	{key: "local", title: "LOCAL", exact: func(e *entry) string { return deref(e.Record.Local) },
		short: func(e *entry, n int) (string, ink) {
			return cutAddr(addr(e.Judged.Conn.Local), n, e.pen.ellipsis()), plainInk
		}},
	{key: "remote", title: "REMOTE", exact: func(e *entry) string { return deref(e.Record.Remote) },
		short: func(e *entry, n int) (string, ink) {
			return cutAddr(addr(e.Judged.Conn.Remote), n, e.pen.ellipsis()), plainInk
		}},
	{title: "SERVICE", short: shortService},
	{key: "open", exact: func(e *entry) string { return deref(e.Record.Open) }},
	{key: "age_ns", title: "AGE", short: shortAge, exact: func(e *entry) string {
		c := e.Judged.Conn
		if c.Opened == 0 || c.Ended == 0 {
			return ""
		}
		return strconv.FormatInt(int64(c.Ended-c.Opened), 10)
	}},
	{key: "bytes_received", title: "IN", short: func(e *entry, _ int) (string, ink) { return shortCount(e.Record.Bytes.Received), plainInk },
		exact: func(e *entry) string { return count(e.Record.Bytes.Received) }},
	{key: "bytes_sent", title: "OUT", short: func(e *entry, _ int) (string, ink) { return shortCount(e.Record.Bytes.Sent), plainInk },
		exact: func(e *entry) string { return count(e.Record.Bytes.Sent) }},
	{key: "bytes_acked", exact: func(e *entry) string { return count(e.Record.Bytes.Acked) }},
	{key: "ender", title: "ENDED BY", short: shortEnder, exact: func(e *entry) string { return deref(e.Record.Verdict.Ender) }},
	{key: "act", exact: func(e *entry) string { return deref(e.Record.Verdict.Act) }},
	{key: "signal", exact: func(e *entry) string { return deref(e.Record.Verdict.Signal) }},
	{key: "actor_pid", exact: func(e *entry) string {
		if e.Record.Verdict.Actor == nil {
			return ""
		}
		return count(e.Record.Verdict.Actor.PID)
	}},
	{key: "actor_comm", exact: func(e *entry) string {
		if e.Record.Verdict.Actor == nil {
			return ""
		}
		return e.Record.Verdict.Actor.Comm
	}},
	{key: "class", exact: func(e *entry) string { return e.Record.Verdict.Class }},
	{key: "cause", title: "HOW", short: shortHow, exact: func(e *entry) string { return e.Record.Verdict.Cause }},
	{key: "harmless", exact: func(e *entry) string { return strconv.FormatBool(e.Record.Verdict.Harmless) }},
	{key: "confidence", exact: func(e *entry) string { return e.Record.Verdict.Confidence }},
	{key: "missing", exact: func(e *entry) string { return strings.Join(e.Record.Verdict.Missing, " ") }},
	{key: "app_saw", exact: func(e *entry) string { return strings.Join(e.Record.Verdict.AppSaw, " ") }},
	{key: "lost_unread", title: "LOST", short: shortLost, exact: func(e *entry) string { return count(e.Record.Lost.Unread) }},
	{key: "lost_unsent", exact: func(e *entry) string { return count(e.Record.Lost.Unsent) }},
	{key: "lost_unacked", exact: func(e *entry) string { return count(e.Record.Lost.Unacked) }},
	{key: "half_close_ms", exact: func(e *entry) string {
		if e.Record.HalfClose == nil {
			return ""
		}
		return strconv.FormatFloat(*e.Record.HalfClose, 'f', -1, 64)
	}},
	{key: "time_wait", exact: func(e *entry) string { return strconv.FormatBool(e.Record.TimeWait) }},
	{key: "scenario", exact: func(e *entry) string { return e.Judged.Scenario }},
	{key: "sentence", exact: func(e *entry) string { return e.Record.Verdict.Sentence }},
	{key: "advice", exact: func(e *entry) string { return deref(e.Record.Verdict.Advice) }},
	{key: "host", exact: func(e *entry) string { return e.Record.Host }},
	{key: "joint", exact: func(e *entry) string {
		if e.Record.Joint == nil {
			return ""
		}
		return e.Record.Joint.Outcome
	}},
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func number(n uint64) string { return strconv.FormatUint(n, 10) }

func count[N uint32 | uint64](n *N) string {
	if n == nil {
		return ""
	}
	return number(uint64(*n))
}

func shortTime(e *entry, _ int) (string, ink) {
	t := e.Judged.Conn.Ended
	if t == 0 {
		t = e.Judged.Conn.Last
	}
	return e.o.wall(t).Format(timeOfDay), dim
}

func shortProcess(e *entry, n int) (string, ink) {
	who := headOf(&e.Judged)
	if who == nil {
		return "-" + e.pen.at(e.Judged.Conn.Host), dim
	}
	s := e.pen.process(who)
	if width(s) > n && who.Comm != "" {
		// The number says which one; the name is cut.
		pid := "/" + event.PIDText(who.PID) + e.pen.at(who.Host)
		s = cut(e.pen.own(who.Comm), n-width(pid), e.pen.ellipsis()) + pid
	}
	return s, plainInk
}

// shortService is both addresses in few columns: the service's is the one that is
// never without its port.
func shortService(e *entry, n int) (string, ink) {
	c := e.Judged.Conn
	if !servedHere(c) {
		return cutAddr(addr(c.Remote), n, e.pen.ellipsis()), plainInk
	}
	port := ":" + itoa(int(c.Local.Port()))
	from := e.pen.glyphs(" ← ")
	if room := n - width(port) - width(from); room >= 7 {
		return port + from + cutHost(c.Remote.Addr().String(), room, e.pen.ellipsis()), plainInk
	}
	return port, plainInk
}

func shortAge(e *entry, _ int) (string, ink) {
	c := e.Judged.Conn
	end := c.Ended
	if end == 0 {
		end = c.Last
	}
	if c.Opened == 0 {
		return ">" + e.pen.glyphs(shortDuration(end-c.First)), plainInk
	}
	return e.pen.glyphs(shortDuration(end - c.Opened)), plainInk
}

// shortDuration is a time for a narrow column: 312µs, 1.3ms, 210ms, 62.4s, 12m.
func shortDuration(d time.Duration) string {
	switch {
	case d < 0:
		return "-"
	case d < time.Millisecond:
		return strconv.FormatInt(d.Microseconds(), 10) + "µs"
	case d < 10*time.Millisecond:
		return strconv.FormatFloat(float64(d)/1e6, 'f', 1, 64) + "ms"
	case d < time.Second:
		return strconv.FormatInt(d.Milliseconds(), 10) + "ms"
	case d < 99950*time.Millisecond:
		return strconv.FormatFloat(d.Seconds(), 'f', 1, 64) + "s"
	case d < 10*time.Minute:
		return strconv.FormatInt(int64(d.Round(time.Second)/time.Second), 10) + "s"
	case d < 100*time.Minute:
		return strconv.FormatInt(int64(d/time.Minute), 10) + "m"
	case d < 100*time.Hour:
		return strconv.FormatInt(int64(d/time.Hour), 10) + "h"
	}
	return strconv.FormatInt(int64(d/(24*time.Hour)), 10) + "d"
}

func shortCount(n *uint64) string {
	if n == nil {
		return "?"
	}
	return shortNumber(*n)
}

// shortNumber is a count for a narrow column: 999, 1.2k, 88k, 3.8M.
func shortNumber(n uint64) string {
	if n < 1000 {
		return number(n)
	}
	v, units := float64(n), "kMGTPE"
	for i := range len(units) {
		v /= 1000
		if v >= 999.5 && i < len(units)-1 {
			continue
		}
		digits := 0
		if v < 9.95 {
			digits = 1
		}
		return strings.TrimSuffix(strconv.FormatFloat(v, 'f', digits, 64), ".0") + units[i:i+1]
	}
	return number(n)
}

func shortEnder(e *entry, _ int) (string, ink) {
	v := &e.Judged.Verdict
	switch v.Ender {
	case verdict.LocalProcess:
		switch {
		case v.Act == verdict.ActKilled && v.Signal != 0:
			return event.SignalName(v.Signal), plainInk
		case v.Act == verdict.ActListener:
			return "listener", plainInk
		case v.Act == verdict.ActDisconnect:
			return "disconnect", plainInk
		case v.Act != verdict.NoAct:
			return actText(v.Act, v.Signal), plainInk
		}
		return "process", plainInk
	case verdict.LocalKernel:
		return "this kernel", plainInk
	case verdict.PeerProcess, verdict.Peer:
		return "peer", plainInk
	case verdict.PeerKernel:
		return "peer kernel", plainInk
	case verdict.Path:
		return "path", plainInk
	case verdict.Admin:
		return "admin", plainInk
	}
	return "-", dim
}

// howFull is the width from which on HOW has the class and the cause.
const howFull = 30

func shortHow(e *entry, n int) (string, ink) {
	v := &e.Judged.Verdict
	in := classInk(v)
	if in == redBold {
		in = red
	}
	cause := e.pen.text(string(v.Cause))
	if n < howFull {
		return cause, in
	}
	return pad(classText(v.Class), 9) + "  " + cause, in
}

func shortLost(e *entry, n int) (string, ink) {
	l := e.Judged.Verdict.Lost
	if l.Unread == nil && l.Unsent == nil && l.Unacked == nil {
		return "?", dim
	}
	var parts []string
	var sum uint64
	less := "" // what is known is not all
	for _, p := range []struct {
		n    *uint64
		what string
	}{{l.Unread, "unread"}, {l.Unsent, "unsent"}, {l.Unacked, "unacked"}} {
		if p.n != nil && *p.n > 0 {
			parts = append(parts, shortNumber(*p.n)+" "+p.what)
			sum += *p.n
		}
		if p.n == nil {
			less = "?"
		}
	}
	switch {
	case parts == nil && less != "":
		return less, dim
	case parts == nil:
		return "-", dim
	}
	if less != "" {
		parts = append(parts, less)
	}
	if text := strings.Join(parts, ", "); width(text) <= n {
		return text, plainInk
	}
	return shortNumber(sum) + less, plainInk
}
