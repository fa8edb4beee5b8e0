/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * The core: fills and submits events. It is compiled twice, and READ is the
 * difference: typed loads (fentry and tp_btf programs; they need no
 * bpf_probe_read_kernel, which a locked-down kernel refuses) or CO-RE probe
 * reads (kprobe programs, whose arguments are plain numbers).
 */
#ifndef TCPBYE_CORE_H
#define TCPBYE_CORE_H

#include "kernel.h"
#include "event.h"
#include "story.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_tracing.h>

#ifdef TCPBYE_TYPED
#define READ(p, path) ((p)->path)
#define READ_BIT(p, field) BPF_CORE_READ_BITFIELD(p, field)
#else
#define READ(p, path) BPF_CORE_READ(p, path)
#define READ_BIT(p, field) BPF_CORE_READ_BITFIELD_PROBED(p, field)
#endif

/* Where preempt_count is; set from the running kernel's BTF before load. */
enum preempt_source {
	PREEMPT_UNKNOWN = 0,
	PREEMPT_VARIABLE = 1, /* x86: per-CPU __preempt_count */
	PREEMPT_HOT = 2,      /* x86, 6.2 to 6.14: per-CPU struct pcpu_hot */
	PREEMPT_THREAD = 3,   /* arm64: thread_info of the current task */
	PREEMPT_ADDRESS = 4,  /* x86 whose BTF has no per-CPU variables (Debian's 5.10): by address */
};

const volatile enum preempt_source cfg_preempt_source = PREEMPT_UNKNOWN;
const volatile __u64 cfg_percpu_offsets = 0; /* PREEMPT_ADDRESS: address of __per_cpu_offset[] */
const volatile __u64 cfg_preempt_offset = 0; /* PREEMPT_ADDRESS: __preempt_count in a CPU's area */
const volatile bool cfg_task_btf = false;  /* bpf_get_current_task_btf: 5.11 and later */
const volatile bool cfg_task_regs = false; /* bpf_task_pt_regs: 5.15 and later */
const volatile bool cfg_probe_read = false; /* bpf_probe_read_kernel is allowed here */
const volatile __u32 cfg_reason_arg = 0;   /* tcp_send_active_reset: position of the reason; 0: none */
const volatile __u32 cfg_passive_reason_arg = 0; /* tcp_v4_send_reset, tcp_v6_send_reset: likewise */
const volatile __u32 cfg_accept_args = 0;  /* inet_csk_accept: number of arguments */
const volatile bool cfg_reset_skb = false; /* tcp_reset has the segment as second argument */
const volatile bool cfg_incoming = false;  /* tcp_validate_incoming is attached */
const volatile __u32 cfg_tp_reason_arg = 0; /* tp tcp_send_reset: likewise */
const volatile __u32 cfg_recvmsg_args = 0; /* tcp_recvmsg: number of arguments */
const volatile __u64 cfg_tcp_recvmsg = 0;  /* address of the function; 0: not known */
const volatile __u64 cfg_tcp_sendmsg = 0;
const volatile __u64 cfg_socket_ops = 0;   /* address of socket_file_ops; 0: not known */
const volatile __u64 cfg_pidns_dev = 0;    /* the tracer's PID namespace, where it is not the initial one */
const volatile __u64 cfg_pidns_ino = 0;
const volatile bool cfg_story = false;     /* sockets whose life is plain are told once */
const volatile __u32 cfg_wake_bytes = 1 << 18; /* wake the reader when this much is waiting */

/* Their types reach BTF, and so Go, through these; nothing reads them. */
const volatile enum hook contract_hook = HOOK_NONE;
const volatile enum has contract_has = HAS_TUPLE;
const volatile enum loss contract_lost = LOST_RING;
const volatile enum timestamps contract_timestamps = TIMESTAMPS_AGREED;
const volatile enum queue contract_queue = QUEUE_UNSURE;
const volatile enum task contract_task = TASK_COMPAT;
const volatile enum pipe_signal contract_pipe_signal = PIPE_NONE;
const volatile enum twsk_end contract_twsk_end = TWSK_END_UNKNOWN;
const volatile struct stack *const volatile contract_stack = NULL;
const volatile struct text *const volatile contract_text = NULL;
const volatile struct icmp *const volatile contract_icmp = NULL;
const volatile struct story *const volatile contract_story = NULL;

/* The value type is how struct event reaches BTF, and so Go. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 23);
	__type(value, struct event);
} events SEC(".maps");

/*
 * key: address of a sock. value: ns of its first sight, which makes an address
 * that is used again another connection. Inserted at the first event of a
 * socket, replaced at its birth events (CLOSE to SYN_SENT, LISTEN to SYN_RECV),
 * deleted at tcp_destroy_sock. NOT_CHOSEN: a filter does not want it.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1 << 18);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, __u64);
} conns SEC(".maps");

/*
 * key: address of a sock that was born while this was on and whose life is plain,
 * or was; or, where `conn` is 0, a place for the next sock at that address.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1 << 18);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, struct story);
} stories SEC(".maps");

/* How many places of `stories` have no socket. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} stories_left SEC(".maps");

/*
 * key: thread group id that acted on a TCP socket. Says which exits and execs
 * are worth an event. Least recently used entries fall out by themselves.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1 << 14);
	__type(key, __u32);
	__type(value, __u8);
} procs SEC(".maps");

struct receive {
	__u64 sock;
	__u32 flags; /* MSG_* */
	__u32 pad;
};

/*
 * key: pid_tgid of a thread inside tcp_recvmsg. value: the socket and how. A thread is
 * in one call at a time, so the next call replaces what a lost return left.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1 << 14);
	__type(key, __u64);
	__type(value, struct receive);
} receiving SEC(".maps");

/* index: enum loss. Every event that could not be delivered is counted here. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, LOST_KINDS);
	__type(key, __u32);
	__type(value, __u64);
} lost SEC(".maps");

/*
 * The switch: nothing is submitted while it is off. Hooks are attached, and let
 * go of, one by one over seconds, and a story of which some hooks were not there
 * yet reads like another story. All objects share it, by this section's name.
 * What is noted for later events is noted all the same: what a call began before
 * the switch may end after it.
 */
volatile __u32 tracing SEC(".data.switch") = 0;
#define TRACING_ASLEEP 2 /* on, and the reader is to be woken by the next event */

static __always_inline void count_lost(__u32 kind)
{
	__u64 *n = bpf_map_lookup_elem(&lost, &kind);

	if (n)
		*n += 1;
}

/*
 * bpf_this_cpu_ptr needs the BTF id of a per-CPU variable as a load that the
 * loader writes: it finds these placeholders by their value.
 */
#define PREEMPT_VARIABLE_PLACEHOLDER 0x7c9b1001
#define PREEMPT_HOT_PLACEHOLDER 0x7c9b1002

static __always_inline bool preempt_count(struct story_task *t)
{
	if (cfg_preempt_source == PREEMPT_VARIABLE) {
		int *var, *here;

		asm volatile("%0 = 0x7c9b1001 ll" : "=r"(var));
		here = bpf_this_cpu_ptr(var);
		t->preempt = *here;
		return true;
	}
	if (cfg_preempt_source == PREEMPT_HOT) {
		struct pcpu_hot *var, *here;

		asm volatile("%0 = 0x7c9b1002 ll" : "=r"(var));
		here = bpf_this_cpu_ptr(var);
		t->preempt = here->preempt_count;
		return true;
	}
	if (cfg_preempt_source == PREEMPT_THREAD && cfg_task_btf) {
		struct task_struct *task = bpf_get_current_task_btf();

		t->preempt = task->thread_info.preempt.count;
		return true;
	}
	if (cfg_preempt_source == PREEMPT_ADDRESS && cfg_probe_read) {
		__u64 area = cfg_percpu_offsets + 8 * (__u64)bpf_get_smp_processor_id();

		if (bpf_probe_read_kernel(&area, sizeof(area), (void *)area) ||
		    bpf_probe_read_kernel(&t->preempt, sizeof(t->preempt), (void *)(area + cfg_preempt_offset))) {
			count_lost(LOST_READ);
			return false;
		}
		return true;
	}
	return false;
}

