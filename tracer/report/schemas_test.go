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
	"github.com/tcpbye/tcpbye/tracer/finding"
	"github.com/tcpbye/tcpbye/tracer/proxy"
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
	one, rate := 5*time.Second, 12.5
	var findings []finding.Finding
	for _, k := range finding.Kinds() {
		findings = append(findings, finding.Finding{Kind: k, Count: 3, Of: 9, Service: netip.MustParseAddrPort("10.0.0.1:80"), Period: &one, Until: &one, Rate: &rate, Chance: 1e-9, Cause: verdict.CloseUnread, First: 1, Last: 2},
			finding.Finding{Kind: k, Harmless: true, Count: 1, Of: 1, PID: 7, ServiceComm: "a\x1b", Period: &one, Off: 3, Timed: 4, Until: &one, Below: &one, Rate: &rate, OOM: true, Act: verdict.ActKilled, Signal: 9})
	}
	var people bytes.Buffer
	if err := WriteFindings(&people, findings, Options{Width: 80}); err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(people.Bytes(), []byte("Setting")); n != len(findings) || bytes.ContainsRune(people.Bytes(), 0x1b) {
		t.Errorf("%d settings for %d findings:\n%s", n, len(findings), &people)
	}
	tie := proxy.Tie{Gap: time.Millisecond, Adjacent: true}
	for at, cause := range map[**proxy.Leg]verdict.Cause{&tie.Cause: verdict.PeerAbort, &tie.Effect: verdict.CloseUnread} {
		*at = &proxy.Leg{Conn: &conn.Connection{ID: "1", Local: netip.MustParseAddrPort("10.0.0.1:1"), Remote: netip.MustParseAddrPort("10.0.0.2:2")}, PID: 7, Comm: "a\x1b",
			Verdict: verdict.Verdict{Class: verdict.Aborted, Cause: cause}}
	}
	tie.Effect.Down, tie.Cause.By = true, proxy.PromptReset
	if want, got := `a\x1b/7 reset the client 10.0.0.2:2 because the backend 10.0.0.2:2 had reset a\x1b 1.0 ms before`, Tied(&tie); got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	written := map[string][]func(*bytes.Buffer) error{
		"rollout": {
			func(b *bytes.Buffer) error { return full.JSON(b, Options{}) },
			func(b *bytes.Buffer) error { return empty.JSON(b, Options{}) },
		},
		"findings": nil,
		"proxy":    {func(b *bytes.Buffer) error { return TiesJSON(b, []proxy.Tie{tie}, Options{}) }},
		"test": {func(b *bytes.Buffer) error {
			line, err := FaultsJSON(faults, Clock{})
			b.Write(line)
			return err
		}},
	}
	for i := range findings {
		written["findings"] = append(written["findings"], func(b *bytes.Buffer) error { return FindingsJSON(b, findings[i:i+1], Options{}) })
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

// TestTied: the sentence tells what ended the cause, whatever its verdict's class is.
func TestTied(t *testing.T) {
	at := &conn.Connection{Remote: netip.MustParseAddrPort("10.0.0.2:2")}
	for by, want := range map[proxy.Prompt]string{
		proxy.PromptFIN:      "the backend 10.0.0.2:2 had closed its connection to p",
		proxy.PromptReset:    "the backend 10.0.0.2:2 had reset p",
		proxy.PromptPath:     "something between p and the backend 10.0.0.2:2 had reset their connection",
		proxy.PromptTimeout:  "the connection of p to the backend 10.0.0.2:2 had timed out",
		proxy.PromptOperator: "somebody on this machine had destroyed the connection of p to the backend 10.0.0.2:2",
		proxy.PromptOther:    "the connection of p to the backend 10.0.0.2:2 had ended",
	} {
		for _, class := range []verdict.Class{verdict.Aborted, verdict.Graceful, verdict.Unknown, verdict.TimedOut} {
			x := proxy.Tie{Gap: time.Millisecond, Cause: &proxy.Leg{Conn: at, By: by, Verdict: verdict.Verdict{Class: class}}, Effect: &proxy.Leg{Conn: at, Down: true, PID: 7, Comm: "p"}}
			if want, got := "p/7 closed the connection of the client 10.0.0.2:2 because "+want+" 1.0 ms before", Tied(&x); got != want {
				t.Errorf("%s, %s: %s\nwant %s", by, class, got, want)
			}
		}
	}
}

// TestFindingProof: only what is certain is told as proven.
func TestFindingProof(t *testing.T) {
	for _, x := range []struct {
		kind    finding.Kind
		certain int
		want    string
	}{
		{finding.CloseUnread, 5, "each of the 5 is proven on its own (close-unread)"},
		{finding.CloseUnread, 2, "5, 2 of them certain and the rest likely (close-unread)"},
		{finding.Refused, 0, "5, each of them likely, none certain (close-unread)"},
		{finding.Unanswered, 5, "5 times bytes had come after the last that it sent, and it ended the connection"},
		{finding.Unanswered, 2, "5 times, 2 of them certain and the rest likely, bytes had come after the last that it sent, and it ended the connection"},
	} {
		f := finding.Finding{Kind: x.kind, Count: 5, Of: 9, Certain: x.certain, Cause: verdict.CloseUnread}
		if got := findingProof(&f); got != x.want {
			t.Errorf("%s, %d certain: %q, want %q", x.kind, x.certain, got, x.want)
		}
		if r := findingRecord(&f, Clock{}); r.Certain == nil || *r.Certain != x.certain {
			t.Errorf("%s, %d certain: %v in JSON", x.kind, x.certain, r.Certain)
		}
	}
}
