package main

import (
	"time"

	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/record"
	"github.com/tcpbye/tcpbye/tracer/session"
)

// lenient is a recording whose failure, as on a full disk, is said and ends nothing but
// the recording.
type lenient struct {
	session.Recorder
	say    func(format string, args ...any)
	failed bool
}

func (l *lenient) pass(write func() error) error {
	if l.failed {
		return nil
	}
	if err := write(); err != nil {
		l.failed = true
		l.say("the recording ends here, and the rest goes on: %v", err)
	}
	return nil
}

func (l *lenient) Event(e event.Event) error {
	return l.pass(func() error { return l.Recorder.Event(e) })
}

func (l *lenient) Loss(x record.Loss) error {
	return l.pass(func() error { return l.Recorder.Loss(x) })
}

func (l *lenient) Process(p record.Process) error {
	return l.pass(func() error { return l.Recorder.Process(p) })
}

func (l *lenient) Seed(x record.Seed) error {
	return l.pass(func() error { return l.Recorder.Seed(x) })
}

func (l *lenient) Tick(x record.Tick) error {
	return l.pass(func() error { return l.Recorder.Tick(x) })
}

func (l *lenient) Choice(c record.Choice) error {
	return l.pass(func() error { return l.Recorder.Choice(c) })
}

func (l *lenient) Wall(w record.Wall) error {
	return l.pass(func() error { return l.Recorder.Wall(w) })
}

func (l *lenient) Look(x record.Look) error {
	return l.pass(func() error { return l.Recorder.Look(x) })
}

func (l *lenient) Story(raw []byte, jiffy time.Duration) error {
	return l.pass(func() error { return l.Recorder.Story(raw, jiffy) })
}

func (l *lenient) Raw(records []byte, events uint64) error {
	return l.pass(func() error { return l.Recorder.Raw(records, events) })
}

func (l *lenient) Next() error { return l.pass(l.Recorder.Next) }

func (l *lenient) Flush() error { return l.pass(l.Recorder.Flush) }

func (l *lenient) Close(e record.End) error {
	return l.pass(func() error { return l.Recorder.Close(e) })
}
