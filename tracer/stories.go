package tracer

import (
	"errors"
	"fmt"
	"slices"
	"unsafe"

	"github.com/cilium/ebpf"

	"github.com/tcpbye/tcpbye/bpf"
	"github.com/tcpbye/tcpbye/tracer/event"
)

// storyHooks are those whose steps a plain story cannot lack.
var storyHooks = []event.Hook{event.HookSetState, event.HookDestroy, event.HookClose, event.HookShutdown, event.HookTimeWait}

// mayTellStories says whether the hooks that stories need have a way here by
// which the programs see the socket. Which CPU context a hook is in must be known,
// too: it tells who acts.
func (p *programs) mayTellStories(hooks []hook) bool {
	if p.kernel.preemptSource == bpf.ProbePreemptSourcePREEMPT_UNKNOWN {
		return false
	}
	for _, h := range hooks {
		if !slices.Contains(storyHooks, h.hook) {
			continue
		}
		i := slices.IndexFunc(h.ways, func(w way) bool { return p.possible(w) == nil })
		if i < 0 || h.ways[i][0].rung == RungClassic {
			return false
		}
	}
	return true
}

// toldBy says whether the hooks that stories need are attached.
func toldBy(attachments []Attachment) bool {
	return !slices.ContainsFunc(attachments, func(a Attachment) bool {
		return slices.Contains(storyHooks, a.Hook) && (a.Err != nil || a.Rung == RungClassic)
	})
}

// tellStories has the programs of all objects keep stories, or not.
func (p *programs) tellStories(yes bool, room uint32) error {
	if !yes {
		room = 1
	}
	return p.tune(func(spec *ebpf.CollectionSpec) error {
		if err := spec.Variables[bpf.ProbeVarCfgStory].Set(yes); err != nil {
			return fmt.Errorf("configure the BPF object: %w", err)
		}
		if room != 0 {
			spec.Maps[bpf.ProbeMapStories].MaxEntries = room
		}
		return nil
	})
}

// OpenStories visits the stories that are not told yet, as if they were told now. While
// the kernel half runs, they go on meanwhile, and one that has just been told may be
// missing: it has a place in the ring.
func (t *Tracer) OpenStories(visit func(raw []byte) error) error {
	if !t.stories || visit == nil {
		return nil
	}
	now, err := Monotonic()
	if err != nil {
		return err
	}
	return t.eachStory(func(s *bpf.ProbeStory) error {
		s.Time, s.Final = uint64(now), 0
		t.events.Add(1)
		return visit(rawOf(s))
	})
}

func rawOf(s *bpf.ProbeStory) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(s)), unsafe.Sizeof(*s))
}

// eachStory visits the stories that are not told yet.
func (t *Tracer) eachStory(visit func(*bpf.ProbeStory) error) error {
	each := func(s *bpf.ProbeStory) error {
		if s.Told != 0 || s.Steps == 0 {
			return nil
		}
		return visit(s)
	}
	m := t.programs.maps[bpf.ProbeMapStories]
	var cursor ebpf.MapBatchCursor
	keys, values := make([]uint64, 256), make([]bpf.ProbeStory, 256)
	for {
		n, err := m.BatchLookup(&cursor, keys, values, nil)
		if errors.Is(err, ebpf.ErrNotSupported) {
			break
		}
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("read the open stories: %w", err)
		}
		for i := range values[:n] {
			if err := each(&values[i]); err != nil {
				return err
			}
		}
		if err != nil {
			return nil
		}
	}
	var key uint64
	var s bpf.ProbeStory
	all := m.Iterate()
	for all.Next(&key, &s) {
		if err := each(&s); err != nil {
			return err
		}
	}
	if err := all.Err(); err != nil {
		return fmt.Errorf("read the open stories: %w", err)
	}
	return nil
}

// asker is the program that tells a story when it is asked to.
const asker = "tell_story"

// loadAsker loads it. Without it stories are told at their end alone: of an end whose
// other end lives on, less is known.
func (p *programs) loadAsker() *ebpf.Program {
	prog, err := p.load(point{rung: RungTyped, program: asker})
	if err != nil {
		return nil
	}
	// cilium/ebpf finds out, with the first, whether the kernel runs programs so at
	// all (5.10), and needs privileges for it that are given up later.
	if err := run(prog); err != nil {
		return nil
	}
	return prog
}

// run runs a program with arguments.
func run(prog *ebpf.Program, arguments ...uint64) error {
	var args [12]uint64 // a raw tracepoint has up to twelve (MAX_BPF_FUNC_ARGS)
	copy(args[:], arguments)
	_, err := prog.Run(&ebpf.RunOptions{Context: &args})
	return err
}

// CanAsk says whether Ask works here.
func (t *Tracer) CanAsk() bool { return t.asker != nil }

// Ask has the kernel half tell the stories that match, of those that it has told
// nothing of. They come by Handler.Story like any other, and what their sockets do
// from then on is told step by step. raw is not kept.
func (t *Tracer) Ask(match func(raw []byte) bool) error {
	if !t.CanAsk() {
		return nil
	}
	var wanted [][2]uint64
	if err := t.eachStory(func(s *bpf.ProbeStory) error {
		if match(rawOf(s)) {
			wanted = append(wanted, [2]uint64{s.Sock, s.Conn})
		}
		return nil
	}); err != nil {
		return err
	}
	for _, w := range wanted {
		if err := run(t.asker, w[0], w[1]); err != nil {
			return fmt.Errorf("ask the kernel half for the story of a socket: %w", err)
		}
	}
	return nil
}
