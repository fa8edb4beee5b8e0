package screen

import (
	"bytes"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"
	"github.com/google/go-cmp/cmp"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/record"
	"github.com/tcpbye/tcpbye/tracer/report"
	"github.com/tcpbye/tcpbye/tracer/session"
	"github.com/tcpbye/tcpbye/tracer/snapshot"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

var update = flag.Bool("update", false, "write the golden files")

// recorded is what a recording gives the screen.
func recorded(t *testing.T, name string) Batch {
	t.Helper()
	raw, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	f := NewFeed()
	defer f.Shut()
	_, err = session.Replay(bytes.NewReader(raw), func(m record.Meta) (session.Config, error) {
		f.Clock(report.Clock{Offset: m.Offset})
		return session.Config{Show: func(c *conn.Connection, v verdict.Verdict) error {
			return f.End(report.Judged{Conn: c, Verdict: v})
		}}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	f.Over()
	return f.Take()
}

func busy(t *testing.T) Batch {
	return recorded(t, filepath.Join("..", "..", "cmd", "tcpbye", "testdata", "busy.tcpbye"))
}

// hostile is a name that would write to the terminal.
const hostile = "\x1b[31mredis\n\xff"

// found is what a snapshot found: leaks of a process with a hostile name.
func found() *snapshot.Snapshot {
	s := &snapshot.Snapshot{}
	at := netip.MustParseAddrPort
	for i := range 3 {
		s.Sockets = append(s.Sockets, snapshot.Socket{State: event.CloseWait, Family: event.IPv4, NetNS: 1, Inode: uint64(i + 1),
			Local: at("10.0.0.5:6379"), Remote: at(fmt.Sprintf("10.0.0.9:%d", 50000+i)), Unread: 1500,
			Info:    &snapshot.Info{LastAckReceived: time.Hour},
			Holders: []snapshot.Holder{{Process: conn.Process{PID: 77, Comm: hostile}, FD: 9 + i}}})
	}
	s.Sockets = append(s.Sockets, snapshot.Socket{State: event.Established, Family: event.IPv4, NetNS: 1, Inode: 9,
		Local: at("10.0.0.5:40000"), Remote: at("10.0.0.7:5432"),
		Holders: []snapshot.Holder{{Process: conn.Process{PID: 78, Comm: "app"}, FD: 3}}})
	s.Listening = []snapshot.Socket{{State: event.Listen, NetNS: 1, Local: at("0.0.0.0:6379")}}
	return s
}

func model(live bool) *Model {
	return New(Options{Live: live, Title: "here", Report: report.Options{Location: time.UTC}})
}

// press presses keys: names in angle brackets, and letters.
func press(m *Model, keys string) {
	for _, k := range regexp.MustCompile(`<[^>]+>|.`).FindAllString(keys, -1) {
		msg := tea.KeyPressMsg{Text: k, Code: []rune(k)[0]}
		if code, ok := map[string]rune{"<enter>": tea.KeyEnter, "<esc>": tea.KeyEscape, "<tab>": tea.KeyTab, "<up>": tea.KeyUp, "<down>": tea.KeyDown,
			"<pgup>": tea.KeyPgUp, "<pgdn>": tea.KeyPgDown, "<end>": tea.KeyEnd, "<home>": tea.KeyHome, "<bs>": tea.KeyBackspace}[k]; ok {
			msg = tea.KeyPressMsg{Code: code}
		}
		m.Update(msg)
	}
}

func size(m *Model, width, height int) { m.Update(tea.WindowSizeMsg{Width: width, Height: height}) }

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	var lines []string
	for l := range strings.SplitSeq(got, "\n") {
		lines = append(lines, strings.TrimRight(l, " "))
	}
	got = strings.Join(lines, "\n") + "\n"
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (go test -update writes it)", err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("%s differs (-want +got):\n%s", path, d)
	}
}

func TestScreens(t *testing.T) {
	for _, s := range []struct {
		name, keys    string
		width, height int
		live          bool
	}{
		{"60", "", 60, 24, false},
		{"80", "", 80, 24, false},
		{"140", "", 140, 40, false},
		{"low", "2", 80, 12, false},
		{"live-60", "1", 60, 20, true},
		{"live-140", "1", 140, 30, true},
		{"ill", "as", 100, 30, false},
		{"filter", "/process:alice<enter>", 100, 24, false},
		{"wrong", "/prcess:alice<enter>", 100, 24, false},
		{"ending", "<down><down><enter>", 80, 40, false},
		{"cause", "2<enter>", 100, 24, false},
		{"open", "1<enter>", 80, 40, true},
		{"explain", "2e", 60, 30, false},
		{"help", "?", 80, 30, false},
	} {
		t.Run(s.name, func(t *testing.T) {
			m := model(s.live)
			size(m, s.width, s.height)
			b := busy(t)
			if s.live {
				b.Open, b.Over = found(), false
			}
			m.Update(b)
			press(m, s.keys)
			golden(t, s.name+".txt", m.Screen())
		})
	}
}

// TestScreenFits: whatever the size and whatever was pressed, the screen is as high as
// the terminal and no line is wider; nothing of what a process owns reaches it raw.
func TestScreenFits(t *testing.T) {
	b := busy(t)
	b.Open = found()
	b.Endings[0].First.Conn.Owner = &conn.Process{PID: 5, Comm: hostile}
	b.Notes = []string{"a note " + hostile}
	keys := []string{"", "<tab>", "1<down><enter>", "<pgdn>", "<esc>2<enter>", "<esc>3<down><enter>", "n", "p", "e", "<esc>sr", "as", "/port:38509<enter>",
		"/" + "x:y<enter>", "<esc>p", "?", "<end>", "<home>", "<esc>"}
	for _, live := range []bool{false, true} {
		for _, color := range []bool{false, true} {
			for _, ascii := range []bool{false, true} {
				for _, width := range []int{1, 20, 59, 80, 133, 250} {
					for _, height := range []int{1, 3, 10, 24, 60} {
						m := New(Options{Live: live, Title: "here", Report: report.Options{Location: time.UTC, Color: color, ASCII: ascii}})
						size(m, width, height)
						m.Update(b)
						for _, k := range keys {
							press(m, k)
							check(t, fmt.Sprintf("%dx%d, after %q", width, height, k), m, color, ascii)
						}
					}
				}
			}
		}
	}
}

func check(t *testing.T, where string, m *Model, color, ascii bool) {
	t.Helper()
	screen := m.Screen()
	lines := strings.Split(screen, "\n")
	if len(lines) != m.height {
		t.Errorf("%s: %d lines of %d", where, len(lines), m.height)
	}
	for _, l := range lines {
		if w := ansi.StringWidth(l); w > m.width {
			t.Errorf("%s: a line of %d columns: %q", where, w, l)
		}
		if bare := ansi.Strip(l); strings.ContainsFunc(bare, func(r rune) bool { return r < ' ' || r == 0x7f || r == '�' || ascii && r > 0x7e }) {
			t.Errorf("%s: %q", where, l)
		}
	}
	if coloured := strings.Contains(screen, "\x1b"); coloured && !color {
		t.Errorf("%s: it is coloured", where)
	}
	if strings.Contains(screen, "\x1b[31mredis") {
		t.Errorf("%s: a name is not quoted", where)
	}
}

// TestCounts: the counts are of all endings, and each connection counts once, with
// what both of its ends say.
func TestCounts(t *testing.T) {
	m := model(false)
	b := busy(t)
	m.Update(b)
	last := map[uint64]Ending{}
	for _, e := range b.Endings {
		last[e.ID] = e
	}
	classes, lost, ended := map[verdict.Class]int{}, uint64(0), 0
	for _, e := range last {
		if e.open() {
			continue
		}
		n, _ := e.Lost()
		ended, lost = ended+1, lost+n
		classes[e.Main().Verdict.Class]++
	}
	if ended == 0 || len(last) == len(b.Endings) {
		t.Fatalf("%d endings, %d of them told twice: the recording tests nothing", ended, len(b.Endings)-len(last))
	}
	for c, n := range m.classes {
		if n == 0 {
			delete(m.classes, c)
		}
	}
	if m.ended != ended || m.lost != lost || !cmp.Equal(m.classes, classes) {
		t.Errorf("%d ended, %d lost, %v, want %d, %d, %v", m.ended, m.lost, m.classes, ended, lost, classes)
	}
	sum := 0
	for _, r := range m.causes {
		sum += r.n
		for _, n := range r.retry {
			if n < 0 || n > r.n {
				t.Errorf("%s: retry %v of %d", r.what, r.retry, r.n)
			}
		}
	}
	if sum != ended {
		t.Errorf("%d endings have a cause, of %d", sum, ended)
	}
}

// TestManyEndings: what is kept is bounded, what is counted is not.
func TestManyEndings(t *testing.T) {
	m := model(true)
	e := busy(t).Endings[0]
	for i := range 3 * maxEndings {
		e.ID = uint64(i + 1)
		m.Update(Batch{Endings: []Ending{e}})
	}
	if len(m.endings) != maxEndings || len(m.byID) != maxEndings || m.ended != 3*maxEndings {
		t.Errorf("%d endings kept, %d found by ID, %d counted", len(m.endings), len(m.byID), m.ended)
	}
}

// TestPause: what comes meanwhile is shown afterwards, and does not grow for ever.
func TestPause(t *testing.T) {
	m := model(true)
	size(m, 100, 30)
	b := busy(t)
	press(m, "p")
	before := m.Screen()
	m.Update(b)
	if m.ended != 0 || !strings.Contains(m.Screen(), fmt.Sprintf("PAUSED, %d more", len(b.Endings))) {
		t.Errorf("it does not pause:\n%s\n%s", before, m.Screen())
	}
	press(m, "p")
	if m.ended == 0 {
		t.Error("what came while it paused is not shown")
	}
	press(m, "p")
	for i := 0; i <= maxEndings; i += len(b.Endings) {
		m.Update(b)
	}
	if m.paused || m.backlog != nil || !strings.Contains(m.Screen(), "it went on") {
		t.Error("a pause without an end")
	}
}

func TestSelectionStays(t *testing.T) {
	m := model(false)
	size(m, 120, 40)
	b := busy(t)
	m.Update(b)
	press(m, "<down><down>")
	chosen := m.selected[paneEndings]
	e := b.Endings[0]
	e.ID = 1 << 20
	m.Update(Batch{Endings: []Ending{e}})
	if m.selected[paneEndings] != chosen || !strings.Contains(m.Screen(), "▸") {
		t.Error("the selection moves when something ends")
	}
}

func TestMatch(t *testing.T) {
	c := &conn.Connection{Local: netip.MustParseAddrPort("10.0.0.5:443"), Remote: netip.MustParseAddrPort("[2001:db8::9]:51544"), Before: event.CloseWait,
		Owner: &conn.Process{PID: 812, Comm: "nginx-worker", Container: "docker/3f2a00112233"}}
	p := report.Pair{First: &report.Judged{Conn: c, Verdict: verdict.Verdict{Class: verdict.Aborted, Cause: verdict.CloseUnread, Retry: verdict.RetryUnsafe}}}
	for text, want := range map[string]bool{
		"": true, "  ": true, "process:nginx": true, "process:812": true, "process:813": false, "process:nginx*": true, "process:redis": false,
		"PORT:443": true, "port:400-500": true, "port:80": false, "cause:close-unread": true, "cause:linger-zero": false, "class:aborted": true,
		"addr:10.0.0.0/8": true, "addr:2001:db8::/32": true, "addr:10.1.0.0/16": false, "remote:2001:db8::9": true, "remote:10.0.0.5": false,
		"state:close-wait": true, "state:ESTABLISHED": false, "retry:unsafe": true, "retry:safe": false, "container:3f2a": true,
		"cause:unanswered": false, "shown": true, "SHOWN": true, "hidden": false, "process:nginx port:80": false, "process:nginx port:443 shown": true,
	} {
		m, err := parseMatch(text)
		if err != nil {
			t.Errorf("%q: %v", text, err)
		} else if got := m.has(p, func() string { return "what is shown" }); got != want {
			t.Errorf("%q matches: %v", text, got)
		}
	}
	for text, want := range map[string]string{
		"cause:bad-luck": "there is no such cause", "port:x": "want a port", "proces:x": "there is no condition proces:", "state:odd": "there is no state odd",
		"retry:maybe": "want safe, unsafe", "port:": "port: what?", "addr:nowhere": "want an address",
	} {
		if _, err := parseMatch(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want %q", text, err, want)
		}
	}
}

// TestFeedCopies: what the session does later to its connections does not change what
// the screen has.
func TestFeedCopies(t *testing.T) {
	f := NewFeed()
	c := &conn.Connection{ID: "1", Owner: &conn.Process{Comm: "a"}, Events: make([]event.Event, 1, 4)}
	p := &conn.Connection{ID: "2", Owner: &conn.Process{Comm: "b"}, Peer: c}
	c.Peer = p
	v := verdict.Verdict{Class: verdict.Aborted, Evidence: []verdict.Evidence{{Conn: p}}}
	if err := f.End(report.Judged{Conn: c, Verdict: v}); err != nil {
		t.Fatal(err)
	}
	first := f.Take().Endings[0]
	c.Owner.Comm, p.Owner.Comm = "x", "y"
	p.Events = append(p.Events, event.Event{})
	got := first.First.Conn
	if got == c || got.Peer == p || got.Peer.Peer != got || got.Owner.Comm != "a" || got.Peer.Owner.Comm != "b" || len(got.Peer.Events) != 0 {
		t.Error("the screen shares memory with the session")
	}
	if first.First.Verdict.Evidence[0].Conn != got.Peer {
		t.Error("the evidence points elsewhere")
	}
	if err := f.End(report.Judged{Conn: p}); err != nil {
		t.Fatal(err)
	}
	second := f.Take().Endings[0]
	if second.ID != first.ID || second.Second == nil || second.First.Conn.Peer != second.Second.Conn {
		t.Error("the two ends are not one connection")
	}
	if err := f.End(report.Judged{}); err == nil {
		t.Error("no error without a connection")
	}
}

// TestFeedWaits: a recording is not read faster than it is taken, and nobody waits for
// a screen that is gone.
func TestFeedWaits(t *testing.T) {
	f := NewFeed()
	all := make(chan int)
	go func() {
		n := 0
		for ; n < 2*maxPending; n++ {
			if f.End(report.Judged{Conn: &conn.Connection{}}) != nil {
				break
			}
		}
		all <- n
	}()
	got := 0
	for got < 2*maxPending {
		n := len(f.Take().Endings)
		if n > maxPending {
			t.Fatalf("%d endings waited", n)
		}
		got += n
	}
	<-all
	go func() {
		for range 2 * maxPending {
			_ = f.End(report.Judged{Conn: &conn.Connection{}})
		}
		all <- 0
	}()
	f.Shut()
	<-all
}
