// Package scenario is the catalogue of endings: for each way in which a TCP
// connection can end, how to make it happen with raw system calls, what an
// oracle that knows nothing of the tracer saw, and the verdict that is due.
//
// # The parts
//
// A puppet is a child process that holds one side's sockets; the test drives it over
// a socketpair, one system call a command, and keeps what came of each. A World is
// what one run plays in: that of package harness, with puppets and the connection
// ends that the scenario names. The oracle is a packet capture of the World's
// namespaces, the puppets' record, and the namespaces' counters; an Outcome carries
// all three. A Scenario is a script with its expectations: CheckOutcome holds the
// Outcome against the script (did this ending happen at all?), CheckVerdicts holds a
// judge's verdicts against both. Package stage plays scenarios under a tracer.
//
// # What is expected of a verdict
//
//   - An end's bytes are its own: Unread is what it received and its process did
//     not read, Unsent and Unacked are what it wrote.
//   - Both ends of a pair that has ended carry the cause of the ending that came
//     first, if it reached both; the act and the actor are those of the ender. The
//     causes differ where it did not: where an end had ended before, where the
//     reset was lost, and where a third party ends the survivor (a new SYN on the
//     same ports).
//   - Of a reset from another machine it is at most likely that the peer sent it.
//   - Class open has no ender and no lost bytes (they are not known yet); its act
//     and actor are those of a goodbye that was said in vain, if any. An end that
//     stands although its peer's kernel has given up is open for itself.
//   - An end whose kernel gave up is timed-out; its peer, if it ever hears of it,
//     is aborted, with the same cause.
//   - The reset of a TIME_WAIT, or of a tuple that is no more, after both sides had
//     everything leaves both ends graceful, and harmless.
//   - Of an MPTCP subflow that the kernel's worker closes, no process is the actor;
//     what the application saw, did not read or did not get sent is not known there.
//   - What the application saw is what its system calls told it because of the
//     ending: EOF, an errno's name, SIGPIPE where the signal killed it (after the
//     EPIPE of the same call). A call that nobody made told nobody anything.
//   - Every process closes what it holds at the end of its story, unless the
//     story is that it does not, so that nothing is read after the last look.
//
// # Rules
//
// No sleep stands for synchronisation: a step waits for the kernel's state, with
// a deadline. The only pauses are those that are the ending itself, such as a
// half-close's dwell. Nothing outside namespaces made here is touched, except by
// the scenarios that are marked MachineWide. The package needs root; it does not
// import the tracer, so that no mistake can be shared by both.
package scenario
