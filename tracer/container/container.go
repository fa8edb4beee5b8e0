package container

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Systemd is the Runtime of what systemd runs without a container.
const Systemd = "systemd"

// Container is what a cgroup path tells of who runs the process.
type Container struct {
	Runtime string // docker, containerd, cri-o, podman, kubernetes (runtime not told), lxc, nspawn, systemd; "" none
	ID      string // the container's full id or name, or the unit
	Pod     string // Kubernetes pod UID; "" none
}

// String is "runtime/id", hexadecimal ids cut to twelve digits as the runtimes'
// own tools show them; for systemd it is the unit alone.
func (c Container) String() string {
	switch c.Runtime {
	case "":
		return ""
	case Systemd:
		return c.ID
	}
	id := c.ID
	if hexID.MatchString(id) {
		id = id[:12]
	}
	return c.Runtime + "/" + id
}

var (
	hexID = regexp.MustCompile(`^[0-9a-f]{64}$`)
	podID = regexp.MustCompile(`(?:^|-)pod([0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{12}|[0-9a-f]{32})(?:\.slice|$)`)
	scope = regexp.MustCompile(`^([a-z-]+)-([0-9a-f]{64})(?:\.scope)?$`)
	colon = regexp.MustCompile(`^[^:]*:([a-z-]+):([0-9a-f]{64})$`)
	unit  = regexp.MustCompile(`^.+\.(?:service|scope|socket|mount|swap)$`)
)

// prefixes are the names that runtimes put before the id of a container, in a
// systemd scope and, some of them, in a plain directory.
var prefixes = map[string]string{
	"docker":         "docker",
	"cri-containerd": "containerd",
	"containerd":     "containerd",
	"nerdctl":        "containerd",
	"crio":           "cri-o",
	"libpod":         "podman",
	"libpod-payload": "podman",
}

// Of reads a cgroup path of any hierarchy. The innermost container
// counts, so that a container in a container is told; a systemd unit counts only
// outside of any container.
func Of(path string) Container {
	parts := strings.Split(strings.Trim(path, "/"), "/")
	for i := len(parts) - 1; i >= 0; i-- {
		parent := ""
		if i > 0 {
			parent = parts[i-1]
		}
		if c := containerAt(parent, parts[i], parts[:i]); c.Runtime != "" {
			c.Pod = podOf(parts[:i+1])
			return c
		}
	}
	for i := len(parts) - 1; i >= 0; i-- {
		if unit.MatchString(parts[i]) {
			return Container{Runtime: Systemd, ID: parts[i]}
		}
	}
	return Container{}
}

func containerAt(parent, name string, above []string) Container {
	if m := scope.FindStringSubmatch(name); m != nil {
		// libpod-conmon and crio-conmon are the monitors outside the container.
		return Container{Runtime: prefixes[m[1]], ID: m[2]}
	}
	// runc with --systemd-cgroup missing takes systemd's slice:prefix:id as a path.
	if m := colon.FindStringSubmatch(name); m != nil {
		return Container{Runtime: prefixes[m[1]], ID: m[2]}
	}
	if hexID.MatchString(name) {
		switch {
		case parent == "docker" || slices.Contains(above, "ecs"):
			return Container{Runtime: "docker", ID: name}
		case parent == "libpod_parent":
			return Container{Runtime: "podman", ID: name}
		case podID.MatchString(parent):
			return Container{Runtime: "kubernetes", ID: name}
		case parent != "" && len(above) == 1:
			// /NAMESPACE/ID is containerd's own default (ctr, nerdctl).
			return Container{Runtime: "containerd", ID: name}
		}
		return Container{}
	}
	if id, ok := strings.CutPrefix(name, "lxc.payload."); ok && id != "" {
		return Container{Runtime: "lxc", ID: id}
	}
	if parent == "lxc" || parent == "lxc.payload" {
		return Container{Runtime: "lxc", ID: name}
	}
	if parent == "machine.slice" {
		if id, ok := strings.CutPrefix(name, "systemd-nspawn@"); ok {
			return Container{Runtime: "nspawn", ID: unescapeUnit(strings.TrimSuffix(id, ".service"))}
		}
		if id, ok := strings.CutPrefix(name, "machine-"); ok && !strings.HasPrefix(id, `qemu\x2d`) {
			return Container{Runtime: "nspawn", ID: unescapeUnit(strings.TrimSuffix(id, ".scope"))}
		}
	}
	return Container{}
}

// podOf finds the pod of the innermost container: the systemd driver writes the
// UID with underscores, as a dash means a level in a slice's name.
func podOf(parts []string) string {
	for i := len(parts) - 1; i >= 0; i-- {
		name := parts[i]
		if slice, _, ok := strings.Cut(name, ":"); ok {
			name = slice
		}
		if m := podID.FindStringSubmatch(name); m != nil {
			return strings.ReplaceAll(m[1], "_", "-")
		}
	}
	return ""
}

// unescapeUnit undoes systemd-escape(1) for one name: \x2d is a dash.
func unescapeUnit(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) && s[i+1] == 'x' {
			if v, err := strconv.ParseUint(s[i+2:i+4], 16, 8); err == nil {
				b.WriteByte(byte(v))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
