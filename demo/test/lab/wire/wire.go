package wire

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"sync"
)

// Fixed names that both sides use.
const (
	Port     = "tcpbye.lab" // the virtio-serial port's name
	SpecFile = "/lab/spec"  // where the initramfs holds the Spec
	HostTag  = "host"       // the 9p mount tag of the host's root
	OutTag   = "out"        // the 9p mount tag of the share for results
)

// Spec tells the guest's init what to do.
type Spec struct {
	Args [][]byte // the command and its arguments, at least one
	Env  [][]byte // NAME=VALUE
	Dir  []byte   // working directory of the command

	// Path lists the directories in which a command without a slash is looked
	// for, in order.
	Path [][]byte

	HostRoot bool   // the root is the host's, over 9p under a tmpfs overlay; else the initramfs
	Out      []byte // where the share for results is mounted; empty: there is none

	RootModules []Module // loaded first; without them nothing works
	MoreModules []Module // loaded later
	Missing     []string // modules that were wanted but are not part of this kernel

	// ModuleTree is a host path: the kernel's modules, bound to
	// /lib/modules/RELEASE. KernelConfig likewise: the kernel's build
	// configuration, bound to /boot/config-RELEASE. Empty: none.
	ModuleTree   []byte
	KernelConfig []byte

	Stdin bool // frames of kind Stdin follow; else the command reads /dev/null
}

// Module is a kernel module to load.
type Module struct {
	File   string // in the initramfs
	Params string // as on modprobe's command line
}

// Marshal encodes the spec.
func (s Spec) Marshal() ([]byte, error) { return json.Marshal(s) }

// UnmarshalSpec decodes what Marshal made.
func UnmarshalSpec(b []byte) (Spec, error) {
	var s Spec
	if err := json.Unmarshal(b, &s); err != nil {
		return Spec{}, fmt.Errorf("decode the lab's spec: %w", err)
	}
	if len(s.Args) == 0 {
		return Spec{}, fmt.Errorf("decode the lab's spec: it names no command")
	}
	return s, nil
}

// Bytes and Strings convert between Go's argument lists and those of Spec.
func Bytes(list []string) [][]byte {
	out := make([][]byte, len(list))
	for i, s := range list {
		out[i] = []byte(s)
	}
	return out
}

// Strings is the inverse of Bytes.
func Strings(list [][]byte) []string {
	out := make([]string, len(list))
	for i, b := range list {
		out[i] = string(b)
	}
	return out
}

// Kind is a frame's meaning.
type Kind uint8

// The kinds. Those with a body type carry it as JSON, the others are raw bytes.
const (
	Stdin    Kind = iota + 1 // host to guest: bytes for the command's standard input; an empty frame is its end
	Stdout                   // guest to host: bytes of the command's standard output
	Stderr                   // guest to host: bytes of the command's standard error
	Note                     // guest to host: a sentence for a person
	Started                  // guest to host: the command runs; the body is a StartedBody
	Exit                     // guest to host: the command ended and everything is written; the body is an ExitBody
	NotFound                 // guest to host: the command could not be started; the body is a NotFoundBody
	Fail                     // guest to host: the guest could not be set up; the body is a sentence
)

// StartedBody says on what the command runs.
type StartedBody struct {
	Release string // uname -r
}

// ExitBody says how the command ended.
type ExitBody struct {
	Code   int // exit status, or 128 and the signal
	Signal int // the signal that killed it, or 0
}

// NotFoundBody says why the command could not be started.
type NotFoundBody struct {
	Errno int    // the system's error number
	Text  string // a sentence
}

// MaxFrame bounds a frame's body, in bytes. It is what one write to a
// virtio-serial port takes.
const MaxFrame = 32 << 10

const headerSize = 5

// Writer writes frames. It is safe for concurrent use.
type Writer struct {
	mu  sync.Mutex
	w   io.Writer
	buf []byte
}

// NewWriter returns a Writer on w.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w} }

// Write sends body, in several frames if it is longer than MaxFrame, and one
// empty frame if it is empty.
func (w *Writer) Write(kind Kind, body []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for first := true; first || len(body) > 0; first = false {
		n := min(len(body), MaxFrame-headerSize)
		w.buf = append(w.buf[:0], byte(kind))
		w.buf = binary.BigEndian.AppendUint32(w.buf, uint32(n))
		w.buf = append(w.buf, body[:n]...)
		if _, err := w.w.Write(w.buf); err != nil {
			return err
		}
		body = body[n:]
	}
	return nil
}

// WriteJSON sends body encoded as JSON. It must fit one frame.
func (w *Writer) WriteJSON(kind Kind, body any) error {
	b, err := json.Marshal(body)
	if err != nil {
		return err
	}
	if len(b) > MaxFrame-headerSize {
		return fmt.Errorf("frame of kind %d has %d bytes, more than fit", kind, len(b))
	}
	return w.Write(kind, b)
}

// Stream returns an io.Writer whose bytes become frames of the given kind. An
// empty Write sends nothing.
func (w *Writer) Stream(kind Kind) io.Writer { return stream{w, kind} }

type stream struct {
	w    *Writer
	kind Kind
}

func (s stream) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if err := s.w.Write(s.kind, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Reader reads frames.
type Reader struct {
	r   io.Reader
	buf [MaxFrame]byte
}

// NewReader returns a Reader on r.
func NewReader(r io.Reader) *Reader { return &Reader{r: r} }

// Next returns the next frame. The body is valid until the next call. At a
// clean end it returns io.EOF, inside a frame io.ErrUnexpectedEOF.
func (r *Reader) Next() (Kind, []byte, error) {
	if _, err := io.ReadFull(r.r, r.buf[:headerSize]); err != nil {
		return 0, nil, err
	}
	kind, n := Kind(r.buf[0]), binary.BigEndian.Uint32(r.buf[1:headerSize])
	if kind < Stdin || kind > Fail || n > MaxFrame-headerSize {
		return 0, nil, fmt.Errorf("bad frame on the lab's port: kind %d, %d bytes", kind, n)
	}
	body := r.buf[headerSize : headerSize+n]
	if _, err := io.ReadFull(r.r, body); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, err
	}
	return kind, body, nil
}
