/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * The filter in the kernel: which sockets are worth an event at all. It lets
 * more through than the filter of user space, never less: an address or a port
 * that is not known yet matches, and so does either end of a connection.
 *
 * What it decides of a socket at first sight it keeps in `conns` as the id
 * NOT_CHOSEN, so that every later hook of a socket that nobody wants costs one
 * look-up. A birth decides anew: the address may have been another socket's. A
 * listener's child has no addresses yet when it is born (inet_csk_clone_lock
 * changes the state first, up to 6.17): its birth is put off, UNDECIDED,
 * until the next change of its state.
 *
 * Not here, since they are learnt late: who owns a connection and how it ends.
 */
#ifndef TCPBYE_FILTER_H
#define TCPBYE_FILTER_H

#define FILTER_MAX 8
#define NOT_CHOSEN 1 /* no socket is seen in the first nanosecond */
#define UNDECIDED (1ULL << 63) /* beside the time of birth */

struct port_range {
	__u16 first, last; /* host byte order */
};

/* IPv4 as an IPv4-mapped address. Network byte order. */
struct prefix {
	__u32 addr[4], mask[4];
};

const volatile bool cfg_filter = false;
const volatile __u32 cfg_ports = 0, cfg_locals = 0, cfg_remotes = 0, cfg_namespaces = 0; /* how many; 0: all match */
const volatile struct port_range cfg_port[FILTER_MAX] = {};
const volatile struct prefix cfg_local[FILTER_MAX] = {}, cfg_remote[FILTER_MAX] = {};
const volatile __u32 cfg_netns[FILTER_MAX] = {}; /* inode numbers */

/* What the filter looks at; all zero: not known. */
struct tuple {
	__u32 local[4], remote[4]; /* network byte order, IPv4 as mapped */
	__u32 netns;
	__u16 sport, dport; /* host byte order */
};

static __always_inline bool any_address(const __u32 *a)
{
	/* 0.0.0.0 is mapped, too. */
	return !a[0] && !a[1] && !a[3] && (!a[2] || a[2] == bpf_htonl(0xffff));
}

static __always_inline bool loopback(const __u32 *a)
{
	if (a[0] || a[1])
		return false;
	if (a[2] == bpf_htonl(0xffff))
		return (bpf_ntohl(a[3]) >> 24) == 127;
	return !a[2] && a[3] == bpf_htonl(1);
}

static __always_inline bool in_prefix(const volatile struct prefix *p, const __u32 *a)
{
	return !((a[0] ^ p->addr[0]) & p->mask[0]) && !((a[1] ^ p->addr[1]) & p->mask[1]) &&
	       !((a[2] ^ p->addr[2]) & p->mask[2]) && !((a[3] ^ p->addr[3]) & p->mask[3]);
}

#define SOME(n, list, i, ok)                                   \
	({                                                     \
		bool __found = !(n);                           \
		_Pragma("unroll") for (__u32 i = 0; i < FILTER_MAX; i++) \
			if (i < (n) && (ok))                   \
				__found = true;                \
		__found;                                       \
	})

static __always_inline bool port_matches(__u16 port)
{
	return SOME(cfg_ports, cfg_port, i, cfg_port[i].first <= port && port <= cfg_port[i].last);
}

static __always_inline bool local_matches(const __u32 *a)
{
	return any_address(a) || SOME(cfg_locals, cfg_local, i, in_prefix(&cfg_local[i], a));
}

static __always_inline bool remote_matches(const __u32 *a)
{
	return any_address(a) || SOME(cfg_remotes, cfg_remote, i, in_prefix(&cfg_remote[i], a));
}

/* The ports that the kernel chooses from for a socket that has none (net.ipv4.ip_local_port_range). */
static __always_inline struct port_range local_ports(struct sock *sk)
{
	struct net *net = READ(sk, __sk_common.skc_net.net);
	struct port_range all = {.first = 0, .last = 65535};

	if (!net)
		return all;
	if (bpf_core_field_exists(struct net___old, ipv4.ip_local_ports.range)) {
		struct net___old *old = (void *)net;

		all.first = READ(old, ipv4.ip_local_ports.range[0]);
		all.last = READ(old, ipv4.ip_local_ports.range[1]);
	} else if (bpf_core_field_exists(struct net, ipv4.ip_local_ports.range)) {
		__u32 range = READ(net, ipv4.ip_local_ports.range);

		all.first = range;
		all.last = range >> 16;
	}
	return all;
}

/* Whether a port that the kernel is about to choose can be one of them. */
static __always_inline bool chosen_port_matches(struct sock *sk)
{
	struct port_range all = local_ports(sk);

	return SOME(cfg_ports, cfg_port, i, cfg_port[i].first <= all.last && all.first <= cfg_port[i].last);
}

