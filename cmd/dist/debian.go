package main

import (
	"bytes"
	"crypto/md5"
	"fmt"
	"slices"
	"strings"
	"time"
)

// debian makes a binary package; deb(5), deb-control(5).
func debian(r release) (string, []byte, error) {
	name := fmt.Sprintf("tcpbye_%s_%s.deb", r.number(), r.arch)
	fail := func(err error) (string, []byte, error) {
		return "", nil, fmt.Errorf("make %s: %w", name, err)
	}
	files, err := r.installed("/usr/share/zsh/vendor-completions")
	if err != nil {
		return fail(err)
	}
	changelog, err := compress(fmt.Appendf(nil, "tcpbye (%s) unstable; urgency=medium\n\n  * Commit %s.\n\n -- %s  %s\n",
		r.number(), r.commit, maintainer, r.date.Format(time.RFC1123Z)))
	if err != nil {
		return fail(err)
	}
	files = append(files,
		file{"/usr/share/doc/tcpbye/changelog.gz", 0o644, changelog},
		file{"/usr/share/doc/tcpbye/copyright", 0o644, slices.Concat(r.licence, []byte("\n"), r.licences)},
		// Go links statically.
		file{"/usr/share/lintian/overrides/tcpbye", 0o644, []byte("tcpbye: statically-linked-binary [usr/bin/tcpbye]\n")},
	)
	slices.SortFunc(files, func(a, b file) int { return strings.Compare(a.path, b.path) })

	var sums bytes.Buffer
	kib := 0
	for _, f := range files {
		fmt.Fprintf(&sums, "%x  %s\n", md5.Sum(f.body), strings.TrimPrefix(f.path, "/"))
		kib += (len(f.body) + 1023) / 1024
	}
	var control bytes.Buffer
	fmt.Fprintf(&control, "Package: tcpbye\nVersion: %s\nArchitecture: %s\nMaintainer: %s\nInstalled-Size: %d\nSection: net\nPriority: optional\nHomepage: %s\nDescription: %s\n",
		r.number(), r.arch, maintainer, kib, homepage, summary)
	for _, line := range description {
		fmt.Fprintf(&control, " %s\n", line)
	}
	head, err := tarball([]file{
		{"/control", 0o644, control.Bytes()},
		{"/md5sums", 0o644, sums.Bytes()},
		{"/postinst", 0o755, r.scripts["deb/postinst"]},
		{"/prerm", 0o755, r.scripts["deb/prerm"]},
		{"/postrm", 0o755, r.scripts["deb/postrm"]},
	}, ".", r.date)
	if err != nil {
		return fail(err)
	}
	data, err := tarball(files, ".", r.date)
	if err != nil {
		return fail(err)
	}
	return name, ar(r.date, []file{
		{"debian-binary", 0o644, []byte("2.0\n")}, {"control.tar.gz", 0o644, head}, {"data.tar.gz", 0o644, data},
	}), nil
}

// ar makes an archive of short names; ar(5).
func ar(date time.Time, members []file) []byte {
	var b bytes.Buffer
	b.WriteString("!<arch>\n")
	for _, m := range members {
		fmt.Fprintf(&b, "%-16s%-12d%-6d%-6d%-8o%-10d`\n", m.path, date.Unix(), 0, 0, 0o100000|m.mode, len(m.body))
		b.Write(m.body)
		if len(m.body)%2 != 0 {
			b.WriteByte('\n')
		}
	}
	return b.Bytes()
}