/* The registers with which the current thread entered the kernel. No typedef: CO-RE looks for its name. */
#if defined(__TARGET_ARCH_x86)
#define registers pt_regs___x86
#define REGISTERS_BY_HAND cfg_probe_read

/*
 * 5.10 has no bpf_task_pt_regs: task_pt_regs() by hand, the stack is 16 KiB
 * (arch/x86/include/asm/page_64_types.h, processor.h).
 */
static __always_inline struct registers *registers_by_hand(void)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	return (void *)(BPF_CORE_READ(task, stack) + 16384 - 168);
}
#elif defined(__TARGET_ARCH_arm64)
#define registers pt_regs___arm64_call
#define REGISTERS_BY_HAND false /* without bpf_task_pt_regs they are not read */

static __always_inline struct registers *registers_by_hand(void)
{
	return NULL;
}
#endif

#define REGISTERS_TYPED (cfg_task_regs && cfg_task_btf)

#define REGISTER(field)                                                               \
	({                                                                            \
		__u64 __value = 0;                                                    \
		if (REGISTERS_TYPED) {                                                \
			struct registers *__regs = (void *)bpf_task_pt_regs(bpf_get_current_task_btf()); \
			__value = __regs->field;                                         \
		} else if (REGISTERS_BY_HAND) {                                       \
			struct registers *__regs = registers_by_hand();                         \
			__value = BPF_CORE_READ(__regs, field);                          \
		}                                                                     \
		__value;                                                              \
	})

/*
 * Whether the task is in a 32-bit system call: a program of that architecture, or
 * int 0x80. Calls have other numbers there.
 */
static __always_inline bool in_compat_call(void)
{
#if defined(__TARGET_ARCH_x86)
	if (!bpf_core_field_exists(struct thread_info, status))
		return false;
	if (cfg_task_btf) {
		struct task_struct *task = bpf_get_current_task_btf();

		return task->thread_info.status & TS_COMPAT;
	}
	if (cfg_probe_read) {
		struct task_struct *task = (void *)bpf_get_current_task();

		return BPF_CORE_READ(task, thread_info.status) & TS_COMPAT;
	}
#elif defined(__TARGET_ARCH_arm64)
	if (cfg_task_btf) {
		struct task_struct *task = bpf_get_current_task_btf();

		return task->thread_info.flags >> TIF_32BIT & 1;
	}
	if (cfg_probe_read) {
		struct task_struct *task = (void *)bpf_get_current_task();

		return BPF_CORE_READ(task, thread_info.flags) >> TIF_32BIT & 1;
	}
#endif
	return false;
}

/*
 * The number of the system call that the current task is in: it tells close(2)
 * from dup2(2), exec and exit without a hook on any of them.
 */
static __always_inline void fill_syscall(struct story_task *t)
{
	if (!REGISTERS_TYPED && !REGISTERS_BY_HAND)
		return;
	if (in_compat_call())
		t->task |= TASK_COMPAT;
#if defined(__TARGET_ARCH_x86)
	t->syscall = REGISTER(orig_ax);
	if (t->task & TASK_COMPAT) {
		/* One number for all calls on sockets: which is its first argument. */
		if (t->syscall == NR_COMPAT_SOCKETCALL)
			t->syscall |= (REGISTER(bx) & 0xff) << 16;
	} else if (t->syscall >= 0 && t->syscall & X32_SYSCALL_BIT) {
		t->syscall &= ~X32_SYSCALL_BIT;
		t->task |= TASK_X32;
	}
#elif defined(__TARGET_ARCH_arm64)
	t->syscall = REGISTER(syscallno);
#endif
	t->has |= HAS_SYSCALL;
}

/*
 * Whether the exiting task leaves a process that lives on: do_exit counts
 * signal->live down before it gives the descriptors up, and all threads follow
 * the one that wants the process to end (SIGNAL_GROUP_EXIT).
 */
static __always_inline void fill_exit(struct story_task *t)
{
	unsigned int flags;
	int live;

	if (!(t->task_flags & PF_EXITING))
		return;
	if (cfg_task_btf) {
		struct signal_struct *signal = bpf_get_current_task_btf()->signal;

		live = signal->live.counter;
		flags = signal->flags;
	} else {
		struct task_struct *task = (void *)bpf_get_current_task();

		live = BPF_CORE_READ(task, signal, live.counter);
		flags = BPF_CORE_READ(task, signal, flags);
	}
	if (live > 0 && !(flags & SIGNAL_GROUP_EXIT))
		t->task |= TASK_THREAD;
}

/* The number that a task has in the tracer's PID namespace; 0: none. */
static __always_inline __u32 number_here(struct pid *pid)
{
	unsigned int level = BPF_CORE_READ(pid, level);

	/* The namespace is not the initial one, and few are nested deeper. */
#pragma unroll
	for (unsigned int i = 1; i < 8; i++) {
		struct upid *in = (void *)&pid->numbers + i * bpf_core_type_size(struct upid);

		if (i > level)
			return 0;
		if (BPF_CORE_READ(in, ns, ns.inum) == cfg_pidns_ino)
			return BPF_CORE_READ(in, nr);
	}
	return 0;
}

static __always_inline void fill_pids(struct story_task *t)
{
	__u64 id = bpf_get_current_pid_tgid();
	struct bpf_pidns_info here = {};

	t->pid = id >> 32;
	t->tid = id;
	if (!cfg_pidns_ino || !t->pid) /* the idle task is 0 everywhere */
		return;
	/* It knows the tasks whose own namespace this is; others live in one below, or outside. */
	if (!bpf_get_ns_current_pid_tgid(cfg_pidns_dev, cfg_pidns_ino, &here, sizeof(here))) {
		t->pid = here.tgid;
		t->tid = here.pid;
		return;
	}
	if (cfg_probe_read) {
		struct task_struct *task = (void *)bpf_get_current_task();

		here.pid = number_here(BPF_CORE_READ(task, thread_pid));
		if (here.pid) {
			t->pid = number_here(BPF_CORE_READ(task, group_leader, thread_pid));
			t->tid = here.pid;
			return;
		}
	}
	t->pid |= PID_OUTSIDE;
	t->tid |= PID_OUTSIDE;
}

/* The task on the CPU; *t is zero. */
static __always_inline void take_task(struct story_task *t)
{
	fill_pids(t);
	/* The same number: the helper, too, tells it as the initial namespace has it. */
	t->uid = cfg_task_btf ? bpf_get_current_task_btf()->cred->uid.val : (__u32)bpf_get_current_uid_gid();
	t->cgroup = bpf_get_current_cgroup_id();
	bpf_get_current_comm(t->comm, sizeof(t->comm));
	t->syscall = -1;
	if (preempt_count(t))
		t->has |= HAS_PREEMPT;
	if (cfg_task_btf) {
		struct task_struct *task = bpf_get_current_task_btf();

		t->task_flags = task->flags;
		t->exit_code = task->exit_code;
		t->has |= HAS_TASK;
	} else if (cfg_probe_read) {
		struct task_struct *task = (void *)bpf_get_current_task();

		t->task_flags = BPF_CORE_READ(task, flags);
		t->exit_code = BPF_CORE_READ(task, exit_code);
		t->has |= HAS_TASK;
	}
	if (t->has & HAS_TASK)
		fill_exit(t);
	if (!(t->preempt & 0x100) && !(t->task_flags & PF_KTHREAD))
		fill_syscall(t);
}

static __always_inline void fill_task(struct event *e)
{
	struct story_task t = {};

	take_task(&t);
	e->pid = t.pid;
	e->tid = t.tid;
	e->uid = t.uid;
	e->cgroup = t.cgroup;
	__builtin_memcpy(e->comm, t.comm, sizeof(e->comm));
	e->syscall = t.syscall;
	e->preempt = t.preempt;
	e->task_flags = t.task_flags;
	e->exit_code = t.exit_code;
	e->task = t.task;
	e->has |= t.has;
}

