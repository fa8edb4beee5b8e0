package session

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/record"
	"github.com/tcpbye/tcpbye/tracer/report"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

const ms = time.Millisecond

// step of a run as it comes: one of these.
type input struct {
	event   *event.Event
	process *record.Process
	seed    *conn.Seed
	tick    time.Duration
	loss    record.Loss
}

// feed gives a session what comes, as Live does.
func feed(s *Session, in []input) error {
	for _, i := range in {
		if err := feedOne(s, i); err != nil {
			return errors.Join(err, s.Finish())
		}
	}
	return s.Finish()
}

func feedOne(s *Session, i input) error {
	switch {
	case i.event != nil:
		return s.Event(*i.event)
	case i.process != nil:
		return s.Process(*i.process)
	case i.seed != nil:
		return s.Seed(*i.seed)
	case i.loss.Lost != 0:
		return s.Lose(i.loss.From, i.loss.Time, i.loss.Lost)
	}
	return s.Tick(i.tick)
}

// run makes up a busy machine: pairs that end gracefully, by abort, or not at
// all; single ends; processes that are looked up; ticks at any time; losses; and
// events that come late, some of them too late.
func run(r *rand.Rand, n int) []input {
	type stamped struct {
		at time.Duration // of arrival
		input
	}
	var all []stamped
	put := func(at time.Duration, i input) { all = append(all, stamped{at, i}) }
	emit := func(e event.Event) {
		late := time.Duration(r.Int64N(int64(8 * ms)))
		if r.IntN(200) == 0 {
			late += time.Duration(r.Int64N(int64(300 * ms))) // preempted in the middle of a hook
		}
		if e.PID != 0 && r.IntN(3) == 0 {
			put(e.Time+late, input{process: &record.Process{Time: e.Time, PID: e.PID, Exe: record.Text(fmt.Sprintf("/exe/%d/%d", e.PID, r.IntN(3)))}})
		}
		put(e.Time+late, input{event: &e})
	}
	for i := range n {
		at := time.Duration(i) * 23 * ms
		a := netip.AddrPortFrom(netip.MustParseAddr("10.0.0.1"), uint16(30000+i))
		b := netip.MustParseAddrPort("10.0.0.1:80")
		remote := r.IntN(4) == 0
		if remote {
			b = netip.MustParseAddrPort("192.0.2.1:80")
		}
		pid := uint32(100 + i%9)
		ev := func(client bool, from, to event.State, hook event.Hook) {
			at += time.Duration(r.IntN(int(2 * ms)))
			if r.IntN(6) == 0 {
				at += time.Duration(r.IntN(int(900 * ms)))
			}
			e := event.Event{Time: at, Hook: hook, Has: event.HasTuple | event.HasPreempt | event.HasTCP | event.HasSocket,
				Family: event.IPv4, NetNS: 1, State: from, ToState: to, Context: event.ContextSoftirq}
			e.Local, e.Remote, e.Sock, e.Conn = a, b, uint64(0x10000+16*i), uint64(2*i+1)
			mine, theirs := uint32(1<<28+i<<16), uint32(1<<31+i<<16)
			e.BytesAcked = 1 // the SYN of who opened it
			if !client {
				e.Local, e.Remote, e.Sock, e.Conn = b, a, uint64(0x90000+16*i), uint64(2*i+2)
				mine, theirs, e.BytesAcked = theirs, mine, 0
			}
			e.WriteSeq, e.SndUna, e.SndNxt, e.RcvNxt, e.CopiedSeq = mine+1, mine+1, mine+1, theirs+1, theirs+1
			if hook != event.HookSetState || to == event.FinWait1 || to == event.LastAck || to == event.SynSent {
				e.Context, e.PID, e.TID, e.Comm = event.ContextProcess, pid, pid, event.CommOf(fmt.Sprint("p", pid))
			}
			if !client && remote {
				return
			}
			emit(e)
		}
		old := r.IntN(3) == 0
		if old {
			put(0, input{seed: &conn.Seed{NetNS: 1, Local: a, Remote: b, State: event.Established, Owner: &conn.Process{PID: pid, Comm: "old", Exe: "/old\xff"}}})
		} else {
			ev(true, event.Close, event.SynSent, event.HookSetState)
			ev(false, event.Listen, event.SynRecv, event.HookSetState)
			ev(true, event.SynSent, event.Established, event.HookSetState)
			ev(false, event.SynRecv, event.Established, event.HookSetState)
		}
		switch r.IntN(3) {
		case 0:
			ev(true, event.Established, 0, event.HookClose)
			ev(true, event.Established, event.FinWait1, event.HookSetState)
			ev(false, event.Established, event.CloseWait, event.HookSetState)
			ev(true, event.FinWait1, event.FinWait2, event.HookSetState)
			ev(false, event.CloseWait, 0, event.HookClose)
			ev(false, event.CloseWait, event.LastAck, event.HookSetState)
			ev(true, event.FinWait2, event.Close, event.HookSetState)
			ev(true, event.Close, 0, event.HookDestroy)
			ev(false, event.LastAck, event.Close, event.HookSetState)
			ev(false, event.Close, 0, event.HookDestroy)
		case 1:
			ev(true, event.Established, 0, event.HookClose)
			ev(true, event.Established, event.Close, event.HookSetState)
			ev(true, event.Close, 0, event.HookSendActiveReset)
			ev(true, event.Close, 0, event.HookDestroy)
			ev(false, event.Established, 0, event.HookReset)
			ev(false, event.Established, event.Close, event.HookSetState)
			ev(false, event.Close, 0, event.HookClose)
			ev(false, event.Close, 0, event.HookDestroy)
		case 2:
			ev(true, event.Established, 0, event.HookShutdown)
			ev(true, event.Established, event.FinWait1, event.HookSetState)
			ev(false, event.Established, event.CloseWait, event.HookSetState)
		}
	}
	for at := time.Duration(0); at < time.Duration(n)*30*ms; at += time.Duration(r.IntN(int(130 * ms))) {
		put(at, input{tick: at - 10*ms})
		if r.IntN(40) == 0 || at > time.Duration(n)*15*ms && at < time.Duration(n)*15*ms+130*ms {
			put(at, input{loss: record.Loss{From: at - 10*ms, Time: at - 10*ms, Lost: 3}})
		}
	}
	slices.SortStableFunc(all, func(x, y stamped) int { return int(x.at - y.at) })
	var in []input
	for _, s := range all {
		if s.seed != nil {
			in = append(in, s.input)
		}
	}
	for _, s := range all {
		if s.seed == nil {
			in = append(in, s.input)
		}
	}
	return in
}

