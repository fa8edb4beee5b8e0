// Package annotate puts what is known of connections into a capture that somebody
// else made of them: as comments on its packets.
//
// A packet belongs to a connection by its addresses, ports and sequence numbers; by
// its time only where several connections had the same. The verdict goes to the
// packet that ended the connection; where that is not in the capture, to the last one
// of the connection. All else in the capture stays as it is.
//
// A capture is read twice: [Match] finds the packets, [Plan.Write] writes them with
// their comments. Neither does any I/O but on the readers and writers that it is
// given. What is read is not trusted.
package annotate
