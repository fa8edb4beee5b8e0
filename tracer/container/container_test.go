package container

import (
	"strings"
	"testing"
)

const (
	id64 = "3f4e0b7c9a1d5e8f2b6c4a7d9e0f1b3c5d7e9f1a2b4c6d8e0f2a4b6c8d0e1f3a"
	id12 = "3f4e0b7c9a1d"
	in64 = "aa4e0b7c9a1d5e8f2b6c4a7d9e0f1b3c5d7e9f1a2b4c6d8e0f2a4b6c8d0e1fff"
	pod  = "7c9d2f60-8a41-4b7e-9c55-0f6f3c1d2e3b"
	pod_ = "7c9d2f60_8a41_4b7e_9c55_0f6f3c1d2e3b"
)

// The paths are those that the runtimes make: v2 and v1 differ in where they
// are mounted and not in the path, so what differs here is the driver.
func TestOf(t *testing.T) {
	for _, c := range []struct {
		name, path string
		want       Container
		shown      string
	}{
		{"docker, systemd driver", "/system.slice/docker-" + id64 + ".scope", Container{"docker", id64, ""}, "docker/" + id12},
		{"docker, cgroupfs driver", "/docker/" + id64, Container{"docker", id64, ""}, "docker/" + id12},
		{"docker, systemd driver in a user session (rootless)", "/user.slice/user-1000.slice/user@1000.service/user.slice/docker-" + id64 + ".scope", Container{"docker", id64, ""}, "docker/" + id12},
		{"docker with a parent", "/jobs.slice/docker-" + id64 + ".scope", Container{"docker", id64, ""}, "docker/" + id12},
		{"docker with systemd inside", "/docker/" + id64 + "/system.slice/nginx.service", Container{"docker", id64, ""}, "docker/" + id12},
		{"docker in a systemd scope with an init scope", "/system.slice/docker-" + id64 + ".scope/init.scope", Container{"docker", id64, ""}, "docker/" + id12},
		{"docker in docker", "/docker/" + in64 + "/docker/" + id64, Container{"docker", id64, ""}, "docker/" + id12},
		{"docker of Amazon ECS", "/ecs/5d3c1a9e8f7b4c2d/" + id64, Container{"docker", id64, ""}, "docker/" + id12},
		{"docker in a cgroup namespace", "/../docker-" + id64 + ".scope", Container{"docker", id64, ""}, "docker/" + id12},

		{"containerd under kubelet, systemd driver", "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + pod_ + ".slice/cri-containerd-" + id64 + ".scope", Container{"containerd", id64, pod}, "containerd/" + id12},
		{"containerd under kubelet, guaranteed", "/kubepods.slice/kubepods-pod" + pod_ + ".slice/cri-containerd-" + id64 + ".scope", Container{"containerd", id64, pod}, "containerd/" + id12},
		{"containerd without SystemdCgroup", "/system.slice/containerd.service/kubepods-besteffort-pod" + pod_ + ".slice:cri-containerd:" + id64, Container{"containerd", id64, pod}, "containerd/" + id12},
		{"containerd in kind", "/docker/" + in64 + "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod" + pod_ + ".slice/cri-containerd-" + id64 + ".scope", Container{"containerd", id64, pod}, "containerd/" + id12},
		{"nerdctl, systemd driver", "/system.slice/nerdctl-" + id64 + ".scope", Container{"containerd", id64, ""}, "containerd/" + id12},
		{"nerdctl, cgroupfs driver", "/default/" + id64, Container{"containerd", id64, ""}, "containerd/" + id12},
		{"kubelet, cgroupfs driver", "/kubepods/burstable/pod" + pod + "/" + id64, Container{"kubernetes", id64, pod}, "kubernetes/" + id12},
		{"kubelet, static pod", "/kubepods/burstable/pod1f0e2d3c4b5a69788796a5b4c3d2e1f0/" + id64, Container{"kubernetes", id64, "1f0e2d3c4b5a69788796a5b4c3d2e1f0"}, "kubernetes/" + id12},

		{"CRI-O, systemd driver", "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod" + pod_ + ".slice/crio-" + id64 + ".scope", Container{"cri-o", id64, pod}, "cri-o/" + id12},
		{"CRI-O, with a container cgroup", "/kubepods.slice/kubepods-pod" + pod_ + ".slice/crio-" + id64 + ".scope/container", Container{"cri-o", id64, pod}, "cri-o/" + id12},
		{"CRI-O, cgroupfs driver", "/kubepods/besteffort/pod" + pod + "/crio-" + id64, Container{"cri-o", id64, pod}, "cri-o/" + id12},
		{"CRI-O's monitor", "/system.slice/crio-conmon-" + id64 + ".scope", Container{Systemd, "crio-conmon-" + id64 + ".scope", ""}, "crio-conmon-" + id64 + ".scope"},

		{"podman, systemd driver", "/machine.slice/libpod-" + id64 + ".scope", Container{"podman", id64, ""}, "podman/" + id12},
		{"podman, crun", "/machine.slice/libpod-" + id64 + ".scope/container", Container{"podman", id64, ""}, "podman/" + id12},
		{"podman, rootless", "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-" + id64 + ".scope", Container{"podman", id64, ""}, "podman/" + id12},
		{"podman, cgroupfs driver", "/libpod_parent/libpod-" + id64, Container{"podman", id64, ""}, "podman/" + id12},
		{"podman under a unit", "/system.slice/web.service/libpod-payload-" + id64, Container{"podman", id64, ""}, "podman/" + id12},
		{"podman's monitor", "/machine.slice/libpod-conmon-" + id64 + ".scope", Container{Systemd, "libpod-conmon-" + id64 + ".scope", ""}, "libpod-conmon-" + id64 + ".scope"},

		{"LXC, v2", "/lxc.payload.web-1/system.slice/nginx.service", Container{"lxc", "web-1", ""}, "lxc/web-1"},
		{"LXC, v1", "/lxc/web-1/init.scope", Container{"lxc", "web-1", ""}, "lxc/web-1"},
		{"LXC's monitor", "/lxc.monitor.web-1", Container{}, ""},
		{"docker in LXC", "/lxc.payload.web-1/system.slice/docker-" + id64 + ".scope", Container{"docker", id64, ""}, "docker/" + id12},
		{"nspawn as a service", "/machine.slice/systemd-nspawn@deb\\x2d12.service/payload", Container{"nspawn", "deb-12", ""}, "nspawn/deb-12"},
		{"nspawn as a scope", "/machine.slice/machine-deb\\x2d12.scope", Container{"nspawn", "deb-12", ""}, "nspawn/deb-12"},
		{"a virtual machine", "/machine.slice/machine-qemu\\x2d1\\x2dvm.scope", Container{Systemd, "machine-qemu\\x2d1\\x2dvm.scope", ""}, "machine-qemu\\x2d1\\x2dvm.scope"},

		{"a service", "/system.slice/nginx.service", Container{Systemd, "nginx.service", ""}, "nginx.service"},
		{"an instance", "/system.slice/system-getty.slice/getty@tty1.service", Container{Systemd, "getty@tty1.service", ""}, "getty@tty1.service"},
		{"a delegated cgroup in a service", "/system.slice/postgresql.service/workers/3", Container{Systemd, "postgresql.service", ""}, "postgresql.service"},
		{"a user's service", "/user.slice/user-1000.slice/user@1000.service/app.slice/syncthing.service", Container{Systemd, "syncthing.service", ""}, "syncthing.service"},
		{"a session", "/user.slice/user-1000.slice/session-3.scope", Container{Systemd, "session-3.scope", ""}, "session-3.scope"},
		{"the first process", "/init.scope", Container{Systemd, "init.scope", ""}, "init.scope"},

		{"the root", "/", Container{}, ""},
		{"none", "", Container{}, ""},
		{"a slice", "/system.slice", Container{}, ""},
		{"an id too short", "/docker/3f4e0b7c9a1d", Container{}, ""},
		{"a digest that is no container", "/a/b/c/" + id64, Container{}, ""},
		{"an unknown prefix", "/system.slice/other-" + id64 + ".scope", Container{Systemd, "other-" + id64 + ".scope", ""}, "other-" + id64 + ".scope"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := Of(c.path)
			if got != c.want {
				t.Errorf("%s\n got %+v\nwant %+v", c.path, got, c.want)
			}
			if got.String() != c.shown {
				t.Errorf("shown as %q, want %q", got, c.shown)
			}
		})
	}
}

func FuzzOf(f *testing.F) {
	f.Add("/system.slice/docker-" + id64 + ".scope")
	f.Add(`/machine.slice/systemd-nspawn@\x2d.service`)
	f.Add("/kubepods.slice/kubepods-pod" + pod_ + ".slice:cri-containerd:" + id64)
	f.Fuzz(func(t *testing.T, path string) {
		c := Of(path)
		if (c.Runtime == "") != (c.String() == "") {
			t.Errorf("%q: %+v is shown as %q", path, c, c)
		}
		if c.Runtime == "" && c != (Container{}) {
			t.Errorf("%q: %+v", path, c)
		}
		if c.Runtime == "docker" && !strings.Contains(path, c.ID) {
			t.Errorf("%q: id %q is not in it", path, c.ID)
		}
	})
}
