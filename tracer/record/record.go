package record

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strings"
	"time"

	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/story"
)

const magic = "tcpbye\r\n"

// maxRecord bounds a record, so that a damaged length does not ask for memory.
const maxRecord = 1 << 20

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

const (
	kindMeta  = 'M'
	kindEvent = 'E'
	kindLoss  = 'L'
	kindEnd   = 'Z'

	kindProcess = 'P'
	kindSeed    = 'S'
	kindTick    = 'T'
	kindChoice  = 'C'
	kindWall    = 'W'
	kindLook    = 'O'
	kindStory   = 'K'
)

// kinds are all of them.
const kinds = string(kindMeta) + string(kindEvent) + string(kindLoss) + string(kindEnd) +
	string(kindProcess) + string(kindSeed) + string(kindTick) + string(kindChoice) + string(kindWall) + string(kindLook) + string(kindStory)

// Meta is what a run was like: it stands before its events.
type Meta struct {
	Version  int           `json:"version"`        // of the format: 1
	Program  string        `json:"program"`        // who wrote it
	Kernel   string        `json:"kernel"`         // uname -r
	Arch     string        `json:"arch"`           // as Go spells it
	Offset   time.Duration `json:"wall_offset_ns"` // wall clock minus CLOCK_MONOTONIC
	Rungs    []Rung        `json:"hooks"`          // how each hook was attached
	Scenario string        `json:"scenario,omitempty"`
	Host     *Host         `json:"host,omitempty"` // nil: an older version wrote it
	// Run and Part tell the parts of one run that was recorded in several
	// files: the same Run, and Parts counted from 0. In a part, what earlier
	// parts told of connections and processes is told again.
	Run  string `json:"run,omitempty"`
	Part int    `json:"part,omitempty"`
}

// Host is the machine that a run was recorded on. No field is a secret.
type Host struct {
	// ID names the machine: a hash of its machine-id(5) under a key of tcpbye's own; ""
	// it has none.
	ID string `json:"id,omitempty"`
	// Boot names its boot, and so the clock of the events: a hash of boot_id; "" not
	// known.
	Boot string `json:"boot,omitempty"`
	Name Text   `json:"name,omitempty"` // as uname -n
}

// Continues says whether this head is that of the part that follows another.
func (m Meta) Continues(before Meta) bool {
	return m.Run != "" && m.Run == before.Run && m.Part == before.Part+1
}

// Rung says how a hook was attached; Rung "" means that it was not.
type Rung struct {
	Hook event.Hook `json:"hook"`
	Name string     `json:"name"`
	Rung string     `json:"rung"`
	// All says whether it tells of every event: what it did not tell of did not happen.
	// nil: the recording is older than this field.
	All *bool `json:"all,omitempty"`
	// Blind is set in older recordings where a program could read no segment.
	Blind bool `json:"blind,omitempty"`
}

// Missing lists the hooks that were not attached.
func (m Meta) Missing() []event.Hook {
	var missing []event.Hook
	known := map[event.Hook]bool{}
	for _, r := range m.Rungs {
		known[r.Hook] = true
		if r.Rung == "" {
			missing = append(missing, r.Hook)
		}
	}
	// A hook that came later was not attached, either.
	for _, h := range event.Hooks() {
		if len(m.Rungs) > 0 && !known[h] {
			missing = append(missing, h)
		}
	}
	return missing
}

// Loss says that events were lost between two times.
type Loss struct {
	From time.Duration `json:"from_ns"` // CLOCK_MONOTONIC
	Time time.Duration `json:"t_ns"`    // CLOCK_MONOTONIC, the end
	Lost uint64        `json:"lost"`
}

// End closes a run.
type End struct {
	Events uint64 `json:"events"`
	Lost   uint64 `json:"lost"`
	// Time is up to when the run saw everything (CLOCK_MONOTONIC); 0: not told.
	Time time.Duration `json:"t_ns,omitempty"`
}

// Writer writes a recording. Its first error sticks.
type Writer struct {
	w    *bufio.Writer
	buf  []byte
	err  error
	said bool // err was returned
}

func (w *Writer) result() error {
	w.said = w.said || w.err != nil
	return w.err
}

// NewWriter starts a recording.
func NewWriter(w io.Writer, m Meta) (*Writer, error) {
	rw := &Writer{w: bufio.NewWriter(w)}
	if _, err := rw.w.WriteString(magic); err != nil {
		return nil, fmt.Errorf("write the recording: %w", err)
	}
	m.Version = 1
	rw.json(kindMeta, m)
	return rw, rw.err
}

