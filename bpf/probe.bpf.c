//go:build ignore

// SPDX-License-Identifier: GPL-2.0 OR MIT
/* The kprobe rung: arguments by register, fields by CO-RE probe reads. */
#include "core.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

/*
 * Argument n of a call, n from 1; the position comes from the kernel's BTF. Each
 * is read at its own constant offset: a load at a chosen one is refused
 * ("dereference of modified ctx ptr").
 */
static __always_inline int argument(struct pt_regs *ctx, __u32 n)
{
	int second = PT_REGS_PARM2(ctx);
	int third = PT_REGS_PARM3(ctx);

	asm volatile("" : "+r"(second), "+r"(third));
	if (n == 2)
		return second;
	if (n == 3)
		return third;
	return -1;
}

/* These two have the tracepoint inside (net/ipv4/af_inet.c); nothing else has. */
SEC("kprobe/inet_sk_state_store")
int BPF_KPROBE(probe_inet_sk_state_store, struct sock *sk, int state)
{
	return on_state(sk, BPF_CORE_READ(sk, __sk_common.skc_state), state);
}

SEC("kprobe/inet_sk_set_state")
int BPF_KPROBE(probe_inet_sk_set_state, struct sock *sk, int state)
{
	return on_state(sk, BPF_CORE_READ(sk, __sk_common.skc_state), state);
}

/* Of both families. */
SEC("kprobe/tcp_v4_destroy_sock")
int BPF_KPROBE(probe_tcp_v4_destroy_sock, struct sock *sk)
{
	return on_destroy(sk);
}

SEC("kprobe/tcp_connect")
int BPF_KPROBE(probe_tcp_connect, struct sock *sk)
{
	return on_full(HOOK_CONNECT, sk, 0, 0);
}

SEC("kretprobe/inet_csk_accept")
int BPF_KRETPROBE(probe_inet_csk_accept, struct sock *newsk)
{
	return newsk ? on_full(HOOK_ACCEPT, newsk, 0, 0) : 0;
}

SEC("kprobe/tcp_close")
int BPF_KPROBE(probe_tcp_close, struct sock *sk)
{
	return on_marker(HOOK_CLOSE_ENTRY, sk, 0, 0);
}

SEC("kprobe/__tcp_close")
int BPF_KPROBE(probe_tcp_close_locked, struct sock *sk)
{
	return on_full(HOOK_CLOSE, sk, 0, 0);
}

SEC("kprobe/tcp_shutdown")
int BPF_KPROBE(probe_tcp_shutdown, struct sock *sk, int how)
{
	return on_full(HOOK_SHUTDOWN, sk, how, 0);
}

SEC("kprobe/tcp_send_fin")
int BPF_KPROBE(probe_tcp_send_fin, struct sock *sk)
{
	return on_full(HOOK_SEND_FIN, sk, 0, 0);
}

SEC("kprobe/tcp_send_active_reset")
int BPF_KPROBE(probe_tcp_send_active_reset, struct sock *sk)
{
	return on_full(HOOK_SEND_ACTIVE_RESET, sk, argument(ctx, cfg_reason_arg), 0);
}

SEC("kprobe/tcp_v4_send_reset")
int BPF_KPROBE(probe_tcp_v4_send_reset, struct sock *sk, struct sk_buff *skb)
{
	return on_send_reset(sk, skb, argument(ctx, cfg_passive_reason_arg));
}

SEC("kprobe/tcp_v6_send_reset")
int BPF_KPROBE(probe_tcp_v6_send_reset, struct sock *sk, struct sk_buff *skb)
{
	return on_send_reset(sk, skb, argument(ctx, cfg_passive_reason_arg));
}

SEC("kprobe/tcp_reset")
int BPF_KPROBE(probe_tcp_reset, struct sock *sk, struct sk_buff *skb)
{
	return on_reset(sk, cfg_reset_skb ? skb : NULL);
}

