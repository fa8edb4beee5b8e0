package schematest

import (
	"bytes"
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

// Compile compiles a schema, after it has been held against its own meta-schema.
func Compile(t testing.TB, schema []byte) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(schema))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat() // draft 2020-12 lets a validator ignore formats
	if err := c.AddResource("schema.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Validate holds one object against a schema.
func Validate(s *jsonschema.Schema, line []byte) error {
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(line))
	if err != nil {
		return err
	}
	return s.Validate(v)
}

// Node is one schema in the document, as far as the tests look at it.
type Node struct {
	Ref        string          `json:"$ref"`
	Defs       map[string]Node `json:"$defs"`
	Type       types           `json:"type"`
	Enum       []*string       `json:"enum"`
	AnyOf      []Node          `json:"anyOf"`
	Items      *Node           `json:"items"`
	Properties map[string]Node `json:"properties"`
	Required   []string        `json:"required"`
	Additional *bool           `json:"additionalProperties"`
}

// types is one type or a list of them.
type types []string

func (t *types) UnmarshalJSON(b []byte) error {
	if b[0] == '[' {
		return json.Unmarshal(b, (*[]string)(t))
	}
	*t = types{""}
	return json.Unmarshal(b, &(*t)[0])
}

// Document is the schema's text.
type Document struct{ Node }

// Read reads a schema.
func Read(t testing.TB, schema []byte) *Document {
	t.Helper()
	var d Document
	if err := json.Unmarshal(schema, &d.Node); err != nil {
		t.Fatal(err)
	}
	return &d
}

// Hold compares a Go type with the schema of its JSON: its keys, which of them must be
// there, and their types.
func (d *Document) Hold(t *testing.T, name string, typ reflect.Type) {
	t.Helper()
	d.hold(t, name, typ, false, d.Node)
}

// HoldEnum compares the strings that a schema allows with those that the code has.
func (d *Document) HoldEnum(t *testing.T, name string, n Node, want []string) {
	t.Helper()
	var got []string
	for _, s := range d.resolve(n).Enum {
		if s != nil {
			got = append(got, *s)
		}
	}
	if len(want) < 2 {
		t.Errorf("%s: only the constants %v were found", name, want)
	}
	if d := cmp.Diff(sorted(want), sorted(got)); d != "" {
		t.Errorf("%s: not the constants of Go (-Go +schema):\n%s", name, d)
	}
}

// resolve follows references, and gathers the types of alternatives, and the keys of the one
// that is an object.
func (d *Document) resolve(n Node) Node {
	for n.Ref != "" {
		n = d.Defs[strings.TrimPrefix(n.Ref, "#/$defs/")]
	}
	for _, x := range n.AnyOf {
		x = d.resolve(x)
		n.Type = append(n.Type, x.Type...)
		if x.Properties != nil {
			n.Properties, n.Required, n.Additional = x.Properties, x.Required, x.Additional
		}
	}
	return n
}

// hold compares a Go type with the schema of its JSON.
func (d *Document) hold(t *testing.T, at string, typ reflect.Type, optional bool, n Node) {
	t.Helper()
	n = d.resolve(n)
	nullable := false
	if typ.Kind() == reflect.Pointer {
		typ, nullable = typ.Elem(), !optional
	}
	if typ.Kind() == reflect.Slice && slices.Contains(n.Type, "null") {
		nullable = true // a slice can be null: whether this one is, the data shows
	}
	kind := map[reflect.Kind]string{reflect.Struct: "object", reflect.Slice: "array", reflect.String: "string", reflect.Bool: "boolean", reflect.Float64: "number"}[typ.Kind()]
	if kind == "" && typ.Kind() >= reflect.Int && typ.Kind() <= reflect.Uint64 {
		kind = "integer"
	}
	want := []string{kind}
	if nullable {
		want = append(want, "null")
	}
	got := slices.Sorted(slices.Values(n.Type))
	slices.Sort(want)
	if got = slices.Compact(got); !slices.Equal(got, want) {
		t.Errorf("%s has the types %v, but %v in Go", at, got, want)
	}
	switch typ.Kind() {
	case reflect.Slice:
		if n.Items == nil {
			t.Errorf("%s: nothing is said of its items", at)
			return
		}
		if typ.Elem().Kind() == reflect.Struct {
			d.hold(t, at+"[]", typ.Elem(), false, *n.Items)
		}
	case reflect.Struct:
		if n.Additional == nil || *n.Additional {
			t.Errorf("%s: other keys are not refused", at)
		}
		var keys, required []string
		for f := range typ.Fields() {
			key, opts, _ := strings.Cut(f.Tag.Get("json"), ",")
			if key == "-" {
				continue
			}
			keys = append(keys, key)
			if opts != "omitempty" {
				required = append(required, key)
			}
			p, ok := n.Properties[key]
			if !ok {
				continue
			}
			d.hold(t, at+"."+key, f.Type, opts == "omitempty", p)
		}
		if d := cmp.Diff(sorted(keys), sorted(slices.Collect(maps.Keys(n.Properties)))); d != "" {
			t.Errorf("%s: the keys are not those of Go (-Go +schema):\n%s", at, d)
		}
		if d := cmp.Diff(sorted(required), sorted(n.Required)); d != "" {
			t.Errorf("%s: the keys that must be there are not those of Go (-Go +schema):\n%s", at, d)
		}
	}
}

func sorted(s []string) []string {
	s = slices.Clone(s)
	slices.Sort(s)
	return s
}
