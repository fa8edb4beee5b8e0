//go:build ignore

// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * The typed rungs: raw tracepoints with BTF types (tp_btf) and fentry. Fields
 * are plain loads that the verifier checks against the kernel's BTF.
 */
#define TCPBYE_TYPED
#include "core.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(typed_inet_sock_set_state, struct sock *sk, int from, int to)
{
	return on_state(sk, from, to);
}

SEC("tp_btf/tcp_destroy_sock")
int BPF_PROG(typed_tcp_destroy_sock, struct sock *sk)
{
	return on_destroy(sk);
}

SEC("tp_btf/tcp_receive_reset")
int BPF_PROG(typed_tcp_receive_reset, struct sock *sk)
{
	return on_reset(sk, NULL);
}

/*
 * Argument i of a traced function or tracepoint, from 0, or its return value,
 * which comes after the last. Each is loaded at its own constant offset and
 * only where it is wanted: one that this kernel's function does not have is
 * refused, and so is an offset that was chosen at run time.
 */
static __always_inline __u64 slot(__u64 *ctx, __u32 i)
{
	__u64 v = 0;

#define SLOT(n)                                  \
	if (i == n) {                            \
		v = ctx[n];                      \
		asm volatile("" : "+r"(v));      \
		return v;                        \
	}
	SLOT(1)
	SLOT(2)
	SLOT(3)
	SLOT(4)
	SLOT(5)
	SLOT(6)
#undef SLOT
	return v;
}

/* The reset reason, from its position (from 1; 0: this kernel has none). */
static __always_inline int reason_at(__u64 *ctx, __u32 position)
{
	return position ? (int)slot(ctx, position - 1) : -1;
}

/*
 * The tracepoint tells both kinds of reset; one that answers no segment is
 * sent of this kernel's own accord. Both pointers may be NULL from 6.10 on.
 */
SEC("tp_btf/tcp_send_reset")
int typed_tcp_send_reset(__u64 *ctx)
{
	struct sk_buff *skb = (void *)ctx[1];

	return skb ? on_send_reset((void *)ctx[0], skb, reason_at(ctx, cfg_tp_reason_arg)) : 0;
}

SEC("tp_btf/tcp_send_reset")
int typed_tcp_send_active_reset(__u64 *ctx)
{
	struct sk_buff *skb = (void *)ctx[1];

	return skb ? 0 : on_send_reset((void *)ctx[0], NULL, reason_at(ctx, cfg_tp_reason_arg));
}

SEC("tp_btf/inet_sk_error_report")
int BPF_PROG(typed_inet_sk_error_report, struct sock *sk)
{
	return on_error_report(sk);
}

