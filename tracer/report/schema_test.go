package report

import (
	"bytes"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/record"
	"github.com/tcpbye/tcpbye/tracer/schematest"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// compileSchema compiles the schema.
func compileSchema(t testing.TB) *jsonschema.Schema {
	t.Helper()
	return schematest.Compile(t, SchemaJSON())
}

func validate(s *jsonschema.Schema, line []byte) error { return schematest.Validate(s, line) }

// jsonLine is what the sink writes of an end.
func jsonLine(t testing.TB, j Judged) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := NewJSON(&b, Options{}).End(j); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestSchemaOfGoldens(t *testing.T) {
	s := compileSchema(t)
	paths, err := filepath.Glob("testdata/*.ndjson")
	if err != nil {
		t.Fatal(err)
	}
	lines := 0
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for line := range bytes.Lines(b) {
			lines++
			if err := validate(s, line); err != nil {
				t.Errorf("%s: %v\n%s", path, err, line)
			}
		}
	}
	if lines < 5 {
		t.Errorf("only %d golden records: %v", lines, paths)
	}
}

// recorded is one recorded scenario.
type recorded struct {
	meta   record.Meta
	events []event.Event
}

func readRecording(t *testing.T, path string) []recorded {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var runs []recorded
	err = record.Read(f, record.Handler{
		Meta: func(m record.Meta) error {
			runs = append(runs, recorded{meta: m})
			return nil
		},
		Event: func(e event.Event) error {
			r := &runs[len(runs)-1]
			r.events = append(r.events, e)
			return nil
		},
	})
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return runs
}

// TestSchemaOfRecordings holds the record of every recorded end against the
// schema: of the whole story, of one that the trace left early, and of one that
// it came to late.
func TestSchemaOfRecordings(t *testing.T) {
	s := compileSchema(t)
	paths, err := filepath.Glob("../verdict/testdata/*.tcpbye")
	if err != nil {
		t.Fatal(err)
	}
	if len(paths) == 0 {
		t.Fatal("no recordings in ../verdict/testdata: make record writes them")
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".tcpbye"), func(t *testing.T) {
			t.Parallel()
			seen := map[string]int{}
			runs := readRecording(t, path)
			for _, r := range runs {
				half := len(r.events) / 2
				for part, events := range map[string][]event.Event{"whole": r.events, "start": r.events[:half], "end": r.events[half:]} {
					for c, v := range verdict.JudgeAll(events, verdict.Scope{Missing: r.meta.Missing()}) {
						line := jsonLine(t, Judged{Conn: c, Verdict: v, Scenario: r.meta.Scenario})
						seen[part]++
						if err := validate(s, line); err != nil {
							t.Errorf("%s, %s: %v\n%s", r.meta.Scenario, part, err, line)
						}
					}
				}
			}
			// Each run has an end at least, and some end in the second half only.
			if n := len(runs); n == 0 || seen["whole"] < n || seen["start"] < n || seen["end"] < n/2 {
				t.Errorf("only so many records: %v", seen)
			}
		})
	}
}

func readSchema(t *testing.T) *schematest.Document {
	t.Helper()
	return schematest.Read(t, SchemaJSON())
}

// TestSchemaHasTheKeysOfRecord: a key that is added to Record is added here.
func TestSchemaHasTheKeysOfRecord(t *testing.T) {
	d := readSchema(t)
	d.Hold(t, "record", reflect.TypeFor[Record]())
}

// constants are the values of package verdict's string constants of one type, without
// the empty one.
func constants(t *testing.T, typ string) []string {
	t.Helper()
	paths, err := filepath.Glob("../verdict/*.go")
	if err != nil {
		t.Fatal(err)
	}
	var values []string
	for _, path := range paths {
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			g, ok := d.(*ast.GenDecl)
			if !ok || g.Tok != token.CONST {
				continue
			}
			for _, s := range g.Specs {
				v := s.(*ast.ValueSpec)
				if id, ok := v.Type.(*ast.Ident); !ok || id.Name != typ {
					continue
				}
				for _, x := range v.Values {
					value, err := strconv.Unquote(x.(*ast.BasicLit).Value)
					if err != nil {
						t.Fatal(err)
					}
					if value != "" {
						values = append(values, value)
					}
				}
			}
		}
	}
	return values
}

