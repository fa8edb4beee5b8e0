package tracer

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/google/go-cmp/cmp"

	"github.com/tcpbye/tcpbye/bpf"
	"github.com/tcpbye/tcpbye/tracer/event"
	life "github.com/tcpbye/tcpbye/tracer/story"
)

func objects(t *testing.T) map[string]*ebpf.CollectionSpec {
	t.Helper()
	specs := map[string]*ebpf.CollectionSpec{}
	for name, load := range map[string]func() (*ebpf.CollectionSpec, error){
		"probe": bpf.Probe, "typed": bpf.Typed, "classic": bpf.Classic,
	} {
		spec, err := load()
		if err != nil {
			t.Fatal(err)
		}
		specs[name] = spec
	}
	return specs
}

// TestContract holds the Go half of the contract against the objects' BTF: the
// size and every offset of the event, and the numbers of the hooks and groups.
func TestContract(t *testing.T) {
	var w bpf.ProbeEvent
	offsets := map[string]uintptr{
		"time": unsafe.Offsetof(w.Time), "sock": unsafe.Offsetof(w.Sock), "conn": unsafe.Offsetof(w.Conn), "other": unsafe.Offsetof(w.Other),
		"cgroup": unsafe.Offsetof(w.Cgroup), "inode": unsafe.Offsetof(w.Inode), "bytes_acked": unsafe.Offsetof(w.BytesAcked),
		"netns": unsafe.Offsetof(w.Netns), "pid": unsafe.Offsetof(w.Pid), "syscall": unsafe.Offsetof(w.Syscall),
		"write_seq": unsafe.Offsetof(w.WriteSeq), "copied_seq": unsafe.Offsetof(w.CopiedSeq), "seg_len": unsafe.Offsetof(w.SegLen),
		"err": unsafe.Offsetof(w.Err), "refs": unsafe.Offsetof(w.Refs), "family": unsafe.Offsetof(w.Family), "hook": unsafe.Offsetof(w.Hook),
		"has": unsafe.Offsetof(w.Has), "state": unsafe.Offsetof(w.State), "seg_ttl": unsafe.Offsetof(w.SegTtl),
		"ts_recent": unsafe.Offsetof(w.TsRecent), "ts_age": unsafe.Offsetof(w.TsAge), "ts_value": unsafe.Offsetof(w.TsValue),
		"timestamps": unsafe.Offsetof(w.Timestamps), "since_received": unsafe.Offsetof(w.SinceReceived),
		"call_on": unsafe.Offsetof(w.CallOn), "urg_seq": unsafe.Offsetof(w.UrgSeq), "urg_data": unsafe.Offsetof(w.UrgData),
		"queue": unsafe.Offsetof(w.Queue), "task": unsafe.Offsetof(w.Task),
		"laddr": unsafe.Offsetof(w.Laddr), "raddr": unsafe.Offsetof(w.Raddr), "comm": unsafe.Offsetof(w.Comm),
	}
	for name, spec := range objects(t) {
		var e *btf.Struct
		if err := spec.Types.TypeByName("event", &e); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if int(e.Size) != wireSize {
			t.Errorf("%s: an event has %d bytes, Go reads %d", name, e.Size, wireSize)
		}
		found := 0
		for _, m := range e.Members {
			if want, ok := offsets[m.Name]; ok {
				found++
				if uintptr(m.Offset.Bytes()) != want {
					t.Errorf("%s: %s is at %d, Go reads it at %d", name, m.Name, m.Offset.Bytes(), want)
				}
			}
		}
		if found != len(offsets) {
			t.Errorf("%s: %d of %d members found", name, found, len(offsets))
		}
		var hook *btf.Enum
		if err := spec.Types.TypeByName("hook", &hook); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, v := range hook.Values {
			h := event.Hook(v.Value)
			if valid := v.Name != "HOOK_NONE" && v.Name != "HOOK_LAST" && v.Name != "HOOK_STORY"; h.Valid() != valid {
				t.Errorf("%s: %s = %d, valid in Go: %v", name, v.Name, v.Value, h.Valid())
			}
		}
	}
	for h, want := range map[event.Hook]bpf.ProbeHook{
		event.HookSetState: bpf.ProbeHookHOOK_SET_STATE, event.HookClose: bpf.ProbeHookHOOK_CLOSE, event.HookReset: bpf.ProbeHookHOOK_RESET,
		event.HookSendReset: bpf.ProbeHookHOOK_SEND_RESET, event.HookSendActiveReset: bpf.ProbeHookHOOK_SEND_ACTIVE_RESET,
		event.HookDisconnect: bpf.ProbeHookHOOK_DISCONNECT, event.HookAbort: bpf.ProbeHookHOOK_ABORT, event.HookChildForget: bpf.ProbeHookHOOK_CHILD_FORGET,
		event.HookTimeWait: bpf.ProbeHookHOOK_TIME_WAIT, event.HookTwskKill: bpf.ProbeHookHOOK_TWSK_KILL, event.HookTwskSchedule: bpf.ProbeHookHOOK_TWSK_SCHEDULE,
		event.HookStreamError: bpf.ProbeHookHOOK_STREAM_ERROR, event.HookReceive: bpf.ProbeHookHOOK_RECEIVE, event.HookFileClose: bpf.ProbeHookHOOK_FILE_CLOSE,
		event.HookSynDrop: bpf.ProbeHookHOOK_SYN_DROP, event.HookExit: bpf.ProbeHookHOOK_EXIT, event.HookSignal: bpf.ProbeHookHOOK_SIGNAL,
		event.HookDestroy: bpf.ProbeHookHOOK_DESTROY, event.HookStory: bpf.ProbeHookHOOK_STORY, event.HookProcess: bpf.ProbeHookHOOK_PROCESS,
	} {
		if uint32(h) != uint32(want) {
			t.Errorf("%v is %d in Go and %d in C", h, h, want)
		}
	}
	for got, want := range map[int]uint32{
		event.PipeNone: uint32(bpf.ProbePipeSignalPIPE_NONE), event.PipeDelivered: uint32(bpf.ProbePipeSignalPIPE_DELIVERED),
		event.PipeHeld: uint32(bpf.ProbePipeSignalPIPE_HELD), event.PipeRaised: uint32(bpf.ProbePipeSignalPIPE_RAISED),
	} {
		if uint32(got) != want {
			t.Errorf("what became of SIGPIPE: %d in Go, %d in C", got, want)
		}
	}
	for q, want := range map[event.Queue]bpf.ProbeQueue{
		event.QueueUnsure: bpf.ProbeQueueQUEUE_UNSURE, event.QueueReads: bpf.ProbeQueueQUEUE_READS,
		event.QueueWrites: bpf.ProbeQueueQUEUE_WRITES, event.QueueULP: bpf.ProbeQueueQUEUE_ULP,
	} {
		if uint32(q) != uint32(want) {
			t.Errorf("queue %d in Go is %d in C", q, want)
		}
	}
	for f, want := range map[event.TaskFlag]bpf.ProbeTask{
		event.TaskCompat: bpf.ProbeTaskTASK_COMPAT, event.TaskThread: bpf.ProbeTaskTASK_THREAD, event.TaskX32: bpf.ProbeTaskTASK_X32,
	} {
		if uint32(f) != uint32(want) {
			t.Errorf("task flag %d in Go is %d in C", f, want)
		}
	}
	for g, want := range map[event.Group]bpf.ProbeHas{
		event.HasTuple: bpf.ProbeHasHAS_TUPLE, event.HasTCP: bpf.ProbeHasHAS_TCP, event.HasSegment: bpf.ProbeHasHAS_SEGMENT, event.HasTask: bpf.ProbeHasHAS_TASK,
		event.HasPreempt: bpf.ProbeHasHAS_PREEMPT, event.HasSyscall: bpf.ProbeHasHAS_SYSCALL, event.HasSocket: bpf.ProbeHasHAS_SOCKET, event.HasRefs: bpf.ProbeHasHAS_REFS,
	} {
		if uint32(g) != uint32(want) {
			t.Errorf("group %d in Go is %d in C", g, want)
		}
	}
}

