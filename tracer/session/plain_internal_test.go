package session

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/filter"
	"github.com/tcpbye/tcpbye/tracer/record"
	"github.com/tcpbye/tcpbye/tracer/report"
	"github.com/tcpbye/tcpbye/tracer/story"
	"github.com/tcpbye/tcpbye/tracer/story/model"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// fed is what a run is fed with.
type fed struct {
	at    time.Duration
	story *story.Story
	event *event.Event
	loss  bool
}

// play gives a run what it is fed with, and ends it.
func play(t *testing.T, s *Session, items []fed) {
	t.Helper()
	for _, x := range items {
		var err error
		switch {
		case x.story != nil:
			err = s.Story(model.Wire(x.story, 4*time.Millisecond), 4*time.Millisecond, "amd64")
		case x.event != nil:
			err = s.Event(*x.event)
		case x.loss:
			err = s.Lose(x.at-50*time.Millisecond, x.at, 3)
		default:
			err = s.Tick(x.at)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Finish(); err != nil {
		t.Fatal(err)
	}
}

// rows are what a table shows of a run, sorted: what is complete at the same tick
// comes in any order.
func rows(t *testing.T, f report.Format, items []fed, o report.Options, scope verdict.Scope, keep func(*conn.Connection, verdict.Verdict) bool, short bool) ([]string, Counts, int) {
	t.Helper()
	var out bytes.Buffer
	made, err := report.New(f, &out, o)
	if err != nil {
		t.Fatal(err)
	}
	sink := made.(report.Brief)
	briefs := 0
	cfg := Config{Scope: scope, Keep: keep, Show: func(c *conn.Connection, v verdict.Verdict) error {
		return sink.End(report.Judged{Conn: c, Verdict: v})
	}}
	if short {
		cfg.Detail = sink.Detail()
		cfg.Brief = cfg.Detail == verdict.DetailRow
		cfg.Plain = func(c *conn.Connection, v *verdict.Verdict) error { briefs++; return sink.Brief(c, v) }
	}
	s := New(cfg)
	for pid := uint32(1000); pid < 1005; pid++ {
		p := record.Process{PID: pid, Time: time.Duration(pid) * time.Millisecond, Exe: record.Text(fmt.Sprintf("/bin/%d", pid)), UID: pid % 2, User: "somebody"}
		if pid == 1003 {
			p.Exe, p.Container = `/a "b"`, "docker/0123456789ab"
		}
		if err := s.Process(p); err != nil {
			t.Fatal(err)
		}
	}
	play(t, s, items)
	// They are numbered in the order in which they are known.
	lines := strings.Split(ids.ReplaceAllString(out.String(), `"id":"","peer_id":`), "\n")
	slices.Sort(lines)
	return lines, s.Counts(), briefs
}

var ids = regexp.MustCompile(`"id":"\d+","peer_id":("\d+"|null)`)

// randomPair is a connection of two specimens, somewhere in time, with what may
// differ between real ones, and now and then with what makes one less plain.
func randomPair(r *rand.Rand, n int) (ends []*story.Story) {
	read := []eof{eofNone, eofUnread, eofAlone, eofBehind}[r.IntN(4)]
	other := eofNone
	if read == eofNone {
		other = []eof{eofUnread, eofAlone, eofBehind}[r.IntN(3)]
	}
	if r.IntN(2) == 0 {
		read, other = other, read
	}
	a, b := specimen(conn.OpenActive, read), specimen(conn.OpenPassive, other)
	at := time.Duration(r.Int64N(int64(3 * time.Second)))
	stretch := time.Duration(1)
	if r.IntN(3) == 0 {
		stretch = time.Duration(1 + r.IntN(400))
	}
	isn := [2]uint32{r.Uint32(), r.Uint32()}
	bytes := [2]uint64{uint64(r.IntN(3)), uint64(r.IntN(3))}
	if r.IntN(4) == 0 {
		bytes = [2]uint64{uint64(r.IntN(1 << 22)), uint64(r.IntN(1 << 22))}
	}
	client := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(1024+r.IntN(60000)))
	server := netip.AddrPortFrom(client.Addr(), uint16(1+r.IntN(1000)))
	if r.IntN(4) == 0 {
		client = netip.AddrPortFrom(netip.MustParseAddr("2001:db8:7:8:9:a:b:c"), client.Port())
		server = netip.AddrPortFrom(netip.MustParseAddr("2001:db8::1"), server.Port())
		a.Family, b.Family = event.IPv6, event.IPv6
	}
	names := []string{"curl", "nginx", "a name of one", "naïve", "x\x1b[1m"}
	for i, s := range []*story.Story{&a, &b} {
		s.Sock = uint64(0x1000*(n+1) + i*0x100)
		s.Local, s.Remote = client, server
		if i == 1 {
			s.Local, s.Remote = server, client
		}
		move := func(d time.Duration) time.Duration { return at + time.Second + (d-time.Second)*stretch }
		for k := range s.Steps[:s.Count] {
			s.Steps[k].At = move(s.Steps[k].At)
		}
		s.Born, s.Told = s.Steps[0].At, s.Steps[s.Count-1].At
		pid, comm := uint32(1000+r.IntN(5)), event.CommOf(names[r.IntN(len(names))])
		for k := range s.Tasks[:s.TaskCount] {
			s.Tasks[k].PID, s.Tasks[k].TID, s.Tasks[k].Comm = pid, pid, comm
		}
		switch r.IntN(8) {
		case 0:
			s.Tasks[taskCloser].TID++
		case 1:
			s.Tasks[taskCloser].Comm = event.CommOf("renamed")
		}
		s.Tasks[0].UID = pid / 2 % 2 // some have another now than what was looked up
		s.Tasks[taskCloser].UID = s.Tasks[0].UID
		out, in := bytes[i], bytes[1-i]
		for k := range s.Looks {
			l := &s.Looks[k]
			if !s.Looked[k] {
				continue
			}
			// The numbers of the specimen count from 1000 and 900000, with a byte each.
			own, peer := uint32(1000), uint32(900000)
			if i == 1 {
				own, peer = peer, own
			}
			grow := func(x, from, to uint32, extra uint64) uint32 {
				if d := x - from; d >= 2 {
					return to + d + uint32(extra) - 1
				}
				return to + x - from
			}
			for _, p := range []*uint32{&l.WriteSeq, &l.SndUna, &l.SndNxt} {
				*p = grow(*p, own, isn[i], out)
			}
			for _, p := range []*uint32{&l.RcvNxt, &l.CopiedSeq} {
				*p = grow(*p, peer, isn[1-i], in)
			}
			if k != story.LookOpen {
				l.BytesSent, l.BytesAcked, l.BytesReceived = out, l.BytesAcked+out-1, l.BytesReceived+in-1
			}
			if r.IntN(2) == 0 {
				l.SinceSent, l.SinceReceived = time.Duration(1+r.IntN(100))*time.Millisecond, time.Duration(1+r.IntN(100))*time.Millisecond
			}
		}
		switch r.IntN(60) {
		case 0:
			s.Looks[r.IntN(story.MaxLooks)].MPTCP = true
		case 1:
			s.Tasks[taskCloser].Syscall = event.NumberOf("amd64", event.CallDup2)
		case 2:
			s.Tasks[taskCloser].Flags |= event.PFExiting
		case 3:
			s.Looks[story.LookEnd].SndUna--
		case 4:
			s.Looks[r.IntN(story.MaxLooks)].Queue = event.QueueReads
		case 5:
			s.Final = false
		case 6:
			s.Steps[r.IntN(s.Count)].Task = uint8(2 * r.IntN(2))
		case 7:
			s.Tasks[0].PID++
		case 8:
			s.Looks[story.LookAct].RcvNxt++
		case 9:
			s.Count -= 1 + r.IntN(3)
		case 10:
			s.NetNS = 77
		case 11:
			s.Looks[story.LookAct].SkFlags |= event.SockLinger
		}
		for k := range s.Looks {
			if int(s.Looks[k].Step) >= s.Count {
				s.Looked[k] = false
			}
		}
		ends = append(ends, s)
	}
	switch r.IntN(5) {
	case 0: // the other end lives elsewhere
		return ends[r.IntN(2):][:1]
	}
	return ends
}

// randomRun is what happens in a run, in no order.
func randomRun(r *rand.Rand) []fed {
	var items []fed
	for n := range 1 + r.IntN(8) {
		for _, s := range randomPair(r, n) {
			items = append(items, fed{at: s.Told, story: s})
			if r.IntN(12) == 0 { // a segment meets its mini-socket, or nothing
				e := event.Event{Time: s.Told + time.Duration(r.IntN(int(150*time.Millisecond))), Hook: event.HookSendReset, Has: event.HasTuple | event.HasSegment | event.HasPreempt,
					Context: event.ContextSoftirq, Family: s.Family, Local: s.Local, Remote: s.Remote, NetNS: s.NetNS, State: event.TimeWait, Arg: -1, Arg2: int32(event.TimeWait),
					Segment: event.Segment{Flags: event.ACK, Seq: s.Looks[story.LookEnd].RcvNxt, Ack: s.Looks[story.LookEnd].SndNxt}}
				if r.IntN(2) == 0 {
					e.State, e.Arg2 = 0, -1
				} else {
					e.Sock = s.Sock + 1
				}
				items = append(items, fed{at: e.Time, event: &e})
			}
		}
	}
	if r.IntN(10) == 0 {
		e := event.Event{Time: time.Duration(r.Int64N(int64(4 * time.Second))), Hook: event.HookExit, Context: event.ContextProcess, PID: uint32(1000 + r.IntN(5)), Arg: event.OOMNone}
		e.TID = e.PID
		items = append(items, fed{at: e.Time, event: &e})
	}
	if r.IntN(10) == 0 {
		items = append(items, fed{at: time.Duration(r.Int64N(int64(4 * time.Second))), loss: true})
	}
	return items
}

// TestPlainIsTheLongWay: what is shown of plain stories the short way is what is
// shown of them, byte for byte, when they are made events and judged, whatever else
// happens beside them.
func TestPlainIsTheLongWay(t *testing.T) {
	seeds := 1500
	if testing.Short() {
		seeds = 300
	}
	total, shortly := 0, 0
	for seed := range seeds {
		r := rand.New(rand.NewPCG(uint64(seed), 14))
		items := randomRun(r)
		last := time.Duration(0)
		for _, x := range items {
			last = max(last, x.at)
		}
		for at := time.Duration(0); at < last; at += 50 * time.Millisecond {
			items = append(items, fed{at: at})
		}
		slices.SortStableFunc(items, func(a, b fed) int { return int(a.at - b.at) })
		o := report.Options{Width: []int{0, 80, 120, 200, 60}[r.IntN(5)], ASCII: r.IntN(3) == 0, Location: time.UTC, Color: r.IntN(6) == 0}
		var scope verdict.Scope
		if r.IntN(4) == 0 {
			scope.Missing = []event.Hook{event.Hooks()[r.IntN(len(event.Hooks()))]}
		}
		var keep func(*conn.Connection, verdict.Verdict) bool
		if r.IntN(3) == 0 {
			keep = func(c *conn.Connection, v verdict.Verdict) bool {
				return c.Owner != nil && c.Owner.PID%2 == 0 && v.Class == verdict.Graceful
			}
		}
		f := report.Table
		if r.IntN(2) == 0 {
			f, o.NoEvents = report.JSON, r.IntN(2) == 0
		}
		want, counted, _ := rows(t, f, items, o, scope, keep, false)
		got, counts, briefs := rows(t, f, items, o, scope, keep, true)
		total, shortly = total+len(want)-2, shortly+briefs
		if d := cmp.Diff(want, got); d != "" {
			t.Fatalf("seed %d, %s, %+v: %s", seed, f, o, d)
		}
		if counts != counted {
			t.Fatalf("seed %d: counts %+v, want %+v", seed, counts, counted)
		}
	}
	t.Logf("%d of %d rows the short way", shortly, total)
	if shortly < total/4 {
		t.Error("hardly anything went the short way")
	}
}

// TestPlainHands: a process that has executed two other programs between its connect
// and its close is found by the name in between, the short way, too.
func TestPlainHands(t *testing.T) {
	s := specimen(conn.OpenActive, eofNone)
	s.Tasks[taskOpener].Comm, s.Tasks[taskCloser].Comm = event.CommOf("first"), event.CommOf("last")
	exec := event.Event{Time: s.Steps[1].At + time.Millisecond, Hook: event.HookExec, Has: event.HasTask | event.HasPreempt, Context: event.ContextProcess,
		PID: s.Tasks[taskOpener].PID, TID: s.Tasks[taskOpener].PID, Comm: event.CommOf("middle")}
	keep := func(c *conn.Connection, _ verdict.Verdict) bool {
		return slices.ContainsFunc(c.Hands, func(p conn.Process) bool { return p.Comm == "middle" })
	}
	items := []fed{{at: exec.Time, event: &exec}, {at: s.Told, story: &s}}
	for _, short := range []bool{false, true} {
		if _, counts, _ := rows(t, report.Table, items, report.Options{Location: time.UTC}, verdict.Scope{}, keep, short); counts.Shown != 1 {
			t.Errorf("short way %v: %+v", short, counts)
		}
	}
}

// TestStoryAfterItsEvent: what was told of a socket before its story is the same
// connection's. With a filter in the kernel half the story of a listener's child
// begins when the handshake is over, and by Fast Open it is accepted before.
func TestStoryAfterItsEvent(t *testing.T) {
	s := specimen(conn.OpenPassive, eofUnread)
	s.Steps[0].At = s.Born // as the kernel half has it
	at := slices.IndexFunc(s.Steps[:s.Count], func(x story.Step) bool { return x.Hook == event.HookAccept })
	accept := s.Events(nil)[at]
	accept.Time, accept.State = s.Born+5*time.Microsecond, event.SynRecv
	s.Steps[at] = story.Step{} // it stands last on the wire
	copy(s.Steps[at:], s.Steps[at+1:s.Count])
	s.Count--
	for i := range s.Looks {
		if int(s.Looks[i].Step) > at {
			s.Looks[i].Step--
		}
	}
	var shown []*conn.Connection
	run := New(Config{Show: func(c *conn.Connection, v verdict.Verdict) error {
		shown = append(shown, c)
		if v.Class != verdict.Graceful || c.Lossy {
			t.Errorf("%s, %s, something lost: %v", v.Class, v.Cause, c.Lossy)
		}
		return nil
	}})
	// Long before the story is told, as a rule.
	if err := run.Event(accept); err != nil {
		t.Fatal(err)
	}
	if err := run.Tick(s.Told - 1); err != nil {
		t.Fatal(err)
	}
	if err := run.Story(model.Wire(&s, 4*time.Millisecond), 4*time.Millisecond, "amd64"); err != nil {
		t.Fatal(err)
	}
	if err := run.Finish(); err != nil {
		t.Fatal(err)
	}
	if len(shown) != 1 {
		t.Fatalf("%d endings of one socket", len(shown))
	}
	c := shown[0]
	if c.First != s.Born || c.Opened != s.Born || c.Open != conn.OpenPassive || c.Owner == nil ||
		!slices.IsSortedFunc(c.Events, func(a, b event.Event) int { return int(a.Time - b.Time) }) {
		t.Errorf("first seen at %v, born at %v, opened %s by %v", c.First, s.Born, c.Open, c.Owner)
	}
}

// TestLateStory: a story that comes too late is all that is known of its socket. It
// is shown, as one that may lack something.
func TestLateStory(t *testing.T) {
	s := specimen(conn.OpenActive, eofNone)
	for _, again := range []bool{false, true} {
		items := []fed{{at: s.Told + 10*time.Second}, {at: s.Told, story: &s}}
		if again {
			items = append(items, fed{at: s.Told + 20*time.Second}, items[1])
		}
		for _, short := range []bool{false, true} {
			lossy := 0
			keep := func(c *conn.Connection, _ verdict.Verdict) bool {
				if c.Lossy {
					lossy++
				}
				return true
			}
			if _, counts, _ := rows(t, report.Table, items, report.Options{Location: time.UTC}, verdict.Scope{}, keep, short); counts.Shown != 1 || lossy != 1 {
				t.Errorf("short way %v, twice %v: %+v, %d may lack something", short, again, counts, lossy)
			}
		}
	}
}

// TestPassedMessages: what a router said of a connection is found when its story is
// told, however many processes came and went since.
func TestPassedMessages(t *testing.T) {
	s := specimen(conn.OpenActive, eofNone)
	found := false
	run := New(Config{Show: func(c *conn.Connection, _ verdict.Verdict) error {
		found = slices.ContainsFunc(c.Events, func(e event.Event) bool { return e.Hook == event.HookICMP })
		return nil
	}})
	events := []event.Event{{Time: s.Steps[1].At + time.Microsecond, Hook: event.HookICMP, Has: event.HasTuple, Context: event.ContextSoftirq,
		Family: s.Family, Local: s.Local, Remote: s.Remote, NetNS: s.NetNS}}
	for i := range 5000 {
		pid := uint32(5000 + i)
		events = append(events, event.Event{Time: events[0].Time + time.Duration(i+1)*time.Microsecond, Hook: event.HookExit, Context: event.ContextProcess, PID: pid, TID: pid})
	}
	for _, e := range events {
		if err := run.Event(e); err != nil {
			t.Fatal(err)
		}
	}
	if err := run.Story(model.Wire(&s, 4*time.Millisecond), 4*time.Millisecond, "amd64"); err != nil {
		t.Fatal(err)
	}
	if err := run.Finish(); err != nil {
		t.Fatal(err)
	}
	if !found {
		t.Error("the message is not found")
	}
}

// TestPlainOfChosen: a recording of chosen connections, of which plain ones are kept
// out the short way, shows again what its run showed.
func TestPlainOfChosen(t *testing.T) {
	seeds, recorded := 300, 0
	for seed := range seeds {
		r := rand.New(rand.NewPCG(uint64(seed), 15))
		items := randomRun(r)
		last := time.Duration(0)
		for _, x := range items {
			last = max(last, x.at)
		}
		for at := time.Duration(0); at < last; at += 50 * time.Millisecond {
			items = append(items, fed{at: at})
		}
		slices.SortStableFunc(items, func(a, b fed) int { return int(a.at - b.at) })
		choice := &filter.Filter{PIDs: []uint32{uint32(1000 + r.IntN(5))}}
		if r.IntN(2) == 0 {
			choice = &filter.Filter{Classes: []verdict.Class{verdict.TimedOut, verdict.Unknown}}
		}
		show := func(out *bytes.Buffer, c *Config, short bool) {
			sink := report.NewTable(out, report.Options{Location: time.UTC})
			c.Keep = choice.Match
			c.Show = func(c *conn.Connection, v verdict.Verdict) error { return sink.End(report.Judged{Conn: c, Verdict: v}) }
			if short {
				c.Plain = sink.Brief
			}
		}
		live := func(short bool) (rows, recording string) {
			var out, rec bytes.Buffer
			w, err := record.NewWriter(&rec, record.Meta{Arch: "amd64", Kernel: "6.1"})
			if err != nil {
				t.Fatal(err)
			}
			cfg := Config{Record: w, Pick: choice}
			show(&out, &cfg, short)
			s := New(cfg)
			s.live = true
			play(t, s, items)
			return out.String(), rec.String()
		}
		sorted := func(s string) []string { l := strings.Split(s, "\n"); slices.Sort(l); return l }
		long, _ := live(false)
		short, recording := live(true)
		if d := cmp.Diff(sorted(long), sorted(short)); d != "" {
			t.Fatalf("seed %d: %s", seed, d)
		}
		var again bytes.Buffer
		if _, err := Replay(strings.NewReader(recording), func(record.Meta) (Config, error) {
			var cfg Config
			show(&again, &cfg, true)
			return cfg, nil
		}); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(sorted(short), sorted(again.String())); d != "" {
			t.Fatalf("seed %d, replayed: %s", seed, d)
		}
		recorded += len(sorted(short)) - 2
	}
	if recorded == 0 {
		t.Error("nothing was chosen")
	}
}