// TestSchemaHasTheConstants: what the code can say, and nothing else, is
// allowed.
func TestSchemaHasTheConstants(t *testing.T) {
	d := readSchema(t)
	v := d.Defs["verdict"].Properties
	e := d.Defs["event"].Properties
	var causes, hooks, states, calls, contexts []string
	for _, r := range verdict.Rules() {
		causes = append(causes, string(r.Cause))
	}
	for _, h := range event.Hooks() {
		hooks = append(hooks, h.String())
	}
	for s := event.Established; s <= event.NewSynRecv; s++ {
		states = append(states, s.String())
	}
	for c := event.CallOther + 1; ; c++ {
		if c.String() == event.CallUnknown.String() {
			break
		}
		calls = append(calls, c.String())
	}
	for c := event.ContextUnknown; c <= event.ContextHardirq; c++ {
		contexts = append(contexts, c.String())
	}
	for _, x := range []struct {
		name string
		n    schematest.Node
		want []string
	}{
		{"class", v["class"], constants(t, "Class")},
		{"ender", v["ender"], constants(t, "Ender")},
		{"act", v["act"], constants(t, "Act")},
		{"confidence", v["confidence"], constants(t, "Confidence")},
		{"retry", v["retry"], constants(t, "Retry")},
		{"answers", d.Properties["reset"].Properties["answers"], constants(t, "Answer")},
		{"cause", v["cause"], constants(t, "Cause")},
		{"cause, by the rules", v["cause"], causes},
		{"hook", e["hook"], hooks},
		{"state", d.Defs["state"], states},
		{"call", e["call"], calls},
		{"context", e["context"], contexts},
		{"family", d.Properties["family"], []string{event.IPv4.String(), event.IPv6.String()}},
		{"open", d.Properties["open"], []string{conn.OpenActive.String(), conn.OpenPassive.String()}},
	} {
		d.HoldEnum(t, x.name, x.n, x.want)
	}
}

// example is a valid record, as a value that a test can spoil.
func example(t *testing.T, j Judged) map[string]any {
	t.Helper()
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(jsonLine(t, j)))
	if err != nil {
		t.Fatal(err)
	}
	return v.(map[string]any)
}

// walkTo walks to an object of a record.
func walkTo(t *testing.T, v any, path ...string) map[string]any {
	t.Helper()
	for _, p := range path {
		if i, err := strconv.Atoi(p); err == nil {
			v = v.([]any)[i]
			continue
		}
		v = v.(map[string]any)[p]
	}
	m, ok := v.(map[string]any)
	if !ok {
		t.Fatalf("%v is not an object", path)
	}
	return m
}

// openEnd is an end that has not ended, with its peer.
func openEnd() Judged {
	_, j := closeDemo()
	j.Conn.Ended = 0
	j.Verdict = verdict.Verdict{Class: verdict.Open, Cause: verdict.CloseWaitLeak, Sentence: "It is open.",
		Confidence: verdict.Certain}
	return j
}

// TestSchemaAllowsEveryRule: each rule's class goes with its cause.
func TestSchemaAllowsEveryRule(t *testing.T) {
	s := compileSchema(t)
	for _, r := range verdict.Rules() {
		j, _ := closeDemo()
		if r.Class == verdict.Open {
			j = openEnd()
		}
		j.Verdict.Class, j.Verdict.Cause = r.Class, r.Cause
		if r.Cause == verdict.UnknownCause {
			j.Verdict.Ender, j.Verdict.Confidence = verdict.NoEnder, verdict.NotKnown
		}
		if err := validate(s, jsonLine(t, j)); err != nil {
			t.Errorf("%s: %v", r.Cause, err)
		}
	}
}

