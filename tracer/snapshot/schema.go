package snapshot

import (
	_ "embed"
	"slices"
)

//go:embed schema.json
var schemaJSON []byte

// SchemaJSON is the JSON Schema (draft 2020-12) of what JSON writes, for programs that
// read it.
func SchemaJSON() []byte { return slices.Clone(schemaJSON) }
