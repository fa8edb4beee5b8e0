package screen

import (
	"fmt"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/tcpbye/tcpbye/tracer/report"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

const (
	// maxEndings is how many endings are kept to be looked at; the counts are of all.
	maxEndings = 2000
	// maxOpen is how many ends that a recording leaves open are kept.
	maxOpen = 1 << 14
	// every is how often news are asked for.
	every = 250 * time.Millisecond
)

// Options are what the caller knows.
type Options struct {
	// Report is how to write; the width is the screen's own.
	Report report.Options
	// Title says what is looked at.
	Title string
	// Live says that this machine is, and not a recording.
	Live bool
	// Source gives what is new; nil: messages of type Batch are the only news.
	Source func() Batch
}

// pane is a part of the screen.
type pane int

const (
	paneOpen pane = iota
	paneCauses
	paneEndings
	panes
)

// Model is the screen: a tea.Model.
type Model struct {
	o             Options
	width, height int

	endings []*Ending // as they came
	byID    map[uint64]*Ending
	left    []*Ending // open when the recording ended
	sockets []*open   // of the last snapshot
	skipped int       // network namespaces that it could not look at
	causes  map[causeKey]*causeRow
	classes map[verdict.Class]int
	ended   int
	lost    uint64 // bytes
	now     time.Time
	missed  uint64 // events
	over    bool

	focus    pane
	selected [panes]string // the key of the row; "": the first
	sort     [panes]int
	reverse  [panes]bool
	ill      bool // graceful endings are hidden

	filter  string
	match   *match
	typing  bool
	typed   string
	note    string // the last thing that was said
	wrong   string // with what is typed
	paused  bool
	backlog []Batch
	waiting int // endings in it

	detail *detail
	memo   memo
}

// detail fills the screen with text.
type detail struct {
	title string
	write func(report.Options) string
	top   int
}

// New is a screen that shows nothing yet.
func New(o Options) *Model {
	return &Model{o: o, width: 80, height: 24, focus: paneEndings,
		byID: map[uint64]*Ending{}, causes: map[causeKey]*causeRow{}, classes: map[verdict.Class]int{}}
}

// Init implements tea.Model.
func (m *Model) Init() tea.Cmd {
	if m.o.Source == nil {
		return nil
	}
	return func() tea.Msg { return m.o.Source() }
}

// again asks for news after a while.
func (m *Model) again() tea.Cmd {
	if m.o.Source == nil || m.over {
		return nil
	}
	source := m.o.Source
	return tea.Tick(every, func(time.Time) tea.Msg { return source() })
}

// Update implements tea.Model.
func (m *Model) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	m.memo = memo{}
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height = max(msg.Width, 1), max(msg.Height, 1)
	case Batch:
		m.news(msg)
		return m, m.again()
	case tea.PasteMsg:
		if m.typing {
			m.typed += strings.Join(strings.Fields(msg.Content), " ")
		}
	case tea.KeyPressMsg:
		return m, m.key(msg)
	}
	return m, nil
}

// news takes a batch, or puts it aside.
func (m *Model) news(b Batch) {
	m.over = m.over || b.Over
	for _, n := range b.Notes {
		m.note = n
	}
	if !m.paused {
		m.take(b)
		return
	}
	m.backlog = append(m.backlog, b)
	if m.waiting += len(b.Endings); m.waiting > maxEndings {
		m.pause()
		m.note = "it went on: so many connections have ended that what you looked at would be lost"
	}
}

// pause stops what is shown, or lets it go on.
func (m *Model) pause() {
	if m.paused = !m.paused; m.paused {
		return
	}
	for _, b := range m.backlog {
		m.take(b)
	}
	m.backlog, m.waiting = nil, 0
}

func (m *Model) take(b Batch) {
	m.memo = memo{}
	m.later(b.Now)
	m.missed = max(m.missed, b.Lost)
	for i := range b.Endings {
		m.end(&b.Endings[i])
	}
	if b.Open != nil {
		m.sockets, m.skipped = openOf(b.Open), len(b.Open.Skipped)
	}
}

// later says that it is at least that time.
func (m *Model) later(now time.Time) {
	if now.After(m.now) {
		m.now = now
	}
}

