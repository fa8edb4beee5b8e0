package session

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/enrich"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/record"
	"github.com/tcpbye/tcpbye/tracer/session/lineage"
	"github.com/tcpbye/tcpbye/tracer/story"
)

// Witness looks processes up while they live: when they open, get or end a
// connection, or execute a program.
type Witness struct {
	processes *enrich.Processes
	cgroups   *enrich.Cgroups
	tree      *lineage.Tree   // nil: whose child a process is, nobody wants to know
	symbols   *enrich.Symbols // nil: stacks are not taken, or not named
	patience  context.Context // until when names are waited for at all
	hurry     func()          // ends it
	ends      time.Duration   // how long after the run was told to end
	told      map[uint32]*telling
	last      *telling // that a story asked for
	order     []uint32
	procfs    string
	full      map[uint32]fullness
}

// fullness is what was last seen of a process's descriptors.
type fullness struct {
	asked time.Duration // CLOCK_MONOTONIC
	all   uint32        // see enrich.Full
}

// telling is what was last told of a PID.
type telling struct {
	record.Process
	died   bool
	asked  time.Duration // CLOCK_MONOTONIC; of one that died, when it did
	leader event.Comm    // Leader as the kernel has it
}

// again is how long what was looked up of a process holds: a busy one is looked at
// once a second. What no exec announces, a setuid or a move to another cgroup, is
// not seen for as long.
const again = time.Second

// holds says whether what was told holds still. Where execs are not seen, the
// leader has another name after one.
func (t *telling) holds(e *event.Event) bool {
	return e.Time-t.asked < again && (e.TID != e.PID || e.Comm == t.leader)
}

// shown is longer than it takes to tell of a process whose first step was seen, on a
// busy machine, too: the step comes first.
const shown = 100 * time.Millisecond

// WitnessOptions are the places to look at. The zero value is right for a host.
type WitnessOptions struct {
	Procfs   string // "/proc"
	Cgroupfs string // "/sys/fs/cgroup"
	// Lineage also tells whose child each process is.
	Lineage bool
	// Stacks also names the functions of user stacks.
	Stacks bool
	// Patience is how long names are waited for once the run is to end; 0: three
	// seconds.
	Patience time.Duration
}

const (
	maxCgroups = 1 << 14
	maxTold    = 1 << 14
	maxModules = 256
	maxFull    = 1 << 10
)

// NewWitness starts to look. Its warnings say what cannot be looked up here.
func NewWitness(o WitnessOptions) (w *Witness, warnings []error) {
	if o.Procfs == "" {
		o.Procfs = "/proc"
	}
	if o.Cgroupfs == "" {
		o.Cgroupfs = "/sys/fs/cgroup"
	}
	w = &Witness{
		processes: enrich.NewProcesses(o.Procfs, maxTold),
		cgroups:   enrich.NewCgroups(o.Cgroupfs, maxCgroups),
		told:      map[uint32]*telling{},
		procfs:    o.Procfs,
		full:      map[uint32]fullness{},
	}
	here, err := enrich.PIDNamespaceOf(o.Procfs)
	switch {
	case err != nil:
		warnings = append(warnings, err) // without it no trace begins
	case !here.Initial:
		warnings = append(warnings, errors.New("PIDs are as this PID namespace has them; a process outside it has none, and only its name is known (to know more, share the host's PID namespace)"))
	}
	if o.Stacks {
		if w.symbols, err = enrich.NewSymbols(o.Procfs, maxModules); err != nil {
			warnings = append(warnings, fmt.Errorf("stacks have no names: %w", err))
		}
		w.patience, w.hurry = context.WithCancel(context.Background())
		w.ends = cmp.Or(o.Patience, maxEnding)
	}
	// Not without need: the kernel then tells of every fork of anybody.
	if o.Lineage {
		if w.tree, err = lineage.Open(o.Procfs, here.Initial); err != nil {
			warnings = append(warnings, fmt.Errorf("children whose parents are gone may be missed: %w", err))
		}
		if w.symbols != nil {
			// A test's program may be gone a moment after its first connection.
			w.tree.Tell(func(pid uint32) { w.symbols.Prepare(pid, true) })
		}
	}
	return w, warnings
}

