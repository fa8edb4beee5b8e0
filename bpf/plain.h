/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * What keeps a socket's story while its life is plain: it opens, each end says by
 * close or shutdown that it has no more to send, and is acknowledged. A hook that
 * sees such a step adds it to the story and submits nothing. Whatever is not plain
 * has the story told as far as it goes, by begin(), and from then on the socket's
 * hooks submit events as they do for a socket without a story. So what is not
 * listed here tells more, never less.
 *
 * Most steps are taken with the socket's lock held. Whoever has the story told
 * need not hold it: first it sets `told`, then it copies; whoever takes a step
 * writes it first and looks at `told` then, and if it is set submits the event as
 * well. Then both may tell the step, but one always does.
 */
#ifndef TCPBYE_PLAIN_H
#define TCPBYE_PLAIN_H

static const struct story story_zero;

/* A store before it is seen before a load after it; on arm64 nearly always. */
static __always_inline void take_turns(struct story *s)
{
	__sync_fetch_and_add(&s->turns, 1);
}

static __noinline int submit_story(struct story *s, __u32 final)
{
	struct story *out = bpf_ringbuf_reserve(&events, sizeof(*out), 0);

	if (!out) {
		count_lost(LOST_RING);
		return 0;
	}
	__builtin_memcpy(out, s, sizeof(*out));
	out->time = bpf_ktime_get_ns(); /* after the place in the ring, as in begin_long */
	out->final = final;
	submit(out);
	return 0;
}

/* The addresses and the port that a socket has been given since its birth. */
static __always_inline void connecting(struct story *s)
{
	struct inet_sock *inet = (void *)s->sock;
	struct sock *sk = (void *)s->sock;

	if (!cfg_probe_read)
		return;
	/* As fill_tcp() has it: skc_num is 0 where the socket is about to be closed. */
	s->sport = bpf_ntohs(BPF_CORE_READ(inet, inet_sport));
	s->dport = bpf_ntohs(BPF_CORE_READ(sk, __sk_common.skc_dport));
	if (s->family == AF_INET6) {
		bpf_core_read(s->laddr, 16, &sk->__sk_common.skc_v6_rcv_saddr);
		bpf_core_read(s->raddr, 16, &sk->__sk_common.skc_v6_daddr);
	} else {
		fill_addr4(s->laddr, BPF_CORE_READ(sk, __sk_common.skc_rcv_saddr));
		fill_addr4(s->raddr, BPF_CORE_READ(sk, __sk_common.skc_daddr));
	}
}

/* Tells the story of a socket, if it has one that is not told yet. */
static __noinline int tell(__u64 sock)
{
	__u64 key = sock, conn, *id;
	struct story *s = bpf_map_lookup_elem(&stories, &key);

	if (!s || s->told)
		return 0;
	/* Whoever puts the id there tells. */
	conn = s->conn;
	if (bpf_map_update_elem(&conns, &key, &conn, BPF_NOEXIST)) {
		id = bpf_map_lookup_elem(&conns, &key);
		if (id && *id == conn)
			return 0;
		/* Of a socket whose end was missed; or the map is full, and conn_id() asks the story. */
		bpf_map_update_elem(&conns, &key, &conn, BPF_ANY);
	}
	s->told = 1;
	take_turns(s);
	if (*(volatile __u64 *)&s->conn != conn) {
		bpf_map_delete_elem(&conns, &key); /* whoever asked was late: it has just ended */
		return 0;
	}
	if (!(s->has_looks & 1 << LOOK_OPEN))
		connecting(s);
	return submit_story(s, 0);
}

/* A socket's story if it is not told yet. *unwanted: a filter has left the socket out. */
static __always_inline struct story *story_of(void *sk, bool *unwanted)
{
	__u64 key = (__u64)sk, *id;
	struct story *s;

	if (!cfg_story || !tracing)
		return NULL;
	if (cfg_filter) {
		id = bpf_map_lookup_elem(&conns, &key);
		if (id) {
			*unwanted = *id == NOT_CHOSEN;
			return NULL;
		}
	}
	s = bpf_map_lookup_elem(&stories, &key);
	return s && !s->told ? s : NULL;
}

