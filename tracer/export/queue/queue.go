package queue

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Batch is what is sent at once.
type Batch struct {
	Kind    string // letters: logs, traces
	Gzip    bool   // the body is compressed
	Records int
	Body    []byte
}

// Why records were dropped.
const (
	Full = "queue-full" // more than the bound waited
	Disk = "disk"       // they could not be written, and memory was full of such
)

// memory bounds what waits in memory because it could not be written.
const memory = 8 << 20

// Queue is a first-in first-out of batches. It is safe for concurrent use.
type Queue struct {
	dir  string // "": memory
	max  int64
	lock *os.File
	say  func(error) // of the disk; never nil
	put  func(path string, body []byte) error

	mu      sync.Mutex
	waiting []*entry
	next    uint64 // number of the next batch
	sending uint64 // that of the one that First gave
	out     bool   // there is one
	bytes   int64
	inside  int64 // of bytes, those in memory although there is a directory
	records int
	dropped map[string]uint64
	fresh   chan struct{} // has a value when a batch was put
}

type entry struct {
	batch  Batch // without its body where that is on disk
	number uint64
	size   int64
}

// Open opens the queue in a directory, which is made if need be, with what waits in it;
// "" keeps it in memory. The directory must be the user's own, and nobody else may write in it. max is how many bytes may wait. say is told of each error of
// the disk that loses nothing yet.
func Open(dir string, max int64, say func(error)) (*Queue, error) {
	if max <= 0 {
		return nil, fmt.Errorf("a queue of %d bytes holds nothing", max)
	}
	q := &Queue{dir: dir, max: max, say: say, put: write, dropped: map[string]uint64{}, fresh: make(chan struct{}, 1)}
	if dir == "" {
		return q, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the directory of the queue: %w", err)
	}
	if err := private(dir, os.Geteuid()); err != nil {
		return nil, fmt.Errorf("open the queue %s: %w", dir, err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o600)
	if errors.Is(err, unix.ELOOP) {
		err = fmt.Errorf("%s is a link; remove it", filepath.Join(dir, "lock"))
	}
	if err != nil {
		return nil, fmt.Errorf("open the queue: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = errors.New("another process uses it")
		}
		return nil, fmt.Errorf("open the queue %s: %w", dir, err)
	}
	q.lock = lock
	if err := q.load(); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return q, nil
}

// private says why a directory is not one in which the user me alone can make files:
// whoever else can may put links there, and have other files written.
func private(dir string, me int) error {
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Clean(dir), &st); err != nil { // with a slash at its end a link is followed
		return err
	}
	switch mode := uint32(st.Mode); {
	case mode&unix.S_IFMT == unix.S_IFLNK:
		return errors.New("it is a link; name the directory itself")
	case mode&unix.S_IFMT != unix.S_IFDIR:
		return errors.New("it is no directory")
	case int(st.Uid) != me:
		return fmt.Errorf("it is the directory of user %d, and this is user %d; name a directory of its own", st.Uid, me)
	case mode&0o022 != 0:
		return fmt.Errorf("others may write in it (mode %04o); take that away with chmod go-w", mode&0o7777)
	}
	return nil
}

// load finds what a process before left.
func (q *Queue) load() error {
	files, err := os.ReadDir(q.dir)
	if err != nil {
		return fmt.Errorf("read the queue: %w", err)
	}
	for _, f := range files {
		if strings.HasSuffix(f.Name(), unfinished) {
			_ = os.Remove(filepath.Join(q.dir, f.Name())) // its writer was killed
			continue
		}
		e, ok := parse(f.Name())
		if !ok || !f.Type().IsRegular() {
			continue
		}
		info, err := f.Info()
		if err != nil {
			return fmt.Errorf("read the queue: %w", err)
		}
		e.size = info.Size()
		q.waiting = append(q.waiting, e)
		q.bytes += e.size
		q.records += e.batch.Records
	}
	slices.SortFunc(q.waiting, func(a, b *entry) int {
		if a.number < b.number {
			return -1
		}
		return 1
	})
	if n := len(q.waiting); n > 0 {
		q.next = q.waiting[n-1].number + 1
		q.wake()
	}
	q.bound()
	return nil
}

// unfinished ends the name of a file that is being written.
const unfinished = ".part"

// name is that of the file: number, records, kind, and whether it is compressed.
func (e *entry) name() string {
	name := fmt.Sprintf("%016x-%d.%s", e.number, e.batch.Records, e.batch.Kind)
	if e.batch.Gzip {
		name += ".gz"
	}
	return name
}

