package enrich

import (
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// space is the address space of a process, as it was last seen. It is not
// changed any more, but for died, by Symbols.mu.
type space struct {
	image    image
	vsize    uint64
	mappings []mapping
	read     time.Time
	died     time.Time // zero: lives
}

const (
	lookTime = 250 * time.Millisecond // to read what is mapped
	openTime = time.Second            // and to open it
	hangTime = 3 * time.Second        // after which a look is left alone
	maxStuck = 4                      // looks that are left alone
	maxFiles = 256                    // of one process that are opened
)

// Prepare has a look at what a process has mapped, and keeps hold of the files,
// so that its stack can still be named when it has exited before the stack is
// read. Call it when the process is first seen at a socket, and with fresh when
// it may be another program than before. It only leaves a note.
func (s *Symbols) Prepare(pid uint32, fresh bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p, known := s.processes.get(pid); s.waiting[pid] || known && !fresh && s.now().Sub(p.read) < sweepEvery {
		return
	}
	select {
	case s.looks <- pid:
		s.waiting[pid] = true
	default:
	}
}

// Forget drops what is known of a process's address space.
func (s *Symbols) Forget(pid uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.processes.remove(pid)
}

// look looks at processes, one after another, until Close.
func (s *Symbols) look() {
	for {
		select {
		case <-s.closed:
			return
		case pid := <-s.looks:
			s.mu.Lock()
			delete(s.waiting, pid)
			s.mu.Unlock()
			s.space(pid, nil)
		}
	}
}

// space is the process's address space now, or the last one seen if it is gone;
// nil if none was. What is mapped changes the size of the address space, but for
// a library that takes the place of another of the same size: then an address
// without a mapping is a reason to read again.
func (s *Symbols) space(pid uint32, addresses []uint64) *space {
	s.sweep()
	s.mu.Lock()
	old, known := s.processes.get(pid)
	now := s.now()
	s.mu.Unlock()
	dir := s.dir(pid)
	gone := func() *space {
		s.mu.Lock()
		defer s.mu.Unlock()
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
		s.Forget(pid)
		old, known = nil, false
	}
	if known && old.image == st.image() && old.vsize == st.vsize &&
		(now.Sub(old.read) < sweepEvery || !slices.ContainsFunc(addresses, func(a uint64) bool { return a != 0 && old.find(a) == nil })) {
		return old
	}
	before := old
	if known && old.image != st.image() {
		before = nil
	}
	fresh, _ := guarded(&s.stuck, func() *sight { return s.sight(dir, before) }, (*sight).close)
	if fresh == nil || len(fresh.mappings) == 0 {
		// A kernel thread, a process on its way out, or one that may not be read.
		if st.ended() {
			return gone()
		}
		return old
	}
	p := &space{image: st.image(), vsize: st.vsize, mappings: fresh.mappings, read: now}
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, f := range fresh.files {
		if kept, ok := s.modules.get(key); ok && kept.file != nil {
			f.Close()
		} else if kept, ok := s.read.get(key); ok {
			kept.close()
			kept.file = f // it was let go of
			s.modules.put(key, kept)
		} else {
			s.ids++
			s.modules.put(key, &module{id: s.ids, key: key, file: f})
		}
	}
	s.processes.put(pid, p)
	return p
}

// sight is a look at a process.
type sight struct {
	mappings []mapping
	files    map[fileKey]*os.File
}

func (s *sight) close() {
	if s != nil {
		for _, f := range s.files {
			f.Close()
		}
	}
}

// sight reads what is mapped and opens it. What was there before keeps its file.
func (s *Symbols) sight(dir string, before *space) *sight {
	began := time.Now()
	out := &sight{mappings: readMaps(dir+"/maps", began.Add(lookTime)), files: make(map[fileKey]*os.File)}
	if len(out.mappings) == 0 {
		// A leader that ended before its threads leaves the maps to them.
		out.mappings = threadMaps(dir, began.Add(lookTime))
	}
	exe, _ := os.Readlink(dir + "/exe")
	tried := 0
	for i := range out.mappings {
		m := &out.mappings[i]
		if i > 0 && m.sameFile(&out.mappings[i-1]) {
			m.key, m.tried = out.mappings[i-1].key, out.mappings[i-1].tried
			continue
		}
		if was := before.find(m.start); was != nil && was.sameFile(m) && was.path == m.path && was.key != (fileKey{}) {
			m.key, m.tried = was.key, true
			continue
		}
		if m.ino == 0 && m.path != "[vdso]" {
			continue
		}
		if tried++; tried > maxFiles || time.Since(began) > openTime {
			continue
		}
		m.tried = true
		if f, key, ok := openModule(dir, exe, m); ok {
			m.key = key
			if out.files[key] != nil {
				f.Close()
			} else {
				out.files[key] = f
			}
		}
	}
	return out
}

// guarded calls what may never return: a file system that does not answer, or a
// process that holds the lock on its own address space. Then nobody waits for it
// longer, and what it finds in the end is let go of.
func guarded[T any](stuck *atomic.Int32, look func() *T, drop func(*T)) (*T, bool) {
	if stuck.Load() >= maxStuck {
		return nil, false
	}
	var mu sync.Mutex
	left := false
	result := make(chan *T, 1)
	go func() {
		found := look()
		mu.Lock()
		defer mu.Unlock()
		if left {
			stuck.Add(-1)
			drop(found)
			return
		}
		result <- found
	}()
	timer := time.NewTimer(hangTime)
	defer timer.Stop()
	select {
	case found := <-result:
		return found, true
	case <-timer.C:
	}
	mu.Lock()
	defer mu.Unlock()
	select {
	case found := <-result:
		return found, true
	default:
	}
	left = true
	stuck.Add(1)
	return nil, false
}

// sweep lets go of dead processes and of the files that only they held: an open
// file keeps a file system from being unmounted.
func (s *Symbols) sweep() {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	if now.Sub(s.swept) < sweepEvery {
		return
	}
	s.swept = now
	alive := make(map[uint32]*space)
	s.processes.each(func(pid uint32, p *space) {
		if p.died.IsZero() {
			alive[pid] = p
		}
	})
	s.mu.Unlock()
	var dead []*space
	for pid, p := range alive {
		var st unix.Stat_t
		if unix.Stat(s.dir(pid), &st) != nil {
			dead = append(dead, p)
		}
	}
	s.mu.Lock()
	for _, p := range dead {
		p.died = now
	}
	used := make(map[fileKey]bool)
	s.processes.each(func(pid uint32, p *space) {
		if !p.died.IsZero() && now.Sub(p.died) > fileGrace {
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
