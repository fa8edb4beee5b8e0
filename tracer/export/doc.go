// Package export says what an agent makes of an ended connection: whether it is an
// event of its own, how severe it is, and under which trace and span it goes. The
// packages below it send that: metrics to Prometheus, otlp to OpenTelemetry, journal
// to systemd.
//
// Rules of this package:
//
//   - Every end is counted. Events are of the ends that are worth a look, and of a
//     sample of the others.
//   - Identities and the sample are functions of the connection's key (conn.KeyOf),
//     so two agents that never talk give both ends of a connection the same trace,
//     and keep both or neither.
//   - It does no I/O and prints nothing.
package export
