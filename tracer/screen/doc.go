// Package screen is the full screen of tcpbye top: what is open, why connections
// ended, and the endings as they come.
//
// A [Feed] takes judged ends from a session, as a sink of the report package, and
// what a snapshot found open; a [Model] shows them. The two run on different
// goroutines: what passes between them is copied.
//
// Rules of this package:
//
//   - A Model does no I/O and knows no clock: it changes by the messages that it gets
//     and its view is a function of them, so that it is tested without a terminal.
//   - It draws no cell of its own where package report draws it: rows, timelines and
//     verdicts are those of the other commands, with their quoting.
//   - Only this package and cmd/tcpbye import bubbletea.
package screen
