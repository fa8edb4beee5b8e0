package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// architectures are those that the BPF objects are made for.
var architectures = []string{"amd64", "arm64"}

type options struct {
	out, source, commit string
	arches              []string
	progress            io.Writer
}

// stale are the names of earlier packages.
var stale = []string{"tcpbye-*.tar.gz", "tcpbye_*.deb", "tcpbye-*.rpm", "tcpbye_*.apk", "SHA256SUMS"}

// artefact is a file of the release.
type artefact struct {
	name string
	body []byte
}

// dist makes the packages and returns their paths.
func dist(ctx context.Context, o options) ([]string, error) {
	for _, arch := range o.arches {
		if !slices.Contains(architectures, arch) {
			return nil, fmt.Errorf("no architecture %q: there is %s", arch, strings.Join(architectures, ", "))
		}
	}
	if len(o.arches) == 0 {
		return nil, errors.New("no architecture to build for")
	}
	work, err := os.MkdirTemp("", "tcpbye-dist-")
	if err != nil {
		return nil, fmt.Errorf("make a directory to build in: %w", err)
	}
	defer os.RemoveAll(work)
	src, err := clone(ctx, o, filepath.Join(work, "source"))
	if err != nil {
		return nil, err
	}
	docs, err := src.document(ctx, work)
	if err != nil {
		return nil, err
	}
	var made []artefact
	for _, arch := range o.arches {
		fmt.Fprintf(o.progress, "dist: linux/%s\n", arch)
		prog, err := src.program(ctx, work, arch)
		if err != nil {
			return nil, err
		}
		r := release{version: prog.version, arch: arch, commit: src.commit, date: src.date, program: prog.body, licences: prog.licences, documents: docs}
		name, body, err := archive(r)
		if err != nil {
			return nil, err
		}
		packages, err := r.packages(ctx, work)
		if err != nil {
			return nil, err
		}
		made = append(append(made, artefact{name, body}), packages...)
	}
	slices.SortFunc(made, func(a, b artefact) int { return strings.Compare(a.name, b.name) })
	var sums bytes.Buffer
	for _, a := range made {
		fmt.Fprintf(&sums, "%x  %s\n", sha256.Sum256(a.body), a.name)
	}
	made = append(made, artefact{"SHA256SUMS", sums.Bytes()})

	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return nil, fmt.Errorf("make the output directory: %w", err)
	}
	for _, pattern := range stale {
		old, err := filepath.Glob(filepath.Join(o.out, pattern))
		if err != nil {
			return nil, fmt.Errorf("look for earlier packages: %w", err)
		}
		for _, f := range old {
			if err := os.Remove(f); err != nil {
				return nil, fmt.Errorf("remove an earlier package: %w", err)
			}
		}
	}
	var paths []string
	for _, a := range made {
		path := filepath.Join(o.out, a.name)
		if err := os.WriteFile(path, a.body, 0o644); err != nil {
			return paths, fmt.Errorf("write a package: %w", err)
		}
		paths = append(paths, path)
	}
	return paths, nil
}
