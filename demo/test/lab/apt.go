package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// mirrors are the archives that the machine's own apt uses.
type mirrors struct {
	main     []string // base URIs of the Debian archive
	security []string // base URIs of the Debian security archive
}

// aptSource is one archive of a sources file.
type aptSource struct {
	uri    string
	suites []string
}

// parseOneLine reads the sources.list format: "deb [options] uri suite component…".
func parseOneLine(text string) []aptSource {
	var list []aptSource
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		fields := strings.Fields(line)
		if len(fields) < 1 || fields[0] != "deb" {
			continue
		}
		fields = fields[1:]
		if len(fields) > 0 && strings.HasPrefix(fields[0], "[") {
			end := slices.IndexFunc(fields, func(s string) bool { return strings.HasSuffix(s, "]") })
			if end < 0 {
				continue
			}
			fields = fields[end+1:]
		}
		if len(fields) >= 2 {
			list = append(list, aptSource{uri: fields[0], suites: fields[1:2]})
		}
	}
	return list
}

// parseDeb822 reads the deb822 format of *.sources files: stanzas of fields,
// in which URIs and Suites may each have several values.
func parseDeb822(text string) []aptSource {
	var list []aptSource
	stanza := map[string]string{}
	flush := func() {
		enabled := strings.ToLower(strings.TrimSpace(stanza["enabled"]))
		off := enabled == "no" || enabled == "false" || enabled == "0"
		if slices.Contains(strings.Fields(stanza["types"]), "deb") && !off {
			for _, uri := range strings.Fields(stanza["uris"]) {
				list = append(list, aptSource{uri: uri, suites: strings.Fields(stanza["suites"])})
			}
		}
		clear(stanza)
	}
	field := ""
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		switch {
		case strings.HasPrefix(line, "#"):
		case strings.TrimSpace(line) == "":
			flush()
			field = ""
		case line[0] == ' ' || line[0] == '\t':
			if field != "" {
				stanza[field] += " " + line
			}
		default:
			name, value, ok := strings.Cut(line, ":")
			if !ok {
				field = ""
				continue
			}
			field = strings.ToLower(name)
			stanza[field] = value
		}
	}
	flush()
	return list
}

// pickMirrors finds the Debian archives among the machine's sources: their
// path ends in /debian or /debian-security, which is what tells them from
// other vendors' archives. A source with a suite "…-security" is the security
// archive whatever its path.
func pickMirrors(sources []aptSource) mirrors {
	var m mirrors
	for _, s := range sources {
		u, err := url.Parse(s.uri)
		if err != nil || u.Scheme == "cdrom" {
			continue
		}
		uri := strings.TrimRight(s.uri, "/")
		base := path.Base(strings.TrimRight(u.Path, "/"))
		securitySuite := slices.ContainsFunc(s.suites, func(suite string) bool {
			return strings.HasSuffix(suite, "-security") || strings.HasSuffix(suite, "/updates")
		})
		switch {
		case base == "debian-security", base == "debian" && securitySuite:
			m.security = appendNew(m.security, uri)
		case base == "debian":
			m.main = appendNew(m.main, uri)
		}
	}
	return m
}

func appendNew(list []string, s string) []string {
	if slices.Contains(list, s) {
		return list
	}
	return append(list, s)
}

// hostMirrors reads the sources of the machine's apt below the directory etc
// (normally /etc/apt).
func hostMirrors(etc string) (mirrors, error) {
	var sources []aptSource
	files := []string{filepath.Join(etc, "sources.list")}
	for _, pattern := range []string{"*.list", "*.sources"} {
		more, err := filepath.Glob(filepath.Join(etc, "sources.list.d", pattern))
		if err != nil {
			return mirrors{}, err
		}
		files = append(files, more...)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return mirrors{}, fmt.Errorf("read the machine's apt sources: %w", err)
		}
		if strings.HasSuffix(file, ".sources") {
			sources = append(sources, parseDeb822(string(text))...)
		} else {
			sources = append(sources, parseOneLine(string(text))...)
		}
	}
	m := pickMirrors(sources)
	if len(m.main) == 0 {
		return mirrors{}, fmt.Errorf("the machine's apt sources in %s name no Debian archive (a URI that ends in /debian), so the lab does not know where to fetch kernels", etc)
	}
	return m, nil
}

// debianKeyring signs the archives. It is part of every Debian system.
const debianKeyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

// privateApt is an apt of the lab's own: other suites on the machine's
// mirrors, with state and cache in dir, so that the machine's apt does not
// notice. It still reads the machine's apt.conf.d, where a proxy may be set.
type privateApt struct {
	dir      string
	progress io.Writer
}