static __always_inline void fill_addr4(__u8 *to, __be32 addr)
{
	*(__be32 *)to = addr;
}

#ifdef TCPBYE_TYPED
#define FILL_ADDR6(to, p, path)                                   \
	({                                                        \
		__be32 *__to = (__be32 *)(to);                    \
		__to[0] = (p)->path.in6_u.u6_addr32[0];           \
		__to[1] = (p)->path.in6_u.u6_addr32[1];           \
		__to[2] = (p)->path.in6_u.u6_addr32[2];           \
		__to[3] = (p)->path.in6_u.u6_addr32[3];           \
	})
#else
#define FILL_ADDR6(to, p, path) \
	bpf_core_read(to, 16, &(p)->path)
#endif

/* What a full socket, a mini-socket and a request share. */
static __always_inline void fill_tuple(struct event *e, struct sock *sk)
{
	struct net *net = READ(sk, __sk_common.skc_net.net);

	e->family = READ(sk, __sk_common.skc_family);
	e->state = READ(sk, __sk_common.skc_state);
	e->sport = READ(sk, __sk_common.skc_num);
	e->dport = bpf_ntohs(READ(sk, __sk_common.skc_dport));
	if (net)
		e->netns = READ(net, ns.inum);
	if (e->family == AF_INET6) {
		FILL_ADDR6(e->laddr, sk, __sk_common.skc_v6_rcv_saddr);
		FILL_ADDR6(e->raddr, sk, __sk_common.skc_v6_daddr);
	} else {
		fill_addr4(e->laddr, READ(sk, __sk_common.skc_rcv_saddr));
		fill_addr4(e->raddr, READ(sk, __sk_common.skc_daddr));
	}
	e->has |= HAS_TUPLE;
}

static __always_inline void fill_socket(struct event *e, struct sock *sk)
{
	struct socket *socket = READ(sk, sk_socket);

	e->protocol = READ(sk, sk_protocol);
	e->err = READ(sk, sk_err);
	e->err_soft = READ(sk, sk_err_soft);
	e->sk_flags = READ(sk, __sk_common.skc_flags);
	e->lingertime = READ(sk, sk_lingertime);
	e->sk_shutdown = READ(sk, sk_shutdown);
	e->sock_uid = READ(sk, sk_uid.val);
	e->ack_backlog = READ(sk, sk_ack_backlog);
	e->max_ack_backlog = READ(sk, sk_max_ack_backlog);
	if (socket) {
		struct file *file = READ(socket, file);

		e->has_socket = 1;
		if (file) {
			struct inode *inode = READ(file, f_inode);

			if (inode)
				e->inode = READ(inode, i_ino);
		}
	}
	e->has |= HAS_SOCKET;
}

/*
 * Whether the queues are TCP's own, or are filled and emptied by something above
 * it: then what TCP knows of them is not what the process wrote and read. The
 * protocol's functions tell; where their addresses are hidden, a socket that has
 * the protocol that it was made with.
 */
static __always_inline __u8 queue_in(struct sock *sk, struct tcp_sock *tp)
{
	struct proto *prot = READ(sk, __sk_common.skc_prot);
	__u8 queue = 0;

	if (READ(tp, inet_conn.icsk_ulp_ops))
		queue |= QUEUE_ULP;
	if (!prot)
		return queue;
	if (cfg_tcp_recvmsg && cfg_tcp_sendmsg) {
		if ((__u64)READ(prot, recvmsg) != cfg_tcp_recvmsg)
			queue |= QUEUE_READS;
		if ((__u64)READ(prot, sendmsg) != cfg_tcp_sendmsg)
			queue |= QUEUE_WRITES;
	} else if (prot != READ(sk, sk_prot_creator)) {
		queue |= QUEUE_UNSURE;
	}
	return queue;
}

static __always_inline __u8 queue_of(struct sock *sk)
{
#ifdef TCPBYE_TYPED
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);
#else
	struct tcp_sock *tp = (void *)sk;
#endif

	return tp ? queue_in(sk, tp) : 0;
}

static __always_inline void fill_tcp(struct event *e, struct sock *sk)
{
#ifdef TCPBYE_TYPED
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);
#else
	struct tcp_sock *tp = (void *)sk;
#endif
	__u32 now = bpf_jiffies64(), at; /* tcp_jiffies32 */
	__u16 sport;

	if (!tp)
		return;
	/*
	 * The port as the socket was bound: skc_num is 0 at -> CLOSE, since
	 * tcp_set_state has released an auto-bound port by then.
	 */
	sport = bpf_ntohs(READ(tp, inet_conn.icsk_inet.inet_sport));
	if (sport)
		e->sport = sport;
	e->write_seq = READ(tp, write_seq);
	e->snd_una = READ(tp, snd_una);
	e->snd_nxt = READ(tp, snd_nxt);
	e->rcv_nxt = READ(tp, rcv_nxt);
	e->copied_seq = READ(tp, copied_seq);
	e->bytes_sent = READ(tp, bytes_sent);
	e->bytes_acked = READ(tp, bytes_acked);
	e->bytes_received = READ(tp, bytes_received);
	e->linger2 = READ(tp, linger2);
	e->repair = READ_BIT(tp, repair);
	e->retransmits = READ(tp, inet_conn.icsk_retransmits);
	e->probes_out = READ(tp, inet_conn.icsk_probes_out);
	e->user_timeout = READ(tp, inet_conn.icsk_user_timeout);
	e->snd_wnd = READ(tp, snd_wnd) + 1;
	e->mss = READ(tp, mss_cache);
	e->sacked = READ(tp, sacked_out);
	if (e->probes_out && bpf_core_field_exists(tp->inet_conn.icsk_probes_tstamp)) {
		at = READ(tp, inet_conn.icsk_probes_tstamp);
		if (at)
			e->since_probing = now - at + 1;
	}
	/* 0 until the handshake is done. */
	at = READ(tp, lsndtime);
	if (at)
		e->since_sent = now - at + 1;
	at = READ(tp, inet_conn.icsk_ack.lrcvtime);
	if (at)
		e->since_received = now - at + 1;
	if (bpf_core_field_exists(struct tcp_sock___mptcp, is_mptcp)) {
		struct tcp_sock___mptcp *mp = (void *)tp;

		e->is_mptcp = READ(mp, is_mptcp);
	}
	e->urg_seq = READ(tp, urg_seq);
	e->urg_data = READ(tp, urg_data) & 0xff00;
	e->queue = queue_in(sk, tp);
	e->has |= HAS_TCP;
}

/*
 * The family of the socket that the current call is on. A close that happens
 * inside a call on another socket is of a descriptor that was on its way there.
 */
static __always_inline __u8 call_on(__u8 has, int syscall, __u8 flags, __u32 task_flags)
{
	struct task_struct *task;
	struct fdtable *fdt;
	struct file **files, *file = NULL;
	struct inode *inode;
	struct socket *socket;
	struct sock *sk;
	__u32 fd;

	if (!cfg_probe_read || !(has & HAS_SYSCALL) || syscall < 0 || syscall == NR_CLOSE || task_flags & PF_EXITING)
		return 0;
#if defined(__TARGET_ARCH_x86)
	fd = flags & TASK_COMPAT ? REGISTER(bx) : REGISTER(di);
#elif defined(__TARGET_ARCH_arm64)
	fd = REGISTER(orig_x0);
#endif
	task = (void *)bpf_get_current_task();
	fdt = BPF_CORE_READ(task, files, fdt);
	if (!fdt || fd >= BPF_CORE_READ(fdt, max_fds))
		return 0;
	files = BPF_CORE_READ(fdt, fd);
	if (bpf_probe_read_kernel(&file, sizeof(file), files + fd) || !file)
		return 0;
	inode = BPF_CORE_READ(file, f_inode);
	if (!inode || (BPF_CORE_READ(inode, i_mode) & S_IFMT) != S_IFSOCK)
		return 0;
	socket = BPF_CORE_READ(file, private_data);
	if (!socket)
		return 0;
	sk = BPF_CORE_READ(socket, sk);
	return sk ? BPF_CORE_READ(sk, __sk_common.skc_family) : 0;
}