// TestStoryContract holds what Go reads of a story against the objects: each field
// of struct story, its tasks and looks, by writing it and decoding.
func TestStoryContract(t *testing.T) {
	for name, spec := range objects(t) {
		var s *btf.Struct
		if err := spec.Types.TypeByName("story", &s); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if int(s.Size) != life.Size {
			t.Errorf("%s: a story has %d bytes, Go reads %d", name, s.Size, life.Size)
		}
		walk(t, name, s, reflect.TypeFor[bpf.ProbeStory]())
	}
	w := bpf.ProbeStory{Time: 9, Sock: 2, Conn: 3, Netns: 4, Sport: 5, Dport: 6, Family: 2, Hook: uint8(event.HookStory), HasLooks: 15, Steps: 4, Tasks: 3, Final: 1,
		Laddr: [16]uint8{127, 0, 0, 1}, Raddr: [16]uint8{127, 0, 0, 2},
		SegSeq: 11, SegAck: 12, SegLen: 13, SegWindow: 14, SegIpId: 15, SegFlags: 16, SegTtl: 17, HasSegment: 1}
	step := func(i int, at uint64, hook event.Hook, who uint8, states uint8) {
		w.Step[i].DtLo, w.Step[i].DtHi, w.Step[i].What, w.Step[i].States = uint32(at), uint16(at>>32), uint8(hook)|who<<6, states
	}
	step(0, 0, event.HookSetState, 3, uint8(event.Listen)|uint8(event.SynRecv)<<4)
	step(1, 10, event.HookSetState, 3, uint8(event.SynRecv)|uint8(event.Established)<<4)
	step(2, 1<<40, event.HookShutdown, 1, uint8(event.Established)|2<<4)
	step(3, 1<<40+5, event.HookSetState, 1, uint8(event.Established)|uint8(event.FinWait1)<<4)
	step(14, 5, event.HookAccept, 0, uint8(event.SynRecv))
	for i := range w.Task {
		w.Task[i].Cgroup, w.Task[i].Pid, w.Task[i].Tid, w.Task[i].Uid, w.Task[i].TaskFlags, w.Task[i].ExitCode = 20, 21, 22, 23, 24, 25
		w.Task[i].Preempt, w.Task[i].Has, w.Task[i].Syscall, w.Task[i].Task, w.Task[i].CallOn, w.Task[i].Comm = 0, uint8(event.HasPreempt|event.HasSyscall), 26, 2, 27, [16]uint8{'c'}
	}
	for i := range w.Look {
		l := &w.Look[i]
		l.BytesSent, l.BytesAcked, l.BytesReceived, l.Lingertime, l.Inode = 31, 32, 33, 34, 35
		l.WriteSeq, l.SndUna, l.SndNxt, l.RcvNxt, l.CopiedSeq, l.SkFlags, l.UserTimeout, l.SockUid = 36, 37, 38, 39, 40, 41, 42, 43
		l.Linger2, l.SndWnd, l.Mss, l.SinceSent, l.SinceReceived, l.UrgSeq, l.UrgData, l.Sacked = -1, 45, 46, 47, 48, 49, 50, 51
		l.SkShutdown, l.HasSocket, l.Repair, l.IsMptcp, l.Retransmits, l.ProbesOut, l.Queue, l.Step = 3, 1, 1, 1, 52, 53, 54, 1
	}
	var got life.Story
	if err := got.Decode(unsafe.Slice((*byte)(unsafe.Pointer(&w)), life.Size), time.Millisecond, "amd64"); err != nil {
		t.Fatal(err)
	}
	look := life.Look{Step: 2, BytesSent: 31, BytesAcked: 32, BytesReceived: 33, LingerTime: 34, Inode: 35, WriteSeq: 36, SndUna: 37, SndNxt: 38, RcvNxt: 39, CopiedSeq: 40,
		SkFlags: 41, UserTimeout: 42, SockUID: 43, Linger2: -1, SndWnd: 44, WindowKnown: true, MSS: 46, SinceSent: 46 * time.Millisecond, SinceReceived: 47 * time.Millisecond,
		UrgSeq: 49, UrgData: 50, Sacked: 51, Shutdown: 3, HasSk: true, Repair: true, MPTCP: true, Retransmits: 52, ProbesOut: 53, Queue: 54}
	task := life.Task{Has: event.HasPreempt | event.HasSyscall, Context: event.ContextProcess, PID: 21, TID: 22, UID: 23, Flags: 24, ExitCode: 25, Syscall: 26, More: 2,
		Call: event.CallOfTask("amd64", 26, 2), CallOn: 27, Comm: event.Comm{'c'}, Cgroup: 20}
	want := life.Story{Told: 9, Born: 3, Sock: 2, Final: true, NetNS: 4, Family: event.IPv4,
		Local: netip.MustParseAddrPort("127.0.0.1:5"), Remote: netip.MustParseAddrPort("127.0.0.2:6"),
		Count: 5, TaskCount: 3, Tasks: [3]life.Task{task, task, task}, Looked: [4]bool{true, true, true, true}, Looks: [4]life.Look{look, look, look, look},
		Handshake: event.Segment{Seq: 11, Ack: 12, Len: 13, Window: 14, IPID: 15, Flags: 16, TTL: 17}, HasShake: true}
	copy(want.Steps[:], []life.Step{
		{At: 3, Hook: event.HookSetState, Task: life.NoTask, State: event.Listen, ToState: event.SynRecv},
		{At: 8, Hook: event.HookAccept, State: event.SynRecv},
		{At: 13, Hook: event.HookSetState, Task: life.NoTask, State: event.SynRecv, ToState: event.Established},
		{At: 3 + 1<<40, Hook: event.HookShutdown, Task: 1, State: event.Established, Arg: 2},
		{At: 8 + 1<<40, Hook: event.HookSetState, Task: 1, State: event.Established, ToState: event.FinWait1},
	})
	if d := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); d != "" {
		t.Error(d)
	}
}

