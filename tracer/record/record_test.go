package record

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tcpbye/tcpbye/tracer/event"
)

// full is an event with every field set to something else.
func full(t testing.TB, seed uint64) event.Event {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 1))
	var e event.Event
	v := reflect.ValueOf(&e).Elem()
	for i := range v.NumField() {
		f := v.Field(i)
		switch {
		case f.CanUint():
			f.SetUint(r.Uint64() & (1<<(f.Type().Bits()-1) - 1))
		case f.CanInt():
			f.SetInt(r.Int64()&(1<<(f.Type().Bits()-2)-1) - 1<<(f.Type().Bits()-3))
		case f.Kind() == reflect.Bool:
			f.SetBool(true)
		}
	}
	e.Time = 12345
	e.Hook = event.HookSetState
	e.Comm = event.CommOf("a\x1b[31m b")
	e.Local = netip.MustParseAddrPort("127.0.0.1:1")
	e.Remote = netip.MustParseAddrPort("[2001:db8::1]:65535")
	e.From = netip.MustParseAddrPort("192.0.2.1:0")
	e.Segment = event.Segment{Seq: 1, Ack: 2, Len: 3, Flags: event.RST, TTL: 5, IPID: 6, Window: 7}
	e.Text, e.Stack = "text\xff", event.StackOf([]event.Frame{{Function: "f"}})
	e.Timestamps = event.Timestamps{Agreed: true, Carried: true, Value: 1, Recent: 2, Age: 3 * time.Second}
	return e
}

func TestRoundTrip(t *testing.T) {
	var buf bytes.Buffer
	meta := Meta{Version: 1, Program: "test", Kernel: "6.1", Arch: "amd64", Offset: 7, Rungs: []Rung{{Hook: event.HookClose, Name: "__tcp_close", Rung: "kprobe"}},
		Host: &Host{ID: "0123", Boot: "4567", Name: "a\xff"}}
	w, err := NewWriter(&buf, meta)
	if err != nil {
		t.Fatal(err)
	}
	want := []event.Event{full(t, 1), {Time: 1, Hook: event.HookDestroy}, full(t, 2)}
	for _, e := range want {
		if err := w.Event(e); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Loss(Loss{Time: 3, Lost: 4}), w.Close(End{Events: 3, Lost: 4})); err != nil {
		t.Fatal(err)
	}
	// Two recordings in one file, as with cat.
	buf.Write(bytes.Clone(buf.Bytes()))
	var got []event.Event
	var metas []Meta
	losses, ends := 0, 0
	err = Read(&buf, Handler{
		Meta:  func(m Meta) error { metas = append(metas, m); return nil },
		Event: func(e event.Event) error { got = append(got, e); return nil },
		Loss:  func(Loss) error { losses++; return nil },
		End:   func(End) error { ends++; return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	addr := cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })
	if d := cmp.Diff(append(want, want...), got, addr); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]Meta{meta, meta}, metas); d != "" {
		t.Error(d)
	}
	if losses != 2 || ends != 2 {
		t.Errorf("%d losses and %d ends, want 2 and 2", losses, ends)
	}
}

// TestEveryFieldIsRecorded holds the codec against the struct: each field alone
// comes back, under the number that its tag says, and no two have one number.
func TestEveryFieldIsRecorded(t *testing.T) {
	whole := full(t, 1)
	typ := reflect.TypeFor[event.Event]()
	seen := map[string]string{}
	for i := range typ.NumField() {
		f := typ.Field(i)
		tag := f.Tag.Get("rec")
		if other, ok := seen[tag]; ok {
			t.Errorf("%s and %s have the number %s", f.Name, other, tag)
		}
		seen[tag] = f.Name
		var e, got event.Event
		reflect.ValueOf(&e).Elem().Field(i).Set(reflect.ValueOf(whole).Field(i))
		b := appendEvent(nil, &e)
		number, _ := binary.Uvarint(b)
		if want, err := strconv.ParseUint(tag, 10, 16); err != nil || number>>1 != want {
			t.Errorf("%s is written as number %d, its tag is %q", f.Name, number>>1, tag)
		}
		// What an event must have is not in question here.
		if err := decodeEvent(b, &got); err != nil && e.Hook != 0 {
			t.Errorf("%s: %v", f.Name, err)
		}
		if got != e {
			t.Errorf("%s: %+v became %+v", f.Name, e, got)
		}
	}
}

