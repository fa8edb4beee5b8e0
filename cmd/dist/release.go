package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

const maintainer = "The tcpbye authors <tcpbye@users.noreply.github.com>"

// nfpm makes the packages. Its later versions need modules that not every proxy has.
const nfpm = "github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.43.0"

// release is all that goes into the packages of an architecture.
type release struct {
	version, arch string // as Go has them
	commit        string
	date          time.Time
	program       []byte
	licences      []byte // of what is linked in
	documents
}

// number is the version for deb and rpm, both of which sort a tilde before the
// end: v1.2.3 is 1.2.3, and v1.2.3-rc.1 is 1.2.3~rc.1, before it. A hyphen would
// divide the version from the package's own.
func (r release) number() string {
	number, pre, ok := strings.Cut(strings.TrimPrefix(r.version, "v"), "-")
	if !ok {
		return number
	}
	return number + "~" + strings.ReplaceAll(pre, "-", ".")
}

var goVersion = regexp.MustCompile(`^v(\d+\.\d+\.\d+)(?:-(alpha|beta|rc)\.(\d+))?(?:[-.](?:0\.)?(\d{14})-[0-9a-f]{12})?$`)

// alpine is the version for apk, which knows but a few suffixes: v1.2.3-rc.1 is
// 1.2.3_rc1; a commit on the way to v1.2.3 is 1.2.3_pre and its time.
func (r release) alpine() (string, error) {
	m := goVersion.FindStringSubmatch(r.version)
	if m == nil {
		return "", fmt.Errorf("the version %s cannot be written as apk versions are: its pre-release is not alpha.N, beta.N or rc.N", r.version)
	}
	number, pre, n, commit := m[1], m[2], m[3], m[4]
	if pre != "" {
		number += "_" + pre + n
	}
	switch {
	case commit != "" && pre == "":
		number += "_pre" + commit
	case commit != "":
		number += "_git" + commit
	}
	return number, nil
}

// files are those of the archive for every distribution, from which the packages
// are made too.
func (r release) files() []file {
	files := []file{
		{"tcpbye", 0o755, r.program},
		{"tcpbye.service", 0o644, r.unit},
		{"tcpbye.catalog", 0o644, r.catalog},
		{"README.md", 0o644, r.readme},
		{"LICENSE", 0o644, r.licence},
		{"THIRD-PARTY-LICENSES", 0o644, r.licences},
		{"completions/tcpbye.bash", 0o644, r.bash},
		{"completions/_tcpbye", 0o644, r.zsh},
		{"completions/tcpbye.fish", 0o644, r.fish},
	}
	for _, page := range r.man {
		files = append(files, file{"man/" + page.path, page.mode, page.body})
	}
	return files
}

// archive is for every other distribution.
func archive(r release) (string, []byte, error) {
	top := fmt.Sprintf("tcpbye-%s-linux-%s", strings.TrimPrefix(r.version, "v"), r.arch)
	files := r.files()
	for i := range files {
		files[i].path = path.Join(top, files[i].path)
	}
	body, err := tarball(files, r.date)
	if err != nil {
		return "", nil, fmt.Errorf("make the archive for %s: %w", r.arch, err)
	}
	return top + ".tar.gz", body, nil
}

// stage lays the release out in a directory, as nfpm.yaml wants it.
func (r release) stage(dir string) error {
	files := r.files()
	for name, body := range r.scripts {
		files = append(files, file{name, 0o755, body})
	}
	for _, page := range r.man {
		body, err := compress(page.body)
		if err != nil {
			return err
		}
		files = append(files, file{"compressed/" + page.path + ".gz", 0o644, body})
	}
	changelog, err := compress(fmt.Appendf(nil, "tcpbye (%s) unstable; urgency=medium\n\n  * Commit %s.\n\n -- %s  %s\n",
		r.number(), r.commit, maintainer, r.date.Format(time.RFC1123Z)))
	if err != nil {
		return err
	}
	files = append(files,
		file{"nfpm.yaml", 0o644, r.nfpm},
		file{"debian/changelog.gz", 0o644, changelog},
		file{"debian/copyright", 0o644, slices.Concat(r.licence, []byte("\n"), r.licences)},
		// Go links statically.
		file{"debian/overrides", 0o644, []byte("tcpbye: statically-linked-binary [usr/bin/tcpbye]\n")},
	)
	for _, f := range files {
		name := filepath.Join(dir, f.path)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(name, f.body, fs.FileMode(f.mode)); err != nil {
			return err
		}
		if err := os.Chmod(name, fs.FileMode(f.mode)); err != nil { // whatever the umask is
			return err
		}
	}
	return nil
}

// packages makes the deb, rpm and apk in a directory.
func (r release) packages(ctx context.Context, work string) ([]artefact, error) {
	dir, out := filepath.Join(work, "package", r.arch), filepath.Join(work, "packages", r.arch)
	if err := os.MkdirAll(out, 0o755); err != nil {
		return nil, fmt.Errorf("make a directory for the packages: %w", err)
	}
	if err := r.stage(dir); err != nil {
		return nil, fmt.Errorf("lay the package out: %w", err)
	}
	alpine, err := r.alpine()
	if err != nil {
		return nil, err
	}
	var made []artefact
	for _, p := range []struct{ packager, version, release string }{{"deb", r.number(), ""}, {"rpm", r.number(), "1"}, {"apk", alpine, "0"}} {
		env := []string{"GOFLAGS=", "GOWORK=off", "ARCH=" + r.arch, "VERSION=" + p.version, "RELEASE=" + p.release, "MAINTAINER=" + maintainer,
			fmt.Sprintf("SOURCE_DATE_EPOCH=%d", r.date.Unix())}
		if _, err := command(ctx, dir, env, "go", "run", nfpm, "package", "--config", "nfpm.yaml", "--packager", p.packager, "--target", out); err != nil {
			return nil, fmt.Errorf("make the %s: %w", p.packager, err)
		}
	}
	entries, err := os.ReadDir(out)
	if err != nil {
		return nil, fmt.Errorf("find the packages: %w", err)
	}
	for _, e := range entries {
		body, err := os.ReadFile(filepath.Join(out, e.Name()))
		if err != nil {
			return nil, fmt.Errorf("read a package: %w", err)
		}
		made = append(made, artefact{e.Name(), body})
	}
	return made, nil
}

// tarball is a tar.gz of the files, all root's and of one date, with the
// directories above them.
func tarball(files []file, date time.Time) ([]byte, error) {
	files = slices.Clone(files)
	slices.SortFunc(files, func(a, b file) int { return strings.Compare(a.path, b.path) })
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	w := tar.NewWriter(z)
	header := tar.Header{ModTime: date, Uname: "root", Gname: "root", Format: tar.FormatGNU}
	seen := map[string]bool{".": true, "/": true}
	for _, f := range files {
		var above []string
		for dir := path.Dir(f.path); !seen[dir]; dir = path.Dir(dir) {
			seen[dir] = true
			above = append(above, dir)
		}
		for _, dir := range slices.Backward(above) {
			h := header
			h.Typeflag, h.Name, h.Mode = tar.TypeDir, dir+"/", 0o755
			if err := w.WriteHeader(&h); err != nil {
				return nil, err
			}
		}
		h := header
		h.Typeflag, h.Name, h.Mode, h.Size = tar.TypeReg, f.path, f.mode, int64(len(f.body))
		if err := w.WriteHeader(&h); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.body); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// compress has neither name nor date in it, as gzip -n.
func compress(body []byte) ([]byte, error) {
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err := io.Copy(z, bytes.NewReader(body)); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}
