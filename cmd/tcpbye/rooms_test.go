package main

import (
	"encoding/json"
	"errors"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/tcpbye/tcpbye/"

type pkg struct {
	ImportPath string
	Dir        string
	GoFiles    []string
	Imports    []string
	Deps       []string
}

func packages(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-deps", "-json=ImportPath,Dir,GoFiles,Imports,Deps", module+"...")
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("%v: %s", err, exit.Stderr)
		}
		t.Fatal(err)
	}
	var all []pkg
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(p.ImportPath, module) {
			p.ImportPath = strings.TrimPrefix(p.ImportPath, module)
			all = append(all, p)
		}
	}
	if len(all) < 10 {
		t.Fatalf("only %d packages", len(all))
	}
	return all
}

// floor numbers the rooms: imports go down.
func floor(path string) int {
	return slices.Index([]string{"bpf", "tracer", "demo", "cmd"}, strings.SplitN(path, "/", 2)[0])
}

// TestRooms holds the direction of imports and each room's rules.
func TestRooms(t *testing.T) {
	for _, p := range packages(t) {
		if floor(p.ImportPath) < 0 {
			t.Errorf("%s is in no room: the top level holds bpf, tracer, demo and cmd", p.ImportPath)
		}
		for _, i := range p.Imports {
			if rest, ours := strings.CutPrefix(i, module); ours && floor(rest) > floor(p.ImportPath) {
				t.Errorf("%s imports %s: imports go cmd, demo, tracer, bpf", p.ImportPath, rest)
			}
			if strings.HasPrefix(i, "github.com/cilium/ebpf") && p.ImportPath != "bpf" && p.ImportPath != "tracer" {
				t.Errorf("%s imports %s: only bpf and tracer may", p.ImportPath, i)
			}
			if rest, ours := strings.CutPrefix(i, module+"demo/test"); ours && p.ImportPath != "cmd/lab" && !strings.HasPrefix(p.ImportPath, "demo/test") {
				t.Errorf("%s imports demo/test%s: only tests run that", p.ImportPath, rest)
			}
			if strings.HasPrefix(i, "github.com/olekukonko/tablewriter") && p.ImportPath != "tracer/report" {
				t.Errorf("%s imports %s: only tracer/report may", p.ImportPath, i)
			}
			if strings.HasPrefix(i, "github.com/gopacket/") && !slices.Contains([]string{"tracer/report", "tracer/annotate", "demo/harness"}, p.ImportPath) {
				t.Errorf("%s imports %s: only tracer/report, tracer/annotate and demo/harness may", p.ImportPath, i)
			}
			if strings.HasPrefix(i, "charm.land/bubbletea") && p.ImportPath != "tracer/screen" && p.ImportPath != "cmd/tcpbye" {
				t.Errorf("%s imports %s: only tracer/screen and cmd/tcpbye may", p.ImportPath, i)
			}
		}
		switch p.ImportPath {
		case "tracer/event", "tracer/story", "tracer/conn", "tracer/verdict", "tracer/filter", "tracer/report", "tracer/screen", "tracer/hosts", "tracer/segments":
			// On another system its numbers are others than in a recording.
			if slices.Contains(p.Imports, "golang.org/x/sys/unix") || slices.Contains(p.Imports, "syscall") {
				t.Errorf("%s imports the numbers of the system that it is built for; those of events are in tracer/linux", p.ImportPath)
			}
		}
		switch p.ImportPath {
		case "tracer/pcapng", "tracer/annotate":
			for _, i := range p.Imports {
				if i == "os" || i == "net" || i == "log" || i == "sync" || strings.HasPrefix(i, "os/") || i == "golang.org/x/sys/unix" {
					t.Errorf("%s imports %s: it reads and writes what it is given", p.ImportPath, i)
				}
			}
		case "tracer/event", "tracer/conn", "tracer/verdict", "tracer/hosts", "tracer/segments", "tracer/rollout", "tracer/fault", "tracer/finding", "tracer/proxy":
			for _, d := range p.Deps {
				if strings.HasPrefix(d, "github.com/cilium/ebpf") {
					t.Errorf("%s depends on %s: it is pure", p.ImportPath, d)
				}
			}
			for _, i := range p.Imports {
				if i == "os" || i == "io" || i == "net" || i == "log" || i == "sync" || strings.HasPrefix(i, "os/") || strings.HasPrefix(i, "net/http") {
					t.Errorf("%s imports %s: it is pure", p.ImportPath, i)
				}
			}
		}
		if p.ImportPath == "demo/harness" || p.ImportPath == "demo/scenario" {
			for _, d := range p.Deps {
				if d == module+"tracer" {
					t.Errorf("%s depends on the tracer: no mistake may be shared by both", p.ImportPath)
				}
			}
		}
		checkFiles(t, p)
	}
}

// checkFiles: nothing below a main prints to the terminal, exits, panics or
// reads flags; every package has a doc.go.
func checkFiles(t *testing.T, p pkg) {
	t.Helper()
	main := false
	for _, name := range p.GoFiles {
		path := filepath.Join(p.Dir, name)
		src, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, src, parser.PackageClauseOnly)
		if err != nil {
			t.Fatal(err)
		}
		if f.Name.Name == "main" {
			main = true
			continue
		}
		for _, word := range []string{"os.Exit(", "log.Fatal", "panic(", "fmt.Print(", "fmt.Printf(", "fmt.Println(", "os.Args", "flag.Parse(", "os.Stdout", "os.Stderr"} {
			for n, line := range strings.Split(string(src), "\n") {
				if strings.Contains(line, word) && !strings.HasPrefix(strings.TrimSpace(line), "//") {
					t.Errorf("%s/%s:%d: %s belongs in a main", p.ImportPath, name, n+1, word)
				}
			}
		}
	}
	if !main && !slices.Contains(p.GoFiles, "doc.go") {
		t.Errorf("%s has no doc.go", p.ImportPath)
	}
}