// TestCut cuts a recording at every byte: each whole event before the cut is
// delivered, and the cut is an error unless it falls between two records.
func TestCut(t *testing.T) {
	var buf bytes.Buffer
	w, err := NewWriter(&buf, Meta{})
	if err != nil {
		t.Fatal(err)
	}
	var whole []int
	for i := range 3 {
		if err := errors.Join(w.Event(full(t, uint64(i))), w.Flush()); err != nil {
			t.Fatal(err)
		}
		whole = append(whole, buf.Len())
	}
	raw := buf.Bytes()
	for cut := len(magic); cut <= len(raw); cut++ {
		want := 0
		between := cut == len(magic)
		for _, n := range whole {
			if cut >= n {
				want++
			}
			between = between || cut == n
		}
		got := 0
		err := Read(bytes.NewReader(raw[:cut]), Handler{Event: func(event.Event) error { got++; return nil }, Meta: func(Meta) error { between = between || got == 0 && cut < whole[0]; return nil }})
		if got != want {
			t.Fatalf("cut at %d: %d events, want %d", cut, got, want)
		}
		var damage *DamageError
		if !between && !errors.As(err, &damage) {
			t.Fatalf("cut at %d: error %v", cut, err)
		}
	}
}

func TestFlippedBit(t *testing.T) {
	var buf bytes.Buffer
	w, err := NewWriter(&buf, Meta{})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Event(full(t, 1)), w.Flush()); err != nil {
		t.Fatal(err)
	}
	for i := range buf.Len() {
		raw := bytes.Clone(buf.Bytes())
		raw[i] ^= 0x10
		got := 0
		err := Read(bytes.NewReader(raw), Handler{Event: func(event.Event) error { got++; return nil }})
		if err == nil {
			t.Fatalf("a bit flipped in byte %d went unnoticed (%d events)", i, got)
		}
	}
}

func FuzzDecodeEvent(f *testing.F) {
	e := full(f, 1)
	f.Add(appendEvent(nil, &e))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		var e, again event.Event
		if decodeEvent(b, &e) != nil {
			return
		}
		if err := decodeEvent(appendEvent(nil, &e), &again); err != nil {
			t.Fatal(err)
		}
		if again != e {
			t.Fatalf("%+v, then %+v", e, again)
		}
	})
}

func BenchmarkEvent(b *testing.B) {
	e := full(b, 1)
	var buf []byte
	var got event.Event
	b.ReportAllocs()
	for b.Loop() {
		buf = appendEvent(buf[:0], &e)
		if err := decodeEvent(buf, &got); err != nil {
			b.Fatal(err)
		}
	}
}

// story is a recording of some events with everything else in between, and where
// each record begins.
func aStory(t testing.TB, n int) (raw []byte, starts []int) {
	t.Helper()
	var buf bytes.Buffer
	w, err := NewWriter(&buf, Meta{Program: "test"})
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
		starts = append(starts, buf.Len())
		e := full(t, uint64(i))
		e.Time = time.Duration(i)
		if err := w.Event(e); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(End{Events: uint64(n)}); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes(), starts
}

// read is what a recording gives: the times of its events, and -1 for a gap.
func read(raw []byte) (got []time.Duration, err error) {
	err = Read(bytes.NewReader(raw), Handler{
		Event: func(e event.Event) error { got = append(got, e.Time); return nil },
		Gap:   func(Gap) error { got = append(got, -1); return nil },
	})
	return got, err
}

// TestResume: what follows a damage is read, and how much was skipped is said.
func TestResume(t *testing.T) {
	const n = 6
	raw, starts := aStory(t, n)
	size := starts[3] - starts[2]
	for name, damage := range map[string]func(b []byte) ([]byte, int){
		"a wrong bit":        func(b []byte) ([]byte, int) { b[starts[2]+20] ^= 1; return b, size },
		"a length too large": func(b []byte) ([]byte, int) { b[starts[2]+1] = 0xf0; return b, size },
		"a length beyond":    func(b []byte) ([]byte, int) { b[starts[2]+2] = 0x0f; return b, size },
		"no length":          func(b []byte) ([]byte, int) { copy(b[starts[2]:], "\x00\x00\x00\x00"); return b, size },
		"missing bytes": func(b []byte) ([]byte, int) {
			return append(b[:starts[2]+10:starts[2]+10], b[starts[2]+20:]...), size - 10
		},
		"other bytes": func(b []byte) ([]byte, int) {
			return append(append(b[:starts[2]:starts[2]], bytes.Repeat([]byte("E\x05\x00\x00\x00E"), 700)...), b[starts[3]:]...), 4200
		},
		"a piece of another recording": func(b []byte) ([]byte, int) {
			return append(append(b[:starts[2]:starts[2]], b[starts[4]+5:starts[5]]...), b[starts[3]:]...), starts[5] - starts[4] - 5
		},
	} {
		t.Run(name, func(t *testing.T) {
			b, skipped := damage(bytes.Clone(raw))
			got, err := read(b)
			if d := cmp.Diff([]time.Duration{0, 1, -1, 3, 4, 5}, got); d != "" {
				t.Error(d)
			}
			var damaged *DamageError
			if !errors.As(err, &damaged) || damaged.Offset != int64(starts[2]) || damaged.Gaps != 1 || damaged.Skipped != int64(skipped) {
				t.Errorf("error %v: %+v, want %d bytes at %d", err, damaged, skipped, starts[2])
			}
		})
	}
}

