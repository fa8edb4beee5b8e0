package session

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
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
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// choices are filters of every kind: decided by the first event, by an owner who
// comes late, by the verdict.
var choices = map[string]filter.Spec{
	"port of some":    {Ports: []string{"30000-30040"}},
	"port of all":     {Ports: []string{"80"}},
	"port of nobody":  {Ports: []string{"9"}},
	"process":         {PIDs: []string{"104"}},
	"name":            {Comms: []string{"p10[0-3]"}},
	"exe":             {Exes: []string{"/exe/10[5-8]/1"}},
	"remote":          {Remote: []string{"192.0.2.0/24"}},
	"local and class": {Local: []string{"10.0.0.1"}, Classes: []string{"aborted"}},
	"class":           {Classes: []string{"aborted,unknown"}},
	"open":            {Classes: []string{"open"}},
	"namespace":       {NetNS: []string{"1"}},
	"no namespace":    {NetNS: []string{"2"}},
	"process and cause": {PIDs: []string{"101,102,103,104,105"},
		Causes: []string{"orderly-close,linger-zero,still-open,half-close,unknown,abort"}},
}

func parse(t *testing.T, s filter.Spec) *filter.Filter {
	t.Helper()
	s.Causes = slices.DeleteFunc(strings.Split(strings.Join(s.Causes, ","), ","), func(c string) bool {
		return c == "" || !slices.ContainsFunc(verdict.Rules(), func(r verdict.Rule) bool { return string(r.Cause) == c })
	})
	f, err := filter.Parse(s, filter.World{})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// TestRecordingOfChosen: a recording of chosen connections shows, byte for byte in
// every format and without any filter, what the run showed; so do its parts, and
// what is recorded of it again.
func TestRecordingOfChosen(t *testing.T) {
	for name, spec := range choices {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			shown := uint64(0)
			for seed := range uint64(2) {
				in := run(rand.New(rand.NewPCG(seed, 11)), 70)
				for _, size := range []int64{0, 16 << 10} {
					var m memory
					rec, err := record.NewRotator("r", record.Meta{Program: "test", Run: "x"}, record.Rotation{Size: size}, m.create)
					if err != nil {
						t.Fatal(err)
					}
					f := parse(t, spec)
					live := newSinks(t)
					s := New(Config{Keep: f.Match, Show: live.show, Record: rec, Pick: f})
					if err := feed(s, in); err != nil {
						t.Fatal(err)
					}
					want := live.close()
					shown += s.Counts().Shown
					var whole bytes.Buffer
					for _, name := range m.names {
						if b := m.files[name].Bytes(); size > 0 && int64(len(b)) > size {
							t.Errorf("%s has %d bytes", name, len(b))
						}
						whole.Write(m.files[name].Bytes())
					}
					for again := range 2 {
						replayed := newSinks(t)
						var copied bytes.Buffer
						w, err := record.NewWriter(&copied, record.Meta{Program: "test"})
						if err != nil {
							t.Fatal(err)
						}
						if _, err := Replay(bytes.NewReader(whole.Bytes()), func(record.Meta) (Config, error) {
							return Config{Show: replayed.show, Record: w}, nil
						}); err != nil {
							t.Fatal(err)
						}
						for f, text := range replayed.close() {
							if text != want[f] {
								t.Fatalf("seed %d, parts of %d, replay %d: %s differs\n%s", seed, size, again, f, cmp.Diff(strings.Split(want[f], "\n"), strings.Split(text, "\n")))
							}
						}
						whole = copied
					}
				}
			}
			if (shown == 0) != (name == "port of nobody" || name == "no namespace") {
				t.Errorf("%d ends were shown", shown)
			}
		})
	}
}

