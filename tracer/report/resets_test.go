package report

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// silence is how long ago payload had been sent and received.
func silence(sent, received time.Duration) func(*event.Event) {
	return func(e *event.Event) { e.SinceSent, e.SinceReceived = sent, received }
}

func counted(acked, received uint64) func(*event.Event) {
	return func(e *event.Event) { e.BytesAcked, e.BytesReceived = acked, received }
}

// race is a keep-alive race, as the judge sees it: the backend, on another
// machine, closes after so much silence, just as nginx sends its next request;
// shift is when that happens.
func race(shift, idle time.Duration, backend string) Judged {
	nginx := task{pid: 812, comm: "nginx"}
	idleTask := task{pid: 0, comm: "swapper/1"}
	n := newEnd("9", nginx, "10.0.0.5:51022", backend, conn.OpenActive)
	from := event.Segment{Seq: 5000, Ack: 1001, Flags: event.SYN | event.ACK, TTL: 57, Window: 64240}
	closed := 40 + float64(idle)/float64(time.Millisecond)
	n.see(0, event.HookSetState, process, nginx, to(event.Close, event.SynSent)).
		see(0.040, event.HookConnect, process, nginx, in(event.SynSent)).
		see(2.250, event.HookSetState, softirq, idleTask, to(event.SynSent, event.Established), seg(from)).
		see(closed, event.HookSetState, softirq, idleTask, to(event.Established, event.CloseWait),
			seqs(1201, 1201, 1201, 5902, 5901), counted(201, 901), silence(idle+4*time.Millisecond, idle)).
		see(closed+1.400, event.HookReset, softirq, idleTask, in(event.CloseWait), seqs(1513, 1201, 1513, 5902, 5902), counted(201, 901),
			silence(time.Millisecond, idle+time.Millisecond), seg(event.Segment{Seq: 5902, Flags: event.RST, TTL: 57})).
		see(closed+1.410, event.HookSetState, softirq, idleTask, to(event.CloseWait, event.Close), seqs(1513, 1201, 1513, 5902, 5902),
			counted(201, 901), failed(32)).
		see(closed+1.600, event.HookClose, process, nginx, in(event.Close)).
		see(closed+1.610, event.HookDestroy, process, nginx, in(event.Close))
	n.c.Opener, n.c.Owner = n.process(), n.process()
	for i := range n.c.Events {
		n.c.Events[i].Time += shift
	}
	c := n.done()
	return Judged{Conn: c, Verdict: verdict.Judge(c, verdict.Scope{})}
}

// forged is a reset from a device that is nearer than the peer.
func forged() Judged {
	curl := task{pid: 4321, comm: "curl"}
	idleTask := task{pid: 0, comm: "swapper/0"}
	n := newEnd("10", curl, "[2001:db8::5]:51044", "[2001:db8:77::1]:443", conn.OpenActive)
	n.see(0, event.HookSetState, process, curl, to(event.Close, event.SynSent)).
		see(0.040, event.HookConnect, process, curl, in(event.SynSent)).
		see(21.250, event.HookSetState, softirq, idleTask, to(event.SynSent, event.Established),
			seg(event.Segment{Seq: 5000, Ack: 1001, Flags: event.SYN | event.ACK, TTL: 52, Window: 65535})).
		see(24.100, event.HookReset, softirq, idleTask, in(event.Established), seqs(1518, 1001, 1518, 5001, 5001), counted(1, 0),
			silence(3*time.Millisecond, 3*time.Millisecond), func(e *event.Event) { e.Text = "blocked\x1b[31m" },
			seg(event.Segment{Seq: 5001, Ack: 1001, Flags: event.RST | event.ACK, TTL: 61, Window: 1})).
		see(24.110, event.HookSetState, softirq, idleTask, to(event.Established, event.Close), seqs(1518, 1001, 1518, 5001, 5001), counted(1, 0), failed(104)).
		see(24.600, event.HookClose, process, curl, in(event.Close)).
		see(24.610, event.HookDestroy, process, curl, in(event.Close))
	n.c.Opener, n.c.Owner = n.process(), n.process()
	c := n.done()
	return Judged{Conn: c, Verdict: verdict.Judge(c, verdict.Scope{})}
}

