package tracer

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/bpf"
	"github.com/tcpbye/tcpbye/tracer/event"
)

// Attachment says how a hook is attached, or why it is not.
type Attachment struct {
	Hook    event.Hook
	Rung    Rung     // "" when it is not attached
	Symbols []string // what the kernel calls it
	Lost    string   // what cannot be told without it
	Minor   bool     // no verdict rests on it
	Err     error    // why not, nil when attached
	Partly  error    // what it lacks although it is attached, or nil
	All     bool     // it tells of every event; see tellsAll
}

// programs holds what is loaded.
type programs struct {
	kernel *kernel
	opts   Options
	saving bool // memory: an object is read when it is needed, and given back
	read   map[object]func() (*ebpf.CollectionSpec, error)
	specs  map[object]*ebpf.CollectionSpec
	tuned  []func(*ebpf.CollectionSpec) error // what each object was told, and what is read later is told
	maps   map[string]*ebpf.Map
	links  []io.Closer
	probes []link.Link // those of links that are kprobes
	unrun  uint64      // what missed said last
	loaded []*ebpf.Program

	tracefs *tracefs // once it is needed

	tried    map[Rung]error                      // whether a rung works at all
	wanted   map[object][]string                 // programs to be loaded at once
	together map[object]map[string]*ebpf.Program // nil: not to be loaded at once
}

// object is one of the BPF objects.
type object string

const (
	objectTyped   object = "typed"
	objectProbe   object = "probe"
	objectClassic object = "classic"
)

var loaders = map[object]func() (*ebpf.CollectionSpec, error){
	objectTyped: bpf.Typed, objectProbe: bpf.Probe, objectClassic: bpf.Classic,
}

func (r Rung) object() object {
	switch r {
	case RungKprobe:
		return objectProbe
	case RungClassic:
		return objectClassic
	}
	return objectTyped
}

func (p *programs) close() error {
	err := p.detach()
	if p.tracefs != nil {
		err = errors.Join(err, p.tracefs.Close())
		p.tracefs = nil
	}
	for _, prog := range p.loaded {
		err = errors.Join(err, prog.Close())
	}
	p.loaded = nil
	for _, m := range p.maps {
		err = errors.Join(err, m.Close())
	}
	p.maps = nil
	return err
}

// release gives back what only loading needs: the kernel's types and the objects
// are twice what a trace then takes.
func (p *programs) release() {
	p.kernel.btf, p.kernel.types = nil, nil
	p.specs, p.together, p.wanted, p.read, p.tuned = nil, nil, nil, nil, nil
	smallPages()
	debug.FreeOSMemory()
	collectSeldom()
}

func (p *programs) detach() error {
	return p.letGo()()
}

// letGo gives up what is attached; detach then takes it off, hook by hook. The
// kernel waits for grace periods at each kprobe and each trampoline, which takes
// seconds for all of them and next to nothing of a processor.
func (p *programs) letGo() (detach func() error) {
	_, err := p.missed() // for the last time
	links := p.links
	p.links, p.probes = nil, nil
	return func() error {
		for _, l := range links {
			err = errors.Join(err, l.Close())
		}
		return err
	}
}

// missed is how often kprobes were hit and ran nothing, until they were detached.
func (p *programs) missed() (uint64, error) {
	if len(p.probes) == 0 {
		return p.unrun, nil
	}
	var all uint64
	for _, l := range p.probes {
		n, err := missed(l)
		if err != nil {
			return p.unrun, err
		}
		all += n
	}
	p.unrun = all
	return all, nil
}

// missed is how often a kprobe was hit inside another and ran nothing, so that its
// program knows nothing of it; a kretprobe also counts calls for which it had no
// place. Before 6.7 the kernel does not say (bpf_perf_link_fill_kprobe).
func missed(l link.Link) (uint64, error) {
	info, err := l.Info()
	if errors.Is(err, ebpf.ErrNotSupported) {
		return 0, nil // before 5.15 it is no link to the kernel
	}
	if err != nil {
		return 0, err
	}
	if p := info.PerfEvent(); p != nil && p.Kprobe() != nil {
		return p.Kprobe().Missed, nil
	}
	return 0, nil
}

