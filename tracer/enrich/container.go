package enrich

import "github.com/tcpbye/tcpbye/tracer/container"

// Container is what a cgroup path tells of who runs the process.
type Container = container.Container

// Systemd is the Runtime of what systemd runs without a container.
const Systemd = container.Systemd

// ContainerOf reads a cgroup path of any hierarchy.
func ContainerOf(path string) Container { return container.Of(path) }
