package report

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/google/pprof/profile"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// ProfileSink counts where in the code connections end: at the stack of the close,
// shutdown or exit that ended each. Without recorded stacks (--stack) there is nothing
// to tell where from, and each is counted under its process and [noStack].
//
// As pprof it has two values, connections/count and lost/bytes (what is known of it),
// and the labels cause, class and process; as folded stacks, the input of flame graphs,
// a line for each stack with the number of connections.
//
// It is all written by Close.
type ProfileSink struct {
	pairing
	out     output
	o       Options
	folded  bool
	samples map[sampleKey]*sample
	with    int // connections with a stack
	without int
	first   time.Duration // CLOCK_MONOTONIC
	last    time.Duration
}

type sampleKey struct {
	stack   event.Stack
	process string
	cause   string
	class   string
	host    string // "" this one
}

type sample struct {
	sampleKey
	frames []event.Frame
	n      int64
	lost   int64
}

// noStack stands where no stack was recorded.
const noStack = "[no stack recorded]"

// maxSamples is how many stacks are told apart.
const maxSamples = 1 << 16

// NewProfile is a sink for go tool pprof.
func NewProfile(w io.Writer, o Options) *ProfileSink {
	s := &ProfileSink{out: output{w: w}, o: o, samples: map[sampleKey]*sample{}}
	s.show = s.add
	return s
}

// NewFolded is a sink for flame graphs.
func NewFolded(w io.Writer, o Options) *ProfileSink {
	s := NewProfile(w, o)
	s.folded = true
	return s
}

// Note implements Noter.
func (s *ProfileSink) Note() string {
	switch {
	case s.without == 0:
		return ""
	case s.with == 0:
		return "no stack was recorded, so it is not known where in the code these connections ended: trace --stack takes them"
	}
	return fmt.Sprintf("%d of %d connections have no stack: they are counted under %s", s.without, s.with+s.without, noStack)
}

func (s *ProfileSink) add(a, b *Judged) error {
	ends := &story{ends: [2]*Judged{a, b}}
	main := ends.main()
	v := &main.Verdict
	if v.Class == verdict.Open {
		return s.out.err // it did not end
	}
	who := ender(v)
	if other := ends.other(main); (who == nil || who.Stack == "") && other != nil {
		if far := ender(&other.Verdict); far != nil && far.Stack != "" {
			who = far
		}
	}
	if who == nil {
		who = headOf(main)
	}
	key := sampleKey{process: "-", cause: whatOf(v.Cause, unanswered(v)), class: string(v.Class), host: main.Conn.Host}
	if who != nil {
		key.stack, key.process = who.Stack.Named(), event.Quote(who.Comm)
	}
	frames, err := key.stack.Frames()
	if err != nil {
		key.stack, frames = "", nil
	}
	if len(frames) == 0 {
		s.without++
	} else {
		s.with++
	}
	n := s.samples[key]
	if n == nil && len(s.samples) >= maxSamples {
		key.stack, key.process, frames = "", others, nil
		n = s.samples[key]
	}
	if n == nil {
		n = &sample{sampleKey: key, frames: frames}
		s.samples[key] = n
	}
	n.n++
	for _, j := range []*Judged{a, b} {
		if j != nil {
			lost, _ := lostBytes(j.Verdict.Lost)
			n.lost += int64(min(lost, 1<<62))
		}
	}
	at := endedAt(main, ends.other(main))
	if s.first == 0 || at < s.first {
		s.first = at
	}
	s.last = max(s.last, at)
	return s.out.err
}

// ender is whose act ended a connection, of those whose stack is known the first.
func ender(v *verdict.Verdict) *conn.Process {
	fins := []*verdict.Goodbye{v.LocalFin, v.PeerFin}
	if v.LocalFin != nil && v.PeerFin != nil && v.PeerFin.At < v.LocalFin.At {
		slices.Reverse(fins)
	}
	who := v.Actor
	for _, fin := range fins {
		if fin != nil && fin.Actor != nil && (who == nil || who.Stack == "") {
			who = fin.Actor
		}
	}
	return who
}

