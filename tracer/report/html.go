package report

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// HTMLSink writes a report for a browser: what ended, by cause and service, and each
// connection folded, with what tcpbye rst says of it and its timeline. The page needs
// nothing from elsewhere. Its script filters and sorts, and all is there without it;
// no other script runs in it (Content-Security-Policy).
//
// Since the causes stand at its beginning, it is all written by Close.
type HTMLSink struct {
	pairing
	out     output
	o       Options
	shown   []shownConnection
	dropped int // connections that are only counted
	total   int
	classes map[string]int
	kinds   map[pageKind]*pageCount
	first   time.Duration // CLOCK_MONOTONIC
	last    time.Duration
}

// maxShown is how many connections a page shows: a browser is slow with more.
const maxShown = 5000

// maxPageKinds is how many causes of services it shows.
const maxPageKinds = 15

type shownConnection struct {
	view  pageConnection
	at    time.Duration
	plain bool // graceful: the first to make room
}

type pageKind struct {
	cause, service string
	find           string // what finds the service's connections
}

type pageCount struct {
	pageKind
	n           int
	rank        int
	look        string
	lost        uint64
	unknown     bool
	first, last time.Duration
}

// NewHTML is a sink for a browser.
func NewHTML(w io.Writer, o Options) *HTMLSink {
	s := &HTMLSink{out: output{w: w}, o: o, classes: map[string]int{}, kinds: map[pageKind]*pageCount{}}
	s.show = s.add
	return s
}

//go:embed page
var pageFiles embed.FS

var (
	pageTemplate = template.Must(template.ParseFS(pageFiles, "page/page.gohtml"))
	pageStyle    = pageFile("page/page.css")
	pageScript   = pageFile("page/page.js")
)

func pageFile(name string) string {
	b, _ := pageFiles.ReadFile(name) // it is embedded; TestPage finds it missing
	return string(b)
}

// pagePolicy lets only this package's own style and script into the page.
func pagePolicy() string {
	hash := func(s string) string {
		sum := sha256.Sum256([]byte(s))
		return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
	}
	return "default-src 'none'; style-src " + hash(pageStyle) + "; script-src " + hash(pageScript)
}

// What the templates read.
type (
	pageHead struct {
		Policy, Title, When, Where string
		Style                      template.CSS
		Kinds                      []pageRow
		More                       string
		Shown                      int
	}
	pageRow struct {
		Count, Cause, Look, Service, Find, Lost, First, Last string
	}
	pageTail struct {
		Dropped string
		Script  template.JS
	}
	pageConnection struct {
		LostBytes                           uint64
		AgeUS                               int64
		Open                                bool
		Time, Who, Look, Class, Cause, Tail string
		Lost, Age                           string
		Fields                              []pageField
		Names, Addrs                        [2]string
		Rows                                []pageLine
	}
	pageField struct{ Label, Text string }
	pageLine  struct {
		At, Wire     string
		Fatal, Reset bool
		Cells        [2]pageCell
	}
	pageCell struct{ Act, Text, Note, Marks string }
)

func (s *HTMLSink) add(a, b *Judged) error {
	p := pen{}
	st := newStory(a, b, p)
	main := st.main()
	at := st.ended(main)
	v := &main.Verdict
	f := st.findings(p)
	look := map[ink]string{green: "good", redBold: "bad"}[f.ink]
	if unanswered(v) {
		look = ""
	}
	look = cmp.Or(look, "warn")
	sum := pageConnection{Who: sides(main).between(p, kindsOf(main)[0]), Look: look, Class: f.class, Cause: f.cause, Tail: f.tail}
	var unknown bool
	for _, j := range []*Judged{a, b} {
		if j != nil {
			n, not := lostBytes(j.Verdict.Lost)
			sum.LostBytes += n
			unknown = unknown || not
		}
	}
	if v.Class != verdict.Open {
		switch {
		case sum.LostBytes > 0:
			sum.Lost = shortNumber(sum.LostBytes) + " lost"
		case unknown:
			sum.Lost = "lost: ?"
		}
	}
	opened := main.Conn.Opened
	if b != nil && b.Conn.Opened != 0 {
		opened = min(cmp.Or(opened, b.Conn.Opened), b.Conn.Opened)
	}
	if opened != 0 && at >= opened {
		sum.AgeUS, sum.Age = (at - opened).Microseconds(), shortDuration(at-opened)
	}
	s.count(main, at, &sum, unknown)

	plain := v.Class == verdict.Graceful && !unanswered(v)
	if len(s.shown) >= maxShown {
		s.dropped++
		i := slices.IndexFunc(s.shown, func(c shownConnection) bool { return c.plain })
		if plain || i < 0 {
			return s.out.err
		}
		s.shown = slices.Delete(s.shown, i, i+1)
	}
	for _, fd := range st.explained(p, main, at, ownersOf(main), true) {
		sum.Fields = append(sum.Fields, pageField{fd.label, strings.Join(fd.lines, "\n")})
	}
	sum.Names, sum.Addrs = st.heads(p)
	for n := range st.rows {
		r := &st.rows[n]
		l := pageLine{At: seconds(r.at), Fatal: r.fatal, Cells: [2]pageCell{cellOf(p, r.items[left]), cellOf(p, r.items[right])}}
		if r.wire != nil {
			l.Wire, l.Reset = p.arrow(r.wire, width(r.wire.segment.String())+4), r.wire.kind == segRst
		}
		sum.Rows = append(sum.Rows, l)
	}
	s.shown = append(s.shown, shownConnection{sum, at, plain})
	return s.out.err
}

func cellOf(p pen, i *item) (c pageCell) {
	if i == nil {
		return c
	}
	c.Act, c.Note, c.Marks = actOf(i), i.note, p.marks(i.marks)
	c.Text = strings.TrimSpace(p.way(i.states, false) + " " + i.text)
	return c
}

