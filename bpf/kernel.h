/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * The kernel's structures, reduced to the fields that are read. Offsets come
 * from the running kernel's BTF (CO-RE), so no vmlinux.h is needed.
 */
#ifndef TCPBYE_KERNEL_H
#define TCPBYE_KERNEL_H

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef signed char __s8;
typedef short __s16;
typedef int __s32;
typedef long long __s64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u64 __be64;
typedef __u32 __wsum;
typedef _Bool bool;
#define true 1
#define false 0
#define NULL ((void *)0)

/* uapi/linux/bpf.h: map types and flags that are used here. */
enum bpf_map_type {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
	BPF_MAP_TYPE_LRU_HASH = 9,
	BPF_MAP_TYPE_RINGBUF = 27,
};

enum {
	BPF_ANY = 0,
	BPF_NOEXIST = 1,
	BPF_F_NO_PREALLOC = 1,
	BPF_RB_NO_WAKEUP = 1,
	BPF_RB_FORCE_WAKEUP = 2,
	BPF_RB_AVAIL_DATA = 0,
	BPF_F_USER_STACK = 1 << 8,
};

/* The registers of a probed call: the architecture's own layout. */
#if defined(__TARGET_ARCH_x86)
struct pt_regs {
	unsigned long r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di;
	unsigned long orig_ax, ip, cs, flags, sp, ss;
};
#elif defined(__TARGET_ARCH_arm64)
struct user_pt_regs {
	__u64 regs[31];
	__u64 sp, pc, pstate;
};
struct pt_regs {
	struct user_pt_regs user_regs;
};
#endif
#define __VMLINUX_H__ /* bpf_tracing.h: the kernel's register names */

#define AF_UNIX 1
#define AF_INET 2
#define AF_INET6 10
#define IPPROTO_TCP 6

#define TCP_ESTABLISHED 1
#define TCP_SYN_SENT 2
#define TCP_SYN_RECV 3
#define TCP_FIN_WAIT1 4
#define TCP_FIN_WAIT2 5
#define TCP_TIME_WAIT 6
#define TCP_CLOSE 7
#define TCP_CLOSE_WAIT 8
#define TCP_LAST_ACK 9
#define TCP_LISTEN 10
#define TCP_CLOSING 11
#define TCP_NEW_SYN_RECV 12

#define PF_EXITING 0x00000004
#define PF_KTHREAD 0x00200000

#define IFF_LOOPBACK 0x8
#define RTM_DELADDR 21

#define S_IFMT 0170000
#define S_IFSOCK 0140000

#if defined(__TARGET_ARCH_x86)
#define NR_EXIT_GROUP 231
#define NR_CLOSE 3
#elif defined(__TARGET_ARCH_arm64)
#define NR_EXIT_GROUP 94
#define NR_CLOSE 57
#endif

#define SIGNAL_GROUP_EXIT 0x00000004
#define SIGPIPE 13
#define SIG_IGN 1
#define MSG_PEEK 2
#define MSG_NOSIGNAL 0x4000
#define TS_COMPAT 0x0002 /* arch/x86/include/asm/thread_info.h */
#define TIF_32BIT 22	 /* arch/arm64/include/asm/thread_info.h */
#define X32_SYSCALL_BIT 0x40000000
#define NR_COMPAT_SOCKETCALL 102
#define EPIPE 32
#define EAGAIN 11
#define EBUSY 16
#define EINTR 4
#define ERESTARTSYS 512

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct in6_addr {
	union {
		__u8 u6_addr8[16];
		__be32 u6_addr32[4];
	} in6_u;
};

struct ns_common {
	unsigned int inum;
};

/* 6.8 (tcp/dccp: change source port selection at connect() time) packed the two into one. */
struct local_ports {
	__u32 range; /* low 16 bits: the first */
};

struct netns_ipv4 {
	struct local_ports ip_local_ports;
};

struct net {
	struct ns_common ns;
	struct netns_ipv4 ipv4;
};

struct local_ports___old {
	int range[2];
};

struct netns_ipv4___old {
	struct local_ports___old ip_local_ports;
};

struct net___old {
	struct netns_ipv4___old ipv4;
};

typedef struct {
	struct net *net;
} possible_net_t;

struct proto {
	void *recvmsg; /* functions */
	void *sendmsg;
};

struct sock_common {
	__be32 skc_daddr;
	__be32 skc_rcv_saddr;
	__be16 skc_dport;
	__u16 skc_num;
	unsigned short skc_family;
	volatile unsigned char skc_state;
	unsigned long skc_flags;
	struct proto *skc_prot;
	possible_net_t skc_net;
	struct in6_addr skc_v6_daddr;
	struct in6_addr skc_v6_rcv_saddr;
};

typedef struct {
	unsigned int val;
} kuid_t;

struct inode {
	unsigned short i_mode;
	unsigned long i_ino;
};

typedef struct {
	long counter;
} atomic_long_t;

struct file {
	const void *f_op;
	struct inode *f_inode;
	void *private_data;
	atomic_long_t f_count; /* up to 6.12: references, 1 is the last */
};

/* 6.13 (fs: port files to file_ref) counts from 0: 0 is the last. */
typedef struct {
	struct {
		long counter;
	} refcnt;
} file_ref_t___new;

struct file___new {
	file_ref_t___new f_ref;
};

struct socket {
	struct file *file;
	struct sock *sk;
};

