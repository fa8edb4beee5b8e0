package enrich

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/tracer/event"
)

// Frame is one function of a stack. Where the compiler put functions into their
// caller, one address makes several frames, the innermost first.
type Frame struct {
	Address  uint64 `json:"-"`                  // as it was asked for
	Function string `json:"function,omitempty"` // "" not known; C++ and Rust names are demangled
	File     string `json:"file,omitempty"`     // as the compiler wrote it; "" not known
	Line     int    `json:"line,omitempty"`     // 0 not known
	Inlined  bool   `json:"inlined,omitempty"`  // part of the following frame's machine code
	Module   string `json:"-"`                  // path of the file as the process sees it, "[vdso]", "[anon]" for code without a file; "" no mapping known
	Offset   uint64 `json:"-"`                  // the address as the file numbers it, which is what addr2line(1) takes; in code without a readable file the distance from where the mapping begins
}

// Owner is on whose account names are looked for. Who has files that take too
// long, or end the process that reads them, waits; nobody else does.
type Owner struct {
	UID    uint32
	Cgroup uint64
}

const (
	maxProcesses    = 1024
	maxModules      = 1024             // files that are held open
	maxModuleMemory = 256 << 20        // bytes of all tables together
	maxFrames       = 4096             // answers kept for one module
	maxAnswers      = 32 << 20         // bytes of all answers that are kept
	maxFailed       = 1 << 14          // files that are remembered as useless
	maxOwners       = 1 << 12          // who waits
	maxLooks        = 1 << 12          // processes that wait to be looked at
	maxNamings      = 1 << 10          // stacks that wait for their names
	fileGrace       = 10 * time.Second // how long a dead process's files stay open
	sweepEvery      = time.Second

	// A file may use so much CPU time, and after that such a part of the time.
	fileBudget = 10 * time.Second
	fileShare  = 50 // one part in so many
	// penalty is for how many times the time that its file has cost an owner
	// has no new files read.
	penalty = 9
	// backOff is how long no process is started after one could not be, doubled
	// each time.
	backOff, maxBackOff = time.Second, time.Minute
)

// Symbols names the addresses of user stacks. Files of traced processes are read
// by a process of its own that has no rights: see ServeSymbols. It may be used
// from several goroutines, and neither Prepare nor Name waits for anything.
type Symbols struct {
	procfs string
	now    func() time.Time
	debug  []string // directories with separate debug files, by build id

	looks   chan uint32
	namings chan *Naming
	closed  chan struct{}
	workers sync.WaitGroup
	stuck   atomic.Int32 // looks that do not return
	most    limits

	// Of the goroutine that names.
	failures int
	retry    time.Time // when a process may be started again

	mu        sync.Mutex
	process   *symbolProcess // nil: none now
	processes *lru[uint32, *space]
	modules   *lru[fileKey, *module] // that have an open file
	read      *lru[fileKey, *module] // whose tables a process has, or had
	failed    *lru[fileKey, struct{}]
	owners    *lru[Owner, time.Time] // until when they wait
	waiting   map[uint32]bool        // those in looks
	memory    int64                  // of the tables
	answers   int64                  // bytes of them
	ids       uint64
	swept     time.Time
	orphans   bool // a space was dropped since the last sweep
	note      Unnamed
}

// Unnamed counts what a file did not tell because it could not be read.
type Unnamed struct {
	Stacks   uint64 // that lack names
	Restarts uint64 // of the process that reads files
	Err      error  // why there is no such process; nil: there is
}

// module is one version of a file, shared by all processes that map it.
type module struct {
	id   uint64
	key  fileKey
	file *os.File // nil: not held any more

	cost   int64
	spent  time.Duration // CPU time
	since  time.Time     // of the first
	frames map[uint64]named
	rows   map[uint64]*row // nil: there is none
	kept   int64           // bytes of both
}

// named is the answer for an offset in a file.
type named struct {
	vaddr  uint64
	ok     bool // vaddr is known
	frames []Frame
}

func (m *module) close() {
	if m.file != nil {
		m.file.Close()
		m.file = nil
	}
}

