package journal

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/journal"

	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/export"
	"github.com/tcpbye/tcpbye/tracer/report"
)

// Entry is a message with its fields.
type Entry struct {
	Message  string
	Priority journal.Priority
	Fields   map[string]string
}

// Writer writes ends to the journal. End is for one goroutine.
type Writer struct {
	clock report.Clock
	say   func(string)
	send  func(Entry) error

	queue  chan Entry
	done   chan struct{}
	once   sync.Once
	sent   atomic.Uint64
	busy   atomic.Uint64
	failed atomic.Uint64
}

// waiting is how many entries the journal may be behind.
const waiting = 1 << 12

// ErrNone says that there is no journal here.
var ErrNone = errors.New("systemd's journal does not listen here (/run/systemd/journal/socket)")

// New starts one. say is told what goes wrong.
func New(clock report.Clock, say func(string)) (*Writer, error) {
	if !journal.Enabled() {
		return nil, ErrNone
	}
	return start(clock, say, func(e Entry) error { return journal.Send(e.Message, e.Priority, e.Fields) }), nil
}

func start(clock report.Clock, say func(string), send func(Entry) error) *Writer {
	w := &Writer{clock: clock, say: say, send: send, queue: make(chan Entry, waiting), done: make(chan struct{})}
	go w.work()
	return w
}

// Counts are how many entries the journal took, and those that were dropped, by why.
func (w *Writer) Counts() (sent uint64, dropped map[string]uint64) {
	return w.sent.Load(), map[string]uint64{"busy": w.busy.Load(), "refused": w.failed.Load()}
}

// SetOffset says how far the wall clock is from CLOCK_MONOTONIC in the run that begins.
func (w *Writer) SetOffset(d time.Duration) { w.clock.Offset = d }

// End implements report.Sink. It never fails.
func (w *Writer) End(j report.Judged) error {
	select {
	case w.queue <- NewEntry(j, w.clock):
	default:
		w.busy.Add(1)
	}
	return nil
}

// Close writes what waits.
func (w *Writer) Close() error {
	w.once.Do(func() { close(w.queue) })
	<-w.done
	return nil
}

func (w *Writer) work() {
	defer close(w.done)
	for e := range w.queue {
		err := w.send(e)
		if err != nil {
			w.failed.Add(1)
			w.say(fmt.Sprintf("the journal does not take the end of a connection: %v", err))
		} else {
			w.sent.Add(1)
		}
	}
}

// priorities are those of syslog(3).
var priorities = map[export.Severity]journal.Priority{export.Info: journal.PriInfo, export.Warn: journal.PriWarning, export.Error: journal.PriErr}

// explained are the fields that the catalog fills in.
var explained = []string{"TCPBYE_LOCAL", "TCPBYE_REMOTE", "TCPBYE_COMM", "TCPBYE_PID", "TCPBYE_ADVICE"}

// NewEntry is what the journal gets of an end. What is not known has no field, or is "-"
// where the catalog has a place for it.
func NewEntry(j report.Judged, clock report.Clock) Entry {
	c, v := j.Conn, &j.Verdict
	f := map[string]string{"MESSAGE_ID": MessageID(v.Cause), "SYSLOG_IDENTIFIER": "tcpbye"}
	for _, name := range explained {
		f[name] = "-"
	}
	report.Fields(j, clock, func(key, value string) {
		if key == "sentence" {
			return // it is the message
		}
		f["TCPBYE_"+strings.ToUpper(key)] = strings.ToValidUTF8(value, "\ufffd")
	})
	if missing := export.Missing(c, v); len(missing) > 0 {
		f["TCPBYE_MISSING"] = strings.Join(missing, " ")
	}
	if id := export.Trace(c); id != (export.TraceID{}) {
		span, _ := export.Span(c)
		f["TCPBYE_TRACE_ID"], f["TCPBYE_SPAN_ID"] = hex.EncodeToString(id[:]), hex.EncodeToString(span[:])
	}
	message := event.Quote(v.Sentence)
	if message == "" {
		message = string(v.Class) + ": " + string(v.Cause)
	}
	return Entry{Message: message, Priority: priorities[export.SeverityOf(v)], Fields: f}
}