static __always_inline void fill_full(struct event *e, struct sock *sk)
{
	fill_tuple(e, sk);
	fill_socket(e, sk);
	fill_tcp(e, sk);
}

/*
 * The segment that an event answers. Its addresses, turned round, become the
 * event's when the socket has none (no socket at all, or a listener).
 */
static __always_inline void fill_segment(struct event *e, struct sk_buff *skb, bool tuple)
{
	struct tcp_header th;
	struct ipv4_header ip;
	struct ipv6_header ip6;
	unsigned char *head;
	__u16 network, transport;
	__u32 doff;

	if (!cfg_probe_read || !skb)
		return;
	head = BPF_CORE_READ(skb, head);
	network = BPF_CORE_READ(skb, network_header);
	transport = BPF_CORE_READ(skb, transport_header);
	if (bpf_probe_read_kernel(&th, sizeof(th), head + transport) ||
	    bpf_probe_read_kernel(&ip, sizeof(ip), head + network)) {
		count_lost(LOST_READ);
		return;
	}
	e->seg_seq = bpf_ntohl(th.seq);
	e->seg_ack = bpf_ntohl(th.ack_seq);
	e->seg_flags = th.flags;
	e->seg_window = bpf_ntohs(th.window);
	doff = (th.doff_res >> 4) * 4;
	/* Not from the IP header: its length is 0 in a BIG TCP packet. */
	e->seg_len = BPF_CORE_READ(skb, len) +
		     (__u32)(BPF_CORE_READ(skb, data) - (head + transport)) - doff;
	e->has |= HAS_SEGMENT;
	if (tuple) {
		struct net_device *dev = BPF_CORE_READ(skb, dev);

		if (dev)
			e->netns = BPF_CORE_READ(dev, nd_net.net, ns.inum);
		e->sport = bpf_ntohs(th.dest);
		e->dport = bpf_ntohs(th.source);
		e->has |= HAS_TUPLE;
	}
	if (ip.ver_ihl >> 4 == 4) {
		e->seg_ttl = ip.ttl;
		e->seg_ip_id = bpf_ntohs(ip.id);
		if (tuple) {
			e->family = AF_INET;
			__builtin_memset(e->laddr, 0, sizeof(e->laddr));
			__builtin_memset(e->raddr, 0, sizeof(e->raddr));
			__builtin_memcpy(e->laddr, ip.daddr, 4);
			__builtin_memcpy(e->raddr, ip.saddr, 4);
		}
		return;
	}
	if (bpf_probe_read_kernel(&ip6, sizeof(ip6), head + network)) {
		count_lost(LOST_READ);
		return;
	}
	e->seg_ttl = ip6.hop_limit;
	if (tuple) {
		e->family = AF_INET6;
		__builtin_memcpy(e->laddr, ip6.daddr, 16);
		__builtin_memcpy(e->raddr, ip6.saddr, 16);
	}
}

#include "filter.h"

/* The id of a socket's connection; `birth` starts a new one. */
static __always_inline __u64 conn_id(__u64 key, __u64 now, bool birth)
{
	__u64 *id = birth ? NULL : bpf_map_lookup_elem(&conns, &key);

	if (id)
		return *id & ~UNDECIDED;
	if (cfg_story && !birth) {
		struct story *s = bpf_map_lookup_elem(&stories, &key);

		if (s && s->conn)
			return s->conn;
	}
	if (bpf_map_update_elem(&conns, &key, &now, birth ? BPF_ANY : BPF_NOEXIST)) {
		/* Another CPU may have seen the socket first, too: its id counts. */
		id = bpf_map_lookup_elem(&conns, &key);
		if (id)
			return *id;
		count_lost(LOST_MAP);
		return 0;
	}
	return now;
}

/*
 * No wake-up for each event: it costs more than the event. The reader polls,
 * and is woken early when the ring fills. Only when nothing came for a while
 * it sleeps, and says so.
 */
static __always_inline void submit(void *record)
{
	__u64 waiting = bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA);

	bpf_ringbuf_submit(record, waiting >= cfg_wake_bytes || tracing == TRACING_ASLEEP ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP);
}

static __noinline int tell(__u64 sock);

/* An event with room for a tail. A story of its socket stands before it. */
static __always_inline struct event *begin_long(__u8 hook, void *sk, const __u32 tail)
{
	struct event *e;

	if (!tracing)
		return NULL;
	if (cfg_story && sk)
		tell((__u64)sk);
	e = bpf_ringbuf_reserve(&events, sizeof(*e) + tail, 0);
	if (!e) {
		count_lost(LOST_RING);
		return NULL;
	}
	__builtin_memset(e, 0, sizeof(*e));
	/* Later than the place in the ring: the reader's bound rests on it. */
	e->time = bpf_ktime_get_ns();
	e->hook = hook;
	e->sock = (__u64)sk;
	e->cpu = bpf_get_smp_processor_id();
	fill_task(e);
	return e;
}

static __always_inline struct event *begin(__u8 hook, void *sk)
{
	return begin_long(hook, sk, 0);
}

static __always_inline int end(struct event *e)
{
	submit(e);
	return 0;
}

/* An event that belongs to no socket of `conns`. */
static __always_inline int end_chosen(struct event *e)
{
	if (e->conn == NOT_CHOSEN || !event_may_match(e)) {
		bpf_ringbuf_discard(e, BPF_RB_NO_WAKEUP);
		return 0;
	}
	return end(e);
}

static __always_inline void remember_process(void)
{
	__u32 pid = bpf_get_current_pid_tgid() >> 32;
	__u8 one = 1;

	if (cfg_story && bpf_map_lookup_elem(&procs, &pid))
		return;
	bpf_map_update_elem(&procs, &pid, &one, BPF_ANY);
	if (cfg_story) {
		/* Its story may be told when it is gone. */
		struct event *e = begin(HOOK_PROCESS, NULL);

		if (e)
			end(e);
	}
}

static __always_inline bool is_tcp(struct sock *sk)
{
	return READ(sk, sk_protocol) == IPPROTO_TCP;
}

/* Whether a hook's socket is one to tell of. */
static __always_inline bool wanted(struct sock *sk)
{
	return is_tcp(sk) && chosen(sk, false, false);
}

/*
 * The segment that is establishing a connection on this CPU: what the peer's
 * segments look like, for a reset to be compared with.
 */
struct handshake {
	__u64 sock;
	__u64 skb;
	/* For a story: the headers' addresses, and what follows the TCP header's begin. */
	__u64 network, transport;
	__u32 len;
	__u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct handshake);
} handshakes SEC(".maps");

static __always_inline int note_handshake(struct sock *sk, struct sk_buff *skb)
{
	__u32 zero = 0;
	struct handshake *h = bpf_map_lookup_elem(&handshakes, &zero);

	if (!h)
		return 0;
	h->sock = (__u64)sk;
	h->skb = (__u64)skb;
	if (cfg_story) {
		__u64 head, data;
		__u16 network, transport;
#ifdef TCPBYE_TYPED
		head = (__u64)skb->head;
		data = (__u64)skb->data;
		network = skb->network_header;
		transport = skb->transport_header;
#else
		/* They lie beside each other, and a read costs more than a copy. */
		__u64 part[6];
		const __u32 from = bpf_core_field_offset(struct sk_buff, transport_header) & ~7;

		if (bpf_core_field_offset(struct sk_buff, data) + 8 - from <= sizeof(part) &&
		    bpf_core_field_offset(struct sk_buff, head) >= from && bpf_core_field_offset(struct sk_buff, network_header) >= from) {
			if (bpf_probe_read_kernel(part, sizeof(part), (void *)skb + from))
				return 0;
			head = *(__u64 *)((void *)part + (bpf_core_field_offset(struct sk_buff, head) - from));
			data = *(__u64 *)((void *)part + (bpf_core_field_offset(struct sk_buff, data) - from));
			network = *(__u16 *)((void *)part + (bpf_core_field_offset(struct sk_buff, network_header) - from));
			transport = *(__u16 *)((void *)part + (bpf_core_field_offset(struct sk_buff, transport_header) - from));
		} else {
			head = (__u64)BPF_CORE_READ(skb, head);
			data = (__u64)BPF_CORE_READ(skb, data);
			network = BPF_CORE_READ(skb, network_header);
			transport = BPF_CORE_READ(skb, transport_header);
		}
#endif
		h->network = head + network;
		h->transport = head + transport;
		h->len = READ(skb, len) + (__u32)(data - h->transport);
	}
	return 0;
}

