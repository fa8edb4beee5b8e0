package enrich

import (
	"bytes"
	"debug/elf"
	"debug/gosym"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

func hexNumber(t testing.TB, s string) uint64 {
	t.Helper()
	v, err := strconv.ParseUint(s, 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func symbolsOf(t testing.TB) *Symbols {
	t.Helper()
	return limitedSymbols(t, 64, usual)
}

func limitedSymbols(t testing.TB, max int, most limits) *Symbols {
	t.Helper()
	s, err := newSymbols("/proc", max, most)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		select {
		case <-s.closed:
		default:
			s.Close()
		}
	})
	return s
}

var goBuilds = []struct {
	name string
	args []string
}{
	{"exe", nil},
	{"exe-stripped", []string{"-ldflags=-s -w"}},
	{"pie-stripped", []string{"-buildmode=pie", "-ldflags=-s -w"}},
	{"cgo-stripped", []string{"-tags=withcgo", "-ldflags=-s -w -linkmode=external"}},
	{"cgo-pie-stripped", []string{"-tags=withcgo", "-buildmode=pie", "-ldflags=-s -w -linkmode=external"}},
}

// What the program's own runtime says of the same stack is the truth.
func TestGoStack(t *testing.T) {
	for _, b := range goBuilds {
		t.Run(b.name, func(t *testing.T) {
			if strings.HasPrefix(b.name, "cgo") {
				if _, err := exec.LookPath("gcc"); err != nil {
					t.Skip("no gcc on this machine to link cgo with")
				}
			}
			h := start(t, build(t, "go-"+b.name, "go", b.args...))
			s := symbolsOf(t)
			addresses := []uint64{0} // the leaf is not printed
			for _, a := range h.with("address") {
				addresses = append(addresses, hexNumber(t, a))
			}
			var got []string
			inlined := 0
			for _, f := range s.Resolve(h.pid, addresses) {
				got = append(got, fmt.Sprintf("%s %s %d", f.Function, f.File, f.Line))
				if f.Inlined {
					inlined++
				}
				if f.Module != filepath.Join(programs, "go-"+b.name) {
					t.Errorf("%s is in module %q", f.Function, f.Module)
				}
			}
			want := h.with("frame")
			// The runtime leaves out the wrappers that the compiler makes of a
			// generic method and of a method value.
			var shown []string
			for _, g := range got {
				if !strings.Contains(g, ".drop-fm ") && !strings.HasPrefix(g, "main.(*server[string]).drop ") {
					shown = append(shown, g)
				}
			}
			if len(want) < 4 || strings.Join(shown, "\n") != strings.Join(want, "\n") {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
			if inlined == 0 {
				t.Error("no inlined frame was told")
			}
		})
	}
}

// debug/gosym reads the same table: where nothing is inlined both must agree.
func TestGoTableAgreesWithGosym(t *testing.T) {
	program := build(t, "go-exe", "go")
	f, err := elf.Open(program)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	ours := newGoTable(f)
	if ours == nil {
		t.Fatal("no table found")
	}
	data, err := f.Section(".gopclntab").Data()
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := gosym.NewTable(nil, gosym.NewLineTable(data, f.Section(".text").Addr))
	if err != nil {
		t.Fatal(err)
	}
	if len(theirs.Funcs) != ours.count || ours.count < 500 {
		t.Fatalf("%d functions, gosym has %d", ours.count, len(theirs.Funcs))
	}
	for i := range theirs.Funcs {
		fn := &theirs.Funcs[i]
		for pc := fn.Entry; pc < fn.End; pc += 1 + (fn.End-fn.Entry)/7 {
			file, line, _ := theirs.PCToLine(pc)
			if line < 0 { // no line
				file, line = "", 0
			}
			got := ours.frames(pc)
			if len(got) == 0 {
				t.Fatalf("%#x is in %s, and not found", pc, fn.Name)
			}
			inner, outer := got[0], got[len(got)-1]
			if outer.Function != fn.Name || inner.File != file || inner.Line != line {
				t.Fatalf("%#x: %+v, gosym says %s %s:%d", pc, got, fn.Name, file, line)
			}
		}
	}
}

func TestOwnStack(t *testing.T) {
	var pcs [16]uintptr
	pcs[0] = 0
	n := runtime.Callers(1, pcs[1:])
	_, file, line, _ := runtime.Caller(0)
	addresses := make([]uint64, n+1)
	for i := range addresses {
		addresses[i] = uint64(pcs[i])
	}
	got := symbolsOf(t).Resolve(uint32(os.Getpid()), addresses)
	if len(got) == 0 || got[0].File != file || got[0].Line != line-1 || !strings.HasSuffix(got[0].Function, "enrich.TestOwnStack") {
		t.Errorf("got %+v, want %s:%d", got, file, line-1)
	}
}

type place struct {
	address  uint64
	function string
	line     int
}

func places(t *testing.T, h *helper) []place {
	var out []place
	for _, l := range h.with("address") {
		address, rest, _ := strings.Cut(l, " ")
		i := strings.LastIndexByte(rest, ' ')
		line, err := strconv.Atoi(rest[i+1:])
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, place{hexNumber(t, address), rest[:i], line})
	}
	if len(out) < 3 {
		t.Fatalf("the helper said only %q", h.lines)
	}
	return out
}

// one resolves a return address.
func one(s *Symbols, pid uint32, address uint64) []Frame {
	return s.Resolve(pid, []uint64{0, address})
}

// cFlags are how the C helper is built, by name.
var cFlags = map[string][]string{
	"debug":            {"-O0", "-g", "-fno-omit-frame-pointer"},
	"debug-optimised":  {"-O2", "-g", "-ffunction-sections"},
	"dwarf4-no-pie":    {"-O2", "-gdwarf-4", "-no-pie"},
	"compressed":       {"-O2", "-g", "-gz=zlib"},
	"symbols":          {"-O2"},
	"stripped":         {"-O2", "-s"},
	"stripped-exports": {"-O2", "-s", "-rdynamic"},
	"separate":         {"-O2", "-g", "-Wl,--build-id"}, // for debug information in a file of its own
}

func buildC(t testing.TB, name string) string {
	t.Helper()
	return build(t, "c-"+name, "gcc", append(slices.Clone(cFlags[name]), "testdata/chelper/helper.c", "-ldl")...)
}

func TestCStack(t *testing.T) {
	s := symbolsOf(t)
	for _, b := range []struct {
		name     string
		function bool // every function of the program is named
		line     bool
	}{
		{"debug", true, true},
		{"debug-optimised", true, true},
		{"dwarf4-no-pie", true, true},
		{"compressed", true, true},
		{"symbols", true, false},
		{"stripped", false, false},
		{"stripped-exports", true, false},
	} {
		t.Run(b.name, func(t *testing.T) {
			program := buildC(t, b.name)
			h := start(t, program)
			for _, p := range places(t, h) {
				got := one(s, h.pid, p.address)
				if len(got) == 0 {
					t.Fatalf("%+v: no frame", p)
				}
				if p.function == "close" {
					if got[0].Function != "close" || !strings.Contains(got[0].Module, "libc") {
						t.Errorf("%+v: %+v", p, got)
					}
					continue
				}
				if got[0].Module != program || got[0].Address != p.address || got[0].Offset == 0 {
					t.Errorf("%+v: %+v", p, got)
				}
				switch {
				case b.line:
					if got[0].Function != p.function || got[0].Line != p.line || filepath.Base(got[0].File) != "helper.c" {
						t.Errorf("%+v: %+v", p, got)
					}
					if inner := p.function == "inlined_close"; inner {
						if len(got) != 2 || !got[0].Inlined || got[1].Inlined || got[1].Function != "end_session" || got[1].Line == 0 {
							t.Errorf("%+v: %+v", p, got)
						}
					} else if len(got) != 1 || got[0].Inlined {
						t.Errorf("%+v: %+v", p, got)
					}
				case b.function:
					want := p.function
					if want == "inlined_close" {
						want = "end_session"
					}
					if len(got) != 1 || got[0].Function != want || got[0].Line != 0 {
						t.Errorf("%+v: %+v", p, got)
					}
				default:
					if len(got) != 1 || got[0].Function != "" || got[0].Line != 0 {
						t.Errorf("%+v: %+v", p, got)
					}
				}
			}
			for _, a := range h.with("anon") {
				got := one(s, h.pid, hexNumber(t, a))
				if len(got) != 1 || got[0].Module != "[anon]" || got[0].Offset != 0x10 || got[0].Function != "" {
					t.Errorf("code without a file: %+v", got)
				}
			}
			for _, a := range h.with("vdso") {
				got := one(s, h.pid, hexNumber(t, a))
				if len(got) != 1 || got[0].Module != "[vdso]" || !strings.HasSuffix(got[0].Function, "clock_gettime") {
					t.Errorf("the vdso: %+v", got)
				}
			}
			if got := one(s, h.pid, 0x10); len(got) != 1 || got[0] != (Frame{Address: 0x10}) {
				t.Errorf("an address that is not mapped: %+v", got)
			}
		})
	}
}

// nm and addr2line take the offset that is shown.
func TestOffsetIsTheFilesOwn(t *testing.T) {
	for _, name := range []string{"debug-optimised", "dwarf4-no-pie"} {
		program := buildC(t, name)
		h := start(t, program)
		f, err := elf.Open(program)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		symbols, err := f.Symbols()
		if err != nil {
			t.Fatal(err)
		}
		p := places(t, h)[0]
		got := one(symbolsOf(t), h.pid, p.address)
		for _, y := range symbols {
			if y.Name == p.function && (got[0].Offset < y.Value || got[0].Offset >= y.Value+y.Size) {
				t.Errorf("%s: offset %#x is not in %s, %#x to %#x", name, got[0].Offset, y.Name, y.Value, y.Value+y.Size)
			}
		}
	}
}

func TestCPlusPlusNames(t *testing.T) {
	for _, b := range []struct {
		name string
		args []string
		line bool
	}{
		{"debug", []string{"-O2", "-g"}, true},
		{"symbols", []string{"-O2"}, false},
	} {
		t.Run(b.name, func(t *testing.T) {
			h := start(t, build(t, "cc-"+b.name, "g++", append(b.args, "testdata/chelper/helper.cc")...))
			s := symbolsOf(t)
			for _, p := range places(t, h) {
				got := one(s, h.pid, p.address)
				if b.line {
					if got[0].Function != p.function || got[0].Line != p.line || filepath.Base(got[0].File) != "helper.cc" {
						t.Errorf("%+v: %+v", p, got)
					}
				} else if want := strings.Replace(p.function, "purge", "drop", 1); got[0].Function != want {
					t.Errorf("%+v: %+v", p, got)
				}
			}
		})
	}
}

// The program's file may be gone, or be another one by now.
func TestDeletedFile(t *testing.T) {
	program := buildC(t, "debug")
	b, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(t.TempDir(), "moved")
	if err := os.WriteFile(other, b, 0o755); err != nil {
		t.Fatal(err)
	}
	h := start(t, other)
	if err := os.Remove(other); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(other, []byte("something else"), 0o755); err != nil {
		t.Fatal(err)
	}
	p := places(t, h)[0]
	got := one(symbolsOf(t), h.pid, p.address)
	if len(got) != 1 || got[0].Function != p.function || got[0].Line != p.line || got[0].Module != other {
		t.Errorf("%+v: %+v", p, got)
	}
}

func TestStackOfTheDead(t *testing.T) {
	program := buildC(t, "debug")
	h := start(t, program)
	p := places(t, h)[0]
	s := symbolsOf(t)
	now := time.Now()
	s.now = func() time.Time { return now }
	s.space(h.pid, nil)
	h.stop()
	got := one(s, h.pid, p.address)
	if len(got) != 1 || got[0].Function != p.function || got[0].Line != p.line {
		t.Errorf("%+v: %+v", p, got)
	}
	if never := one(symbolsOf(t), h.pid, p.address); len(never) != 1 || never[0] != (Frame{Address: p.address}) {
		t.Errorf("a process that was never seen: %+v", never)
	}

	now = now.Add(fileGrace + 2*sweepEvery)
	s.Resolve(h.pid, nil)
	if s.processes.len() != 0 {
		t.Error("the dead process is still held after the grace period")
	}
	now = now.Add(2 * sweepEvery)
	s.Resolve(h.pid, nil)
	s.modules.each(func(k fileKey, m *module) {
		if m.file != nil {
			t.Errorf("%s is still open", m.file.Name())
		}
	})
}

func openFiles(t *testing.T) int {
	t.Helper()
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}

func TestModulesAreBounded(t *testing.T) {
	program := buildC(t, "debug")
	before := openFiles(t)
	h := start(t, program)
	s := limitedSymbols(t, 1, usual)
	var libc, own place
	for _, p := range places(t, h) {
		if p.function == "close" {
			libc = p
		} else {
			own = p
		}
	}
	for range 3 { // each turn evicts the other module, which is then read again
		for _, p := range []place{own, libc} {
			if got := one(s, h.pid, p.address); len(got) != 1 || got[0].Function != p.function {
				t.Errorf("%+v: %+v", p, got)
			}
			if s.read.len() > 1 || len(s.process.loaded) > 1 {
				t.Errorf("the tables of %d files, %d in the process", s.read.len(), len(s.process.loaded))
			}
		}
	}
	if s.memory <= 0 {
		t.Errorf("%d bytes accounted for", s.memory)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if s.memory != 0 {
		t.Errorf("%d bytes accounted for after Close", s.memory)
	}
	h.stop()
	if after := openFiles(t); after > before {
		t.Errorf("%d files open, %d before", after, before)
	}
}

func TestConcurrentUse(t *testing.T) {
	program := buildC(t, "debug")
	s := limitedSymbols(t, 2, usual)
	var group sync.WaitGroup
	for range 3 {
		h := start(t, program)
		p := places(t, h)[0]
		group.Go(func() {
			for range 20 {
				if got := one(s, h.pid, p.address); len(got) != 1 || got[0].Function != p.function {
					t.Errorf("%+v: %+v", p, got)
				}
				s.Forget(h.pid)
			}
		})
		group.Go(func() {
			for range 20 {
				s.Prepare(h.pid, true)
				s.Prepare(uint32(os.Getpid()), true)
			}
		})
	}
	group.Wait()
}

// A stripped program's debug file is found by its build id.
func TestSeparateDebugFile(t *testing.T) {
	for _, tool := range []string{"objcopy", "strip"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("no %s on this machine", tool)
		}
	}
	program := buildC(t, "separate")
	f, err := elf.Open(program)
	if err != nil {
		t.Fatal(err)
	}
	id := buildID(f)
	f.Close()
	if len(id) < 16 {
		t.Fatalf("build id %q", id)
	}
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, id[:2]), 0o755); err != nil {
		t.Fatal(err)
	}
	stripped := filepath.Join(dir, "stripped")
	for _, args := range [][]string{
		{"objcopy", "--only-keep-debug", program, filepath.Join(dir, id[:2], id[2:]+".debug")},
		{"strip", "-o", stripped, program},
	} {
		if b, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, b)
		}
	}
	h := start(t, stripped)
	p := places(t, h)[0]
	bare := symbolsOf(t)
	if got := one(bare, h.pid, p.address); got[0].Function != "" {
		t.Fatalf("not stripped: %+v", got)
	}
	s := symbolsOf(t)
	s.debug = []string{dir}
	if got := one(s, h.pid, p.address); got[0].Function != p.function || got[0].Line != p.line {
		t.Errorf("%+v: %+v", p, got)
	}
}

