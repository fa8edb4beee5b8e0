//go:build ignore

// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * The last rung: classic tracepoints. Of a socket they read nothing but the
 * fields that the tracepoint itself records, and nothing by address, so an event
 * has a tuple, no sequence numbers and no socket options. Where the fields are
 * comes from the kernel's BTF (struct trace_event_raw_*).
 */
#define TCPBYE_TYPED /* what the helpers return of the current task */
#include "core.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

const volatile bool cfg_calls = false; /* the system calls are attached, since nothing else tells them */

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct trace_event_raw_inet_sock_set_state {
	const void *skaddr;
	int oldstate;
	int newstate;
	__u16 sport;
	__u16 dport;
	__u16 family;
	__u16 protocol;
	__u8 saddr_v6[16];
	__u8 daddr_v6[16];
};

/* tcp_destroy_sock, tcp_receive_reset. */
struct trace_event_raw_tcp_event_sk {
	const void *skaddr;
	__u16 sport;
	__u16 dport;
	__u16 family; /* not in 5.10 */
	__u8 saddr_v6[16];
	__u8 daddr_v6[16];
};

/* tcp_send_reset up to 6.9. */
struct trace_event_raw_tcp_event_sk_skb {
	const void *skbaddr;
	const void *skaddr;
	int state;
	__u16 sport;
	__u16 dport;
	__u16 family; /* not in 5.10 */
	__u8 saddr_v6[16];
	__u8 daddr_v6[16];
};

enum sk_rst_reason {
	SK_RST_REASON_NOT_SPECIFIED,
};

/* tcp_send_reset from 6.10 on; the addresses are struct sockaddr_in or _in6. */
struct trace_event_raw_tcp_send_reset {
	const void *skbaddr;
	const void *skaddr;
	int state;
	enum sk_rst_reason reason;
	__u8 saddr[28];
	__u8 daddr[28];
};

struct trace_event_raw_inet_sk_error_report {
	int error;
	__u16 sport;
	__u16 dport;
	__u16 family;
	__u16 protocol;
	__u8 saddr_v6[16];
	__u8 daddr_v6[16];
};

struct trace_event_raw_signal_generate {
	int sig;
	int pid; /* thread */
};

struct trace_event_raw_sched_process_template {
	int pid;
};

/* 6.17 and later; before, sched_process_exit is of the template. */
struct trace_event_raw_sched_process_exit {
	bool group_dead;
};

#pragma clang attribute pop

/* The number is the second word on every kernel (perf_syscall_enter). */
struct syscall_record {
	__u64 unused;
	int nr;
};

/* The last system call of a thread that can end a connection. */
struct call {
	__u64 left; /* ns, CLOCK_MONOTONIC, of its end; 0: the thread is in it */
	int nr;
	__u32 pad;
};

/* key: thread id. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1 << 14);
	__type(key, __u32);
	__type(value, struct call);
} calls SEC(".maps");

/*
 * How long after the call its work may still be done, ns: a file is released by
 * task work, on the way back to user space (fput, fs/file_table.c).
 */
#define CALL_LINGERS 10000000

/* The socket of this CPU's last event. */
struct last {
	__u64 sock;
	__u64 conn;
	__u16 sport, dport;
	__u32 reset; /* a RST has just come for it */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct last);
} lasts SEC(".maps");

static __always_inline void remember_socket(struct event *e, bool reset)
{
	__u32 zero = 0;
	struct last *last = bpf_map_lookup_elem(&lasts, &zero);

	if (!last)
		return;
	last->sock = e->sock;
	last->conn = e->conn;
	last->sport = e->sport;
	last->dport = e->dport;
	last->reset = reset;
}

/*
 * Each byte is loaded at its own constant offset: that is all that a context
 * allows, and the arrays are not aligned. So nothing is loaded in a branch, which
 * the compiler would join with another into one load at a chosen offset.
 */
#define COPY4(to, from, at) \
	({ (to)[0] = from[at]; (to)[1] = from[at + 1]; (to)[2] = from[at + 2]; (to)[3] = from[at + 3]; })
#define COPY16(to, from, at)                    \
	({                                      \
		COPY4(to, from, at);            \
		COPY4((to) + 4, from, at + 4);  \
		COPY4((to) + 8, from, at + 8);  \
		COPY4((to) + 12, from, at + 12); \
	})

/* The event's addresses are in the IPv6 form; an IPv4 one is its last word. */
static __always_inline void shorten(__u8 *addr)
{
	__be32 *word = (__be32 *)addr;

	word[0] = word[3];
	word[1] = word[2] = word[3] = 0;
}

/*
 * The addresses of a record that has both forms: for IPv4 the IPv6 form is
 * mapped. 5.10 does not record the family everywhere; whoever decodes the event
 * unmaps the address.
 */
#define FILL_BOTH(e, ctx, fam)                          \
	({                                              \
		(e)->sport = (ctx)->sport;              \
		(e)->dport = (ctx)->dport;              \
		COPY16((e)->laddr, (ctx)->saddr_v6, 0); \
		COPY16((e)->raddr, (ctx)->daddr_v6, 0); \
		(e)->family = fam;                      \
		if ((e)->family == AF_INET) {           \
			shorten((e)->laddr);            \
			shorten((e)->raddr);            \
		}                                       \
		(e)->protocol = IPPROTO_TCP;            \
		(e)->has |= HAS_TUPLE;                  \
	})

