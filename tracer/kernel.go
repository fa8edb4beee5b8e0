package tracer

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/features"

	"github.com/tcpbye/tcpbye/bpf"
	"github.com/tcpbye/tcpbye/tracer/enrich"
)

// kernel is what the programs must be told of the running kernel. Everything
// comes from its BTF or from a trial, nothing from its version: stable trees
// moved the reset reason back and forth within one series
// (tcp_send_active_reset has it third in 6.12.43, second in 6.12.117).
type kernel struct {
	// types holds btf for whoever loads programs: to read it takes a tenth of a
	// second and 20 MB.
	types *btf.Cache
	btf   *btf.Spec

	reasonArg        uint32 // position of enum sk_rst_reason, from 1; 0 none
	passiveReasonArg uint32
	tpReasonArg      uint32
	retransmitArgs   uint32 // of tp tcp_retransmit_skb
	acceptArgs       uint32
	recvmsgArgs      uint32
	resetHasSegment  bool
	sendResetRecord  bool // tp tcp_send_reset has a record of its own (6.10)

	preemptSource bpf.ProbePreemptSource
	preemptVar    btf.TypeID
	perCPUOffsets uint64 // address of __per_cpu_offset
	preemptOffset uint64 // of __preempt_count in a CPU's area

	recvmsg, sendmsg, socketOps uint64 // addresses of tcp_recvmsg, tcp_sendmsg and socket_file_ops; 0: hidden

	taskBTF      bool
	taskRegs     bool
	probeRead    bool
	sockFromFile bool

	pidns enrich.PIDNamespace // which the events' PIDs are of

	fentryFirst bool // fentry is safe, and so the better one
}

func readKernel() (*kernel, error) {
	// The kernel takes a while to list its symbols.
	var at map[string]uint64
	var atErr error
	listed := make(chan struct{})
	go func() {
		defer close(listed)
		at, atErr = symbols("tcp_recvmsg", "tcp_sendmsg", "socket_file_ops")
	}()
	defer func() { <-listed }()
	types := btf.NewCache()
	spec, err := types.Kernel()
	if err != nil {
		return nil, fmt.Errorf("read this kernel's type information (/sys/kernel/btf/vmlinux): %w; tcpbye needs a kernel built with CONFIG_DEBUG_INFO_BTF", err)
	}
	k := &kernel{types: types, btf: spec}
	k.reasonArg = k.position("tcp_send_active_reset", "sk_rst_reason")
	k.passiveReasonArg = k.position("tcp_v4_send_reset", "sk_rst_reason")
	k.acceptArgs = uint32(len(k.params("inet_csk_accept")))
	k.resetHasSegment = k.position("tcp_reset", "sk_buff") == 2
	k.recvmsgArgs = uint32(len(k.params("tcp_recvmsg")))
	k.tpReasonArg = position(k.tracepoint("tcp_send_reset"), "sk_rst_reason")
	k.retransmitArgs = uint32(len(k.tracepoint("tcp_retransmit_skb")))
	k.sendResetRecord = k.has("trace_event_raw_tcp_send_reset")
	k.fentryFirst = k.fentrySafe()
	if err := k.findPreemptCount(); err != nil {
		return nil, err
	}
	if <-listed; atErr != nil {
		return nil, atErr
	}
	k.recvmsg, k.sendmsg, k.socketOps = at["tcp_recvmsg"], at["tcp_sendmsg"], at["socket_file_ops"]
	if k.pidns, err = enrich.PIDNamespaceOf("/proc"); err != nil {
		return nil, err
	}
	k.taskBTF = helper(asm.FnGetCurrentTaskBtf)
	k.taskRegs = helper(asm.FnTaskPtRegs)
	k.probeRead = helper(asm.FnProbeReadKernel)
	k.sockFromFile = k.taskBTF // both came with 5.11, for tracing programs
	return k, nil
}

// helper tries a helper from a raw tracepoint program, which every kernel
// that tcpbye runs on accepts, kprobes or not.
func helper(fn asm.BuiltinFunc) bool {
	return features.HaveProgramHelper(ebpf.RawTracepoint, fn) == nil
}

func (k *kernel) params(function string) []btf.FuncParam {
	var fn *btf.Func
	if err := k.btf.TypeByName(function, &fn); err != nil {
		return nil
	}
	proto, ok := fn.Type.(*btf.FuncProto)
	if !ok {
		return nil
	}
	return proto.Params
}

// has says whether the kernel's BTF has a type of that name.
func (k *kernel) has(name string) bool {
	_, err := k.btf.AnyTypeByName(name)
	return err == nil
}

