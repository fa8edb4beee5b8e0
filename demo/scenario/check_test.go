package scenario

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

func TestCatalogue(t *testing.T) {
	name := regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)
	seen := make(map[string]bool)
	for _, s := range All() {
		if !name.MatchString(s.Name) || seen[s.Name] {
			t.Errorf("the name %q is malformed or used twice", s.Name)
		}
		seen[s.Name] = true
		if s.Title == "" || strings.HasSuffix(s.Title, ".") || !strings.HasSuffix(s.Description, ".") {
			t.Errorf("%s: title, story or groups are not as they should be", s.Name)
		}
		if s.Run == nil || len(s.Ends) == 0 {
			t.Errorf("%s: nothing happens, or nothing is due", s.Name)
		}
		if found, ok := Find(s.Name); !ok || found.Name != s.Name {
			t.Errorf("%s is not found by its name", s.Name)
		}
		for end, x := range s.Ends {
			for _, err := range sound(x) {
				t.Errorf("%s: %s: %v", s.Name, end, err)
			}
		}
	}
	if _, ok := Find("no-such-ending"); ok {
		t.Error("a scenario that does not exist was found")
	}
}

// sound holds an expectation against the rules of the package.
func sound(x Expect) (errs []error) {
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if x.Class == "" || x.Class != verdict.Unknown && x.Cause == "" {
		bad("class %q, cause %q", x.Class, x.Cause)
	}
	switch x.Ender {
	case verdict.NoEnder:
		if x.Class != verdict.Open && x.Class != verdict.Unknown {
			bad("it has ended, but nobody ended it")
		}
	case verdict.LocalProcess, verdict.PeerProcess, verdict.Admin:
		if x.Actor == "" || x.Act == "" {
			bad("a process ended it, but which and how is not said")
		}
	default:
		if x.Actor != "" || x.Act != "" {
			bad("no process ended it, but %s did %s", x.Actor, x.Act)
		}
	}
	if (x.Act == verdict.ActKilled) != (x.Signal != 0) {
		bad("act %q with signal %d", x.Act, x.Signal)
	}
	if x.Harmless && x.Class != verdict.Graceful {
		bad("harmless, but %s", x.Class)
	}
	return errs
}

// TestEveryCauseHasAScenario: a rule that nothing provokes is not known to work.
func TestEveryCauseHasAScenario(t *testing.T) {
	provoked := make(map[verdict.Cause]bool)
	for _, s := range All() {
		for _, x := range s.Ends {
			provoked[x.Cause] = true
		}
	}
	for _, r := range verdict.Rules() {
		if !provoked[r.Cause] && r.Cause != verdict.UnknownCause {
			t.Errorf("no scenario provokes %s", r.Cause)
		}
	}
}

func TestExpectOf(t *testing.T) {
	s := Scenario{Ends: map[string]Expect{"a": {FIN: 1}, "a#2": {FIN: 2}}}
	for name, want := range map[string]int{"a": 1, "a#1": 1, "a#2": 2} {
		if x, ok := s.expectOf(name); !ok || x.FIN != want {
			t.Errorf("%s: %d", name, x.FIN)
		}
	}
	if _, ok := s.expectOf("b#1"); ok {
		t.Error("something is due to an end that the story does not know")
	}
}

// judgedWire is a run over wire() with verdicts that are right.
func judgedWire() (Scenario, Outcome, []JudgedEnd) {
	o := wire()
	for _, e := range o.Ends {
		o.tell(e)
		e.NetNS, e.Family = 7, event.IPv4
	}
	o.NetNS, o.Watched = []uint32{7}, []uint32{7}
	for i := range o.Segments {
		o.Segments[i].NetNS = 7
	}
	o.Processes = map[string]Process{"server": {Role: "server", PID: 42, Comm: "server"}}
	o.Counters = map[string]int64{"OutRsts": 1}
	s := Scenario{
		Name: "wire",
		Ends: aborted(verdict.CloseUnread, "server", verdict.ActClose).pair(
			"server", Expect{Lost: Lost{Unread: 150}, FIN: 1, RST: 1},
			"client", Expect{Lost: Lost{Unsent: Measured, Unacked: 200}, AppSaw: []string{"EOF", "EPIPE"}}),
		Counters: map[string]int64{"OutRsts": 1},
	}
	lost := func(unread, unsent, unacked uint64) verdict.Lost {
		return verdict.Lost{Unread: &unread, Unsent: &unsent, Unacked: &unacked}
	}
	actor := &conn.Process{PID: 42, Comm: "server"}
	v := verdict.Verdict{Class: verdict.Aborted, Cause: verdict.CloseUnread, Act: verdict.ActClose, Actor: actor,
		Sentence: "So it was.", Confidence: verdict.Certain}
	client, server := v, v
	client.Ender, client.AppSaw, client.Lost = verdict.PeerProcess, []string{"EOF", "EPIPE"}, lost(0, 400, 200)
	server.Ender, server.Lost = verdict.LocalProcess, lost(150, 0, 0)
	end := func(e *End) *conn.Connection {
		return &conn.Connection{NetNS: 7, Family: event.IPv4, Local: e.Local, Remote: e.Remote}
	}
	reset := end(o.Ends["server"])
	reset.Events = []event.Event{
		{Time: 5, Hook: event.HookSendActiveReset, Local: v4b, Remote: v4a},
		// What the hook sees when a RST comes in: nothing is sent.
		{Time: 6, Hook: event.HookSendReset, Has: event.HasSegment, Segment: event.Segment{Flags: event.RST}},
	}
	return s, o, []JudgedEnd{{end(o.Ends["client"]), client}, {reset, server}}
}

