package scenario

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// Level is how good the verdict on one end is.
type Level int

const (
	Exact  Level = iota // every field is as due
	Cause               // who, how and why are as due, and certain; of the rest something is not told
	InPart              // what it says is so, but it says less than is due
	Guess               // it is not certain, names the hook that it lacks, and is not so
	Wrong
)

func (l Level) String() string {
	return [...]string{"exact", "exact cause", "in part", "guess", "wrong"}[l]
}

// Grade is what became of the verdict on one end where hooks are missing.
type Grade struct {
	End     string
	Level   Level
	Lacks   []string // fields that the verdict does not tell
	False   []string // what it says and is not so
	Missing []string // the hooks that it names as missing
}

func (g Grade) String() string {
	return fmt.Sprintf("%s: %s; does not tell %v; says %v; names %v", g.End, g.Level, g.Lacks, g.False, g.Missing)
}

// Grade holds the verdicts of a judge that could not see everything against
// what is due, end by end, in the order of their names.
//
// A field that is left out, or that names a wider notion, is one that the
// verdict lacks. A verdict that lacks something must be less
// than certain or name the hooks; what it says in spite of that must be so. A
// whole verdict that is called likely, names the hook that would decide, and is
// another one than is due, is a guess.
func (s Scenario) Grade(o Outcome, judged []JudgedEnd) (grades []Grade, unknown []error) {
	mine := slices.DeleteFunc(slices.Clone(judged), func(j JudgedEnd) bool {
		return j.Connection == nil || !slices.Contains(o.Watched, j.NetNS)
	})
	slices.SortStableFunc(mine, func(a, b JudgedEnd) int { return int(a.First - b.First) })
	matched, left := o.match(mine)
	for _, j := range left {
		unknown = append(unknown, fmt.Errorf("a connection that the story does not know: %v > %v, %s/%s %s", j.Local, j.Remote, j.Verdict.Class, j.Verdict.Cause, j.Verdict.Confidence))
	}
	for _, name := range slices.Sorted(maps.Keys(o.Ends)) {
		if e := o.Ends[name]; slices.Contains(o.Watched, e.NetNS) {
			x, _ := s.expectOf(name)
			j, ok := matched[name]
			grades = append(grades, o.grade(name, e, x, j, ok))
		}
	}
	return grades, unknown
}

// wider are the causes that say less, and are so too.
var wider = map[verdict.Cause][]verdict.Cause{
	verdict.AcceptOverflow: {verdict.ConnectTimeout}, // no SYN was answered, for whatever reason
	verdict.HalfClose:      {verdict.OrderlyClose},   // one end finished, the other followed
	verdict.DescriptorHeld: {verdict.StillOpen},
	verdict.NeverAccepted:  {verdict.StillOpen},
	// Data after the close is what the kernel answered at once.
	verdict.Linger2Negative: {verdict.DataAfterClose},
	// A timer ran out. That nothing left this host is what a hook on sending tells,
	// which must be missing then.
	verdict.SendFailed: {verdict.RetransmitTimeout, verdict.KeepaliveTimeout, verdict.OrphanTimeout, verdict.UserTimeout, verdict.ConnectTimeout},
}

// tellsUnsent says whether a hook tells that a segment did not leave this host.
func tellsUnsent(hook string) bool {
	return hook == event.HookRetransmit.String() || hook == event.HookProbe.String() || hook == event.HookNeighbor.String()
}

// essential says whether a field is of who, how and why.
func essential(field string) bool {
	switch field {
	case "class", "cause", "ender", "act", "signal", "actor", "harmless", "certainty":
		return true
	}
	return false
}

