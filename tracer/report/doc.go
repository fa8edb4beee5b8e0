// Package report shows judged connections: one column model, many sinks.
//
// A [Sink] takes one judged end at a time and writes it in its format. The
// formats for machines (json, csv, logfmt, ecs, ocsf) and the table write each end at once; the
// formats for the eye (timeline, sequence, mermaid, html, svg) show the two
// ends of a connection side by side, once, and so hold the first end until the
// second one arrives or the sink is closed; so do pcapng, which is for tools that
// read captures, and pprof and folded, which count stacks.
//
// Rules of this package:
//
//   - It writes to the io.Writer it was given and nowhere else. It knows no
//     clock, no /proc and no terminal: the width, the colour, the character set
//     and the offset to wall time are the caller's (see [Options]).
//   - What a process owns (its name, its executable, its container) never
//     reaches a terminal raw: see [Quote].
//   - A value that is not known is shown as unknown: null in JSON, an empty
//     field in CSV, "-" or, among counts, "?" in a table; never 0 instead.
//   - The first error of the writer is kept and comes back from End and Close.
//   - What is in the page of html is escaped by html/template, and no script but the
//     sink's own runs in it.
//   - Only grid.go imports tablewriter. gopacket makes the packets of pcapng.
//
// A Sink is not for concurrent use.
package report
