package main

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// source is a clone of the commit.
type source struct {
	dir    string
	commit string    // hash
	date   time.Time // the committer's, UTC
}

// program is a build for an architecture.
type program struct {
	body     []byte
	version  string // as the go command stamped it: vX.Y.Z, or a pseudo-version
	licences []byte
}

// documents are the same for all architectures.
type documents struct {
	readme, licence, unit, nfpm []byte
	catalog                     []byte // of the journal's messages
	man                         []file // tcpbye.1, …
	bash, zsh, fish             []byte
	scripts                     map[string][]byte // of the packages: deb/postinst, …
}

var scriptNames = []string{"deb/postinst", "deb/prerm", "deb/postrm", "rpm/post", "rpm/preun", "rpm/postun"}

// file is a part of a package.
type file struct {
	path string // absolute in a package, relative in an archive
	mode int64  // permissions
	body []byte
}

func clone(ctx context.Context, o options, dir string) (*source, error) {
	hash, err := command(ctx, o.source, nil, "git", "rev-parse", "--verify", "--quiet", o.commit+"^{commit}")
	if err != nil {
		return nil, fmt.Errorf("find the commit %s in %s, which must be a git checkout: %w", o.commit, o.source, err)
	}
	s := &source{dir: dir, commit: strings.TrimSpace(string(hash))}
	dirty, err := command(ctx, o.source, nil, "git", "status", "--porcelain")
	if err != nil {
		return nil, fmt.Errorf("ask git for changed files: %w", err)
	}
	if len(dirty) > 0 {
		fmt.Fprintf(o.progress, "dist: there are changed files; the packages are of commit %.12s, without them\n", s.commit)
	}
	from, err := filepath.Abs(o.source)
	if err != nil {
		return nil, err
	}
	if _, err := command(ctx, "", nil, "git", "clone", "--quiet", "--shared", "--no-checkout", from, dir); err != nil {
		return nil, fmt.Errorf("clone the checkout: %w", err)
	}
	if _, err := command(ctx, dir, nil, "git", "checkout", "--quiet", "--detach", s.commit); err != nil {
		return nil, fmt.Errorf("check the commit out: %w", err)
	}
	text, err := command(ctx, dir, nil, "git", "show", "--no-patch", "--format=%ct", s.commit)
	if err != nil {
		return nil, fmt.Errorf("ask for the commit's date: %w", err)
	}
	seconds, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		return nil, fmt.Errorf("read the commit's date: %w", err)
	}
	s.date = time.Unix(seconds, 0).UTC()
	return s, nil
}

// build leaves a static program in a file of the directory. The settings that
// could come from the user's environment and change the bytes are set.
func (s *source) build(ctx context.Context, dir, arch string) (string, error) {
	out := filepath.Join(dir, "tcpbye-"+arch)
	_, err := command(ctx, s.dir, goEnv(arch),
		"go", "build", "-trimpath", "-buildvcs=true", "-mod=readonly", "-ldflags=-s -w", "-o", out, "./cmd/tcpbye")
	if err != nil {
		return "", fmt.Errorf("build tcpbye for %s: %w", arch, err)
	}
	return out, nil
}

func goEnv(arch string) []string {
	return []string{
		"GOOS=linux", "GOARCH=" + arch, "GOAMD64=v1", "GOARM64=v8.0",
		"CGO_ENABLED=0", "GOFLAGS=", "GOEXPERIMENT=", "GOFIPS140=off", "GOWORK=off",
	}
}

func (s *source) program(ctx context.Context, dir, arch string) (program, error) {
	path, err := s.build(ctx, dir, arch)
	if err != nil {
		return program{}, err
	}
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return program{}, fmt.Errorf("read the version in the program: %w", err)
	}
	// (devel): git did not tell; +dirty: the clone is not the commit.
	if !strings.HasPrefix(info.Main.Version, "v") || strings.Contains(info.Main.Version, "+") {
		return program{}, fmt.Errorf("the go command gave the version %q to the commit %.12s, which no package can have", info.Main.Version, s.commit)
	}
	p := program{version: info.Main.Version}
	if p.body, err = os.ReadFile(path); err != nil {
		return program{}, fmt.Errorf("read the program: %w", err)
	}
	if p.licences, err = s.licences(ctx, arch); err != nil {
		return program{}, err
	}
	return p, nil
}

var licenceName = regexp.MustCompile(`(?i)^(licen[cs]e|copying|notice)([.-].*)?$`)

