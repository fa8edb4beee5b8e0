package tracer

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/tcpbye/tcpbye/bpf"
	"github.com/tcpbye/tcpbye/tracer/event"
)

// Rung is one way to attach a hook.
type Rung string

const (
	RungKprobe Rung = "kprobe"
	RungTyped  Rung = "tp_btf" // a raw tracepoint with BTF types
)

// A point is one place to attach one program.
type point struct {
	rung    Rung
	symbol  string // kernel function or tracepoint
	program string
	ret     bool // at the function's return
}

// A hook is attached by the first of its ways that works; a way is a set of
// points that are all needed.
type hook struct {
	hook event.Hook
	ways [][]point
	lost string // what cannot be told without it
	data bool   // it sits on the way of the data: only on request
}

func kprobe(symbol, program string) point {
	return point{rung: RungKprobe, symbol: symbol, program: program}
}

func typed(symbol, program string) point {
	return point{rung: RungTyped, symbol: symbol, program: program}
}

func hooks(k *kernel) []hook {
	reset := []point{kprobe("tcp_reset", bpf.ProbeProgProbeTcpReset)}
	if !k.resetHasSegment {
		// Before 6.1 the segment is only known one function earlier.
		reset = append(reset, kprobe("tcp_validate_incoming", bpf.ProbeProgProbeTcpValidateIncoming))
	}
	return []hook{
		{hook: event.HookSetState, ways: [][]point{{typed("inet_sock_set_state", bpf.TypedProgTypedInetSockSetState)}},
			lost: "nothing can be told: it is the spine of every timeline"},
		{hook: event.HookDestroy, ways: [][]point{{typed("tcp_destroy_sock", bpf.TypedProgTypedTcpDestroySock)}},
			lost: "when a socket's address is used again"},
		{hook: event.HookConnect, ways: [][]point{{kprobe("tcp_connect", bpf.ProbeProgProbeTcpConnect)}},
			lost: "the local port of a connection that is refused at once"},
		{hook: event.HookAccept, ways: [][]point{{{RungKprobe, "inet_csk_accept", bpf.ProbeProgProbeInetCskAccept, true}}},
			lost: "which process accepted"},
		{hook: event.HookCloseEntry, ways: [][]point{{kprobe("tcp_close", bpf.ProbeProgProbeTcpClose)}},
			lost: "when close(2) had to wait for the socket's lock"},
		{hook: event.HookClose, ways: [][]point{{kprobe("__tcp_close", bpf.ProbeProgProbeTcpCloseLocked)}},
			lost: "who closed, and what was unread at that moment"},
		{hook: event.HookShutdown, ways: [][]point{{kprobe("tcp_shutdown", bpf.ProbeProgProbeTcpShutdown)}},
			lost: "who shut down, and which direction"},
		{hook: event.HookSendFin, ways: [][]point{{kprobe("tcp_send_fin", bpf.ProbeProgProbeTcpSendFin)}},
			lost: "when the FIN was queued"},
		{hook: event.HookSendActiveReset, ways: [][]point{{kprobe("tcp_send_active_reset", bpf.ProbeProgProbeTcpSendActiveReset)}},
			lost: "a reset that this kernel sent of its own accord"},
		{hook: event.HookSendReset, ways: [][]point{
			{kprobe("tcp_v4_send_reset", bpf.ProbeProgProbeTcpV4SendReset), kprobe("tcp_v6_send_reset", bpf.ProbeProgProbeTcpV6SendReset)},
			{typed("tcp_send_reset", bpf.TypedProgTypedTcpSendReset)}},
			lost: "a reset that this kernel sent in answer to a segment"},
		{hook: event.HookReset, ways: [][]point{
			reset,
			{typed("tcp_receive_reset", bpf.TypedProgTypedTcpReceiveReset)}},
			lost: "a reset that came in"},
		{hook: event.HookDisconnect, ways: [][]point{{kprobe("tcp_disconnect", bpf.ProbeProgProbeTcpDisconnect)}},
			lost: "linger-zero from other aborts"},
		{hook: event.HookAbort, ways: [][]point{{kprobe("tcp_abort", bpf.ProbeProgProbeTcpAbort)}},
			lost: "sock-destroy from other aborts"},
		{hook: event.HookChildForget, ways: [][]point{{kprobe("inet_child_forget", bpf.ProbeProgProbeInetChildForget)}},
			lost: "listener-closed from disconnect"},
		{hook: event.HookTimeWait, ways: [][]point{{kprobe("tcp_time_wait", bpf.ProbeProgProbeTcpTimeWait)}},
			lost: "which end keeps TIME_WAIT"},
		{hook: event.HookTwskKill, ways: [][]point{{kprobe("inet_twsk_kill", bpf.ProbeProgProbeInetTwskKill)}},
			lost: "when TIME_WAIT ended"},
		{hook: event.HookTwskSchedule, ways: [][]point{{kprobe("__inet_twsk_schedule", bpf.ProbeProgProbeInetTwskSchedule)}},
			lost: "when the peer's FIN reached a closed socket"},
		{hook: event.HookErrorReport, ways: [][]point{{typed("inet_sk_error_report", bpf.TypedProgTypedInetSkErrorReport)}},
			lost: "when the error was reported to the process"},
		{hook: event.HookStreamError, ways: [][]point{{kprobe("sk_stream_error", bpf.ProbeProgProbeSkStreamError)}},
			lost: "what a failed send(2) told the process"},
		{hook: event.HookSignal, ways: [][]point{{typed("signal_generate", bpf.TypedProgTypedSignalGenerate)}},
			lost: "SIGPIPE"},
		{hook: event.HookExec, ways: [][]point{{typed("sched_process_exec", bpf.TypedProgTypedSchedProcessExec)}},
			lost: "exec"},
		{hook: event.HookExit, ways: [][]point{{typed("sched_process_exit", bpf.TypedProgTypedSchedProcessExit)}},
			lost: "when and how a process ended"},
		{hook: event.HookFileClose, ways: [][]point{
			// close(2) calls filp_flush and not filp_close from 6.6 on.
			{kprobe("filp_flush", bpf.ProbeProgProbeFilpFlush)},
			{kprobe("filp_close", bpf.ProbeProgProbeFilpClose)}},
			lost: "a close(2) that did not end the connection, because another descriptor holds it"},
		{hook: event.HookSynDrop, ways: [][]point{{kprobe("tcp_conn_request", bpf.ProbeProgProbeTcpConnRequest)}},
			lost: "a SYN dropped for want of room in the accept queue"},
		{hook: event.HookReceive, ways: [][]point{{kprobe("tcp_recvmsg", bpf.ProbeProgProbeTcpRecvmsg),
			{RungKprobe, "tcp_recvmsg", bpf.ProbeProgProbeTcpRecvmsgReturn, true}}},
			lost: "whether the process read to the end", data: true},
	}
}

