// Package stage plays scenarios under one tracer, and hands on each with what
// the oracle saw and what the tracer judged.
//
// It prints nothing.
package stage
