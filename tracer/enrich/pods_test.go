package enrich

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestPods(t *testing.T) {
	dir := t.TempDir()
	id, other := strings.Repeat("ab", 32), strings.Repeat("cd", 32)
	for _, name := range []string{"web-7d4b9_shop_nginx-" + id + ".log", "odd-" + other + ".log", "README"} {
		if err := os.Symlink("/nowhere", filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	p := NewPods(dir)
	c := ContainerOf("/kubepods/burstable/pod7c9d2f60-8a41-4b7e-9c55-0f6f3c1d2e3b/" + id)
	want := Pod{Namespace: "shop", Name: "web-7d4b9", Container: "nginx"}
	if got := p.Of(c); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	// The links go with the container; events of it may come later.
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if got := p.Of(c); got != want {
		t.Errorf("when its link is gone %+v, want %+v", got, want)
	}
	for _, c := range []Container{{}, {Runtime: "docker", ID: id}, {Runtime: "containerd", ID: other, Pod: "x"}, {Runtime: "containerd", ID: "*", Pod: "x"}} {
		if got := p.Of(c); got != (Pod{}) {
			t.Errorf("%+v is %+v", c, got)
		}
	}
	if got := (*Pods)(nil).Of(c); got != (Pod{}) {
		t.Errorf("without a kubelet %+v", got)
	}
}

// TestPodsMiss: a container without a link is not looked for at each event, and found
// some seconds after its link came.
func TestPodsMiss(t *testing.T) {
	dir := t.TempDir()
	id := strings.Repeat("ab", 32)
	p := NewPods(dir)
	now := time.Unix(1000, 0)
	p.now = func() time.Time { return now }
	c := Container{Runtime: "containerd", ID: id, Pod: "x"}
	if got := p.Of(c); got != (Pod{}) {
		t.Errorf("before its link came %+v", got)
	}
	if err := os.Symlink("/nowhere", filepath.Join(dir, "web_shop_nginx-"+id+".log")); err != nil {
		t.Fatal(err)
	}
	now = now.Add(missed - 1)
	if got := p.Of(c); got != (Pod{}) {
		t.Errorf("the directory is read again after %v", missed-1)
	}
	now = now.Add(1)
	want := Pod{Namespace: "shop", Name: "web", Container: "nginx"}
	if got := p.Of(c); got != want {
		t.Errorf("after %v %+v, want %+v", missed, got, want)
	}
}