// Each byte of an executable is its owner's choice.
func TestMalformedFiles(t *testing.T) {
	var inputs [][]byte
	for _, name := range []string{build(t, "go-pie-stripped", "go", "-buildmode=pie", "-ldflags=-s -w"),
		buildC(t, "debug")} {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		inputs = append(inputs, b)
	}
	none := func(string) *os.File { return nil }
	read := func(b []byte) {
		if tables := readTables(bytes.NewReader(b), int64(len(b)), none); tables != nil {
			for _, s := range tables.segments {
				for pc := s.vaddr; pc < s.vaddr+min(s.size, 1<<20); pc += 1 + s.size/16 {
					tables.frames(pc)
				}
			}
		}
	}
	for _, b := range inputs {
		seed := uint64(1)
		for range 40 {
			damaged := bytes.Clone(b)
			for range 200 {
				seed = seed*6364136223846793005 + 1442695040888963407
				damaged[seed>>17%uint64(len(b))] = byte(seed >> 56)
			}
			copy(damaged[:64], b[:64]) // so that it is an ELF file still
			read(damaged)
			read(b[:seed>>17%uint64(len(b))])
		}
	}
}

func FuzzTables(f *testing.F) {
	f.Add([]byte("\x7fELF\x02\x01\x01"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if tables := readTables(bytes.NewReader(b), int64(len(b)), func(string) *os.File { return nil }); tables != nil {
			for _, s := range tables.segments {
				tables.frames(s.vaddr)
			}
		}
	})
}

func BenchmarkResolveCached(b *testing.B) {
	h := start(b, build(b, "go-exe", "go"))
	s := symbolsOf(b)
	var addresses []uint64
	for _, a := range h.with("address") {
		addresses = append(addresses, hexNumber(b, a))
	}
	s.Resolve(h.pid, addresses)
	b.ReportAllocs()
	for b.Loop() {
		s.Resolve(h.pid, addresses)
	}
}

func BenchmarkFirstResolve(b *testing.B) {
	for _, name := range []string{"go-exe", "c-debug"} {
		b.Run(name, func(b *testing.B) {
			program := build(b, "go-exe", "go")
			if name == "c-debug" {
				program = buildC(b, "debug")
			}
			h := start(b, program)
			address := hexNumber(b, strings.Fields(h.with("address")[0])[0])
			b.ReportAllocs()
			for b.Loop() {
				s := symbolsOf(b)
				s.Resolve(h.pid, []uint64{address})
				s.Close()
			}
		})
	}
}