// walk holds a struct of the objects against the Go type that was made of it,
// member by member.
func walk(t *testing.T, path string, s *btf.Struct, in reflect.Type) {
	t.Helper()
	fields := slices.DeleteFunc(reflect.VisibleFields(in), func(f reflect.StructField) bool { return f.Name == "_" })
	if len(fields) != len(s.Members) {
		t.Fatalf("%s: %d members, Go has %d", path, len(s.Members), len(fields))
	}
	end := uint32(0)
	for i, m := range s.Members {
		f := fields[i]
		if m.Offset.Bytes() != end {
			t.Errorf("%s.%s: at %d after %d: there is a hole", path, m.Name, m.Offset.Bytes(), end)
		}
		size, err := btf.Sizeof(m.Type)
		if err != nil {
			t.Fatal(err)
		}
		if uintptr(m.Offset.Bytes()) != f.Offset || uintptr(size) != f.Type.Size() || !strings.EqualFold(strings.ReplaceAll(m.Name, "_", ""), f.Name) {
			t.Errorf("%s.%s: %d bytes at %d; Go has %s, %d at %d", path, m.Name, size, m.Offset.Bytes(), f.Name, f.Type.Size(), f.Offset)
		}
		end = m.Offset.Bytes() + uint32(size)
		if a, ok := m.Type.(*btf.Array); ok {
			if inner, ok := a.Type.(*btf.Struct); ok {
				walk(t, path+"."+m.Name, inner, f.Type.Elem())
			}
		}
	}
	if end != s.Size {
		t.Errorf("%s: %d bytes of members, %d in all", path, end, s.Size)
	}
}

