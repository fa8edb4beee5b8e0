package record

import (
	"bytes"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tcpbye/tcpbye/tracer/event"
)

// disk is a directory in memory.
type disk struct {
	files   map[string]*bytes.Buffer
	created []string
	open    int
	full    error
}

type diskFile struct {
	*bytes.Buffer
	d *disk
}

func (f diskFile) Close() error { f.d.open--; return nil }

func (d *disk) create(name string) (io.WriteCloser, error) {
	if d.full != nil {
		return nil, d.full
	}
	if d.files == nil {
		d.files = map[string]*bytes.Buffer{}
	}
	d.open++
	d.created = append(d.created, name)
	d.files[name] = &bytes.Buffer{}
	return diskFile{d.files[name], d}, nil
}

func writeRun(t *testing.T, d *disk, how Rotation, n int) {
	t.Helper()
	r, err := NewRotator("r", Meta{Program: "test", Run: "a"}, how, d.create)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Choice(Choice{Command: 7}); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if err := r.Event(event.Event{Time: time.Duration(i), Hook: event.HookDestroy}); err != nil {
			t.Fatal(err)
		}
		if err := r.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(r.Loss(Loss{Lost: 2}), r.Close(End{Events: uint64(n), Lost: 2})); err != nil {
		t.Fatal(err)
	}
	if d.open != 0 {
		t.Errorf("%d files are left open", d.open)
	}
}

type contents struct {
	metas   []Meta
	times   []time.Duration
	choices []Choice
	ends    []End
}

func readAll(t *testing.T, r io.Reader) (c contents) {
	t.Helper()
	err := Read(r, Handler{
		Meta:   func(m Meta) error { c.metas = append(c.metas, m); return nil },
		Event:  func(e event.Event) error { c.times = append(c.times, e.Time); return nil },
		Choice: func(x Choice) error { c.choices = append(c.choices, x); return nil },
		End:    func(e End) error { c.ends = append(c.ends, e); return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestRotate(t *testing.T) {
	var d disk
	const n, size = 100, 500
	writeRun(t, &d, Rotation{Size: size}, n)
	if len(d.created) < 5 || d.created[0] != "r" || d.created[1] != "r1" || d.created[2] != "r2" {
		t.Fatalf("files %v", d.created)
	}
	var whole bytes.Buffer
	for i, name := range d.created {
		b := d.files[name].Bytes()
		c := readAll(t, bytes.NewReader(b))
		if len(c.metas) != 1 || c.metas[0].Part != i || c.metas[0].Run != "a" {
			t.Errorf("%s has the heads %+v", name, c.metas)
		}
		if len(c.choices) != 1 || c.choices[0].Command != 7 {
			t.Errorf("%s has the choices %+v", name, c.choices)
		}
		if len(b) > size {
			t.Errorf("%s has %d bytes", name, len(b))
		}
		if len(c.times) == 0 || len(c.ends) != 1 || c.ends[0].Events != uint64(c.times[len(c.times)-1])+1 {
			t.Errorf("%s has %d events and the ends %+v", name, len(c.times), c.ends)
		}
		whole.Write(b)
	}
	c := readAll(t, &whole)
	for i := range c.metas[1:] {
		if !c.metas[i+1].Continues(c.metas[i]) || c.metas[i].Continues(c.metas[i+1]) {
			t.Errorf("part %d does not continue part %d", i+1, i)
		}
	}
	var want []time.Duration
	for i := range n {
		want = append(want, time.Duration(i))
	}
	if d := cmp.Diff(want, c.times); d != "" {
		t.Error(d)
	}
}

func TestRotateCount(t *testing.T) {
	var d disk
	writeRun(t, &d, Rotation{Size: 500, Count: 11}, 1000)
	if want := []string{"r00", "r01", "r02"}; !slices.Equal(d.created[:3], want) {
		t.Errorf("files %v, want %v", d.created[:3], want)
	}
	if d.created[10] != "r10" || d.created[11] != "r00" || len(d.files) != 11 {
		t.Errorf("%d files: %v", len(d.files), d.created)
	}
	// What is left are the last eleven parts, without a gap.
	var parts []int
	for _, b := range d.files {
		parts = append(parts, readAll(t, b).metas[0].Part)
	}
	slices.Sort(parts)
	if last := len(d.created) - 1; parts[0] != last-10 || parts[10] != last {
		t.Errorf("parts %v of %d", parts, len(d.created))
	}
}

func TestRotateNever(t *testing.T) {
	var d disk
	writeRun(t, &d, Rotation{}, 100)
	if got := slices.Collect(maps.Keys(d.files)); len(got) != 1 || got[0] != "r" {
		t.Errorf("files %v", got)
	}
}

func TestRotateFails(t *testing.T) {
	var d disk
	r, err := NewRotator("r", Meta{}, Rotation{Size: 500}, d.create)
	if err != nil {
		t.Fatal(err)
	}
	d.full = errors.New("no room")
	for range 1000 {
		if err = r.Event(event.Event{Hook: event.HookDestroy, Sock: 1 << 60}); err != nil {
			break
		}
	}
	if !errors.Is(err, d.full) || !strings.Contains(err.Error(), "create the recording") {
		t.Errorf("error %v", err)
	}
	if again := r.Event(event.Event{Hook: event.HookDestroy}); !errors.Is(again, d.full) {
		t.Errorf("the error does not stick: %v", again)
	}
	if d.open != 0 {
		t.Errorf("%d files are left open", d.open)
	}
	if _, err := NewRotator("r", Meta{}, Rotation{Size: -1}, d.create); err == nil {
		t.Error("a negative size is taken")
	}
	d.full = nil
	if _, err := NewRotator("r", Meta{Kernel: strings.Repeat("k", 3000)}, Rotation{Size: 4 << 10}, d.create); err == nil || !strings.Contains(err.Error(), "the head of each takes 31") || !strings.Contains(err.Error(), "take 7k or more") {
		t.Errorf("a size that is too small: %v", err)
	}
	if d.open != 0 {
		t.Errorf("%d files are left open", d.open)
	}
}

func TestKnown(t *testing.T) {
	var buf bytes.Buffer
	w, err := NewWriter(&buf, Meta{})
	if err != nil {
		t.Fatal(err)
	}
	want := Process{Time: 5, PID: 7, Leader: "a\xffb", Exe: "/bin/\xc3\x28", Container: "docker/é", UID: 3, User: "u", Ancestors: []uint32{1, 2}}
	seed := Seed{Time: 1, NetNS: 2, State: event.CloseWait, Owner: &Owner{TID: 8, Comm: "\x1b[0m", Cgroup: 9, Process: want}}
	if err := errors.Join(w.Process(want), w.Seed(seed), w.Seed(Seed{}), w.Tick(Tick{Time: 9}), w.Close(End{})); err != nil {
		t.Fatal(err)
	}
	var processes []Process
	var seeds []Seed
	var ticks []Tick
	if err := Read(&buf, Handler{
		Process: func(p Process) error { processes = append(processes, p); return nil },
		Seed:    func(s Seed) error { seeds = append(seeds, s); return nil },
		Tick:    func(x Tick) error { ticks = append(ticks, x); return nil },
	}); err != nil {
		t.Fatal(err)
	}
	opt := cmp.Comparer(func(a, b Seed) bool {
		return a.Local == b.Local && a.Remote == b.Remote && a.Time == b.Time && cmp.Equal(a.Owner, b.Owner)
	})
	if d := cmp.Diff([]Process{want}, processes); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]Seed{seed, {}}, seeds, opt); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]Tick{{9}}, ticks); d != "" {
		t.Error(d)
	}
}
