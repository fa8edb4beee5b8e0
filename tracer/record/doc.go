// Package record writes and reads recordings: every event of a run, and what
// is needed to judge it again later and elsewhere. A recording holds no payload.
//
// # Format
//
// A recording is the eight bytes "tcpbye\r\n" and then records. A record is
//
//	length   uint32, little endian: of kind and body
//	kind     one byte: 'M' meta, 'E' event, 'L' loss, 'Z' end,
//	         'P' process, 'S' seed, 'T' tick, 'C' choice, 'W' wall clock,
//	         'K' story, 'O' a look at the kernel's own table of sockets
//	body
//	checksum uint32, little endian: CRC-32C of kind and body
//
// The body of an event is a sequence of fields: number (uvarint), then the
// value, an uvarint (signed numbers zigzag) or, for addresses and names, its
// length and bytes. Which of the two is fixed by the number's lowest bit: odd
// is length and bytes. A field that is zero is left out, and one that a reader
// does not know is skipped, so fields can be added. The other bodies are JSON,
// and a record of a kind that a reader does not know is skipped.
//
// The body of a story is the length of a jiffy in nanoseconds (uvarint) and struct
// story as the kernel half makes it (package story).
//
// A process record tells what was looked up of a process while it lived; it
// stands before the events that it explains. A seed is a connection that was
// there when the run began. A tick says that no older event will come: it stands
// where the run judged by the time, and not by a later event.
//
// Recordings can be appended to each other: a new meta record starts a new run,
// unless it says that it continues the one before.
// A cut or damaged tail is an error that names its offset, after everything
// before it has been delivered.
package record