// Attachment says how a hook is attached, or why it is not.
type Attachment struct {
	Hook    event.Hook
	Rung    Rung     // "" when it is not attached
	Symbols []string // what the kernel calls it
	Lost    string   // what cannot be told without it
	Err     error    // why not, nil when attached
}

// programs holds what is loaded.
type programs struct {
	kernel *kernel
	specs  map[Rung]*ebpf.CollectionSpec
	maps   map[string]*ebpf.Map
	links  []link.Link
	loaded []*ebpf.Program

	wanted   map[Rung][]string                 // programs of the hooks that are asked for
	together map[Rung]map[string]*ebpf.Program // nil: not to be loaded at once
}

func (p *programs) close() error {
	err := p.detach()
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

func (p *programs) detach() error {
	var err error
	for _, l := range p.links {
		err = errors.Join(err, l.Close())
	}
	p.links = nil
	return err
}

// newPrograms reads the objects and creates the maps that all programs share.
func newPrograms(ringBytes uint32) (*programs, error) {
	k, err := readKernel()
	if err != nil {
		return nil, err
	}
	p := &programs{
		kernel: k, specs: map[Rung]*ebpf.CollectionSpec{}, maps: map[string]*ebpf.Map{},
		wanted: map[Rung][]string{}, together: map[Rung]map[string]*ebpf.Program{},
	}
	for rung, load := range map[Rung]func() (*ebpf.CollectionSpec, error){
		RungKprobe: bpf.LoadProbe, RungTyped: bpf.LoadTyped,
	} {
		spec, err := load()
		if err != nil {
			return nil, fmt.Errorf("read the BPF object: %w", err)
		}
		if err := k.configure(spec); err != nil {
			return nil, fmt.Errorf("configure the BPF object: %w", err)
		}
		for _, prog := range spec.Programs {
			k.patch(prog.Instructions)
		}
		p.specs[rung] = spec
	}
	for _, name := range []string{bpf.TypedMapEvents, bpf.TypedMapConns, bpf.TypedMapProcs, bpf.TypedMapLost, bpf.TypedMapReceiving, bpf.TypedMapIncoming} {
		spec := p.specs[RungTyped].Maps[name].Copy()
		if name == bpf.TypedMapEvents && ringBytes != 0 {
			spec.MaxEntries = ringBytes
		}
		m, err := ebpf.NewMap(spec)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("create the BPF map %s: %w", name, err), p.close())
		}
		p.maps[name] = m
	}
	return p, nil
}

