// Package enrich looks up what the kernel's events do not carry and what is
// lost when the process ends: the process behind a PID, the container behind a
// cgroup, the function and line behind a user stack's addresses.
//
// It is the only package that reads /proc, the cgroup hierarchy and executables.
// Everything in it is bounded: processes, cgroups, modules, the bytes of symbol
// tables that are held and the bytes of a file that are read. It starts no
// goroutine, and Close gives back the files that it holds.
//
// Files that a traced process maps, and the passwd of its root, are the
// process's to choose and tcpbye often runs as root. So they are opened only
// when they are regular files, paths are resolved inside the process's root, and
// a malformed table costs its names and nothing else.
//
// Names come back raw: a sink that prints them quotes them.
//
// A name that may be wrong is not given. A PID is told from its reuse by the
// start time of its process and the time of the event; an address that no table
// covers stays a module and an offset.
package enrich