// Event records an event.
func (w *Writer) Event(e event.Event) error {
	if w.err != nil {
		return w.result()
	}
	w.buf = AppendEvent(w.buf[:0], &e)
	w.write(w.buf)
	return w.result()
}

// Story records a socket's story in the kernel's own form (package story); jiffy is
// the length of that kernel's jiffy.
func (w *Writer) Story(raw []byte, jiffy time.Duration) error {
	if w.err != nil {
		return w.result()
	}
	w.buf = AppendStory(w.buf[:0], raw, jiffy)
	w.write(w.buf)
	return w.result()
}

// Loss records a loss.
func (w *Writer) Loss(l Loss) error {
	w.json(kindLoss, l)
	return w.result()
}

// Process records what is known of a process. It stands before the events that
// it explains.
func (w *Writer) Process(p Process) error {
	w.json(kindProcess, p)
	return w.result()
}

// Seed records a connection that was there when the run began.
func (w *Writer) Seed(s Seed) error {
	w.json(kindSeed, s)
	return w.result()
}

// Choice says what a run was about, where its command line alone does not say it.
type Choice struct {
	Command uint32 `json:"command"` // PID of the command that was run and followed; 0: none
	// Time is when the command was started, CLOCK_MONOTONIC; 0: not known.
	Time time.Duration `json:"t_ns,omitempty"`
	// Filters all had to be satisfied by what was to be recorded: it is not known
	// of everything in time whether it is wanted. Each is JSON.
	Filters []json.RawMessage `json:"filters,omitempty"`
}

// Choice records it. It stands before the events.
func (w *Writer) Choice(c Choice) error {
	w.json(kindChoice, c)
	return w.result()
}

// Wall records that the wall clock was set.
func (w *Writer) Wall(c Wall) error {
	w.json(kindWall, c)
	return w.result()
}

// Look records it, at the end.
func (w *Writer) Look(l Look) error {
	w.json(kindLook, l)
	return w.result()
}

// Tick records that no older event will come.
func (w *Writer) Tick(t Tick) error {
	w.json(kindTick, t)
	return w.result()
}

// Raw records what Append and AppendEvent made, with so many events in it.
func (w *Writer) Raw(records []byte, events uint64) error {
	if w.err == nil {
		w.write(records)
	}
	return w.result()
}

// Fits says whether so many bytes go into this file, and Next begins another. A
// Writer has one.
func (w *Writer) Fits(int) bool { return true }

// Rotates says whether there are several files.
func (w *Writer) Rotates() bool { return false }

// Next does nothing.
func (w *Writer) Next() error { return w.result() }

// Flush hands everything on that was recorded so far.
func (w *Writer) Flush() error {
	if w.err == nil {
		if err := w.w.Flush(); err != nil {
			w.err = fmt.Errorf("write the recording: %w", err)
		}
	}
	return w.result()
}

// Close records the end and flushes. It does not close the file. It does not
// repeat an error that was returned before.
func (w *Writer) Close(end End) error {
	if w.said {
		return nil
	}
	w.json(kindEnd, end)
	return w.Flush()
}

func (w *Writer) json(kind byte, v any) {
	if w.err != nil {
		return
	}
	b, err := appendJSON(w.buf[:0], kind, v)
	if err != nil {
		w.err = fmt.Errorf("write the recording: %w", err)
		return
	}
	w.buf = b
	w.write(b)
}

func (w *Writer) write(records []byte) {
	if _, err := w.w.Write(records); err != nil {
		w.err = fmt.Errorf("write the recording: %w", err)
	}
}

// AppendEvent appends the record of an event.
func AppendEvent(b []byte, e *event.Event) []byte {
	start := len(b)
	return seal(appendEvent(append(b, 0, 0, 0, 0, kindEvent), e), start)
}

// AppendStory appends the record of a story.
func AppendStory(b, raw []byte, jiffy time.Duration) []byte {
	start := len(b)
	b = append(b, 0, 0, 0, 0, kindStory)
	b = binary.AppendUvarint(b, uint64(jiffy))
	return seal(append(b, raw...), start)
}

// Append appends the record of what is not an event.
func Append[T Loss | Process | Seed | Tick | Wall | Look](b []byte, what T) []byte {
	kind := byte(kindTick)
	switch any(what).(type) {
	case Loss:
		kind = kindLoss
	case Process:
		kind = kindProcess
	case Seed:
		kind = kindSeed
	case Wall:
		kind = kindWall
	case Look:
		kind = kindLook
	}
	// Numbers, addresses and Texts always have a form.
	b, _ = appendJSON(b, kind, what)
	return b
}

