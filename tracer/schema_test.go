package tracer

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/schematest"
)

// TestSchema: the schema has the keys of an Examination, the words of the code, and
// takes what is written.
func TestSchema(t *testing.T) {
	d := schematest.Read(t, SchemaJSON())
	d.Hold(t, "doctor", reflect.TypeFor[Examination]())
	var hooks []string
	for _, h := range event.Hooks() {
		hooks = append(hooks, h.String())
	}
	rungs := []string{""}
	for _, r := range []Rung{RungFentry, RungKprobe, RungTyped, RungClassic} {
		rungs = append(rungs, string(r))
	}
	hook := d.Defs["hook"].Properties
	d.HoldEnum(t, "hook", hook["hook"], hooks)
	d.HoldEnum(t, "rung", hook["rung"], rungs)
	d.HoldEnum(t, "attach", d.Properties["attach"], rungs)
	d.HoldEnum(t, "state", hook["state"], []string{string(Fires), string(Unproven), string(Silent), string(NotInTree), string(NoHook)})
	d.HoldEnum(t, "health", d.Properties["health"], []string{string(Full), string(Degraded), string(Cannot)})
	d.HoldEnum(t, "group", d.Defs["fact"].Properties["group"], []string{"kernel", "user"})

	x := Examination{Schema: ExaminationSchema, Health: Full, Kernel: "6.1.0", Arch: "amd64", Facts: []Fact{{Group: "kernel", Name: "BTF", Value: "yes", OK: true}},
		Hooks: []HookState{}, Missing: []string{}, Next: []string{}}
	x.hooks([]Attachment{{Hook: event.HookSetState, Rung: RungTyped, Symbols: []string{"inet_sock_set_state"}},
		{Hook: event.HookClose, Err: errors.New("no such function")}}, exercised{})
	if len(x.Hooks) != 2 || x.Health != Degraded {
		t.Fatalf("%+v", x)
	}
	var b bytes.Buffer
	if err := x.WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
	s := schematest.Compile(t, SchemaJSON())
	if err := schematest.Validate(s, b.Bytes()); err != nil {
		t.Error(err)
	}
	for _, bad := range [][2]string{{`"missing"`, `"absent too"`}, {`"health": "degraded"`, `"health": "so-so"`}, {`"arch": "amd64"`, `"arch": 64`}} {
		text := strings.Replace(b.String(), bad[0], bad[1], 1)
		if text == b.String() {
			t.Fatalf("%s is not in %s", bad[0], text)
		}
		if schematest.Validate(s, []byte(text)) == nil {
			t.Errorf("%s is allowed", bad[1])
		}
	}
}
