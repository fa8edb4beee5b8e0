// Package fault finds the endings of a test run that are a test's fault, and where in
// the source they were made.
//
// It is pure: no clock, no /proc, no goroutine, no printing. It gets judged ends, as
// session.Config.Show delivers them, and gives values and the bytes of reports.
//
// # What a fault is
//
// A connection of the run, counted once, that
//
//   - was aborted or timed out, unless the reset was harmless or a probe's;
//   - the service ended without an answer;
//   - a process still held, in CLOSE_WAIT, when it exited: the other end had finished at
//     least LeakAge before, and nobody closed this one (a leak).
//
// A verdict that is not known is never a fault, and neither is one of a connection that
// lost events: an annotation on a run that was right is worse than none. A connection
// refused is no fault: tests wait for servers that way. A connection that was open at
// the exit otherwise is counted and is no fault: pools keep those.
//
// # Where
//
// The place is the innermost call of the process that made the ending whose source lies
// below the root of the tests, as the stack tells, or what the tests' own runtime noted
// of the call (Call).
package fault
