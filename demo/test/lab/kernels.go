package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// series is a line of Debian kernels: where its packages are and what they are
// called. In the patterns ARCH stands for Debian's name of the architecture.
type series struct {
	name   string
	suites []string
	prefix string // of the package names
	// image is the pattern of the package with the kernel. Its group release
	// is the kernel's release, uname -r.
	image string
	// more are the names of further packages that are needed; RELEASE stands
	// for the release.
	more []string
}

// architectures are those that the lab emulates: Go's names, which are also
// Debian's.
var architectures = []string{"amd64", "arm64"}

// catalogue lists the kernels from old to new. The generic flavour it is: the
// cloud flavour has no 9p. The ABI number or the version in the name comes and
// goes with each security update, so the newest that matches is taken.
var catalogue = []series{
	{
		name:   "5.10",
		suites: []string{"bullseye", "bullseye-security"},
		prefix: "linux-image-5.10.0-",
		image:  `^linux-image-(?P<release>5\.10\.0-[0-9]+-ARCH)(-unsigned)?$`,
	},
	{
		name:   "6.1",
		suites: []string{"bookworm", "bookworm-updates", "bookworm-security"},
		prefix: "linux-image-6.1.0-",
		image:  `^linux-image-(?P<release>6\.1\.0-[0-9]+-ARCH)(-unsigned)?$`,
	},
	{
		name:   "6.12",
		suites: []string{"trixie", "trixie-updates", "trixie-security"},
		prefix: "linux-image-6.12.",
		image:  `^linux-image-(?P<release>6\.12\.[0-9.]+\+deb13[0-9.]*-ARCH)(-unsigned)?$`,
	},
	{
		// Here linux-image is a package of dependencies only; the kernel, its
		// modules, and the configuration are packages of their own.
		name:   "7",
		suites: []string{"sid"},
		prefix: "linux-binary-",
		image:  `^linux-binary-(?P<release>7\.[0-9.]+(\+deb[0-9.]+)?-ARCH)$`,
		more:   []string{"linux-modules-RELEASE", "linux-base-RELEASE"},
	},
}

// Kernels returns the names of the kernels that Config.Kernel takes, from old
// to new.
func Kernels() []string {
	var names []string
	for _, s := range catalogue {
		names = append(names, s.name)
	}
	return names
}

// findSeries returns the series of a kernel name. A name with more numbers
// than the catalogue's ("7.2") belongs to the series, and asks for that version.
func findSeries(name, arch string) (series, error) {
	for _, s := range catalogue {
		if name != s.name && !(s.name == "7" && strings.HasPrefix(name, "7.")) {
			continue
		}
		if !slices.Contains(architectures, arch) {
			return series{}, fmt.Errorf("the lab has no kernels for %s, only for %s", arch, strings.Join(architectures, " and "))
		}
		return s, nil
	}
	return series{}, fmt.Errorf("the lab knows no kernel %q; it has %s", name, strings.Join(Kernels(), ", "))
}

// kernel is an unpacked kernel in the cache. Its directory never changes once
// it is there:
//
//	vmlinuz                  the kernel as packaged
//	vmlinux                  amd64: the kernel, decompressed
//	config                   its build configuration
//	lib/modules/RELEASE/     its modules, with the files that depmod makes
type kernel struct {
	Series  string // name in the catalogue
	Arch    string // Go's name, which is Debian's too
	Release string // uname -r
	Version string // of the package
	dir     string
}

func (k kernel) vmlinuz() string    { return filepath.Join(k.dir, "vmlinuz") }
func (k kernel) vmlinux() string    { return filepath.Join(k.dir, "vmlinux") }
func (k kernel) config() string     { return filepath.Join(k.dir, "config") }
func (k kernel) modulesDir() string { return filepath.Join(k.dir, "lib/modules", k.Release) }

// image returns the file that QEMU boots.
func (k kernel) image() string {
	if k.Arch == "amd64" {
		return k.vmlinux()
	}
	return k.vmlinuz()
}

func (k kernel) modules() (moduleTree, error) {
	dep, err := os.ReadFile(filepath.Join(k.modulesDir(), "modules.dep"))
	if err != nil {
		return moduleTree{}, err
	}
	builtin, err := os.ReadFile(filepath.Join(k.modulesDir(), "modules.builtin"))
	if err != nil {
		return moduleTree{}, err
	}
	return parseModules(string(dep), string(builtin))
}

// CacheDir returns where kernels and built programs are kept: the environment
// variable TCPBYE_LAB_CACHE, or tcpbye-lab in the user's cache directory.
func CacheDir() (string, error) {
	if dir := os.Getenv("TCPBYE_LAB_CACHE"); dir != "" {
		return filepath.Abs(dir)
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find a place for the lab's kernels: %w; set TCPBYE_LAB_CACHE", err)
	}
	return filepath.Join(dir, "tcpbye-lab"), nil
}

