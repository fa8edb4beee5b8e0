// Package crowd plays many connections, and many processes, at once before
// tcpbye as people run it, and holds what it prints against what happened: a
// server that is older than the trace, hundreds of processes that are gone when
// their events are read, sockets that somebody else still holds, ten thousand
// connections of real programs, every output read again from its recording, and
// what is left of it when it is killed.
//
// Package scenario shows that one ending is judged right. Here nothing new ends;
// what is shown is that nothing is mixed up, missed or invented in a crowd.
//
// # Rules
//
// The tests have the build tag lab and need root. They run tcpbye itself, that of
// PATH or else the tree's, and read what it prints. In the lab every hook is
// there and every answer must be exact; on a machine where hooks are missing an
// answer may be unsure, but what tcpbye is certain of must be so.
//
// Everything plays in network namespaces made here. No sleep stands for
// synchronisation: processes wait for each other over pipes and for the kernel's
// tables, with a deadline.
package crowd