static __always_inline void fill_handshake(struct event *e)
{
	__u32 zero = 0;
	struct handshake *h = bpf_map_lookup_elem(&handshakes, &zero);

	if (!h || h->sock != e->sock)
		return;
	fill_segment(e, (struct sk_buff *)h->skb, false);
	h->sock = 0; /* the segment is gone when the address is used again */
}

/*
 * Tries to send again, or to probe, that this host's own layers refused: no
 * route, no address, a packet filter, a queue. Kept for the sockets that it
 * happens to, from the first refusal to the next success or the end.
 */
struct unsent {
	__u64 conn;
	__u32 una; /* snd_una: what had been acknowledged */
	__u32 tries; /* refused in a row */
	__s32 err;
	__u32 busy; /* not made: an earlier copy is still held in this host */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1 << 16);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, struct unsent);
} unsents SEC(".maps");

/* ret: of tcp_retransmit_skb or tcp_write_wakeup. */
static __always_inline int note_sent(struct sock *sk, int ret)
{
#ifdef TCPBYE_TYPED
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);
#else
	struct tcp_sock *tp = (void *)sk;
#endif
	__u64 key = (__u64)sk;
	struct unsent *old = bpf_map_lookup_elem(&unsents, &key);
	struct unsent now = {};

	if (!tp || (!ret && !old))
		return 0;
	if (cfg_story && ret && tracing)
		tell(key);
	now.conn = conn_id(key, bpf_ktime_get_ns(), false);
	now.una = READ(tp, snd_una);
	if (old && old->conn == now.conn && old->una == now.una)
		now = *old;
	if (!ret) {
		now.tries = 0;
		now.err = 0;
	} else if (ret == -EBUSY) {
		now.busy++; /* in a queue here, or with whoever received it over loopback or veth */
	} else {
		now.tries++;
		now.err = ret;
	}
	if (bpf_map_update_elem(&unsents, &key, &now, BPF_ANY))
		count_lost(LOST_MAP);
	return 0;
}

/* A socket that never sent anything again has nothing there. */
static __always_inline void fill_unsent(struct event *e)
{
	struct unsent *u;
	__u64 key = e->sock;

	if (!e->retransmits && !e->probes_out)
		return;
	u = bpf_map_lookup_elem(&unsents, &key);
	if (!u)
		return;
	if (u->conn == e->conn && u->una == e->snd_una) {
		e->unsent_tries = u->tries;
		e->unsent_err = u->err;
		e->busy_tries = u->busy;
	}
	bpf_map_delete_elem(&unsents, &key);
}

#include "plain.h"

static __always_inline int on_state(struct sock *sk, int from, int to)
{
	bool birth = to == TCP_SYN_SENT || (from == TCP_LISTEN && to == TCP_SYN_RECV);
	struct event *e;
	__u64 born;

	if (!is_tcp(sk) || !chosen(sk, birth, to == TCP_SYN_SENT))
		return 0;
	born = put_off(sk);
	if (plain_state(sk, from, to, birth, born))
		return 0;
	told_act(sk, from);
	if (born && !has_story(sk)) {
		e = begin(HOOK_SET_STATE, sk);
		if (e) {
			e->time = e->conn = born;
			fill_full(e, sk);
			e->state = TCP_LISTEN;
			e->to_state = TCP_SYN_RECV;
			end(e);
		}
	}
	e = begin(HOOK_SET_STATE, sk);
	if (!e)
		return 0;
	fill_full(e, sk);
	e->state = from;
	e->to_state = to;
	e->conn = conn_id(e->sock, e->time, birth);
	if (to == TCP_ESTABLISHED)
		fill_handshake(e);
	if (to == TCP_CLOSE)
		fill_unsent(e);
	if (to == TCP_SYN_SENT)
		remember_process();
	return end(e);
}

/* An event of a full socket, with everything that the judge may need. */
static __always_inline int on_full(__u8 hook, struct sock *sk, int arg, __u64 other)
{
	struct event *e;

	if (plain(hook, sk, arg) || !wanted(sk))
		return 0;
	if (hook == HOOK_DISCONNECT)
		told_act(sk, READ(sk, __sk_common.skc_state));
	e = begin(hook, sk);
	if (!e)
		return 0;
	fill_full(e, sk);
	e->arg = arg;
	e->other = other;
	if (hook == HOOK_CLOSE)
		e->call_on = call_on(e->has, e->syscall, e->task, e->task_flags);
	e->conn = conn_id(e->sock, e->time, false);
	if (hook == HOOK_ACCEPT || hook == HOOK_CONNECT)
		remember_process();
	return end(e);
}

/* A marker: which function, which socket; the spine has the rest. */
static __always_inline int on_marker(__u8 hook, struct sock *sk, int arg, __u64 other)
{
	struct event *e;

	if (plain(hook, sk, arg) || !wanted(sk))
		return 0;
	e = begin(hook, sk);
	if (!e)
		return 0;
	fill_tuple(e, sk);
	fill_socket(e, sk);
	e->arg = arg;
	e->other = other;
	e->conn = conn_id(e->sock, e->time, false);
	return end(e);
}

static __always_inline int on_abort(struct sock *sk, int err)
{
	__u8 state = READ(sk, __sk_common.skc_state);

	/* SOCK_DESTROY of a mini-socket or a request (6.1 and later). */
	if (state == TCP_TIME_WAIT || state == TCP_NEW_SYN_RECV)
		return 0;
	return on_full(HOOK_ABORT, sk, err, 0);
}

static __always_inline int on_error_report(struct sock *sk)
{
	__u16 family = READ(sk, __sk_common.skc_family);

	/* sk_error_report is for all families, and 6 is a protocol of netlink, too. */
	if (family != AF_INET && family != AF_INET6)
		return 0;
	return on_marker(HOOK_ERROR_REPORT, sk, 0, 0);
}

static __always_inline int on_destroy(struct sock *sk)
{
	struct event *e;
	__u64 key = (__u64)sk;
	__u64 *id;

	if (plain_destroy(sk))
		return 0;
	id = bpf_map_lookup_elem(&conns, &key);
	if (!id)
		return 0; /* never seen doing anything */
	e = *id == NOT_CHOSEN ? NULL : begin(HOOK_DESTROY, sk);
	if (e) {
		e->conn = *id & ~UNDECIDED;
		fill_tuple(e, sk);
		fill_socket(e, sk);
		end(e);
	}
	bpf_map_delete_elem(&conns, &key);
	return 0;
}

static __always_inline int time_wait_substate(struct sock *sk)
{
#ifdef TCPBYE_TYPED
	struct tcp_timewait_sock *tw = bpf_skc_to_tcp_timewait_sock(sk);
#else
	struct tcp_timewait_sock *tw = (void *)sk;
#endif

	return tw ? READ(tw, tw_sk.tw_substate) : -1;
}