static __always_inline bool tuple_matches(const struct tuple *t)
{
	/* A port that is not known matches. */
	if (cfg_ports && t->dport && t->sport && !port_matches(t->dport) && !port_matches(t->sport))
		return false;
	/* The other end of a connection that is wanted has its addresses the other way round. */
	if ((cfg_locals || cfg_remotes) && !(local_matches(t->local) && remote_matches(t->remote)) &&
	    !(local_matches(t->remote) && remote_matches(t->local)))
		return false;
	/*
	 * The other end of a connection that is wanted may be in any namespace,
	 * unless the connection does not leave this one.
	 */
	if (cfg_namespaces && t->netns && (loopback(t->local) || loopback(t->remote)) &&
	    !SOME(cfg_namespaces, cfg_netns, i, cfg_netns[i] == t->netns))
		return false;
	return true;
}

static __always_inline void tuple_of(struct tuple *t, struct sock *sk)
{
	if (cfg_namespaces) {
		struct net *net = READ(sk, __sk_common.skc_net.net);

		if (net)
			t->netns = READ(net, ns.inum);
	}
	if (cfg_ports) {
		t->sport = READ(sk, __sk_common.skc_num);
		t->dport = bpf_ntohs(READ(sk, __sk_common.skc_dport));
	}
	if (!cfg_locals && !cfg_remotes && !cfg_namespaces)
		return;
	if (READ(sk, __sk_common.skc_family) == AF_INET6) {
		FILL_ADDR6(t->local, sk, __sk_common.skc_v6_rcv_saddr);
		FILL_ADDR6(t->remote, sk, __sk_common.skc_v6_daddr);
		return;
	}
	t->local[2] = t->remote[2] = bpf_htonl(0xffff);
	t->local[3] = READ(sk, __sk_common.skc_rcv_saddr);
	t->remote[3] = READ(sk, __sk_common.skc_daddr);
}

/* Whether a socket that stands in no map, such as a mini-socket, may be wanted. */
static __always_inline bool may_match(struct sock *sk)
{
	struct tuple t = {};

	if (!cfg_filter)
		return true;
	tuple_of(&t, sk);
	return tuple_matches(&t);
}

/* The same of an event's own addresses, where it has them. */
static __always_inline bool event_may_match(const struct event *e)
{
	struct tuple t = {};

	if (!cfg_filter || !(e->has & HAS_TUPLE))
		return true;
	t.netns = e->netns;
	t.sport = e->sport;
	t.dport = e->dport;
	if (e->family == AF_INET6) {
		__builtin_memcpy(t.local, e->laddr, 16);
		__builtin_memcpy(t.remote, e->raddr, 16);
	} else {
		t.local[2] = t.remote[2] = bpf_htonl(0xffff);
		__builtin_memcpy(&t.local[3], e->laddr, 4);
		__builtin_memcpy(&t.remote[3], e->raddr, 4);
	}
	return tuple_matches(&t);
}

/* Whether a socket may be wanted; `connecting`: its connect(2) has just begun, and perhaps it has no port yet. */
static __always_inline bool chosen(struct sock *sk, bool birth, bool connecting)
{
	__u64 key = (__u64)sk, not = NOT_CHOSEN;
	struct tuple t = {};
	__u64 *id;

	if (!cfg_filter)
		return true;
	if (!birth) {
		id = bpf_map_lookup_elem(&conns, &key);
		if (id && !(*id & UNDECIDED))
			return *id != NOT_CHOSEN;
		/* A story has been chosen, and no id as long as it is not told. */
		if (cfg_story && !id) {
			struct story *s = bpf_map_lookup_elem(&stories, &key);

			if (s && s->conn)
				return true;
		}
	} else if (!READ(sk, __sk_common.skc_dport)) {
		not = UNDECIDED | bpf_ktime_get_ns();
		bpf_map_update_elem(&conns, &key, &not, BPF_ANY);
		return false;
	}
	tuple_of(&t, sk);
	if (tuple_matches(&t) && !(connecting && cfg_ports && !t.sport && !port_matches(t.dport) && !chosen_port_matches(sk)))
		return true;
	/* Where the map is full the next hook decides again. */
	bpf_map_update_elem(&conns, &key, &not, BPF_ANY);
	return false;
}

/* When a socket was born whose birth was put off, once; 0: it was not. */
static __always_inline __u64 put_off(struct sock *sk)
{
	__u64 key = (__u64)sk, *id;

	if (!cfg_filter)
		return 0;
	id = bpf_map_lookup_elem(&conns, &key);
	if (!id || !(*id & UNDECIDED))
		return 0;
	return *id &= ~UNDECIDED;
}

#endif
