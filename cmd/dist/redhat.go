package main

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/google/rpmpack"
)

var rpmArch = map[string]string{"amd64": "x86_64", "arm64": "aarch64"}

// redhat makes an rpm. It is not signed.
func redhat(r release) (string, []byte, error) {
	name := fmt.Sprintf("tcpbye-%s-1.%s.rpm", r.number(), rpmArch[r.arch])
	fail := func(err error) (string, []byte, error) {
		return "", nil, fmt.Errorf("make %s: %w", name, err)
	}
	files, err := r.installed("/usr/share/zsh/site-functions")
	if err != nil {
		return fail(err)
	}
	const licences = "/usr/share/licenses/tcpbye"
	files = append(files,
		file{licences + "/LICENSE", 0o644, r.licence},
		file{licences + "/THIRD-PARTY-LICENSES", 0o644, r.licences},
	)
	var requires rpmpack.Relations
	if err := requires.Set("/bin/sh"); err != nil { // of the scripts
		return fail(err)
	}
	p, err := rpmpack.NewRPM(rpmpack.RPMMetaData{
		Name: "tcpbye", Version: r.number(), Release: "1", Arch: rpmArch[r.arch],
		Summary: summary, Description: strings.Join(description, "\n"), Licence: "MIT",
		URL: homepage, Packager: maintainer, BuildTime: r.date,
		BuildHost:  "localhost", // the real one would make each build another
		Compressor: "gzip:9",    // which every rpm reads
		Epoch:      rpmpack.NoEpoch,
		Requires:   requires,
	})
	if err != nil {
		return fail(err)
	}
	dirs := []string{licences, "/usr/share/doc/tcpbye"}
	for _, dir := range dirs {
		p.AddFile(rpmpack.RPMFile{Name: dir, Mode: 0o40755, Owner: "root", Group: "root", MTime: uint32(r.date.Unix())})
	}
	for _, f := range files {
		kind := rpmpack.GenericFile
		switch {
		case strings.HasPrefix(f.path, licences):
			kind = rpmpack.LicenceFile
		case strings.HasPrefix(f.path, "/usr/share/doc/"), strings.HasPrefix(f.path, "/usr/share/man/"):
			kind = rpmpack.DocFile
		}
		p.AddFile(rpmpack.RPMFile{Name: f.path, Body: f.body, Mode: uint(f.mode), Owner: "root", Group: "root", MTime: uint32(r.date.Unix()), Type: kind})
	}
	p.AddPostin(string(r.scripts["rpm/post"]))
	p.AddPreun(string(r.scripts["rpm/preun"]))
	p.AddPostun(string(r.scripts["rpm/postun"]))
	// rpmpack counts the files' bytes here, rpm the whole cpio archive's.
	size := cpioSize("TRAILER!!!", 0)
	for _, dir := range dirs {
		size += cpioSize(dir, 0)
	}
	for _, f := range files {
		size += cpioSize(f.path, len(f.body))
	}
	const payloadSize = 1007 // RPMSIGTAG_PAYLOADSIZE
	p.AddCustomSig(payloadSize, rpmpack.EntryInt32([]int32{int32(size)}))
	var b bytes.Buffer
	if err := p.Write(&b); err != nil {
		return fail(err)
	}
	return name, b.Bytes(), nil
}

// cpioSize is what a file takes in a cpio archive of the new ASCII format: head
// and name, and body, each filled up to 4 bytes.
func cpioSize(name string, body int) int {
	const head = 110
	fill := func(n int) int { return (n + 3) &^ 3 }
	return fill(head+len(name)+1) + fill(body)
}
