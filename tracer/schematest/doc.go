// Package schematest holds JSON Schemas against the Go types and constants that they
// are of. It is for tests.
package schematest
