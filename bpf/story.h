/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * A socket's story: what its hooks would have told one by one, kept while its
 * life is plain and told once, at the end. Units and meanings are those of struct
 * event. Read by tracer/story.
 */
#ifndef TCPBYE_STORY_H
#define TCPBYE_STORY_H

#define STORY_STEPS 16
#define STORY_TASKS 3
#define STORY_LOOKS 4

/*
 * The steps that are taken with the socket's lock held have their places in the
 * order in which they happen. Two are not, so each has a place of its own.
 */
#define STORY_LOCKED 14
#define STORY_ACCEPT 14
#define STORY_CLOSE_ENTRY 15

/* Who may act, and where that is kept. */
enum story_who {
	WHO_OPENER = 0, /* or who accepted */
	WHO_SHUT = 1,
	WHO_CLOSER = 2,
	WHO_NOBODY = 3, /* a segment or a timer: the task on the CPU has no part in it */
};

enum story_look_at {
	LOOK_OPEN = 0, /* at ESTABLISHED */
	LOOK_ACT = 1,  /* at close or shutdown */
	LOOK_END = 2,  /* at CLOSE */
	LOOK_FIN = 3,  /* at CLOSE_WAIT */
};

struct story_step {
	__u32 dt_lo; /* ns since `conn`, 48 bits */
	__u16 dt_hi;
	__u8 what;   /* hook | who << 6; 0: no step */
	__u8 states; /* SET_STATE: from | to << 4; else the state | arg << 4 (SHUTDOWN: mask; TIME_WAIT: substate) */
};

struct story_task {
	__u64 thread; /* pid_tgid as the kernel has it */
	__u64 cgroup;
	__u32 pid, tid, uid, task_flags, exit_code, preempt;
	__s32 syscall;
	__u8 task; /* enum task */
	__u8 has;  /* HAS_TASK, HAS_PREEMPT, HAS_SYSCALL */
	__u8 call_on;
	__u8 pad;
	__u8 comm[16];
};

struct story_look {
	__u64 bytes_sent, bytes_acked, bytes_received, lingertime, inode;
	__u32 write_seq, snd_una, snd_nxt, rcv_nxt, copied_seq, sk_flags, user_timeout, sock_uid;
	__s32 linger2;
	__u32 snd_wnd, mss, since_sent, since_received, urg_seq;
	__u16 urg_data, sacked;
	__u8 sk_shutdown, has_socket, repair, is_mptcp, retransmits, probes_out, queue;
	__u8 step; /* at which it was taken */
	__u8 pad[4];
};

struct story {
	__u64 time; /* ns, CLOCK_MONOTONIC, when it is told; stands first, as in struct event */
	__u64 sock;
	__u64 conn; /* of its birth */
	__u32 netns;
	__u16 sport, dport, family;
	__u8 hook; /* HOOK_STORY */
	__u8 has_looks; /* a bit for each look */
	__u8 steps; /* of those with the lock held */
	__u8 tasks;
	__u8 final; /* the socket is no more */
	__u8 told;  /* from now on its hooks submit events */
	__u8 laddr[16], raddr[16];
	struct story_step step[STORY_STEPS];
	struct story_task task[STORY_TASKS];
	struct story_look look[STORY_LOOKS];
	__u32 seg_seq, seg_ack, seg_len; /* of the handshake's last segment */
	__u16 seg_window, seg_ip_id;
	__u8 seg_flags, seg_ttl, has_segment;
	__u8 state; /* after the last step */
	__u32 turns; /* counts nothing: it orders what two CPUs write and read */
};

#endif