// Close gives back what is open.
func (w *Witness) Close() error {
	if w == nil {
		return nil
	}
	var err error
	if w.symbols != nil {
		w.hurry()
		err = w.symbols.Close()
	}
	if w.tree != nil {
		err = errors.Join(err, w.tree.Close())
	}
	return err
}

const (
	// maxNaming is how long an event waits for the names of its stack. A
	// program's tables are read once, which can take a second for a large one, and
	// much longer on a busy machine.
	maxNaming = 30 * time.Second
	// maxEnding is for how long names are waited for once the run is to end.
	maxEnding = 3 * time.Second
)

// naming is a stack whose names are looked for, and until when they are waited
// for.
type naming struct {
	*enrich.Naming
	until time.Time
}

// begin begins to name the functions of a stack; nil: there is nothing to name.
func (w *Witness) begin(e *event.Event) *naming {
	raw, ok := e.Stack.Raw()
	if !ok || w == nil || w.symbols == nil || event.Outside(e.PID) {
		return nil
	}
	return &naming{w.symbols.Name(e.PID, enrich.Owner{UID: e.UID, Cgroup: e.Cgroup}, raw), time.Now().Add(maxNaming)}
}

// end is the named stack. Who is late has no time to wait.
func (w *Witness) end(n *naming, late bool) event.Stack {
	ctx, cancel := context.WithDeadline(w.patience, n.until)
	defer cancel()
	if late {
		cancel()
	}
	var frames []event.Frame
	for _, f := range n.Wait(ctx) {
		x := event.Frame{Function: f.Function, File: f.File, Line: f.Line, Module: f.Module, Offset: f.Offset}
		if f.Module == "" {
			x.Addr = f.Address
		}
		frames = append(frames, x)
	}
	return event.StackOf(frames)
}

// ending says that the run is to end soon.
func (w *Witness) ending() {
	if w != nil && w.symbols != nil {
		time.AfterFunc(w.ends, w.hurry)
	}
}

// Unnamed says which stacks lack names that their programs may have; "" none.
func (w *Witness) Unnamed() string {
	if w == nil || w.symbols == nil {
		return ""
	}
	return w.symbols.Unnamed().String()
}

// Look learns from an event while its process lives. It says true when there is
// something to tell before the event.
func (w *Witness) Look(e *event.Event) (record.Process, bool) {
	if e.PID == 0 || event.Outside(e.PID) || !e.ByProcess() {
		return record.Process{}, false
	}
	known := w.told[e.PID]
	switch {
	case known == nil:
	case e.Hook == event.HookExit:
		// What was told stays true: its sockets are closed after this.
		known.died, known.asked = true, e.Time
		w.processes.Exited(e.PID, e.Time)
		return record.Process{}, false
	case e.Hook == event.HookExec:
	case e.Hook == event.HookConnect, e.Hook == event.HookAccept, e.Hook == event.HookProcess,
		e.Hook == event.HookSetState && e.ToState == event.SynSent:
		if !known.died && known.holds(e) {
			return record.Process{}, false
		}
	case known.died && !e.Exiting():
		// The PID is another process's by now.
	default:
		return record.Process{}, false
	}
	if w.symbols != nil && !e.Exiting() {
		w.symbols.Prepare(e.PID, known == nil || known.died || e.Hook == event.HookExec)
	}
	p := w.ask(e.PID, e.Time, e.Cgroup)
	if e.Hook == event.HookProcess {
		p.Time -= shown
	}
	if known == nil {
		known = &telling{Process: record.Process{PID: e.PID}}
		w.told[e.PID] = known
		if w.order = append(w.order, e.PID); len(w.order) > maxTold {
			delete(w.told, w.order[0])
			w.last = nil
			w.order = w.order[1:]
		}
	}
	known.died, known.asked = e.Hook == event.HookExit, e.Time
	if same(p, known.Process) {
		return p, false
	}
	known.Process, known.leader = p, event.CommOf(string(p.Leader))
	return p, true
}