// NewSymbols names addresses of the processes of a procfs ("/proc"). The tables
// of at most max files are kept, and no more than 256 MiB of them. The program's
// main must call ServeSymbols.
func NewSymbols(procfs string, max int) (*Symbols, error) { return newSymbols(procfs, max, usual) }

func newSymbols(procfs string, max int, most limits) (*Symbols, error) {
	s := &Symbols{
		procfs: procfs, now: time.Now, debug: []string{"/usr/lib/debug/.build-id"},
		looks: make(chan uint32, maxLooks), namings: make(chan *Naming, maxNamings), closed: make(chan struct{}), most: most,
		failed: newLRU[fileKey, struct{}](maxFailed, nil), owners: newLRU[Owner, time.Time](maxOwners, nil),
		waiting: make(map[uint32]bool),
	}
	s.processes = newLRU(maxProcesses, func(uint32, *space) { s.orphans = true })
	s.modules = newLRU(maxModules, func(_ fileKey, m *module) { m.close() })
	s.read = newLRU(max, s.unread)
	var err error
	// Now, as later there may be no right to become another user.
	if s.process, err = startSymbolProcess(s.most); err != nil {
		return nil, err
	}
	s.workers.Go(s.look)
	s.workers.Go(s.work)
	return s, nil
}

// unread lets a module's tables go; with mu.
func (s *Symbols) unread(_ fileKey, m *module) {
	s.memory -= m.cost
	s.answers -= m.kept
	m.cost, m.kept, m.frames, m.rows = 0, 0, nil, nil
}

// Close gives back the open files and ends the process. Symbols is not to be used
// afterwards.
func (s *Symbols) Close() error {
	close(s.closed)
	s.mu.Lock()
	if s.process != nil {
		_ = s.process.cmd.Process.Kill() // whatever it reads
	}
	s.mu.Unlock()
	s.workers.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process != nil {
		s.process.stop()
		s.process = nil
	}
	s.read.each(func(k fileKey, _ *module) { s.read.remove(k) })
	s.modules.each(func(k fileKey, _ *module) { s.modules.remove(k) })
	s.processes.each(func(k uint32, _ *space) { s.processes.remove(k) })
	return nil
}

// Unnamed is what was not named so far.
func (s *Symbols) Unnamed() Unnamed {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.note
}

// Naming is a stack whose names are looked for.
type Naming struct {
	symbols   *Symbols
	pid       uint32
	owner     Owner
	stack     event.RawStack
	unwound   bool // the chain is all there is
	abandoned atomic.Bool
	done      chan struct{}
	frames    []Frame
	missed    bool // a file could not be asked
}

// Name begins to name the calls of a stack, the innermost first. Where a file
// tells how to unwind it, that is done; else frame pointers must do.
//
// The first address is where the task stands, the others are return addresses,
// which lie behind the call that is meant. Zero addresses make no frame; all
// others make at least one.
func (s *Symbols) Name(pid uint32, owner Owner, stack event.RawStack) *Naming {
	return s.begin(&Naming{pid: pid, owner: owner, stack: stack})
}

func (s *Symbols) begin(n *Naming) *Naming {
	n.symbols, n.done = s, make(chan struct{})
	select {
	case s.namings <- n:
	default:
		// More wait than anybody has the patience for.
		n.abandoned.Store(true)
		close(n.done)
	}
	return n
}

// Resolve names addresses, and waits for it. It is Name for a stack that is
// unwound already.
func (s *Symbols) Resolve(pid uint32, addresses []uint64) []Frame {
	return s.begin(&Naming{pid: pid, stack: event.RawStack{Chain: addresses}, unwound: true}).Wait(context.Background())
}

// Wait waits for the names until the context ends. What is not named then has its
// module, or nothing but its address.
func (n *Naming) Wait(ctx context.Context) []Frame {
	select {
	case <-n.done:
	default:
		select {
		case <-n.done:
		case <-n.symbols.closed:
			n.abandoned.Store(true)
		case <-ctx.Done():
			n.abandoned.Store(true)
		}
	}
	s := n.symbols
	s.mu.Lock()
	defer s.mu.Unlock()
	if n.abandoned.Load() {
		s.note.Stacks++
		p, _ := s.processes.get(n.pid)
		return plainFrames(p, n.stack.Chain)
	}
	if n.missed {
		s.note.Stacks++
	}
	return n.frames
}

