package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func sample(t *testing.T) release {
	t.Helper()
	unit, err := os.ReadFile("tcpbye.service")
	if err != nil {
		t.Fatal(err)
	}
	r := release{
		version: "v1.2.3-rc.1", arch: "arm64", commit: "0123456789ab", date: time.Unix(1700000000, 0).UTC(),
		program: bytes.Repeat([]byte("program"), 1000), licences: []byte("others\n"),
		documents: documents{
			readme: []byte("readme\n"), licence: []byte("licence\n"), unit: unit,
			man:  []file{{"tcpbye.1", 0o644, []byte(".TH\n")}, {"tcpbye-trace.1", 0o644, []byte(".TH\n")}},
			bash: []byte("bash\n"), zsh: []byte("zsh\n"), fish: []byte("fish\n"), scripts: map[string][]byte{},
		},
	}
	for _, name := range scriptNames {
		if r.scripts[name], err = os.ReadFile(name); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

func TestNumber(t *testing.T) {
	for version, want := range map[string]string{
		"v1.2.3":                                    "1.2.3",
		"v1.2.3-rc.1":                               "1.2.3~rc.1",
		"v0.0.0-20261125103932-12e71df0a1b2":        "0.0.0~20261125103932.12e71df0a1b2",
		"v1.2.4-0.20261125103932-12e71df0a1b2":      "1.2.4~0.20261125103932.12e71df0a1b2",
		"v1.2.3-rc.1.0.20261125103932-12e71df0a1b2": "1.2.3~rc.1.0.20261125103932.12e71df0a1b2",
	} {
		if got := (release{version: version}).number(); got != want {
			t.Errorf("%s: %s, want %s", version, got, want)
		}
	}
}

// listing names a tar.gz's members with their modes.
func listing(t *testing.T, b []byte) map[string]int64 {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]int64{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		if h.Uid != 0 || h.Gid != 0 || h.ModTime.Unix() != 1700000000 {
			t.Errorf("%s: owner %d:%d, date %s", h.Name, h.Uid, h.Gid, h.ModTime)
		}
		if _, twice := all[h.Name]; twice {
			t.Errorf("%s is there twice", h.Name)
		}
		all[h.Name] = h.Mode
	}
}

func TestArchive(t *testing.T) {
	name, body, err := archive(sample(t))
	if err != nil {
		t.Fatal(err)
	}
	if name != "tcpbye-1.2.3-rc.1-linux-arm64.tar.gz" {
		t.Error(name)
	}
	top := strings.TrimSuffix(name, ".tar.gz") + "/"
	want := map[string]int64{
		top: 0o755, top + "tcpbye": 0o755, top + "tcpbye.service": 0o644, top + "README.md": 0o644, top + "LICENSE": 0o644,
		top + "THIRD-PARTY-LICENSES": 0o644, top + "completions/": 0o755, top + "completions/tcpbye.bash": 0o644,
		top + "completions/_tcpbye": 0o644, top + "completions/tcpbye.fish": 0o644,
		top + "man/": 0o755, top + "man/tcpbye.1": 0o644, top + "man/tcpbye-trace.1": 0o644,
	}
	if d := cmp.Diff(want, listing(t, body)); d != "" {
		t.Error(d)
	}
}

// TestDebian reads the package as deb(5) says, not as it is written.
func TestDebian(t *testing.T) {
	name, body, err := debian(sample(t))
	if err != nil {
		t.Fatal(err)
	}
	if name != "tcpbye_1.2.3~rc.1_arm64.deb" {
		t.Error(name)
	}
	rest, ok := bytes.CutPrefix(body, []byte("!<arch>\n"))
	if !ok {
		t.Fatalf("starts with %q", body[:8])
	}
	var members []string
	parts := map[string][]byte{}
	for len(rest) > 0 {
		head := string(rest[:60])
		if head[58:] != "`\n" {
			t.Fatalf("member head %q", head)
		}
		name := strings.TrimSpace(head[:16])
		size := 0
		for _, c := range strings.TrimSpace(head[48:58]) {
			size = size*10 + int(c-'0')
		}
		members = append(members, name)
		parts[name] = rest[60 : 60+size]
		rest = rest[60+size+size%2:]
	}
	if d := cmp.Diff([]string{"debian-binary", "control.tar.gz", "data.tar.gz"}, members); d != "" {
		t.Error(d)
	}
	if string(parts["debian-binary"]) != "2.0\n" {
		t.Errorf("%q", parts["debian-binary"])
	}
	control := map[string]int64{"./": 0o755, "./control": 0o644, "./md5sums": 0o644, "./postinst": 0o755, "./prerm": 0o755, "./postrm": 0o755}
	if d := cmp.Diff(control, listing(t, parts["control.tar.gz"])); d != "" {
		t.Error(d)
	}
	data := listing(t, parts["data.tar.gz"])
	for name, mode := range map[string]int64{
		"./": 0o755, "./usr/": 0o755, "./usr/bin/": 0o755, "./usr/bin/tcpbye": 0o755,
		"./usr/lib/systemd/system/tcpbye.service": 0o644, "./usr/share/man/man1/tcpbye-trace.1.gz": 0o644,
		"./usr/share/doc/tcpbye/copyright": 0o644, "./usr/share/zsh/vendor-completions/_tcpbye": 0o644,
	} {
		if data[name] != mode {
			t.Errorf("%s: mode %o, want %o", name, data[name], mode)
		}
	}
}

func TestRedHat(t *testing.T) {
	name, body, err := redhat(sample(t))
	if err != nil {
		t.Fatal(err)
	}
	if name != "tcpbye-1.2.3~rc.1-1.aarch64.rpm" {
		t.Error(name)
	}
	if !bytes.HasPrefix(body, []byte{0xed, 0xab, 0xee, 0xdb, 3, 0}) {
		t.Errorf("starts with % x", body[:6])
	}
	for _, file := range []string{"_tcpbye", "tcpbye-trace.1.gz", "tcpbye.service", "/usr/share/licenses/tcpbye/"} {
		if !bytes.Contains(body, append([]byte(file), 0)) {
			t.Errorf("%s is not in it", file)
		}
	}
}

// TestSame: nothing of the time or of the order of a map is in the packages.
func TestSame(t *testing.T) {
	for _, format := range []func(release) (string, []byte, error){archive, debian, redhat} {
		name, one, err := format(sample(t))
		if err != nil {
			t.Fatal(err)
		}
		for range 5 {
			if _, two, err := format(sample(t)); err != nil || !bytes.Equal(one, two) {
				t.Errorf("%s: another time it is different (%v)", name, err)
			}
		}
	}
}

func TestScripts(t *testing.T) {
	for _, name := range scriptNames {
		if out, err := exec.Command("sh", "-n", name).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}

func TestLicenceTexts(t *testing.T) {
	dir := t.TempDir()
	if _, err := licenceTexts(dir); err == nil {
		t.Error("no licence is no error")
	}
	for name, text := range map[string]string{
		"LICENSE.md": "one", "NOTICE": "two", "COPYING-LGPL": "three", "licence": "four", "license.go.tmpl": "five", "licensing.go": "not", "README": "not",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := licenceTexts(dir)
	if want := "three\none\ntwo\nfour\nfive\n"; err != nil || string(got) != want {
		t.Errorf("%q, %v, want %q", got, err, want)
	}
}

func TestArchitectures(t *testing.T) {
	for _, arches := range [][]string{nil, {"386"}} {
		if _, err := dist(t.Context(), options{arches: arches, out: t.TempDir(), source: ".", commit: "HEAD", progress: io.Discard}); err == nil {
			t.Errorf("%v: no error", arches)
		}
	}
}
