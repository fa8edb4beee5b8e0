package lab

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/cavaliergopher/cpio"
	"github.com/google/go-cmp/cmp"

	"github.com/tcpbye/tcpbye/demo/test/lab/wire"
)

type entry struct {
	Name    string
	Mode    cpio.FileMode
	Content string
}

func readArchive(t *testing.T, r io.Reader) []entry {
	t.Helper()
	var got []entry
	for c := cpio.NewReader(r); ; {
		h, err := c.Next()
		if err == io.EOF {
			return got
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(c)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, entry{h.Name, h.Mode, string(content)})
	}
}

func TestArchive(t *testing.T) {
	dir := t.TempDir()
	plain, packed := filepath.Join(dir, "kernel", "plain-mod.ko"), filepath.Join(dir, "kernel", "dummy.ko")
	if err := os.Mkdir(filepath.Dir(plain), 0o755); err != nil {
		t.Fatal(err)
	}
	for file, text := range map[string]string{plain: "plain", packed: "was compressed"} {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("gzip", packed).CombinedOutput(); err != nil {
		t.Fatalf("gzip: %v %s", err, out)
	}
	if err := os.Symlink(dir, filepath.Join(dir, "lib")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(dir, filepath.Join(dir, "modules")); err != nil {
		t.Fatal(err)
	}
	k := kernel{Release: "kernel", dir: dir} // its modules are in dir/lib/modules/kernel

	var buf bytes.Buffer
	a := newArchive(&buf)
	if err := a.file("/init", 0o755, []byte("init")); err != nil {
		t.Fatal(err)
	}
	modules, err := a.addModules(t.Context(), k, []string{"plain-mod.ko", "dummy.ko.gz"})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.file("lab/spec", 0o600, nil); err != nil {
		t.Fatal(err)
	}
	if err := a.close(); err != nil {
		t.Fatal(err)
	}
	want := []entry{
		{"init", cpio.TypeReg | 0o755, "init"},
		{"lab", cpio.TypeDir | 0o755, ""},
		{"lab/modules", cpio.TypeDir | 0o755, ""},
		{"lab/modules/plain-mod.ko", cpio.TypeReg | 0o644, "plain"},
		{"lab/modules/dummy.ko", cpio.TypeReg | 0o644, "was compressed"},
		{"lab/spec", cpio.TypeReg | 0o600, ""},
	}
	if diff := cmp.Diff(want, readArchive(t, &buf)); diff != "" {
		t.Error(diff)
	}
	wantModules := []wire.Module{{File: "/lab/modules/plain-mod.ko"}, {File: "/lab/modules/dummy.ko", Params: "numdummies=0"}}
	if diff := cmp.Diff(wantModules, modules); diff != "" {
		t.Error(diff)
	}
	if _, err := a.addModules(t.Context(), k, []string{"x.ko.brotli"}); err == nil {
		t.Error("an unknown compression is accepted")
	}
}
