//go:build lab

package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tcpbye/tcpbye/demo/test/lab"
)

var distKernels = flag.String("dist.kernels", "6.1", "kernels to install the packages under, by commas, or all")

// TestPackages makes the packages of HEAD and does with them what people do.
func TestPackages(t *testing.T) {
	one := t.TempDir()
	if err := os.Chmod(filepath.Dir(one), 0o755); err != nil { // the guest's apt user reads there
		t.Fatal(err)
	}
	// By its hash: HEAD may be another one when the packages are made again.
	head := strings.TrimSpace(tool(t, "../..", nil, "git", "rev-parse", "HEAD"))
	make1 := options{out: one, source: "../..", commit: head, arches: architectures, progress: os.Stderr}
	files, err := dist(t.Context(), make1)
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != 4*len(architectures)+1 {
		t.Fatalf("made %d files: %v", len(files), files)
	}
	t.Run("static", func(t *testing.T) { static(t, one) })
	t.Run("sums", func(t *testing.T) {
		tool(t, one, nil, "sha256sum", "--check", "--strict", "SHA256SUMS")
	})
	t.Run("rpm", func(t *testing.T) { rpms(t, one) })
	t.Run("apk", func(t *testing.T) { apks(t, one) })
	t.Run("pages", func(t *testing.T) { pages(t, one) })
	t.Run("go install", goInstall)
	t.Run("guest", func(t *testing.T) {
		kernels := strings.Split(*distKernels, ",")
		if *distKernels == "all" {
			kernels = lab.Kernels()
		}
		for _, k := range kernels {
			t.Run(k, func(t *testing.T) { guest(t, k, one) })
		}
	})
	t.Run("same bytes", func(t *testing.T) {
		// Everything is compiled again, in another environment.
		t.Setenv("GOCACHE", t.TempDir())
		t.Setenv("TZ", "Asia/Tokyo")
		t.Setenv("LC_ALL", "C")
		t.Setenv("GOFLAGS", "-ldflags=-X=main.other=1")
		make2 := make1
		make2.out = t.TempDir()
		again, err := dist(t.Context(), make2)
		if err != nil {
			t.Fatal(err)
		}
		if len(again) != len(files) {
			t.Fatalf("%d files, then %d", len(files), len(again))
		}
		for i := range files {
			if filepath.Base(files[i]) != filepath.Base(again[i]) || !bytes.Equal(read(t, files[i]), read(t, again[i])) {
				t.Errorf("%s and %s differ", files[i], again[i])
			}
		}
	})
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// tool runs a program that must succeed.
func tool(t *testing.T, dir string, env []string, name string, args ...string) string {
	t.Helper()
	out, err := command(t.Context(), dir, env, name, args...)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// one file of the directory matches.
func match(t *testing.T, dir, pattern string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil || len(found) != 1 {
		t.Fatalf("%s: %v, %v", pattern, found, err)
	}
	return found[0]
}

// static: the programs are of their architecture and need no interpreter.
func static(t *testing.T, dir string) {
	goroot := strings.TrimSpace(tool(t, dir, nil, "go", "env", "GOROOT"))
	for arch, machine := range map[string]string{"amd64": "\x3e\x00", "arm64": "\xb7\x00"} {
		into := t.TempDir()
		tool(t, into, nil, "tar", "--strip-components=1", "-xzf", match(t, dir, "*-linux-"+arch+".tar.gz"))
		b := read(t, filepath.Join(into, "tcpbye"))
		if string(b[:4]) != "\x7fELF" || string(b[18:20]) != machine {
			t.Errorf("%s: ELF of machine % x", arch, b[18:20])
		}
		count, size := int(b[56])|int(b[57])<<8, 56 // e_phnum, the size of an Elf64_Phdr
		if count == 0 {
			t.Errorf("%s: no program headers", arch)
		}
		const interp = 3 // PT_INTERP
		for i := range count {
			if h := b[64+i*size:]; h[0] == interp {
				t.Errorf("%s: needs an interpreter", arch)
			}
		}
		if bytes.Contains(b, []byte(goroot)) || bytes.Contains(b, []byte(os.TempDir()+"/tcpbye-dist-")) {
			t.Errorf("%s: names directories of this machine", arch)
		}
	}
}

// as rpm and apk call the architectures.
var kernelArch = map[string]string{"amd64": "x86_64", "arm64": "aarch64"}

// apks: an apk is tar archives, compressed one after the other: what it says of
// itself, and its files, which are the rpm's.
func apks(t *testing.T, dir string) {
	for _, arch := range architectures {
		file := match(t, dir, "*_"+kernelArch[arch]+".apk")
		info := tool(t, dir, nil, "tar", "--ignore-zeros", "-xzOf", file, ".PKGINFO")
		for _, want := range []string{"pkgname = tcpbye\n", "arch = " + kernelArch[arch] + "\n", "license = MIT\n"} {
			if !strings.Contains(info, want) {
				t.Errorf("%s: no %q in %s", arch, want, info)
			}
		}
		var got []string
		for line := range strings.Lines(tool(t, dir, nil, "tar", "--ignore-zeros", "-tzf", file)) {
			if p := strings.TrimSpace(line); p[0] != '.' && !strings.HasSuffix(p, "/") {
				got = append(got, "/"+p)
			}
		}
		want := strings.Fields(tool(t, dir, nil, "rpm", "-qp", "--queryformat", "[%{FILENAMES} %{FILEMODES:perms}\n]", match(t, dir, "*."+kernelArch[arch]+".rpm")))
		var files []string
		for i := 0; i+1 < len(want); i += 2 {
			if want[i+1][0] == '-' {
				files = append(files, want[i])
			}
		}
		slices.Sort(got)
		slices.Sort(files)
		if d := cmp.Diff(files, got); d != "" {
			t.Errorf("%s: rpm and apk: %s", arch, d)
		}
	}
}

func rpms(t *testing.T, dir string) {
	for _, arch := range architectures {
		file := match(t, dir, "*."+kernelArch[arch]+".rpm")
		if out := tool(t, dir, nil, "rpm", "--checksig", file); !strings.HasSuffix(out, "digests OK\n") {
			t.Error(out)
		}
		if got := tool(t, dir, nil, "rpm", "-qp", "--queryformat", "%{NAME} %{ARCH} %{OS} %{LICENSE}", file); got != "tcpbye "+kernelArch[arch]+" linux MIT" {
			t.Error(got)
		}
		got := strings.Split(strings.TrimSpace(tool(t, dir, nil, "rpm", "-qpl", file)), "\n")
		for _, want := range []string{
			"/usr/bin/tcpbye", "/usr/lib/systemd/system/tcpbye.service", "/usr/lib/systemd/catalog/tcpbye.catalog", "/usr/share/man/man1/tcpbye.1.gz",
			"/usr/share/bash-completion/completions/tcpbye", "/usr/share/fish/vendor_completions.d/tcpbye.fish",
			"/usr/share/zsh/site-functions/_tcpbye", "/usr/share/licenses/tcpbye/LICENSE", "/usr/share/doc/tcpbye/README.md",
		} {
			if !slices.Contains(got, want) {
				t.Errorf("%s: no %s", arch, want)
			}
		}
		if n := len(tool(t, dir, nil, "rpm2cpio", file)); n < 1<<20 {
			t.Errorf("%s: %d bytes in it", arch, n)
		}
		// The two distributions' packages differ in the licences alone.
		deb := match(t, dir, "*_"+arch+".deb")
		var data []string
		for line := range strings.Lines(tool(t, dir, nil, "sh", "-c", `dpkg-deb --fsys-tarfile "$1" | tar -tf -`, "sh", deb)) {
			if p := strings.TrimSpace(strings.TrimPrefix(line, ".")); !strings.HasSuffix(p, "/") {
				data = append(data, strings.Replace(p, "vendor-completions", "site-functions", 1))
			}
		}
		own := regexp.MustCompile(`^/usr/share/(licenses/tcpbye|lintian|doc/tcpbye/(changelog|copyright)|doc/tcpbye$)`)
		less := func(all []string) []string {
			return slices.Sorted(slices.Values(slices.DeleteFunc(slices.Clone(all), own.MatchString)))
		}
		if d := cmp.Diff(less(data), less(got)); d != "" {
			t.Errorf("%s: deb and rpm: %s", arch, d)
		}
	}
}

// pages: man finds nothing wrong with the pages.
func pages(t *testing.T, dir string) {
	into := t.TempDir()
	tool(t, dir, nil, "dpkg-deb", "-x", match(t, dir, "*_amd64.deb"), into)
	found, err := filepath.Glob(filepath.Join(into, "usr/share/man/man1/tcpbye*.1.gz"))
	if err != nil || len(found) < 6 {
		t.Fatalf("the pages are %v, %v", found, err)
	}
	cmd := exec.Command("man", append([]string{"--warnings", "-l"}, found...)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "MANPAGER=cat")
	var text, warnings bytes.Buffer
	cmd.Stdout, cmd.Stderr = &text, &warnings
	if err := cmd.Run(); err != nil || warnings.Len() > 0 {
		t.Errorf("man: %v: %s", err, &warnings)
	}
	if !strings.Contains(text.String(), "EXIT STATUS") {
		t.Errorf("man shows: %s", &text)
	}
}

// goInstall serves the commit as a module and installs it by name, which no
// replace directive and no file outside of the module may be needed for.
func goInstall(t *testing.T) {
	const module, version = "github.com/tcpbye/tcpbye", "v0.0.1-test"
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	proxy := t.TempDir()
	at := filepath.Join(proxy, module, "@v")
	if err := os.MkdirAll(at, 0o755); err != nil {
		t.Fatal(err)
	}
	// A module has no files of the modules below it.
	zip := []string{"archive", "--format=zip", "--prefix=" + module + "@" + version + "/", "-o", filepath.Join(at, version+".zip"), "HEAD", "--", "."}
	for _, file := range strings.Fields(tool(t, root, nil, "git", "ls-tree", "-r", "--name-only", "HEAD")) {
		if dir, name := filepath.Split(file); dir != "" && name == "go.mod" {
			zip = append(zip, ":(exclude)"+dir)
		}
	}
	tool(t, root, nil, "git", zip...)
	mod := tool(t, root, nil, "git", "show", "HEAD:go.mod")
	for name, body := range map[string]string{
		version + ".mod": mod, version + ".info": fmt.Sprintf(`{"Version":%q}`, version),
		"list": version + "\n", // asked for when go looks whether the module is deprecated
	} {
		if err := os.WriteFile(filepath.Join(at, name), []byte(body), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cache := strings.TrimSpace(tool(t, root, nil, "go", "env", "GOMODCACHE"))
	others := strings.TrimSpace(tool(t, root, nil, "go", "env", "GOPROXY"))
	bin := t.TempDir()
	tool(t, t.TempDir(), []string{
		"GOBIN=" + bin, "CGO_ENABLED=0", "GOWORK=off", "GONOSUMDB=" + module, "GOFLAGS=-modcacherw",
		"GOMODCACHE=" + t.TempDir(), // the version is not a real one
		"GOPROXY=file://" + proxy + ",file://" + filepath.Join(cache, "cache/download") + "," + others,
	}, "go", "install", module+"/cmd/tcpbye@"+version)
	if got := tool(t, bin, nil, filepath.Join(bin, "tcpbye"), "--version"); got != "tcpbye version "+version+"\n" {
		t.Errorf("the version is %q", got)
	}
}

// guest installs, runs and removes the packages for this machine's architecture.
func guest(t *testing.T, kernel, dir string) {
	for _, name := range []string{"rpm", "dpkg", "man", "unshare", "systemd-analyze"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Fatalf("the guest has the host's programs and needs %s: %v", name, err)
		}
	}
	script, err := filepath.Abs("testdata/guest.sh")
	if err != nil {
		t.Fatal(err)
	}
	out := t.TempDir()
	var console bytes.Buffer
	_, err = lab.Run(t.Context(), lab.Config{
		Kernel: kernel, Out: out, Timeout: 25 * time.Minute, Progress: os.Stderr, Stdout: &console, Stderr: &console,
		Args: []string{"sh", script, match(t, dir, "*_"+runtime.GOARCH+".deb"), match(t, dir, "*."+kernelArch[runtime.GOARCH]+".rpm")},
	})
	log, _ := os.ReadFile(filepath.Join(out, "log"))
	if err != nil || !bytes.HasSuffix(log, []byte("== all is well\n")) {
		t.Fatalf("%v\n%s\n%s", err, console.Bytes(), log)
	}
	t.Logf("%s", log)
}
