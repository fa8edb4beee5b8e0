package enrich

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// What is asked of the process that reads executables, and its answers: messages
// of a SOCK_SEQPACKET socket, one answer to each question. In the middle of a
// load it asks back, once, for a debug file.

type question struct {
	Op     string `json:"op"`
	Module uint64 `json:"m,omitempty"`
	Size   int64  `json:"size,omitempty"` // of the file that comes along
	Offset uint64 `json:"off,omitempty"`  // in the file
}

const (
	opLoad   = "load"   // read the tables of the file that comes along
	opDebug  = "debug"  // the answer to Answer.Debug: the file comes along, or there is none
	opFrames = "frames" // name the functions at an offset
	opRow    = "row"    // how to get from there to the caller
	opDrop   = "drop"   // forget a module
)

type answer struct {
	Ready  bool    `json:"ready,omitempty"` // the first one: the limits are set
	Sealed bool    `json:"sealed,omitempty"`
	Debug  string  `json:"debug,omitempty"` // a build id, whose debug file is wanted
	OK     bool    `json:"ok,omitempty"`
	Cost   int64   `json:"cost,omitempty"`  // bytes held
	Vaddr  uint64  `json:"vaddr,omitempty"` // the offset, as the file numbers its addresses
	Frames []Frame `json:"frames,omitempty"`
	Row    *row    `json:"row,omitempty"`
}

const (
	symbolEnv    = "TCPBYE_SYMBOLS" // set: be that process, with so many bytes of memory
	symbolName   = "tcpbye-symbols" // in ps(1); a comm has 15 bytes
	symbolSocket = 3
	maxMessage   = 128 << 10
)

// hosted says whether this program's main calls ServeSymbols.
var hosted atomic.Bool

// ServeSymbols makes this process the one that reads executables, if a Symbols
// started it for that; then ok is true, and main must exit with the status.
// NewSymbols starts the program that calls it once more, so a main that uses it
// calls ServeSymbols before anything else, and so does a TestMain.
func ServeSymbols() (status int, ok bool) {
	hosted.Store(true)
	text, ok := os.LookupEnv(symbolEnv)
	if !ok {
		return 0, false
	}
	memory, err := strconv.ParseUint(text, 10, 62)
	if err == nil {
		err = serveSymbols(symbolSocket, memory)
	}
	if err != nil {
		return 1, true // whoever asks sees the socket close
	}
	return 0, true
}

// server is that process.
type server struct {
	socket  int
	modules map[uint64]*tables
	buf     []byte
}

func serveSymbols(socket int, memory uint64) error {
	sealed, err := confine(socket, memory)
	if err != nil {
		return err
	}
	debug.SetMemoryLimit(int64(memory / 4 * 3))
	s := &server{socket: socket, modules: make(map[uint64]*tables), buf: make([]byte, maxMessage)}
	if err := s.send(answer{Ready: true, Sealed: sealed}); err != nil {
		return err
	}
	for {
		q, file, err := s.receive()
		if err != nil || q == nil {
			return err
		}
		if err := s.serve(q, file); err != nil {
			return err
		}
	}
}

// receive waits for a question; nil: nobody asks any more.
func (s *server) receive() (*question, *os.File, error) {
	oob := make([]byte, unix.CmsgSpace(4))
	for {
		n, oobn, _, _, err := unix.Recvmsg(s.socket, s.buf, oob, unix.MSG_CMSG_CLOEXEC)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return nil, nil, fmt.Errorf("wait for a question: %w", err)
		case n == 0:
			return nil, nil, nil
		}
		var file *os.File
		if fd, ok := passed(oob[:oobn]); ok {
			file = os.NewFile(uintptr(fd), "module")
		}
		q := &question{}
		if err := json.Unmarshal(s.buf[:n], q); err != nil {
			return nil, nil, fmt.Errorf("a question that cannot be read: %w", err)
		}
		return q, file, nil
	}
}

// passed is the descriptor that came along.
func passed(oob []byte) (fd int, ok bool) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return 0, false
	}
	for i := range messages {
		if fds, err := unix.ParseUnixRights(&messages[i]); err == nil && len(fds) == 1 {
			return fds[0], true
		}
	}
	return 0, false
}

func (s *server) send(a answer) error {
	b, err := json.Marshal(a)
	if err != nil || len(b) > maxMessage {
		if b, err = json.Marshal(answer{OK: a.OK, Vaddr: a.Vaddr}); err != nil {
			return err
		}
	}
	for {
		err := unix.Sendmsg(s.socket, b, nil, nil, unix.MSG_NOSIGNAL)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("answer: %w", err)
		default:
			return nil
		}
	}
}

func (s *server) serve(q *question, file *os.File) error {
	if file != nil {
		defer file.Close()
	}
	t := s.modules[q.Module]
	var a answer
	switch q.Op {
	case opLoad:
		delete(s.modules, q.Module)
		if file == nil {
			break
		}
		var broken error
		t = readTables(file, q.Size, func(id string) (found *os.File) {
			found, broken = s.askDebug(id)
			return found
		})
		if broken != nil {
			return broken
		}
		if t != nil {
			s.modules[q.Module] = t
			a.OK, a.Cost = true, t.cost
		}
	case opFrames:
		if t != nil {
			if a.Vaddr, a.OK = t.vaddr(q.Offset); a.OK {
				a.Frames = fit(t.frames(a.Vaddr))
			}
		}
	case opRow:
		if t == nil || t.unwind == nil {
			break
		}
		if vaddr, ok := t.vaddr(q.Offset); ok {
			if r, ok := t.unwind.row(vaddr); ok {
				a.OK, a.Row = true, &r
			}
		}
	case opDrop:
		delete(s.modules, q.Module)
		a.OK = true
	}
	return s.send(a)
}

func (s *server) askDebug(id string) (*os.File, error) {
	if err := s.send(answer{Debug: id}); err != nil {
		return nil, err
	}
	q, file, err := s.receive()
	if err == nil && (q == nil || q.Op != opDebug) {
		err = errors.New("no answer about a debug file")
	}
	return file, err
}

// fit cuts what is longer than any name that people read, so that an answer has
// room for it.
func fit(frames []Frame) []Frame {
	most := maxMessage / 2 / max(1, len(frames))
	for i := range frames {
		for _, s := range []*string{&frames[i].Function, &frames[i].File} {
			if len(*s) > most/2 {
				*s = (*s)[:most/2]
			}
		}
	}
	return frames
}
