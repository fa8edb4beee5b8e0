package lab

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

const (
	modulePath  = "github.com/tcpbye/tcpbye"
	initPackage = modulePath + "/demo/lab/init"
)

// Programs are the packages, by the name of the program, that Build makes for
// the guest.
var programs = []struct{ name, pkg string }{
	{"tcpbye", modulePath + "/cmd/tcpbye"},
	{"client", modulePath + "/demo/client"},
	{"server", modulePath + "/demo/server"},
}

// goTool runs the go command in the checkout that the current directory, or
// dir, is part of.
func goTool(ctx context.Context, dir, arch string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch, "GOFLAGS=-buildvcs=false")
	out, err := cmd.Output()
	return strings.TrimSpace(string(out)), err
}

// checkout returns the root of the tcpbye module that dir is in.
func checkout(ctx context.Context, dir string) (string, error) {
	out, err := goTool(ctx, dir, "amd64", "list", "-m", "-f", "{{.Path}} {{.Dir}}", modulePath)
	if err != nil {
		return "", commandError("find the checkout of "+modulePath+", which the lab builds its guest programs from; run the lab inside it", err)
	}
	_, root, _ := strings.Cut(out, " ")
	return root, nil
}

// build compiles a package to file, statically.
func build(ctx context.Context, root, arch, pkg, file string) error {
	if _, err := goTool(ctx, root, arch, "build", "-trimpath", "-o", file, pkg); err != nil {
		return commandError("build "+pkg+" for the guest", err)
	}
	return nil
}

// Build makes the programs tcpbye, client and server, as far as the checkout
// has them, as static binaries in dir, for the architecture (Go's name).
func Build(ctx context.Context, dir, arch string, progress io.Writer) error {
	root, err := checkout(ctx, "")
	if err != nil {
		return err
	}
	for _, p := range programs {
		if _, err := os.Stat(filepath.Join(root, strings.TrimPrefix(p.pkg, modulePath))); errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err := build(ctx, root, arch, p.pkg, filepath.Join(dir, p.name)); err != nil {
			return err
		}
	}
	return nil
}
