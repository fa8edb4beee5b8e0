package session

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/story"
	"github.com/tcpbye/tcpbye/tracer/story/model"
)

// halfTold gives a join the story of an end so far, told early, and its abort. It
// returns when that was, and the story of the other end so far.
func halfTold(j *conn.Joiner, n int) (ended time.Duration, other []byte) {
	mine, theirs := specimen(conn.OpenPassive, eofNone), specimen(conn.OpenActive, eofAlone)
	shift := time.Duration(n) * time.Minute
	for _, s := range []*story.Story{&mine, &theirs} {
		s.Born += shift
		s.Sock += uint64(n) << 8
		for i := range s.Steps[:s.Count] {
			s.Steps[i].At += shift
		}
		for i := range s.Looks {
			s.Looks[i].SndUna += uint32(n) << 24
			s.Looks[i].RcvNxt += uint32(n) << 24
		}
	}
	events := mine.Events(nil)[:3]
	told := events[2].Time + time.Millisecond
	j.AddStory(told, events)
	end := events[1]
	end.Time, end.State, end.ToState, end.Err = told+time.Second, event.Established, event.Close, event.Errno(unix.ECONNRESET)
	j.Add(end)
	theirs.Final, theirs.Count = false, 2
	theirs.Looked[story.LookAct], theirs.Looked[story.LookEnd], theirs.Looked[story.LookFIN] = false, false, false
	return end.Time, model.Wire(&theirs, 4*time.Millisecond)
}

// TestSeek: the other end of one that ended early is asked for once, by its numbers,
// when it has had time to be told of.
func TestSeek(t *testing.T) {
	var judged []*conn.Connection
	j := conn.New(conn.Options{Done: func(c *conn.Connection) { judged = append(judged, c) }})
	ended, other := halfTold(j, 0)
	clock := time.Duration(0)
	asked, matches := 0, 0
	k := seeker{ask: func(match func([]byte) bool) error {
		asked++
		clock += 50 * time.Millisecond
		if match(other) {
			matches++
		}
		_, stranger := halfTold(conn.New(conn.Options{}), 7)
		if match(stranger) {
			t.Error("a stranger's story is asked for")
		}
		return nil
	}}
	for now := ended - 100*time.Millisecond; now < ended+400*time.Millisecond; now += 10 * time.Millisecond {
		j.Advance(now)
		if err := k.seek(now, j, func() (time.Duration, error) { return clock, nil }); err != nil {
			t.Fatal(err)
		}
		if now < ended+seekAfter && asked > 0 {
			t.Fatalf("it is asked for %v after the end", now-ended)
		}
	}
	if asked != 1 || matches != 1 {
		t.Errorf("asked %d times, and found %d times", asked, matches)
	}
	if len(judged) > 0 {
		t.Error("it was judged before its other end can have been told of")
	}
	if k.next < ended+seekAfter+seekShare*50*time.Millisecond {
		t.Errorf("the next asking may be %v after the end", k.next-ended)
	}
}

// TestSeekInVain: for ends on other machines nobody is asked again and again.
func TestSeekInVain(t *testing.T) {
	j := conn.New(conn.Options{Done: func(*conn.Connection) {}})
	asked := 0
	k := seeker{ask: func(func([]byte) bool) error { asked++; return nil }}
	for n := range 4 * manyVain {
		ended, _ := halfTold(j, n)
		for now := ended; now < ended+400*time.Millisecond; now += 50 * time.Millisecond {
			j.Advance(now)
			if err := k.seek(now, j, func() (time.Duration, error) { return 0, nil }); err != nil {
				t.Fatal(err)
			}
		}
		// Those after the first few come a minute apart, and are asked for again.
		if want := n + 1; asked != want {
			t.Fatalf("asked %d times for %d ends", asked, want)
		}
	}
	asked = 0
	ended, _ := halfTold(j, 4*manyVain)
	for a, v := range k.vain {
		if v.n != 4*manyVain {
			t.Errorf("%d times in vain", v.n)
		}
		k.vain[a] = askings{v.n, ended}
	}
	j.Advance(ended + 200*time.Millisecond)
	if err := k.seek(ended+200*time.Millisecond, j, func() (time.Duration, error) { return 0, nil }); err != nil || asked != 0 {
		t.Errorf("asked %d times, %v", asked, err)
	}
}

// TestSeekFails: whoever cannot ask goes on without.
func TestSeekFails(t *testing.T) {
	j := conn.New(conn.Options{Done: func(*conn.Connection) {}})
	ended, _ := halfTold(j, 0)
	j.Advance(ended + 200*time.Millisecond)
	k := seeker{ask: func(func([]byte) bool) error { return unix.EPERM }}
	if err := k.seek(ended+200*time.Millisecond, j, func() (time.Duration, error) { return 0, nil }); err != nil || k.ask != nil {
		t.Errorf("%v, and it would ask again: %v", err, k.ask != nil)
	}
}

// TestSeekSeldom: a service whose clients, each at another address, are never found here
// does not have the kernel half asked all the time.
func TestSeekSeldom(t *testing.T) {
	k := seeker{}
	for range slowest * manyFruitless {
		k.fruitless++
	}
	j := conn.New(conn.Options{Done: func(*conn.Connection) {}})
	ended, _ := halfTold(j, 0)
	now := ended + 200*time.Millisecond
	j.Advance(now)
	k.ask = func(func([]byte) bool) error { return nil }
	if err := k.seek(now, j, func() (time.Duration, error) { return 0, nil }); err != nil {
		t.Fatal(err)
	}
	if k.next-now < seekEvery<<slowest {
		t.Errorf("the next asking is %v later", k.next-now)
	}
}