// want puts a hook's programs among those that are loaded together, as far as
// this kernel has what they attach to.
func (p *programs) want(h hook) {
	for _, way := range h.ways {
		for _, pt := range way {
			if pt.rung == RungTyped && !p.kernel.has("btf_trace_"+pt.symbol) {
				continue
			}
			p.wanted[pt.rung] = append(p.wanted[pt.rung], pt.program)
		}
	}
}

// load returns a loaded program. All of a rung are loaded at once, which is
// much faster; where this kernel refuses one of them, each is loaded alone, so
// that one takes nothing else down.
func (p *programs) load(rung Rung, name string) (*ebpf.Program, error) {
	if _, tried := p.together[rung]; !tried {
		p.together[rung], _ = p.loadSet(rung, p.wanted[rung])
	}
	set := p.together[rung]
	if set[name] == nil {
		var err error
		if set, err = p.loadSet(rung, []string{name}); err != nil {
			return nil, err
		}
	}
	return set[name], nil
}

// loadSet loads programs with the shared maps.
func (p *programs) loadSet(rung Rung, names []string) (map[string]*ebpf.Program, error) {
	spec := p.specs[rung]
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
		if shared, ok := p.maps[n]; ok {
			set.Maps[n].MaxEntries = shared.MaxEntries()
			replace[n] = shared
		}
	}
	coll, err := ebpf.NewCollectionWithOptions(set, ebpf.CollectionOptions{MapReplacements: replace})
	if err != nil {
		return nil, err
	}
	defer coll.Close()
	loaded := map[string]*ebpf.Program{}
	for _, name := range names {
		loaded[name] = coll.DetachProgram(name)
		p.loaded = append(p.loaded, loaded[name])
	}
	return loaded, nil
}

func (p *programs) attachPoint(pt point) (link.Link, error) {
	prog, err := p.load(pt.rung, pt.program)
	if err != nil {
		return nil, fmt.Errorf("load the program for %s: %w", pt.symbol, err)
	}
	var l link.Link
	switch {
	case pt.rung == RungTyped:
		l, err = link.AttachTracing(link.TracingOptions{Program: prog})
	case pt.ret:
		l, err = link.Kretprobe(pt.symbol, prog, nil)
	default:
		l, err = link.Kprobe(pt.symbol, prog, nil)
	}
	if err != nil {
		return nil, fmt.Errorf("attach to %s: %w", pt.symbol, err)
	}
	return l, nil
}

// attach tries a hook's ways in order.
func (p *programs) attach(h hook) Attachment {
	a := Attachment{Hook: h.hook, Lost: h.lost}
	var errs []error
	for _, way := range h.ways {
		var got []link.Link
		var symbols []string
		var err error
		for _, pt := range way {
			var l link.Link
			if l, err = p.attachPoint(pt); err != nil {
				break
			}
			got = append(got, l)
			symbols = append(symbols, pt.symbol)
		}
		if err == nil {
			p.links = append(p.links, got...)
			a.Rung, a.Symbols = way[0].rung, symbols
			return a
		}
		for _, l := range got {
			err = errors.Join(err, l.Close())
		}
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("%w: this kernel has no such function, or no such way to attach", err)
		}
		errs = append(errs, err)
	}
	a.Err = errors.Join(errs...)
	return a
}