static __always_inline __u64 step_of(__u64 dt, __u8 hook, __u8 who, __u8 states)
{
	return dt | (__u64)(hook | who << 6) << 48 | (__u64)states << 56;
}

/* Takes a step with the lock held; false: it is to be submitted, too. */
static __always_inline bool take_step(struct story *s, __u8 hook, __u8 who, __u8 states, __u64 now)
{
	__u64 dt = now - s->conn;
	__u32 n = s->steps;

	asm volatile("" : "+r"(n)); /* the bound is one that the verifier sees */
	if (n >= STORY_LOCKED || dt >> 48)
		return false;
	*(volatile __u64 *)&s->step[n] = step_of(dt, hook, who, states);
	s->steps = n + 1;
	take_turns(s);
	return !*(volatile __u8 *)&s->told;
}

static __always_inline __u8 states_of(struct story *s, __u8 arg)
{
	return s->state | arg << 4;
}

/* Takes one of the two steps without the lock. */
static __always_inline bool take_aside(struct story *s, __u32 place, __u8 hook, __u8 who)
{
	__u64 dt = bpf_ktime_get_ns() - s->conn;

	if (dt >> 48)
		return false;
	*(volatile __u64 *)&s->step[place] = step_of(dt, hook, who, states_of(s, 0));
	take_turns(s);
	return !*(volatile __u8 *)&s->told;
}

/* Whether a call that is to be told acts in a task: false in softirq. */
static __always_inline bool take_actor(struct story_task *t)
{
	t->thread = bpf_get_current_pid_tgid();
	take_task(t);
	return !(t->preempt & 0xf0100);
}

static __always_inline void story_tuple(struct story *s, struct sock *sk)
{
	struct net *net = READ(sk, __sk_common.skc_net.net);

	s->family = READ(sk, __sk_common.skc_family);
	s->sport = READ(sk, __sk_common.skc_num);
	s->dport = bpf_ntohs(READ(sk, __sk_common.skc_dport));
	if (net)
		s->netns = READ(net, ns.inum);
	if (s->family == AF_INET6) {
		FILL_ADDR6(s->laddr, sk, __sk_common.skc_v6_rcv_saddr);
		FILL_ADDR6(s->raddr, sk, __sk_common.skc_v6_daddr);
	} else {
		fill_addr4(s->laddr, READ(sk, __sk_common.skc_rcv_saddr));
		fill_addr4(s->raddr, READ(sk, __sk_common.skc_daddr));
	}
}

/* false: what it shows is not plain. */
static __always_inline bool story_look(struct story_look *l, struct sock *sk, __u8 step)
{
#ifdef TCPBYE_TYPED
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);
#else
	struct tcp_sock *tp = (void *)sk;
#endif
	struct socket *socket = READ(sk, sk_socket);
	__u32 now = bpf_jiffies64(), at;

	if (!tp)
		return false;
	l->has_socket = 0;
	l->inode = 0;
	l->since_sent = l->since_received = 0;
	l->sk_flags = READ(sk, __sk_common.skc_flags);
	l->lingertime = READ(sk, sk_lingertime);
	l->sk_shutdown = READ(sk, sk_shutdown);
	l->sock_uid = READ(sk, sk_uid.val);
	if (socket) {
		struct file *file = READ(socket, file);

		l->has_socket = 1;
		if (file) {
			struct inode *inode = READ(file, f_inode);

			if (inode)
				l->inode = READ(inode, i_ino);
		}
	}
	l->write_seq = READ(tp, write_seq);
	l->snd_una = READ(tp, snd_una);
	l->snd_nxt = READ(tp, snd_nxt);
	l->rcv_nxt = READ(tp, rcv_nxt);
	l->copied_seq = READ(tp, copied_seq);
	l->bytes_sent = READ(tp, bytes_sent);
	l->bytes_acked = READ(tp, bytes_acked);
	l->bytes_received = READ(tp, bytes_received);
	l->linger2 = READ(tp, linger2);
	l->repair = READ_BIT(tp, repair);
	l->retransmits = READ(tp, inet_conn.icsk_retransmits);
	l->probes_out = READ(tp, inet_conn.icsk_probes_out);
	l->user_timeout = READ(tp, inet_conn.icsk_user_timeout);
	l->snd_wnd = READ(tp, snd_wnd) + 1;
	l->mss = READ(tp, mss_cache);
	l->sacked = READ(tp, sacked_out);
	at = READ(tp, lsndtime);
	if (at)
		l->since_sent = now - at + 1;
	at = READ(tp, inet_conn.icsk_ack.lrcvtime);
	if (at)
		l->since_received = now - at + 1;
	if (bpf_core_field_exists(struct tcp_sock___mptcp, is_mptcp)) {
		struct tcp_sock___mptcp *mp = (void *)tp;

		l->is_mptcp = READ(mp, is_mptcp);
	}
	l->urg_seq = READ(tp, urg_seq);
	l->urg_data = READ(tp, urg_data) & 0xff00;
	l->queue = queue_in(sk, tp);
	l->step = step;
	return !l->repair;
}

