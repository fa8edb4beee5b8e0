package report

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/fault"
	"github.com/tcpbye/tcpbye/tracer/rollout"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// TestSchemas: every one is a schema, has the name of its record's version, and what is
// written keeps to it.
func TestSchemas(t *testing.T) {
	drain := 1500 * time.Millisecond
	full := Rollout{Service: "x", MaxCut: 0, Summary: rollout.Summary{
		Trigger: rollout.Trigger{At: time.Second, Kind: rollout.TriggerSignal, Signal: 15, PID: 7}, OpenThen: 1, Opened: 2, Drain: &drain, Cut: 1, Drained: 2, Safe: 1,
		Groups: []rollout.Count{{Connections: 1, Group: rollout.Group{Outcome: rollout.Cut, Why: rollout.Unread, Cause: verdict.CloseUnread, Act: verdict.ActKilled, Signal: 9, PID: 7, Comm: "a\x1b", Retry: verdict.RetrySafe, Confidence: verdict.Certain}},
			{Connections: 2, LossUnknown: true, Group: rollout.Group{Outcome: rollout.Drained, Cause: verdict.OrderlyClose, Confidence: verdict.Likely}}},
	}}
	empty := Rollout{MaxCut: -1, Summary: rollout.Summary{Trigger: rollout.Trigger{Kind: rollout.TriggerTrace}}}
	faults := fault.New(fault.Options{Root: "/src"})
	stack := event.StackOf([]event.Frame{{Function: "a/b.F", File: "/src/b.go", Line: 3}})
	faults.End(&conn.Connection{ID: "1", Local: netip.MustParseAddrPort("10.0.0.1:1"), Ended: 1}, &verdict.Verdict{Class: verdict.Aborted, Cause: verdict.CloseUnread, Ender: verdict.LocalProcess,
		Actor: &conn.Process{PID: 7, Comm: "x", Stack: stack}, Confidence: verdict.Likely, Sentence: "It closed."})
	written := map[string][]func(*bytes.Buffer) error{
		"rollout": {
			func(b *bytes.Buffer) error { return full.JSON(b, Options{}) },
			func(b *bytes.Buffer) error { return empty.JSON(b, Options{}) },
		},
		"test": {func(b *bytes.Buffer) error {
			line, err := FaultsJSON(faults, Clock{})
			b.Write(line)
			return err
		}},
	}
	for _, name := range Schemas() {
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(SchemaOf(name)))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		c := jsonschema.NewCompiler()
		c.AssertFormat()
		if err := c.AddResource(name, doc); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		s, err := c.Compile(name)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if len(written[name]) == 0 {
			t.Errorf("nothing is held against the schema of %s", name)
		}
		for _, write := range written[name] {
			var b bytes.Buffer
			if err := write(&b); err != nil {
				t.Fatal(err)
			}
			if err := validate(s, b.Bytes()); err != nil {
				t.Errorf("%s: %v\n%s", name, err, &b)
			}
			// A key that the schema does not have is an error there.
			var m map[string]any
			if err := json.Unmarshal(b.Bytes(), &m); err != nil {
				t.Fatal(err)
			}
			m["more"] = 1
			more, err := json.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			if validate(s, more) == nil {
				t.Errorf("%s: the schema takes anything", name)
			}
		}
	}
	if SchemaOf("schema") != nil || SchemaOf("") != nil {
		t.Error("there are schemas of nothing")
	}
}
