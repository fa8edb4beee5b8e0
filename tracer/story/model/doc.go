// Package model says what the kernel half would have told in stories of what it told
// in events: its rules of what is plain (bpf/story.h), over recorded events. Tests
// judge recordings through it.
package model