SEC("kprobe/tcp_validate_incoming")
int BPF_KPROBE(probe_tcp_validate_incoming, struct sock *sk, struct sk_buff *skb, struct tcphdr *th)
{
	return note_incoming(sk, skb, th);
}

SEC("kprobe/tcp_disconnect")
int BPF_KPROBE(probe_tcp_disconnect, struct sock *sk)
{
	return on_full(HOOK_DISCONNECT, sk, 0, 0);
}

SEC("kprobe/tcp_abort")
int BPF_KPROBE(probe_tcp_abort, struct sock *sk, int err)
{
	return on_abort(sk, err);
}

SEC("kprobe/inet_child_forget")
int BPF_KPROBE(probe_inet_child_forget, struct sock *listener, void *req, struct sock *child)
{
	return on_full(HOOK_CHILD_FORGET, child, 0, (__u64)listener);
}

SEC("kprobe/tcp_time_wait")
int BPF_KPROBE(probe_tcp_time_wait, struct sock *sk, int substate, int timeo)
{
	return on_time_wait(sk, substate, timeo);
}

SEC("kprobe/inet_twsk_kill")
int BPF_KPROBE(probe_inet_twsk_kill, struct inet_timewait_sock *tw)
{
	return on_mini_socket(HOOK_TWSK_KILL, tw);
}

SEC("kprobe/inet_twsk_deschedule_put")
int BPF_KPROBE(probe_inet_twsk_deschedule_put, struct inet_timewait_sock *tw)
{
	return note_descheduled(tw);
}

/*
 * tcp_timewait_state_process starts the time again when the peer's FIN arrives
 * at substate FIN_WAIT2: the only trace of that FIN.
 */
SEC("kprobe/__inet_twsk_schedule")
int BPF_KPROBE(probe_inet_twsk_schedule, struct inet_timewait_sock *tw, int timeo, __u8 rearm)
{
	return rearm ? on_mini_socket(HOOK_TWSK_SCHEDULE, tw) : 0;
}

SEC("kprobe/sk_error_report")
int BPF_KPROBE(probe_sk_error_report, struct sock *sk)
{
	return on_error_report(sk);
}

/* What sk_stream_error raises SIGPIPE with. */
SEC("kprobe/send_sig")
int BPF_KPROBE(probe_send_sig, int sig, struct task_struct *task)
{
	return on_signal(sig, BPF_CORE_READ(task, tgid));
}

/* exec_binprm calls it right after the tracepoint (fs/exec.c). */
SEC("kprobe/proc_exec_connector")
int BPF_KPROBE(probe_proc_exec_connector)
{
	return on_process(HOOK_EXEC);
}

/* do_exit calls it before the tracepoint and before any file is closed. */
SEC("kprobe/taskstats_exit")
int BPF_KPROBE(probe_taskstats_exit, struct task_struct *task, int group_dead)
{
	return group_dead ? on_process(HOOK_EXIT) : 0;
}

SEC("kprobe/sk_stream_error")
int BPF_KPROBE(probe_sk_stream_error, struct sock *sk, int flags, int err)
{
	return on_stream_error(sk, flags, err);
}

SEC("kprobe/tcp_recvmsg")
int BPF_KPROBE(probe_tcp_recvmsg, struct sock *sk)
{
	__u64 id = bpf_get_current_pid_tgid();
	struct receive r = {.sock = (__u64)sk};
	int fourth = PT_REGS_PARM4(ctx), fifth = PT_REGS_PARM5(ctx);

	asm volatile("" : "+r"(fourth), "+r"(fifth));
	/* Until 5.18 nonblock stood before the flags. */
	r.flags = cfg_recvmsg_args == 6 ? fifth : fourth;
	bpf_map_update_elem(&receiving, &id, &r, BPF_ANY);
	return 0;
}

SEC("kretprobe/tcp_recvmsg")
int BPF_KRETPROBE(probe_tcp_recvmsg_return, int ret)
{
	__u64 id = bpf_get_current_pid_tgid();
	struct receive *r = bpf_map_lookup_elem(&receiving, &id);

	return r ? on_receive((struct sock *)r->sock, r->flags, ret) : 0;
}

