package session

import (
	"errors"
	"io"
	"net/netip"
	"time"

	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/record"
	"github.com/tcpbye/tcpbye/tracer/story"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// ErrInterrupted is what a reader gives for a recording that is not read to its
// end because nobody wants to know more: it is a normal end.
var ErrInterrupted = errors.New("interrupted")

// Replay reads a recording through the same code. prepare is called for each
// run in it. A damaged tail is an error after everything before it was shown.
func Replay(r io.Reader, prepare func(record.Meta) (Config, error)) (Counts, error) {
	p := replay{prepare: prepare}
	err := record.Read(r, record.Handler{
		Meta: p.head,
		Gap:  p.gap,
		Event: func(e event.Event) error {
			if p.s == nil {
				return p.headless()
			}
			if err := p.over(e.Time); err != nil {
				return err
			}
			p.covers(e.Time)
			p.meets(&e)
			return p.s.Event(e)
		},
		Story: func(raw []byte, jiffy time.Duration) error {
			if p.s == nil {
				return p.headless()
			}
			r := story.RawOf(raw)
			if err := p.over(r.Told()); err != nil {
				return err
			}
			p.covers(r.Told())
			local, remote := r.Ends()
			p.meetsAt(r.NetNS(), local, remote)
			return p.s.Story(raw, jiffy, p.meta.Arch)
		},
		Loss: func(l record.Loss) error { return p.s.lose(l) },
		Process: func(r record.Process) error {
			if p.s == nil || r.Again && p.goesOn && p.first == 0 {
				return nil
			}
			r.Again = false
			return p.s.Process(r)
		},
		Seed: func(r record.Seed) error {
			if p.s == nil || r.Again && p.goesOn && !p.news(r) {
				return nil
			}
			p.covers(r.Time)
			if len(r.Holders) > 0 {
				return p.s.Hold(seedOf(r))
			}
			return p.s.Seed(seedOf(r))
		},
		Choice: func(c record.Choice) error {
			if p.s == nil || p.goesOn {
				return nil
			}
			return p.s.Choose(c)
		},
		Wall: func(w record.Wall) error {
			if p.s == nil || w.Again && p.goesOn {
				return nil
			}
			w.Again = false
			return p.s.Wall(w)
		},
		Look: func(l record.Look) error {
			if p.s == nil {
				return nil
			}
			p.covers(l.Time)
			return p.s.Look(l)
		},
		Tick: func(t record.Tick) error {
			if p.s == nil {
				return nil
			}
			if err := p.over(t.Time); err != nil {
				return err
			}
			p.covers(t.Time)
			return p.s.Tick(t.Time)
		},
		End: func(e record.End) error {
			if p.s != nil && e.Time != 0 {
				p.covers(e.Time)
				p.s.until = e.Time
			}
			return nil
		},
	})
	if errors.Is(err, ErrEnough) || errors.Is(err, ErrInterrupted) {
		err = nil
	}
	err = errors.Join(err, p.finish())
	return p.total, err
}

// replay is the run that is being read, and the count of those before.
type replay struct {
	prepare func(record.Meta) (Config, error)
	meta    record.Meta
	s       *Session
	goesOn  bool               // this part continues the one before
	first   int                // part of the run that was read
	met     map[tuple]struct{} // where the first parts are missing: what was met since
	gapped  bool               // something is missing since the last event
	damaged bool               // the head of what is being read is missing
	from    time.Duration      // the first that was told in this run, and the last
	to      time.Duration
	total   Counts
}

// covers notes that the run told something of a time.
func (p *replay) covers(at time.Duration) {
	if p.from == 0 || at < p.from {
		p.from = at
	}
	p.to = max(p.to, at)
}

// meets notes a connection of a run whose first parts are missing.
func (p *replay) meets(e *event.Event) {
	if e.Has&event.HasTuple != 0 {
		p.meetsAt(e.NetNS, e.Local, e.Remote)
	}
}

func (p *replay) meetsAt(netns uint32, local, remote netip.AddrPort) {
	if p.first == 0 {
		return
	}
	if p.met == nil {
		p.met = map[tuple]struct{}{}
	}
	p.met[tuple{netns, local, remote}] = struct{}{}
}

// news says whether what a part tells again was told in none of the parts that were
// read: each tells of what it has events of.
func (p *replay) news(r record.Seed) bool {
	_, met := p.met[tuple{r.NetNS, r.Local, r.Remote}]
	return p.first > 0 && !met
}

// headless is an event of a run whose head was not read.
func (p *replay) headless() error {
	if p.damaged {
		return nil // the damage is told of at the end
	}
	return errors.New("the recording has events before its head")
}

// gap takes what could not be read as a loss: up to the next event.
func (p *replay) gap(g record.Gap) error {
	p.gapped = p.s != nil
	p.damaged = p.damaged || g.Head || p.s == nil
	if !g.Head {
		return nil
	}
	return p.finish()
}

// over ends a gap with something of a time: what was lost came before that, but
// may have happened a little later.
func (p *replay) over(at time.Duration) error {
	if !p.gapped {
		return nil
	}
	p.gapped = false
	from := p.s.join.Now()
	return p.s.Lose(from, max(from, at)+disorder, 1)
}

func (p *replay) head(m record.Meta) error {
	p.damaged = false
	p.goesOn = p.s != nil && m.Continues(p.meta)
	p.meta = m
	if p.goesOn {
		return nil
	}
	if err := p.finish(); err != nil {
		return err
	}
	cfg, err := p.prepare(m)
	if err != nil {
		return err
	}
	cfg.Scope = verdict.ScopeOf(m)
	p.s, p.first, p.met = New(cfg), m.Part, nil
	p.from, p.to = 0, 0
	return nil
}

func (p *replay) finish() error {
	if p.s == nil {
		return nil
	}
	err := errors.Join(p.over(p.s.newest), p.s.Finish())
	if p.s.cfg.Covers != nil {
		p.s.cfg.Covers(p.from, p.to)
	}
	c := p.s.Counts()
	p.total.Events += c.Events
	p.total.Seen += c.Seen
	p.total.Shown += c.Shown
	p.total.Filtered += c.Filtered
	p.total.Lost += c.Lost
	p.total.Late += c.Late
	p.s = nil
	return err
}

// lose is Lose for a recorded loss.
func (s *Session) lose(l record.Loss) error {
	if s == nil {
		return nil
	}
	return s.Lose(l.From, l.Time, l.Lost)
}