// count counts a connection by its cause and service.
func (s *HTMLSink) count(main *Judged, at time.Duration, sum *pageConnection, unknown bool) {
	s.total++
	s.classes[sum.Class]++
	if s.first == 0 || at < s.first {
		s.first = at
	}
	s.last = max(s.last, at)
	to := sides(main).service
	service := ":" + itoa(int(to.addr.Port()))
	find := "port" + service
	switch {
	case to.who != nil && to.who.Comm != "":
		service += " (" + event.Quote(to.who.Comm) + ")"
	case !to.here:
		service = addr(to.addr)
		find = service
	}
	key := pageKind{whatOf(main.Verdict.Cause, unanswered(&main.Verdict)), service, find}
	if s.kinds[key] == nil && len(s.kinds) >= maxKinds {
		key.service, key.find = others, ""
	}
	n := s.kinds[key]
	if n == nil {
		rank := map[string]int{"bad": 0, "warn": 1, "good": 2}[sum.Look]
		n = &pageCount{pageKind: key, first: at, last: at, look: sum.Look, rank: rank}
		s.kinds[key] = n
	}
	n.n++
	n.lost += sum.LostBytes
	n.unknown = n.unknown || unknown && main.Verdict.Class != verdict.Open
	n.first, n.last = min(n.first, at), max(n.last, at)
}

// lostText is a count of lost bytes of which some may not be known.
func lostText(n uint64, unknown bool) string {
	switch {
	case unknown && n == 0:
		return "?"
	case unknown:
		return "≥ " + number(n)
	}
	return number(n)
}

// Close implements Sink.
func (s *HTMLSink) Close() error {
	if err := s.flush(); err != nil {
		return err
	}
	slices.SortStableFunc(s.shown, func(a, b shownConnection) int { return cmpTime(a.at, b.at) })
	if err := s.write("head", s.head()); err != nil {
		return err
	}
	for i := range s.shown {
		c := &s.shown[i].view
		c.Time = s.clock(s.shown[i].at)
		c.Open = len(s.shown) <= 3
		if err := s.write("connection", c); err != nil {
			return err
		}
	}
	tail := pageTail{Script: template.JS(pageScript)}
	if s.dropped > 0 {
		tail.Dropped = fmt.Sprintf("%d more connections are counted above and not shown, graceful ones first: a page shows %d. A filter, or the recording (-w FILE), shows them.", s.dropped, maxShown)
	}
	return s.write("tail", tail)
}

// write executes a template.
func (s *HTMLSink) write(name string, data any) error {
	var b bytes.Buffer
	if err := pageTemplate.ExecuteTemplate(&b, name, data); err != nil {
		return fmt.Errorf("write the page: %w", err)
	}
	_, err := s.out.Write(b.Bytes())
	return err
}

// clock is a time of day, with the date where the page is of more than one day.
func (s *HTMLSink) clock(at time.Duration) string {
	layout := timeOfDay
	if s.o.wall(s.first).Format(time.DateOnly) != s.o.wall(s.last).Format(time.DateOnly) {
		layout = "01-02 " + timeOfDay
	}
	return s.o.wall(at).Format(layout)
}

func (s *HTMLSink) head() pageHead {
	h := pageHead{Policy: pagePolicy(), Style: template.CSS(pageStyle), Shown: len(s.shown), Title: "tcpbye: no connection ended"}
	if s.o.Kernel != "" {
		h.Where = "Linux " + event.Quote(s.o.Kernel)
	}
	if s.total == 0 {
		return h
	}
	connections := "connections"
	if s.total == 1 {
		connections = "connection"
	}
	h.Title = fmt.Sprintf("tcpbye: how %d TCP %s ended", s.total, connections)
	from, to := s.o.wall(s.first), s.o.wall(s.last)
	h.When = from.Format("2 January 2006, " + timeOfDay)
	switch {
	case from.Format(time.DateOnly) != to.Format(time.DateOnly):
		h.When += " to " + to.Format("2 January 2006, "+timeOfDay)
	case from.Format(timeOfDay) != to.Format(timeOfDay):
		h.When += " to " + to.Format(timeOfDay)
	}
	h.When += to.Format(" MST")
	var classes []string
	for _, c := range []verdict.Class{verdict.Aborted, verdict.TimedOut, verdict.Refused, verdict.Unknown, verdict.Open, verdict.Graceful} {
		if n := s.classes[classText(c)]; n > 0 {
			classes = append(classes, fmt.Sprintf("%d %s", n, classText(c)))
		}
	}
	h.When += " · " + strings.Join(classes, ", ")
	rows := make([]*pageCount, 0, len(s.kinds))
	for _, n := range s.kinds {
		rows = append(rows, n)
	}
	slices.SortFunc(rows, func(a, b *pageCount) int {
		return cmp.Or(a.rank-b.rank, b.n-a.n, cmp.Compare(a.cause, b.cause), cmp.Compare(a.service, b.service))
	})
	if len(rows) > maxPageKinds {
		n := 0
		for _, r := range rows[maxPageKinds:] {
			n += r.n
		}
		h.More = fmt.Sprintf("%s more of %s", number(uint64(n)), kinds(len(rows)-maxPageKinds))
		rows = rows[:maxPageKinds]
	}
	for _, r := range rows {
		h.Kinds = append(h.Kinds, pageRow{Count: itoa(r.n), Cause: pen{}.text(r.cause), Look: r.look, Service: r.service, Find: r.find,
			Lost: lostText(r.lost, r.unknown), First: s.clock(r.first), Last: s.clock(r.last)})
	}
	return h
}
