/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * The contract between the kernel half and user space: one record a kernel
 * observation. It only grows at its end; a field's meaning never changes.
 *
 * Host byte order unless a field says otherwise; both targets are little
 * endian. A group of fields is meaningful only when its HAS_ bit is set in
 * `has`; a zero in a group that was not read means nothing.
 */
#ifndef TCPBYE_EVENT_H
#define TCPBYE_EVENT_H

enum hook {
	HOOK_NONE = 0,
	HOOK_SET_STATE = 1,	     /* tp sock:inet_sock_set_state, before the store */
	HOOK_CONNECT = 2,	     /* tcp_connect: the SYN is about to be built */
	HOOK_ACCEPT = 3,	     /* inet_csk_accept returned a socket */
	HOOK_CLOSE_ENTRY = 4,	     /* tcp_close: socket lock not yet held */
	HOOK_CLOSE = 5,		     /* __tcp_close: socket lock held, nothing purged yet */
	HOOK_SHUTDOWN = 6,	     /* tcp_shutdown; arg: mask, 1 RCV, 2 SEND, 3 both */
	HOOK_SEND_FIN = 7,	     /* tcp_send_fin: the FIN is about to be queued */
	HOOK_SEND_ACTIVE_RESET = 8,  /* tcp_send_active_reset; arg: reason or -1 */
	HOOK_SEND_RESET = 9,	     /* tcp_v4/v6_send_reset, or tp tcp:tcp_send_reset; arg: reason or -1 */
	HOOK_RESET = 10,	     /* tcp_reset, or tp tcp:tcp_receive_reset */
	HOOK_DISCONNECT = 11,	     /* tcp_disconnect */
	HOOK_ABORT = 12,	     /* tcp_abort; arg: errno */
	HOOK_CHILD_FORGET = 13,	     /* inet_child_forget; other: the listener */
	HOOK_TIME_WAIT = 14,	     /* tcp_time_wait; arg: substate; arg2: how long, jiffies, as the socket has it */
	HOOK_TWSK_KILL = 15,	     /* inet_twsk_kill; sock: the mini-socket; arg: substate; arg2: enum twsk_end */
	HOOK_DESTROY = 16,	     /* tp tcp:tcp_destroy_sock */
	HOOK_ERROR_REPORT = 17,	     /* tp sock:inet_sk_error_report; arg: sk_err where HAS_SOCKET is not set */
	HOOK_STREAM_ERROR = 18,	     /* sk_stream_error; arg: the errno that send(2) returns, negative; arg2: enum pipe_signal */
	HOOK_SIGNAL = 19,	     /* tp signal:signal_generate; arg: signal number */
	HOOK_EXEC = 20,		     /* tp sched:sched_process_exec */
	HOOK_EXIT = 21,		     /* tp sched:sched_process_exit of a process's last thread; arg: enum oom */
	HOOK_FILE_CLOSE = 22,	     /* filp_close / filp_flush of a TCP socket's file; refs: references left, this one included */
	HOOK_SYN_DROP = 23,	     /* tcp_conn_request with a full accept queue; sock: the listener */
	HOOK_TWSK_SCHEDULE = 24,     /* __inet_twsk_schedule of a mini-socket that already runs; arg: substate */
	HOOK_RECEIVE = 25,	     /* tcp_recvmsg returned the end of input or an error; arg: 0 or a negative errno; or looked (MSG_PEEK); arg: bytes seen */
	HOOK_STACK = 26,	     /* the user stack at an act, struct stack follows; arg: the act's hook */
	HOOK_HANDSHAKE = 27,	     /* no event: the segment that established a connection, in that change's event */
	HOOK_RETRANSMIT = 28,	     /* no event: tcp_retransmit_skb failed; in the event of -> CLOSE: unsent_tries, unsent_err */
	HOOK_PROBE = 29,	     /* no event: tcp_write_wakeup failed, likewise */
	HOOK_ICMP = 30,		     /* tcp_v4_err, tcp_v6_err; arg: type; arg2: code; struct icmp follows */
	HOOK_NEIGHBOR = 31,	     /* arp_error_report, ndisc_error_report: a segment is thrown away, its neighbor does not answer */
	HOOK_ADDRESS = 32,	     /* fib_del_ifaddr, __ipv6_ifa_notify: an address of this host is taken away; laddr, netns */
	HOOK_STORY = 33,	     /* no event: struct story, a socket's life as far as it was plain */
	HOOK_PROCESS = 34,	     /* a process acts on a TCP socket for the first time; the task alone */
	HOOK_LAST,
};