SEC("kprobe/tcp_conn_request")
int BPF_KPROBE(probe_tcp_conn_request, void *rsk_ops, void *af_ops, struct sock *sk, struct sk_buff *skb)
{
	return on_syn_drop(sk, skb);
}

/* tcp_finish_connect stores ESTABLISHED right away (net/ipv4/tcp_input.c). */
SEC("kprobe/tcp_finish_connect")
int BPF_KPROBE(probe_tcp_finish_connect, struct sock *sk, struct sk_buff *skb)
{
	return note_handshake(sk, skb);
}

SEC("kprobe/tcp_child_process")
int BPF_KPROBE(probe_tcp_child_process, struct sock *parent, struct sock *child, struct sk_buff *skb)
{
	return note_handshake(child, skb);
}

SEC("kprobe/tcp_close")
int BPF_KPROBE(probe_stack_close, struct sock *sk)
{
	return on_stack(ctx, HOOK_CLOSE_ENTRY, sk);
}

SEC("kprobe/tcp_shutdown")
int BPF_KPROBE(probe_stack_shutdown, struct sock *sk)
{
	return on_stack(ctx, HOOK_SHUTDOWN, sk);
}

SEC("kprobe/do_group_exit")
int BPF_KPROBE(probe_stack_exit)
{
	return on_exit_stack(ctx);
}

SEC("kprobe/filp_close")
int BPF_KPROBE(probe_filp_close, struct file *file)
{
	return on_file_close(file);
}

SEC("kprobe/filp_flush")
int BPF_KPROBE(probe_filp_flush, struct file *file)
{
	return on_file_close(file);
}

SEC("kprobe/tcp_retransmit_skb")
int BPF_KPROBE(probe_tcp_retransmit_skb, struct sock *sk)
{
	return enter_send(0, sk);
}

SEC("kretprobe/tcp_retransmit_skb")
int BPF_KRETPROBE(probe_tcp_retransmit_skb_return, int ret)
{
	struct sock *sk = leave_send(0);

	return sk ? note_sent(sk, ret) : 0;
}

SEC("kprobe/tcp_write_wakeup")
int BPF_KPROBE(probe_tcp_write_wakeup, struct sock *sk)
{
	return enter_send(1, sk);
}

SEC("kretprobe/tcp_write_wakeup")
int BPF_KRETPROBE(probe_tcp_write_wakeup_return, int ret)
{
	struct sock *sk = leave_send(1);

	return sk ? note_sent(sk, ret) : 0;
}

SEC("kprobe/tcp_v4_err")
int BPF_KPROBE(probe_tcp_v4_err, struct sk_buff *skb)
{
	return on_icmp(skb, AF_INET, 0, 0, 0);
}

SEC("kprobe/tcp_v6_err")
int BPF_KPROBE(probe_tcp_v6_err, struct sk_buff *skb, void *opt, __u8 type, __u8 code, int offset)
{
	return on_icmp(skb, AF_INET6, type, code, offset);
}

SEC("kprobe/arp_error_report")
int BPF_KPROBE(probe_arp_error_report, void *neigh, struct sk_buff *skb)
{
	return on_neighbor(skb);
}

SEC("kprobe/ndisc_error_report")
int BPF_KPROBE(probe_ndisc_error_report, void *neigh, struct sk_buff *skb)
{
	return on_neighbor(skb);
}

SEC("kprobe/fib_del_ifaddr")
int BPF_KPROBE(probe_fib_del_ifaddr, struct in_ifaddr *ifa)
{
	return on_address4(ifa);
}

SEC("kprobe/__ipv6_ifa_notify")
int BPF_KPROBE(probe_ipv6_ifa_notify, int change, struct inet6_ifaddr *ifa)
{
	return on_address6(change, ifa);
}
