package record

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"net/netip"
	"reflect"
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
	e.Segment = event.Segment{Seq: 1, Ack: 2, Len: 3, Flags: event.RST, TTL: 5, IPID: 6, Window: 7}
	e.Timestamps = event.Timestamps{Agreed: true, Carried: true, Value: 1, Recent: 2, Age: 3 * time.Second}
	return e
}

func TestRoundTrip(t *testing.T) {
	var buf bytes.Buffer
	meta := Meta{Version: 1, Program: "test", Kernel: "6.1", Arch: "amd64", Offset: 7, Rungs: []Rung{{Hook: event.HookClose, Name: "__tcp_close", Rung: "kprobe"}}}
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

// TestEveryFieldIsRecorded fails for a field of Event without a number, and
// for two fields with one.
func TestEveryFieldIsRecorded(t *testing.T) {
	if n := reflect.TypeFor[event.Event]().NumField(); len(fields) != n || len(byNumber) != n {
		t.Errorf("%d fields, %d recorded, %d numbers", n, len(fields), len(byNumber))
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
	b, err := appendEvent(nil, &e)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := decodeEvent(b)
		if err != nil {
			return
		}
		again, err := appendEvent(nil, &e)
		if err != nil {
			t.Fatal(err)
		}
		e2, err := decodeEvent(again)
		if err != nil {
			t.Fatal(err)
		}
		if e2 != e {
			t.Fatalf("%+v, then %+v", e, e2)
		}
	})
}

func BenchmarkEvent(b *testing.B) {
	e := full(b, 1)
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		buf, _ = appendEvent(buf[:0], &e)
		if _, err := decodeEvent(buf); err != nil {
			b.Fatal(err)
		}
	}
}