func wire(change func(*bpf.ProbeEvent)) []byte {
	w := bpf.ProbeEvent{Hook: uint8(event.HookSetState), Has: uint8(event.HasTuple), Family: 10, Sport: 1, Dport: 2}
	if change != nil {
		change(&w)
	}
	raw := make([]byte, wireSize)
	copy(raw, unsafe.Slice((*byte)(unsafe.Pointer(&w)), wireSize))
	return raw
}

func TestDecode(t *testing.T) {
	e, err := Decode(wire(func(w *bpf.ProbeEvent) {
		copy(w.Laddr[:], []byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127, 0, 0, 1})
		copy(w.Raddr[:], []byte{0x20, 1, 0xd, 0xb8, 15: 9})
		w.Has |= uint8(event.HasPreempt)
		w.Preempt = 0x101
		w.Err = 104
	}))
	if err != nil {
		t.Fatal(err)
	}
	if e.Local.String() != "127.0.0.1:1" || e.Remote.String() != "[2001:db8::9]:2" {
		t.Errorf("%v > %v", e.Local, e.Remote)
	}
	if e.Context != event.ContextSoftirq || e.Err.String() != "ECONNRESET" {
		t.Errorf("context %v, error %v", e.Context, e.Err)
	}
	e, err = Decode(append(wire(func(w *bpf.ProbeEvent) {
		w.Hook, w.Has = uint8(event.HookReset), uint8(event.HasTCP)
		w.Timestamps, w.TsRecent, w.TsAge, w.TsValue = 3, 1000, 7, 2000
	}), make([]byte, textSize)...))
	want := event.Timestamps{Agreed: true, Carried: true, Value: 2000, Recent: 1000, Age: 7 * time.Second}
	if err != nil || e.Timestamps != want {
		t.Errorf("timestamps %+v, want %+v: %v", e.Timestamps, want, err)
	}
	var bad *DecodeError
	for _, raw := range [][]byte{nil, make([]byte, wireSize-1), make([]byte, wireSize+1), make([]byte, wireSize)} {
		if _, err := Decode(raw); !errors.As(err, &bad) {
			t.Errorf("%d bytes: error %v", len(raw), err)
		}
	}
}

