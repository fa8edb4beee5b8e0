// Package container reads from the path of a cgroup which container, pod or systemd unit
// a process belongs to.
//
// It is pure: a path goes in, and nothing is looked up.
package container
