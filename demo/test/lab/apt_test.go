package lab

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseOneLine(t *testing.T) {
	const text = `# deb http://commented.example/debian bookworm main
deb http://one.example/debian bookworm main contrib # trailing
deb [arch=amd64 signed-by=/usr/share/keyrings/x.gpg] https://two.example/debian-security bookworm-security main
deb [ arch=amd64 ] http://three.example/debian/ ./
deb-src http://source.example/debian bookworm main
deb [unclosed http://bad.example/debian bookworm main

deb http://short.example/debian
`
	want := []aptSource{
		{"http://one.example/debian", []string{"bookworm"}},
		{"https://two.example/debian-security", []string{"bookworm-security"}},
		{"http://three.example/debian/", []string{"./"}},
	}
	if diff := cmp.Diff(want, parseOneLine(text), cmp.AllowUnexported(aptSource{})); diff != "" {
		t.Error(diff)
	}
}

func TestParseDeb822(t *testing.T) {
	const text = `Types: deb deb-src
# a comment inside a stanza
URIs: http://one.example/debian
  http://two.example/debian
Suites: bookworm
 bookworm-updates
Components: main

Types: deb-src
URIs: http://source.example/debian
Suites: bookworm

enabled: no
types: deb
uris: http://off.example/debian
suites: bookworm


Types: deb
Uris: http://three.example/debian-security/
Suites: bookworm-security
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc
`
	want := []aptSource{
		{"http://one.example/debian", []string{"bookworm", "bookworm-updates"}},
		{"http://two.example/debian", []string{"bookworm", "bookworm-updates"}},
		{"http://three.example/debian-security/", []string{"bookworm-security"}},
	}
	if diff := cmp.Diff(want, parseDeb822(text), cmp.AllowUnexported(aptSource{})); diff != "" {
		t.Error(diff)
	}
}

func TestHostMirrors(t *testing.T) {
	etc := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		file := filepath.Join(etc, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("sources.list.d/vendor.list", "deb https://vendor.example/apt stable main\n")
	if m, err := hostMirrors(etc); err == nil {
		t.Errorf("a machine without a Debian archive: got %v and no error", m)
	}
	write("sources.list", "deb cdrom:[Debian]/debian bookworm main\ndeb http://a.example/debian bookworm main\n")
	write("sources.list.d/debian.sources", `Types: deb
URIs: http://a.example/debian/
Suites: bookworm-updates

Types: deb
URIs: http://a.example/debian-security
Suites: bookworm-security
`)
	write("sources.list.d/second.list", "deb mirror+file:///etc/mirrors/debian bookworm main\ndeb http://b.example/x/debian bookworm-security main\n")
	write("sources.list.d/ignored.txt", "deb http://no.example/debian bookworm main\n")
	got, err := hostMirrors(etc)
	if err != nil {
		t.Fatal(err)
	}
	want := mirrors{
		main:     []string{"http://a.example/debian", "mirror+file:///etc/mirrors/debian"},
		security: []string{"http://b.example/x/debian", "http://a.example/debian-security"},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(mirrors{})); diff != "" {
		t.Error(diff)
	}
}

// TestPrivateApt reads the configuration back with the machine's own apt.
func TestPrivateApt(t *testing.T) {
	if _, err := exec.LookPath("apt-config"); err != nil {
		t.Skip("needs apt, which only Debian systems have")
	}
	dir := t.TempDir()
	m := mirrors{main: []string{"http://a.example/debian"}, security: []string{"http://a.example/debian-security"}}
	a, err := newPrivateApt(dir, "arm64", []string{"bookworm", "bookworm-security"}, m, nil)
	if err != nil {
		t.Fatal(err)
	}
	sources, err := os.ReadFile(filepath.Join(dir, "sources.list"))
	if err != nil {
		t.Fatal(err)
	}
	const want = `deb [arch=arm64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://a.example/debian bookworm main
deb [arch=arm64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://a.example/debian-security bookworm-security main
`
	if diff := cmp.Diff(want, string(sources)); diff != "" {
		t.Error(diff)
	}
	dump, err := a.command(t.Context(), "apt-config", "dump").CombinedOutput()
	if err != nil {
		t.Fatalf("apt-config: %v\n%s", err, dump)
	}
	got := map[string]string{}
	for line := range strings.Lines(string(dump)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		got[key] += value
	}
	for key, want := range map[string]string{
		"APT::Architecture":                  `"arm64";`,
		"APT::Architectures::":               `"arm64";`,
		"Dir::State":                         `"` + dir + `/state";`,
		"Dir::State::status":                 `"` + dir + `/state/status";`,
		"Dir::Cache":                         `"` + dir + `/cache";`,
		"Dir::Etc::sourcelist":               `"` + dir + `/sources.list";`,
		"Dir::Etc::sourceparts":              `"` + dir + `/empty";`,
		"APT::Update::Post-Invoke::":         ``, // the machine's hooks act on the machine's state
		"APT::Update::Post-Invoke-Success::": ``,
	} {
		if got[key] != want {
			t.Errorf("%s is %s, want %s", key, got[key], want)
		}
	}
}