enum has {
	HAS_TUPLE = 1 << 0,	/* family, sport, dport, laddr, raddr, netns, protocol, state */
	HAS_TCP = 1 << 1,	/* sequence numbers, byte counts, timers: a full TCP socket */
	HAS_SEGMENT = 1 << 2,	/* seg_*: the segment that this event answers or received */
	HAS_TASK = 1 << 3,	/* task_flags, exit_code */
	HAS_PREEMPT = 1 << 4,	/* preempt_count was readable */
	HAS_SYSCALL = 1 << 5,	/* syscall */
	HAS_SOCKET = 1 << 6,	/* full socket fields: err, flags, linger, shutdown, has_socket */
	HAS_REFS = 1 << 7,	/* refs */
};

/* What ended a mini-socket. */
enum twsk_end {
	TWSK_END_UNKNOWN = 0,
	TWSK_END_EARLY = 1, /* inet_twsk_deschedule_put: a segment, a call, the end of the namespace */
	TWSK_END_TIMER = 2, /* its time was over */
};

enum oom {
	OOM_UNKNOWN = 0,
	OOM_VICTIM = 1, /* the kernel killed the process to get its memory back */
	OOM_NONE = 2,
};

enum loss {
	LOST_RING = 0,	/* no room in the ring buffer */
	LOST_MAP = 1,	/* no room in a map: an event without a connection id */
	LOST_READ = 2,	/* a kernel field could not be read */
	LOST_KINDS = 3,
};

enum timestamps {
	TIMESTAMPS_AGREED = 1 << 0,  /* the connection has them */
	TIMESTAMPS_CARRIED = 1 << 1, /* the segment had one: ts_value */
};

/* Who reads and writes the socket's queues. */
enum queue {
	QUEUE_UNSURE = 1 << 0,	/* whether the next two hold was not found out */
	QUEUE_READS = 1 << 1,	/* reads do not go through tcp_recvmsg (kTLS, sockmap) */
	QUEUE_WRITES = 1 << 2,	/* writes do not go through tcp_sendmsg */
	QUEUE_ULP = 1 << 3,	/* an upper layer protocol is set (TCP_ULP: tls, mptcp, espintcp) */
};

enum task {
	TASK_COMPAT = 1 << 0,	/* in a 32-bit system call: its numbers are that architecture's */
	TASK_THREAD = 1 << 1,	/* exits alone: its process lives on */
	TASK_X32 = 1 << 2,	/* in an x32 call; the bit is taken off the number */
};

/* What became of the SIGPIPE of a send(2) that failed. */
enum pipe_signal {
	PIPE_NONE = 0,	    /* none was raised: not EPIPE, or MSG_NOSIGNAL */
	PIPE_DELIVERED = 1,
	PIPE_HELD = 2,	    /* ignored, or blocked */
	PIPE_RAISED = 3,    /* whether it was delivered is not known */
};

/* In pid and tid: the task is outside the tracer's PID namespace, the number the kernel's own. */
#define PID_OUTSIDE 0x80000000

#define TEXT_BYTES 64
#define STACK_FRAMES 64
#define STACK_BYTES 4096

/* Follows the event of HOOK_RESET: what the RST carried. */
struct text {
	__u32 bytes;
	__u8 text[TEXT_BYTES + 4];
};

/* Follows the event of HOOK_ICMP: who sent the message. */
struct icmp {
	__u8 source[16]; /* network byte order; IPv4 in the first four */
	__u8 loopback;	 /* it came over the loopback device: this kernel made it */
	__u8 pad[7];
};

/*
 * Follows the event of HOOK_STACK: where the thread is in its program. Nothing
 * of `memory` leaves the machine: it is unwound and forgotten.
 */
struct stack {
	__u64 pc, sp, fp, lr;	    /* registers; lr: 0 on x86 */
	__u64 frames[STACK_FRAMES]; /* by frame pointers, the innermost first: pc and return addresses */
	__u32 frame_bytes;
	__u32 memory_bytes;
	__u8 memory[STACK_BYTES]; /* from sp on */
};

struct event {
	__u64 time;		/* ns, CLOCK_MONOTONIC */
	__u64 sock;		/* address of the sock or mini-socket: an identity, nothing else */
	__u64 conn;		/* ns, CLOCK_MONOTONIC, of this socket's first sight; 0: unknown */
	__u64 other;		/* second socket or file address, by hook */
	__u64 cgroup;		/* cgroup v2 id of the task on the CPU */
	__u64 inode;		/* socket inode number; 0: none (not accepted, orphan) */
	__u64 bytes_sent;	/* payload bytes sent, retransmissions included */
	__u64 bytes_acked;	/* as the kernel counts: an active opener's SYN and an acked FIN included */
	__u64 bytes_received;	/* as the kernel counts: the peer's FIN included */
	__u64 lingertime;	/* jiffies */
	__u64 reserved;		/* zero */

