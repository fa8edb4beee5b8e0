package model_test

import (
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/record"
	"github.com/tcpbye/tcpbye/tracer/story"
	"github.com/tcpbye/tcpbye/tracer/story/model"
)

// TestWire: the kernel's form holds all of a story, of every recorded one.
func TestWire(t *testing.T) {
	const jiffy = 4 * time.Millisecond
	f, err := os.Open("../../verdict/testdata/6.1.tcpbye")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var events []event.Event
	err = record.Read(f, record.Handler{Event: func(e event.Event) error { events = append(events, e); return nil }})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, x := range model.Tell(events) {
		if x.Story == nil {
			continue
		}
		n++
		want := *x.Story
		for i := range want.Tasks {
			// A number says which call it is, and not the other way round.
			if k := &want.Tasks[i]; k.Has&event.HasSyscall != 0 {
				k.Call = event.CallOfTask("amd64", k.Syscall, k.More)
			}
		}
		for i := range want.Looks {
			if l := &want.Looks[i]; !l.WindowKnown {
				l.MSS, l.Sacked = 0, 0
			}
		}
		if want.Family == event.IPv6 && want.Local.Addr().Is4() {
			want.Family = event.IPv4
		}
		var got story.Story
		if err := got.Decode(model.Wire(&want, jiffy), jiffy, "amd64"); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got, cmpopts.EquateComparable(want.Local)); d != "" {
			t.Fatalf("%v > %v: %s", want.Local, want.Remote, d)
		}
	}
	if n == 0 {
		t.Fatal("no story")
	}
}

// FuzzDecode: whatever comes, a story is read or refused.
func FuzzDecode(f *testing.F) {
	s := story.Story{Count: 1, TaskCount: 1, Family: event.IPv4}
	s.Steps[0] = story.Step{Hook: event.HookSetState, State: event.Close, ToState: event.SynSent}
	f.Add(model.Wire(&s, time.Millisecond))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var s story.Story
		if err := s.Decode(raw, time.Millisecond, "amd64"); err != nil {
			return
		}
		if n := len(s.Events(nil)); n != s.Count {
			t.Errorf("%d events of %d steps", n, s.Count)
		}
	})
}
