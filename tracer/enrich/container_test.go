package enrich

import "testing"

const (
	id64 = "3f4e0b7c9a1d5e8f2b6c4a7d9e0f1b3c5d7e9f1a2b4c6d8e0f2a4b6c8d0e1f3a"
	id12 = "3f4e0b7c9a1d"
	in64 = "aa4e0b7c9a1d5e8f2b6c4a7d9e0f1b3c5d7e9f1a2b4c6d8e0f2a4b6c8d0e1fff"
	pod  = "7c9d2f60-8a41-4b7e-9c55-0f6f3c1d2e3b"
	pod_ = "7c9d2f60_8a41_4b7e_9c55_0f6f3c1d2e3b"
)

func TestCgroupPath(t *testing.T) {
	for _, c := range []struct{ name, file, want string }{
		{"v2", "0::/system.slice/docker-" + id64 + ".scope\n", "/system.slice/docker-" + id64 + ".scope"},
		{"v1", "12:pids:/docker/" + id64 + "\n4:memory:/docker/" + id64 + "\n1:name=systemd:/docker/" + id64 + "\n", "/docker/" + id64},
		{"hybrid, docker on v1", "12:pids:/docker/" + id64 + "\n1:name=systemd:/docker/" + id64 + "\n0::/system.slice/containerd.service\n", "/docker/" + id64},
		{"hybrid, docker on both", "12:pids:/docker/" + in64 + "\n0::/docker/" + id64 + "\n", "/docker/" + id64},
		{"hybrid, a service", "12:pids:/system.slice/ssh.service\n5:cpu,cpuacct:/\n1:name=systemd:/system.slice/ssh.service\n0::/system.slice/ssh.service\n", "/system.slice/ssh.service"},
		{"v1, a service without controllers", "4:memory:/\n1:name=systemd:/system.slice/ssh.service\n", "/system.slice/ssh.service"},
		{"v1, a controller alone", "4:memory:/batch/7\n1:name=systemd:/\n0::/\n", "/batch/7"},
		{"the root", "1:name=systemd:/\n0::/\n", "/"},
		{"a colon in the path", "0::/a:b:c\n", "/a:b:c"},
		{"nothing", "", "/"},
	} {
		if got := cgroupPath([]byte(c.file)); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}