// sinks shows everything in every format.
type sinks struct {
	t   *testing.T
	out map[report.Format]*bytes.Buffer
	to  []report.Sink
}

func newSinks(t *testing.T) *sinks {
	s := &sinks{t: t, out: map[report.Format]*bytes.Buffer{}}
	for _, f := range report.Formats() {
		s.out[f] = &bytes.Buffer{}
		sink, err := report.New(f, s.out[f], report.Options{Location: time.UTC})
		if err != nil {
			t.Fatal(err)
		}
		s.to = append(s.to, sink)
	}
	return s
}

func (s *sinks) show(c *conn.Connection, v verdict.Verdict) error {
	for _, sink := range s.to {
		if err := sink.End(report.Judged{Conn: c, Verdict: v}); err != nil {
			return err
		}
	}
	return nil
}

func (s *sinks) close() map[report.Format]string {
	text := map[report.Format]string{}
	for i, f := range report.Formats() {
		if err := s.to[i].Close(); err != nil {
			s.t.Fatal(err)
		}
		text[f] = s.out[f].String()
	}
	return text
}

// memory is a place for the parts of a recording.
type memory struct {
	names []string
	files map[string]*bytes.Buffer
}

type memoryFile struct{ *bytes.Buffer }

func (memoryFile) Close() error { return nil }

func (m *memory) create(name string) (io.WriteCloser, error) {
	if m.files == nil {
		m.files = map[string]*bytes.Buffer{}
	}
	m.names = append(m.names, name)
	m.files[name] = &bytes.Buffer{}
	return memoryFile{m.files[name]}, nil
}

