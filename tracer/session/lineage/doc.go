// Package lineage tells whose child a process is and what it executes, also when
// it, or its parent, is gone: the kernel tells of each fork and exec (the process
// events connector), and /proc of those that were before.
//
// Where the kernel does not tell (no root, another network or PID namespace than
// the initial one, a kernel without CONFIG_PROC_EVENTS) there is only /proc,
// which forgets the dead and gives their children to init.
//
// A goroutine takes the news at once, since a process that lives for a millisecond
// must be looked at within it; Close ends it. What it comes too late for, it knows
// of the kernel's record of executable mappings (perf_event_open(2)), where there
// is one.
package lineage
