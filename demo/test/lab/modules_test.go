package lab

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

const dep = `kernel/net/9p/9pnet.ko.xz: kernel/fs/netfs/netfs.ko.xz
kernel/net/9p/9pnet_virtio.ko.xz: kernel/net/9p/9pnet.ko.xz kernel/fs/netfs/netfs.ko.xz
kernel/fs/9p/9p.ko.xz: kernel/net/9p/9pnet.ko.xz kernel/fs/netfs/netfs.ko.xz
kernel/fs/netfs/netfs.ko.xz:
kernel/net/sched/sch_netem.ko:
kernel/drivers/net/veth.ko:
kernel/net/ipv4/tcp_diag.ko: kernel/net/ipv4/inet_diag.ko
kernel/net/ipv4/inet_diag.ko:
kernel/drivers/net/snd-pcm.ko.zst:
`

func TestModuleOrder(t *testing.T) {
	tree, err := parseModules(dep, "kernel/drivers/virtio/virtio_pci.ko\nkernel/drivers/char/virtio-console.ko\n")
	if err != nil {
		t.Fatal(err)
	}
	files, missing, err := tree.order([]string{"virtio_pci", "virtio_console", "9p", "9pnet_virtio", "nosuch", "tcp_diag", "inet-diag", "9p", "snd_pcm"})
	if err != nil {
		t.Fatal(err)
	}
	wantFiles := []string{
		"kernel/fs/netfs/netfs.ko.xz", "kernel/net/9p/9pnet.ko.xz", "kernel/fs/9p/9p.ko.xz", "kernel/net/9p/9pnet_virtio.ko.xz",
		"kernel/net/ipv4/inet_diag.ko", "kernel/net/ipv4/tcp_diag.ko", "kernel/drivers/net/snd-pcm.ko.zst",
	}
	if diff := cmp.Diff(wantFiles, files); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"nosuch"}, missing); diff != "" {
		t.Error(diff)
	}
	// The initramfs relies on it: more modules do not change the beginning.
	begin, _, err := tree.order([]string{"9p"})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(files[:len(begin)], begin); diff != "" {
		t.Error(diff)
	}
}

func TestModuleErrors(t *testing.T) {
	if _, err := parseModules("no colon here\n", ""); err == nil {
		t.Error("a line without a colon is accepted")
	}
	for name, dep := range map[string]string{
		"cycle":   "a.ko: b.ko\nb.ko: a.ko\n",
		"missing": "a.ko: b.ko\n",
	} {
		tree, err := parseModules(dep, "")
		if err != nil {
			t.Fatal(err)
		}
		if files, _, err := tree.order([]string{"a"}); err == nil {
			t.Errorf("%s: order %v and no error", name, files)
		}
	}
}
