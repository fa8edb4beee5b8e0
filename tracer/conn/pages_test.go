package conn

import (
	"testing"
	"time"

	"github.com/tcpbye/tcpbye/tracer/event"
)

// TestGrowCopiesSeldom: a process may fail to send, or look at what came, as often as it
// likes: each is an event of the same connection.
func TestGrowCopiesSeldom(t *testing.T) {
	j, c := New(Options{}), &entry{Connection: &Connection{}}
	const n = 50_000
	grown := 0
	for range n {
		if len(c.Events) == cap(c.Events) {
			j.grow(c)
			grown++
		}
		c.Events = append(c.Events, event.Event{})
	}
	if grown > 16 {
		t.Errorf("%d events were moved %d times", n, grown)
	}
}

// early gives a join the story of an end so far, told early, and its abort.
func early(j *Joiner, n int) time.Duration {
	at := time.Duration(n+1) * time.Minute
	e := event.Event{Has: event.HasTuple, Time: at, Hook: event.HookSetState, State: event.Close, ToState: event.SynSent, Sock: uint64(n + 1), Conn: uint64(at), NetNS: 1}
	j.AddStory(at+time.Millisecond, append(j.Room(), e))
	e.Time, e.State, e.ToState = at+time.Second, event.SynSent, event.Close
	j.Add(e)
	return e.Time
}

// TestAloneIsBounded: who asks for nobody keeps nobody, and who asks seldom keeps those
// that can still be joined.
func TestAloneIsBounded(t *testing.T) {
	for _, asks := range []bool{false, true} {
		j := New(Options{Done: func(*Connection) {}})
		visited := 0
		for n := range 1000 {
			ended := early(j, n)
			j.Advance(ended + 200*time.Millisecond)
			if asks && n%10 == 0 {
				j.Alone(ended+100*time.Millisecond, func(*Connection, [2]uint32, bool) { visited++ })
			}
			if len(j.alone) > 16 {
				t.Fatalf("asks %v: %d are kept", asks, len(j.alone))
			}
		}
		if want := map[bool]int{true: 100}[asks]; visited != want {
			t.Errorf("asks %v: %d were visited, want %d", asks, visited, want)
		}
	}
}
