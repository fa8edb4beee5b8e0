package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"
)

// What the packages say of tcpbye.
const (
	homepage   = "https://github.com/tcpbye/tcpbye"
	maintainer = "The tcpbye authors <tcpbye@users.noreply.github.com>"
	summary    = "tell who ended each TCP connection, how and why"
)

var description = []string{
	"tcpbye tells, for every TCP connection on this machine, who ended it, how, why,",
	"and which bytes were lost, from the kernel's own events. It loads BPF programs",
	"into a kernel from 5.10 on with BTF. The service, which writes each end to the",
	"journal, is not enabled by default.",
}

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

// installed are the files that deb and rpm share; zsh is where that
// distribution's zsh looks for the completions of packages.
//
// The unit is below /usr/lib, where systemd looks on distributions with and
// without a merged /usr.
func (r release) installed(zsh string) ([]file, error) {
	files := []file{
		{"/usr/bin/tcpbye", 0o755, r.program},
		{"/usr/lib/systemd/system/tcpbye.service", 0o644, r.unit},
		{"/usr/share/bash-completion/completions/tcpbye", 0o644, r.bash},
		{"/usr/share/fish/vendor_completions.d/tcpbye.fish", 0o644, r.fish},
		{path.Join(zsh, "_tcpbye"), 0o644, r.zsh},
		{"/usr/share/doc/tcpbye/README.md", 0o644, r.readme},
	}
	for _, page := range r.man {
		body, err := compress(page.body)
		if err != nil {
			return nil, err
		}
		files = append(files, file{"/usr/share/man/man1/" + page.path + ".gz", 0o644, body})
	}
	return files, nil
}

// archive is for every other distribution.
func archive(r release) (string, []byte, error) {
	top := fmt.Sprintf("tcpbye-%s-linux-%s", strings.TrimPrefix(r.version, "v"), r.arch)
	files := []file{
		{"tcpbye", 0o755, r.program},
		{"tcpbye.service", 0o644, r.unit},
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
	for i := range files {
		files[i].path = path.Join(top, files[i].path)
	}
	body, err := tarball(files, "", r.date)
	if err != nil {
		return "", nil, fmt.Errorf("make the archive for %s: %w", r.arch, err)
	}
	return top + ".tar.gz", body, nil
}

// tarball is a tar.gz of the files, all root's and of one date, with the
// directories above them. The names get the prefix.
func tarball(files []file, prefix string, date time.Time) ([]byte, error) {
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
	if prefix != "" {
		h := header
		h.Typeflag, h.Name, h.Mode = tar.TypeDir, prefix+"/", 0o755
		if err := w.WriteHeader(&h); err != nil {
			return nil, err
		}
	}
	for _, f := range files {
		var above []string
		for dir := path.Dir(f.path); !seen[dir]; dir = path.Dir(dir) {
			seen[dir] = true
			above = append(above, dir)
		}
		for _, dir := range slices.Backward(above) {
			h := header
			h.Typeflag, h.Name, h.Mode = tar.TypeDir, prefix+dir+"/", 0o755
			if err := w.WriteHeader(&h); err != nil {
				return nil, err
			}
		}
		h := header
		h.Typeflag, h.Name, h.Mode, h.Size = tar.TypeReg, prefix+f.path, f.mode, int64(len(f.body))
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
