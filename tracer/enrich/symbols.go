package enrich

import (
	"bytes"
	"debug/elf"
	"hash/fnv"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Frame is one function of a stack. Where the compiler put functions into their
// caller, one address makes several frames, the innermost first.
type Frame struct {
	Address  uint64 // as it was asked for
	Function string // "" not known; C++ and Rust names are demangled
	File     string // as the compiler wrote it; "" not known
	Line     int    // 0 not known
	Inlined  bool   // part of the following frame's machine code
	Module   string // path of the file as the process sees it, "[vdso]", "[anon]" for code without a file; "" no mapping known
	Offset   uint64 // the address as the file numbers it, which is what addr2line(1) takes; in code without a readable file the distance from where the mapping begins
}

const (
	maxProcesses    = 1024
	maxModuleMemory = 512 << 20        // bytes of all tables together
	maxFrames       = 4096             // answers kept for one module
	fileGrace       = 10 * time.Second // how long a dead process's unread files stay open
	sweepEvery      = time.Second
)

// Symbols names the addresses of user stacks. It may be used from several
// goroutines.
type Symbols struct {
	procfs string
	now    func() time.Time
	debug  []string // directories with separate debug files, by build id

	// resolving is held while tables are read and asked, which may take long;
	// what it guards is in the modules. It comes before mu.
	resolving sync.Mutex

	mu        sync.Mutex
	processes *lru[uint32, *space]
	modules   *lru[fileKey, *module]
	memory    int64
	swept     time.Time
	orphans   bool // a space was dropped since the last sweep
}

// space is the address space of a process, as it was last seen.
type space struct {
	image    image
	vsize    uint64
	mappings []mapping // not changed any more
	read     time.Time
	died     time.Time // zero: lives
}

// module is one version of a file, shared by all processes that map it.
type module struct {
	file *os.File // open until the tables are read
	vdso []byte   // instead of a file

	read bool // the tables are, or are being
	cost int64

	// By Symbols.resolving; the others by Symbols.mu.
	tables *tables // nil: not an ELF file
	frames map[uint64][]Frame
}

func (m *module) close() {
	if m.file != nil {
		m.file.Close()
		m.file = nil
	}
}

// NewSymbols names addresses of the processes of a procfs ("/proc"). It keeps
// the tables of at most max modules, and no more than half a gigabyte.
func NewSymbols(procfs string, max int) *Symbols {
	s := &Symbols{procfs: procfs, now: time.Now, debug: []string{"/usr/lib/debug/.build-id"}}
	s.processes = newLRU(maxProcesses, func(uint32, *space) { s.orphans = true })
	s.modules = newLRU(max, func(_ fileKey, m *module) {
		s.memory -= m.cost
		m.close()
	})
	return s
}

// Close gives back the open files. Symbols is not to be used afterwards.
func (s *Symbols) Close() error {
	s.resolving.Lock()
	defer s.resolving.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.modules.each(func(k fileKey, _ *module) { s.modules.remove(k) })
	s.processes.each(func(k uint32, _ *space) { s.processes.remove(k) })
	return nil
}

// Prepare remembers what a process has mapped, and keeps hold of the files, so
// that its stack can still be named when it has exited before the stack is read.
// Call it when the process is first seen at a socket.
func (s *Symbols) Prepare(pid uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sweep()
	s.space(pid, nil)
}

// Forget drops what is known of a process's address space.
func (s *Symbols) Forget(pid uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.processes.remove(pid)
}

// Resolve names the addresses of one user stack, the innermost first. The first
// address is where the task stands, the others are return addresses, which lie
// behind the call that is meant. Zero addresses make no frame; all others make
// at least one.
//
// The first address in a module has its tables read, which takes from a
// millisecond to a second. The reader of a ring buffer should call Prepare, which
// does not wait for that, and leave this to another goroutine.
func (s *Symbols) Resolve(pid uint32, addresses []uint64) []Frame {
	s.resolving.Lock()
	defer s.resolving.Unlock()
	s.mu.Lock()
	s.sweep()
	p := s.space(pid, addresses)
	s.mu.Unlock()
	out := make([]Frame, 0, len(addresses))
	for i, address := range addresses {
		if address == 0 {
			continue
		}
		pc := address
		if i > 0 {
			pc--
		}
		out = s.frames(out, pid, p, address, pc)
	}
	return out
}

func (s *Symbols) frames(out []Frame, pid uint32, p *space, address, pc uint64) []Frame {
	m := p.find(pc)
	if m == nil {
		return append(out, Frame{Address: address})
	}
	plain := Frame{Address: address, Module: m.name(), Offset: address - m.base}
	mod := s.load(pid, m)
	if mod == nil || mod.tables == nil {
		return append(out, plain)
	}
	vaddr, ok := mod.tables.vaddr(pc - m.start + m.off)
	if !ok {
		return append(out, plain)
	}
	named, ok := mod.frames[vaddr]
	if !ok {
		named = mod.tables.frames(vaddr)
		if len(mod.frames) >= maxFrames {
			clear(mod.frames)
		}
		mod.frames[vaddr] = named
	}
	plain.Offset = vaddr + (address - pc)
	if len(named) == 0 {
		return append(out, plain)
	}
	for _, f := range named {
		f.Address, f.Module, f.Offset = plain.Address, plain.Module, plain.Offset
		out = append(out, f)
	}
	return out
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

// space is the process's address space now, or the last one seen if it is gone;
// nil if none was. What is mapped changes the size of the address space, but for
// a library that takes the place of another of the same size: then an address
// without a mapping is a reason to read again.
func (s *Symbols) space(pid uint32, addresses []uint64) *space {
	old, known := s.processes.get(pid)
	dir := s.dir(pid)
	now := s.now()
	gone := func() *space {
		if known && old.died.IsZero() {
			old.died = now
		}
		return old
	}
	st, err := readStat(dir)
	if err != nil {
		return gone()
	}
	if known && old.image.start != st.start {
		// Another process with the same PID.
		s.processes.remove(pid)
		old, known = nil, false
	}
	if known && old.image == st.image() && old.vsize == st.vsize &&
		(now.Sub(old.read) < sweepEvery || !slices.ContainsFunc(addresses, func(a uint64) bool { return old.find(a) == nil })) {
		return old
	}
	mappings := readMaps(dir + "/maps")
	if len(mappings) == 0 {
		// A leader that ended before its threads leaves the maps to them.
		mappings = threadMaps(dir)
	}
	if len(mappings) == 0 {
		// A kernel thread, a process on its way out, or one that may not be read.
		if st.ended() {
			return gone()
		}
		return old
	}
	p := &space{image: st.image(), vsize: st.vsize, mappings: mappings, read: now}
	exe, _ := os.Readlink(dir + "/exe")
	for i := range p.mappings {
		m := &p.mappings[i]
		if i > 0 && m.sameFile(&p.mappings[i-1]) {
			m.key = p.mappings[i-1].key
			continue
		}
		if fresh, key, ok := openModule(dir, exe, m); ok {
			m.key = key
			if kept, ok := s.modules.get(key); !ok {
				s.modules.put(key, fresh)
			} else if kept.read || kept.file != nil {
				fresh.close()
			} else {
				kept.file = fresh.file // it was let go before it was read
			}
		}
	}
	s.processes.put(pid, p)
	return p
}

func threadMaps(dir string) []mapping {
	tasks, err := os.Open(dir + "/task")
	if err != nil {
		return nil
	}
	defer tasks.Close()
	names, _ := tasks.Readdirnames(16)
	for _, tid := range names {
		if found := readMaps(dir + "/task/" + tid + "/maps"); len(found) != 0 {
			return found
		}
	}
	return nil
}

// sweep lets go of dead processes and of the files that only they held: an open
// file keeps a file system from being unmounted.
func (s *Symbols) sweep() {
	now := s.now()
	if now.Sub(s.swept) < sweepEvery {
		return
	}
	s.swept = now
	used := make(map[fileKey]bool)
	s.processes.each(func(pid uint32, p *space) {
		if p.died.IsZero() {
			var st unix.Stat_t
			if unix.Stat(s.dir(pid), &st) != nil {
				p.died = now
			}
		} else if now.Sub(p.died) > fileGrace {
			s.processes.remove(pid)
			return
		}
		for i := range p.mappings {
			used[p.mappings[i].key] = true
		}
	})
	if !s.orphans {
		return
	}
	s.orphans = false
	s.modules.each(func(key fileKey, m *module) {
		if !used[key] {
			m.close()
		}
	})
}

func (s *Symbols) dir(pid uint32) string {
	return s.procfs + "/" + strconv.FormatUint(uint64(pid), 10)
}

// load is the mapping's module with its tables read; nil if it cannot be had.
func (s *Symbols) load(pid uint32, m *mapping) *module {
	if m.key == (fileKey{}) {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	mod, ok := s.modules.get(m.key)
	if !ok || !mod.read && mod.file == nil && mod.vdso == nil {
		// Evicted or let go: once more, if the same file can still be had.
		dir := s.dir(pid)
		exe, _ := os.Readlink(dir + "/exe")
		fresh, key, ok := openModule(dir, exe, m)
		if !ok {
			return nil
		}
		if key != m.key {
			fresh.close()
			return nil
		}
		mod = fresh
		s.modules.put(key, mod)
	}
	if mod.read {
		return mod
	}
	mod.read = true
	file := mod.file
	mod.file = nil
	s.mu.Unlock()
	mod.frames = make(map[uint64][]Frame)
	if file != nil {
		mod.tables = readTables(file, m.key.size, s.openDebug)
		file.Close()
	} else {
		mod.tables = readTables(bytes.NewReader(mod.vdso), m.key.size, s.openDebug)
	}
	s.mu.Lock()
	if kept, ok := s.modules.get(m.key); !ok || kept != mod || mod.tables == nil {
		return mod // evicted in the meantime: good for this once
	}
	mod.cost = mod.tables.cost
	s.memory += mod.cost
	for s.memory > maxModuleMemory && s.modules.len() > 1 {
		s.modules.evictOldest() // never this one: it was used last
	}
	return mod
}

// openModule opens what is mapped, and says which version of which file it is.
func openModule(dir, exe string, m *mapping) (*module, fileKey, bool) {
	switch {
	case m.ino != 0:
		f := openMapped(dir, exe, m)
		if f == nil {
			return nil, fileKey{}, false
		}
		key, err := keyOf(f)
		if err != nil {
			f.Close()
			return nil, fileKey{}, false
		}
		return &module{file: f}, key, true
	case m.path == "[vdso]":
		b := readMemory(dir, m.start, m.end)
		if b == nil {
			return nil, fileKey{}, false
		}
		h := fnv.New64a()
		h.Write(b)
		// No file is on device 0 with such a time.
		return &module{vdso: b}, fileKey{ino: h.Sum64(), mtime: -1, size: int64(len(b))}, true
	}
	return nil, fileKey{}, false
}

// readMemory reads a small part of the process's memory: the vdso is no file.
func readMemory(dir string, start, end uint64) []byte {
	const most = 64 << 10
	mem, err := os.Open(dir + "/mem")
	if err != nil || end-start > most {
		return nil
	}
	defer mem.Close()
	b := make([]byte, end-start)
	if _, err := mem.ReadAt(b, int64(start)); err != nil {
		return nil
	}
	return b
}

// openMapped opens the very file that is mapped. The kernel's own link to it
// works for deleted files and in any container, but takes
// CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN; the ways by name are checked against
// the inode, as the name may belong to another file by now.
func openMapped(dir, exe string, m *mapping) *os.File {
	same := func(f *os.File, err error) *os.File {
		if err != nil {
			return nil
		}
		if key, err := keyOf(f); err != nil || key.ino != m.ino {
			f.Close()
			return nil
		}
		return f
	}
	link := strconv.FormatUint(m.start, 16) + "-" + strconv.FormatUint(m.end, 16)
	if f, err := openRegular(dir + "/map_files/" + link); err == nil {
		return f
	}
	path := m.path
	if m.deleted {
		path += " (deleted)"
	}
	if path == exe {
		if f := same(openRegular(dir + "/exe")); f != nil {
			return f
		}
	}
	if m.deleted || !filepath.IsAbs(m.path) {
		return nil
	}
	if f := same(openInRoot(dir+"/root", m.path)); f != nil {
		return f
	}
	f := same(openRegular(m.path))
	if f == nil {
		return nil
	}
	// A name in this process's own root: the device has to be the same too.
	if key, err := keyOf(f); err != nil || unix.Major(key.dev) != m.major || unix.Minor(key.dev) != m.minor {
		f.Close()
		return nil
	}
	return f
}

// openDebug finds the separate debug file of a build.
func (s *Symbols) openDebug(buildID string) *os.File {
	if len(buildID) < 4 {
		return nil
	}
	for _, dir := range s.debug {
		if f, err := openRegular(filepath.Join(dir, buildID[:2], buildID[2:]+".debug")); err == nil {
			return f
		}
	}
	return nil
}

// readTables is nil for what is no 64-bit little-endian ELF file.
func readTables(r io.ReaderAt, size int64, debug func(buildID string) *os.File) (t *tables) {
	// The file is the traced process's choice, and debug/elf and debug/dwarf do
	// not promise to survive any file.
	defer func() {
		if recover() != nil {
			t = nil
		}
	}()
	f, err := elf.NewFile(io.NewSectionReader(r, 0, size))
	if err != nil || f.Class != elf.ELFCLASS64 || f.Data != elf.ELFDATA2LSB {
		return nil
	}
	return newTables(f, debug)
}