#define FAMILY(ctx) (bpf_core_field_exists((ctx)->family) ? (ctx)->family : AF_INET6)

/* A struct sockaddr of the record: port and address in network byte order. */
#define FILL_SOCKADDR(e, addr, port, from)                     \
	({                                                     \
		__be32 __four = 0;                             \
		COPY4((__u8 *)&__four, from, 4);               \
		COPY16((e)->addr, from, 8);                    \
		asm volatile("" : "+r"(__four) : : "memory");  \
		(e)->port = (__u16)from[2] << 8 | from[3]; \
		if ((e)->family == AF_INET) {                  \
			*(__be32 *)((e)->addr + 12) = __four;  \
			shorten((e)->addr);                    \
		}                                              \
	})

static __always_inline bool just_reset(__u64 sock)
{
	__u32 zero = 0;
	struct last *last = bpf_map_lookup_elem(&lasts, &zero);

	return last && last->reset && last->sock == sock;
}

/* The system call that the thread is in, or whose work it is finishing. */
static __always_inline void fill_call(struct event *e)
{
	__u32 tid = bpf_get_current_pid_tgid();
	struct call *call;

	if (!cfg_calls)
		return;
	call = bpf_map_lookup_elem(&calls, &tid);
	if (!call || (call->left && e->time - call->left > CALL_LINGERS))
		return;
	e->syscall = call->nr;
	e->has |= HAS_SYSCALL;
}

SEC("tracepoint/sock/inet_sock_set_state")
int classic_inet_sock_set_state(struct trace_event_raw_inet_sock_set_state *ctx)
{
	int from = ctx->oldstate, to = ctx->newstate;
	bool birth = to == TCP_SYN_SENT || (from == TCP_LISTEN && to == TCP_SYN_RECV);
	struct event *e;

	if (ctx->protocol != IPPROTO_TCP)
		return 0;
	e = begin(HOOK_SET_STATE, (void *)ctx->skaddr);
	if (!e)
		return 0;
	FILL_BOTH(e, ctx, ctx->family);
	e->state = from;
	e->to_state = to;
	e->conn = conn_id(e->sock, e->time, birth);
	if (by_call(from, to) && !just_reset(e->sock))
		fill_call(e);
	/* The only hooks that tell whose exit will matter. */
	if (to == TCP_SYN_SENT || to == TCP_LISTEN)
		remember_process();
	remember_socket(e, false);
	return end(e);
}

SEC("tracepoint/sock/inet_sock_set_state")
int classic_stack_state(struct trace_event_raw_inet_sock_set_state *ctx)
{
	struct event *e;

	if (ctx->protocol != IPPROTO_TCP || !ends(ctx->oldstate, ctx->newstate))
		return 0;
	e = begin_stack(ctx, HOOK_SET_STATE, (void *)ctx->skaddr);
	if (!e)
		return 0;
	FILL_BOTH(e, ctx, ctx->family);
	e->conn = conn_id(e->sock, e->time, false);
	return end(e);
}

SEC("tracepoint/tcp/tcp_destroy_sock")
int classic_tcp_destroy_sock(struct trace_event_raw_tcp_event_sk *ctx)
{
	__u64 key = (__u64)ctx->skaddr;
	__u64 *id = bpf_map_lookup_elem(&conns, &key);
	struct event *e;

	if (!id)
		return 0; /* never seen doing anything */
	e = begin(HOOK_DESTROY, (void *)key);
	if (e) {
		e->conn = *id;
		FILL_BOTH(e, ctx, FAMILY(ctx));
		e->state = TCP_CLOSE;
		end(e);
	}
	bpf_map_delete_elem(&conns, &key);
	return 0;
}

SEC("tracepoint/tcp/tcp_receive_reset")
int classic_tcp_receive_reset(struct trace_event_raw_tcp_event_sk *ctx)
{
	struct event *e = begin_long(HOOK_RESET, (void *)ctx->skaddr, sizeof(struct text));

	if (!e)
		return 0;
	text_of(e)->bytes = 0;
	FILL_BOTH(e, ctx, FAMILY(ctx));
	e->conn = conn_id(e->sock, e->time, false);
	remember_socket(e, true);
	return end(e);
}

static __always_inline struct event *begin_send_reset(__u8 hook, const void *sk, int state)
{
	__u64 key = (__u64)sk;
	__u64 *id = bpf_map_lookup_elem(&conns, &key);
	struct event *e = begin(hook, (void *)sk);

	if (!e)
		return NULL;
	if (id)
		e->conn = *id;
	e->state = state;
	e->arg = -1;
	e->arg2 = -1;
	return e;
}

