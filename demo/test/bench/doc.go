// Package bench measures what tracing costs a connection, beside other tools.
//
// It counts instructions, not time: a guest of the lab whose clock advances one
// nanosecond for each instruction (lab.Config.ICount) gives the same figure
// again within a percent, on any machine and however busy that is.
//
// A connection is both of its ends on one machine, a byte each way, closed by
// the client and then by the server. Its cost is what the guest needs for it more
// than without a tracer, and what the tracer's own threads use afterwards until
// they are quiet: a tracer that works later does not get that for nothing. What
// the tracer uses when nothing happens is measured apart and taken off.
//
// The share of BPF programs is the kernel's own count (kernel.bpf_stats_enabled).
// That counting costs about 85 instructions inside each run, and as much outside, so
// it is done apart, with as many connections again: the first is in the BPF column,
// and neither is in what a connection costs. Whoever compares with figures that were
// taken while the kernel counted takes off 170 for each run.
//
// As many connections as are measured come first and do not count. What a tracer
// keeps grows with what comes at once, and a second time finds it there.
//
// Only tests use this package; make bench runs them.
package bench
