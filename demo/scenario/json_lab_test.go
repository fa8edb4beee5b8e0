//go:build lab

package scenario_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/demo/scenario"
	"github.com/tcpbye/tcpbye/tracer/report"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// moreEnds are how many ends of a scenario have no line of their own in its
// Ends, since several ends are due the same; -1: as many as chance has it.
var moreEnds = map[string]int{
	"listener-close":  3, // three clients, two of three queued ends
	"closed-twice":    2, // two pairs
	"reuseport-close": -1,
}

// exitDegraded is tcpbye's exit status where not everything can be attached.
const exitDegraded = 3

// tcpbyeProgram is tcpbye: the one on PATH, as in the lab, or else the tree's.
func tcpbyeProgram(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("tcpbye")
	if err != nil {
		path = filepath.Join(t.TempDir(), "tcpbye")
		if out, err := exec.Command("go", "build", "-o", path, "../../cmd/tcpbye").CombinedOutput(); err != nil {
			t.Fatalf("build tcpbye: %v\n%s", err, out)
		}
	}
	return path
}

// endRecord is the part of a record that says to which end of a story it
// belongs, and how that is judged.
type endRecord struct {
	ID       string  `json:"id"`
	PeerID   *string `json:"peer_id"`
	Scenario string  `json:"scenario"`
	Verdict  struct {
		Class, Cause string
		Ender, Act   *string
		Signal       *string
	} `json:"verdict"`
}

func (r endRecord) String() string {
	text := func(s *string) string {
		if s == nil {
			return "-"
		}
		return *s
	}
	v := r.Verdict
	return fmt.Sprintf("%s %s, ender %s, act %s %s", v.Class, v.Cause, text(v.Ender), text(v.Act), text(v.Signal))
}

// dueRecord is how an expectation reads as a record.
func dueRecord(x scenario.Expect) string {
	text := func(s string) *string {
		if s == "" {
			return nil
		}
		return &s
	}
	var r endRecord
	r.Verdict.Class, r.Verdict.Cause = string(x.Class), string(x.Cause)
	r.Verdict.Ender, r.Verdict.Act = text(string(x.Ender)), text(string(x.Act))
	if x.Signal != 0 {
		r.Verdict.Signal = text(unix.SignalName(unix.Signal(x.Signal)))
	}
	return r.String()
}

// TestDemoAllJSON runs the whole catalogue as a user does, for a program: every
// line is valid by the schema that tcpbye carries, and there is one for each end.
func TestDemoAllJSON(t *testing.T) {
	kernel, err := scenario.RunningKernel()
	if err != nil {
		t.Fatal(err)
	}
	tcpbye := tcpbyeProgram(t)
	can := exec.Command(tcpbye, "demo", "--can-trace")
	said, err := can.CombinedOutput()
	degraded := can.ProcessState != nil && can.ProcessState.ExitCode() == exitDegraded
	if err != nil && !degraded {
		t.Fatalf("tcpbye demo --can-trace: %v\n%s", err, said)
	}

	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(report.SchemaJSON()))
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	compiler.AssertFormat()
	if err := compiler.AddResource("schema.json", doc); err != nil {
		t.Fatal(err)
	}
	schema, err := compiler.Compile("schema.json")
	if err != nil {
		t.Fatal(err)
	}

	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), tcpbye, "demo", "--all", "-o", "json")
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	start := time.Now()
	err = cmd.Run()
	t.Logf("tcpbye demo --all took %v; it says:\n%s", time.Since(start).Round(time.Second), &stderr)
	if err != nil {
		t.Errorf("tcpbye demo --all -o json: %v", err)
	}
	if degraded {
		// A verdict may then be less certain than is due, or another one; what
		// it says must be valid all the same.
		t.Logf("not everything can be attached here, so verdicts are not compared: %s", said)
	}

	records := map[string][]endRecord{}
	if out := stdout.Bytes(); len(out) == 0 || out[len(out)-1] != '\n' {
		t.Error("the output does not end with a line")
	}
	for line := range bytes.Lines(stdout.Bytes()) {
		v, err := jsonschema.UnmarshalJSON(bytes.NewReader(line))
		if err != nil {
			t.Errorf("not a JSON text: %v\n%s", err, line)
			continue
		}
		if err := schema.Validate(v); err != nil {
			t.Errorf("%v\n%s", err, line)
		}
		var r endRecord
		if err := json.Unmarshal(line, &r); err != nil {
			t.Errorf("%v\n%s", err, line)
			continue
		}
		records[r.Scenario] = append(records[r.Scenario], r)
	}

	absent := 0
	for _, s := range scenario.All() {
		mine := records[s.Name]
		delete(records, s.Name)
		switch {
		case s.MachineWide != "":
			absent++
			if len(mine) > 0 {
				t.Errorf("%s was played, though it changes the whole machine", s.Name)
			}
		case len(mine) == 0:
			// Only what the kernel is known to lack may be left out.
			_, err := scenario.Execute(t.Context(), s, scenario.Options{Stderr: os.Stderr})
			var missing *scenario.Missing
			if !errors.As(err, &missing) || !missing.Expected(kernel) {
				t.Errorf("%s: no record; played without tcpbye it ends with: %v", s.Name, err)
				continue
			}
			absent++
			t.Logf("%s: %v", s.Name, missing)
		default:
			checkRecords(t, s, mine, degraded)
		}
	}
	for name, rest := range records {
		t.Errorf("%d records of %q, which is no scenario", len(rest), name)
	}
	if want := fmt.Sprintf(" %d not on this kernel", absent); !strings.Contains(stderr.String(), want) {
		t.Errorf("the summary does not say%q", want)
	}
}

// checkRecords holds a scenario's records against its ends.
func checkRecords(t *testing.T, s scenario.Scenario, records []endRecord, degraded bool) {
	t.Helper()
	due := map[string]bool{} // what a record may say, and whether one does
	want := 0
	for _, x := range s.Ends {
		if x.Class == verdict.Unknown {
			continue // on the other machine of a remote story
		}
		want++
		due[dueRecord(x)] = false
	}
	more := moreEnds[s.Name]
	if more < 0 && len(records) < want || more >= 0 && len(records) != want+more {
		t.Errorf("%s: %d records for %d ends", s.Name, len(records), want+more)
	}
	var ids []string
	for _, r := range records {
		if slices.Contains(ids, r.ID) {
			t.Errorf("%s: two records have the id %s", s.Name, r.ID)
		}
		ids = append(ids, r.ID)
		if degraded {
			continue
		}
		if _, ok := due[r.String()]; !ok {
			t.Errorf("%s: to no end is due %s", s.Name, r)
		}
		due[r.String()] = true
	}
	for x, found := range due {
		if !found && !degraded {
			t.Errorf("%s: no record says %s", s.Name, x)
		}
	}
	for _, r := range records {
		if r.PeerID != nil && !slices.Contains(ids, *r.PeerID) {
			t.Errorf("%s: the other end of %s has no record", s.Name, r.ID)
		}
	}
}