struct sock {
	struct sock_common __sk_common;
	unsigned char sk_shutdown;
	__u16 sk_protocol;
	int sk_err;
	int sk_err_soft;
	unsigned long sk_lingertime;
	kuid_t sk_uid;
	struct socket *sk_socket;
	struct proto *sk_prot_creator;
	__u32 sk_ack_backlog;
	__u32 sk_max_ack_backlog;
};

struct inet_sock {
	struct sock sk;
	__be16 inet_sport;
};

struct inet_connection_sock {
	struct inet_sock icsk_inet;
	__u8 icsk_retransmits;
	__u8 icsk_probes_out;
	__u32 icsk_user_timeout;
	const void *icsk_ulp_ops;
	__u32 icsk_probes_tstamp; /* 5.11, and stable trees before */
	struct {
		__u32 lrcvtime;
	} icsk_ack;
};

struct tcp_options_received {
	int ts_recent_stamp;
	__u32 ts_recent;
	__u32 rcv_tsval;
	__u16 saw_tstamp : 1, tstamp_ok : 1;
};

struct tcp_sock {
	struct inet_connection_sock inet_conn;
	__u64 bytes_received;
	__u64 bytes_sent;
	__u64 bytes_acked;
	__u32 rcv_nxt;
	__u32 copied_seq;
	__u32 snd_nxt;
	__u32 snd_una;
	__u32 write_seq;
	__u32 lsndtime;
	__u32 urg_seq;
	__u16 urg_data;
	__u32 snd_wnd;
	__u32 mss_cache;
	__u32 sacked_out;
	struct tcp_options_received rx_opt;
	int linger2;
	__u8 repair : 1;
};

struct tcp_sock___mptcp {
	_Bool is_mptcp; /* with CONFIG_MPTCP (5.6 and later) */
};

struct inet_timewait_sock {
	struct sock_common __tw_common;
	unsigned char tw_substate;
	__be16 tw_sport;
};

struct tcp_timewait_sock {
	struct inet_timewait_sock tw_sk;
};

struct tcphdr {
	__u16 rst : 1;
};

struct net_device {
	possible_net_t nd_net;
	unsigned int flags;
};

struct in_device {
	struct net_device *dev;
};

struct in_ifaddr {
	struct in_device *ifa_dev;
	__be32 ifa_local;
};

struct inet6_dev {
	struct net_device *dev;
};

struct inet6_ifaddr {
	struct in6_addr addr;
	struct inet6_dev *idev;
};

struct sk_buff {
	struct sock *sk;
	struct net_device *dev;
	unsigned int len;
	unsigned int data_len;
	__u16 network_header;
	__u16 transport_header;
	unsigned char *head;
	unsigned char *data;
};

typedef struct {
	int counter;
} atomic_t;

struct mm_struct;

struct signal_struct {
	atomic_t live;
	int nr_threads;
	unsigned int flags;
	struct mm_struct *oom_mm;
};

struct pid_namespace {
	struct ns_common ns;
};

struct upid {
	int nr;
	struct pid_namespace *ns;
};

struct pid {
	unsigned int level;
	struct upid numbers[1]; /* level + 1 of them */
};

struct k_sigaction {
	struct sigaction {
		void *sa_handler;
	} sa;
};

struct sighand_struct {
	struct k_sigaction action[64];
};

typedef struct {
	unsigned long sig[1];
} sigset_t;

struct fdtable {
	unsigned int max_fds;
	struct file **fd;
};

struct files_struct {
	struct fdtable *fdt;
};

struct thread_info {
	unsigned long flags;
	__u32 status; /* x86 */
	union {
		struct {
			__u32 count; /* arm64 */
		} preempt;
	};
};

struct cred {
	kuid_t uid;
};

struct task_struct {
	struct thread_info thread_info;
	const struct cred *cred;
	unsigned int flags;
	int exit_code;
	int pid;
	int tgid;
	struct task_struct *group_leader;
	struct pid *thread_pid;
	struct signal_struct *signal;
	struct sighand_struct *sighand;
	sigset_t blocked;
	struct files_struct *files;
	void *stack;
};

/* x86, 6.2 (x86: Put hot per CPU variables into a struct) to 6.14. */
struct pcpu_hot {
	int preempt_count;
};

struct pt_regs___x86 {
	unsigned long bp;
	unsigned long bx;
	unsigned long di;
	unsigned long orig_ax;
	unsigned long ip;
	unsigned long sp;
};

struct pt_regs___arm64_call {
	__u64 regs[31];
	__u64 sp;
	__u64 pc;
	__u64 orig_x0;
	int syscallno;
};

#pragma clang attribute pop

/* uapi/linux/bpf.h */
struct bpf_pidns_info {
	__u32 pid;
	__u32 tgid;
};

/* Wire formats: read from a packet, so never relocated. */
struct tcp_header {
	__be16 source;
	__be16 dest;
	__be32 seq;
	__be32 ack_seq;
	__u8 doff_res;
	__u8 flags;
	__be16 window;
};

struct ipv4_header {
	__u8 ver_ihl;
	__u8 tos;
	__be16 tot_len;
	__be16 id;
	__be16 frag_off;
	__u8 ttl;
	__u8 protocol;
	__be16 check;
	__u8 saddr[4];
	__u8 daddr[4];
};

struct ipv6_header {
	__u8 ver_prio;
	__u8 flow[3];
	__be16 payload_len;
	__u8 nexthdr;
	__u8 hop_limit;
	__u8 saddr[16];
	__u8 daddr[16];
};

#endif
