package screen

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"

	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/report"
	"github.com/tcpbye/tcpbye/tracer/snapshot"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

const (
	// gutter is the sign of the selected row.
	gutter = 2
	// least is how many lines a pane has at least: its title, the columns' titles and
	// two rows.
	least = 4
)

// View implements tea.Model.
func (m *Model) View() tea.View {
	v := tea.NewView(m.Screen())
	v.AltScreen = true
	v.WindowTitle = "tcpbye top"
	return v
}

// Screen is what is on the screen: as many lines as it is high, none wider than it is.
func (m *Model) Screen() string {
	var lines []string
	if m.detail != nil {
		lines = m.detailView()
	} else {
		lines = m.head()
		lines = append(lines, m.panes(m.height-len(lines)-1)...)
	}
	for len(lines) < m.height-1 {
		lines = append(lines, "")
	}
	lines = append(lines[:max(0, m.height-1)], m.foot())
	for i, l := range lines {
		lines[i] = ansi.Truncate(l, m.width, m.sign("…", ""))
	}
	return strings.Join(lines, "\n")
}

const (
	bold    = "1"
	dim     = "2"
	reverse = "7"
	warn    = "33"
	bad     = "1;31"
)

// ink colours text where that is allowed.
func (m *Model) ink(text, sgr string) string {
	if !m.o.Report.Color || text == "" {
		return text
	}
	return "\x1b[" + sgr + "m" + text + "\x1b[0m"
}

// sign is one of this package's own signs, or what stands for it in ASCII.
func (m *Model) sign(s, ascii string) string {
	if m.o.Report.ASCII {
		return ascii
	}
	return s
}

// edges puts text to both edges of a line; what is at the right goes first where
// there is no room.
func (m *Model) edges(left, right string) string {
	room := m.width - ansi.StringWidth(left) - ansi.StringWidth(right)
	if room < 2 {
		return left
	}
	return left + strings.Repeat(" ", room) + right
}

// clock is a time of day.
func (m *Model) clock(at time.Time) string {
	zone := m.o.Report.Location
	if zone == nil {
		zone = time.Local
	}
	return at.In(zone).Format("15:04:05")
}

// head says what is looked at, and counts.
func (m *Model) head() []string {
	state := ""
	switch {
	case m.paused:
		state = m.ink(fmt.Sprintf("PAUSED, %d more", m.waiting), warn)
	case m.over:
		state = m.ink("all of it was read", dim)
		if m.o.Live {
			state = m.ink("the trace is over", warn)
		}
	}
	if !m.now.IsZero() {
		state += "  " + m.ink(m.clock(m.now), dim)
	}
	lines := []string{m.edges(m.ink("tcpbye top", bold)+"  "+m.o.Title, strings.TrimSpace(state)), m.openLine(), m.endedLine()}
	if m.filter != "" || m.ill {
		text := event.Quote(m.filter)
		if m.ill {
			text = strings.TrimSpace("no graceful endings  " + text)
		}
		lines = append(lines, m.ink("filter  ", dim)+m.ink(text, warn))
	}
	return lines
}

// openLine counts what is open by state.
func (m *Model) openLine() string {
	states := map[event.State]int{}
	all, stay := m.opened(), 0
	for _, o := range all {
		states[o.state]++
		stay += btoi(o.marked)
	}
	label := m.ink("open    ", dim)
	if !m.o.Live && !m.over {
		return label + "as it is when the recording ends"
	}
	var parts []string
	for _, s := range slices.SortedFunc(mapKeys(states), func(a, b event.State) int {
		return cmp.Or(states[b]-states[a], int(a)-int(b))
	}) {
		parts = append(parts, fmt.Sprintf("%d %s", states[s], s))
	}
	text := strconv.Itoa(len(all))
	if len(parts) > 0 {
		text += ": " + strings.Join(parts, ", ")
	}
	if stay > 0 {
		text += "; " + m.ink(fmt.Sprintf("%d will not end by %s", stay, map[bool]string{true: "itself", false: "themselves"}[stay == 1]), warn)
	}
	if m.skipped > 0 {
		text += m.ink("; without those in other network namespaces", dim)
	}
	return label + text
}

func mapKeys[K comparable, V any](of map[K]V) func(func(K) bool) {
	return func(yield func(K) bool) {
		for k := range of {
			if !yield(k) {
				return
			}
		}
	}
}

// endedLine counts what has ended by class.
func (m *Model) endedLine() string {
	var parts []string
	for _, c := range []verdict.Class{verdict.Graceful, verdict.Aborted, verdict.TimedOut, verdict.Refused, verdict.Unknown} {
		if n := m.classes[c]; n > 0 {
			sgr := warn
			switch c {
			case verdict.Graceful:
				sgr = "32"
			case verdict.Aborted:
				sgr = bad
			}
			parts = append(parts, m.ink(fmt.Sprintf("%d %s", n, strings.ReplaceAll(string(c), "-", " ")), sgr))
		}
	}
	text := strconv.Itoa(m.ended)
	if len(parts) > 0 {
		text += ": " + strings.Join(parts, ", ")
	}
	if m.lost > 0 {
		text += fmt.Sprintf("; %s lost", bytesText(m.lost))
	}
	if m.missed > 0 {
		text += "; " + m.ink(fmt.Sprintf("%d events missed", m.missed), bad)
	}
	return m.ink("ended   ", dim) + text
}

