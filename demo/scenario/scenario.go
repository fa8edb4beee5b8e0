package scenario

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/tcpbye/tcpbye/demo/harness"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// Scenario is one ending: how to make it happen, and what is due.
type Scenario struct {
	Name        string // as in `tcpbye demo NAME`
	Title       string // one line
	Description string // what happens, for a person; sentences
	// Families to run it with; the path through the kernel differs between them
	// only for some. Nil: IPv4.
	Families []Family
	Needs    []Feature
	// Remote: the story has a second namespace that is another machine to the judge.
	Remote bool
	// Forged counts the RSTs in the capture that no TCP stack sent: a packet
	// filter's, a raw socket's.
	Forged int
	// NeedsHook is the hook without which this ending looks like another one, which
	// is no loss; 0: whatever a rung does not tell, a verdict does not claim.
	NeedsHook event.Hook
	// MachineWide says what setting of the whole machine is changed for a moment;
	// "" none. Such a scenario runs alone, and only when it is allowed to.
	MachineWide string

	Run func(w *World)
	// Ends are what is due to each end. A name without an entry of its own is due
	// what the name before its "#" is due.
	Ends map[string]Expect
	// Counters are the exact increments; the ones that are always checked and are
	// not here must not have moved. They are the same from 5.10 to 7.
	Counters map[string]int64
	// Verify holds the run against the story where Ends and Counters cannot.
	Verify func(o *Outcome) error
}

// Expect is what is due to one end of a connection.
type Expect struct {
	Class     verdict.Class
	Cause     verdict.Cause
	Ender     verdict.Ender
	Act       verdict.Act
	Signal    int    // with ActKilled
	Actor     string // the role of the process that acted; "" nobody, or another machine
	ActorComm string // "": the role
	Lost      Lost   // not looked at where Class is open
	AppSaw    []string
	Harmless  bool
	TimeWait  bool
	HalfClose bool
	// Unanswered: the service ended it without an answer. It is looked at where the
	// end is graceful.
	Unanswered bool
	// Says are parts of the sentence or of the advice.
	Says       []string
	Confidence verdict.Confidence // "": certain

	FIN int // different FINs that left from this end's address for its peer's
	RST int // RSTs that did so, whoever sent them
	// Deaf: the end did not hear all that the capture saw, so that the capture
	// does not prove Lost.
	Deaf bool
	// Layered: the end is an MPTCP subflow. The application's calls and queues are
	// those of the MPTCP socket above it, which takes each byte at once, so a judge
	// cannot know what the process saw, did not read, or wrote that was not sent.
	Layered bool
	// OwnWrites, with Layered: only reads are another layer's.
	OwnWrites bool
	// Shared: other connections used the same addresses, so that the capture does
	// not prove what belongs to this one.
	Shared bool
}

// hides says whether a number of lost bytes is not TCP's to know.
func (x *Expect) hides(what string) bool {
	return x.Layered && (what == "unread" || what == "unsent" && !x.OwnWrites)
}

// Options are how to run a scenario.
type Options struct {
	Family Family // "": the scenario's first
	// Patience is how long a step may take; 0: 20 s.
	Patience time.Duration
	// Stderr takes what a puppet has to say when it is broken; nil: nowhere.
	Stderr io.Writer
	// Hold is called at the end of the story, while its processes and sockets are
	// still there; nil: nothing is done.
	Hold func(context.Context, *Outcome) error
	// MachineWide allows scenarios that change the whole machine for a moment.
	MachineWide bool
}

// ErrNotAllowed is the error of a MachineWide scenario that was not allowed.
var ErrNotAllowed = errors.New("it changes a setting of the whole machine, which was not allowed")

// families are the ones that a scenario runs with.
func (s *Scenario) families() []Family {
	if s.Families == nil {
		return []Family{IPv4}
	}
	return s.Families
}

// FamiliesOf lists the families that a scenario runs with; never empty.
func FamiliesOf(s Scenario) []Family { return slices.Clone(s.families()) }

// Execute plays a scenario and returns what the oracle saw. It must run as root.
// The error is a *Missing when the kernel lacks what the scenario needs.
func Execute(ctx context.Context, s Scenario, opt Options) (o Outcome, err error) {
	if opt.Family == "" {
		opt.Family = s.families()[0]
	}
	if opt.Patience == 0 {
		opt.Patience = 20 * time.Second
	}
	if s.MachineWide != "" && !opt.MachineWide {
		return o, fmt.Errorf("%s: %s: %w", s.Name, s.MachineWide, ErrNotAllowed)
	}
	needs := s.Needs
	if opt.Family != IPv4 {
		needs = append([]Feature{HasIPv6}, needs...)
	}
	for _, f := range needs {
		if err := f.check(); err != nil {
			return o, fmt.Errorf("%s: %w", s.Name, err)
		}
	}
	ground, err := harness.New(ctx, opt.Patience)
	if err != nil {
		return o, fmt.Errorf("%s: %w", s.Name, err)
	}
	w, err := newWorld(ground, opt)
	if err != nil {
		return o, errors.Join(fmt.Errorf("%s: %w", s.Name, err), ground.Close())
	}
	defer func() {
		if cerr := w.close(); cerr != nil {
			o.Problems = append(o.Problems, cerr.Error())
		}
	}()
	s.Run(w)
	o = w.outcome(&s)
	if w.Err != nil {
		return o, fmt.Errorf("%s (%s): %w", s.Name, opt.Family, w.Err)
	}
	if opt.Hold != nil {
		err = opt.Hold(ctx, &o)
	}
	return o, err
}

// All lists the catalogue, in the order in which it is best read.
func All() []Scenario {
	return slices.Concat(polite, aboves, descriptors, abort, answers, refused, timeouts, unsents, translations, strays, unanswered, unfinished, remotes, multipath)
}

// Find returns the scenario of this name.
func Find(name string) (Scenario, bool) {
	for _, s := range All() {
		if s.Name == name {
			return s, true
		}
	}
	return Scenario{}, false
}