// tracepoint lists what a tracepoint is given.
func (k *kernel) tracepoint(name string) []btf.FuncParam {
	// btf_trace_NAME is its prototype, after a void pointer, behind a pointer.
	var td *btf.Typedef
	if err := k.btf.TypeByName("btf_trace_"+name, &td); err != nil {
		return nil
	}
	p, ok := btf.UnderlyingType(td.Type).(*btf.Pointer)
	if !ok {
		return nil
	}
	proto, ok := p.Target.(*btf.FuncProto)
	if !ok || len(proto.Params) == 0 {
		return nil
	}
	return proto.Params[1:]
}

// fentrySafe says whether nothing is known against fentry here.
//
// A trampoline's end waits for Tasks RCU with locks held, and until 6.9
// ("rcu-tasks: Eliminate deadlocks involving do_exit() and RCU tasks") that
// deadlocks with a task that wants one of them while it exits. Stable trees have
// the repair, too, so it is recognised by the list that it added to task_struct;
// a kernel without CONFIG_TASKS_RCU has no such lists and no such wait.
//
// Before 5.12 ("bpf: Fix fexit trampoline") a task that slept in a call woke up
// in a trampoline that was freed; the repair added struct bpf_tramp_image.
func (k *kernel) fentrySafe() bool {
	var task *btf.Struct
	if err := k.btf.TypeByName("task_struct", &task); err != nil {
		return false
	}
	waits := hasMember(task, "rcu_tasks_holdout_list") && !hasMember(task, "rcu_tasks_exit_list")
	return k.has("bpf_tramp_image") && !waits
}

func hasMember(s *btf.Struct, name string) bool {
	return slices.ContainsFunc(s.Members, func(m btf.Member) bool { return m.Name == name })
}

// position is the place, from 1, of the function's argument of that type (or
// of a pointer to it); 0 when there is none.
func (k *kernel) position(function, typeName string) uint32 {
	return position(k.params(function), typeName)
}

func position(params []btf.FuncParam, typeName string) uint32 {
	for i, p := range params {
		t := btf.UnderlyingType(p.Type)
		if ptr, ok := t.(*btf.Pointer); ok {
			t = btf.UnderlyingType(ptr.Target)
		}
		if t.TypeName() == typeName {
			return uint32(i + 1)
		}
	}
	return 0
}

func (k *kernel) findPreemptCount() error {
	// PREEMPT_RT keeps softirqs out of preempt_count: better no context than a
	// wrong one.
	var task *btf.Struct
	if err := k.btf.TypeByName("task_struct", &task); err == nil {
		for _, m := range task.Members {
			if m.Name == "softirq_disable_cnt" {
				return nil
			}
		}
	}
	var v *btf.Var
	for _, c := range []struct {
		name   string
		source bpf.ProbePreemptSource
	}{
		{"__preempt_count", bpf.ProbePreemptSourcePREEMPT_VARIABLE},
		{"pcpu_hot", bpf.ProbePreemptSourcePREEMPT_HOT},
	} {
		if err := k.btf.TypeByName(c.name, &v); err != nil {
			continue
		}
		if id, err := k.btf.TypeID(v); err == nil && addressable(id) {
			k.preemptSource, k.preemptVar = c.source, id
			return nil
		}
	}
	var info *btf.Struct
	if err := k.btf.TypeByName("thread_info", &info); err == nil {
		for _, m := range info.Members {
			// arm64 (arch/arm64/include/asm/thread_info.h): a union of
			// preempt_count and {count, need_resched}, without a name.
			if u, ok := m.Type.(*btf.Union); ok && m.Name == "" {
				for _, um := range u.Members {
					if um.Name == "preempt" {
						k.preemptSource = bpf.ProbePreemptSourcePREEMPT_THREAD
						return nil
					}
				}
			}
		}
	}
	at, err := symbols("__per_cpu_offset", "__preempt_count")
	if err != nil {
		return err
	}
	if at["__per_cpu_offset"] != 0 && at["__preempt_count"] != 0 {
		k.preemptSource = bpf.ProbePreemptSourcePREEMPT_ADDRESS
		k.perCPUOffsets, k.preemptOffset = at["__per_cpu_offset"], at["__preempt_count"]
	}
	return nil
}

