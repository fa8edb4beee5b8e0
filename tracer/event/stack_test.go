package event

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestStackForms(t *testing.T) {
	raw := RawStack{PC: 1, SP: 2, FP: 3, LR: 4, Chain: []uint64{1, 5}, Memory: []byte("secret")}
	s := StackOfRaw(raw)
	if got, ok := s.Raw(); !ok || !cmp.Equal(got, raw) {
		t.Errorf("%v, %+v", ok, got)
	}
	want := []Frame{{Addr: 1}, {Addr: 5}}
	if got, err := s.Frames(); err != nil || !cmp.Equal(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	if named := s.Named(); named != StackOf(want) {
		t.Errorf("named: %q", named)
	}
	for _, cut := range []Stack{s[:1], s[:41], s[:50], "{", Stack([]byte{0})} {
		if _, ok := cut.Raw(); ok {
			t.Errorf("%q is a whole stack", cut)
		}
		if _, err := cut.Frames(); err == nil {
			t.Errorf("%q has frames", cut)
		}
	}
	if f, err := Stack("").Frames(); f != nil || err != nil {
		t.Errorf("none: %v, %v", f, err)
	}
}