func (o *Outcome) grade(name string, e *End, x Expect, j JudgedEnd, ok bool) Grade {
	g := Grade{End: name}
	if !ok {
		g.Level, g.Lacks = InPart, []string{"the end"}
		return g
	}
	v := j.Verdict
	g.Missing = v.Missing
	if len(o.checkVerdict(e, x, j)) == 0 {
		return g
	}
	lacks := func(what string) { g.Lacks = append(g.Lacks, what) }
	field := func(what string, got, due, nothing any) {
		switch got {
		case due:
		case nothing:
			lacks(what)
		default:
			g.False = append(g.False, fmt.Sprintf("%s %v, not %v", what, got, due))
		}
	}
	field("class", v.Class, x.Class, verdict.Unknown)
	// Whoever cannot see what the kernel sends cannot tell a closed port from
	// something that answers for it, and the sentence says so.
	refused := x.Class == verdict.Refused && x.Cause == verdict.PathReset &&
		v.Cause == verdict.PortClosed && v.Confidence == verdict.Likely && slices.Contains(v.Missing, event.HookSendReset.String())
	switch wide := slices.Contains(wider[x.Cause], v.Cause); {
	case wide && x.Cause == verdict.SendFailed && !slices.ContainsFunc(v.Missing, tellsUnsent):
		g.False = append(g.False, fmt.Sprintf("cause %s, and no hook is named that tells whether something left this host: %v", v.Cause, v.Missing))
	case wide, refused:
		lacks("cause")
	default:
		field("cause", v.Cause, x.Cause, verdict.UnknownCause)
	}
	// A remote peer is what a peer's process or kernel is to who cannot look.
	if (x.Ender == verdict.PeerProcess || x.Ender == verdict.PeerKernel || refused) && v.Ender == verdict.Peer {
		lacks("ender")
	} else {
		field("ender", v.Ender, x.Ender, verdict.NoEnder)
	}
	field("act", v.Act, x.Act, verdict.NoAct)
	field("signal", v.Signal, x.Signal, 0)
	field("family", j.Family, e.Family, nil)
	field("harmless", v.Harmless, x.Harmless, false)
	field("TIME_WAIT", v.TimeWait, x.TimeWait, false)
	field("half-close", v.HalfClose != nil, x.HalfClose, false)
	if v.Sentence == "" {
		g.False = append(g.False, "no sentence")
	}
	for _, part := range x.Says {
		if !strings.Contains(v.Sentence+" "+v.Advice, part) {
			lacks("hint")
		}
	}
	if errs := o.checkActor(x, v.Actor); v.Actor == nil && len(errs) > 0 {
		lacks("actor")
	} else {
		for _, err := range errs {
			g.False = append(g.False, err.Error())
		}
	}
	due := o.dueLost(e, x)
	for _, n := range []struct {
		what string
		got  *uint64
		due  int64
	}{{"unread", v.Lost.Unread, due.Unread}, {"unsent", v.Lost.Unsent, due.Unsent}, {"unacked", v.Lost.Unacked, due.Unacked}} {
		switch {
		case x.Class == verdict.Open && v.Class == verdict.Unknown:
			// Nothing is said of whether it ended; what it counted is nobody's loss.
		case x.hides(n.what), x.Class == verdict.Open:
			if n.got != nil {
				g.False = append(g.False, fmt.Sprintf("%s %d, which cannot be told", n.what, *n.got))
			}
		case n.got == nil:
			lacks(n.what)
		case *n.got != uint64(n.due):
			g.False = append(g.False, fmt.Sprintf("%s %d, not %d", n.what, *n.got, n.due))
		}
	}
	saw := x.AppSaw
	if x.Layered {
		saw = nil
	}
	if !slices.Equal(v.AppSaw, saw) {
		if more := slices.DeleteFunc(slices.Clone(v.AppSaw), func(s string) bool { return slices.Contains(saw, s) }); len(more) > 0 {
			g.False = append(g.False, fmt.Sprintf("the application saw %v", more))
		} else {
			lacks("what the application saw")
		}
	}
	confidence := x.Confidence
	if confidence == "" {
		confidence = verdict.Certain
	}
	certain := v.Confidence == verdict.Certain
	if certain && confidence != verdict.Certain {
		g.False = append(g.False, "it is certain, and should not be")
	}
	if v.Confidence != confidence && !certain {
		lacks("certainty")
	}
	switch {
	case len(g.False) == 0 && !slices.ContainsFunc(g.Lacks, essential):
		g.Level = Cause
	case len(g.False) == 0:
		g.Level = InPart
	case !certain && len(v.Missing) > 0:
		g.Level = Guess
	default:
		g.Level = Wrong
	}
	return g
}