// work names stacks, one after another, until Close.
func (s *Symbols) work() {
	for {
		select {
		case <-s.closed:
			return
		case n := <-s.namings:
			if !n.abandoned.Load() {
				s.name(n)
			}
			close(n.done)
		}
	}
}

func (s *Symbols) name(n *Naming) {
	addresses := n.stack.Chain
	p := s.space(n.pid, append([]uint64{n.stack.PC}, addresses...))
	if !n.unwound {
		addresses = s.unwind(n, p)
	}
	n.frames = make([]Frame, 0, len(addresses))
	for i, address := range addresses {
		if address != 0 {
			n.frames = s.frames(n, n.frames, p, address, call(i, address))
		}
	}
}

// call is an address in the instruction that is meant.
func call(i int, address uint64) uint64 {
	if i > 0 {
		return address - 1
	}
	return address
}

func plainFrames(p *space, addresses []uint64) []Frame {
	var out []Frame
	for i, address := range addresses {
		if address == 0 {
			continue
		}
		f := Frame{Address: address}
		if m := p.find(call(i, address)); m != nil {
			f.Module, f.Offset = m.name(), address-m.base
		}
		out = append(out, f)
	}
	return out
}

func (s *Symbols) frames(n *Naming, out []Frame, p *space, address, pc uint64) []Frame {
	m := p.find(pc)
	if m == nil {
		return append(out, Frame{Address: address})
	}
	plain := Frame{Address: address, Module: m.name(), Offset: address - m.base}
	found := s.ask(n, m, opFrames, pc)
	if !found.ok {
		return append(out, plain)
	}
	plain.Offset = found.vaddr + (address - pc)
	if len(found.frames) == 0 {
		return append(out, plain)
	}
	for _, f := range found.frames {
		f.Address, f.Module, f.Offset = plain.Address, plain.Module, plain.Offset
		out = append(out, f)
	}
	return out
}

// row is how to unwind from an address; nil: nobody says.
func (s *Symbols) row(n *Naming, p *space, pc uint64) *row {
	m := p.find(pc)
	if m == nil {
		return nil
	}
	s.mu.Lock()
	mod, ok := s.read.get(m.key)
	if ok {
		if r, ok := mod.rows[pc-m.start+m.off]; ok {
			s.mu.Unlock()
			return r
		}
	}
	s.mu.Unlock()
	return s.ask(n, m, opRow, pc).row
}

type found struct {
	named
	row *row
}

// ask has a file's tables asked about an address.
func (s *Symbols) ask(n *Naming, m *mapping, op string, pc uint64) (out found) {
	if m.key == (fileKey{}) {
		// It could not be opened; what is no file has no tables.
		n.missed = n.missed || m.ino != 0 && !m.tried
		return out
	}
	offset := pc - m.start + m.off
	s.mu.Lock()
	mod, _ := s.read.get(m.key)
	if mod != nil && op == opFrames {
		if known, ok := mod.frames[offset]; ok {
			s.mu.Unlock()
			return found{named: known}
		}
	}
	_, useless := s.failed.get(m.key)
	until, waits := s.owners.get(n.owner)
	now := s.now()
	poor := mod != nil && mod.spent > fileBudget+now.Sub(mod.since)/fileShare
	s.mu.Unlock()
	if useless || waits && now.Before(until) || poor {
		n.missed = true
		return out
	}
	a, mod, ok := s.question(n, m, question{Op: op, Offset: offset})
	if !ok {
		n.missed = true
		return out
	}
	out.named, out.row = named{a.Vaddr, a.OK && op == opFrames, a.Frames}, a.Row
	s.mu.Lock()
	defer s.mu.Unlock()
	if kept, ok := s.read.get(m.key); ok && kept == mod {
		s.keep(mod, op, offset, out)
	}
	return out
}