// newPrivateApt writes the configuration.
func newPrivateApt(dir, arch string, suites []string, m mirrors, progress io.Writer) (*privateApt, error) {
	a := &privateApt{dir: dir, progress: progress}
	for _, d := range []string{"state/lists/partial", "cache/archives/partial", "empty", "download"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	var sources strings.Builder
	for _, suite := range suites {
		uris := m.main
		if strings.HasSuffix(suite, "-security") {
			uris = m.security
		}
		for _, uri := range uris {
			fmt.Fprintf(&sources, "deb [arch=%s signed-by=%s] %s %s main\n", arch, debianKeyring, uri, suite)
		}
	}
	conf := aptConf(dir, arch)
	for name, text := range map[string]string{"sources.list": sources.String(), "apt.conf": conf, "state/status": ""} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return nil, err
		}
	}
	return a, nil
}

// aptConf returns the configuration that is read after the machine's own. The
// machine's hooks are cleared: they would act on the machine's cache.
func aptConf(dir, arch string) string {
	var b strings.Builder
	for _, kv := range [][2]string{
		{"APT::Architecture", arch},
		{"Dir::State", dir + "/state"},
		{"Dir::State::status", dir + "/state/status"},
		{"Dir::Cache", dir + "/cache"},
		{"Dir::Cache::pkgcache", "pkgcache.bin"},
		{"Dir::Cache::srcpkgcache", ""},
		{"Dir::Etc::sourcelist", dir + "/sources.list"},
		{"Dir::Etc::sourceparts", dir + "/empty"},
		{"Dir::Etc::preferences", dir + "/preferences"},
		{"Dir::Etc::preferencesparts", dir + "/empty"},
		{"Acquire::Languages", "none"},
		{"Acquire::IndexTargets::deb::DEP-11::DefaultEnabled", "false"},
		{"Acquire::Retries", "3"},
		{"APT::Sandbox::User", "root"}, // _apt cannot enter a private cache
		{"Quiet::NoUpdate", "true"},
	} {
		fmt.Fprintf(&b, "%s \"%s\";\n", kv[0], kv[1])
	}
	for _, list := range []string{"APT::Architectures", "APT::Update::Pre-Invoke", "APT::Update::Post-Invoke", "APT::Update::Post-Invoke-Success", "DPkg::Post-Invoke"} {
		fmt.Fprintf(&b, "#clear %s;\n", list)
	}
	fmt.Fprintf(&b, "APT::Architectures { \"%s\"; };\n", arch)
	return b.String()
}

func (a *privateApt) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, append([]string{"-c", filepath.Join(a.dir, "apt.conf")}, args...)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	cmd.Dir = filepath.Join(a.dir, "download")
	return cmd
}

// update fetches the package lists. A suite that cannot be reached is not an
// error as long as others can: what is wanted is looked up afterwards. The
// text is what apt said about failures.
func (a *privateApt) update(ctx context.Context) (text string, err error) {
	var out strings.Builder
	cmd := a.command(ctx, "apt-get", "update")
	cmd.Stdout, cmd.Stderr = progressLines(a.progress), &out
	err = cmd.Run()
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return "", fmt.Errorf("run apt-get update: %w", err)
	}
	return strings.TrimSpace(out.String()), nil
}

// names returns the names of the known packages with a prefix.
func (a *privateApt) names(ctx context.Context, prefix string) ([]string, error) {
	out, err := a.command(ctx, "apt-cache", "pkgnames", prefix).Output()
	if err != nil {
		return nil, commandError("list packages with apt-cache", err)
	}
	return strings.Fields(string(out)), nil
}

// version returns the version that apt would install, or "" if the package
// is known by name only.
func (a *privateApt) version(ctx context.Context, name string) (string, error) {
	out, err := a.command(ctx, "apt-cache", "show", "--no-all-versions", name).Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("ask apt-cache about %s: %w", name, err)
	}
	scan := bufio.NewScanner(strings.NewReader(string(out)))
	for scan.Scan() {
		if v, ok := strings.CutPrefix(scan.Text(), "Version: "); ok {
			return v, nil
		}
	}
	return "", nil
}

var errDownload = errors.New("fetch")

// download fetches packages and returns the paths of the .deb files, which
// apt has checked against the signed package lists.
func (a *privateApt) download(ctx context.Context, names ...string) ([]string, error) {
	dir := filepath.Join(a.dir, "download")
	if err := os.RemoveAll(dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	cmd := a.command(ctx, "apt-get", append([]string{"download"}, names...)...)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = progressLines(a.progress), &out
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%w %s with apt-get: %w: %s", errDownload, strings.Join(names, " "), err, strings.TrimSpace(out.String()))
	}
	debs, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err == nil && len(debs) != len(names) {
		err = fmt.Errorf("fetch %s with apt-get: %d files came", strings.Join(names, " "), len(debs))
	}
	return debs, err
}

// commandError adds what a failed command wrote to its error output.
func commandError(what string, err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) && len(exit.Stderr) > 0 {
		return fmt.Errorf("%s: %w: %s", what, err, strings.TrimSpace(string(exit.Stderr)))
	}
	return fmt.Errorf("%s: %w", what, err)
}
