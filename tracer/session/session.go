package session

import (
	"time"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/record"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// Config says what to do with what is seen.
type Config struct {
	Join  conn.Options
	Scope verdict.Scope
	// Keep says which endings to show; nil: all.
	Keep func(*conn.Connection, verdict.Verdict) bool
	// Show takes each ending that is kept, once.
	Show func(*conn.Connection, verdict.Verdict) error
	// Drained is called once the last event of a live run has been taken,
	// before what is left is judged; nil: nothing is called.
	Drained func()
	// Record gets every event; nil: none.
	Record *record.Writer
}

// Counts is the closing line.
type Counts struct {
	Events   uint64
	Seen     uint64 // connection ends judged
	Shown    uint64
	Filtered uint64
	Lost     uint64 // events
}

// Session is a run.
type Session struct {
	cfg    Config
	join   *conn.Joiner
	counts Counts
}

// New starts a run.
func New(cfg Config) *Session {
	return &Session{cfg: cfg, join: conn.New(cfg.Join)}
}

// Event takes an event.
func (s *Session) Event(e event.Event) error {
	s.counts.Events++
	if s.cfg.Record != nil {
		if err := s.cfg.Record.Event(e); err != nil {
			return err
		}
	}
	s.join.Add(e)
	return nil
}

// Lose says that n more events were lost by now.
func (s *Session) Lose(now time.Duration, n uint64) error {
	if n == 0 {
		return nil
	}
	s.counts.Lost += n
	s.join.Lose(now)
	if s.cfg.Record != nil {
		return s.cfg.Record.Loss(record.Loss{Time: now, Lost: n})
	}
	return nil
}

// Tick says that no event older than now will come, and shows what is complete.
func (s *Session) Tick(now time.Duration) error {
	if err := s.show(s.join.Advance(now)); err != nil {
		return err
	}
	if s.cfg.Record != nil {
		return s.cfg.Record.Flush()
	}
	return nil
}

// Finish judges and shows what is left.
func (s *Session) Finish() error {
	if err := s.show(s.join.Flush()); err != nil {
		return err
	}
	if s.cfg.Record != nil {
		return s.cfg.Record.Close(record.End{Events: s.counts.Events, Lost: s.counts.Lost})
	}
	return nil
}

// Counts returns the counts so far.
func (s *Session) Counts() Counts { return s.counts }

func (s *Session) show(ended []*conn.Connection) error {
	for _, c := range ended {
		v := verdict.Judge(c, s.cfg.Scope)
		s.counts.Seen++
		if s.cfg.Keep != nil && !s.cfg.Keep(c, v) {
			s.counts.Filtered++
			continue
		}
		s.counts.Shown++
		if s.cfg.Show == nil {
			continue
		}
		if err := s.cfg.Show(c, v); err != nil {
			return err
		}
	}
	return nil
}