// keep keeps an answer; with mu.
func (s *Symbols) keep(mod *module, op string, offset uint64, a found) {
	size := int64(128)
	for _, f := range a.frames {
		size += int64(96 + len(f.Function) + len(f.File))
	}
	if s.answers+size > maxAnswers {
		s.read.each(func(_ fileKey, m *module) { s.clear(m) })
	} else if len(mod.frames)+len(mod.rows) >= 2*maxFrames {
		s.clear(mod)
	}
	if mod.frames == nil {
		mod.frames, mod.rows = make(map[uint64]named), make(map[uint64]*row)
	}
	if op == opRow {
		mod.rows[offset] = a.row
	} else {
		mod.frames[offset] = a.named
	}
	mod.kept += size
	s.answers += size
}

func (s *Symbols) clear(m *module) {
	s.answers -= m.kept
	m.kept, m.frames, m.rows = 0, nil, nil
}

// question puts a question about a file to the process, and has it read the file
// before where it has not. A process that ends is replaced. When it took no other
// file's tables with it, this file is to blame; else it gets another chance.
func (s *Symbols) question(n *Naming, m *mapping, q question) (answer, *module, bool) {
	for range 2 {
		p := s.running()
		if p == nil {
			return answer{}, nil, false
		}
		alone := len(p.loaded) == 0
		began, used := s.now(), p.cpu()
		a, mod, err := s.put(p, n.pid, m, q)
		spent := max(0, p.cpu()-used)
		if mod != nil {
			s.mu.Lock()
			mod.spent += spent
			s.mu.Unlock()
		}
		switch {
		case err == nil:
			s.failures = 0
			return a, mod, mod != nil
		case errors.Is(err, errGone):
			return answer{}, nil, false
		}
		alone = !errors.Is(err, errUnasked) && (alone || len(p.loaded) == 1 && mod != nil && p.loaded[mod.id])
		s.drop(p)
		if errors.Is(err, errTooLong) || alone {
			cost := max(s.now().Sub(began), spent, 100*time.Millisecond)
			s.mu.Lock()
			s.failed.put(m.key, struct{}{})
			s.owners.put(n.owner, s.now().Add(penalty*cost))
			s.mu.Unlock()
			return answer{}, nil, false
		}
	}
	return answer{}, nil, false
}

// errGone says that a file cannot be had any more.
var errGone = errors.New("the file is gone")

// put asks one process.
func (s *Symbols) put(p *symbolProcess, pid uint32, m *mapping, q question) (answer, *module, error) {
	mod, file, err := s.module(p, pid, m)
	if err != nil {
		return answer{}, nil, err
	}
	q.Module = mod.id
	if file != nil {
		a, err := p.ask(question{Op: opLoad, Module: mod.id, Size: m.key.size}, file, s.openDebug)
		file.Close()
		if err != nil {
			return answer{}, mod, err
		}
		p.loaded[mod.id] = true
		s.mu.Lock()
		s.memory += max(0, min(a.Cost, maxModuleMemory)) - mod.cost
		mod.cost = max(0, min(a.Cost, maxModuleMemory))
		var over []uint64
		for s.memory > maxModuleMemory && s.read.len() > 1 {
			over = append(over, s.read.oldest().id) // never this one: it was used last
			s.read.evictOldest()
		}
		s.mu.Unlock()
		for _, id := range over {
			if err := s.forget(p, id); err != nil {
				return answer{}, mod, err
			}
		}
	}
	a, err := p.ask(q, nil, nil)
	return a, mod, err
}

func (s *Symbols) forget(p *symbolProcess, id uint64) error {
	if !p.loaded[id] {
		return nil
	}
	delete(p.loaded, id)
	_, err := p.ask(question{Op: opDrop, Module: id}, nil, nil)
	return err
}