func appendJSON(b []byte, kind byte, v any) ([]byte, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return b, err
	}
	start := len(b)
	return seal(append(append(b, 0, 0, 0, 0, kind), body...), start), nil
}

// seal completes the record that begins at start: its length and its checksum.
func seal(b []byte, start int) []byte {
	body := b[start+lengthSize:]
	binary.LittleEndian.PutUint32(b[start:], uint32(len(body)))
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(body, castagnoli))
}

// A record is its length, its kind and body, and its checksum.
const (
	lengthSize = 4
	frameSize  = lengthSize + crc32.Size
)

// DamageError says where a recording is damaged. Everything that is whole was
// read: what comes before, and what follows.
type DamageError struct {
	Offset  int64 // of the first record that is damaged
	Reason  string
	Gaps    int   // how often whole records followed what was skipped
	Skipped int64 // bytes that are no whole record, in all places
}

func (e *DamageError) Error() string {
	s := fmt.Sprintf("the recording is damaged at byte %d: %s; ", e.Offset, e.Reason)
	switch e.Gaps {
	case 0:
		return s + fmt.Sprintf("everything before it was read, and the last %d bytes were not", e.Skipped)
	case 1:
		return s + fmt.Sprintf("%d bytes were skipped, everything before and after them was read, and what lived through the gap is judged as having lost events", e.Skipped)
	}
	return s + fmt.Sprintf("%d bytes were skipped in %d places, everything else was read, and what lived through the gaps is judged as having lost events", e.Skipped, e.Gaps)
}

// Gap is a part of a recording that could not be read, before something that
// could.
type Gap struct {
	Offset, Bytes int64
	// Head: the head of a run was in it, so what follows, up to the next head, is
	// of a run of which nothing is known.
	Head bool
}

// Handler takes what a recording holds. A nil function skips.
type Handler struct {
	Meta  func(Meta) error
	Event func(event.Event) error
	Loss  func(Loss) error
	End   func(End) error

	Process func(Process) error
	Seed    func(Seed) error
	Tick    func(Tick) error
	Choice  func(Choice) error
	Wall    func(Wall) error
	Look    func(Look) error
	// Story takes a socket's story as Writer.Story does. It is valid until it
	// returns.
	Story func(raw []byte, jiffy time.Duration) error

	// Gap is told of what was skipped, before what follows it.
	Gap func(Gap) error
}

// Read reads a recording to its end. Where it is damaged, it goes on with the
// next whole record, and a *DamageError comes back at the end.
func Read(r io.Reader, h Handler) error {
	rd := reader{b: bufio.NewReaderSize(r, 1<<14), h: h}
	head, err := rd.b.Peek(len(magic))
	if err != nil || string(head) != magic {
		if err == nil || errors.Is(err, io.EOF) {
			return errors.New("this is not a recording of tcpbye: it does not start with its signature")
		}
		return fmt.Errorf("read the recording: %w", err)
	}
	if err := rd.read(); err != nil {
		return err
	}
	if rd.damage != nil {
		return rd.damage
	}
	return nil
}

// reader reads a recording record by record.
type reader struct {
	b      *bufio.Reader
	h      Handler
	offset int64 // of what is next in b
	damage *DamageError
	begun  bool // the signature was read, and the head that follows it was not
	gap    *Gap // that was not told of yet
	arch   string
	story  story.Story
}

func (r *reader) read() error {
	for {
		head, err := r.peek(len(magic))
		if err != nil {
			return err
		}
		switch {
		case len(head) == 0:
			return nil
		case string(head) == magic: // a recording that was appended
			r.skip(len(magic))
			r.begun = true
			continue
		}
		body, reason, err := r.record()
		if err != nil {
			return err
		}
		if reason == "" {
			if err := r.tell(body[0]); err != nil {
				return err
			}
			if reason, err = r.deliver(body[0], body[1:]); err != nil {
				return err
			}
		}
		if reason == "" {
			r.skip(len(body) + frameSize)
			continue
		}
		if r.damage == nil {
			r.damage = &DamageError{Offset: r.offset, Reason: reason}
		}
		if err := r.resume(); err != nil {
			return err
		}
	}
}

// peek looks at up to n bytes, fewer only at the end.
func (r *reader) peek(n int) ([]byte, error) {
	if n > r.b.Size() {
		r.b = bufio.NewReaderSize(r.b, maxRecord+frameSize)
	}
	b, err := r.b.Peek(n)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read the recording: %w", err)
	}
	return b, nil
}