// TestResumeIsCheap: what is made to look like the beginnings of long records is
// read in a time that goes with its size.
func TestResumeIsCheap(t *testing.T) {
	raw, starts := aStory(t, 2)
	// Each four bytes could be the length of a record of 4.5 kB, before its kind.
	hostile := bytes.Repeat([]byte("E\x45\x11\x00\x00"), 1<<20)
	b := append(append(bytes.Clone(raw[:starts[1]]), hostile...), raw[starts[1]:]...)
	begin := time.Now()
	got, err := read(b)
	if err == nil || len(got) < 2 || got[len(got)-1] != 1 {
		t.Errorf("%v, %v", got, err)
	}
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("5 MB took %v", took)
	}
}

// TestHeadless: of a run whose head is damaged nothing is given without saying so.
func TestHeadless(t *testing.T) {
	raw, _ := aStory(t, 2)
	second := bytes.Clone(raw)
	second[len(magic)+10] ^= 1
	heads := 0
	err := Read(bytes.NewReader(append(bytes.Clone(raw), second...)), Handler{Gap: func(g Gap) error {
		if g.Head {
			heads++
		}
		return nil
	}})
	if err == nil || heads != 1 {
		t.Errorf("%d heads are missing, error %v", heads, err)
	}
}

// FuzzRead damages a recording: what is read is what was written, in its order,
// with a gap where something is missing.
func FuzzRead(f *testing.F) {
	const n = 8
	f.Add(uint16(100), []byte{1}, uint16(1))
	f.Add(uint16(400), []byte("tcpbye\r\n"), uint16(40))
	f.Add(uint16(700), []byte("\x05\x00\x00\x00E"), uint16(0))
	raw, starts := aStory(f, n)
	f.Fuzz(func(t *testing.T, at uint16, with []byte, instead uint16) {
		from := starts[0] + int(at)%(len(raw)-starts[0])
		to := min(from+int(instead), len(raw))
		b := append(append(bytes.Clone(raw[:from]), with...), raw[to:]...)
		got, err := read(b)
		last, gap := time.Duration(-1), false
		missing := map[time.Duration]bool{}
		for i := range n {
			missing[time.Duration(i)] = true
		}
		for _, x := range got {
			if x == -1 {
				gap = true
				continue
			}
			// with may hold a record that is as good as any.
			if x < n && missing[x] {
				delete(missing, x)
				if x != last+1 && !gap && to > from && len(with) == 0 && !slices.Contains(starts, from) {
					t.Errorf("%d follows %d without a gap", x, last)
				}
			}
			last, gap = x, false
		}
		for x := range missing {
			if i := int(x); starts[i] >= to || i+1 < n && starts[i+1] <= from {
				t.Errorf("event %d was not damaged (%d to %d), and is missing; error %v", i, from, to, err)
			}
		}
	})
}

// TestMissing: what was not attached, and what did not exist when the recording
// was made.
func TestMissing(t *testing.T) {
	if m := (Meta{}).Missing(); m != nil {
		t.Errorf("a recording that names no hook lacks %v", m)
	}
	var rungs []Rung
	for _, h := range event.Hooks() {
		switch h {
		case event.HookICMP: // came later
		case event.HookAbort:
			rungs = append(rungs, Rung{Hook: h})
		default:
			rungs = append(rungs, Rung{Hook: h, Rung: "kprobe"})
		}
	}
	want := []event.Hook{event.HookAbort, event.HookICMP}
	if got := (Meta{Rungs: rungs}).Missing(); !slices.Equal(got, want) {
		t.Errorf("missing %v, want %v", got, want)
	}
}
