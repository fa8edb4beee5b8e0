package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/tracer"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/record"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// Program is the name that recordings carry.
var Program = "tcpbye"

// lossEvery is how often a live run asks the kernel for losses: it costs a
// system call for each program.
const lossEvery = time.Second

// Live traces until the context ends and then finishes the story. prepare is
// called once everything is attached, with what a recording's head says; its
// Config's Scope is filled in from it.
func Live(ctx context.Context, opts tracer.Options, prepare func(record.Meta, []tracer.Attachment) (Config, error)) (counts Counts, err error) {
	t, err := tracer.Open(opts)
	if err != nil {
		return counts, err
	}
	defer func() { err = errors.Join(err, t.Close()) }()
	meta, err := Describe(t.Attachments())
	if err != nil {
		return counts, err
	}
	cfg, err := prepare(meta, t.Attachments())
	if err != nil {
		return counts, err
	}
	cfg.Scope = verdict.Scope{Missing: meta.Missing()}
	s := New(cfg)
	var lost uint64
	var asked time.Duration
	losses := func(now time.Duration) error {
		st, err := t.Stats()
		if err != nil {
			return err
		}
		more := st.Lost() - lost
		lost = st.Lost()
		return s.Lose(now, more)
	}
	err = t.Run(ctx, s.Event, func(now time.Duration) error {
		if now-asked >= lossEvery {
			asked = now
			if err := losses(now); err != nil {
				return err
			}
		}
		return s.Tick(now)
	})
	if err == nil {
		var now time.Duration
		if now, err = tracer.Monotonic(); err == nil {
			err = losses(now)
		}
	}
	if cfg.Drained != nil {
		cfg.Drained()
	}
	// Whatever went wrong, what was recorded is judged and shown.
	err = errors.Join(err, s.Finish())
	return s.Counts(), err
}

// Describe says what this run is like.
func Describe(attachments []tracer.Attachment) (record.Meta, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return record.Meta{}, fmt.Errorf("read the kernel's release: %w", err)
	}
	now, err := tracer.Monotonic()
	if err != nil {
		return record.Meta{}, err
	}
	m := record.Meta{
		Program: Program, Kernel: unix.ByteSliceToString(u.Release[:]), Arch: runtime.GOARCH,
		Offset: time.Duration(time.Now().UnixNano()) - now,
	}
	for _, a := range attachments {
		m.Rungs = append(m.Rungs, record.Rung{Hook: a.Hook, Name: a.Hook.String(), Rung: string(a.Rung)})
	}
	return m, nil
}

// Replay reads a recording through the same code. prepare is called for each
// run in it. A damaged tail is an error after everything before it was shown.
func Replay(r io.Reader, prepare func(record.Meta) (Config, error)) (Counts, error) {
	var total Counts
	var s *Session
	finish := func() error {
		if s == nil {
			return nil
		}
		err := s.Finish()
		c := s.Counts()
		total.Events += c.Events
		total.Seen += c.Seen
		total.Shown += c.Shown
		total.Filtered += c.Filtered
		total.Lost += c.Lost
		s = nil
		return err
	}
	err := record.Read(r, record.Handler{
		Meta: func(m record.Meta) error {
			if err := finish(); err != nil {
				return err
			}
			cfg, err := prepare(m)
			if err != nil {
				return err
			}
			cfg.Scope = verdict.Scope{Missing: m.Missing()}
			s = New(cfg)
			return nil
		},
		Event: func(e event.Event) error {
			if s == nil {
				return errors.New("the recording has events before its head")
			}
			if err := s.Event(e); err != nil {
				return err
			}
			return s.Tick(e.Time)
		},
		Loss: func(l record.Loss) error {
			if s == nil {
				return nil
			}
			return s.Lose(l.Time, l.Lost)
		},
	})
	return total, errors.Join(err, finish())
}