// end takes an ending, or one of which the other end is told now, too.
func (m *Model) end(e *Ending) {
	m.later(e.when(e.Main().Conn.Last))
	if e.open() {
		if m.left = append(m.left, e); len(m.left) > maxOpen {
			m.left = m.left[1:]
		}
		return
	}
	if known := m.byID[e.ID]; known != nil {
		m.add(known, -1)
		known.Pair = e.Pair
		m.add(known, 1)
		return
	}
	if e.Second != nil && len(m.endings) > 0 && e.ID < m.endings[0].ID {
		return // the first end was counted, and is not shown any more
	}
	m.add(e, 1)
	m.endings = append(m.endings, e)
	m.byID[e.ID] = e
	if len(m.endings) > maxEndings {
		delete(m.byID, m.endings[0].ID)
		m.endings = m.endings[1:]
	}
}

// add adds an ending to what is counted, or takes it away.
func (m *Model) add(e *Ending, n int) {
	m.ended += n
	m.classes[e.Main().Verdict.Class] += n
	lost, _ := e.Lost()
	m.lost += lost * uint64(n) // modulo 2^64, so that it can be taken away
	tally(m.causes, e, n)
}

// key does what a key says.
func (m *Model) key(k tea.KeyPressMsg) tea.Cmd {
	name := k.String()
	switch {
	case name == "ctrl+c":
		return tea.Quit
	case name == "ctrl+z":
		return tea.Suspend
	case m.typing:
		m.typeKey(k)
		return nil
	case m.detail != nil:
		return m.detailKey(name)
	}
	m.note = ""
	switch name {
	case "q":
		return tea.Quit
	case "?", "h", "f1":
		m.detail = &detail{title: "keys", write: func(report.Options) string { return help }}
	case "tab", "right", "l":
		m.focus = (m.focus + 1) % panes
	case "shift+tab", "left":
		m.focus = (m.focus + panes - 1) % panes
	case "1", "2", "3":
		m.focus = pane(name[0] - '1')
	case "up", "k":
		m.move(-1)
	case "down", "j":
		m.move(1)
	case "pgup", "ctrl+b":
		m.move(-m.page())
	case "pgdown", "ctrl+f":
		m.move(m.page())
	case "home", "g":
		m.selected[m.focus] = ""
	case "end", "G":
		m.move(1 << 30)
	case "s":
		m.sort[m.focus] = (m.sort[m.focus] + 1) % len(sorts[m.focus])
		m.reverse[m.focus] = false
	case "r":
		m.reverse[m.focus] = !m.reverse[m.focus]
	case "a":
		m.ill = !m.ill
	case "p", "space":
		m.pause()
	case "/", "f":
		m.typing, m.typed, m.wrong = true, m.filter, ""
	case "esc":
		m.setFilter("")
	case "enter":
		m.open()
	case "e":
		m.explain()
	}
	return nil
}

// page is how far PgUp and PgDn go.
func (m *Model) page() int { return max(1, m.height/2) }

// typeKey edits the filter.
func (m *Model) typeKey(k tea.KeyPressMsg) {
	m.wrong = ""
	switch k.String() {
	case "enter":
		m.setFilter(m.typed)
	case "esc":
		m.typing = false
	case "backspace", "ctrl+h":
		if r := []rune(m.typed); len(r) > 0 {
			m.typed = string(r[:len(r)-1])
		}
	case "ctrl+u":
		m.typed = ""
	case "ctrl+w":
		m.typed = m.typed[:strings.LastIndexByte(strings.TrimRight(m.typed, " "), ' ')+1]
	default:
		m.typed += k.Text
	}
}

// setFilter filters by what was typed, or says what is wrong with it.
func (m *Model) setFilter(text string) {
	f, err := parseMatch(text)
	if err != nil {
		m.wrong = err.Error()
		return
	}
	m.typing, m.filter, m.match = false, strings.Join(strings.Fields(text), " "), f
	m.memo = memo{}
}

func (m *Model) detailKey(name string) tea.Cmd {
	page := max(1, m.height-3)
	switch name {
	case "q", "esc", "enter", "backspace", "left":
		m.detail = nil
		return nil
	case "up", "k":
		m.detail.top--
	case "down", "j":
		m.detail.top++
	case "pgup", "ctrl+b":
		m.detail.top -= page
	case "pgdown", "ctrl+f", "space":
		m.detail.top += page
	case "home", "g":
		m.detail.top = 0
	case "end", "G":
		m.detail.top = 1 << 30
	case "n", "p": // the next ending, or the one before
		if m.focus == paneEndings {
			m.move(map[string]int{"n": 1, "p": -1}[name])
			m.open()
		}
	case "e":
		m.explain()
	}
	m.detail.top = min(max(m.detail.top, 0), max(0, len(m.detailLines())-page))
	return nil
}