func TestDecodeDoesNotAllocate(t *testing.T) {
	raw := wire(nil)
	if n := testing.AllocsPerRun(100, func() {
		if _, err := Decode(raw); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(wire(nil))
	r := rand.New(rand.NewPCG(1, 2))
	raw := make([]byte, wireSize)
	for i := range raw {
		raw[i] = byte(r.Uint32())
	}
	f.Add(raw)
	f.Fuzz(func(t *testing.T, raw []byte) {
		if e, err := Decode(raw); err == nil && !e.Hook.Valid() {
			t.Fatalf("hook %d was decoded", e.Hook)
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	raw := wire(nil)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Decode(raw); err != nil {
			b.Fatal(err)
		}
	}
}

// TestDecodeTails: what follows an event belongs to it, and a wrong length is
// refused.
func TestDecodeTails(t *testing.T) {
	bytesOf := func(p unsafe.Pointer, n int) []byte { return unsafe.Slice((*byte)(p), n) }
	stack := wire(func(w *bpf.ProbeEvent) { w.Hook, w.Arg = uint8(event.HookStack), int32(event.HookShutdown) })
	st := bpf.ProbeStack{Pc: 0x401000, Sp: 0x7000, FrameBytes: 16, MemoryBytes: 3}
	st.Frames[0], st.Frames[1] = 0x401000, 0x402000
	copy(st.Memory[:], "abc")
	e, err := Decode(append(slices.Clone(stack), bytesOf(unsafe.Pointer(&st), stackSize)...))
	if err != nil {
		t.Fatal(err)
	}
	want := event.RawStack{PC: 0x401000, SP: 0x7000, Chain: []uint64{0x401000, 0x402000}, Memory: []byte("abc")}
	if got, ok := e.Stack.Raw(); !ok || !cmp.Equal(got, want) {
		t.Errorf("%v %+v; want %+v", ok, got, want)
	}
	st.FrameBytes = 1 << 16
	if e, err = Decode(append(slices.Clone(stack), bytesOf(unsafe.Pointer(&st), stackSize)...)); err != nil || e.Stack != "" {
		t.Errorf("a stack that says more than it is: %q, %v", e.Stack, err)
	}
	reset := wire(func(w *bpf.ProbeEvent) { w.Hook = uint8(event.HookReset) })
	text := bpf.ProbeText{Bytes: 4}
	copy(text.Text[:], "gone")
	e, err = Decode(append(slices.Clone(reset), bytesOf(unsafe.Pointer(&text), textSize)...))
	if err != nil || e.Text != "gone" {
		t.Errorf("a RST with a text: %q, %v", e.Text, err)
	}
	for name, raw := range map[string][]byte{"no tail": reset, "a short one": append(reset, 1), "a stack without its tail": stack} {
		if _, err := Decode(raw); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// TestSince: jiffies are told as the kernel's clock has them, and none is not 0.
func TestSince(t *testing.T) {
	e, err := Decode(wire(func(w *bpf.ProbeEvent) {
		w.Has |= uint8(event.HasTCP)
		w.SinceSent, w.SinceReceived = 1001, 1
	}))
	if err != nil {
		t.Fatal(err)
	}
	if e.SinceSent != 1000*jiffy() || e.SinceSent < time.Second || e.SinceReceived != time.Nanosecond {
		t.Errorf("sent %v ago, received %v ago, a jiffy is %v", e.SinceSent, e.SinceReceived, jiffy())
	}
	if e, err = Decode(wire(func(w *bpf.ProbeEvent) { w.Has |= uint8(event.HasTCP) })); err != nil || e.SinceSent != 0 {
		t.Errorf("not told: %v, %v", e.SinceSent, err)
	}
}