static __always_inline int send_reset(struct trace_event_raw_tcp_send_reset *ctx, __u8 hook)
{
	struct event *e = begin_send_reset(hook, ctx->skaddr, ctx->state);

	if (!e)
		return 0;
	e->arg = ctx->reason;
	e->family = ctx->saddr[0];
	FILL_SOCKADDR(e, laddr, sport, ctx->saddr);
	FILL_SOCKADDR(e, raddr, dport, ctx->daddr);
	e->protocol = IPPROTO_TCP;
	e->has |= HAS_TUPLE;
	return end(e);
}

static __always_inline int send_reset_old(struct trace_event_raw_tcp_event_sk_skb *ctx, __u8 hook)
{
	struct event *e = begin_send_reset(hook, ctx->skaddr, ctx->state);

	if (!e)
		return 0;
	FILL_BOTH(e, ctx, FAMILY(ctx));
	return end(e);
}

SEC("tracepoint/tcp/tcp_send_reset")
int classic_tcp_send_reset(struct trace_event_raw_tcp_send_reset *ctx)
{
	return ctx->skbaddr ? send_reset(ctx, HOOK_SEND_RESET) : 0;
}

/* One that answers no segment is sent of this kernel's own accord. */
SEC("tracepoint/tcp/tcp_send_reset")
int classic_tcp_send_active_reset(struct trace_event_raw_tcp_send_reset *ctx)
{
	return ctx->skbaddr ? 0 : send_reset(ctx, HOOK_SEND_ACTIVE_RESET);
}

/* Up to 6.9. */
SEC("tracepoint/tcp/tcp_send_reset")
int classic_tcp_send_reset_old(struct trace_event_raw_tcp_event_sk_skb *ctx)
{
	return ctx->skbaddr ? send_reset_old(ctx, HOOK_SEND_RESET) : 0;
}

SEC("tracepoint/tcp/tcp_send_reset")
int classic_tcp_send_active_reset_old(struct trace_event_raw_tcp_event_sk_skb *ctx)
{
	return ctx->skbaddr ? 0 : send_reset_old(ctx, HOOK_SEND_ACTIVE_RESET);
}

/* The record does not say which socket; it is that of the change just before. */
SEC("tracepoint/sock/inet_sk_error_report")
int classic_inet_sk_error_report(struct trace_event_raw_inet_sk_error_report *ctx)
{
	__u32 zero = 0;
	struct last *last = bpf_map_lookup_elem(&lasts, &zero);
	struct event *e;

	if (ctx->protocol != IPPROTO_TCP)
		return 0;
	e = begin(HOOK_ERROR_REPORT, NULL);
	if (!e)
		return 0;
	FILL_BOTH(e, ctx, ctx->family);
	if (last && last->sport == e->sport && last->dport == e->dport) {
		e->sock = last->sock;
		e->conn = last->conn;
	}
	e->arg = ctx->error;
	return end(e);
}

SEC("tracepoint/signal/signal_generate")
int classic_signal_generate(struct trace_event_raw_signal_generate *ctx)
{
	__u64 id = bpf_get_current_pid_tgid();

	/* A thread raises SIGPIPE for itself (sk_stream_error). */
	return on_signal(ctx->sig, (__u32)id == ctx->pid ? id >> 32 : ctx->pid);
}

SEC("tracepoint/sched/sched_process_exec")
int classic_sched_process_exec(void *ctx)
{
	return on_process(HOOK_EXEC);
}

SEC("tracepoint/sched/sched_process_exit")
int classic_sched_process_exit(void *ctx)
{
	__u64 id = bpf_get_current_pid_tgid();
	bool last = id >> 32 == (__u32)id; /* the leader's, where nothing tells more */

	if (cfg_calls) {
		/* A signal ends a thread without a call; the effect is the same. */
		__u32 tid = id;
		struct call call = { .nr = NR_EXIT_GROUP };

		bpf_map_update_elem(&calls, &tid, &call, BPF_ANY);
	}
	if (bpf_core_field_exists(struct trace_event_raw_sched_process_exit, group_dead))
		last = ((struct trace_event_raw_sched_process_exit *)ctx)->group_dead;
	else if (cfg_task_btf)
		/* do_exit counts it down before the tracepoint (kernel/exit.c). */
		last = bpf_get_current_task_btf()->signal->live.counter == 0;
	return last ? on_process(HOOK_EXIT) : 0;
}

/* Attached to each system call that can end a connection. */
SEC("tracepoint/syscalls/sys_enter_close")
int classic_sys_enter(struct syscall_record *ctx)
{
	__u32 tid = bpf_get_current_pid_tgid();
	struct call call = { .nr = ctx->nr };

	bpf_map_update_elem(&calls, &tid, &call, BPF_ANY);
	return 0;
}

SEC("tracepoint/syscalls/sys_exit_close")
int classic_sys_exit(struct syscall_record *ctx)
{
	__u32 tid = bpf_get_current_pid_tgid();
	struct call *call = bpf_map_lookup_elem(&calls, &tid);

	if (call)
		call->left = bpf_ktime_get_ns();
	return 0;
}

/* The thread id may be given to another thread now. */
SEC("tracepoint/sched/sched_process_free")
int classic_sched_process_free(struct trace_event_raw_sched_process_template *ctx)
{
	__u32 tid = ctx->pid;

	bpf_map_delete_elem(&calls, &tid);
	return 0;
}
