package report

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// faults are what no sentence has, whatever is known of a connection.
var faults = []struct {
	what string
	re   *regexp.Regexp
}{
	{"an empty part", regexp.MustCompile(`,\s*,|,\s*\.|(^|\s)\(\s*\)|\.\.(\s|$)|;\s*[;.]|^\s*[,.;]|:\s*[,.]|\(, |, \)`)},
	{"a space too many", regexp.MustCompile(`\S  +\S| [,.;]( |$)`)},
	{"a time before its time", regexp.MustCompile(`(^|[ (~≥<>])-\d+(\.\d+)? ?(µs|us|ms|s|min|h)\b`)},
	{"a value that is none", regexp.MustCompile(`%!|<nil>|\binvalid AddrPort\b|\b0001-01-01\b`)},
}

func faulty(text string) string {
	for _, f := range faults {
		if m := f.re.FindString(text); m != "" {
			return fmt.Sprintf("%s (%q)", f.what, m)
		}
	}
	return ""
}

// recordedRun is one recorded scenario.
type recordedRun struct {
	name    string
	missing []event.Hook
	events  []event.Event
}

func recordedRuns(t *testing.T) (all []recordedRun) {
	t.Helper()
	paths, err := filepath.Glob("../verdict/testdata/*.tcpbye")
	if err != nil || len(paths) < 4 {
		t.Fatalf("%d recordings, %v", len(paths), err)
	}
	for _, path := range paths {
		for _, r := range readRecording(t, path) {
			all = append(all, recordedRun{name: filepath.Base(path) + " " + r.meta.Scenario, missing: r.meta.Missing(), events: r.events})
		}
	}
	return all
}

// judge judges what is left of a run.
func (r recordedRun) judge(events []event.Event, lossy bool) (all []Judged) {
	j := conn.New(conn.Options{Hold: true})
	if lossy {
		j.Lose(0, 1<<62)
	}
	for _, e := range events {
		j.Add(e)
	}
	for _, c := range j.Flush() {
		all = append(all, Judged{Conn: c, Verdict: verdict.Judge(c, verdict.Scope{Missing: r.missing})})
	}
	return all
}

var (
	head  = regexp.MustCompile(`(?m)^\d\d:\d\d:\d\d  `)
	after = regexp.MustCompile(`^\d\d:\d\d:\d\d  .*? (?:after|within) (\d+\.\d+) s`)
	fatal = regexp.MustCompile(`(?m)^ ✗ +(\d+\.\d+) `)
)

// prose holds what is said of some ends against what must hold for each text.
func prose(t *testing.T, name string, all []Judged) {
	t.Helper()
	bad := func(what, text string) {
		if fault := faulty(text); fault != "" {
			t.Errorf("%s: %s: %s: %q", name, what, fault, text)
		}
	}
	for n := range all {
		v := &all[n].Verdict
		bad("sentence", v.Sentence)
		bad("advice", v.Advice)
		bad("retry", v.RetryWhy)
	}
	o := Options{Location: time.UTC, Verbose: true}
	told := toldOf(t, o, append(all, all...)...) // each is told and then again
	timeline := false                            // its rows have columns
	for line := range strings.Lines(told) {
		line = strings.TrimRight(line, "\n")
		text := strings.TrimLeft(line, " ")
		switch indent := len(line) - len(text); {
		case text == "" || strings.HasPrefix(line, "COUNT"):
		case strings.HasPrefix(text, "Proof "):
			timeline = true
		case head.MatchString(line):
			timeline = false
			for part := range strings.SplitSeq(line[10:], "   ") {
				bad("headline", strings.TrimSpace(part))
			}
		case timeline:
		case indent == 10:
			bad("line", text)
		case indent == 2:
			label, rest, _ := strings.Cut(text, " ")
			bad(label, strings.TrimSpace(rest))
		}
	}
	// The headline's time is the one that the timeline marks.
	blocks := head.FindAllStringIndex(told, -1)
	for n, at := range blocks {
		end := len(told)
		if n+1 < len(blocks) {
			end = blocks[n+1][0]
		}
		block := told[at[0]:end]
		time, mark := after.FindStringSubmatch(block), fatal.FindStringSubmatch(block)
		if time == nil || mark == nil {
			continue
		}
		var said, shown float64
		fmt.Sscan(time[1], &said)
		fmt.Sscan(mark[1], &shown)
		if d := said - shown; d > 0.0015+opening(all).Seconds() || d < -0.0015-opening(all).Seconds() {
			t.Errorf("%s: the headline says %s s, the timeline %s:\n%s", name, time[1], mark[1], block)
		}
	}
	if strings.Contains(told, "none, either way") && regexp.MustCompile(`Lost +\d+ byte`).MatchString(told) && len(blocks) < 3 {
		t.Errorf("%s: no bytes, and bytes lost:\n%s", name, told)
	}
	var summary bytes.Buffer
	sum := NewSummary(o)
	for _, j := range all {
		_ = sum.End(j)
	}
	if err := sum.Write(&summary); err != nil {
		t.Error(err)
	}
}

// opening is how far apart the SYN of a connection, and the first that was seen of
// it, are: the timeline counts from there.
func opening(all []Judged) (most time.Duration) {
	for _, j := range all {
		for _, opened := range []*conn.Connection{j.Conn, j.Conn.Peer} {
			if opened != nil && opened.Opened != 0 {
				most = max(most, opened.Opened-j.Conn.First, j.Conn.First-opened.Opened)
			}
		}
	}
	return most
}

// TestProse: whatever of a recorded run is left, and is known to be lost, what is
// said of it is whole: no empty parts, no times before their time, and none that
// the timeline does not have.
func TestProse(t *testing.T) {
	for n, r := range recordedRuns(t) {
		prose(t, r.name, r.judge(r.events, false))
		rnd := rand.New(rand.NewPCG(uint64(n), 13))
		for _, cut := range []int{n % 4, (n + 2) % 4} {
			var left []event.Event
			switch from, to := rnd.IntN(len(r.events)+1), rnd.IntN(len(r.events)+1); cut {
			case 0: // it began before the trace
				left = r.events[from:]
			case 1: // and ended after it
				left = r.events[min(from, to):max(from, to)]
			default:
				keep := rnd.Float64()
				for _, e := range r.events {
					if rnd.Float64() < keep {
						left = append(left, e)
					}
				}
			}
			prose(t, fmt.Sprintf("%s, cut %d", r.name, cut), r.judge(left, cut == 3))
			if t.Failed() && testing.Short() {
				return
			}
		}
	}
}