// newPrograms reads the objects and creates the maps that all programs share.
func newPrograms(opts Options, saving bool) (*programs, error) {
	// The objects are read beside the kernel's types, unless memory is short: then
	// one after another, when it is needed.
	read := map[object]func() (*ebpf.CollectionSpec, error){}
	for name, load := range loaders {
		if read[name] = load; !saving {
			read[name] = begin(load)
		}
	}
	k, err := readKernel()
	if err != nil {
		return nil, err
	}
	p := &programs{
		opts: opts, saving: saving, read: read,
		kernel: k, specs: map[object]*ebpf.CollectionSpec{}, maps: map[string]*ebpf.Map{},
		tried: map[Rung]error{}, wanted: map[object][]string{}, together: map[object]map[string]*ebpf.Program{},
	}
	if saving {
		return p, nil
	}
	for name := range loaders {
		if _, err := p.object(name); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// object is what is read and configured for this kernel.
func (p *programs) object(name object) (*ebpf.CollectionSpec, error) {
	if spec := p.specs[name]; spec != nil {
		return spec, nil
	}
	spec, err := p.read[name]()
	if err != nil {
		return nil, fmt.Errorf("read the BPF object: %w", err)
	}
	if err := p.kernel.configure(name, spec); err != nil {
		return nil, fmt.Errorf("configure the BPF object: %w", err)
	}
	if name != objectClassic {
		if err := p.opts.Filter.configure(spec); err != nil {
			return nil, err
		}
	}
	if p.opts.Stack {
		// A stack is named while its process lives.
		if err := spec.Variables[bpf.ProbeVarCfgWakeBytes].Set(uint32(0)); err != nil {
			return nil, fmt.Errorf("configure the BPF object: %w", err)
		}
	}
	for _, prog := range spec.Programs {
		p.kernel.patch(prog.Instructions)
	}
	for _, tune := range p.tuned {
		if err := tune(spec); err != nil {
			return nil, err
		}
	}
	p.specs[name] = spec
	return spec, nil
}

// tune tells something to each object.
func (p *programs) tune(what func(*ebpf.CollectionSpec) error) error {
	p.tuned = append(p.tuned, what)
	for _, spec := range p.specs {
		if err := what(spec); err != nil {
			return err
		}
	}
	return nil
}

// storyRing is the size of the ring buffer where sockets are told of once: 4,800
// stories. Its pages count twice as memory of this process.
const storyRing = 4 << 20

// makeRing makes the ring buffer, and what is counted beside it.
func (p *programs) makeRing(opts Options) error {
	size := opts.RingBytes
	if size == 0 && opts.Story {
		size = storyRing
	}
	if size != 0 {
		if err := p.tune(func(spec *ebpf.CollectionSpec) error {
			spec.Maps[bpf.TypedMapEvents].MaxEntries = size
			return nil
		}); err != nil {
			return err
		}
	}
	typed, err := p.object(objectTyped)
	if err != nil {
		return err
	}
	for _, name := range []string{bpf.TypedMapEvents, bpf.TypedMapLost} {
		if _, err := p.shared(typed.Maps[name]); err != nil {
			return err
		}
	}
	return nil
}

// begin begins to load an object; the function that it returns waits for it.
func begin(load func() (*ebpf.CollectionSpec, error)) func() (*ebpf.CollectionSpec, error) {
	var spec *ebpf.CollectionSpec
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		spec, err = load()
	}()
	return func() (*ebpf.CollectionSpec, error) { <-done; return spec, err }
}

// shared returns the map that all programs share under that name; the first
// that needs it makes it.
func (p *programs) shared(spec *ebpf.MapSpec) (*ebpf.Map, error) {
	if m := p.maps[spec.Name]; m != nil {
		return m, nil
	}
	m, err := ebpf.NewMap(spec.Copy())
	if err != nil {
		return nil, fmt.Errorf("create the BPF map %s: %w", spec.Name, err)
	}
	p.maps[spec.Name] = m
	return m, nil
}

// want puts the programs of a hook's best way among those that are loaded
// together.
func (p *programs) want(h hook) {
	for _, w := range h.ways {
		if p.possible(w) != nil {
			continue
		}
		for _, pt := range w {
			if o := pt.rung.object(); !slices.Contains(p.wanted[o], pt.program) {
				p.wanted[o] = append(p.wanted[o], pt.program)
			}
		}
		return
	}
}

// possible says, without loading anything of a way, why it cannot work here.
func (p *programs) possible(w way) error {
	if err := p.try(w[0].rung); err != nil {
		// Who may not look into tracefs still knows what is not there: the
		// kernel's types have each tracepoint, but for those of system calls.
		group, name, _ := strings.Cut(w[0].symbol, ":")
		if w[0].rung == RungClassic && group != "syscalls" && !p.kernel.has("btf_trace_"+name) {
			return fmt.Errorf("tracepoint: %w: %s", errAbsent, w[0].symbol)
		}
		return err
	}
	for _, pt := range w {
		if pt.aside {
			continue
		}
		switch {
		case pt.rung == RungClassic:
			if _, err := p.tracefs.id(pt.symbol); err != nil {
				return fmt.Errorf("tracepoint: %w", err)
			}
		case pt.rung == RungFentry && p.kernel.params(pt.symbol) == nil:
			return fmt.Errorf("fentry: %w: the function %s", errAbsent, pt.symbol)
		case pt.rung == RungTyped && !p.kernel.has("btf_trace_"+pt.symbol):
			return fmt.Errorf("tp_btf: %w: the tracepoint %s", errAbsent, pt.symbol)
		}
	}
	return nil
}

// errAbsent is why a way to a function or tracepoint of other kernels fails.
var errAbsent = errors.New("not in this kernel")

// kprobeSource is there when the kernel can be probed through perf events.
const kprobeSource = "/sys/bus/event_source/devices/kprobe/type"

// trialFunction is in every kernel that has TCP.
const trialFunction = "tcp_close"

// try proves, once, by attaching a program that does nothing, whether a rung
// works here at all.
func (p *programs) try(r Rung) error {
	err, known := p.tried[r]
	if known {
		return err
	}
	if r == RungClassic {
		if p.tracefs, err = openTracefs(unix.MOUNT_ATTR_RDONLY); err != nil {
			err = fmt.Errorf("tracepoint: %w", err)
		}
	} else {
		err = p.trial(r)
	}
	p.tried[r] = err
	return err
}

func (p *programs) trial(r Rung) error {
	spec := &ebpf.ProgramSpec{
		License:      "Dual MIT/GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	}
	switch r {
	case RungFentry:
		spec.Type, spec.AttachType, spec.AttachTo = ebpf.Tracing, ebpf.AttachTraceFEntry, trialFunction
	case RungKprobe:
		if _, err := os.Stat(kprobeSource); errors.Is(err, fs.ErrNotExist) {
			return errors.New("kprobe: this kernel was built without kprobes (CONFIG_KPROBE_EVENTS)")
		}
		spec.Type = ebpf.Kprobe
	default:
		return nil // proven by each tracepoint alone
	}
	set, err := ebpf.NewCollectionWithOptions(&ebpf.CollectionSpec{Programs: map[string]*ebpf.ProgramSpec{"": spec}},
		ebpf.CollectionOptions{Cache: p.kernel.types})
	if err != nil {
		return fmt.Errorf("%s: load a program that does nothing: %w", r, plain(err))
	}
	defer set.Close()
	prog := set.Programs[""]
	var l link.Link
	if r == RungFentry {
		l, err = link.AttachTracing(link.TracingOptions{Program: prog})
	} else {
		l, err = link.Kprobe(trialFunction, prog, nil)
	}
	if err != nil {
		return fmt.Errorf("%s: attach a program that does nothing: %w", r, plain(err))
	}
	if err := l.Close(); err != nil {
		return fmt.Errorf("%s: detach a program that does nothing: %w", r, err)
	}
	return nil
}

// load returns a loaded program. Those that are wanted of an object are loaded
// at once, which is much faster; where this kernel refuses one of them, each is
// loaded alone, so that one takes nothing else down.
func (p *programs) load(pt point) (*ebpf.Program, error) {
	o := pt.rung.object()
	if _, tried := p.together[o]; !tried {
		var err error
		// Where not all of them can be loaded at once each is tried by itself.
		if p.together[o], err = p.loadSet(o, p.wanted[o]); err == nil && p.saving {
			delete(p.specs, o) // all that was wanted of it is loaded
		}
	}
	set := p.together[o]
	if set[pt.program] == nil {
		var err error
		if set, err = p.loadSet(o, []string{pt.program}); err != nil {
			return nil, err
		}
	}
	return set[pt.program], nil
}

// loadSet loads programs with the shared maps.
func (p *programs) loadSet(o object, names []string) (map[string]*ebpf.Program, error) {
	spec, err := p.object(o)
	if err != nil {
		return nil, err
	}
	set := &ebpf.CollectionSpec{
		Maps:      map[string]*ebpf.MapSpec{},
		Programs:  map[string]*ebpf.ProgramSpec{},
		Variables: spec.Variables,
		Types:     spec.Types,
		ByteOrder: spec.ByteOrder,
	}
	for _, name := range names {
		// Loading writes to the instructions: a second try needs its own.
		set.Programs[name] = spec.Programs[name].Copy()
	}
	replace := map[string]*ebpf.Map{}
	for n, m := range spec.Maps {
		set.Maps[n] = m.Copy()
		if n == switchMap {
			if on := p.maps[n]; on != nil {
				replace[n] = on
			}
			continue // the first set makes it
		}
		if strings.HasPrefix(n, ".") {
			continue // constants, which each set has for itself
		}
		shared, err := p.shared(m)
		if err != nil {
			return nil, err
		}
		replace[n] = shared
	}
	coll, err := ebpf.NewCollectionWithOptions(set, ebpf.CollectionOptions{MapReplacements: replace, Cache: p.kernel.types})
	if err != nil {
		return nil, err
	}
	defer coll.Close()
	if p.maps[switchMap] == nil {
		p.maps[switchMap] = coll.DetachMap(switchMap)
	}
	loaded := map[string]*ebpf.Program{}
	for _, name := range names {
		loaded[name] = coll.DetachProgram(name)
		p.loaded = append(p.loaded, loaded[name])
	}
	return loaded, nil
}

// switchMap holds the switch of the kernel half (tracing, bpf/core.h).
const switchMap = ".data.switch"

// What the switch says (bpf/core.h).
const (
	switchOff    = uint32(0)
	switchOn     = uint32(1)
	switchAsleep = uint32(2) // on, and the next event wakes the reader
)

// turn turns all programs on or off.
func (p *programs) turn(value uint32) error {
	if err := p.maps[switchMap].Put(uint32(0), value); err != nil {
		return fmt.Errorf("turn the programs on or off: %w", err)
	}
	return nil
}

func (p *programs) attachPoint(pt point) (io.Closer, error) {
	prog, err := p.load(pt)
	if err != nil {
		return nil, fmt.Errorf("%s: load the program for %s: %w", pt.rung, pt.symbol, plain(err))
	}
	var l io.Closer
	switch {
	case pt.rung == RungClassic:
		var id uint64
		if id, err = p.tracefs.id(pt.symbol); err == nil {
			l, err = attachTracepoint(id, prog)
		}
	case pt.rung != RungKprobe:
		l, err = link.AttachTracing(link.TracingOptions{Program: prog})
	case pt.ret:
		l, err = link.Kretprobe(pt.symbol, prog, nil)
	default:
		l, err = link.Kprobe(pt.symbol, prog, nil)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: attach to %s: %w", pt.rung, pt.symbol, plain(err))
	}
	return l, nil
}

// plain leaves out of a refusal what the loader guesses about it.
func plain(err error) error {
	var verifier *ebpf.VerifierError
	switch {
	case errors.As(err, &verifier):
		return err
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return fmt.Errorf("the kernel does not permit it: %w", unix.EPERM)
	case errors.Is(err, fs.ErrNotExist):
		return errAbsent
	}
	return err
}

// attach tries a hook's ways in order.
func (p *programs) attach(h hook) Attachment {
	a := Attachment{Hook: h.hook, Lost: h.lost, Minor: h.minor}
	var errs []error
	for _, w := range h.ways {
		err := p.attachWay(w, &a)
		if err == nil {
			return a
		}
		if !slices.Contains(errs, err) { // a rung's refusal is the same for all
			errs = append(errs, err)
		}
	}
	if len(h.ways) == 0 {
		errs = append(errs, ErrNoWay)
	}
	a.Err = errors.Join(errs...)
	return a
}

// ErrNoWay is why a hook is not attached that the forced rung does not have.
var ErrNoWay = errors.New("there is no such way to attach this hook")

func (p *programs) attachWay(w way, a *Attachment) error {
	if err := p.possible(w); err != nil {
		return err
	}
	var got []io.Closer
	var symbols []string
	var aside []error
	for _, pt := range w {
		l, err := p.attachPoint(pt)
		switch {
		case err == nil:
			got, symbols = append(got, l), append(symbols, pt.symbol)
		case pt.aside && errors.Is(err, errAbsent):
			// Not every architecture has every system call.
		case pt.aside:
			aside = append(aside, err)
		default:
			for _, l := range got {
				err = errors.Join(err, l.Close())
			}
			return err
		}
	}
	p.links = append(p.links, got...)
	for _, l := range got {
		if l, ok := l.(link.Link); ok && w[0].rung == RungKprobe {
			p.probes = append(p.probes, l)
		}
	}
	a.Rung, a.Symbols, a.Partly = w[0].rung, symbols, errors.Join(aside...)
	a.All = p.kernel.tellsAll(a.Hook, a.Rung)
	return nil
}

// tellsAll says whether a hook reports every event, so that what it did not report did
// not happen. Two hooks may miss resets. A program that may not read the segment cannot
// report one that met no connection (a classic tracepoint records the addresses itself).
// Before 6.10 the tracepoint tcp_send_reset fired only for a full socket (inside
// tcp_v4_send_reset), not in answer to a segment that met a mini-socket or none; the
// commit that changed this gave it a record of its own (19822a980e19, "trace: tcp: fully
// support trace_tcp_send_reset").
func (k *kernel) tellsAll(h event.Hook, r Rung) bool {
	switch {
	case h != event.HookSendReset && h != event.HookReset:
		return true
	case !k.probeRead && r != RungClassic:
		return false
	}
	return h != event.HookSendReset || k.sendResetRecord || r == RungFentry || r == RungKprobe
}