// TestReplayIsTheRun: a recording shows, in every format, byte for byte what the
// run showed; in one file, in parts, and when it is recorded again.
func TestReplayIsTheRun(t *testing.T) {
	late := 0
	var rungs []record.Rung
	for _, h := range event.Hooks() {
		r := record.Rung{Hook: h, Rung: "kprobe"}
		if h == event.HookAbort {
			r.Rung = ""
		}
		rungs = append(rungs, r)
	}
	for seed := range uint64(4) {
		in := run(rand.New(rand.NewPCG(seed, 7)), 150)
		keep := func(c *conn.Connection, v verdict.Verdict) bool {
			return v.Class != verdict.Graceful || c.Owner != nil && c.Owner.PID%2 == 0
		}
		for _, size := range []int64{0, 8 << 10} {
			var m memory
			rec, err := record.NewRotator("r", record.Meta{Program: "test", Run: "x", Rungs: rungs}, record.Rotation{Size: size}, m.create)
			if err != nil {
				t.Fatal(err)
			}
			live := newSinks(t)
			s := New(Config{Keep: keep, Show: live.show, Record: rec, Scope: verdict.Scope{Missing: []event.Hook{event.HookAbort}}})
			if err := feed(s, in); err != nil {
				t.Fatal(err)
			}
			want, counts := live.close(), s.Counts()
			if counts.Shown == 0 || counts.Filtered == 0 || counts.Lost == 0 || counts.Seen != counts.Shown+counts.Filtered {
				t.Fatalf("counts %+v", counts)
			}
			late += int(s.join.Late())
			if size > 0 && len(m.names) < 5 {
				t.Fatalf("only %d parts", len(m.names))
			}
			var whole bytes.Buffer
			for _, name := range m.names {
				whole.Write(m.files[name].Bytes())
			}
			var again bytes.Buffer
			for i := range 2 { // the recording, and the recording of its replay
				replayed := newSinks(t)
				got, err := Replay(bytes.NewReader(whole.Bytes()), func(meta record.Meta) (Config, error) {
					again.Reset()
					w, err := record.NewWriter(&again, meta)
					return Config{Keep: keep, Show: replayed.show, Record: w}, err
				})
				if err != nil {
					t.Fatal(err)
				}
				if got != counts {
					t.Errorf("seed %d: the run counted %+v, the replay %+v", seed, counts, got)
				}
				for f, text := range replayed.close() {
					if text != want[f] {
						t.Fatalf("seed %d, parts of %d, replay %d: %s differs\n%s", seed, size, i, f, cmp.Diff(strings.Split(want[f], "\n"), strings.Split(text, "\n")))
					}
				}
				whole.Reset()
				whole.Write(again.Bytes())
			}
			// A part alone can be read, and knows who owns what is older.
			if size > 0 {
				part, owned := m.files[m.names[3]], 0
				if _, err := Replay(bytes.NewReader(part.Bytes()), func(record.Meta) (Config, error) {
					return Config{Show: func(c *conn.Connection, _ verdict.Verdict) error {
						if c.Before != 0 && c.Owner != nil {
							owned++
						}
						return nil
					}}, nil
				}); err != nil || owned == 0 {
					t.Errorf("a part alone has %d older connections with an owner; error %v", owned, err)
				}
			}
		}
	}
	if late == 0 {
		t.Error("no event was late: the test does not test what it is for")
	}
}

// two are both ends of a connection.
func two() (a, b *conn.Connection) {
	a, b = &conn.Connection{ID: "1"}, &conn.Connection{ID: "2"}
	a.Peer, b.Peer = b, a
	return a, b
}