SEC("tp_btf/signal_generate")
int BPF_PROG(typed_signal_generate, int sig, void *info, struct task_struct *task)
{
	return on_signal(sig, task->tgid);
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(typed_sched_process_exec)
{
	return on_process(HOOK_EXEC);
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(typed_sched_process_exit, struct task_struct *task)
{
	/* do_exit counts signal->live down before the tracepoint (kernel/exit.c). */
	if (task->signal->live.counter != 0)
		return 0;
	return on_process(HOOK_EXIT);
}

/* The calls: fentry and fexit. */

/* These two have the tracepoint inside (net/ipv4/af_inet.c); nothing else has. */
SEC("fentry/inet_sk_state_store")
int BPF_PROG(entry_inet_sk_state_store, struct sock *sk, int state)
{
	return on_state(sk, READ(sk, __sk_common.skc_state), state);
}

SEC("fentry/inet_sk_set_state")
int BPF_PROG(entry_inet_sk_set_state, struct sock *sk, int state)
{
	return on_state(sk, READ(sk, __sk_common.skc_state), state);
}

/* Of both families. */
SEC("fentry/tcp_v4_destroy_sock")
int BPF_PROG(entry_tcp_v4_destroy_sock, struct sock *sk)
{
	return on_destroy(sk);
}

SEC("fentry/tcp_connect")
int BPF_PROG(entry_tcp_connect, struct sock *sk)
{
	return on_full(HOOK_CONNECT, sk, 0, 0);
}

SEC("fexit/inet_csk_accept")
int exit_inet_csk_accept(__u64 *ctx)
{
	struct sock *newsk = (void *)slot(ctx, cfg_accept_args);

	return newsk ? on_full(HOOK_ACCEPT, newsk, 0, 0) : 0;
}

SEC("fentry/tcp_close")
int BPF_PROG(entry_tcp_close, struct sock *sk)
{
	return on_marker(HOOK_CLOSE_ENTRY, sk, 0, 0);
}

SEC("fentry/__tcp_close")
int BPF_PROG(entry_tcp_close_locked, struct sock *sk)
{
	return on_full(HOOK_CLOSE, sk, 0, 0);
}

SEC("fentry/tcp_shutdown")
int BPF_PROG(entry_tcp_shutdown, struct sock *sk, int how)
{
	return on_full(HOOK_SHUTDOWN, sk, how, 0);
}

SEC("fentry/tcp_send_fin")
int BPF_PROG(entry_tcp_send_fin, struct sock *sk)
{
	return on_full(HOOK_SEND_FIN, sk, 0, 0);
}

SEC("fentry/tcp_send_active_reset")
int entry_tcp_send_active_reset(__u64 *ctx)
{
	return on_full(HOOK_SEND_ACTIVE_RESET, (void *)ctx[0], reason_at(ctx, cfg_reason_arg), 0);
}

SEC("fentry/tcp_v4_send_reset")
int entry_tcp_v4_send_reset(__u64 *ctx)
{
	return on_send_reset((void *)ctx[0], (void *)ctx[1], reason_at(ctx, cfg_passive_reason_arg));
}

SEC("fentry/tcp_v6_send_reset")
int entry_tcp_v6_send_reset(__u64 *ctx)
{
	return on_send_reset((void *)ctx[0], (void *)ctx[1], reason_at(ctx, cfg_passive_reason_arg));
}

SEC("fentry/tcp_reset")
int entry_tcp_reset(__u64 *ctx)
{
	return on_reset((void *)ctx[0], cfg_reset_skb ? (void *)slot(ctx, 1) : NULL);
}

SEC("fentry/tcp_validate_incoming")
int BPF_PROG(entry_tcp_validate_incoming, struct sock *sk, struct sk_buff *skb, struct tcphdr *th)
{
	return note_incoming(sk, skb, th);
}

SEC("fentry/tcp_disconnect")
int BPF_PROG(entry_tcp_disconnect, struct sock *sk)
{
	return on_full(HOOK_DISCONNECT, sk, 0, 0);
}

SEC("fentry/tcp_abort")
int BPF_PROG(entry_tcp_abort, struct sock *sk, int err)
{
	return on_abort(sk, err);
}

SEC("fentry/inet_child_forget")
int BPF_PROG(entry_inet_child_forget, struct sock *listener, void *req, struct sock *child)
{
	return on_full(HOOK_CHILD_FORGET, child, 0, (__u64)listener);
}

SEC("fentry/tcp_time_wait")
int BPF_PROG(entry_tcp_time_wait, struct sock *sk, int substate, int timeo)
{
	return on_time_wait(sk, substate, timeo);
}

SEC("fentry/inet_twsk_kill")
int BPF_PROG(entry_inet_twsk_kill, struct inet_timewait_sock *tw)
{
	return on_mini_socket(HOOK_TWSK_KILL, tw);
}

SEC("fentry/inet_twsk_deschedule_put")
int BPF_PROG(entry_inet_twsk_deschedule_put, struct inet_timewait_sock *tw)
{
	return note_descheduled(tw);
}

/*
 * `rearm` is a bool: before 6.1 a trampoline saves but one byte of it (save_regs,
 * arch/x86/net/bpf_jit_comp.c), and a bool here would be all eight of its place.
 */
SEC("fentry/__inet_twsk_schedule")
int BPF_PROG(entry_inet_twsk_schedule, struct inet_timewait_sock *tw, int timeo, __u8 rearm)
{
	return rearm ? on_mini_socket(HOOK_TWSK_SCHEDULE, tw) : 0;
}

SEC("fentry/sk_error_report")
int BPF_PROG(entry_sk_error_report, struct sock *sk)
{
	return on_error_report(sk);
}

SEC("fentry/sk_stream_error")
int BPF_PROG(entry_sk_stream_error, struct sock *sk, int flags, int err)
{
	return on_stream_error(sk, flags, err);
}

/* What sk_stream_error raises SIGPIPE with. */
SEC("fentry/send_sig")
int BPF_PROG(entry_send_sig, int sig, struct task_struct *task)
{
	return on_signal(sig, task->tgid);
}

/* exec_binprm calls it right after the tracepoint (fs/exec.c). */
SEC("fentry/proc_exec_connector")
int BPF_PROG(entry_proc_exec_connector)
{
	return on_process(HOOK_EXEC);
}

/* do_exit calls it before the tracepoint and before any file is closed. */
SEC("fentry/taskstats_exit")
int BPF_PROG(entry_taskstats_exit, struct task_struct *task, int group_dead)
{
	return group_dead ? on_process(HOOK_EXIT) : 0;
}

SEC("fexit/tcp_recvmsg")
int exit_tcp_recvmsg(__u64 *ctx)
{
	/* Until 5.18 nonblock stood before the flags. */
	int flags = slot(ctx, cfg_recvmsg_args == 6 ? 4 : 3);

	return on_receive((void *)ctx[0], flags, (int)slot(ctx, cfg_recvmsg_args));
}

SEC("fentry/tcp_conn_request")
int BPF_PROG(entry_tcp_conn_request, void *rsk_ops, void *af_ops, struct sock *sk, struct sk_buff *skb)
{
	return on_syn_drop(sk, skb);
}

/* tcp_finish_connect stores ESTABLISHED right away (net/ipv4/tcp_input.c). */
SEC("fentry/tcp_finish_connect")
int BPF_PROG(entry_tcp_finish_connect, struct sock *sk, struct sk_buff *skb)
{
	return note_handshake(sk, skb);
}

SEC("fentry/tcp_child_process")
int BPF_PROG(entry_tcp_child_process, struct sock *parent, struct sock *child, struct sk_buff *skb)
{
	return note_handshake(child, skb);
}

SEC("fentry/tcp_close")
int BPF_PROG(entry_stack_close, struct sock *sk)
{
	return on_stack(ctx, HOOK_CLOSE_ENTRY, sk);
}

SEC("fentry/tcp_shutdown")
int BPF_PROG(entry_stack_shutdown, struct sock *sk)
{
	return on_stack(ctx, HOOK_SHUTDOWN, sk);
}

SEC("fentry/do_group_exit")
int BPF_PROG(entry_stack_exit)
{
	return on_exit_stack(ctx);
}

/* Of the two acts the tracepoint sees the effect. */
SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(typed_stack_state, struct sock *sk, int from, int to)
{
	return ends(from, to) ? on_stack(ctx, HOOK_SET_STATE, sk) : 0;
}

SEC("fentry/filp_close")
int BPF_PROG(entry_filp_close, struct file *file)
{
	return on_file_close(file);
}

SEC("fentry/filp_flush")
int BPF_PROG(entry_filp_flush, struct file *file)
{
	return on_file_close(file);
}

SEC("fexit/tcp_retransmit_skb")
int BPF_PROG(exit_tcp_retransmit_skb, struct sock *sk, struct sk_buff *skb, int segments, int ret)
{
	return note_sent(sk, ret);
}

/* From 6.17 on it tells of failures, too. */
SEC("tp_btf/tcp_retransmit_skb")
int typed_tcp_retransmit_skb(__u64 *ctx)
{
	return note_sent((void *)ctx[0], (int)ctx[2]);
}

SEC("fexit/tcp_write_wakeup")
int BPF_PROG(exit_tcp_write_wakeup, struct sock *sk, int mib, int ret)
{
	return note_sent(sk, ret);
}

SEC("fentry/tcp_v4_err")
int BPF_PROG(entry_tcp_v4_err, struct sk_buff *skb)
{
	return on_icmp(skb, AF_INET, 0, 0, 0);
}

SEC("fentry/tcp_v6_err")
int BPF_PROG(entry_tcp_v6_err, struct sk_buff *skb, void *opt, __u8 type, __u8 code, int offset)
{
	return on_icmp(skb, AF_INET6, type, code, offset);
}

SEC("fentry/arp_error_report")
int BPF_PROG(entry_arp_error_report, void *neigh, struct sk_buff *skb)
{
	return on_neighbor(skb);
}

SEC("fentry/ndisc_error_report")
int BPF_PROG(entry_ndisc_error_report, void *neigh, struct sk_buff *skb)
{
	return on_neighbor(skb);
}

SEC("fentry/fib_del_ifaddr")
int BPF_PROG(entry_fib_del_ifaddr, struct in_ifaddr *ifa)
{
	return on_address4(ifa);
}

SEC("fentry/__ipv6_ifa_notify")
int BPF_PROG(entry_ipv6_ifa_notify, int change, struct inet6_ifaddr *ifa)
{
	return on_address6(change, ifa);
}

/* Nothing runs it but user space (BPF_PROG_TEST_RUN), which asks for a story before its end. */
SEC("raw_tp")
int tell_story(__u64 *args)
{
	__u64 sock = args[0], conn = args[1];
	struct story *s = bpf_map_lookup_elem(&stories, &sock);

	/* Its socket may be gone by now, and the place another's. */
	if (!tracing || !s || s->conn != conn || !s->steps)
		return 0;
	return tell(sock);
}