// Meet learns from who acted in a story that is told now, as far as its process lives
// still.
func (w *Witness) Meet(t *story.RawTask, now time.Duration) (record.Process, bool) {
	pid := t.PID()
	known := w.last
	if known == nil || known.PID != pid {
		if known = w.told[pid]; known != nil {
			w.last = known
		}
	}
	if known != nil && (known.died || now-known.asked < again && (t.TID() != pid || t.Comm() == known.leader)) {
		return record.Process{}, false
	}
	return w.Look(&event.Event{Hook: event.HookAccept, Time: now, Context: event.ContextProcess, PID: pid, TID: t.TID(), UID: t.UID(), Comm: t.Comm(), Cgroup: t.Cgroup()})
}

// same compares all but the time.
func same(a, b record.Process) bool {
	if !slices.Equal(a.Ancestors, b.Ancestors) {
		return false
	}
	return a.PID == b.PID && a.NSPID == b.NSPID && a.Leader == b.Leader && a.Exe == b.Exe && a.Container == b.Container &&
		a.CgroupPath == b.CgroupPath && a.UID == b.UID && a.User == b.User
}

func (w *Witness) ask(pid uint32, at time.Duration, cgroup uint64) record.Process {
	p := record.Process{Time: at, PID: pid}
	// The event's own cgroup, unless it is the root: then the process is placed
	// by cgroup v1, which has no ids.
	if path, ok := w.path(cgroup); ok && path != "/" {
		p.CgroupPath = record.Text(path)
		p.Container = record.Text(enrich.ContainerOf(path).String())
	}
	if info, ok := w.processes.Lookup(pid, at); ok {
		p.NSPID = info.NSPID
		p.Leader, p.Exe, p.UID, p.User = record.Text(info.Comm), record.Text(info.Exe), info.UID, record.Text(info.User)
		if p.CgroupPath == "" {
			p.CgroupPath = record.Text(info.CgroupPath)
		}
		if info.Container != "" && (p.Container == "" || enrich.ContainerOf(info.CgroupPath).Runtime != enrich.Systemd) {
			p.Container = record.Text(info.Container)
		}
	}
	if w.tree != nil {
		if p.Exe == "" {
			p.Exe = record.Text(w.tree.Exe(pid)) // it is gone
		}
		p.Ancestors = w.tree.Ancestors(pid)
	}
	return p
}

func (w *Witness) path(cgroup uint64) (string, bool) {
	if cgroup == 0 {
		return "", false
	}
	return w.cgroups.Path(cgroup)
}

// Complete adds what is known of a process that lives now.
func (w *Witness) Complete(who *conn.Process) {
	if w == nil {
		return
	}
	p := w.ask(who.PID, 0, 0)
	if p.Leader != "" {
		who.UID = p.UID
	}
	fill(who, &p)
}

// Full is how many descriptors a process may have, if it has that many; 0: it has
// fewer, or that is not known. It is looked up once a second at most.
func (w *Witness) Full(pid uint32, at time.Duration) uint32 {
	known, ok := w.full[pid]
	if !ok || at-known.asked >= again {
		if !ok && len(w.full) >= maxFull {
			clear(w.full)
		}
		known = fullness{at, uint32(enrich.Full(w.procfs, pid))}
		w.full[pid] = known
	}
	return known.all
}

// lost counts how often the kernel dropped news of processes.
func (w *Witness) lost() uint64 {
	if w == nil || w.tree == nil {
		return 0
	}
	return w.tree.Lost()
}