/* What fill_handshake() tells, of the segment's own fields. */
static __always_inline void story_handshake(struct story *s)
{
	__u32 zero = 0;
	struct handshake *h = bpf_map_lookup_elem(&handshakes, &zero);
	struct tcp_header th;
	struct ipv4_header ip;

	if (!cfg_probe_read || !h || h->sock != s->sock)
		return;
	h->sock = 0;
	/* Of both families: an IPv6 header is longer. */
	if (bpf_probe_read_kernel(&th, sizeof(th), (void *)h->transport) ||
	    bpf_probe_read_kernel(&ip, sizeof(ip), (void *)h->network)) {
		count_lost(LOST_READ);
		return;
	}
	s->seg_seq = bpf_ntohl(th.seq);
	s->seg_ack = bpf_ntohl(th.ack_seq);
	s->seg_flags = th.flags;
	s->seg_window = bpf_ntohs(th.window);
	s->seg_len = h->len - (th.doff_res >> 4) * 4;
	if (ip.ver_ihl >> 4 == 4) {
		s->seg_ttl = ip.ttl;
		s->seg_ip_id = bpf_ntohs(ip.id);
	} else {
		s->seg_ttl = ((struct ipv6_header *)&ip)->hop_limit;
	}
	s->has_segment = 1;
}

/*
 * The story of a socket that is born; NULL: there is no room, and it has none. A
 * place that a socket at the same address has left is taken again: to insert one
 * costs as much as five steps.
 */
static __always_inline struct story *begin_story(void *sk, __u64 born)
{
	__u64 key = (__u64)sk, *left;
	struct story *s;
	__u32 zero = 0;

	s = bpf_map_lookup_elem(&stories, &key);
	if (!s) {
		if (bpf_map_update_elem(&stories, &key, &story_zero, BPF_NOEXIST))
			return NULL;
		s = bpf_map_lookup_elem(&stories, &key);
		if (!s)
			return NULL;
		s->sock = key;
		s->hook = HOOK_STORY;
		s->tasks = STORY_TASKS;
	} else if (s->conn) {
		tell(key); /* its end was missed */
	} else {
		left = bpf_map_lookup_elem(&stories_left, &zero);
		if (left)
			__sync_fetch_and_add(left, -1);
	}
	s->steps = s->has_looks = s->has_segment = 0;
	__builtin_memset(&s->step[STORY_LOCKED], 0, sizeof(s->step[0]) * (STORY_STEPS - STORY_LOCKED));
	__builtin_memset(s->task, 0, sizeof(s->task));
	s->conn = born;
	s->told = 0;
	if (cfg_filter)
		bpf_map_delete_elem(&conns, &key); /* the story says from now on that it is wanted */
	return s;
}

/* The end of a story, told or not. So many places stay for the next sockets: 7 MB. */
#define STORIES_LEFT (1 << 13)

static __always_inline void end_story(struct story *s, __u64 key)
{
	__u32 zero = 0;
	__u64 *left = bpf_map_lookup_elem(&stories_left, &zero);

	if (!left || (__s64)*left >= STORIES_LEFT) {
		bpf_map_delete_elem(&stories, &key);
		return;
	}
	__sync_fetch_and_add(left, 1);
	s->told = 1;
	s->conn = 0;
}