// TestStrangersAreNotRecorded: of what was not chosen nothing is in the recording.
func TestStrangersAreNotRecorded(t *testing.T) {
	in := slices.DeleteFunc(run(rand.New(rand.NewPCG(5, 11)), 120), func(i input) bool { return i.loss.Lost != 0 })
	f := parse(t, filter.Spec{PIDs: []string{"104"}})
	chosen := map[tuple]bool{}
	var buf bytes.Buffer
	w, err := record.NewWriter(&buf, record.Meta{})
	if err != nil {
		t.Fatal(err)
	}
	s := New(Config{Keep: f.Match, Record: w, Pick: f, Show: func(c *conn.Connection, _ verdict.Verdict) error {
		chosen[tuple{c.NetNS, c.Local, c.Remote}] = true
		chosen[tuple{c.NetNS, c.Remote, c.Local}] = true
		return nil
	}})
	if err := feed(s, in); err != nil {
		t.Fatal(err)
	}
	all, strangers := 0, map[tuple]int{}
	for _, i := range in {
		if i.event != nil {
			all++
		}
	}
	events, late := 0, int(s.join.Late())
	if err := record.Read(&buf, record.Handler{
		Event: func(e event.Event) error {
			events++
			if k := (tuple{e.NetNS, e.Local, e.Remote}); !chosen[k] {
				strangers[k]++
			}
			return nil
		},
		Seed: func(x record.Seed) error {
			if k := (tuple{x.NetNS, x.Local, x.Remote}); x.Remote.IsValid() && !chosen[k] {
				strangers[k]++
			}
			return nil
		},
	}); err != nil {
		t.Fatal(err)
	}
	if events == 0 || events > all/4 {
		t.Errorf("%d of %d events are recorded", events, all)
	}
	// Only what came too late is, with both its ends: all others lose their
	// certainty by it.
	if len(strangers) > 2*late {
		t.Errorf("%d strangers are recorded, %d events were late", len(strangers), late)
	}
}

// TestChosenLate: an owner who is known only at the end, after a long time, or when
// much else waits: every event of the connection is there, in its order.
func TestChosenLate(t *testing.T) {
	a, b := netip.MustParseAddrPort("10.0.0.1:1000"), netip.MustParseAddrPort("192.0.2.1:80")
	for _, tt := range []struct {
		name   string
		pause  time.Duration // before the owner acts
		others int
	}{{"soon", time.Second, 0}, {"after long", time.Hour, 0}, {"among many", 5 * time.Second, 120_000}} {
		t.Run(tt.name, func(t *testing.T) {
			var buf bytes.Buffer
			w, err := record.NewWriter(&buf, record.Meta{})
			if err != nil {
				t.Fatal(err)
			}
			f := parse(t, filter.Spec{PIDs: []string{"7"}})
			var live, replayed []string
			show := func(to *[]string) func(*conn.Connection, verdict.Verdict) error {
				return func(c *conn.Connection, v verdict.Verdict) error {
					*to = append(*to, fmt.Sprint(c.ID, c.Local, v.Cause, v.Confidence, v.Sentence, len(c.Events)))
					return nil
				}
			}
			s := New(Config{Keep: f.Match, Pick: f, Record: w, Show: show(&live)})
			at := time.Second
			tell := func(sock uint64, pid uint32, local netip.AddrPort, hook event.Hook, from, to event.State) {
				at += time.Microsecond
				e := event.Event{Time: at, Hook: hook, Has: event.HasTuple | event.HasPreempt, Sock: sock, Conn: sock, NetNS: 1, Family: event.IPv4,
					State: from, ToState: to, Local: local, Remote: b, Context: event.ContextSoftirq}
				if pid != 0 {
					e.PID, e.TID, e.Context, e.Comm = pid, pid, event.ContextProcess, event.CommOf("x")
				}
				if err := s.Event(e); err != nil {
					t.Fatal(err)
				}
			}
			tell(1, 3, a, event.HookSetState, event.Close, event.SynSent)
			tell(1, 0, a, event.HookSetState, event.SynSent, event.Established)
			for i := range tt.others {
				tell(uint64(i+2), 4, netip.AddrPortFrom(a.Addr(), uint16(i%60000+2000)), event.HookSetState, event.Close, event.SynSent)
				if s.ledger.bytes > maxWaiting+1<<20 {
					t.Fatalf("%d bytes wait", s.ledger.bytes)
				}
				if i%1000 == 0 {
					if err := s.Tick(at); err != nil {
						t.Fatal(err)
					}
				}
			}
			for stop := at + tt.pause; at < stop; at += 10 * time.Second {
				if err := s.Tick(at); err != nil {
					t.Fatal(err)
				}
			}
			tell(1, 7, a, event.HookClose, event.Established, 0)
			tell(1, 7, a, event.HookSetState, event.Established, event.FinWait1)
			tell(1, 0, a, event.HookSetState, event.FinWait1, event.Close)
			if err := s.Finish(); err != nil {
				t.Fatal(err)
			}
			if _, err := Replay(&buf, func(record.Meta) (Config, error) { return Config{Show: show(&replayed)}, nil }); err != nil {
				t.Fatal(err)
			}
			if len(live) != 1 || !strings.HasSuffix(live[0], "5") {
				t.Errorf("the run showed %q", live)
			}
			if d := cmp.Diff(live, replayed); d != "" {
				t.Error(d)
			}
		})
	}
}