func bytesText(n uint64) string {
	if n == 1 {
		return "1 byte"
	}
	return strconv.FormatUint(n, 10) + " bytes"
}

// panes share the lines that there are: a quarter for each and half for the one with
// the focus and for the endings, as far as they need it, and then what is left.
func (m *Model) panes(room int) []string {
	if room < least*int(panes) {
		return m.pane(m.focus, room)
	}
	var need, high [panes]int
	spare := room
	for p := range panes {
		need[p] = max(m.count(p), 1) + 2
		most := room / 4
		if p == m.focus || p == paneEndings {
			most = room / 2
		}
		high[p] = min(need[p], max(most, least))
		spare -= high[p]
	}
	for _, p := range []pane{m.focus, paneEndings, paneCauses, paneOpen} {
		more := max(0, min(spare, need[p]-high[p]))
		high[p], spare = high[p]+more, spare-more
	}
	for spare < 0 { // half and half and more
		p := slices.Index(high[:], slices.Max(high[:]))
		high[p], spare = high[p]-1, spare+1
	}
	high[paneEndings] += spare
	var lines []string
	for p := range panes {
		lines = append(lines, m.pane(p, high[p])...)
	}
	return lines
}

// count is how many rows a pane has.
func (m *Model) count(p pane) int {
	switch p {
	case paneOpen:
		return len(m.shownOpen())
	case paneCauses:
		return len(m.shownCauses())
	}
	return len(m.shownEndings())
}

// pane is a pane of so many lines.
func (m *Model) pane(p pane, high int) []string {
	title := fmt.Sprintf("%d %s", int(p)+1, m.title(p))
	sorted := "by " + m.order(p)
	if m.reverse[p] {
		sorted += ", turned round"
	}
	mark := strings.Repeat(m.sign("─", "-"), 2)
	sgr := dim
	if p == m.focus {
		mark, sgr = strings.Repeat(m.sign("━", "="), 2), bold
	}
	line := mark + " " + title + " " + mark + " " + sorted + " "
	if room := m.width - ansi.StringWidth(line); room > 0 {
		line += strings.Repeat(string([]rune(mark)[0]), room)
	}
	lines := []string{m.ink(line, sgr)}
	if total := m.count(p); total == 0 {
		lines = append(lines, strings.Repeat(" ", gutter)+m.ink(m.nothing(p), dim))
	} else {
		chosen := at(m.keys(p), m.selected[p])
		n := max(high-2, 0)
		from := min(max(chosen-n/2, 0), max(total-n, 0))
		for i, row := range m.rows(p, from, min(from+n, total)) {
			lines = append(lines, m.row(row, i > 0 && p == m.focus && from+i-1 == chosen))
		}
	}
	for len(lines) < high {
		lines = append(lines, "")
	}
	return lines[:max(0, high)]
}

// row is a row with the sign of the selected one.
func (m *Model) row(text string, chosen bool) string {
	if !chosen {
		return strings.Repeat(" ", gutter) + text
	}
	line := m.sign("▸ ", "> ") + ansi.Strip(text)
	if m.o.Report.Color {
		line += strings.Repeat(" ", max(0, m.width-ansi.StringWidth(line)))
	}
	return m.ink(line, reverse)
}

// title names a pane and counts what is in it.
func (m *Model) title(p pane) string {
	switch p {
	case paneOpen:
		return "OPEN"
	case paneCauses:
		if m.match != nil {
			return fmt.Sprintf("CAUSES of the last %d endings", len(m.endings))
		}
		return "CAUSES"
	}
	if n, shown := len(m.endings), len(m.shownEndings()); m.ended > n || shown < n {
		return fmt.Sprintf("ENDINGS %d of %d", shown, m.ended)
	}
	return "ENDINGS"
}

// nothing says why a pane is empty.
func (m *Model) nothing(p pane) string {
	switch {
	case m.match != nil:
		return "nothing that the filter lets through"
	case p == paneOpen && !m.o.Live && !m.over:
		return "not known before the recording ends"
	case p == paneOpen:
		return "nothing is open"
	}
	return "nothing has ended yet"
}

// rows are some rows of a pane as lines, the columns' titles first.
func (m *Model) rows(p pane, from, to int) []string {
	o := m.o.Report
	o.Width = max(1, m.width-gutter)
	var b bytes.Buffer
	var err error
	switch p {
	case paneOpen:
		err = m.openGrid(&b, o, m.shownOpen()[from:to])
	case paneCauses:
		err = m.causeGrid(&b, o, m.shownCauses()[from:to])
	case paneEndings:
		for i, e := range m.shownEndings()[from:to] {
			o.Clock = e.Clock
			table := report.NewTable(&b, o)
			if i > 0 {
				table.NoHeader()
			}
			err = errors.Join(err, table.End(*e.Main()))
		}
	}
	if err != nil {
		return []string{err.Error()}
	}
	return strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
}

