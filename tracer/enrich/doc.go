// Package enrich looks up what the kernel's events do not carry and what is
// lost when the process ends: the process behind a PID, the container behind a
// cgroup, the function and line behind a user stack's addresses.
//
// It is the only package that reads /proc, the cgroup hierarchy and executables.
// Everything in it is bounded: processes, cgroups, modules, the bytes of symbol
// tables that are held and the bytes of a file that are read. Only Symbols starts
// goroutines, and its Close ends them and gives back the files that they hold.
//
// Files that a traced process maps, and the passwd of its root, are the
// process's to choose and tcpbye often runs as root. So they are opened only
// when they are regular files, paths are resolved inside the process's root, and
// executables are read by a process of its own that has no privileges, cannot open
// a file itself, and is limited in memory and time: see ServeSymbols. A malformed
// table costs its names, or that process, and nothing else.
//
// Names come back raw: a sink that prints them quotes them.
//
// A name that may be wrong is not given. A PID is told from its reuse by the
// start time of its process and the time of the event; an address that no table
// covers stays a module and an offset.
package enrich
