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

/* Both pointers may be NULL from 6.10 on; 5.10 and 6.1 have no reason. */
SEC("tp_btf/tcp_send_reset")
int typed_tcp_send_reset(__u64 *ctx)
{
	struct sock *sk = (void *)ctx[0];
	struct sk_buff *skb = (void *)ctx[1];
	int reason = -1;

	if (cfg_send_reset_args >= 3)
		reason = ctx[2];
	return on_send_reset(sk, skb, reason);
}

SEC("tp_btf/inet_sk_error_report")
int BPF_PROG(typed_inet_sk_error_report, struct sock *sk)
{
	return on_marker(HOOK_ERROR_REPORT, sk, 0, 0);
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
