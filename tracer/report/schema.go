package report

import (
	"embed"
	"slices"
)

//go:embed schema.json
var schemaJSON []byte

// SchemaJSON is the JSON Schema (draft 2020-12) of Record, for programs that
// read it.
func SchemaJSON() []byte { return slices.Clone(schemaJSON) }

//go:embed *.schema.json
var schemas embed.FS

// Schemas lists what has a schema beside a connection's end.
func Schemas() []string { return []string{"findings", "proxy", "rollout", "test"} }

// SchemaOf is the JSON Schema of one of Schemas; nil: it has none.
func SchemaOf(name string) []byte {
	if !slices.Contains(Schemas(), name) {
		return nil
	}
	b, _ := schemas.ReadFile(name + ".schema.json") // a test reads all of them
	return b
}