// toldOf is what rst prints of some endings.
func toldOf(t *testing.T, o Options, all ...Judged) string {
	t.Helper()
	var b bytes.Buffer
	s, sum := NewResets(&b, o), NewSummary(o)
	for _, j := range all {
		if err := errors.Join(s.End(j), sum.End(j)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	b.WriteByte('\n')
	if err := sum.Write(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestGoldenResetsFromAfar: what one end can tell of resets of other machines,
// and of their repeats.
func TestGoldenResetsFromAfar(t *testing.T) {
	var all []Judged
	for n := range 9 {
		off := time.Duration(n%3) * time.Millisecond
		all = append(all, race(time.Duration(n)*7*time.Second, 5*time.Second+off, "10.0.0.7:8080"))
	}
	all = append(all, forged())
	for n := range 7 {
		all = append(all, race(time.Duration(90+7*n)*time.Second, time.Duration(1+n)*777*time.Millisecond, fmt.Sprintf("10.0.1.%d:9000", n+1)))
	}
	for _, verbose := range []bool{false, true} {
		o := testOptions()
		o.Verbose = verbose
		golden(t, fmt.Sprintf("resets-afar-verbose-%v.txt", verbose), []byte(toldOf(t, o, all...)))
	}
	o := testOptions()
	o.ASCII, o.Width = true, 60
	out := toldOf(t, o, all...)
	for _, c := range []byte(out) {
		if c >= 0x80 || c < ' ' && c != '\n' {
			t.Fatalf("not ASCII, or a control character: %q", out)
		}
	}
}

// TestResetsTick: repeats are told of when it is time, without another ending.
func TestResetsTick(t *testing.T) {
	var b bytes.Buffer
	s := NewResets(&b, testOptions())
	for n := range 3 {
		if err := s.End(race(time.Duration(n)*time.Second, time.Second, "10.0.0.7:8080")); err != nil {
			t.Fatal(err)
		}
	}
	told := b.Len()
	last := race(2*time.Second, time.Second, "10.0.0.7:8080").Conn.Ended
	for _, x := range []struct {
		after time.Duration
		again int
	}{{time.Second, 0}, {quiet, 1}, {time.Hour, 1}} {
		if err := s.Tick(last + x.after); err != nil {
			t.Fatal(err)
		}
		if got := strings.Count(b.String()[told:], "peer-gone again"); got != x.again {
			t.Errorf("after %v it is told %d times, want %d: %s", x.after, got, x.again, b.String()[told:])
		}
	}
}

// TestResetsHide: what is hidden is counted once for a connection, and said.
func TestResetsHide(t *testing.T) {
	sum := NewSummary(testOptions())
	a, b := closeDemo()
	sum.Hide(a.Conn)
	sum.Hide(b.Conn)
	sum.Hide(retransmitTimeout().Conn)
	if sum.Hidden() != 2 {
		t.Errorf("%d hidden, want 2", sum.Hidden())
	}
	var out bytes.Buffer
	if err := sum.Write(&out); err != nil {
		t.Fatal(err)
	}
	if want := "2 harmless resets, after all was said or of health checks, are not shown: --all shows them\n"; out.String() != want {
		t.Errorf("%q", &out)
	}
}

// TestResetsHarmless: a late reset after a goodbye of both is shown to whoever
// wants all.
func TestResetsHarmless(t *testing.T) {
	a, b := shutdownDemo()
	if out := toldOf(t, testOptions(), a, b); strings.TrimSpace(out) != "" {
		t.Errorf("a graceful ending is told of: %s", out)
	}
	a.Verdict.Harmless, b.Verdict.Harmless = true, true
	if out := toldOf(t, testOptions(), a, b); !strings.Contains(out, "a late reset, harmless, after 1.022 s") {
		t.Errorf("a harmless reset is not told of: %s", out)
	}
}

func TestSummaryTop(t *testing.T) {
	sum := NewSummary(testOptions())
	sum.Top = 1
	for _, j := range []Judged{race(0, time.Second, "10.0.0.7:8080"), race(0, time.Second, "10.0.0.7:8080"), forged(), retransmitTimeout()} {
		if err := sum.End(j); err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	if err := sum.Write(&out); err != nil {
		t.Fatal(err)
	}
	if got := out.String(); !strings.HasSuffix(got, "\n2 more of 2 other kinds\n") || strings.Count(got, "\n") != 3 {
		t.Errorf("%s", got)
	}
}

func TestSpread(t *testing.T) {
	s := time.Second
	for _, x := range []struct {
		times []time.Duration
		text  string
		fixed bool
	}{
		{[]time.Duration{5 * s}, "5.000 s", false},
		{[]time.Duration{5 * s, 5 * s}, "5.000 s", false}, // two are chance
		{[]time.Duration{5 * s, 5003 * time.Millisecond, 4999 * time.Millisecond}, "5.000 s ± 0.003 s", true},
		{[]time.Duration{60 * s, 60200 * time.Millisecond, 59900 * time.Millisecond, 60 * s, 7 * s}, "60.000 s ± 0.200 s", true}, // one ended otherwise
		{[]time.Duration{60 * s, 60 * s, 60 * s, 7 * s}, "7.000 to 60.000 s", false},
		{[]time.Duration{1 * s, 2 * s, 3 * s}, "1.000 to 3.000 s", false},
		{[]time.Duration{time.Millisecond, time.Millisecond, time.Millisecond}, "0.001 s", false}, // no timer is so short
	} {
		var sp spread
		for _, d := range x.times {
			sp.add(&d)
		}
		sp.add(nil)
		if _, fixed := sp.fixed(); fixed != x.fixed || sp.String() != x.text {
			t.Errorf("%v: %s, fixed %v; want %s, %v", x.times, sp.String(), fixed, x.text, x.fixed)
		}
	}
	var sp spread
	for n := range 10 * maxSpread {
		d := time.Duration(n) * s
		sp.add(&d)
	}
	if len(sp.last) != maxSpread || sp.min != 0 || sp.max != (10*maxSpread-1)*s {
		t.Errorf("%d kept, %v to %v", len(sp.last), sp.min, sp.max)
	}
}

// TestSchemaOfResets: what is read from a RST of another machine.
func TestSchemaOfResets(t *testing.T) {
	s := compileSchema(t)
	for _, j := range []Judged{race(0, 5*time.Second, "10.0.0.7:8080"), forged()} {
		line := jsonLine(t, j)
		if err := validate(s, line); err != nil {
			t.Errorf("%v\n%s", err, line)
		}
	}
	r := NewRecord(forged(), testClock).Reset
	if r == nil || *r.Flags != "RST|ACK" || *r.TTL != 61 || *r.HandshakeTTL != 52 || *r.Answers != "none" || *r.Behind != 517 ||
		*r.Offset != 0 || *r.Text != "blocked\x1b[31m" || r.AfterFin != nil || r.After != nil {
		t.Errorf("%+v", r)
	}
	r = NewRecord(race(0, 5*time.Second, "10.0.0.7:8080"), testClock).Reset
	if r == nil || *r.Flags != "RST" || r.Ack != nil || *r.Answers != "data" || *r.After != 1 || r.Behind != nil || r.Text != nil || *r.AfterFin < 1.39 || *r.AfterFin > 1.41 {
		t.Errorf("%+v", r)
	}
}
