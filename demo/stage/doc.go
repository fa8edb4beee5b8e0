// Package stage plays endings under one tracer: scenarios of the catalogue, and
// whatever else says when it ran and which events are its own. It hands on each
// with what the tracer judged.
//
// It prints nothing.
package stage
