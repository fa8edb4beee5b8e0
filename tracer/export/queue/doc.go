// Package queue keeps batches that wait to be sent, within a bound, on disk where it
// has a directory.
//
// Rules of this package:
//
//   - What was put is there until it is taken off, also after the process was killed.
//   - The bound is one of bytes. Beyond it the oldest batches go; how many records were
//     in them is counted.
//   - Nothing is written through a link: the directory is one that nobody else can write in.
//   - A disk that cannot be written on costs no batch as long as there is room in memory.
package queue