// lock takes the lock file, waiting for other processes that have it. The
// lock ends with unlock or with the process.
func lock(ctx context.Context, file string, progress io.Writer) (unlock func(), err error) {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == unix.EWOULDBLOCK {
		fmt.Fprintf(progress, "waiting for another lab that works on %s\n", filepath.Dir(file))
		got := make(chan error, 1)
		go func() {
			err := unix.EINTR
			for err == unix.EINTR {
				err, _ = unix.Flock(int(f.Fd()), unix.LOCK_EX).(unix.Errno)
			}
			if err == 0 {
				got <- nil
			} else {
				got <- err
			}
		}()
		select {
		case err = <-got:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", file, err)
	}
	return func() { f.Close() }, nil
}

// Prepare makes sure that the host has what the lab needs (see EnsureHost) and
// that a kernel is in the cache, for an architecture (Go's name; empty: the
// host's). With update set it asks the mirrors whether there is a newer one;
// without, the network is used only if the kernel is not there. It returns the
// kernel's release.
func Prepare(ctx context.Context, name, arch string, update bool, progress io.Writer) (release string, err error) {
	arch = orString(arch, runtime.GOARCH)
	if _, err := findSeries(name, arch); err != nil {
		return "", err
	}
	if err := EnsureHost(ctx, arch, progress); err != nil {
		return "", err
	}
	k, err := fetch(ctx, name, arch, update, orDiscard(progress))
	return k.Release, err
}

func fetch(ctx context.Context, name, arch string, update bool, progress io.Writer) (kernel, error) {
	s, err := findSeries(name, arch)
	if err != nil {
		return kernel{}, err
	}
	cache, err := CacheDir()
	if err != nil {
		return kernel{}, err
	}
	dir := filepath.Join(cache, "kernels", s.name+"-"+arch)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return kernel{}, err
	}
	k, err := readCurrent(dir)
	if errors.Is(err, fs.ErrNotExist) || err == nil && update {
		var unlock func()
		if unlock, err = lock(ctx, filepath.Join(dir, "lock"), progress); err != nil {
			return kernel{}, err
		}
		defer unlock()
		// Whoever had the lock may have fetched it.
		if k, err = readCurrent(dir); err != nil || update {
			k, err = fetchNewest(ctx, s, arch, dir, filepath.Join(cache, "apt", s.name+"-"+arch), progress)
		}
	}
	if err != nil {
		return kernel{}, fmt.Errorf("get the %s kernel %s: %w", arch, s.name, err)
	}
	if name != s.name && k.Release != name && !strings.HasPrefix(k.Release, name+".") {
		return kernel{}, fmt.Errorf("the lab's newest kernel of series %s is %s, not %s", s.name, k.Release, name)
	}
	return k, nil
}

// readCurrent reads which kernel of a series is in use.
func readCurrent(dir string) (kernel, error) {
	text, err := os.ReadFile(filepath.Join(dir, "current.json"))
	if err != nil {
		return kernel{}, err
	}
	var k kernel
	if err := json.Unmarshal(text, &k); err != nil {
		return kernel{}, fmt.Errorf("read %s: %w", filepath.Join(dir, "current.json"), err)
	}
	k.dir = filepath.Join(dir, dirName(k.Release, k.Version))
	return k, nil
}

func dirName(release, version string) string {
	return release + "_" + strings.ReplaceAll(version, ":", ".")
}

// fetchNewest finds the newest kernel of a series on the mirrors, unpacks it
// unless it is there, and makes it the current one.
func fetchNewest(ctx context.Context, s series, arch, dir, aptDir string, progress io.Writer) (kernel, error) {
	for _, program := range []string{"apt-get", "apt-cache", "dpkg", "depmod"} {
		if _, err := findProgram(program); err != nil {
			return kernel{}, err
		}
	}
	m, err := hostMirrors("/etc/apt")
	if err != nil {
		return kernel{}, err
	}
	// The lists are large and soon stale; what is kept is the kernel.
	defer os.RemoveAll(aptDir)
	apt, err := newPrivateApt(aptDir, arch, s.suites, m, progress)
	if err != nil {
		return kernel{}, err
	}
	fmt.Fprintf(progress, "reading the package lists of %s\n", strings.Join(s.suites, ", "))
	stop := heartbeat(progress, func() string {
		return "still reading, " + megabytes(filepath.Join(apt.dir, "state/lists"))
	})
	said, err := apt.update(ctx)
	stop()
	if err != nil {
		return kernel{}, err
	}
	names, err := apt.names(ctx, s.prefix)
	if err != nil {
		return kernel{}, err
	}
	pattern := regexp.MustCompile(strings.ReplaceAll(s.image, "ARCH", arch))
	var failed error
	for _, image := range choose(names, pattern) {
		version, err := apt.version(ctx, image)
		if err != nil {
			return kernel{}, err
		}
		if version == "" {
			continue // known by name only
		}
		k := kernel{Series: s.name, Arch: arch, Version: version}
		k.Release = pattern.FindStringSubmatch(image)[pattern.SubexpIndex("release")]
		k.dir = filepath.Join(dir, dirName(k.Release, k.Version))
		if _, err := os.Stat(k.dir); errors.Is(err, fs.ErrNotExist) {
			packages := []string{image}
			for _, p := range s.more {
				packages = append(packages, strings.ReplaceAll(p, "RELEASE", k.Release))
			}
			err := unpack(ctx, apt, k, packages, progress)
			if errors.Is(err, errDownload) && ctx.Err() == nil {
				// A list can name what the mirror does not have (yet, or any
				// more); the next older one is as good.
				fmt.Fprintln(progress, err)
				failed = errors.Join(failed, err)
				continue
			}
			if err != nil {
				return kernel{}, err
			}
		}
		return k, writeCurrent(dir, k)
	}
	if failed != nil {
		return kernel{}, failed
	}
	err = fmt.Errorf("no package in %s matches %s", strings.Join(s.suites, ", "), pattern)
	if said != "" {
		err = fmt.Errorf("%w; apt-get update said:\n%s", err, said)
	}
	return kernel{}, err
}

