package lab

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"strings"
)

const (
	modulePath  = "github.com/tcpbye/tcpbye"
	initPackage = "demo/test/lab/init"
)

// programs are what Build makes for the guest: directories of the module.
var programs = []string{"cmd/tcpbye", "demo/client", "demo/server"}

// goTool runs the go command in the checkout that the current directory, or
// dir, is part of.
func goTool(ctx context.Context, dir, arch string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch)
	out, err := cmd.Output()
	return strings.TrimSpace(string(out)), err
}

// checkout returns the root of the tcpbye module: the one that the current
// directory is in, else the one that this package was compiled from.
func checkout(ctx context.Context) (string, error) {
	dirs := []string{""}
	if _, file, _, ok := runtime.Caller(0); ok && filepath.IsAbs(file) {
		dirs = append(dirs, filepath.Dir(file))
	}
	var first error
	for _, dir := range dirs {
		out, err := goTool(ctx, dir, "amd64", "list", "-m", "-f", "{{.Dir}}", modulePath)
		if err == nil {
			return out, nil
		}
		if first == nil {
			first = commandError("find the checkout of "+modulePath+", which the lab builds its guest programs from; run the lab inside it", err)
		}
	}
	return "", first
}

// compile builds packages of the module at root, statically, into dir, each
// under the last element of its name. The go command builds into the cache,
// where it finds what is up to date; dir gets copies, which a later build does
// not touch while a guest runs them.
func compile(ctx context.Context, root, arch, dir string, packages ...string) error {
	cache, err := CacheDir()
	if err != nil {
		return err
	}
	id := sha256.Sum256([]byte(root))
	bin := filepath.Join(cache, "bin", fmt.Sprintf("%s-%x", arch, id[:6]))
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return err
	}
	unlock, err := lock(ctx, filepath.Join(bin, "lock"), io.Discard)
	if err != nil {
		return err
	}
	defer unlock()
	args := []string{"build", "-buildvcs=false", "-o", bin + "/"}
	for _, p := range packages {
		args = append(args, modulePath+"/"+p)
	}
	if _, err := goTool(ctx, root, arch, args...); err != nil {
		return commandError("build "+strings.Join(packages, ", ")+" for the guest", err)
	}
	for _, p := range packages {
		content, err := os.ReadFile(filepath.Join(bin, path.Base(p)))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, path.Base(p)), content, 0o755); err != nil {
			return err
		}
	}
	return nil
}

// Build makes the programs tcpbye, client and server, as far as the checkout
// has them, as static binaries in dir, for the architecture (Go's name; empty:
// the host's), and returns their files.
func Build(ctx context.Context, dir, arch string, progress io.Writer) ([]string, error) {
	root, err := checkout(ctx)
	if err != nil {
		return nil, err
	}
	var packages, files []string
	for _, p := range programs {
		if main, err := filepath.Glob(filepath.Join(root, p, "*.go")); err == nil && len(main) > 0 {
			packages = append(packages, p)
			files = append(files, filepath.Join(dir, path.Base(p)))
		}
	}
	if len(packages) == 0 {
		return nil, nil
	}
	fmt.Fprintf(orDiscard(progress), "building %s\n", strings.Join(packages, ", "))
	return files, compile(ctx, root, orString(arch, runtime.GOARCH), dir, packages...)
}