// sorted are the samples in an order that does not change.
func (s *ProfileSink) sorted() []*sample {
	var all []*sample
	for _, n := range s.samples {
		all = append(all, n)
	}
	slices.SortFunc(all, func(a, b *sample) int {
		return cmp.Or(cmp.Compare(b.n, a.n), cmp.Compare(a.process, b.process), cmp.Compare(a.cause, b.cause), cmp.Compare(a.class, b.class), cmp.Compare(a.stack, b.stack))
	})
	return all
}

// Close implements Sink.
func (s *ProfileSink) Close() error {
	if err := s.flush(); err != nil {
		return err
	}
	if s.folded {
		return s.fold()
	}
	return s.profile()
}

// callName is a call as profiles show it.
func callName(f *event.Frame) string {
	if f.Function != "" {
		return event.Quote(f.Function)
	}
	return event.Quote(cmp.Or(frame(f), "[unknown]"))
}

func (s *ProfileSink) fold() error {
	clean := strings.NewReplacer(";", ":")
	counts := map[string]int64{}
	var order []string
	for _, n := range s.sorted() {
		line := []string{clean.Replace(n.process)}
		for i := range slices.Backward(n.frames) {
			line = append(line, clean.Replace(callName(&n.frames[i])))
		}
		if len(n.frames) == 0 {
			line = append(line, noStack)
		}
		key := strings.Join(line, ";")
		if counts[key] == 0 {
			order = append(order, key)
		}
		counts[key] += n.n
	}
	for _, key := range order {
		if err := s.out.string(fmt.Sprintf("%s %d\n", key, counts[key])); err != nil {
			return err
		}
	}
	return s.out.string("")
}

func (s *ProfileSink) profile() error {
	p := &profile.Profile{
		SampleType:        []*profile.ValueType{{Type: "connections", Unit: "count"}, {Type: "lost", Unit: "bytes"}},
		DefaultSampleType: "connections",
		TimeNanos:         s.o.Clock.Wall(s.first).UnixNano(),
		DurationNanos:     int64(s.last - s.first),
		Comments:          []string{"where connections end, by tcpbye"},
	}
	if note := s.Note(); note != "" {
		p.Comments = append(p.Comments, note)
	}
	functions := map[[2]string]*profile.Function{}
	mappings := map[string]*profile.Mapping{}
	locations := map[event.Frame]*profile.Location{}
	location := func(f event.Frame, name string) *profile.Location {
		if l := locations[f]; l != nil {
			return l
		}
		where := [2]string{name, event.Quote(f.File)}
		fn := functions[where]
		if fn == nil {
			fn = &profile.Function{ID: uint64(len(p.Function) + 1), Name: name, SystemName: name, Filename: where[1]}
			functions[where] = fn
			p.Function = append(p.Function, fn)
		}
		l := &profile.Location{ID: uint64(len(p.Location) + 1), Address: cmp.Or(f.Addr, f.Offset), Line: []profile.Line{{Function: fn, Line: int64(f.Line)}}}
		if f.Module != "" {
			m := mappings[f.Module]
			if m == nil {
				m = &profile.Mapping{ID: uint64(len(p.Mapping) + 1), File: event.Quote(f.Module), HasFunctions: true, HasFilenames: true, HasLineNumbers: true}
				mappings[f.Module] = m
				p.Mapping = append(p.Mapping, m)
			}
			l.Mapping = m
		}
		locations[f] = l
		p.Location = append(p.Location, l)
		return l
	}
	for _, n := range s.sorted() {
		x := &profile.Sample{Value: []int64{n.n, n.lost}, Label: map[string][]string{
			"cause": {pen{}.text(n.cause)}, "class": {n.class}, "process": {n.process}}}
		if n.host != "" {
			x.Label["host"] = []string{event.Quote(n.host)}
		}
		for i := range n.frames {
			x.Location = append(x.Location, location(n.frames[i], callName(&n.frames[i])))
		}
		if len(n.frames) == 0 {
			x.Location = []*profile.Location{location(event.Frame{Function: noStack}, noStack)}
		}
		p.Sample = append(p.Sample, x)
	}
	if err := p.CheckValid(); err != nil {
		return fmt.Errorf("make the profile: %w", err)
	}
	if err := p.Write(&s.out); err != nil {
		return fmt.Errorf("write the profile: %w", err)
	}
	return s.out.err
}
