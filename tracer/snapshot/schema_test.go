package snapshot

import (
	"bytes"
	"reflect"
	"strings"
	"testing"

	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/schematest"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// TestSchema: the schema has the keys of the record, the words of the code, and takes
// what is written.
func TestSchema(t *testing.T) {
	d := schematest.Read(t, SchemaJSON())
	d.Hold(t, "socket", reflect.TypeFor[socketRecord]())
	var states, causes, halts []string
	for s := event.Established; s <= event.NewSynRecv; s++ {
		states = append(states, s.String())
	}
	for _, r := range verdict.Rules() {
		if r.Class == verdict.Open {
			causes = append(causes, string(r.Cause))
		}
	}
	for h := Running + 1; h <= Frozen; h++ {
		halts = append(halts, *recordOf(&Holder{Halt: h}).Halt)
	}
	d.HoldEnum(t, "state", d.Properties["state"], states)
	d.HoldEnum(t, "cause", d.Properties["cause"], causes)
	d.HoldEnum(t, "halt", d.Defs["holder"].Properties["halt"], halts)
	d.HoldEnum(t, "age_bound", d.Properties["age_bound"], []string{"at-least", "at-most"})
	d.HoldEnum(t, "family", d.Properties["family"], []string{event.IPv4.String(), event.IPv6.String()})

	var b bytes.Buffer
	if err := JSON(&b, sockets()); err != nil {
		t.Fatal(err)
	}
	s := schematest.Compile(t, SchemaJSON())
	lines := strings.Split(strings.TrimSpace(b.String()), "\n")
	for _, line := range lines {
		if err := schematest.Validate(s, []byte(line)); err != nil {
			t.Errorf("%v\n%s", err, line)
		}
	}
	for _, x := range [][2]string{{`"state":"CLOSE_WAIT"`, `"state":"CLOSING_TIME"`}, {`"unread":`, `"unread":-1,"x":`}, {`"age_ms":`, `"age":`}, {`"cause":"close-wait-leak"`, `"cause":"leak"`}} {
		bad := strings.Replace(lines[1], x[0], x[1], 1)
		if bad == lines[1] {
			t.Fatalf("%s is not in %s", x[0], bad)
		}
		if schematest.Validate(s, []byte(bad)) == nil {
			t.Errorf("%s is allowed", x[1])
		}
	}
}
