// Package story is what the kernel half keeps of a socket whose life is plain: its
// steps, who took them, and a few full looks at the socket (struct story,
// bpf/story.h). It is told once, at the end or when the life stops being plain, and
// stands for the events that would have told the same.
//
// It does no I/O and knows nothing of BPF.
package story
