// Package metrics counts ended connections for Prometheus, under the names that
// docs/EXPORT.md lists.
//
// Rules of this package:
//
//   - Every end is counted, once, and none is sampled: the certain ones by their cause,
//     the others apart.
//   - No label is unbounded. Those by process, container and pod are only there when
//     they are asked for, and beyond a cap all go to "other".
//   - It listens on nothing and writes nothing: Handler answers whoever serves it.
package metrics