/* Whether a socket has a story, told or not. */
static __always_inline bool has_story(struct sock *sk)
{
	__u64 key = (__u64)sk;

	struct story *s;

	if (!cfg_story)
		return false;
	s = bpf_map_lookup_elem(&stories, &key);
	return s && s->conn;
}

#define CHANGE(from, to) ((from) << 4 | (to))

#define STEP_HOOK(what) ((what) & 0x3f)
#define STEP_WHO(what) ((what) >> 6)

static __always_inline bool acts(__u8 what)
{
	return STEP_HOOK(what) == HOOK_CLOSE || STEP_HOOK(what) == HOOK_SHUTDOWN;
}

/* What was shut when the call's hook was reached: close shuts both ways first, and a FIN that came had shut one. */
static __always_inline __u8 shut_before(__u8 what, int state, __u8 now)
{
	return STEP_HOOK(what) == HOOK_CLOSE ? state == TCP_CLOSE_WAIT : now;
}

/* The last step with the lock held; 0: none. */
static __always_inline __u8 last_step(struct story *s)
{
	__u32 n = s->steps - 1;

	asm volatile("" : "+r"(n));
	return n < STORY_LOCKED ? *(volatile __u8 *)&s->step[n].what : 0;
}

/*
 * A change of a socket's state: true where the story has it. born: of a child
 * whose birth was put off until now.
 */
static __always_inline bool plain_state(struct sock *sk, int from, int to, bool birth, __u64 born)
{
	__u8 who = WHO_NOBODY, look = 0, last;
	bool no = false, taken;
	struct story *s;
	__u64 now;

	if (!cfg_story || !tracing)
		return false;
	now = bpf_ktime_get_ns();
	if (birth) {
		if (from != TCP_CLOSE && from != TCP_LISTEN)
			return false;
		s = begin_story(sk, now);
		if (!s)
			return false;
		story_tuple(s, sk);
		s->state = to;
		if (to == TCP_SYN_SENT) {
			who = WHO_OPENER;
			remember_process();
			if (!take_actor(&s->task[WHO_OPENER])) {
				end_story(s, (__u64)sk);
				return false;
			}
		}
		return take_step(s, HOOK_SET_STATE, who, from | to << 4, now);
	}
	if (born) {
		s = begin_story(sk, born);
		if (!s || !take_step(s, HOOK_SET_STATE, WHO_NOBODY, TCP_LISTEN | TCP_SYN_RECV << 4, born))
			return false;
		story_tuple(s, sk);
		s->state = TCP_SYN_RECV;
	} else {
		s = story_of(sk, &no);
		if (!s)
			return false;
	}
	if (s->state != from || s->steps >= STORY_LOCKED || READ(sk, sk_err) || READ(sk, sk_err_soft))
		return false;
	last = last_step(s);
	switch (CHANGE(from, to)) {
	case CHANGE(TCP_SYN_SENT, TCP_ESTABLISHED):
	case CHANGE(TCP_SYN_RECV, TCP_ESTABLISHED):
		story_tuple(s, sk);
		story_handshake(s);
		if (!story_look(&s->look[LOOK_OPEN], sk, s->steps))
			return false;
		look = 1 << LOOK_OPEN;
		break;
	case CHANGE(TCP_ESTABLISHED, TCP_FIN_WAIT1):
	case CHANGE(TCP_CLOSE_WAIT, TCP_LAST_ACK):
		/* Only close and shutdown make it, in the call whose step was the last. */
		if (!acts(last))
			return false;
		who = STEP_WHO(last);
		if (!story_look(&s->look[LOOK_ACT], sk, s->steps - 1))
			return false;
		s->look[LOOK_ACT].sk_shutdown = shut_before(last, from, s->look[LOOK_ACT].sk_shutdown);
		look = 1 << LOOK_ACT;
		break;
	case CHANGE(TCP_ESTABLISHED, TCP_CLOSE_WAIT):
		if (!story_look(&s->look[LOOK_FIN], sk, s->steps))
			return false;
		look = 1 << LOOK_FIN;
		break;
	case CHANGE(TCP_FIN_WAIT1, TCP_FIN_WAIT2):
		break;
	case CHANGE(TCP_FIN_WAIT1, TCP_CLOSE):
	case CHANGE(TCP_FIN_WAIT2, TCP_CLOSE):
	case CHANGE(TCP_LAST_ACK, TCP_CLOSE):
		if (from != TCP_LAST_ACK && STEP_HOOK(last) != HOOK_TIME_WAIT)
			return false;
		if (!(READ(sk, __sk_common.skc_flags) & 1))
			return false; /* its process may read on, and close it later */
		if (!story_look(&s->look[LOOK_END], sk, s->steps))
			return false;
		look = 1 << LOOK_END;
		break;
	default:
		return false;
	}
	s->state = to;
	taken = take_step(s, HOOK_SET_STATE, who, from | to << 4, now);
	s->has_looks |= look;
	return taken;
}

