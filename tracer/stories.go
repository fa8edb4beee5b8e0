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
	each := func(s *bpf.ProbeStory) error {
		if s.Told != 0 || s.Steps == 0 {
			return nil
		}
		s.Time, s.Final = uint64(now), 0
		t.events.Add(1)
		return visit(unsafe.Slice((*byte)(unsafe.Pointer(s)), unsafe.Sizeof(*s)))
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
