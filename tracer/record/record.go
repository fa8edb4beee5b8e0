package record

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"time"

	"github.com/tcpbye/tcpbye/tracer/event"
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
)

// Meta is what a run was like: it stands before its events.
type Meta struct {
	Version  int           `json:"version"`        // of the format: 1
	Program  string        `json:"program"`        // who wrote it
	Kernel   string        `json:"kernel"`         // uname -r
	Arch     string        `json:"arch"`           // as Go spells it
	Offset   time.Duration `json:"wall_offset_ns"` // wall clock minus CLOCK_MONOTONIC
	Rungs    []Rung        `json:"hooks"`          // how each hook was attached
	Scenario string        `json:"scenario,omitempty"`
	// Run and Part tell the parts of one run that was recorded in several
	// files: the same Run, and Parts counted from 0. In a part, what earlier
	// parts told of connections and processes is told again.
	Run  string `json:"run,omitempty"`
	Part int    `json:"part,omitempty"`
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
	// Blind: the kernel let the program read no segment, so what is known of one
	// that met no connection is not known.
	Blind bool `json:"blind,omitempty"`
}

// Missing lists the hooks that were not attached.
func (m Meta) Missing() []event.Hook {
	var missing []event.Hook
	for _, r := range m.Rungs {
		if r.Rung == "" {
			missing = append(missing, r.Hook)
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
}

// Writer writes a recording. Its first error sticks.
type Writer struct {
	w   *bufio.Writer
	buf []byte
	err error
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
		return w.err
	}
	body, err := appendEvent(append(w.buf[:0], kindEvent), &e)
	if err != nil {
		w.err = err
		return err
	}
	w.buf = body
	w.record(body)
	return w.err
}

// Loss records a loss.
func (w *Writer) Loss(l Loss) error {
	w.json(kindLoss, l)
	return w.err
}

// Process records what is known of a process. It stands before the events that
// it explains.
func (w *Writer) Process(p Process) error {
	w.json(kindProcess, p)
	return w.err
}

// Seed records a connection that was there when the run began.
func (w *Writer) Seed(s Seed) error {
	w.json(kindSeed, s)
	return w.err
}

// Choice says what a run was about, where its command line alone does not say it.
type Choice struct {
	Command uint32 `json:"command"` // PID of the command that was run and followed
}

// Choice records it. It stands before the events.
func (w *Writer) Choice(c Choice) error {
	w.json(kindChoice, c)
	return w.err
}

// Tick records that no older event will come.
func (w *Writer) Tick(t Tick) error {
	w.json(kindTick, t)
	return w.err
}

// Flush hands everything on that was recorded so far.
func (w *Writer) Flush() error {
	if w.err == nil {
		if err := w.w.Flush(); err != nil {
			w.err = fmt.Errorf("write the recording: %w", err)
		}
	}
	return w.err
}

// Close records the end and flushes. It does not close the file.
func (w *Writer) Close(end End) error {
	w.json(kindEnd, end)
	return w.Flush()
}

func (w *Writer) json(kind byte, v any) {
	if w.err != nil {
		return
	}
	b, err := json.Marshal(v)
	if err != nil {
		w.err = fmt.Errorf("write the recording: %w", err)
		return
	}
	w.record(append([]byte{kind}, b...))
}

func (w *Writer) record(body []byte) {
	var n [4]byte
	binary.LittleEndian.PutUint32(n[:], uint32(len(body)))
	_, err := w.w.Write(n[:])
	if err == nil {
		_, err = w.w.Write(body)
	}
	if err == nil {
		binary.LittleEndian.PutUint32(n[:], crc32.Checksum(body, castagnoli))
		_, err = w.w.Write(n[:])
	}
	if err != nil {
		w.err = fmt.Errorf("write the recording: %w", err)
	}
}

// DamageError says where a recording stops being one.
type DamageError struct {
	Offset int64 // of the record
	Reason string
}

func (e *DamageError) Error() string {
	return fmt.Sprintf("the recording is damaged at byte %d: %s; everything before it was read", e.Offset, e.Reason)
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
}

// Read reads a recording to its end. A cut or damaged tail comes back as a
// *DamageError after everything before it has been delivered.
func Read(r io.Reader, h Handler) error {
	br := bufio.NewReader(r)
	var offset int64
	head, err := br.Peek(len(magic))
	if err != nil || string(head) != magic {
		if err == nil || errors.Is(err, io.EOF) {
			return errors.New("this is not a recording of tcpbye: it does not start with its signature")
		}
		return fmt.Errorf("read the recording: %w", err)
	}
	var body []byte
	for {
		// A recording that was appended starts with the signature again.
		if head, err := br.Peek(len(magic)); err == nil && string(head) == magic {
			if _, err := br.Discard(len(magic)); err != nil {
				return fmt.Errorf("read the recording: %w", err)
			}
			offset += int64(len(magic))
			continue
		}
		var n [4]byte
		if _, err := io.ReadFull(br, n[:]); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return damaged(offset, err)
		}
		size := binary.LittleEndian.Uint32(n[:])
		if size == 0 || size > maxRecord {
			return &DamageError{offset, fmt.Sprintf("a record of %d bytes", size)}
		}
		if cap(body) < int(size) {
			body = make([]byte, size)
		}
		body = body[:size]
		if _, err := io.ReadFull(br, body); err != nil {
			return damaged(offset, err)
		}
		if _, err := io.ReadFull(br, n[:]); err != nil {
			return damaged(offset, err)
		}
		if binary.LittleEndian.Uint32(n[:]) != crc32.Checksum(body, castagnoli) {
			return &DamageError{offset, "a checksum does not match"}
		}
		if err := h.deliver(body[0], body[1:], offset); err != nil {
			return err
		}
		offset += int64(size) + 8
	}
}

func damaged(offset int64, err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return &DamageError{offset, "it was cut in the middle of a record"}
	}
	return fmt.Errorf("read the recording: %w", err)
}

func (h Handler) deliver(kind byte, body []byte, offset int64) error {
	switch kind {
	case kindEvent:
		e, err := decodeEvent(body)
		if err != nil {
			return &DamageError{offset, err.Error()}
		}
		if h.Event != nil {
			return h.Event(e)
		}
	case kindMeta:
		var m Meta
		if err := json.Unmarshal(body, &m); err != nil {
			return &DamageError{offset, err.Error()}
		}
		if m.Version != 1 {
			return fmt.Errorf("the recording has format %d, this program reads format 1: use the tcpbye that wrote it (%s)", m.Version, m.Program)
		}
		return call(h.Meta, m)
	case kindLoss:
		return unmarshal(body, offset, h.Loss)
	case kindEnd:
		return unmarshal(body, offset, h.End)
	case kindProcess:
		return unmarshal(body, offset, h.Process)
	case kindSeed:
		return unmarshal(body, offset, h.Seed)
	case kindTick:
		return unmarshal(body, offset, h.Tick)
	case kindChoice:
		return unmarshal(body, offset, h.Choice)
	}
	return nil // a kind of a later version
}

func unmarshal[T any](body []byte, offset int64, f func(T) error) error {
	var v T
	if err := json.Unmarshal(body, &v); err != nil {
		return &DamageError{offset, err.Error()}
	}
	return call(f, v)
}

func call[T any](f func(T) error, v T) error {
	if f == nil {
		return nil
	}
	return f(v)
}