// TestGrade: what is left out is less than exact; what is not so is wrong, or a
// guess if the verdict says so itself.
func TestGrade(t *testing.T) {
	hundred := uint64(100)
	for _, c := range []struct {
		name   string
		change func(v *verdict.Verdict) // of the server, who closed with 150 bytes unread
		want   Level
		field  string
	}{
		{"as due", func(v *verdict.Verdict) {}, Exact, ""},
		{"no actor", func(v *verdict.Verdict) { v.Actor = nil }, InPart, "actor"},
		{"another actor", func(v *verdict.Verdict) { v.Actor = &conn.Process{PID: 43, Comm: "server"} }, Wrong, "actor"},
		{"no act", func(v *verdict.Verdict) { v.Act = verdict.NoAct }, InPart, "act"},
		{"another act", func(v *verdict.Verdict) { v.Act = verdict.ActExit }, Wrong, "act"},
		{"unknown", func(v *verdict.Verdict) {
			v.Class, v.Cause, v.Ender, v.Act, v.Actor = verdict.Unknown, verdict.UnknownCause, verdict.NoEnder, verdict.NoAct, nil
			v.Confidence, v.Missing = verdict.NotKnown, []string{"__tcp_close"}
		}, InPart, "cause"},
		{"another cause", func(v *verdict.Verdict) { v.Cause = verdict.LingerZero }, Wrong, "cause"},
		{"a guess", func(v *verdict.Verdict) {
			v.Cause, v.Confidence, v.Missing = verdict.LingerZero, verdict.Likely, []string{"tcp_disconnect"}
		}, Guess, "cause"},
		{"likely, for no reason", func(v *verdict.Verdict) { v.Cause, v.Confidence = verdict.LingerZero, verdict.Likely }, Wrong, "cause"},
		{"unread not told", func(v *verdict.Verdict) { v.Lost.Unread = nil }, Cause, "unread"},
		{"unread", func(v *verdict.Verdict) { v.Lost.Unread = &hundred }, Wrong, "unread"},
		{"the application saw more", func(v *verdict.Verdict) { v.AppSaw = []string{"EOF"} }, Wrong, "application"},
		{"likely", func(v *verdict.Verdict) { v.Confidence = verdict.Likely }, InPart, "certainty"},
	} {
		s, o, judged := judgedWire()
		c.change(&judged[1].Verdict)
		grades, unknown := s.Grade(o, judged)
		if len(grades) != 2 || len(unknown) != 0 || grades[0].Level != Exact || grades[1].Level != c.want ||
			!strings.Contains(fmt.Sprint(grades[1].Lacks, grades[1].False), c.field) {
			t.Errorf("%s: %v, %v", c.name, grades, unknown)
		}
	}
	for _, c := range []struct {
		confidence verdict.Confidence
		missing    []string
		want       Level
	}{
		{verdict.Likely, []string{"tcp_send_reset"}, InPart},
		{verdict.Likely, []string{"tcp_close"}, Guess},
		{verdict.Likely, nil, Wrong},
		{verdict.Certain, []string{"tcp_send_reset"}, Wrong},
	} {
		s, o, judged := judgedWire()
		x := s.Ends["server"]
		x.Class, x.Cause, x.Ender, x.Confidence = verdict.Refused, verdict.PathReset, verdict.Path, verdict.Likely
		s.Ends["server"] = x
		v := &judged[1].Verdict
		v.Class, v.Cause, v.Ender, v.Confidence, v.Missing = verdict.Refused, verdict.PortClosed, verdict.Peer, c.confidence, c.missing
		if grades, _ := s.Grade(o, judged); grades[1].Level != c.want {
			t.Errorf("refused by a packet filter, told as a closed port, %s, for want of %v: %v", c.confidence, c.missing, grades[1])
		}
	}
	s, o, judged := judgedWire()
	if grades, _ := s.Grade(o, judged[:1]); len(grades) != 2 || grades[1].Level != InPart || grades[1].Lacks[0] != "the end" {
		t.Errorf("an end without a verdict: %v", grades)
	}
	// The client saw EOF and EPIPE.
	judged[0].Verdict.AppSaw = []string{"EPIPE"}
	if grades, _ := s.Grade(o, judged); grades[0].Level != Cause {
		t.Errorf("half of what the application saw: %v", grades)
	}
	if _, unknown := s.Grade(o, append(judged, judged[0])); len(unknown) != 1 {
		t.Errorf("a connection too many: %v", unknown)
	}
}

// TestPick: an event without a namespace is the story's if it has its addresses,
// or is of a connection that has.
func TestPick(t *testing.T) {
	_, o, _ := judgedWire()
	server := o.Ends["server"]
	all := []event.Event{
		{Has: event.HasTuple, Conn: 1, Remote: v4b}, // before there was a port
		{Has: event.HasTuple, Conn: 1, Local: v4a, Remote: v4b},
		{Has: event.HasTuple, Conn: 2, Local: v4b, Remote: v4a},
		{PID: 42}, // the server's exit
		{Has: event.HasTuple, Conn: 3, Local: v4a, Remote: v4a},
		{Has: event.HasTuple, Conn: 4, NetNS: 8, Local: v4a, Remote: v4b},
		{PID: 43},
	}
	mine := o.Pick(all)
	if len(mine) != 4 {
		t.Errorf("%d events: %v", len(mine), mine)
	}
	for _, e := range mine {
		if e.Has&event.HasTuple != 0 && e.NetNS != 7 {
			t.Errorf("namespace %d: %v", e.NetNS, e)
		}
	}
	// The ends of two machines are in namespaces of their own.
	o.NetNS = []uint32{7, 9}
	server.NetNS = 9
	if mine := o.Pick([]event.Event{{Has: event.HasTuple, Conn: 2, Local: server.Local, Remote: server.Remote}}); len(mine) != 0 {
		t.Errorf("an event of the other machine is taken: %v", mine)
	}
}