// licences are the texts that must go with a program that other people's code
// is linked into: each module's, and Go's own.
func (s *source) licences(ctx context.Context, arch string) ([]byte, error) {
	goroot, err := command(ctx, s.dir, goEnv(arch), "go", "env", "GOROOT")
	if err != nil {
		return nil, fmt.Errorf("ask for Go's directory: %w", err)
	}
	list, err := command(ctx, s.dir, goEnv(arch), "go", "list", "-mod=readonly", "-deps",
		"-f", "{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}}\t{{.Dir}}{{end}}{{end}}", "./cmd/tcpbye")
	if err != nil {
		return nil, fmt.Errorf("list the modules in the program: %w", err)
	}
	parts := [][2]string{{"Go", strings.TrimSpace(string(goroot))}}
	modules := strings.Split(strings.TrimSpace(string(list)), "\n")
	slices.Sort(modules)
	for _, m := range slices.Compact(modules) {
		if name, dir, ok := strings.Cut(m, "\t"); ok {
			parts = append(parts, [2]string{name, dir})
		}
	}
	var b bytes.Buffer
	b.WriteString("tcpbye contains code of these projects, under these licences.\n")
	for _, p := range parts {
		texts, err := licenceTexts(p[1])
		if err != nil {
			return nil, fmt.Errorf("the licence of %s: %w", p[0], err)
		}
		fmt.Fprintf(&b, "\n%s\n%s\n\n%s", strings.Repeat("=", 78), p[0], texts)
	}
	return b.Bytes(), nil
}

func licenceTexts(dir string) ([]byte, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	for _, e := range entries {
		if e.IsDir() || !licenceName.MatchString(e.Name()) {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		b.Write(append(bytes.TrimSpace(text), '\n'))
	}
	if b.Len() == 0 {
		return nil, fmt.Errorf("there is none in %s, so the program may not be given to others: %w", dir, fs.ErrNotExist)
	}
	return b.Bytes(), nil
}

// document takes the man pages and the completions from the program itself,
// built for this machine.
func (s *source) document(ctx context.Context, work string) (documents, error) {
	if runtime.GOOS != "linux" {
		return documents{}, errors.New("the program is asked for its man pages and completions, so this must be Linux")
	}
	dir := filepath.Join(work, "host")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return documents{}, err
	}
	path, err := s.build(ctx, dir, runtime.GOARCH)
	if err != nil {
		return documents{}, err
	}
	var d documents
	for _, f := range []struct {
		name string
		into *[]byte
	}{{"README.md", &d.readme}, {"LICENSE", &d.licence}, {"cmd/dist/tcpbye.service", &d.unit}, {"cmd/dist/nfpm.yaml", &d.nfpm}} {
		if *f.into, err = os.ReadFile(filepath.Join(s.dir, f.name)); err != nil {
			return d, fmt.Errorf("read a file of the package: %w", err)
		}
	}
	d.scripts = map[string][]byte{}
	for _, name := range scriptNames {
		if d.scripts[name], err = os.ReadFile(filepath.Join(s.dir, "cmd/dist", name)); err != nil {
			return d, fmt.Errorf("read a script of the package: %w", err)
		}
	}
	if d.catalog, err = command(ctx, dir, nil, path, "export", "--catalog"); err != nil {
		return d, fmt.Errorf("have the journal's catalog written: %w", err)
	}
	pages := filepath.Join(dir, "man")
	epoch := []string{fmt.Sprintf("SOURCE_DATE_EPOCH=%d", s.date.Unix())}
	if _, err := command(ctx, dir, epoch, path, "gen-man", pages); err != nil {
		return d, fmt.Errorf("have the man pages written: %w", err)
	}
	names, err := filepath.Glob(filepath.Join(pages, "*.1"))
	if err != nil || len(names) == 0 {
		return d, fmt.Errorf("find the man pages that were written: %w", errors.Join(err, fs.ErrNotExist))
	}
	for _, n := range names {
		body, err := os.ReadFile(n)
		if err != nil {
			return d, fmt.Errorf("read a man page: %w", err)
		}
		d.man = append(d.man, file{filepath.Base(n), 0o644, body})
	}
	for _, c := range []struct {
		shell string
		into  *[]byte
	}{{"bash", &d.bash}, {"zsh", &d.zsh}, {"fish", &d.fish}} {
		if *c.into, err = command(ctx, dir, nil, path, "completion", c.shell); err != nil {
			return d, fmt.Errorf("have the completion for %s written: %w", c.shell, err)
		}
	}
	return d, nil
}

// command returns the standard output; an error has the standard error.
func command(ctx context.Context, dir string, env []string, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), env...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		if text := strings.TrimSpace(stderr.String()); text != "" {
			return nil, fmt.Errorf("%s %s: %w: %s", name, args[0], err, text)
		}
		return nil, fmt.Errorf("%s %s: %w", name, args[0], err)
	}
	return stdout.Bytes(), nil
}