func (r *reader) skip(n int) {
	_, _ = r.b.Discard(n) // it was looked at
	r.offset += int64(n)
}

// record looks at kind and body of the next record, or says what is wrong with
// it.
func (r *reader) record() (body []byte, reason string, err error) {
	const cut = "it was cut in the middle of a record"
	head, err := r.peek(lengthSize)
	if err != nil {
		return nil, "", err
	}
	if len(head) < lengthSize {
		return nil, cut, nil
	}
	size := binary.LittleEndian.Uint32(head)
	if size == 0 || size > maxRecord {
		return nil, fmt.Sprintf("a record of %d bytes", size), nil
	}
	whole, err := r.peek(int(size) + frameSize)
	if err != nil {
		return nil, "", err
	}
	if len(whole) < int(size)+frameSize {
		return nil, cut, nil
	}
	body = whole[lengthSize : lengthSize+size]
	if binary.LittleEndian.Uint32(whole[lengthSize+size:]) != crc32.Checksum(body, castagnoli) {
		return nil, "a checksum does not match", nil
	}
	return body, "", nil
}

// budget is how many bytes may be summed up for each one that is skipped, so
// that what is made to look like records costs no more than its size.
const budget = 64

// resume skips what is damaged, up to the next whole record or the end.
func (r *reader) resume() error {
	start, allowed := r.offset, maxRecord
	for {
		r.skip(1)
		allowed += budget
		head, err := r.peek(max(len(magic), lengthSize+1))
		if err != nil {
			return err
		}
		if len(head) == 0 {
			r.damage.Skipped += r.offset - start
			return nil
		}
		if string(head) != magic {
			if len(head) <= lengthSize || strings.IndexByte(kinds, head[lengthSize]) < 0 {
				continue
			}
			size := binary.LittleEndian.Uint32(head)
			if size == 0 || size > uint32(min(allowed, maxRecord)) {
				continue
			}
			allowed -= int(size)
			_, reason, err := r.record()
			if err != nil {
				return err
			}
			if reason != "" {
				continue
			}
		}
		r.damage.Gaps++
		r.damage.Skipped += r.offset - start
		if r.gap == nil {
			r.gap = &Gap{Offset: start}
		}
		r.gap.Bytes += r.offset - start
		return nil
	}
}

// tell tells of a gap before the record of a kind that follows it.
func (r *reader) tell(kind byte) error {
	g, begun := r.gap, r.begun
	r.gap, r.begun = nil, false
	if g == nil {
		return nil
	}
	g.Head = begun && kind != kindMeta
	return call(r.h.Gap, *g)
}

// deliver hands a record over. reason says what is wrong with it.
func (r *reader) deliver(kind byte, body []byte) (reason string, err error) {
	h := &r.h
	switch kind {
	case kindStory:
		jiffy, n := binary.Uvarint(body)
		if n <= 0 {
			return "a story without its clock", nil
		}
		if err := r.story.Decode(body[n:], time.Duration(jiffy), r.arch); err != nil {
			return err.Error(), nil
		}
		if h.Story == nil {
			return "", nil
		}
		return "", h.Story(body[n:], time.Duration(jiffy))
	case kindEvent:
		var e event.Event
		if err := decodeEvent(body, &e); err != nil {
			return err.Error(), nil
		}
		return "", call(h.Event, e)
	case kindMeta:
		var m Meta
		if err := json.Unmarshal(body, &m); err != nil {
			return err.Error(), nil
		}
		if m.Version != 1 {
			return "", fmt.Errorf("the recording has format %d, this program reads format 1: use the tcpbye that wrote it (%s)", m.Version, m.Program)
		}
		r.arch = m.Arch
		return "", call(h.Meta, m)
	case kindLoss:
		return unmarshal(body, h.Loss)
	case kindEnd:
		return unmarshal(body, h.End)
	case kindProcess:
		return unmarshal(body, h.Process)
	case kindSeed:
		return unmarshal(body, h.Seed)
	case kindTick:
		return unmarshal(body, h.Tick)
	case kindChoice:
		return unmarshal(body, h.Choice)
	case kindWall:
		return unmarshal(body, h.Wall)
	case kindLook:
		return unmarshal(body, h.Look)
	}
	return "", nil // a kind of a later version
}

func unmarshal[T any](body []byte, f func(T) error) (reason string, err error) {
	var v T
	if err := json.Unmarshal(body, &v); err != nil {
		return err.Error(), nil
	}
	return "", call(f, v)
}

func call[T any](f func(T) error, v T) error {
	if f == nil {
		return nil
	}
	return f(v)
}
