// Package lineage tells whose child a process is, also when it, or its parent,
// is gone: the kernel tells of each fork (the process events connector), and
// /proc of those that were before.
//
// Where the kernel does not tell (no root, another network or PID namespace than
// the initial one, a kernel without CONFIG_PROC_EVENTS) there is only /proc,
// which forgets the dead and gives their children to init.
//
// It starts no goroutine: whoever uses it calls Update now and then.
package lineage
