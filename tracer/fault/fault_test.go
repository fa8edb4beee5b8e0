package fault_test

import (
	"encoding/xml"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/fault"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

var (
	here  = netip.MustParseAddrPort("127.0.0.1:40000")
	there = netip.MustParseAddrPort("127.0.0.1:80")
)

func frames(files ...string) event.Stack {
	var all []event.Frame
	for i, f := range files {
		all = append(all, event.Frame{Function: "p." + strings.Repeat("F", i+1), File: f, Line: 10 + i})
	}
	return event.StackOf(all)
}

func aborted(stack event.Stack) *verdict.Verdict {
	return &verdict.Verdict{Class: verdict.Aborted, Cause: verdict.CloseUnread, Ender: verdict.LocalProcess, Act: verdict.ActClose, Confidence: verdict.Certain,
		Actor: &conn.Process{PID: 7, Comm: "app", Stack: stack}, Sentence: "app closed."}
}

func pair() (a, b *conn.Connection) {
	a = &conn.Connection{ID: "1", Local: here, Remote: there, Open: conn.OpenActive, Ended: 10 * time.Second, Last: 10 * time.Second}
	b = &conn.Connection{ID: "2", Local: there, Remote: here, Open: conn.OpenPassive, Ended: 10 * time.Second, Last: 10 * time.Second}
	a.Peer, b.Peer = b, a
	return a, b
}

// TestWhatIsAFault: one for a connection, whichever end is told of first; none of what
// may be right.
func TestWhatIsAFault(t *testing.T) {
	for name, x := range map[string]struct {
		change func(*conn.Connection, *verdict.Verdict)
		want   int
	}{
		"aborted":   {func(*conn.Connection, *verdict.Verdict) {}, 1},
		"harmless":  {func(_ *conn.Connection, v *verdict.Verdict) { v.Harmless = true }, 0},
		"probe":     {func(_ *conn.Connection, v *verdict.Verdict) { v.Probe = true }, 0},
		"lossy":     {func(c *conn.Connection, _ *verdict.Verdict) { c.Lossy = true }, 0},
		"not known": {func(_ *conn.Connection, v *verdict.Verdict) { v.Confidence = verdict.NotKnown }, 0},
		"refused":   {func(_ *conn.Connection, v *verdict.Verdict) { v.Class, v.Cause = verdict.Refused, verdict.PortClosed }, 0},
		"graceful": {func(_ *conn.Connection, v *verdict.Verdict) {
			v.Class, v.Cause = verdict.Graceful, verdict.OrderlyClose
		}, 0},
		"timed out": {func(_ *conn.Connection, v *verdict.Verdict) {
			v.Class, v.Cause = verdict.TimedOut, verdict.RetransmitTimeout
		}, 1},
		"unanswered": {func(_ *conn.Connection, v *verdict.Verdict) {
			v.Class, v.Unanswered = verdict.Graceful, &verdict.Unanswered{}
		}, 1},
	} {
		for _, backwards := range []bool{false, true} {
			f := fault.New(fault.Options{})
			ends := make([]*conn.Connection, 2)
			ends[0], ends[1] = pair()
			if backwards {
				ends[0], ends[1] = ends[1], ends[0]
			}
			for _, c := range ends {
				v := aborted("")
				x.change(c, v)
				f.End(c, v)
			}
			if got := len(f.Faults()); got != x.want || f.Runs.Connections != 1 {
				t.Errorf("%s: %d faults of %d connections, want %d of 1", name, got, f.Runs.Connections, x.want)
			}
		}
	}
}

// TestPlace: the innermost call in the tests' source, and no library's copy in it.
func TestPlace(t *testing.T) {
	for _, x := range []struct {
		stack event.Stack
		want  string
	}{
		{frames("/usr/go/src/net/net.go", "/src/db.go", "/src/db_test.go"), "db.go:11"},
		{frames("/usr/go/src/net/net.go", "/src/vendor/x/x.go", "/src/a/b.go"), "a/b.go:12"},
		{frames("/usr/lib/x.c"), ""},
		{frames("/srcs/x.c"), ""},
		{frames("relative.go"), ""},
		{"", ""},
		{"not JSON", ""},
	} {
		f := fault.New(fault.Options{Root: "/src"})
		a, _ := pair()
		f.End(a, aborted(x.stack))
		all := f.Faults()
		if got := f.Where(&all[0]); got != x.want {
			t.Errorf("%s: %q, want %q", x.stack, got, x.want)
		}
	}
	f := fault.New(fault.Options{Root: "/src"})
	a, _ := pair()
	f.End(a, aborted(event.StackOf([]event.Frame{{Function: "example.com/p.Ask", File: "/src/p.go", Line: 1}, {Function: "example.com/p.TestX.func1", File: "/src/p_test.go", Line: 2}})))
	if got := f.Faults()[0].Test; got != "TestX" {
		t.Errorf("the test is %q", got)
	}
}

func leaked(act verdict.Act, finished, let time.Duration) *verdict.Verdict {
	return &verdict.Verdict{Class: verdict.Graceful, Cause: verdict.OrderlyClose, Ender: verdict.PeerProcess, Confidence: verdict.Certain,
		PeerFin: &verdict.Goodbye{At: finished}, LocalFin: &verdict.Goodbye{Act: act, At: let, Actor: &conn.Process{PID: 7}}}
}

func TestLeaks(t *testing.T) {
	const s = time.Second
	end := []fault.Call{{Op: fault.OpEnd, PID: 7, At: 5 * s}}
	opened := []fault.Call{{Op: fault.OpOpen, PID: 7, At: s, Local: here, Remote: there, Frames: []fault.Place{{File: "/lib/x.py", Line: 1}, {File: "/src/t.py", Line: 5}}, Test: "t"}}
	for _, x := range []struct {
		name  string
		v     *verdict.Verdict
		calls []fault.Call
		want  int
		where string
	}{
		{"held at exit", leaked(verdict.ActExit, 2*s, 6*s), nil, 1, ""},
		{"held a moment", leaked(verdict.ActExit, 2*s, 2*s+s/2), nil, 0, ""},
		{"closed late", leaked(verdict.ActClose, 2*s, 6*s), nil, 0, ""},
		{"closed when all was over", leaked(verdict.ActClose, 2*s, 6*s), append(end, opened...), 1, "t.py:5"},
		{"closed before", leaked(verdict.ActClose, 2*s, 4*s), end, 0, ""},
		{"closed by another process", leaked(verdict.ActClose, 2*s, 6*s), []fault.Call{{Op: fault.OpEnd, PID: 8, At: 5 * s}}, 0, ""},
	} {
		f := fault.New(fault.Options{Root: "/src", Leaks: true})
		a, _ := pair()
		a.Owner = &conn.Process{PID: 7}
		f.End(a, x.v)
		f.Calls(x.calls)
		all := f.Faults()
		if len(all) != x.want || x.want == 1 && (all[0].Kind != fault.Leak || f.Where(&all[0]) != x.where) {
			t.Errorf("%s: %+v, want %d at %q", x.name, all, x.want, x.where)
		}
	}
}

// TestCalls: the call of the actor's own end counts, and the test that ran where none
// was noted.
func TestCalls(t *testing.T) {
	call := func(op fault.Op, at time.Duration, pid uint32, local, remote netip.AddrPort, file string) fault.Call {
		return fault.Call{Op: op, PID: pid, At: at * time.Second, Local: local, Remote: remote, Frames: []fault.Place{{File: file, Line: 1}}, Test: file}
	}
	none := netip.AddrPort{}
	calls := []fault.Call{
		call(fault.OpClose, 9, 7, here, there, "/src/mine.py"),
		call(fault.OpClose, 9, 7, there, here, "/src/theirs.py"),
		call(fault.OpClose, 11, 7, here, there, "/src/later.py"),
		call(fault.OpClose, 9, 8, here, there, "/src/other.py"),
		call(fault.OpTest, 1, 7, none, none, "/src/old.py"),
		call(fault.OpTest, 8, 7, none, none, "/src/test.py"),
	}
	for n, want := range map[int]string{0: "mine.py:1", 1: "test.py:1"} {
		f := fault.New(fault.Options{Root: "/src"})
		a, _ := pair()
		f.End(a, aborted(""))
		f.Calls(append([]fault.Call(nil), calls[n:]...))
		all := f.Faults()
		if got := f.Where(&all[0]); got != want {
			t.Errorf("from call %d on: %q, want %q", n, got, want)
		}
	}
}

// TestReports: what a process says about itself breaks no format.
func TestReports(t *testing.T) {
	f := fault.New(fault.Options{Root: "/src"})
	a, _ := pair()
	v := aborted(event.StackOf([]event.Frame{{Function: "f", File: "/src/a:b,%.go", Line: 7}}))
	v.Actor.Comm, v.Sentence = "a\x1b[31m\x00<&\xff", "two\nlines, 100%"
	f.End(a, v)
	b, err := f.JUnit()
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Suites []struct {
			Failures int `xml:"failures,attr"`
			Cases    []struct {
				File    string `xml:"file,attr"`
				Line    int    `xml:"line,attr"`
				Failure *struct {
					Type string `xml:"type,attr"`
				} `xml:"failure"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(b, &got); err != nil {
		t.Fatalf("%v\n%s", err, b)
	}
	if len(got.Suites) != 1 || got.Suites[0].Failures != 1 || len(got.Suites[0].Cases) != 2 || got.Suites[0].Cases[1].File != "a:b,%.go" || got.Suites[0].Cases[1].Failure.Type != "close-unread" {
		t.Errorf("%+v", got)
	}
	all := f.Faults()
	if want, got := "::error file=a%3Ab%2C%25.go,line=7,title=tcpbye%3A close-unread::two%0Alines, 100%25", f.Annotation(&all[0]); got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	if strings.ContainsAny(string(b), "\x00\x1b") {
		t.Error("a control character is in the XML")
	}
}
