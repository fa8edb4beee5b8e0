package lab

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tcpbye/tcpbye/demo/test/lab/wire"
)

func TestNewSpec(t *testing.T) {
	t.Setenv("PATH", "/usr/bin:/opt/x")
	t.Setenv("HOME", "/home/u")
	t.Setenv("LANG", "C.UTF-8")
	t.Setenv("TZ", "UTC")
	k := kernel{Series: "6.1", Release: "6.1.0-1-amd64", dir: "/cache/k"}
	cfg := Config{
		Args: []string{"a", ""}, Dir: "/work dir", PathDirs: []string{"/first"},
		Env: []string{"X=1", "X=2", "TERM=vt100", "EMPTY="}, Stdin: strings.NewReader(""),
	}
	got, err := newSpec(cfg, k, true, "/out")
	if err != nil {
		t.Fatal(err)
	}
	const path = "/first:/usr/bin:/opt/x:/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/bin"
	want := wire.Spec{
		Args: wire.Bytes([]string{"a", ""}),
		Env: wire.Bytes([]string{"PATH=" + path, "HOME=/home/u", "USER=root", "LAB_OUT=/out", "LAB_KERNEL=6.1",
			"LANG=C.UTF-8", "TZ=UTC", "X=2", "TERM=vt100", "EMPTY="}),
		Dir: []byte("/work dir"), Path: wire.Bytes(strings.Split(path, ":")), HostRoot: true, Out: []byte("/out"), Stdin: true,
		ModuleTree: []byte("/cache/k/lib/modules/6.1.0-1-amd64"), KernelConfig: []byte("/cache/k/config"),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	// A PATH given for the command is also where the command is looked for.
	cfg.Env = []string{"PATH=/only"}
	if got, err = newSpec(cfg, k, true, "/out"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"/only"}, wire.Strings(got.Path)); diff != "" {
		t.Error(diff)
	}
	// Without the host's root nothing of the host's environment makes sense.
	got, err = newSpec(Config{Args: []string{"a"}}, k, false, "/out")
	if err != nil {
		t.Fatal(err)
	}
	if string(got.Dir) != "/" || got.ModuleTree != nil || !slices.Contains(wire.Strings(got.Env), "HOME=/") || slices.Contains(wire.Strings(got.Path), "/opt/x") {
		t.Errorf("without the host's root: %+v", got)
	}
}

func TestMachineArgs(t *testing.T) {
	m := machine{arch: "amd64", kernel: "K", initramfs: "I", append: "extra=1", memoryMiB: 512, smp: 3, portFD: 7, hostRoot: "/", out: "/a,b"}
	has := func(args []string, want ...string) bool {
		return strings.Contains(strings.Join(args, "\x00")+"\x00", strings.Join(want, "\x00")+"\x00")
	}
	args := m.args()
	for _, want := range [][]string{
		{"-accel", "tcg,thread=multi", "-smp", "3"}, {"-cpu", "max"}, {"-m", "512"}, {"-kernel", "K"}, {"-initrd", "I"},
		{"-append", "console=ttyS0 " + kernelArgs + " " + x86Args + " extra=1"},
		{"-fsdev", "local,id=host,security_model=none,readonly=on,multidevs=remap,path=/"},
		{"-fsdev", "local,id=out,security_model=none,multidevs=remap,path=/a,,b"},
		{"-chardev", "socket,id=lab,fd=7"}, {"-no-reboot"},
	} {
		if !has(args, want...) {
			t.Errorf("no %q in %q", want, args)
		}
	}
	m.icount, m.hostRoot = true, ""
	args = m.args()
	if !has(args, "-accel", "tcg,thread=single", "-smp", "1", "-icount", "shift=0,sleep=off") {
		t.Errorf("instruction counting: %q", args)
	}
	if strings.Contains(strings.Join(args, " "), "id=host") {
		t.Errorf("the host's root is shared unasked: %q", args)
	}
	m.arch = "arm64"
	if args = m.args(); !has(args, "-machine", "virt") || !has(args, "-append", "console=ttyAMA0 "+kernelArgs+" extra=1") {
		t.Errorf("arm64: %q", args)
	}
}

func TestTail(t *testing.T) {
	tl := &tail{size: 10}
	for _, s := range []string{"0123456789", "ab", "\x1b[31mc\r\n"} {
		tl.Write([]byte(s))
	}
	if got, want := tl.String(), "ab[31mc"; got != want {
		t.Errorf("tail %q, want %q", got, want)
	}
}

func TestLineWriter(t *testing.T) {
	var calls []string
	w := progressLines(writerFunc(func(p []byte) { calls = append(calls, string(p)) }))
	for _, s := range []string{"one", " line\ntwo\nthr", "ee\n", "rest"} {
		w.Write([]byte(s))
	}
	if diff := cmp.Diff([]string{"one line\ntwo\n", "three\n"}, calls); diff != "" {
		t.Error(diff)
	}
}

type writerFunc func([]byte)

func (f writerFunc) Write(p []byte) (int, error) { f(p); return len(p), nil }

// TestLock checks that the lock excludes, with two descriptors as two
// processes would have.
func TestLock(t *testing.T) {
	file := t.TempDir() + "/lock"
	unlock, err := lock(t.Context(), file, &bytes.Buffer{})
	if err != nil {
		t.Fatal(err)
	}
	waiting := make(chan struct{})
	got := make(chan error, 1)
	go func() {
		second, err := lock(t.Context(), file, writerFunc(func([]byte) { close(waiting) }))
		if err == nil {
			second()
		}
		got <- err
	}()
	<-waiting // it says so only when the lock was busy
	select {
	case err := <-got:
		t.Fatalf("the second lock did not wait: %v", err)
	default:
	}
	unlock()
	select {
	case err := <-got:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("the second lock was not granted")
	}
}