/* tcp_close, before it has the lock. */
static __always_inline bool plain_close_entry(struct story *s)
{
	if (*(volatile __u8 *)&s->step[STORY_CLOSE_ENTRY].what)
		return false;
	if (!take_actor(&s->task[WHO_CLOSER]))
		return false;
	s->task[WHO_CLOSER].call_on = call_on(s->task[WHO_CLOSER].has, s->task[WHO_CLOSER].syscall, s->task[WHO_CLOSER].task,
					      s->task[WHO_CLOSER].task_flags);
	return take_aside(s, STORY_CLOSE_ENTRY, HOOK_CLOSE_ENTRY, WHO_CLOSER);
}

static __always_inline bool plain_accept(struct story *s)
{
	__u8 first = *(volatile __u8 *)&s->step[0].states;

	if (first != (TCP_LISTEN | TCP_SYN_RECV << 4) || *(volatile __u8 *)&s->step[STORY_ACCEPT].what)
		return false;
	remember_process();
	return take_actor(&s->task[WHO_OPENER]) && take_aside(s, STORY_ACCEPT, HOOK_ACCEPT, WHO_OPENER);
}

/*
 * close and shutdown of an open socket. Neither is looked at here, where a look may
 * cost most: the change of state that follows with the lock held finds the same,
 * and if it is not plain after all, told_act() tells the call in full.
 */
static __always_inline bool plain_act(struct story *s, __u8 hook, __u8 who, __u8 arg)
{
	if (s->state != TCP_ESTABLISHED && s->state != TCP_CLOSE_WAIT)
		return false;
	return take_step(s, hook, who, states_of(s, arg), bpf_ktime_get_ns());
}

static __always_inline bool plain_close(struct story *s)
{
	if (!*(volatile __u8 *)&s->step[STORY_CLOSE_ENTRY].what || s->task[WHO_CLOSER].thread != bpf_get_current_pid_tgid())
		return false;
	return plain_act(s, HOOK_CLOSE, WHO_CLOSER, 0);
}

static __always_inline bool plain_shutdown(struct story *s, int how)
{
	if (!(how & 2) || how > 3 || *(volatile __u64 *)&s->task[WHO_SHUT].thread)
		return false;
	return take_actor(&s->task[WHO_SHUT]) && plain_act(s, HOOK_SHUTDOWN, WHO_SHUT, how);
}

/*
 * Where the last step is a close or shutdown that turns out not to be plain: takes
 * it out of the story, tells the story, and tells the call as its own hook would
 * have. The lock is held. state: before the call.
 */
static __always_inline void told_act(struct sock *sk, int state)
{
	bool unwanted = false;
	struct story *s;
	struct event *e;
	__u64 step, conn;
	__u32 n;
	__u8 what, call;

	if (!cfg_story)
		return;
	s = story_of(sk, &unwanted);
	if (!s)
		return;
	n = s->steps - 1;
	asm volatile("" : "+r"(n));
	if (n >= STORY_LOCKED)
		return;
	step = *(volatile __u64 *)&s->step[n];
	what = step >> 48;
	if (!acts(what))
		return;
	s->steps = n;
	conn = s->conn;
	call = s->task[WHO_CLOSER].call_on;
	e = begin(STEP_HOOK(what), sk);
	if (!e)
		return;
	fill_full(e, sk);
	e->conn = conn;
	e->state = state;
	if (STEP_HOOK(what) == HOOK_SHUTDOWN)
		e->arg = step >> 60;
	else
		e->call_on = call;
	e->sk_shutdown = shut_before(what, state, e->sk_shutdown);
	end(e);
}