// symbols reads addresses from /proc/kallsyms: 0 for what is not there, or not
// shown to this user.
func symbols(names ...string) (map[string]uint64, error) {
	f, err := os.Open("/proc/kallsyms")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look up kernel symbols: %w", err)
	}
	defer f.Close()
	found := map[string]uint64{}
	s := bufio.NewScanner(f)
	s.Buffer(make([]byte, 1<<16), 1<<16)
	// The list has 200,000 lines, and what follows the last one wanted need not be read.
	for len(found) < len(names) && s.Scan() {
		// ADDRESS TYPE NAME [MODULE]
		address, rest, _ := bytes.Cut(s.Bytes(), []byte(" "))
		_, name, _ := bytes.Cut(rest, []byte(" "))
		for _, n := range names {
			if string(name) != n {
				continue
			}
			if found[n], err = strconv.ParseUint(string(address), 16, 64); err != nil {
				return nil, fmt.Errorf("look up the kernel symbol %s: %w", n, err)
			}
		}
	}
	if err := s.Err(); err != nil {
		return nil, fmt.Errorf("look up kernel symbols: %w", err)
	}
	return found, nil
}

// addressable tries whether a program can name that kernel variable: a kernel
// without CONFIG_KALLSYMS_ALL has its type but not its address.
func addressable(id btf.TypeID) bool {
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type:    ebpf.RawTracepoint,
		License: "Dual MIT/GPL",
		Instructions: asm.Instructions{
			{OpCode: asm.LoadImmOp(asm.DWord), Dst: asm.R1, Src: pseudoBTFID, Constant: int64(id)},
			asm.Mov.Imm(asm.R0, 0),
			asm.Return(),
		},
	})
	if err != nil {
		return false
	}
	return prog.Close() == nil
}

// configure sets the constants of an object.
func (k *kernel) configure(o object, spec *ebpf.CollectionSpec) error {
	var errs []error
	set := func(name string, value any) {
		v, ok := spec.Variables[name]
		if !ok {
			errs = append(errs, fmt.Errorf("the BPF object has no constant %s", name))
			return
		}
		errs = append(errs, v.Set(value))
	}
	set(bpf.ProbeVarCfgPreemptSource, k.preemptSource)
	set(bpf.ProbeVarCfgPercpuOffsets, k.perCPUOffsets)
	set(bpf.ProbeVarCfgPreemptOffset, k.preemptOffset)
	set(bpf.ProbeVarCfgIncoming, !k.resetHasSegment)
	set(bpf.ProbeVarCfgTaskBtf, k.taskBTF)
	set(bpf.ProbeVarCfgTaskRegs, k.taskRegs)
	// The classic rung reads nothing by address, allowed or not.
	set(bpf.ProbeVarCfgProbeRead, k.probeRead && o != objectClassic)
	if o == objectClassic {
		set(bpf.ClassicVarCfgCalls, !k.taskRegs)
	}
	if !k.pidns.Initial {
		set(bpf.ProbeVarCfgPidnsDev, k.pidns.Dev)
		set(bpf.ProbeVarCfgPidnsIno, k.pidns.Ino)
	}
	set(bpf.ProbeVarCfgReasonArg, k.reasonArg)
	set(bpf.ProbeVarCfgPassiveReasonArg, k.passiveReasonArg)
	set(bpf.ProbeVarCfgAcceptArgs, k.acceptArgs)
	set(bpf.ProbeVarCfgResetSkb, k.resetHasSegment)
	set(bpf.ProbeVarCfgTpReasonArg, k.tpReasonArg)
	set(bpf.ProbeVarCfgRecvmsgArgs, k.recvmsgArgs)
	set(bpf.ProbeVarCfgTcpRecvmsg, k.recvmsg)
	set(bpf.ProbeVarCfgTcpSendmsg, k.sendmsg)
	set(bpf.ProbeVarCfgSocketOps, k.socketOps)
	return errors.Join(errs...)
}

// pseudoBTFID marks a 64-bit load of the address of a kernel variable, named by
// its BTF id (BPF_PSEUDO_BTF_ID, include/uapi/linux/bpf.h).
const pseudoBTFID = asm.R3

// Placeholders of bpf/core.h.
const (
	preemptVariablePlaceholder = 0x7c9b1001
	preemptHotPlaceholder      = 0x7c9b1002
)

// patch replaces the placeholder load of the per-CPU variable that holds
// preempt_count here. The other placeholder stays: it is in dead code.
func (k *kernel) patch(insns asm.Instructions) {
	var want int64
	switch k.preemptSource {
	case bpf.ProbePreemptSourcePREEMPT_VARIABLE:
		want = preemptVariablePlaceholder
	case bpf.ProbePreemptSourcePREEMPT_HOT:
		want = preemptHotPlaceholder
	default:
		return
	}
	for i := range insns {
		if insns[i].OpCode == asm.LoadImmOp(asm.DWord) && insns[i].Constant == want && insns[i].Src == asm.R0 {
			insns[i].Src = pseudoBTFID
			insns[i].Constant = int64(k.preemptVar)
		}
	}
}