// TestRecordingsOfChosen does with the recordings of real kernels what
// TestRecordingOfChosen does with what is made up.
func TestRecordingsOfChosen(t *testing.T) {
	names, err := filepath.Glob("../verdict/testdata/*.tcpbye")
	if err != nil || len(names) == 0 {
		t.Fatal(names, err)
	}
	specs := map[string]filter.Spec{
		"class": {Classes: []string{"aborted,timed-out,unknown"}},
		"name":  {Comms: []string{"*alice*,*client*,*puppet*,*[a-m]"}},
		"port":  {Ports: []string{"30000-44000"}},
	}
	for _, file := range []string{names[0], names[len(names)-1]} {
		for name, spec := range specs {
			t.Run(filepath.Base(file)+"/"+name, func(t *testing.T) {
				t.Parallel()
				raw, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				var copied bytes.Buffer
				shown := 0
				translated := map[[16]byte]bool{}
				rows := func(in []byte, to *bytes.Buffer, again bool) {
					sink, err := report.New(report.JSON, to, report.Options{Location: time.UTC})
					if err != nil {
						t.Fatal(err)
					}
					if _, err := Replay(bytes.NewReader(in), func(m record.Meta) (Config, error) {
						c := Config{Show: func(c *conn.Connection, v verdict.Verdict) error {
							// A filter of ports or addresses leaves the other end of a
							// translated connection out of what is recorded, and the
							// README says so.
							if p := c.Peer; p != nil && (p.Local != c.Remote || p.Remote != c.Local) {
								translated[c.Key] = true
							}
							if name == "port" && translated[c.Key] {
								return nil
							}
							shown++
							return sink.End(report.Judged{Conn: c, Verdict: v})
						}}
						if again {
							return c, nil
						}
						f := parse(t, spec)
						w, err := record.NewWriter(&copied, m)
						c.Keep, c.Pick, c.Record = f.Match, f, w
						return c, err
					}); err != nil {
						t.Fatal(err)
					}
				}
				var want, got bytes.Buffer
				rows(raw, &want, false)
				n := shown
				rows(copied.Bytes(), &got, true)
				if want.String() != got.String() {
					t.Errorf("%d ends were shown, then %d\n%s", n, shown-n, cmp.Diff(lines(want.String()), lines(got.String())))
				}
				if n == 0 {
					t.Error("nothing was shown")
				}
			})
		}
	}
}

// lines takes the JSON of ends apart.
func lines(s string) (all []map[string]any) {
	for line := range strings.SplitSeq(strings.TrimSpace(s), "\n") {
		var m map[string]any
		if json.Unmarshal([]byte(line), &m) == nil {
			all = append(all, m)
		}
	}
	return all
}