func writeCurrent(dir string, k kernel) error {
	text, err := json.Marshal(k)
	if err != nil {
		return err
	}
	tmp := filepath.Join(dir, "current.json.new")
	if err := os.WriteFile(tmp, text, 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(dir, "current.json"))
}

// unpack downloads packages and makes of them the kernel's directory, which
// appears whole or not at all.
func unpack(ctx context.Context, apt *privateApt, k kernel, packages []string, progress io.Writer) error {
	start := time.Now()
	fmt.Fprintf(progress, "fetching %s %s\n", strings.Join(packages, " "), k.Version)
	stop := heartbeat(progress, func() string { return "still fetching " + megabytes(filepath.Join(apt.dir, "download")) })
	debs, err := apt.download(ctx, packages...)
	stop()
	if err != nil {
		return err
	}
	fmt.Fprintf(progress, "unpacking %s\n", k.Release)
	defer heartbeat(progress, func() string { return "still unpacking" })()
	tmp := k.dir + ".new"
	if err := os.RemoveAll(tmp); err != nil {
		return err
	}
	root, dst := filepath.Join(tmp, "unpacked"), kernel{Arch: k.Arch, Release: k.Release, dir: tmp}
	defer os.RemoveAll(tmp)
	for _, d := range []string{root, filepath.Dir(dst.modulesDir())} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	for _, deb := range debs {
		if out, err := exec.CommandContext(ctx, "dpkg", "-x", deb, root).CombinedOutput(); err != nil {
			return fmt.Errorf("unpack %s: %w: %s", filepath.Base(deb), err, out)
		}
	}
	for _, part := range []struct {
		to   string
		from []string // the first that exists is taken
	}{
		{dst.vmlinuz(), []string{"boot/vmlinuz-" + k.Release, "usr/lib/modules/" + k.Release + "/vmlinuz"}},
		{dst.config(), []string{"boot/config-" + k.Release, "usr/lib/modules/" + k.Release + "/config"}},
		{dst.modulesDir(), []string{"lib/modules/" + k.Release, "usr/lib/modules/" + k.Release}},
	} {
		if err := takeFirst(root, part.from, part.to); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(root); err != nil {
		return err
	}
	// The packages have no modules.dep; installing them would make it.
	depmod, err := findProgram("depmod")
	if err != nil {
		return err
	}
	if out, err := exec.CommandContext(ctx, depmod, "-b", tmp, k.Release).CombinedOutput(); err != nil {
		return fmt.Errorf("make modules.dep with depmod: %w: %s", err, out)
	}
	if k.Arch == "amd64" {
		bzImage, err := os.ReadFile(dst.vmlinuz())
		if err != nil {
			return err
		}
		image, err := vmlinux(ctx, bzImage)
		if err != nil {
			return err
		}
		if err := os.WriteFile(dst.vmlinux(), image, 0o644); err != nil {
			return err
		}
	}
	if err := os.Rename(tmp, k.dir); err != nil {
		return err
	}
	fmt.Fprintf(progress, "kernel %s is ready after %.0f s\n", k.Release, time.Since(start).Seconds())
	return nil
}

// takeFirst gives the first of the files that exists another name: a link, as
// programs look for some of them in the module directory too, or for a
// directory, the only one.
func takeFirst(root string, from []string, to string) error {
	for _, f := range from {
		f = filepath.Join(root, f)
		info, err := os.Stat(f)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			return err
		case info.IsDir():
			return os.Rename(f, to)
		}
		return os.Link(f, to)
	}
	return fmt.Errorf("the kernel's packages contain no %s", strings.Join(from, " and no "))
}