// TestTogether: both ends of a local connection are kept or dropped together,
// whichever is judged first and whichever is wanted.
func TestTogether(t *testing.T) {
	alone := &conn.Connection{ID: "9"}
	for _, tt := range []struct {
		wanted string
		want   string
		counts Counts
	}{
		{"1", "1 2", Counts{Shown: 2, Filtered: 1}},
		{"2", "1 2", Counts{Shown: 2, Filtered: 1}},
		{"9", "9", Counts{Shown: 1, Filtered: 2}},
		{"1 2 9", "1 9 2", Counts{Shown: 3}},
		{"", "", Counts{Filtered: 3}},
	} {
		a, b := two()
		var shown []string
		s := New(Config{
			Keep: func(c *conn.Connection, _ verdict.Verdict) bool { return strings.Contains(tt.wanted, c.ID) },
			Show: func(c *conn.Connection, _ verdict.Verdict) error { shown = append(shown, c.ID); return nil },
		})
		for _, c := range []*conn.Connection{a, alone, b} {
			if err := s.offer(c, verdict.Verdict{}); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Finish(); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(shown, " "); got != tt.want || s.Counts() != tt.counts {
			t.Errorf("wanted %q: shown %q, counts %+v", tt.wanted, got, s.Counts())
		}
	}
	// An end whose peer is never judged counts as filtered, not as lost.
	a, _ := two()
	s := New(Config{Keep: func(*conn.Connection, verdict.Verdict) bool { return false }})
	if err := errors.Join(s.offer(a, verdict.Verdict{}), s.Finish()); err != nil {
		t.Fatal(err)
	}
	if s.Counts().Filtered != 1 {
		t.Errorf("counts %+v", s.Counts())
	}
}

// TestHeldIsBounded: many ends whose peers never come.
func TestHeldIsBounded(t *testing.T) {
	s := New(Config{Keep: func(c *conn.Connection, _ verdict.Verdict) bool { return c.ID == "kept" }})
	const n = 5 * maxHeld
	for i := range n {
		a, b := two()
		if i%2 == 0 {
			a.ID = "kept"
		}
		if err := s.offer(a, verdict.Verdict{}); err != nil {
			t.Fatal(err)
		}
		if i%3 == 0 {
			if err := s.offer(b, verdict.Verdict{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if s.held.len() > maxHeld || s.held.order.Len() > 2*maxHeld+1 || s.told.len() > maxHeld || s.told.order.Len() > 2*maxHeld+1 {
		t.Errorf("%d held, %d in order; %d told, %d in order", s.held.len(), s.held.order.Len(), s.told.len(), s.told.order.Len())
	}
	if err := s.Finish(); err != nil {
		t.Fatal(err)
	}
	if c, want := s.Counts(), uint64(n+(n+2)/3); c.Shown+c.Filtered != want {
		t.Errorf("%d shown and %d filtered of %d", c.Shown, c.Filtered, want)
	}
}

// TestCount: a run ends when enough was shown, as its normal end.
func TestCount(t *testing.T) {
	in := run(rand.New(rand.NewPCG(1, 7)), 50)
	var buf bytes.Buffer
	w, err := record.NewWriter(&buf, record.Meta{})
	if err != nil {
		t.Fatal(err)
	}
	all := 0
	if err := feed(New(Config{Record: w, Show: func(*conn.Connection, verdict.Verdict) error { all++; return nil }}), in); err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{1, 7, all, all + 10} {
		shown := 0
		counts, err := Replay(bytes.NewReader(buf.Bytes()), func(record.Meta) (Config, error) {
			return Config{Count: uint64(n), Show: func(*conn.Connection, verdict.Verdict) error { shown++; return nil }}, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if shown != min(n, all) || counts.Shown != uint64(shown) {
			t.Errorf("of %d, asked for %d: %d shown, counts %+v", all, n, shown, counts)
		}
	}
}

// TestActorsAreNamed: what is known of a process at the time of its act goes
// into the verdict, and a PID that is used again is another process.
func TestActorsAreNamed(t *testing.T) {
	p := newPeople()
	p.learn(record.Process{Time: 10, PID: 1, Exe: "/first", UID: 5, User: "five"})
	p.learn(record.Process{Time: 30, PID: 1, Exe: "/third"})
	p.learn(record.Process{Time: 20, PID: 1, Exe: "/second"}) // a little late
	for at, want := range map[time.Duration]string{9: "", 10: "/first", 19: "/first", 20: "/second", 29: "/second", 30: "/third", 99: "/third"} {
		who := conn.Process{PID: 1, UID: 5}
		p.complete(&who, at)
		if who.Exe != want || (who.User == "five") != (want == "/first") {
			t.Errorf("at %d: %+v, want %q", at, who, want)
		}
	}
	a, b := two()
	b.Hands = []conn.Process{{PID: 7, UID: 1, Exe: "/closer", User: "one"}}
	v := verdict.Verdict{Actor: &conn.Process{PID: 7, UID: 1}, LocalFin: &verdict.Goodbye{Actor: &conn.Process{PID: 7, UID: 2}}, PeerFin: &verdict.Goodbye{}}
	Name(a, &v)
	if v.Actor.Exe != "/closer" || v.Actor.User != "one" || v.LocalFin.Actor.Exe != "/closer" || v.LocalFin.Actor.User != "" {
		t.Errorf("actor %+v, %+v", v.Actor, v.LocalFin.Actor)
	}
	for i := range uint32(2 * maxPeople) {
		p.learn(record.Process{PID: i + 2})
		for range 2 * generations {
			p.learn(record.Process{PID: 5})
		}
	}
	if len(p.byPID) > maxPeople || len(p.byPID[5]) > generations {
		t.Errorf("%d people are remembered, %d generations", len(p.byPID), len(p.byPID[5]))
	}
}

// TestBrokenReplay: what comes before the damage is shown, and the error says
// where it is.
func TestBrokenReplay(t *testing.T) {
	var buf bytes.Buffer
	w, err := record.NewWriter(&buf, record.Meta{})
	if err != nil {
		t.Fatal(err)
	}
	if err := feed(New(Config{Record: w}), run(rand.New(rand.NewPCG(2, 7)), 50)); err != nil {
		t.Fatal(err)
	}
	count := func(b []byte) (Counts, error) {
		return Replay(bytes.NewReader(b), func(record.Meta) (Config, error) { return Config{}, nil })
	}
	whole, err := count(buf.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	half, err := count(buf.Bytes()[:buf.Len()/2])
	var damage *record.DamageError
	if !errors.As(err, &damage) || half.Shown == 0 || half.Shown >= whole.Shown {
		t.Errorf("the whole shows %d, the half %d, error %v", whole.Shown, half.Shown, err)
	}
}

// TestReaderHearsOfTheTime: whoever reads a recording while it is written is
// told the time for as long as something waits for it, and no longer.
func TestReaderHearsOfTheTime(t *testing.T) {
	var buf bytes.Buffer
	w, err := record.NewWriter(&buf, record.Meta{})
	if err != nil {
		t.Fatal(err)
	}
	s := New(Config{Record: w})
	e := event.Event{Time: 10 * time.Second, Hook: event.HookSetState, Has: event.HasTuple, Sock: 1, Conn: 1, NetNS: 1,
		State: event.Established, ToState: event.Close,
		Local: netip.MustParseAddrPort("10.0.0.1:1"), Remote: netip.MustParseAddrPort("10.0.0.2:2")}
	if err := s.Event(e); err != nil {
		t.Fatal(err)
	}
	for now := e.Time; now < e.Time+time.Minute; now += 50 * ms {
		if err := s.Tick(now); err != nil {
			t.Fatal(err)
		}
	}
	shown, ticks := 0, 0
	r := New(Config{Show: func(*conn.Connection, verdict.Verdict) error { shown++; return nil }})
	if err := record.Read(&buf, record.Handler{
		Event: r.Event,
		Tick:  func(x record.Tick) error { ticks++; return r.Tick(x.Time) },
	}); err != nil {
		t.Fatal(err)
	}
	if shown != 1 || ticks == 0 || ticks > 4 {
		t.Errorf("%d ends are shown before the recording ends, by %d ticks", shown, ticks)
	}
}

// TestHolders: who holds a connection when the trace ends is told, and told again
// by a replay.
func TestHolders(t *testing.T) {
	var buf bytes.Buffer
	w, err := record.NewWriter(&buf, record.Meta{})
	if err != nil {
		t.Fatal(err)
	}
	local, remote := netip.MustParseAddrPort("10.0.0.1:1"), netip.MustParseAddrPort("10.0.0.2:2")
	e := event.Event{Has: event.HasTuple | event.HasPreempt, Context: event.ContextProcess, Sock: 1, Conn: 1, NetNS: 1, Family: event.IPv4,
		PID: 7, TID: 7, Comm: event.CommOf("parent"), Local: local, Remote: remote}
	var said [2]string
	show := func(i int) func(*conn.Connection, verdict.Verdict) error {
		return func(_ *conn.Connection, v verdict.Verdict) error {
			said[i] = string(v.Cause) + ": " + v.Sentence
			return nil
		}
	}
	s := New(Config{Record: w, Show: show(0)})
	for i, x := range []event.Event{
		{Hook: event.HookSetState, State: event.Close, ToState: event.SynSent, Call: event.CallConnect},
		{Hook: event.HookConnect, State: event.SynSent, Call: event.CallConnect},
		{Hook: event.HookSetState, State: event.SynSent, ToState: event.Established},
		{Hook: event.HookFileClose, State: event.Established, Call: event.CallClose, Refs: 2},
	} {
		x2 := e
		x2.Time, x2.Hook, x2.State, x2.ToState, x2.Call, x2.Refs = time.Duration(i+1)*time.Second, x.Hook, x.State, x.ToState, x.Call, x.Refs
		x2.Has |= event.HasRefs | event.HasSyscall
		if err := s.Event(x2); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Tick(10 * time.Second); err != nil {
		t.Fatal(err)
	}
	if !s.Following(held) {
		t.Fatal("nobody would be asked")
	}
	if err := s.Hold(conn.Seed{Time: 11 * time.Second, NetNS: 1, Local: local, Remote: remote, State: event.Established,
		Holders: []conn.Process{{PID: 8, Comm: "child"}, {PID: 9, Comm: "other\x1b"}}}); err != nil {
		t.Fatal(err)
	}
	if err := s.Finish(); err != nil {
		t.Fatal(err)
	}
	if _, err := Replay(&buf, func(record.Meta) (Config, error) { return Config{Show: show(1)}, nil }); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(said[0], "descriptor-held: parent (pid 7)") || !strings.Contains(said[0], `but child (pid 8) and`) || said[0] != said[1] {
		t.Errorf("the run says %q, the replay %q", said[0], said[1])
	}
}

// TestDamagedReplay: a recording that is damaged in its middle is read on, and of
// what lived through the gap nothing that is certain differs from what the whole
// one told.
func TestDamagedReplay(t *testing.T) {
	type end struct{ local, remote netip.AddrPort }
	replay := func(b []byte) (map[end]verdict.Verdict, Counts, error) {
		ends := map[end]verdict.Verdict{}
		counts, err := Replay(bytes.NewReader(b), func(record.Meta) (Config, error) {
			return Config{Show: func(c *conn.Connection, v verdict.Verdict) error {
				ends[end{c.Local, c.Remote}] = v
				return nil
			}}, nil
		})
		return ends, counts, err
	}
	gaps, certain := 0, 0
	for seed := range uint64(30) {
		r := rand.New(rand.NewPCG(seed, 9))
		var buf bytes.Buffer
		w, err := record.NewWriter(&buf, record.Meta{})
		if err != nil {
			t.Fatal(err)
		}
		in := slices.DeleteFunc(run(r, 60), func(i input) bool { return i.loss.Lost != 0 })
		if err := feed(New(Config{Record: w}), in); err != nil {
			t.Fatal(err)
		}
		whole, _, err := replay(buf.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		b := bytes.Clone(buf.Bytes())
		from := len(b)/4 + r.IntN(len(b)/2)
		for i := range 1 + r.IntN(2000) {
			b[from+i] ^= byte(1 + r.IntN(255))
		}
		damaged, counts, err := replay(b)
		var damage *record.DamageError
		if !errors.As(err, &damage) || damage.Gaps == 0 {
			t.Fatalf("seed %d: error %v", seed, err)
		}
		gaps += damage.Gaps
		if counts.Lost == 0 {
			t.Errorf("seed %d: no loss is counted", seed)
		}
		for k, v := range damaged {
			if v.Confidence != verdict.Certain {
				continue
			}
			certain++
			if want := whole[k]; v.Cause != want.Cause || v.Class != want.Class {
				t.Errorf("seed %d: %v is certainly %s, it was %s", seed, k, v.Cause, want.Cause)
			}
		}
	}
	if gaps == 0 || certain == 0 {
		t.Errorf("%d gaps, %d certain verdicts", gaps, certain)
	}
}

// told is a run as a tracer tells it: what was lost since the last asking, before
// the time is told, and before any event that is much younger.
type told struct {
	in   []input
	lost []time.Duration // when each event was that was lost
}

func tell(r *rand.Rand, n int) told {
	const lossEvery = 200 * ms
	var out told
	var asked, known time.Duration // all losses before the one are told, no event before the other will come
	untold, holes := 0, 0
	ask := func(now time.Duration) {
		if untold > 0 {
			out.in = append(out.in, input{loss: record.Loss{From: asked, Time: now, Lost: uint64(untold)}})
			untold = 0
		}
		asked = max(asked, now)
	}
	var last time.Duration
	for _, i := range run(r, n) {
		switch {
		case i.event != nil && i.event.Time < known:
			// It kept its word.
		case i.event != nil && holes > 0 && i.event.Time >= asked:
			holes--
			untold++
			last = max(last, i.event.Time)
			out.lost = append(out.lost, i.event.Time)
		case i.event != nil:
			if i.event.Time > asked+lossEvery {
				ask(max(i.event.Time, last))
			}
			if r.IntN(60) == 0 {
				holes = 1 + r.IntN(6)
			}
			out.in = append(out.in, i)
		case i.loss.Lost != 0:
		case i.process != nil || i.seed != nil:
			out.in = append(out.in, i)
		default:
			if r.IntN(3) == 0 || untold == 0 {
				ask(max(i.tick, last))
			}
			known = max(known, min(i.tick, asked))
			out.in = append(out.in, input{tick: known})
		}
	}
	ask(max(asked, last))
	return out
}

// TestNoCertaintyWithinALoss: whatever comes in which order, no verdict is certain
// of an end in whose life an event was lost, or that was first heard of right after
// one; and a replay says the same.
func TestNoCertaintyWithinALoss(t *testing.T) {
	for seed := range uint64(60) {
		x := tell(rand.New(rand.NewPCG(seed, 12)), 40)
		var out bytes.Buffer
		rec, err := record.NewWriter(&out, record.Meta{Run: "r"})
		if err != nil {
			t.Fatal(err)
		}
		judged := func(text *strings.Builder, check bool) func(c *conn.Connection, v verdict.Verdict) error {
			return func(c *conn.Connection, v verdict.Verdict) error {
				fmt.Fprintf(text, "%v %v %v %v %v %v\n", c.Local, c.Remote, c.Ended, v.Cause, v.Confidence, v.Missing)
				if !check || v.Confidence != verdict.Certain {
					return nil
				}
				for _, at := range x.lost {
					if c.First <= at && (at <= c.Last || c.Ended == 0) {
						t.Errorf("seed %d: certain of %v-%v, %v to %v, although an event of %v was lost", seed, c.Local, c.Remote, c.First, c.Last, at)
						break
					}
				}
				return nil
			}
		}
		var live, again strings.Builder
		s := New(Config{Record: rec, Show: judged(&live, true)})
		s.live = true
		if err := feed(s, x.in); err != nil {
			t.Fatal(err)
		}
		if _, err := Replay(bytes.NewReader(out.Bytes()), func(record.Meta) (Config, error) {
			return Config{Show: judged(&again, false)}, nil
		}); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(live.String(), again.String()); d != "" {
			t.Fatalf("seed %d: a replay differs (-live +replay):\n%s", seed, d)
		}
	}
}

// TestPairsKeepNothing: of what was taken nothing stays, whatever else waits.
func TestPairsKeepNothing(t *testing.T) {
	var p pairs[int]
	old := &conn.Connection{}
	p.put(old, 1)
	for i := range 3 * maxHeld {
		c := &conn.Connection{}
		if p.put(c, i) {
			t.Fatal("one had to go, although each was taken")
		}
		if v, ok := p.take(c); !ok || v != i {
			t.Fatalf("take gives %d, %v", v, ok)
		}
		if p.order.Len() != 1 {
			t.Fatalf("%d ends are kept, of which one waits", p.order.Len())
		}
	}
	for i := range maxHeld {
		if gone := p.put(&conn.Connection{}, i); gone != (i == maxHeld-1) {
			t.Fatalf("end %d: one had to go: %v", i, gone)
		}
	}
	if _, ok := p.take(old); ok || p.len() != maxHeld || p.order.Len() != maxHeld {
		t.Errorf("%d ends wait, %d are kept, and the oldest is one: %v", p.len(), p.order.Len(), ok)
	}
}

// TestWallClock: the clock is set in the middle. What is shown has the time of its
// own moment, and a replay, of one file or of several, shows the same.
func TestWallClock(t *testing.T) {
	x := tell(rand.New(rand.NewPCG(5, 5)), 60)
	middle := x.in[len(x.in)/2:]
	i := slices.IndexFunc(middle, func(i input) bool { return i.event != nil })
	set := record.Wall{Time: middle[i].event.Time, Offset: 40 * time.Hour}
	var files []*bytes.Buffer
	rec, err := record.NewRotator("r", record.Meta{Offset: time.Hour}, record.Rotation{Size: 4 << 10}, func(string) (io.WriteCloser, error) {
		files = append(files, &bytes.Buffer{})
		return closer{files[len(files)-1]}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	show := func(text *strings.Builder, before, after *int) Config {
		clock := report.Clock{Offset: time.Hour, Set: &report.Settings{}}
		return Config{Wall: func(w record.Wall) { clock.Set.Add(w.Time, w.Offset) }, Show: func(c *conn.Connection, v verdict.Verdict) error {
			fmt.Fprintln(text, c.Local, clock.Wall(c.First), clock.Wall(c.Last))
			want, n := time.Hour, before
			if c.Last >= set.Time {
				want, n = set.Offset, after
			}
			*n++
			if got := clock.Wall(c.Last); !got.Equal(time.Unix(0, int64(c.Last+want))) {
				t.Errorf("%v is shown as %v", c.Last, got)
			}
			return nil
		}}
	}
	var live, again strings.Builder
	var before, after int
	cfg := show(&live, &before, &after)
	cfg.Record = rec
	s := New(cfg)
	s.live = true
	for n, in := range x.in {
		if n == len(x.in)/2+i {
			if err := s.Wall(set); err != nil {
				t.Fatal(err)
			}
		}
		if err := feedOne(s, in); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Finish(); err != nil {
		t.Fatal(err)
	}
	if before == 0 || after == 0 || len(files) < 3 {
		t.Fatalf("%d ends before, %d after, %d files: that shows nothing", before, after, len(files))
	}
	var all []io.Reader
	for _, f := range files {
		all = append(all, bytes.NewReader(f.Bytes()))
	}
	if _, err := Replay(io.MultiReader(all...), func(record.Meta) (Config, error) { return show(&again, &before, &after), nil }); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(live.String(), again.String()); d != "" {
		t.Errorf("a replay differs (-live +replay):\n%s", d)
	}
	// The last file alone knows of the setting, too.
	var alone strings.Builder
	if _, err := Replay(bytes.NewReader(files[len(files)-1].Bytes()), func(record.Meta) (Config, error) { return show(&alone, &before, &after), nil }); err != nil {
		t.Fatal(err)
	}
	if alone.Len() == 0 {
		t.Error("the last file shows nothing")
	}
}

type closer struct{ io.Writer }

func (closer) Close() error { return nil }

// TestCut: once a run is cut short nothing more is judged, and what was recorded
// by then can be read.
func TestCut(t *testing.T) {
	x := tell(rand.New(rand.NewPCG(6, 5)), 40)
	var out bytes.Buffer
	rec, err := record.NewWriter(&out, record.Meta{Run: "r"})
	if err != nil {
		t.Fatal(err)
	}
	cut := make(chan struct{})
	shown := 0
	s := New(Config{Record: rec, Cut: cut, Show: func(*conn.Connection, verdict.Verdict) error {
		if shown++; shown == 5 {
			close(cut)
		}
		if shown > 5 {
			t.Error("an end is shown after the cut")
		}
		return nil
	}})
	s.live = true
	for _, in := range x.in {
		if err = feedOne(s, in); err != nil {
			break
		}
	}
	if !errors.Is(err, ErrCut) {
		t.Errorf("the run ended with %v", err)
	}
	if err := s.Finish(); err != nil && !errors.Is(err, ErrCut) {
		t.Error(err)
	}
	c, err := Replay(bytes.NewReader(out.Bytes()), func(record.Meta) (Config, error) { return Config{}, nil })
	if err != nil || c.Events != s.Counts().Events {
		t.Errorf("the recording has %d events, not %d; %v", c.Events, s.Counts().Events, err)
	}
}
