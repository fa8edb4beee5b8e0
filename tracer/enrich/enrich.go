package enrich

import (
	"time"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
)

// Options are the places to read and the bounds. The zero value is right for a
// host.
type Options struct {
	Procfs    string // "/proc"
	Cgroupfs  string // "/sys/fs/cgroup"
	Processes int    // PIDs that are remembered: 4096
	Cgroups   int    // cgroups that are remembered: 16384
	Modules   int    // files whose symbols are held: 256
}

// Enricher joins the three look-ups for a stream of events.
type Enricher struct {
	Processes *Processes
	Cgroups   *Cgroups
	Symbols   *Symbols
}

// New reads the cgroups that exist; everything else is read when it is asked for.
func New(o Options) *Enricher {
	if o.Procfs == "" {
		o.Procfs = "/proc"
	}
	if o.Cgroupfs == "" {
		o.Cgroupfs = "/sys/fs/cgroup"
	}
	if o.Processes <= 0 {
		o.Processes = 4096
	}
	if o.Cgroups <= 0 {
		o.Cgroups = 16384
	}
	if o.Modules <= 0 {
		o.Modules = 256
	}
	return &Enricher{
		Processes: NewProcesses(o.Procfs, o.Processes),
		Cgroups:   NewCgroups(o.Cgroupfs, o.Cgroups),
		Symbols:   NewSymbols(o.Procfs, o.Modules),
	}
}

// Close gives back the open files.
func (n *Enricher) Close() error { return n.Symbols.Close() }

// Observe learns from an event while its process lives. Call it for each event
// as it is decoded, in the order of time: it reads a process when it opens or
// gets a connection, when it executes a program and when it is first seen, and
// notes its end.
func (n *Enricher) Observe(e *event.Event) {
	if e.PID == 0 || !e.ByProcess() {
		return
	}
	switch e.Hook {
	case event.HookConnect, event.HookAccept, event.HookExec:
	case event.HookExit:
		n.Processes.Lookup(e.PID, e.Time) // the last chance: it may be a zombie still
		n.Processes.Exited(e.PID, e.Time)
		return
	default:
		if n.Processes.knows(e.PID) {
			return
		}
	}
	n.Processes.Lookup(e.PID, e.Time)
	n.Symbols.Prepare(e.PID)
	n.Cgroups.Path(e.Cgroup)
}

// Complete adds executable and container to a process that an event showed at a
// time (CLOCK_MONOTONIC). What the kernel said of it (comm, user, cgroup) stays:
// it is of that moment, and it is there for a process that nobody saw alive.
func (n *Enricher) Complete(who *conn.Process, at time.Duration) {
	if who == nil || who.PID == 0 {
		return
	}
	info, ok := n.Processes.Lookup(who.PID, at)
	if ok && who.Exe == "" {
		who.Exe = info.Exe
	}
	if who.Container != "" {
		return
	}
	// The event's own cgroup, unless it is the root: then the process is placed
	// by cgroup v1, which has no ids.
	if path, found := n.Cgroups.Path(who.Cgroup); found {
		who.Container = ContainerOf(path).String()
	}
	if c := info.Container; ok && (who.Container == "" || ContainerOf(info.CgroupPath).Runtime != Systemd && c != "") {
		who.Container = c
	}
}