static __always_inline bool plain_send_fin(struct story *s)
{
	__u8 last = last_step(s);

	if (STEP_HOOK(last) != HOOK_SET_STATE || STEP_WHO(last) == WHO_NOBODY)
		return false;
	return take_step(s, HOOK_SEND_FIN, STEP_WHO(last), states_of(s, 0), bpf_ktime_get_ns());
}

static __always_inline bool plain_time_wait(struct story *s, struct sock *sk, int substate)
{
	if (substate != TCP_TIME_WAIT || (s->state != TCP_FIN_WAIT1 && s->state != TCP_FIN_WAIT2) ||
	    !(READ(sk, __sk_common.skc_flags) & 1))
		return false;
	return take_step(s, HOOK_TIME_WAIT, WHO_NOBODY, states_of(s, substate), bpf_ktime_get_ns());
}

/*
 * A hook of a socket: true where nothing is to be submitted, since its story has
 * it or nobody wants the socket.
 */
static __always_inline bool plain(__u8 hook, struct sock *sk, int arg)
{
	bool unwanted = false;
	struct story *s;

	if (!cfg_story)
		return false;
	s = story_of(sk, &unwanted);
	if (!s)
		return unwanted;
	switch (hook) {
	case HOOK_ACCEPT:
		return plain_accept(s);
	case HOOK_CLOSE_ENTRY:
		return plain_close_entry(s);
	case HOOK_CLOSE:
		return plain_close(s);
	case HOOK_SHUTDOWN:
		return plain_shutdown(s, arg);
	case HOOK_SEND_FIN:
		return plain_send_fin(s);
	case HOOK_TIME_WAIT:
		return plain_time_wait(s, sk, arg);
	}
	return false;
}

/* The end of a socket: true where it was plain, and its story is told. */
static __always_inline bool plain_destroy(void *sk)
{
	__u64 key = (__u64)sk;
	bool told;
	struct story *s;

	if (!cfg_story || !tracing) /* what is in the map then is read by user space */
		return false;
	if (cfg_filter) {
		__u64 *id = bpf_map_lookup_elem(&conns, &key);

		if (id && *id == NOT_CHOSEN)
			return false;
	}
	s = bpf_map_lookup_elem(&stories, &key);
	if (!s || !s->conn)
		return false;
	told = s->told || s->state != TCP_CLOSE || !take_step(s, HOOK_DESTROY, WHO_NOBODY, TCP_CLOSE, bpf_ktime_get_ns());
	if (told)
		tell(key);
	else
		submit_story(s, 1);
	end_story(s, key);
	return !told;
}

/* close, close_range, dup2, dup3, execve, execveat, exit_group. */
static __always_inline bool closes(int nr)
{
#if defined(__TARGET_ARCH_x86)
	return nr == NR_CLOSE || nr == 436 || nr == 33 || nr == 292 || nr == 59 || nr == 322 || nr == NR_EXIT_GROUP;
#elif defined(__TARGET_ARCH_arm64)
	return nr == NR_CLOSE || nr == 436 || nr == 24 || nr == 221 || nr == 281 || nr == NR_EXIT_GROUP;
#endif
}

/*
 * Whether the last reference to a socket's file is given up by a call that
 * closes files, or by a task's exit: the close that follows says it all. Not where
 * something stands above TCP: that gives the functions back before the close.
 */
static __always_inline bool plain_file_close(struct sock *sk)
{
	struct story_task t = {};

	if (READ(sk, __sk_common.skc_prot) != READ(sk, sk_prot_creator))
		return false;
	if (cfg_task_btf)
		t.task_flags = bpf_get_current_task_btf()->flags;
	else if (cfg_probe_read)
		t.task_flags = BPF_CORE_READ((struct task_struct *)bpf_get_current_task(), flags);
	if (t.task_flags & PF_EXITING)
		return true;
	fill_syscall(&t);
	return t.has & HAS_SYSCALL && !t.task && closes(t.syscall);
}

#endif
