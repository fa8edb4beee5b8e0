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
	"go.yaml.in/yaml/v3"
)

func sample(t *testing.T) release {
	t.Helper()
	unit, err := os.ReadFile("tcpbye.service")
	if err != nil {
		t.Fatal(err)
	}
	config, err := os.ReadFile("nfpm.yaml")
	if err != nil {
		t.Fatal(err)
	}
	r := release{
		version: "v1.2.3-rc.1", arch: "arm64", commit: "0123456789ab", date: time.Unix(1700000000, 0).UTC(),
		program: bytes.Repeat([]byte("program"), 1000), licences: []byte("others\n"),
		documents: documents{
			readme: []byte("readme\n"), licence: []byte("licence\n"), unit: unit, nfpm: config, catalog: []byte("-- id\n"),
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
	for _, x := range []struct{ version, number, alpine string }{
		{"v1.2.3", "1.2.3", "1.2.3"},
		{"v1.2.3-rc.1", "1.2.3~rc.1", "1.2.3_rc1"},
		{"v0.0.0-20261125103932-12e71df0a1b2", "0.0.0~20261125103932.12e71df0a1b2", "0.0.0_pre20261125103932"},
		{"v1.2.4-0.20261125103932-12e71df0a1b2", "1.2.4~0.20261125103932.12e71df0a1b2", "1.2.4_pre20261125103932"},
		{"v1.2.3-rc.1.0.20261125103932-12e71df0a1b2", "1.2.3~rc.1.0.20261125103932.12e71df0a1b2", "1.2.3_rc1_git20261125103932"},
	} {
		r := release{version: x.version}
		if got := r.number(); got != x.number {
			t.Errorf("%s: %s, want %s", x.version, got, x.number)
		}
		if got, err := r.alpine(); got != x.alpine || err != nil {
			t.Errorf("%s: %s, %v, want %s", x.version, got, err, x.alpine)
		}
	}
	if got, err := (release{version: "v1.2.3-try.1"}).alpine(); err == nil {
		t.Errorf("no apk version, but %s", got)
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
		top: 0o755, top + "tcpbye": 0o755, top + "tcpbye.service": 0o644, top + "tcpbye.catalog": 0o644, top + "README.md": 0o644, top + "LICENSE": 0o644,
		top + "THIRD-PARTY-LICENSES": 0o644, top + "completions/": 0o755, top + "completions/tcpbye.bash": 0o644,
		top + "completions/_tcpbye": 0o644, top + "completions/tcpbye.fish": 0o644,
		top + "man/": 0o755, top + "man/tcpbye.1": 0o644, top + "man/tcpbye-trace.1": 0o644,
	}
	if d := cmp.Diff(want, listing(t, body)); d != "" {
		t.Error(d)
	}
}

// TestStage: what the configuration takes is there, and nothing else is.
func TestStage(t *testing.T) {
	dir := t.TempDir()
	if err := sample(t).stage(dir); err != nil {
		t.Fatal(err)
	}
	var config struct {
		Contents  []struct{ Src string }
		Overrides map[string]struct{ Scripts map[string]string }
	}
	text, err := os.ReadFile(filepath.Join(dir, "nfpm.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(text, &config); err != nil {
		t.Fatal(err)
	}
	used := map[string]bool{"nfpm.yaml": true, "man/tcpbye.1": true, "man/tcpbye-trace.1": true} // the archive has pages as they are
	take := func(pattern string) {
		found, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil || len(found) == 0 {
			t.Errorf("%s: %v, %v", pattern, found, err)
		}
		for _, f := range found {
			name, err := filepath.Rel(dir, f)
			if err != nil {
				t.Fatal(err)
			}
			used[name] = true
		}
	}
	for _, c := range config.Contents {
		take(c.Src)
	}
	for _, o := range config.Overrides {
		for _, script := range o.Scripts {
			take(script)
		}
	}
	err = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if name, err := filepath.Rel(dir, path); err != nil || !used[name] {
			t.Errorf("%s is in no package (%v)", path, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestSame: nothing of the time or of the order of a map is in the archive.
func TestSame(t *testing.T) {
	_, one, err := archive(sample(t))
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if _, two, err := archive(sample(t)); err != nil || !bytes.Equal(one, two) {
			t.Errorf("another time it is different (%v)", err)
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
