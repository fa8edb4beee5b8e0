// Package pcapng reads and writes the blocks of a capture file in the format pcapng
// (draft-ietf-opsawg-pcapng).
//
// gopacket's pcapgo reads packets and drops what else a file holds, and writes no
// process numbers; here a block that is not changed stays as it was, byte for byte,
// and a packet can get any option.
//
// It reads and writes what it is given and does no other I/O. What comes from a file
// is not trusted: lengths are checked, and a block has at most [MaxBlock] bytes.
package pcapng