func TestCheckVerdicts(t *testing.T) {
	s, o, judged := judgedWire()
	for _, err := range s.CheckVerdicts(o, judged) {
		t.Errorf("right verdicts were found wrong: %v", err)
	}
	for _, err := range s.CheckOutcome(o) {
		t.Errorf("a run as told was found wrong: %v", err)
	}
	hundred := uint64(100)
	half := time.Second
	for _, c := range []struct {
		name   string
		change func(j []JudgedEnd) []JudgedEnd
		want   string
	}{
		{"class", func(j []JudgedEnd) []JudgedEnd { j[0].Verdict.Class = verdict.Graceful; return j }, "class"},
		{"cause", func(j []JudgedEnd) []JudgedEnd { j[0].Verdict.Cause = verdict.LingerZero; return j }, "cause"},
		{"ender", func(j []JudgedEnd) []JudgedEnd { j[1].Verdict.Ender = verdict.PeerProcess; return j }, "ender"},
		{"act", func(j []JudgedEnd) []JudgedEnd { j[1].Verdict.Act = verdict.ActExit; return j }, "act"},
		{"signal", func(j []JudgedEnd) []JudgedEnd { j[1].Verdict.Signal = 9; return j }, "signal"},
		{"no actor", func(j []JudgedEnd) []JudgedEnd { j[1].Verdict.Actor = nil; return j }, "no actor"},
		{"wrong actor", func(j []JudgedEnd) []JudgedEnd {
			j[1].Verdict.Actor = &conn.Process{PID: 43, Comm: "server"}
			return j
		}, "actor"},
		{"unread", func(j []JudgedEnd) []JudgedEnd { j[1].Verdict.Lost.Unread = &hundred; return j }, "unread is 100, not 150"},
		{"unsent, measured", func(j []JudgedEnd) []JudgedEnd { j[0].Verdict.Lost.Unsent = &hundred; return j }, "unsent is 100, not 400"},
		{"unacked not known", func(j []JudgedEnd) []JudgedEnd { j[0].Verdict.Lost.Unacked = nil; return j }, "not known"},
		{"what the application saw", func(j []JudgedEnd) []JudgedEnd { j[0].Verdict.AppSaw = []string{"EPIPE", "EOF"}; return j }, "application saw"},
		{"harmless", func(j []JudgedEnd) []JudgedEnd { j[0].Verdict.Harmless = true; return j }, "harmless"},
		{"TIME_WAIT", func(j []JudgedEnd) []JudgedEnd { j[0].Verdict.TimeWait = true; return j }, "TIME_WAIT"},
		{"half-close", func(j []JudgedEnd) []JudgedEnd { j[0].Verdict.HalfClose = &half; return j }, "half-close"},
		{"confidence", func(j []JudgedEnd) []JudgedEnd { j[0].Verdict.Confidence = verdict.Likely; return j }, "confidence"},
		{"no sentence", func(j []JudgedEnd) []JudgedEnd { j[0].Verdict.Sentence = ""; return j }, "sentence"},
		{"family", func(j []JudgedEnd) []JudgedEnd { j[0].Family = event.IPv6; return j }, "family"},
		{"an end is missing", func(j []JudgedEnd) []JudgedEnd { return j[:1] }, "server: no verdict"},
		{"an end too many", func(j []JudgedEnd) []JudgedEnd { return append(j, j[0]) }, "does not know"},
		{"a reset that never left", func(j []JudgedEnd) []JudgedEnd {
			j[0].Elsewhere = append(j[0].Elsewhere, event.Event{Time: 7, Hook: event.HookSendReset})
			return j
		}, "tell of 2 resets"},
		{"a reset that no event tells of", func(j []JudgedEnd) []JudgedEnd { j[1].Events = nil; return j }, "tell of 0 resets"},
	} {
		s, o, judged := judgedWire()
		err := errors.Join(s.CheckVerdicts(o, c.change(judged))...)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	// What happened in another namespace is none of the story's business.
	s, o, judged = judgedWire()
	stranger := judged[0]
	other := *stranger.Connection
	other.NetNS = 8
	stranger.Connection = &other
	if errs := s.CheckVerdicts(o, append(judged, stranger)); errs != nil {
		t.Errorf("a connection of another namespace was counted: %v", errs)
	}
}

func TestCheckOutcome(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(s *Scenario, o *Outcome)
		want   string
	}{
		{"a counter", func(s *Scenario, o *Outcome) { o.Counters["TCPAbortOnClose"] = 1 }, "TCPAbortOnClose moved by 1"},
		{"a counter that stood still", func(s *Scenario, o *Outcome) { o.Counters["OutRsts"] = 0 }, "OutRsts moved by 0"},
		{"a FIN", func(s *Scenario, o *Outcome) { o.Segments = slices.Delete(o.Segments, 7, 9) }, "0 FINs left"},
		{"a reset", func(s *Scenario, o *Outcome) { o.Segments = o.Segments[:10] }, "0 RSTs left"},
		{"bytes", func(s *Scenario, o *Outcome) { o.Ends["server"].Read = 100 }, "lost"},
		{"what the application saw", func(s *Scenario, o *Outcome) { o.Ends["client"].AppSaw = nil }, "was told"},
		{"an end too many", func(s *Scenario, o *Outcome) { o.Ends["third"] = &End{Name: "third"} }, "nothing is said"},
		{"an end missing", func(s *Scenario, o *Outcome) { delete(o.Ends, "client") }, "no end client"},
		{"the oracle", func(s *Scenario, o *Outcome) { o.Problems = []string{"packets were missed"} }, "incomplete"},
		{"the story's own check", func(s *Scenario, o *Outcome) {
			s.Verify = func(*Outcome) error { return errors.New("so it was not") }
		}, "so it was not"},
	} {
		s, o, _ := judgedWire()
		c.change(&s, &o)
		if err := errors.Join(s.CheckOutcome(o)...); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