// move moves the selection in the pane that has the focus.
func (m *Model) move(by int) {
	keys := m.keys(m.focus)
	if len(keys) == 0 {
		return
	}
	i := min(max(at(keys, m.selected[m.focus])+by, 0), len(keys)-1)
	if m.selected[m.focus] = keys[i]; i == 0 {
		m.selected[m.focus] = "" // it stays at the top
	}
}

// at is where a selected row is; the first where it is gone.
func at(keys []string, key string) int {
	for i, k := range keys {
		if k == key {
			return i
		}
	}
	return 0
}

// open shows more of the selected row.
func (m *Model) open() {
	switch m.focus {
	case paneEndings:
		rows := m.shownEndings()
		if len(rows) == 0 {
			return
		}
		e := rows[at(m.keys(paneEndings), m.selected[paneEndings])]
		m.detail = &detail{title: e.Between(m.o.Report), write: e.text}
	case paneCauses:
		if rows := m.shownCauses(); len(rows) > 0 {
			r := rows[at(m.keys(paneCauses), m.selected[paneCauses])]
			m.setFilter(strings.TrimSpace(without(m.filter, "cause:") + " cause:" + r.what))
			m.focus = paneEndings
		}
	case paneOpen:
		if groups := m.shownOpen(); len(groups) > 0 {
			g := groups[at(m.keys(paneOpen), m.selected[paneOpen])]
			m.detail = &detail{title: fmt.Sprintf("%d in %s", len(g.all), g.state), write: g.write}
		}
	}
}

// without leaves the words with a prefix out.
func without(text, prefix string) string {
	var words []string
	for w := range strings.FieldsSeq(text) {
		if !strings.HasPrefix(w, prefix) {
			words = append(words, w)
		}
	}
	return strings.Join(words, " ")
}

// explain tells of the cause of the selected row what tcpbye explain does.
func (m *Model) explain() {
	what := ""
	switch m.focus {
	case paneEndings:
		if rows := m.shownEndings(); len(rows) > 0 {
			what = rows[at(m.keys(paneEndings), m.selected[paneEndings])].What()
		}
	case paneCauses:
		if rows := m.shownCauses(); len(rows) > 0 {
			what = rows[at(m.keys(paneCauses), m.selected[paneCauses])].what
		}
	case paneOpen:
		if groups := m.shownOpen(); len(groups) > 0 {
			what = string(groups[at(m.keys(paneOpen), m.selected[paneOpen])].all[0].verdict.Cause)
		}
	}
	text := ""
	for _, r := range verdict.Rules() {
		if string(r.Cause) == what {
			text = r.Explain()
		}
	}
	if s, ok := verdict.FindSymptom(what); text == "" && ok {
		text = s.Explain()
	}
	if text != "" {
		m.detail = &detail{title: what, write: func(report.Options) string { return text }}
	}
}

// text is all that is known of it.
func (e *Ending) text(o report.Options) string {
	var b strings.Builder
	o.Clock = e.Clock
	if err := e.Write(&b, o); err != nil {
		return err.Error()
	}
	return b.String()
}

const help = `
  Tab, 1 2 3      the next pane: what is open, causes, endings
  up, down        choose a row; PgUp, PgDn, Home, End, and j, k, g, G
  Enter           of an ending: who, why, the timeline and the verdict;
                  of a cause: its endings; of what is open: each connection
  e               explain the cause of the row
  s, r            sort by another column; turn the order round
  /               filter; Esc shows all again. All words must hold:
                    process:nginx  process:812  port:443  port:8000-8099
                    cause:close-unread  class:aborted  state:CLOSE_WAIT
                    addr:10.0.0.0/8  remote:10.0.0.9  retry:unsafe
                    container:3f2a, and any other word as it is shown
  a               hide graceful endings, or show them again
  p, space        pause: what comes meanwhile is shown afterwards
  q, ^C           quit

  In the text of one connection: n and p for the next and the one before,
  Esc to go back.
`
