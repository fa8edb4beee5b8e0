// Package journal writes ends to systemd's journal: a sentence for people, fields for
// queries, and a MESSAGE_ID for each cause, for which Catalog has the explanation that
// journalctl -x shows.
//
// Rules of this package:
//
//   - Fields are the columns of CSV, in capitals, after TCPBYE_.
//   - A MESSAGE_ID is a hash of the cause's name, so it never changes.
//   - End never waits for the journal: what it has no room for is counted.
package journal