func (m *Model) openGrid(b *bytes.Buffer, o report.Options, groups []*group) error {
	columns := []report.GridColumn{{Title: "COUNT", Right: true}, {Title: "STATE"}, {Title: "OWNER", Least: 8}, {Title: "SERVICE", Least: 8},
		{Title: "OLDEST", Drop: 2}, {Title: "UNREAD", Right: true, Drop: 3}, {Title: "UNSENT", Right: true, Drop: 3}, {Title: "NOTE", Least: 12, Drop: 1}}
	var cells [][]report.GridCell
	for _, g := range groups {
		look := report.LookPlain
		if g.marked() {
			look = report.LookWarn
		}
		old := "-"
		if g.oldest.socket != nil {
			old = g.oldest.socket.AgeText()
		} else if g.age > 0 {
			old = ">" + g.age.Round(time.Second).String()
		}
		cells = append(cells, []report.GridCell{{Text: strconv.Itoa(len(g.all))}, {Text: g.state.String(), Look: look}, {Text: g.owner}, {Text: g.service},
			{Text: old}, {Text: snapshot.Short(g.unread)}, {Text: snapshot.Short(g.unacked)}, {Text: g.oldest.note, Look: look}})
	}
	return report.WriteGrid(b, o, columns, cells)
}

func (m *Model) causeGrid(b *bytes.Buffer, o report.Options, rows []*causeRow) error {
	columns := []report.GridColumn{{Title: "COUNT", Right: true}, {Title: "SHARE", Right: true, Drop: 3}, {Title: "CAUSE"},
		{Title: "PROCESS", Own: true, Least: 7}, {Title: "BYTES LOST", Right: true}, {Title: "RETRY", Drop: 2}, {Title: "LAST", Drop: 1}}
	sum := 0
	for _, r := range m.shownCauses() {
		sum += r.n
	}
	var cells [][]report.GridCell
	for _, r := range rows {
		lost := strconv.FormatUint(r.lost, 10)
		switch {
		case r.unknown > 0 && r.lost == 0:
			lost = "?"
		case r.unknown > 0:
			lost = "≥ " + lost
		}
		look := report.LookWarn
		switch {
		case r.class == verdict.Graceful && !r.ill:
			look = report.LookGood
		case r.class == verdict.Aborted:
			look = report.LookBad
		}
		cells = append(cells, []report.GridCell{{Text: strconv.Itoa(r.n)}, {Text: fmt.Sprintf("%.0f%%", 100*float64(r.n)/float64(sum))},
			{Text: r.what, Look: look}, {Text: r.process}, {Text: lost}, {Text: r.again()}, {Text: m.clock(r.last)}})
	}
	return report.WriteGrid(b, o, columns, cells)
}

// again says of how many endings what was asked can be asked again.
func (r *causeRow) again() string {
	if !r.ill || r.class == verdict.Graceful {
		return "-"
	}
	var parts []string
	for _, x := range []struct {
		n    int
		text string
	}{{r.retry[verdict.RetryUnsafe], "unsafe"}, {r.retry[verdict.RetrySafe], "safe"}, {r.retry[verdict.RetryUnknown], "not known"}} {
		switch {
		case x.n == r.n:
			return x.text
		case x.n > 0:
			parts = append(parts, fmt.Sprintf("%d %s", x.n, x.text))
		}
	}
	return strings.Join(parts, ", ")
}

// detailView is a text that fills the screen.
func (m *Model) detailView() []string {
	lines := m.detailLines()
	page := max(1, m.height-2)
	from := min(m.detail.top, max(0, len(lines)-page))
	where := ""
	if len(lines) > page {
		where = m.ink(fmt.Sprintf("%d-%d of %d", from+1, min(from+page, len(lines)), len(lines)), dim)
	}
	return append([]string{m.edges(m.ink(m.detail.title, bold), where)}, lines[from:min(from+page, len(lines))]...)
}

func (m *Model) detailLines() []string {
	o := m.o.Report
	o.Width = m.width
	// Explanations are made for 80 columns.
	return strings.Split(ansi.Wrap(strings.TrimRight(m.detail.write(o), "\n"), m.width, ""), "\n")
}

// foot is the last line: what is typed, what was said, or the keys.
func (m *Model) foot() string {
	switch {
	case m.typing:
		line := "filter: " + event.Quote(m.typed) + m.sign("█", "_")
		if m.wrong != "" {
			line += "  " + m.ink(m.wrong, bad)
		} else {
			line += m.ink("  "+keys, dim)
		}
		return line
	case m.note != "":
		return m.ink(event.Quote(m.note), warn)
	}
	hints := []string{"q quit", "? help", "/ filter", "Enter open", "Tab pane", "s sort", "p pause", "a graceful", "e explain", "r turn round", "Esc all"}
	if m.detail != nil {
		hints = []string{"Esc back", "up, down", "PgUp, PgDn", "n next", "p before", "e explain"}
	}
	line := ""
	for _, h := range hints {
		if next := line + h + "  "; len(next) <= m.width+2 {
			line = next
		}
	}
	return m.ink(strings.TrimRight(line, " "), dim)
}
