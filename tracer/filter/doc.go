// Package filter says which endings a person asked for.
//
// A Filter is a pure predicate over a connection's end and its verdict: it reads
// no clock and no /proc, so that a recording is filtered as the live run was.
// What must be asked of the machine when a filter is written down (does the PID
// exist, which number has the user) is asked through World, by Parse.
//
// A filter that can match nothing is an error of Parse, not an empty output.
package filter