/* sk: NULL, a full socket, a listener or a mini-socket. */
static __always_inline int on_send_reset(struct sock *sk, struct sk_buff *skb, int reason)
{
	/* The tracepoint tells both kinds; one without a segment answers none. */
	struct event *e = begin(skb ? HOOK_SEND_RESET : HOOK_SEND_ACTIVE_RESET, sk);
	bool from_segment = true;
	__u64 key, *id;

	if (!e)
		return 0;
	e->arg = reason;
	e->arg2 = -1;
	if (sk) {
		fill_tuple(e, sk);
		if (e->state == TCP_TIME_WAIT) {
			e->arg2 = time_wait_substate(sk);
		} else if (e->state != TCP_NEW_SYN_RECV) {
			fill_socket(e, sk);
			fill_tcp(e, sk);
			/*
			 * No new id: an orphan may have been destroyed just
			 * before its last reset (tcp_rcv_state_process).
			 */
			key = (__u64)sk;
			id = bpf_map_lookup_elem(&conns, &key);
			if (id)
				e->conn = *id & ~UNDECIDED;
		}
		from_segment = e->state == TCP_LISTEN || e->state == TCP_NEW_SYN_RECV;
	}
	fill_segment(e, skb, from_segment);
	return end_chosen(e);
}

/*
 * Before 6.1 tcp_reset is not given the segment. What tcp_validate_incoming was
 * given last on this CPU stands here for it: a RST reaches tcp_reset only
 * through there (SYN_SENT apart), and data for a socket that takes none after
 * having passed it.
 */
struct incoming {
	__u64 sock;
	__u64 rst; /* address of the segment; 0: not a RST */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct incoming);
} incoming SEC(".maps");

static __always_inline int note_incoming(struct sock *sk, struct sk_buff *skb, struct tcphdr *th)
{
	__u32 zero = 0;
	struct incoming *in = bpf_map_lookup_elem(&incoming, &zero);

	if (!in)
		return 0;
	in->sock = (__u64)sk;
	in->rst = READ_BIT(th, rst) ? (__u64)skb : 0;
	return 0;
}

/*
 * A mini-socket's timer calls inet_twsk_kill itself; whatever else ends one goes
 * through inet_twsk_deschedule_put. Both run on one CPU: with softirqs served, or
 * off, except for a call, which the context tells.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} descheduled SEC(".maps");

static __always_inline int note_descheduled(struct inet_timewait_sock *tw)
{
	__u32 zero = 0;
	__u64 *early = bpf_map_lookup_elem(&descheduled, &zero);

	if (early)
		*early = (__u64)tw;
	return 0;
}

/*
 * The socket of the call whose return is probed. A softirq that runs the same
 * function in between takes the place, and empties it: then nothing is noted.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u64);
} sending SEC(".maps");

static __always_inline int enter_send(__u32 place, struct sock *sk)
{
	__u64 *at = bpf_map_lookup_elem(&sending, &place);

	if (at)
		*at = (__u64)sk;
	return 0;
}

static __always_inline struct sock *leave_send(__u32 place)
{
	__u64 *at = bpf_map_lookup_elem(&sending, &place);
	struct sock *sk;

	if (!at)
		return NULL;
	sk = (struct sock *)*at;
	*at = 0;
	return sk;
}

static __always_inline struct text *text_of(struct event *e)
{
	return (struct text *)(e + 1);
}

/* What a RST carries (RFC 9293, 3.5.3), as far as it lies in one piece. */
static __always_inline void fill_text(struct event *e, struct sk_buff *skb)
{
	unsigned char *text, *end;
	__u32 whole, n;
	__u8 doff;

	if (!cfg_probe_read || !e->seg_len)
		return;
	text = BPF_CORE_READ(skb, head) + BPF_CORE_READ(skb, transport_header);
	whole = BPF_CORE_READ(skb, len) - BPF_CORE_READ(skb, data_len);
	end = BPF_CORE_READ(skb, data) + whole;
	if (bpf_probe_read_kernel(&doff, sizeof(doff), text + __builtin_offsetof(struct tcp_header, doff_res)))
		return;
	text += (doff >> 4) * 4;
	if (text >= end)
		return;
	n = end - text > TEXT_BYTES ? TEXT_BYTES : end - text;
	asm volatile("" : "+r"(n)); /* the bound is one that the verifier sees */
	if (n <= TEXT_BYTES && !bpf_probe_read_kernel(text_of(e)->text, n, text))
		text_of(e)->bytes = n;
}

/*
 * The segment's timestamp, which tcp_validate_incoming has parsed by now, beside
 * the last one before it: only what comes after the reset's check moves that
 * (tcp_replace_ts_recent, in tcp_ack).
 */
static __always_inline void fill_timestamps(struct event *e, struct sock *sk)
{
#ifdef TCPBYE_TYPED
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);
#else
	struct tcp_sock *tp = (void *)sk;
#endif

	if (!tp)
		return;
	e->ts_recent = READ(tp, rx_opt.ts_recent);
	e->ts_age = (__u32)(e->time / 1000000000) - (__u32)READ(tp, rx_opt.ts_recent_stamp);
	e->ts_value = READ(tp, rx_opt.rcv_tsval);
	if (READ_BIT(tp, rx_opt.tstamp_ok))
		e->timestamps |= TIMESTAMPS_AGREED;
	if (READ_BIT(tp, rx_opt.saw_tstamp))
		e->timestamps |= TIMESTAMPS_CARRIED;
}

static __always_inline int on_reset(struct sock *sk, struct sk_buff *skb)
{
	bool known = false;
	struct event *e;

	if (!wanted(sk))
		return 0;
	/* A segment in SYN_SENT does not pass there, and addresses are used again. */
	if (cfg_incoming && READ(sk, __sk_common.skc_state) != TCP_SYN_SENT) {
		__u32 zero = 0;
		struct incoming *in = bpf_map_lookup_elem(&incoming, &zero);

		if (in && in->sock == (__u64)sk) {
			skb = (struct sk_buff *)in->rst;
			known = true;
		}
	}
	e = begin_long(HOOK_RESET, sk, sizeof(struct text));
	if (!e)
		return 0;
	text_of(e)->bytes = 0;
	fill_full(e, sk);
	fill_timestamps(e, sk);
	e->conn = conn_id(e->sock, e->time, false);
	fill_segment(e, skb, false);
	if (e->has & HAS_SEGMENT)
		fill_text(e, skb);
	if (known)
		e->has |= HAS_SEGMENT; /* flags stay 0: no RST came */
	return end(e);
}

static __always_inline int on_mini_socket(__u8 hook, struct inet_timewait_sock *tw)
{
	__s32 ended = TWSK_END_UNKNOWN;
	struct event *e;

	if (!may_match((struct sock *)tw))
		return 0;
	if (hook == HOOK_TWSK_KILL) {
		__u32 zero = 0;
		__u64 *early = bpf_map_lookup_elem(&descheduled, &zero);

		ended = TWSK_END_TIMER;
		if (early && *early == (__u64)tw) {
			ended = TWSK_END_EARLY;
			*early = 0;
		}
		/* Each plain connection leaves one that ends so. */
		if (cfg_story && ended == TWSK_END_TIMER && READ(tw, tw_substate) == TCP_TIME_WAIT)
			return 0;
	}
	e = begin(hook, tw);
	if (!e)
		return 0;
	fill_tuple(e, (struct sock *)tw);
	e->arg = READ(tw, tw_substate);
	e->arg2 = ended;
	return end(e);
}

static __always_inline int on_time_wait(struct sock *sk, int substate, int timeo)
{
	struct event *e;

	if (plain(HOOK_TIME_WAIT, sk, substate) || !wanted(sk))
		return 0;
	e = begin(HOOK_TIME_WAIT, sk);
	if (!e)
		return 0;
	fill_full(e, sk);
	e->arg = substate;
	e->arg2 = timeo;
	e->conn = conn_id(e->sock, e->time, false);
	return end(e);
}

/*
 * An ICMP error about a segment of a connection. skb->data is the segment's IP
 * header, as the message quotes it; the socket is not looked up yet.
 */