	__u32 netns;		/* inode number of the network namespace */
	__u32 pid;		/* thread group id, in the tracer's PID namespace; or with PID_OUTSIDE */
	__u32 tid;		/* likewise */
	__u32 uid;		/* of the task on the CPU */
	__u32 sock_uid;		/* sk_uid: creator's or accepter's */
	__u32 task_flags;	/* PF_* */
	__u32 exit_code;	/* as the kernel keeps it: low 7 bits signal, bits 8.. status */
	__u32 preempt;		/* preempt_count; 0x100: in softirq */
	__u32 cpu;
	__s32 syscall;		/* number of the system call the task is in; -1: none */

	__u32 write_seq, snd_una, snd_nxt, rcv_nxt, copied_seq;
	__u32 seg_seq, seg_ack, seg_len; /* seg_len: payload bytes */
	__s32 err;		/* sk_err, positive errno */
	__s32 err_soft;
	__s32 arg;		/* by hook */
	__s32 arg2;		/* by hook */
	__s32 linger2;		/* jiffies; -1: TCP_LINGER2 below zero */
	__u32 sk_flags;		/* low 32 bits of sk_flags: bit 0 DEAD, 1 DONE, 3 KEEPOPEN, 4 LINGER */
	__u32 user_timeout;	/* ms */
	__u32 ack_backlog, max_ack_backlog;
	__s32 refs;

	__u16 family;		/* AF_INET, AF_INET6 */
	__u16 sport, dport;
	__u16 protocol;
	__u16 seg_window;	/* as on the wire, unscaled */
	__u16 seg_ip_id;	/* IPv4 identification */

	__u8 hook;		/* enum hook */
	__u8 has;		/* enum has */
	__u8 state;		/* sk_state at the hook */
	__u8 to_state;		/* HOOK_SET_STATE: the new state */
	__u8 sk_shutdown;	/* 1 RCV, 2 SEND */
	__u8 has_socket;	/* sk_socket is set */
	__u8 repair;
	__u8 is_mptcp;
	__u8 retransmits;
	__u8 probes_out;
	__u8 seg_flags;		/* TCP flags: FIN 1 SYN 2 RST 4 PSH 8 ACK 16 URG 32 */
	__u8 seg_ttl;		/* TTL or hop limit */
	__u8 laddr[16];		/* network byte order; IPv4 in the first four */
	__u8 raddr[16];
	__u8 comm[16];
	__u8 pad[4];
	__u32 since_sent;	/* jiffies since payload was sent, plus 1; 0: not told; the handshake counts */
	__u32 since_received;	/* likewise received */
	__u32 ts_recent;	/* HOOK_RESET: the peer's last timestamp (RFC 7323 TS.Recent) */
	__u32 ts_age;		/* HOOK_RESET: seconds since it came, counted in whole ones */
	__u32 ts_value;		/* HOOK_RESET: the timestamp of the segment that reset */
	__u8 timestamps;	/* HOOK_RESET: enum timestamps */
	__u8 call_on;		/* HOOK_CLOSE, HOOK_CLOSE_ENTRY: family of the socket that the call is on; 0: none, not known */
	__u16 sacked;		/* segments that the peer acknowledged selectively */
	__u32 snd_wnd;		/* the peer's window beyond snd_una, bytes, plus 1; 0: not told */
	__u32 mss;		/* payload of a full-size segment, bytes */
	__u32 since_probing;	/* jiffies since the first probe without an answer, plus 1; 0: not told */
	__u32 unsent_tries;	/* -> CLOSE: how often in a row, up to now, this host's own layers refused to send */
	__s32 unsent_err;	/* the last refusal: negative errno, or a positive NET_XMIT_* */
	__u32 busy_tries;	/* -> CLOSE: tries that were not made, since an earlier copy was still held in this host */
	__u32 urg_seq;		/* of the last urgent byte that came; 0: none did */
	__u16 urg_data;		/* 0x100 not read yet, 0x400 read with MSG_OOB, 0: passed over, or none */
	__u8 queue;		/* enum queue, with HAS_TCP, or HOOK_FILE_CLOSE */
	__u8 task;		/* enum task */
	__u32 pad3;
};

#endif
