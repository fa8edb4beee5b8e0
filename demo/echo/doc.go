// Package echo is a TCP client and server that reproduce a well-known teaching
// experiment on close(2) and shutdown(2).
//
// The server answers every message "X" with "Hi, X", after some work that takes
// [Server.Delay]. The person at the client sends two messages and ends the
// connection before the first answer is out. With "close" the client's kernel has
// no reader left for the answer and replies to it with RST, and the server's second
// answer meets EPIPE and SIGPIPE. With "shutdown" only the client's own direction
// ends: both answers arrive, then the server's FIN.
//
// Rules of this package:
//
//   - It makes system calls through golang.org/x/sys/unix, never through package
//     net, which sets options, polls and closes on its own. What the program says
//     is what the kernel gets.
//   - An IPv4 connection is an AF_INET socket, an IPv6 connection an AF_INET6
//     socket: the server has a listener for each family.
//   - Run never closes a connection behind the program's back. Where the story says
//     "the process exits", Run returns with the socket open and it is the exit of
//     the caller's process that sends the FIN.
//   - Each line of output is one Write, so that whoever drives the pair (package
//     pair) can act on a line as soon as it is there. Results go to Stdout, failures
//     to Stderr.
//   - Run returns an exit status: 0 for an end that belongs to the experiment, 1 for
//     a failed system call, 2 for a setting that makes no sense.
package echo
