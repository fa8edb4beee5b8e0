// Package segments tells which TCP segments the events of a connection prove, with
// their sequence numbers, for formats that hold packets.
//
// The hooks sit on the opening and the closing of connections, so these are few:
//
//   - SYN: from tcp_connect, or from the numbers that the connection has
//     afterwards. At an end that accepted, the SYN and the SYN ACK are proven by
//     these numbers, but the kernel tells no time of them: their time is that of
//     the ACK that followed ([Segment.Latest]).
//   - SYN ACK and the ACK of the handshake: as received.
//   - FIN: when it was queued, if it left at once; otherwise when an event first
//     shows that it had left ([Segment.Latest]). One that nothing shows to have
//     left, such as one behind a closed window, is not there. A FIN that rode on
//     payload is told alone.
//   - RST: as received, and as tcp_send_active_reset and tcp_v4_send_reset
//     (net/ipv4) build it from the socket or from the segment that it answers; and
//     that segment, as received.
//   - The last payload: what a process had not read when it closed, and what was
//     not acknowledged at the end. The counters prove its bytes, not how they were
//     cut into segments ([Segment.Several]).
//
// Nothing else is made up: no other payload, no pure acknowledgement, no
// retransmission. Payload bytes are not recorded, but for the text in a RST.
//
// It is pure: no clock, no I/O. Times are CLOCK_MONOTONIC.
package segments