static __always_inline int on_icmp(struct sk_buff *skb, __u8 family, __u8 type, __u8 code, __u32 offset)
{
	struct net_device *dev;
	unsigned char *head, *data;
	struct ipv4_header ip;
	struct ipv6_header ip6;
	__be16 ports[2];
	struct icmp *icmp;
	struct event *e;

	if (!cfg_probe_read)
		return 0;
	e = begin_long(HOOK_ICMP, NULL, sizeof(*icmp));
	if (!e)
		return 0;
	icmp = (struct icmp *)(e + 1);
	__builtin_memset(icmp, 0, sizeof(*icmp));
	head = BPF_CORE_READ(skb, head);
	data = BPF_CORE_READ(skb, data);
	dev = BPF_CORE_READ(skb, dev);
	if (dev) {
		e->netns = BPF_CORE_READ(dev, nd_net.net, ns.inum);
		icmp->loopback = !!(BPF_CORE_READ(dev, flags) & IFF_LOOPBACK);
	}
	e->family = family;
	if (family == AF_INET) {
		__u8 th[2];

		if (bpf_probe_read_kernel(&ip, sizeof(ip), head + BPF_CORE_READ(skb, network_header)) ||
		    bpf_probe_read_kernel(&th, sizeof(th), head + BPF_CORE_READ(skb, transport_header)))
			goto unread;
		__builtin_memcpy(icmp->source, ip.saddr, 4);
		type = th[0];
		code = th[1];
		if (bpf_probe_read_kernel(&ip, sizeof(ip), data))
			goto unread;
		__builtin_memcpy(e->laddr, ip.saddr, 4);
		__builtin_memcpy(e->raddr, ip.daddr, 4);
		offset = (ip.ver_ihl & 15) * 4;
	} else {
		if (bpf_probe_read_kernel(&ip6, sizeof(ip6), head + BPF_CORE_READ(skb, network_header)))
			goto unread;
		__builtin_memcpy(icmp->source, ip6.saddr, 16);
		if (bpf_probe_read_kernel(&ip6, sizeof(ip6), data))
			goto unread;
		__builtin_memcpy(e->laddr, ip6.saddr, 16);
		__builtin_memcpy(e->raddr, ip6.daddr, 16);
	}
	if (bpf_probe_read_kernel(ports, sizeof(ports), data + offset))
		goto unread;
	e->arg = type;
	e->arg2 = code;
	e->sport = bpf_ntohs(ports[0]);
	e->dport = bpf_ntohs(ports[1]);
	e->has |= HAS_TUPLE;
	return end_chosen(e);
unread:
	count_lost(LOST_READ);
	bpf_ringbuf_discard(e, BPF_RB_NO_WAKEUP);
	return 0;
}

/*
 * A segment is thrown away because its neighbor does not answer. The kernel then
 * sends itself an ICMP error; that one can also come from a packet filter.
 */
static __always_inline int on_neighbor(struct sk_buff *skb)
{
	struct sock *sk = READ(skb, sk);
	struct event *e;
	__u8 state;

	if (!sk)
		return 0; /* forwarded */
	state = READ(sk, __sk_common.skc_state);
	if (state == TCP_TIME_WAIT || state == TCP_NEW_SYN_RECV || state == TCP_CLOSE || !wanted(sk))
		return 0;
	e = begin(HOOK_NEIGHBOR, sk);
	if (!e)
		return 0;
	fill_full(e, sk);
	fill_segment(e, skb, false);
	e->conn = conn_id(e->sock, e->time, false);
	return end(e);
}

static __always_inline int on_address(__u8 family, void *from, struct net_device *dev)
{
	struct event *e;
	struct net *net;

	if (!dev)
		return 0;
	e = begin(HOOK_ADDRESS, NULL);
	if (!e)
		return 0;
	e->family = family;
	net = READ(dev, nd_net.net);
	if (net)
		e->netns = READ(net, ns.inum);
	if (family == AF_INET) {
		fill_addr4(e->laddr, READ((struct in_ifaddr *)from, ifa_local));
	} else {
		FILL_ADDR6(e->laddr, (struct inet6_ifaddr *)from, addr);
	}
	e->has |= HAS_TUPLE;
	return end(e);
}

static __always_inline int on_address4(struct in_ifaddr *ifa)
{
	struct in_device *in = READ(ifa, ifa_dev);

	return in ? on_address(AF_INET, ifa, READ(in, dev)) : 0;
}

static __always_inline int on_address6(int change, struct inet6_ifaddr *ifa)
{
	struct inet6_dev *in = READ(ifa, idev);

	return in && change == RTM_DELADDR ? on_address(AF_INET6, ifa, READ(in, dev)) : 0;
}

/*
 * What becomes of a SIGPIPE for the current task (sig_ignored, kernel/signal.c).
 * One that is blocked waits, and the process is not told as long.
 */
static __always_inline int pipe_signal(void)
{
	unsigned long blocked, handler;

	if (cfg_task_btf) {
		struct task_struct *task = bpf_get_current_task_btf();

		blocked = task->blocked.sig[0];
		handler = (unsigned long)task->sighand->action[SIGPIPE - 1].sa.sa_handler;
	} else if (cfg_probe_read) {
		struct task_struct *task = (void *)bpf_get_current_task();

		blocked = BPF_CORE_READ(task, blocked.sig[0]);
		handler = (unsigned long)BPF_CORE_READ(task, sighand, action[SIGPIPE - 1].sa.sa_handler);
	} else {
		return PIPE_RAISED;
	}
	return handler == SIG_IGN || blocked >> (SIGPIPE - 1) & 1 ? PIPE_HELD : PIPE_DELIVERED;
}

/*
 * What send(2) tells the process: sk_stream_error turns EPIPE into the
 * socket's pending error, if there is one (net/core/stream.c, all versions).
 */
static __always_inline int on_stream_error(struct sock *sk, int flags, int err)
{
	struct event *e;

	if (err == -EAGAIN || err >= 0 || !wanted(sk))
		return 0;
	e = begin(HOOK_STREAM_ERROR, sk);
	if (!e)
		return 0;
	fill_full(e, sk);
	e->arg = err;
	if (err == -EPIPE && e->err)
		e->arg = -e->err;
	if (e->arg == -EPIPE && !(flags & MSG_NOSIGNAL))
		e->arg2 = pipe_signal();
	e->conn = conn_id(e->sock, e->time, false);
	return end(e);
}

/* recv(2) told the process that the connection is over, or only looked at what came. */
static __always_inline int on_receive(struct sock *sk, int flags, int ret)
{
	struct event *e;

	if (ret > 0 && !(flags & MSG_PEEK))
		return 0;
	if (ret == -EAGAIN || ret == -EINTR || ret <= -ERESTARTSYS || !wanted(sk))
		return 0;
	/* recv(2) of no bytes returns 0, too: the end is SOCK_DONE or RCV_SHUTDOWN. */
	if (!ret && !(READ(sk, __sk_common.skc_flags) & 2) && !(READ(sk, sk_shutdown) & 1))
		return 0;
	e = begin(HOOK_RECEIVE, sk);
	if (!e)
		return 0;
	fill_full(e, sk);
	e->arg = ret;
	e->conn = conn_id(e->sock, e->time, false);
	return end(e);
}

static __always_inline int on_syn_drop(struct sock *sk, struct sk_buff *skb)
{
	struct event *e;

	/* sk_acceptq_is_full(), include/net/sock.h */
	if (READ(sk, sk_ack_backlog) <= READ(sk, sk_max_ack_backlog))
		return 0;
	e = begin(HOOK_SYN_DROP, sk);
	if (!e)
		return 0;
	fill_tuple(e, sk);
	fill_socket(e, sk);
	fill_segment(e, skb, true);
	return end_chosen(e);
}

static __always_inline bool is_socket(struct file *file)
{
	struct inode *inode;

	if (cfg_socket_ops)
		return (__u64)READ(file, f_op) == cfg_socket_ops;
	inode = READ(file, f_inode);
	return inode && (READ(inode, i_mode) & S_IFMT) == S_IFSOCK;
}

