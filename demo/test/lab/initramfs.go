package lab

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"

	"github.com/cavaliergopher/cpio"

	"github.com/tcpbye/tcpbye/demo/test/lab/wire"
)

// archive writes an initramfs: a cpio archive in the newc format, in which
// every file's directories come before it. /dev/console is not needed: the
// kernel unpacks a default initramfs of its own first, which has it.
type archive struct {
	w    *cpio.Writer
	dirs map[string]bool
}

func newArchive(w io.Writer) *archive {
	return &archive{w: cpio.NewWriter(w), dirs: map[string]bool{}}
}

// dir adds a directory and those above it. Names are absolute guest paths.
func (a *archive) dir(name string) error {
	name = path.Clean("/" + name)
	if name == "/" || a.dirs[name] {
		return nil
	}
	if err := a.dir(path.Dir(name)); err != nil {
		return err
	}
	a.dirs[name] = true
	return a.w.WriteHeader(&cpio.Header{Name: name[1:], Mode: cpio.TypeDir | 0o755, Links: 2})
}

// file adds a regular file.
func (a *archive) file(name string, mode os.FileMode, content []byte) error {
	name = path.Clean("/" + name)
	if err := a.dir(path.Dir(name)); err != nil {
		return err
	}
	err := a.w.WriteHeader(&cpio.Header{Name: name[1:], Mode: cpio.TypeReg | cpio.FileMode(mode.Perm()), Size: int64(len(content)), Links: 1})
	if err != nil {
		return err
	}
	_, err = a.w.Write(content)
	return err
}

func (a *archive) close() error { return a.w.Close() }

// readModule reads a module file, decompressed: not every kernel decompresses
// modules itself.
func readModule(ctx context.Context, file string) ([]byte, error) {
	var args []string
	switch path.Ext(file) {
	case ".ko":
		return os.ReadFile(file)
	case ".xz":
		args = []string{"xz", "-dc", file}
	case ".zst":
		args = []string{"zstd", "-dcq", file}
	case ".gz":
		args = []string{"gzip", "-dc", file}
	default:
		return nil, fmt.Errorf("the module %s is compressed in a way that the lab does not know", file)
	}
	out, err := exec.CommandContext(ctx, args[0], args[1:]...).Output()
	if err != nil {
		return nil, commandError("decompress the module "+filepath.Base(file), err)
	}
	return out, nil
}

// addModules adds module files of a kernel and returns them as the guest has
// them, in the same order.
func (a *archive) addModules(ctx context.Context, k kernel, files []string) ([]wire.Module, error) {
	var guest []wire.Module
	for _, f := range files {
		content, err := readModule(ctx, filepath.Join(k.modulesDir(), f))
		if err != nil {
			return nil, err
		}
		name, _, _ := strings.Cut(path.Base(f), ".ko")
		to := "/lab/modules/" + name + ".ko"
		if err := a.file(to, 0o644, content); err != nil {
			return nil, err
		}
		guest = append(guest, wire.Module{File: to, Params: moduleParams[moduleName(f)]})
	}
	return guest, nil
}