// module is the mapping's module, with a file to be read where the process has
// not done so.
func (s *Symbols) module(p *symbolProcess, pid uint32, m *mapping) (*module, *os.File, error) {
	s.mu.Lock()
	mod, ok := s.read.get(m.key)
	if ok && p.loaded[mod.id] {
		s.mu.Unlock()
		return mod, nil, nil
	}
	var file *os.File
	if held, has := s.modules.get(m.key); has && held.file != nil {
		if !ok {
			mod, ok = held, true
		}
		// A copy: the other may be closed at any time.
		if fd, err := unix.FcntlInt(held.file.Fd(), unix.F_DUPFD_CLOEXEC, 0); err == nil {
			file = os.NewFile(uintptr(fd), held.file.Name())
		}
	}
	s.mu.Unlock()
	if file == nil {
		// Evicted or let go: once more, if the same file can still be had.
		seen, _ := guarded(&s.stuck, func() *opened {
			dir := s.dir(pid)
			exe, _ := os.Readlink(dir + "/exe")
			f, key, ok := openModule(dir, exe, m)
			if !ok {
				return nil
			}
			return &opened{f, key}
		}, (*opened).close)
		if seen == nil {
			return nil, nil, errGone
		}
		if seen.key != m.key {
			seen.close()
			return nil, nil, errGone
		}
		file = seen.file
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !ok {
		s.ids++
		mod = &module{id: s.ids, key: m.key}
	}
	if mod.since.IsZero() {
		mod.since = s.now()
	}
	var evicted *module
	if _, has := s.read.get(m.key); !has && s.read.len() == s.read.max {
		evicted = s.read.oldest()
	}
	s.read.put(m.key, mod)
	if evicted != nil && p.loaded[evicted.id] {
		s.mu.Unlock()
		err := s.forget(p, evicted.id)
		s.mu.Lock()
		if err != nil {
			file.Close()
			return mod, nil, err
		}
	}
	return mod, file, nil
}

type opened struct {
	file *os.File
	key  fileKey
}

func (o *opened) close() {
	if o != nil {
		o.file.Close()
	}
}

// running is a process that can be asked; nil: there is none now.
func (s *Symbols) running() *symbolProcess {
	s.mu.Lock()
	p := s.process
	s.mu.Unlock()
	if p != nil {
		select {
		case <-p.ended: // somebody ended it
		default:
			if p.cpu() < recycle {
				return p
			}
		}
		s.drop(p)
	}
	if now := s.now(); now.Before(s.retry) {
		return nil
	}
	p, err := startSymbolProcess(s.most)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.note.Restarts++
	if s.note.Err = err; err != nil {
		s.retry = s.now().Add(min(backOff<<min(s.failures, 10), maxBackOff))
		s.failures++
		return nil
	}
	select {
	case <-s.closed:
		s.mu.Unlock()
		p.stop()
		s.mu.Lock()
		return nil
	default:
	}
	s.process = p
	return p
}

// drop ends a process.
func (s *Symbols) drop(p *symbolProcess) {
	s.mu.Lock()
	s.process = nil
	s.mu.Unlock()
	if !p.greeted {
		// It did not even begin; the next one may not, either.
		s.retry = s.now().Add(min(backOff<<min(s.failures, 10), maxBackOff))
		s.failures++
	}
	p.stop()
}

func (s *Symbols) dir(pid uint32) string {
	return s.procfs + "/" + strconv.FormatUint(uint64(pid), 10)
}

// String says it in a sentence; "" everything was named.
func (u Unnamed) String() string {
	if u.Stacks == 0 {
		return ""
	}
	text := fmt.Sprintf("%d stacks lack names", u.Stacks)
	if u.Stacks == 1 {
		text = "1 stack lacks names"
	}
	switch {
	case u.Err != nil:
		return fmt.Sprintf("%s: %v", text, u.Err)
	case u.Restarts > 0:
		return fmt.Sprintf("%s: the process that reads executables was ended %d times, as a file asked too much of it", text, u.Restarts)
	}
	return text + ": to read the executables took too long"
}

func (p *space) find(pc uint64) *mapping {
	if p == nil {
		return nil
	}
	i, found := slices.BinarySearchFunc(p.mappings, pc, func(m mapping, pc uint64) int {
		switch {
		case pc < m.start:
			return 1
		case pc >= m.end:
			return -1
		}
		return 0
	})
	if !found {
		return nil
	}
	return &p.mappings[i]
}