func parse(name string) (*entry, bool) {
	rest, gz := strings.CutSuffix(name, ".gz")
	rest, kind, ok := strings.Cut(rest, ".")
	if !ok || kind == "" || strings.Contains(kind, ".") {
		return nil, false
	}
	number, records, ok := strings.Cut(rest, "-")
	n, err := strconv.ParseUint(number, 16, 64)
	count, err2 := strconv.Atoi(records)
	if !ok || err != nil || err2 != nil || count < 0 {
		return nil, false
	}
	return &entry{batch: Batch{Kind: kind, Gzip: gz, Records: count}, number: n}, true
}

// write writes a file that is there as a whole or not at all.
func write(path string, body []byte) error {
	part := path + unfinished
	if err := os.Remove(part); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(body)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(part, path)
	}
	if err != nil {
		_ = os.Remove(part) // a part of it would fill the disk further
	}
	return err
}

// Put adds a batch, whose body is the queue's from then on.
func (q *Queue) Put(b Batch) {
	q.mu.Lock()
	e := &entry{batch: b, number: q.next, size: int64(len(b.Body))}
	q.next++
	var err error
	if q.dir != "" {
		if err = q.put(filepath.Join(q.dir, e.name()), b.Body); err == nil {
			e.batch.Body = nil
		} else if q.inside+e.size > memory {
			q.dropped[Disk] += uint64(b.Records)
			q.mu.Unlock()
			q.say(fmt.Errorf("write to the queue: %w; the records are dropped", err))
			return
		} else {
			q.inside += e.size
		}
	}
	q.waiting = append(q.waiting, e)
	q.bytes += e.size
	q.records += b.Records
	q.bound()
	q.wake()
	q.mu.Unlock()
	if err != nil {
		q.say(fmt.Errorf("write to the queue: %w; the records wait in memory", err))
	}
}

// wake tells who waits for a batch.
func (q *Queue) wake() {
	select {
	case q.fresh <- struct{}{}:
	default:
	}
}

// bound drops the oldest.
func (q *Queue) bound() {
	for q.bytes > q.max {
		i := 0
		if len(q.waiting) > 0 && q.out && q.waiting[0].number == q.sending {
			i = 1 // the first one may have arrived by now
		}
		if i >= len(q.waiting) {
			return
		}
		q.dropped[Full] += uint64(q.waiting[i].batch.Records)
		q.remove(i)
	}
}

func (q *Queue) remove(i int) {
	e := q.waiting[i]
	if q.dir != "" {
		if e.batch.Body == nil {
			_ = os.Remove(filepath.Join(q.dir, e.name())) // if it stays, it is sent again
		} else {
			q.inside -= e.size
		}
	}
	q.waiting = slices.Delete(q.waiting, i, i+1)
	q.bytes -= e.size
	q.records -= e.batch.Records
}

// First is the oldest batch, and its number for Done. It waits for one until the context
// ends or stop is closed; then ok is false.
func (q *Queue) First(ctx context.Context, stop <-chan struct{}) (b Batch, number uint64, ok bool) {
	for {
		if b, number, ok = q.first(); ok {
			return b, number, true
		}
		select {
		case <-ctx.Done():
			return b, 0, false
		case <-q.fresh:
			continue
		default:
		}
		select {
		case <-ctx.Done():
			return b, 0, false
		case <-stop:
			return b, 0, false
		case <-q.fresh:
		}
	}
}

func (q *Queue) first() (b Batch, number uint64, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.waiting) > 0 {
		e := q.waiting[0]
		b = e.batch
		if b.Body == nil && q.dir != "" {
			body, err := os.ReadFile(filepath.Join(q.dir, e.name()))
			if err != nil {
				q.dropped[Disk] += uint64(b.Records) // it was taken away, or the disk is broken
				q.remove(0)
				continue
			}
			b.Body = body
		}
		q.sending, q.out = e.number, true
		return b, e.number, true
	}
	return b, 0, false
}

// Done takes a batch off. why, if not "", says why its records, or so many of them, are
// dropped.
func (q *Queue) Done(number uint64, why string, dropped int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	i := slices.IndexFunc(q.waiting, func(e *entry) bool { return e.number == number })
	q.out = false
	if i < 0 {
		return
	}
	if why != "" {
		q.dropped[why] += uint64(dropped)
	}
	q.remove(i)
}

// Drop counts records that were never put.
func (q *Queue) Drop(why string, records int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.dropped[why] += uint64(records)
}

// Counts are what waits and what was dropped, by why.
type Counts struct {
	Records int
	Bytes   int64
	Dropped map[string]uint64
	Kept    bool // what waits is there after the process, too
}

// Counts counts.
func (q *Queue) Counts() Counts {
	q.mu.Lock()
	defer q.mu.Unlock()
	return Counts{Records: q.records, Bytes: q.bytes, Dropped: maps.Clone(q.dropped), Kept: q.dir != "" && q.inside == 0}
}

// Close leaves what is on disk to the next process.
func (q *Queue) Close() error {
	if q.lock == nil {
		return nil
	}
	return q.lock.Close()
}
