// Package record writes and reads recordings: every event of a run, and what
// is needed to judge it again later and elsewhere. A recording holds no payload.
//
// # Format
//
// A recording is the eight bytes "tcpbye\r\n" and then records. A record is
//
//	length   uint32, little endian: of kind and body
//	kind     one byte: 'M' meta, 'E' event, 'L' loss, 'Z' end
//	body
//	checksum uint32, little endian: CRC-32C of kind and body
//
// The body of an event is a sequence of fields: number (uvarint), then the
// value, an uvarint (signed numbers zigzag) or, for addresses and names, its
// length and bytes. Which of the two is fixed by the number's lowest bit: odd
// is length and bytes. A field that is zero is left out, and one that a reader
// does not know is skipped, so fields can be added. The other bodies are JSON.
//
// Recordings can be appended to each other: a new meta record starts a new run.
// A cut or damaged tail is an error that names its offset, after everything
// before it has been delivered.
package record
