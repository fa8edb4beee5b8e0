package report

import (
	"bytes"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/clipperhouse/displaywidth"
	"github.com/google/go-cmp/cmp"

	"github.com/tcpbye/tcpbye/tracer/verdict"
)

var update = flag.Bool("update", false, "write the golden files")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (go test -update writes it)", err)
	}
	if d := cmp.Diff(string(want), string(got)); d != "" {
		t.Errorf("%s differs (-want +got):\n%s", path, d)
	}
}

// stories are the fixtures, each as the ends that a sink gets.
func stories() []struct {
	name string
	ends []Judged
} {
	pair := func(a, b Judged) []Judged { return []Judged{a, b} }
	return []struct {
		name string
		ends []Judged
	}{
		{"close", pair(closeDemo())},
		{"shutdown", pair(shutdownDemo())},
		{"listener-close", pair(listenerClose())},
		{"retransmit-timeout", []Judged{retransmitTimeout()}},
		{"hostile", []Judged{hostile()}},
	}
}

func testOptions() Options { return Options{Clock: testClock, Location: time.UTC, Width: 100} }

// shown is what a sink writes of some ends.
func shown(t *testing.T, f Format, o Options, ends ...Judged) []byte {
	t.Helper()
	var b bytes.Buffer
	s, err := New(f, &b, o)
	if err != nil {
		t.Fatal(err)
	}
	for _, j := range ends {
		if err := s.End(j); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestGoldenTimeline(t *testing.T) {
	for _, st := range stories() {
		golden(t, "timeline-"+st.name+".txt", shown(t, Timeline, testOptions(), st.ends...))
	}
}

func TestGoldenTimelineWidths(t *testing.T) {
	for _, width := range []int{0, 60, 80, 200} {
		o := testOptions()
		o.Width = width
		var all []byte
		for _, st := range stories() {
			out := shown(t, Timeline, o, st.ends...)
			all = append(append(all, out...), '\n')
			for l := range strings.Lines(string(out)) {
				if w := displaywidth.String(strings.TrimSuffix(l, "\n")); width > 0 && w > width {
					t.Errorf("width %d, %s: a line takes %d columns: %q", width, st.name, w, l)
				}
			}
		}
		golden(t, fmt.Sprintf("timeline-width-%d.txt", width), all)
	}
}

func TestGoldenTimelineASCII(t *testing.T) {
	o := testOptions()
	o.ASCII, o.Verbose = true, true
	var all []byte
	for _, st := range stories() {
		all = append(append(all, shown(t, Timeline, o, st.ends...)...), '\n')
	}
	for _, c := range all {
		if c >= 0x80 {
			t.Fatalf("not ASCII: %q", all)
		}
	}
	golden(t, "timeline-ascii-verbose.txt", all)
}

func TestGoldenTimelineColor(t *testing.T) {
	o := testOptions()
	o.Color = true
	a, b := closeDemo()
	golden(t, "timeline-color.txt", shown(t, Timeline, o, a, b))
}

func TestGoldenJSON(t *testing.T) {
	for _, st := range stories() {
		golden(t, "json-"+st.name+".ndjson", shown(t, JSON, testOptions(), st.ends...))
	}
}

// every is all ends of all stories.
func every() []Judged {
	var all []Judged
	for _, st := range stories() {
		all = append(all, st.ends...)
	}
	return all
}

func TestGoldenTable(t *testing.T) {
	var all []byte
	for _, width := range []int{0, 80, 100, 120, 160, 200} {
		o := testOptions()
		o.Width = width
		out := shown(t, Table, o, every()...)
		all = fmt.Appendf(all, "width %d\n%s\n", width, out)
		for l := range strings.Lines(string(out)) {
			if w := displaywidth.String(strings.TrimSuffix(l, "\n")); width > 0 && w > width {
				t.Errorf("width %d: a line takes %d columns: %q", width, w, l)
			}
		}
	}
	golden(t, "table.txt", all)
}

func TestGoldenCSV(t *testing.T) {
	golden(t, "csv.csv", shown(t, CSV, testOptions(), every()...))
}

func TestGoldenSequence(t *testing.T) {
	for _, width := range []int{0, 60, 80} {
		o := testOptions()
		o.Width = width
		out := shown(t, Sequence, o, every()...)
		golden(t, fmt.Sprintf("sequence-width-%d.txt", width), out)
		for l := range strings.Lines(string(out)) {
			if w := displaywidth.String(strings.TrimSuffix(l, "\n")); width > 0 && w > width {
				t.Errorf("width %d: a line takes %d columns: %q", width, w, l)
			}
		}
	}
}

func TestGoldenMermaid(t *testing.T) {
	golden(t, "mermaid.md", shown(t, Mermaid, testOptions(), every()...))
}

func TestGoldenPictures(t *testing.T) {
	for _, f := range []Format{HTML, SVG} {
		out := shown(t, f, testOptions(), every()...)
		golden(t, "page."+string(f), out)
		wellFormed(t, out)
		wellFormed(t, shown(t, f, testOptions()))
		for _, from := range []string{"src=", "href=", "url(", "@import", "import(", "fetch("} {
			if bytes.Contains(out, []byte(from)) {
				t.Errorf("%s: %q: it must need nothing from elsewhere", f, from)
			}
		}
	}
}

// wellFormed fails for a document with an unclosed or unescaped element.
func wellFormed(t *testing.T, doc []byte) {
	t.Helper()
	d := xml.NewDecoder(bytes.NewReader(doc))
	for {
		if _, err := d.Token(); err == io.EOF {
			return
		} else if err != nil {
			t.Fatalf("not well-formed: %v", err)
		}
	}
}

// resets are endings as tcpbye rst sees them: one of each story, and a
// keep-alive race that comes again and again.
func resets() []Judged {
	all := every()
	for n := range 14 {
		j := retransmitTimeout()
		j.Verdict.Cause, j.Verdict.Class = verdict.NoSocket, verdict.Aborted
		shift := time.Duration(n) * 9 * time.Second
		j.Conn.Ended += shift
		j.Conn.Opened += shift
		all = append(all, j)
	}
	return all
}

func TestGoldenResets(t *testing.T) {
	for _, verbose := range []bool{false, true} {
		var b bytes.Buffer
		o := testOptions()
		o.Verbose = verbose
		s, sum := NewResets(&b, o), NewSummary(o)
		for _, j := range resets() {
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
		golden(t, fmt.Sprintf("resets-verbose-%v.txt", verbose), b.Bytes())
	}
}