// TestSchemaRefuses spoils valid records.
func TestSchemaRefuses(t *testing.T) {
	s := compileSchema(t)
	records := map[string]func() Judged{
		"closed":   func() Judged { j, _ := closeDemo(); return j },
		"shutdown": func() Judged { j, _ := shutdownDemo(); return j },
		"timeout":  retransmitTimeout,
		"open":     openEnd,
	}
	for name, j := range records {
		if err := s.Validate(any(example(t, j()))); err != nil {
			t.Fatalf("%s, unspoilt: %v", name, err)
		}
	}
	for _, x := range []struct {
		record string
		at     []string
		key    string
		value  any
	}{
		{"closed", nil, "schema", "tcpbye.connection/2"},
		{"closed", nil, "id", ""},
		{"closed", nil, "id", json.Number("1")},
		{"closed", nil, "local", "127.0.0.1"},
		{"closed", nil, "local", "127.0.0.1:65536"},
		{"closed", nil, "local", "127.0.0.256:1"},
		{"closed", nil, "local", "[::1]:42006"}, // family ipv4
		{"closed", nil, "remote", "localhost:80"},
		{"shutdown", nil, "remote", "::1:43211"},
		{"shutdown", nil, "remote", "[::1]"},
		{"closed", nil, "family", "inet"},
		{"closed", nil, "netns", json.Number("0")},
		{"closed", nil, "open", "unknown"},
		{"closed", nil, "open", nil}, // opened is known
		{"closed", nil, "opened", nil},
		{"closed", nil, "opened", "2026-13-14T10:41:07.250000000Z"},
		{"closed", nil, "opened", "2026-03-14T10:41:07.25Z"},
		{"closed", nil, "opened", "2026-03-14 10:41:07.250000000"},
		{"closed", nil, "ended", nil}, // it has ended
		{"closed", nil, "ended", json.Number("1")},
		{"closed", nil, "half_close_ms", json.Number("-1")},
		{"closed", nil, "time_wait", nil},
		{"closed", nil, "time_wait", json.Number("0")},
		{"closed", nil, "events", "none"},
		{"closed", nil, "scenario", ""},
		{"closed", nil, "lost", nil},
		{"closed", []string{"owner"}, "pid", "7"},
		{"closed", []string{"owner"}, "exe", ""},
		{"closed", []string{"owner"}, "cgroup", json.Number("0")},
		{"closed", []string{"verdict"}, "class", "closed"},
		{"closed", []string{"verdict"}, "class", "graceful"},
		{"closed", []string{"verdict"}, "class", "unknown"},
		{"closed", []string{"verdict"}, "class", "open"}, // with what it lost
		{"closed", []string{"verdict"}, "cause", "orderly-close"},
		{"closed", []string{"verdict"}, "cause", "bad-luck"},
		{"closed", []string{"verdict"}, "ender", ""},
		{"closed", []string{"verdict"}, "act", ""},
		{"closed", []string{"verdict"}, "act", "abort"},
		{"closed", []string{"verdict"}, "act", "killed"}, // by no signal
		{"closed", []string{"verdict"}, "signal", "SIGKILL"},
		{"closed", []string{"verdict"}, "sentence", ""},
		{"closed", []string{"verdict"}, "advice", ""},
		{"closed", []string{"verdict"}, "app_saw", []any{"EOF", "EOF"}},
		{"closed", []string{"verdict"}, "app_saw", []any{"reset"}},
		{"closed", []string{"verdict"}, "harmless", true}, // with advice
		{"closed", []string{"verdict"}, "confidence", "sure"},
		{"closed", []string{"verdict"}, "confidence", "unknown"},
		{"closed", []string{"verdict"}, "missing", []any{"tcp_reset"}}, // and certain
		{"closed", []string{"verdict", "actor"}, "stack", ""},
		{"closed", []string{"lost"}, "unread", json.Number("-1")},
		{"closed", []string{"lost"}, "unsent", json.Number("1.5")},
		{"closed", []string{"lost"}, "unacked", "9"},
		{"open", []string{"lost"}, "unread", json.Number("0")},
		{"open", []string{"lost"}, "unsent", json.Number("0")},
		{"open", []string{"lost"}, "unacked", json.Number("0")},
		{"open", []string{"bytes"}, "sent", json.Number("0")},
		{"open", []string{"bytes"}, "acked", json.Number("0")},
		{"open", []string{"bytes"}, "received", json.Number("0")},
		{"open", []string{"verdict"}, "ender", "local-process"},
		{"open", []string{"verdict"}, "cause", "data-after-close"},
		{"timeout", []string{"verdict"}, "class", "refused"},
		{"timeout", nil, "half_close_ms", json.Number("5")}, // without FINs
		{"shutdown", []string{"fin", "local"}, "acked", nil},
		{"shutdown", []string{"fin", "local"}, "act", "killed"},
		{"shutdown", []string{"fin", "local"}, "comm", nil},
		{"closed", []string{"events", "0"}, "t_ns", json.Number("-1")},
		{"closed", []string{"events", "0"}, "hook", "kprobe"},
		{"closed", []string{"events", "0"}, "context", "interrupt"},
		{"closed", []string{"events", "0"}, "state", "CLOSED"},
		{"closed", []string{"events", "0"}, "to_state", nil},
		{"closed", []string{"events", "1"}, "to_state", "CLOSE"},
		{"closed", []string{"events", "1"}, "elsewhere", false},
		{"closed", []string{"events", "1"}, "call", "fork"},
		{"closed", []string{"events", "1"}, "how", "wr"},
		{"closed", []string{"events", "1"}, "reason", json.Number("1")},
		{"closed", []string{"events", "1"}, "substate", "TIME_WAIT"},
		{"closed", []string{"events", "1"}, "errno", "EPIPE"},
		{"closed", []string{"events", "1"}, "sk_err", "none"},
		{"closed", []string{"events", "1"}, "signal", "SIGPIPE"},
		{"closed", []string{"events", "1"}, "target_pid", json.Number("1")},
		{"closed", []string{"events", "1"}, "status", json.Number("0")},
		{"closed", []string{"events", "1"}, "refs", json.Number("1")},
		{"closed", []string{"events", "1"}, "unread", json.Number("0")},
		{"closed", []string{"events", "1"}, "tcp", map[string]any{}},
		{"closed", []string{"events", "1"}, "segment", map[string]any{}},
	} {
		r := example(t, records[x.record]())
		o := walkTo(t, r, x.at...)
		if was, ok := o[x.key]; ok && reflect.DeepEqual(was, x.value) {
			t.Errorf("%s: %v %s is %v already", x.record, x.at, x.key, x.value)
		}
		o[x.key] = x.value
		if s.Validate(any(r)) == nil {
			t.Errorf("%s: %v %s may be %v", x.record, x.at, x.key, x.value)
		}
	}
}

