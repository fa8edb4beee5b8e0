package verdict_test

import (
	"cmp"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

var (
	trustSeeds = flag.Int("trust.seeds", 8, "how many seeds TestTrust damages each kernel's recordings with")
	trustFirst = flag.Uint64("trust.first", 1, "the first of them")
	trustShow  = flag.Int("trust.show", 0, "how many wrong verdicts TestTrust shows of each row, whatever their number")
	trustRow   = flag.String("trust.row", "", "only the rows whose name begins so")
)

const (
	// trustStories is how many scenarios a seed takes of each kernel.
	trustStories = 12
	// trustRead is how often the losses are read, as a live run does.
	trustRead = 200 * time.Millisecond
)

// A delivery is what reaches the join, and when. cause is its own time in the
// order of what happened, before any clock was wrong.
type delivery struct {
	event.Event
	cause, at time.Duration
	gone      bool // it was lost
	told      bool // and counted
	again     bool // it comes twice
}

// A story is a recorded scenario, ready to be damaged.
type story struct {
	run
	kernel string
	stream []delivery
	due    map[uint64]verdict.Verdict // by the end's generation, undamaged
	sure   int                        // of them certain
}

// A damage does something to a stream.
type damage struct {
	name string
	// most is how many in 100,000 ends may be wrong and certain.
	most float64
	do   func(r *rand.Rand, stream []delivery)
	// exact: each loss is told with its own time, not with the time between two
	// readings.
	exact bool
}

func lose(stream []delivery, i int, told bool) { stream[i].gone, stream[i].told = true, told }

func span(stream []delivery) (from, to time.Duration) {
	return stream[0].cause, stream[len(stream)-1].cause
}

func inWindow(share float64) func(*rand.Rand, []delivery) {
	return func(r *rand.Rand, stream []delivery) {
		from, to := span(stream)
		a := from + time.Duration(r.Int64N(int64(to-from)+1))
		b := a + time.Duration(r.Int64N(int64(to-from)/2+1))
		for i := range stream {
			if t := stream[i].cause; t >= a && t <= b && r.Float64() < share {
				lose(stream, i, true)
			}
		}
	}
}

func inBursts(share float64) func(*rand.Rand, []delivery) {
	return func(r *rand.Rand, stream []delivery) {
		const length = 6
		for i := 0; i < len(stream); i++ {
			if r.Float64() >= share/length {
				continue
			}
			for n := 1 + r.IntN(2*length-1); n > 0 && i < len(stream); n-- {
				lose(stream, i, true)
				i++
			}
		}
	}
}

func single(share float64, told bool) func(*rand.Rand, []delivery) {
	return func(r *rand.Rand, stream []delivery) {
		for i := range stream {
			if r.Float64() < share {
				lose(stream, i, told)
			}
		}
	}
}

func lateBy(share float64, most time.Duration) func(*rand.Rand, []delivery) {
	return func(r *rand.Rand, stream []delivery) {
		for i := range stream {
			if r.Float64() < share {
				stream[i].at += time.Duration(r.Int64N(int64(most)))
			}
		}
	}
}

func damages() []damage {
	return []damage{
		{name: "none", do: func(*rand.Rand, []delivery) {}},
		{name: "counted, window, 10 %", do: inWindow(.1)},
		{name: "counted, window, 50 %", do: inWindow(.5)},
		{name: "counted, bursts, 10 %", do: inBursts(.1)},
		{name: "counted, bursts, 50 %", do: inBursts(.5)},
		{name: "counted, exact, 10 %", do: single(.1, true), exact: true},
		{name: "counted, exact, 50 %", do: single(.5, true), exact: true},
		{name: "silent, one event", most: 10, do: func(r *rand.Rand, stream []delivery) { lose(stream, r.IntN(len(stream)), false) }},
		{name: "silent, 10 %", most: 60, do: single(.1, false)},
		{name: "late, up to 100 ms", do: lateBy(.1, 100*time.Millisecond)},
		{name: "late, up to 2 s", do: lateBy(.1, 2*time.Second)},
		{name: "out of order, 15 ms", do: lateBy(1, 15*time.Millisecond)},
		{name: "twice, 10 %", do: func(r *rand.Rand, stream []delivery) {
			for i := range stream {
				stream[i].again = r.Float64() < .1
			}
		}},
		{name: "clocks 20 µs apart", do: func(r *rand.Rand, stream []delivery) {
			apart := map[uint32]time.Duration{}
			for i := range stream {
				d := &stream[i]
				if _, ok := apart[d.CPU]; !ok {
					apart[d.CPU] = time.Duration(r.Int64N(int64(20 * time.Microsecond)))
				}
				d.Time += apart[d.CPU]
			}
		}},
	}
}

// renumber gives the events the generations that the kernel half would give them:
// an event that it never submitted named no socket. It has one for each address,
// from the first event that got there, or from a birth, until tcp_destroy_sock.
func renumber(stream []delivery) {
	conns := map[uint64]uint64{}
	for i := range stream {
		d := &stream[i]
		if d.Hook == event.HookDestroy && (!d.gone || d.told) {
			// A destroy that found no room in the ring deletes all the same; a
			// program that was skipped does not.
			if id, ok := conns[d.Sock]; ok {
				d.Conn = id
			}
			delete(conns, d.Sock)
			continue
		}
		if d.gone || d.Conn == 0 || d.Sock == 0 {
			continue
		}
		id, ok := conns[d.Sock]
		birth := d.Hook == event.HookSetState && (d.ToState == event.SynSent || d.State == event.Listen && d.ToState == event.SynRecv)
		if d.Hook == event.HookSendReset {
			if ok {
				d.Conn = id // it makes none
			}
			continue
		}
		if !ok || birth {
			id = uint64(d.Time)
			conns[d.Sock] = id
		}
		d.Conn = id
	}
}

// eventID finds an event again in what the join made of it.
type eventID struct {
	time time.Duration
	sock uint64
	hook event.Hook
	cpu  uint32
}

func idOf(e *event.Event) eventID { return eventID{e.Time, e.Sock, e.Hook, e.CPU} }

// play gives a stream to the join as a live run does, and judges what is complete.
func play(stream []delivery, missing []event.Hook, exact bool) []judged {
	var out []judged
	j := conn.New(conn.Options{Done: func(c *conn.Connection) {
		out = append(out, judged{c, verdict.Judge(c, verdict.Scope{Missing: missing})})
	}})
	order := slices.Clone(stream)
	slices.SortStableFunc(order, func(a, b delivery) int { return cmp.Compare(a.at, b.at) })
	next := order[0].at + trustRead
	for i := 0; i < len(order); next += trustRead {
		from, lost := next-trustRead, false
		for ; i < len(order) && order[i].at < next; i++ {
			d := &order[i]
			switch {
			case d.gone && d.told && exact:
				j.Lose(d.Time, d.Time)
			case d.gone:
				lost = lost || d.told
			default:
				j.Add(d.Event)
				if d.again {
					j.Add(d.Event)
				}
			}
		}
		if lost {
			j.Lose(from, next)
		}
		j.Advance(next)
	}
	j.Flush()
	return out
}

func stories(t testing.TB) map[string][]story {
	all := map[string][]story{}
	for _, path := range recordings(t) {
		kernel := strings.TrimSuffix(filepath.Base(path), ".tcpbye")
		for _, r := range readRuns(t, path) {
			if len(r.events) == 0 {
				continue
			}
			s := story{run: r, kernel: kernel, due: map[uint64]verdict.Verdict{}}
			for _, e := range r.events {
				s.stream = append(s.stream, delivery{Event: e, cause: e.Time, at: e.Time})
			}
			slices.SortStableFunc(s.stream, func(a, b delivery) int { return cmp.Compare(a.cause, b.cause) })
			for _, x := range play(s.stream, r.missing, false) {
				s.due[x.c.Gen] = x.v
				if x.v.Confidence == verdict.Certain {
					s.sure++
				}
			}
			all[kernel] = append(all[kernel], s)
		}
	}
	return all
}

// otherwise says in what a verdict that is told as certain differs from the one
// that the whole story gives. What is told as not known is not wrong.
func otherwise(got, want verdict.Verdict) string {
	var what []string
	differ := func(name, got, want string) {
		if got != want {
			what = append(what, fmt.Sprintf("%s %q for %q", name, got, want))
		}
	}
	differ("class", string(got.Class), string(want.Class))
	differ("cause", string(got.Cause), string(want.Cause))
	differ("ender", string(got.Ender), string(want.Ender))
	differ("act", string(got.Act), string(want.Act))
	for _, n := range []struct {
		name      string
		got, want *uint64
	}{{"unread", got.Lost.Unread, want.Lost.Unread}, {"unsent", got.Lost.Unsent, want.Lost.Unsent}, {"unacked", got.Lost.Unacked, want.Lost.Unacked}} {
		if n.got != nil {
			differ(n.name, number(n.got), number(n.want))
		}
	}
	return strings.Join(what, ", ")
}

// tally is a row of the table.
type tally struct {
	runs, ends, sure, wrong int
	shown                   []string
}

// hurt damages one story with one seed and counts.
func (s *story) hurt(d damage, seed uint64, n *tally) {
	r := rand.New(rand.NewPCG(seed, 17))
	stream := slices.Clone(s.stream)
	d.do(r, stream)
	of := map[eventID]uint64{} // whose an event was
	for i := range stream {
		of[idOf(&stream[i].Event)] = stream[i].Conn
	}
	renumber(stream)
	n.runs++
	for _, x := range play(stream, s.missing, d.exact) {
		n.ends++
		if x.v.Confidence != verdict.Certain {
			continue
		}
		n.sure++
		var who uint64
		mixed := false
		for i := range x.c.Events {
			e := &x.c.Events[i]
			// A reset may be a listener's.
			if gen := of[idOf(e)]; gen != 0 && e.Hook != event.HookSendReset {
				mixed = mixed || who != 0 && gen != who
				who = gen
			}
		}
		want, ok := s.due[who]
		why := ""
		switch {
		case mixed:
			why = "two connections in one"
		case !ok:
			why = "there was no such end"
		default:
			why = otherwise(x.v, want)
		}
		if why == "" {
			continue
		}
		n.wrong++
		if len(n.shown) < max(5, *trustShow) {
			var gone []string
			for i := range stream {
				if stream[i].gone && len(gone) < 8 {
					e := &stream[i].Event
					gone = append(gone, fmt.Sprintf("%v %v>%v of %v", e.Hook, e.State, e.ToState, e.Local))
				}
			}
			n.shown = append(n.shown, fmt.Sprintf("%s, %s, seed %d, %v > %v %v: %s [%s]", s.kernel, s.scenario, seed, x.c.Local, x.c.Remote, x.c.Open, why, strings.Join(gone, "; ")))
		}
	}
}

// TestTrust damages recorded stories in every way in which a trace can be damaged,
// and counts the verdicts that are told as certain and that the whole story
// refutes. Every row can be had again by its seeds:
//
//	go test ./tracer/verdict -run TestTrust -v -trust.seeds 1000
func TestTrust(t *testing.T) {
	all := stories(t)
	var kernels []string
	for k := range all {
		kernels = append(kernels, k)
	}
	slices.Sort(kernels)
	var table strings.Builder
	fmt.Fprintf(&table, "%-24s %9s %9s %9s %9s %10s\n", "damage", "runs", "ends", "certain", "wrong", "per 100 k")
	type job struct {
		d    damage
		seed uint64
	}
	for _, d := range damages() {
		if !strings.HasPrefix(d.name, *trustRow) {
			continue
		}
		jobs := make(chan job)
		var sum tally
		var mu sync.Mutex
		var wg sync.WaitGroup
		for range runtime.GOMAXPROCS(0) {
			wg.Go(func() {
				var n tally
				for x := range jobs {
					pick := rand.New(rand.NewPCG(x.seed, 3))
					for _, k := range kernels {
						for range trustStories {
							s := &all[k][pick.IntN(len(all[k]))]
							s.hurt(x.d, x.seed, &n)
						}
					}
				}
				mu.Lock()
				defer mu.Unlock()
				sum.runs, sum.ends, sum.sure, sum.wrong = sum.runs+n.runs, sum.ends+n.ends, sum.sure+n.sure, sum.wrong+n.wrong
				sum.shown = append(sum.shown, n.shown...)
			})
		}
		for seed := range uint64(*trustSeeds) {
			jobs <- job{d, *trustFirst + seed}
		}
		close(jobs)
		wg.Wait()
		rate := 100_000 * float64(sum.wrong) / float64(max(1, sum.ends))
		fmt.Fprintf(&table, "%-24s %9d %9d %9d %9d %10.1f\n", d.name, sum.runs, sum.ends, sum.sure, sum.wrong, rate)
		// A few seeds tell a rate with an error.
		most := d.most * float64(sum.ends) / 100_000
		failed := float64(sum.wrong) > most+3*math.Sqrt(most)
		show := *trustShow
		if failed {
			show = max(show, 5)
		}
		for _, x := range sum.shown[:min(len(sum.shown), show)] {
			t.Log(d.name + ": " + x)
		}
		if failed {
			t.Errorf("%s: %d of %d verdicts are certain and wrong, at most %.0f in 100,000 may be", d.name, sum.wrong, sum.ends, d.most)
		}
	}
	t.Logf("%d seeds, %d stories of each of %d kernels\n%s", *trustSeeds, trustStories, len(kernels), table.String())
}