static __always_inline int on_file_close(struct file *file)
{
	struct socket *socket;
	struct sock *sk;
	struct event *e;
	long refs;
	__u64 key;

	if (!is_socket(file))
		return 0;
#ifdef TCPBYE_TYPED
	socket = (struct socket *)bpf_sock_from_file(file);
#else
	socket = BPF_CORE_READ(file, private_data);
#endif
	if (!socket)
		return 0;
	sk = READ(socket, sk);
	if (!sk)
		return 0;
	key = (__u64)sk;
	if (bpf_core_field_exists(struct file___new, f_ref)) {
		struct file___new *new = (void *)file;

		refs = READ(new, f_ref.refcnt.counter) + 1;
	} else {
		refs = READ(file, f_count.counter);
	}
	if (cfg_story && refs == 1 && has_story(sk) && plain_file_close(sk))
		return 0;
	if (!is_tcp(sk) || (READ(sk, __sk_common.skc_family) != AF_INET &&
			    READ(sk, __sk_common.skc_family) != AF_INET6) || !chosen(sk, false, false))
		return 0;
	/*
	 * A copy that is dropped by a process that never used it says nothing:
	 * a child drops all that it inherited when it executes another program.
	 */
	if (refs > 1) {
		__u32 pid = bpf_get_current_pid_tgid() >> 32;

		if (READ(sk, __sk_common.skc_state) == TCP_LISTEN || !bpf_map_lookup_elem(&procs, &pid))
			return 0;
	}
	e = begin(HOOK_FILE_CLOSE, sk);
	if (!e)
		return 0;
	fill_tuple(e, sk);
	fill_socket(e, sk);
	/* kTLS and sockmap give the protocol's functions back at the start of their close. */
	e->queue = queue_of(sk);
	e->refs = refs;
	e->other = (__u64)file;
	e->has |= HAS_REFS;
	e->conn = conn_id(key, e->time, false);
	return end(e);
}

/*
 * Whether a process can make that change. Without the CPU's context that is all
 * that tells its calls from a segment or a timer that came while it was in one:
 * a mini-socket is made, and a last ACK taken, by segments only.
 */
static __always_inline bool by_call(int from, int to)
{
	switch (to) {
	case TCP_SYN_SENT:
	case TCP_FIN_WAIT1:
	case TCP_LAST_ACK:
	case TCP_LISTEN:
		return true;
	case TCP_CLOSE:
		return from != TCP_LAST_ACK && from != TCP_FIN_WAIT2 && from != TCP_CLOSING;
	}
	return false;
}

static __always_inline void fill_registers(struct stack *stack)
{
	stack->lr = 0;
#if defined(__TARGET_ARCH_x86)
	stack->pc = REGISTER(ip);
	stack->sp = REGISTER(sp);
	stack->fp = REGISTER(bp);
#elif defined(__TARGET_ARCH_arm64)
	stack->pc = REGISTER(pc);
	stack->sp = REGISTER(sp);
	stack->fp = REGISTER(regs[29]);
	stack->lr = REGISTER(regs[30]);
#endif
}

/*
 * Where the current thread is in its program; 0: nowhere, since it serves a
 * softirq, is a kernel thread, or has given its memory up. Most libraries have
 * no frame pointers, so a piece of the stack goes along for whoever knows how
 * to unwind it.
 */
static __always_inline long fill_stack(void *ctx, struct event *e, __u8 act)
{
	struct stack *stack = (struct stack *)(e + 1);
	long n;

	if (e->preempt & 0x100)
		return 0;
	n = bpf_get_stack(ctx, stack->frames, sizeof(stack->frames), BPF_F_USER_STACK);
	if (n <= 0)
		return 0;
	e->arg = act;
	stack->frame_bytes = n;
	stack->memory_bytes = 0;
	fill_registers(stack);
	if (!stack->sp)
		return n;
	/* Near its beginning the stack is shorter. */
	if (!bpf_probe_read_user(stack->memory, STACK_BYTES, (void *)stack->sp))
		stack->memory_bytes = STACK_BYTES;
	else if (!bpf_probe_read_user(stack->memory, STACK_BYTES / 4, (void *)stack->sp))
		stack->memory_bytes = STACK_BYTES / 4;
	else if (!bpf_probe_read_user(stack->memory, STACK_BYTES / 16, (void *)stack->sp))
		stack->memory_bytes = STACK_BYTES / 16;
	return n;
}

/* Whether close(2) or shutdown(2) can make that change. */
static __always_inline bool ends(int from, int to)
{
	return by_call(from, to) && to != TCP_SYN_SENT && to != TCP_LISTEN;
}

/* The event of where in its program the current thread does what `act` sees; NULL: nowhere. */
static __always_inline struct event *begin_stack(void *ctx, __u8 act, void *sk)
{
	struct event *e = begin_long(HOOK_STACK, sk, sizeof(struct stack));

	if (!e)
		return NULL;
	if (fill_stack(ctx, e, act) <= 0) {
		bpf_ringbuf_discard(e, BPF_RB_NO_WAKEUP);
		return NULL;
	}
	return e;
}

static __always_inline int on_stack(void *ctx, __u8 act, struct sock *sk)
{
	struct event *e;

	if (sk && !wanted(sk))
		return 0;
	e = begin_stack(ctx, act, sk);
	if (!e)
		return 0;
	if (sk) {
		fill_tuple(e, sk);
		e->conn = conn_id(e->sock, e->time, false);
	}
	return end(e);
}

/*
 * A process's exit, by the thread that wants it: the others follow when it is
 * on its way (SIGNAL_GROUP_EXIT). Which thread a signal killed first is not
 * known, unless there is one only.
 */
static __always_inline int on_exit_stack(void *ctx)
{
	__u32 pid = bpf_get_current_pid_tgid() >> 32;
	unsigned int flags;
	int threads;

	if (!bpf_map_lookup_elem(&procs, &pid))
		return 0;
	if (cfg_task_btf) {
		struct signal_struct *signal = bpf_get_current_task_btf()->signal;

		flags = signal->flags;
		threads = signal->nr_threads;
	} else if (cfg_probe_read) {
		struct task_struct *task = (void *)bpf_get_current_task();

		flags = BPF_CORE_READ(task, signal, flags);
		threads = BPF_CORE_READ(task, signal, nr_threads);
	} else {
		return 0;
	}
	if (flags & SIGNAL_GROUP_EXIT && threads > 1)
		return 0;
	return on_stack(ctx, HOOK_EXIT, NULL);
}

static __always_inline int on_signal(int sig, int target)
{
	struct event *e;

	if (sig != SIGPIPE)
		return 0;
	/* Nobody is told by one that is ignored. */
	if (target == bpf_get_current_pid_tgid() >> 32 && pipe_signal() == PIPE_HELD)
		return 0;
	e = begin(HOOK_SIGNAL, NULL);
	if (!e)
		return 0;
	e->arg = sig;
	/* Its own, as a rule: then the event has the number that is wanted here. */
	if (target == bpf_get_current_pid_tgid() >> 32)
		e->arg2 = e->pid;
	else
		e->arg2 = cfg_pidns_ino ? target | PID_OUTSIDE : target;
	return end(e);
}

/*
 * Whether the kernel chose the process to get its memory back (mark_oom_victim,
 * mm/oom_kill.c, sets oom_mm, and it stays until the process is reaped).
 */
static __always_inline int oom_victim(void)
{
	if (cfg_task_btf)
		return bpf_get_current_task_btf()->signal->oom_mm ? OOM_VICTIM : OOM_NONE;
	if (cfg_probe_read) {
		struct task_struct *task = (void *)bpf_get_current_task();

		return BPF_CORE_READ(task, signal, oom_mm) ? OOM_VICTIM : OOM_NONE;
	}
	return OOM_UNKNOWN;
}

static __always_inline int on_process(__u8 hook)
{
	__u32 pid = bpf_get_current_pid_tgid() >> 32;
	struct event *e;

	if (!bpf_map_lookup_elem(&procs, &pid))
		return 0;
	e = begin(hook, NULL);
	if (!e)
		return 0;
	if (hook == HOOK_EXIT) {
		bpf_map_delete_elem(&procs, &pid);
		e->arg = oom_victim();
	}
	return end(e);
}

#endif
