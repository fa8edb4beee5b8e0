// Package real plays endings with programs that nobody here wrote: nginx,
// redis-server, haproxy, curl, sshd and others, as Debian ships them, each in a
// scripted run, under one tracer. Where package scenario makes an ending happen
// with one system call of a puppet, here it happens as it does in production.
//
// # The parts
//
// A Run is a script. It starts programs in a World, that of package harness, which
// is a network namespace with nothing but loopback, and a temporary directory for
// their files; it drives them by what they are driven by (configuration, signals,
// standard input), and says, as Links, which connections there were and what is
// due to both of their ends. PlayOn plays it on a stage and holds the verdicts
// against that, and against a packet capture, the kernel's table of sockets and the
// programs' own messages.
//
// Cases are the kinds of endings that people report again and again, with what
// plays each: a run, a scenario of package scenario, or nothing, for a reason.
//
// # Rules
//
// No sleep stands for synchronisation: a step waits for a listener, a row of the
// kernel's table of sockets, a line of a program's output or its exit, with a
// deadline. A timeout that a program was configured to have is the ending itself.
//
// An expectation says what happened, not what the tracer makes of it. Where the
// order of events is up to the machine, the script forces it (SIGSTOP, a gate), or
// says that a number is not known.
//
// Everything listens on 127.0.0.1, or on the address of a namespace that the run
// has made. The package needs root.
package real
