package tracer

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/google/go-cmp/cmp"

	"github.com/tcpbye/tcpbye/bpf"
	"github.com/tcpbye/tcpbye/tracer/event"
)

func objects(t *testing.T) map[string]*ebpf.CollectionSpec {
	t.Helper()
	specs := map[string]*ebpf.CollectionSpec{}
	for name, load := range map[string]func() (*ebpf.CollectionSpec, error){
		"probe": bpf.LoadProbe, "typed": bpf.LoadTyped, "classic": bpf.LoadClassic,
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
			if valid := v.Name != "HOOK_NONE" && v.Name != "HOOK_LAST"; h.Valid() != valid {
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
		event.HookDestroy: bpf.ProbeHookHOOK_DESTROY,
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