// TestSchemaRefusesOtherKeys takes each key away, and adds one, in every
// object of the goldens' records.
func TestSchemaRefusesOtherKeys(t *testing.T) {
	s := compileSchema(t)
	d := readSchema(t)
	optional := map[string]bool{"record.scenario": true}
	for key := range d.Defs["event"].Properties {
		if !slices.Contains(d.Defs["event"].Required, key) {
			optional["event."+key] = true
		}
	}
	spoilt := 0
	var walk func(root any, v any, at string)
	walk = func(root any, v any, at string) {
		switch v := v.(type) {
		case []any:
			for i, x := range v {
				walk(root, x, fmt.Sprintf("%s[%d]", at, i))
			}
		case map[string]any:
			owner := "record"
			if strings.HasSuffix(at, "]") {
				owner = "event"
			} else if at != "record" {
				owner = at
			}
			for _, key := range slices.Sorted(maps.Keys(v)) {
				x := v[key]
				walk(root, x, at+"."+key)
				if optional[owner+"."+key] {
					continue
				}
				spoilt++
				delete(v, key)
				if s.Validate(root) == nil {
					t.Errorf("%s may lack %s", at, key)
				}
				v[key] = x
			}
			spoilt++
			v["other"] = nil
			if s.Validate(root) == nil {
				t.Errorf("%s may have a key of its own", at)
			}
			delete(v, "other")
			if err := s.Validate(root); err != nil {
				t.Fatalf("%s is not as it was: %v", at, err)
			}
		}
	}
	left, right := closeDemo()
	half, _ := shutdownDemo()
	for _, j := range []Judged{left, right, half, hostile(), retransmitTimeout()} {
		var root any = example(t, j)
		walk(root, root, "record")
	}
	if spoilt < 300 {
		t.Errorf("only %d spoilt records were tried", spoilt)
	}
}
