package proxy_test

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/proxy"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

const ms = time.Millisecond

// leg is one connection of a proxy; prompt 0: the process ended it.
type leg struct {
	name            string
	down            bool
	opened, prompt  time.Duration
	act             time.Duration
	begun, tid, pid uint32
	in, out         uint64
	lossy, killed   bool
	open            bool
}

func ends(x leg) (*conn.Connection, *verdict.Verdict) {
	if x.pid == 0 {
		x.pid = 7
	}
	if x.tid == 0 {
		x.tid = x.pid
	}
	if x.begun == 0 {
		x.begun = x.tid
	}
	c := &conn.Connection{ID: x.name, Open: conn.OpenActive, Opened: x.opened, Owner: &conn.Process{PID: x.pid, Comm: "proxy"}, Lossy: x.lossy,
		Local: netip.MustParseAddrPort("10.0.0.1:1000"), Remote: netip.MustParseAddrPort("10.0.0.2:80"), Ended: x.act, Last: x.act}
	hook := event.HookConnect
	if x.down {
		c.Open, hook = conn.OpenPassive, event.HookAccept
	}
	c.Events = []event.Event{{Hook: hook, Time: x.opened, PID: x.pid, TID: x.begun}, {Hook: event.HookClose, Time: x.act, PID: x.pid, TID: x.tid}}
	v := &verdict.Verdict{Class: verdict.Graceful, Cause: verdict.OrderlyClose, Confidence: verdict.Certain, Act: verdict.ActClose, Bytes: verdict.Bytes{Received: &x.in, Sent: &x.out}}
	if x.prompt != 0 {
		v.PeerFin = &verdict.Goodbye{At: x.prompt}
	}
	if x.killed {
		v.Act = verdict.ActKilled
	}
	if x.open {
		v.Class = verdict.Open
	}
	return c, v
}

func ties(legs ...leg) (all []string) {
	t := proxy.New()
	for _, x := range legs {
		t.End(ends(x))
	}
	return told(t)
}

func told(t *proxy.Tier) (all []string) {
	for _, x := range t.Ties() {
		s := fmt.Sprintf("%s>%s", x.Cause.Conn.ID, x.Effect.Conn.ID)
		if x.Certain {
			s += "!"
		}
		all = append(all, s)
	}
	return all
}

func TestTies(t *testing.T) {
	d := func(name string, opened, prompt, act time.Duration) leg {
		return leg{name: name, down: true, opened: opened, prompt: prompt, act: act}
	}
	u := func(name string, opened, prompt, act time.Duration) leg {
		return leg{name: name, opened: opened, prompt: prompt, act: act}
	}
	with := func(x leg, change func(*leg)) leg { change(&x); return x }
	in := func(tid uint32) func(*leg) { return func(x *leg) { x.tid, x.begun = tid, tid } }
	passed := func(in, out uint64) func(*leg) { return func(x *leg) { x.in, x.out = in, out } }
	// Pairs that an event loop ends one after the other, the causes first.
	loop := []leg{
		u("u1", 1*ms, 100*ms, 110*ms), d("d1", 1*ms, 0, 111*ms),
		u("u2", 1*ms, 101*ms, 112*ms), d("d2", 1*ms, 0, 113*ms),
	}
	for _, x := range []struct {
		name string
		legs []leg
		want []string
	}{
		{"the only two", []leg{u("u", 1*ms, 10*ms, 11*ms), d("d", 1*ms, 0, 12*ms)}, []string{"u>d!"}},
		{"the client broke first", []leg{d("d", 1*ms, 10*ms, 11*ms), u("u", 1*ms, 0, 12*ms)}, []string{"d>u!"}},
		{"too late", []leg{u("u", 1*ms, 10*ms, 11*ms), d("d", 1*ms, 0, 900*ms)}, nil},
		{"the effect came first", []leg{u("u", 1*ms, 13*ms, 14*ms), d("d", 1*ms, 0, 12*ms)}, nil},
		{"both were ended from outside", []leg{u("u", 1*ms, 10*ms, 11*ms), d("d", 1*ms, 10*ms, 12*ms)}, nil},
		{"both accepted", []leg{d("a", 1*ms, 10*ms, 11*ms), d("b", 1*ms, 0, 12*ms)}, nil},
		{"of two processes", []leg{u("u", 1*ms, 10*ms, 11*ms), with(d("d", 1*ms, 0, 12*ms), func(x *leg) { x.pid = 8 })}, nil},
		{"killed", []leg{u("u", 1*ms, 10*ms, 11*ms), with(d("d", 1*ms, 0, 12*ms), func(x *leg) { x.killed = true })}, nil},
		{"events were lost", []leg{u("u", 1*ms, 10*ms, 11*ms), with(d("d", 1*ms, 0, 12*ms), func(x *leg) { x.lossy = true })}, nil},
		{"did not live together", []leg{u("u", 1*ms, 10*ms, 11*ms), d("d", 12*ms, 0, 13*ms)}, nil},
		{"a third is there", []leg{u("u", 1*ms, 10*ms, 11*ms), d("d", 1*ms, 0, 12*ms), with(d("other", 1*ms, 0, 0), func(x *leg) { x.open = true })}, []string{"u>d"}},
		{"two at once, in turn", loop, []string{"u1>d1", "u2>d2"}},
		{"two at once, and a third in between", append([]leg{d("other", 1*ms, 5*ms, 111*ms+ms/2)}, loop...), nil},
		{"two at once, and one that could be meant", append([]leg{u("u3", 1*ms, 90*ms, 100*ms)}, loop...), nil},
		{"as many bytes", []leg{
			with(u("u1", 1*ms, 100*ms, 110*ms), passed(5, 6)), with(u("u2", 1*ms, 101*ms, 111*ms), passed(7, 8)),
			with(d("d1", 1*ms, 0, 112*ms), passed(6, 5)), with(d("d2", 1*ms, 0, 113*ms), passed(8, 7)),
		}, []string{"u1>d1!", "u2>d2!"}},
		{"as many bytes, but of two", []leg{
			with(u("u1", 1*ms, 100*ms, 110*ms), passed(5, 6)), with(u("u2", 1*ms, 101*ms, 111*ms), passed(5, 6)),
			with(d("d1", 1*ms, 0, 112*ms), passed(6, 5)), with(d("d2", 1*ms, 0, 113*ms), passed(6, 5)),
		}, nil},
		{"threads that pass connections on", []leg{
			with(u("u", 1*ms, 10*ms, 11*ms), in(8)), with(d("d", 1*ms, 0, 12*ms), in(8)),
			with(d("other", 1*ms, 0, 500*ms), func(x *leg) { x.begun, x.tid = 9, 8 }),
		}, nil},
	} {
		got := ties(x.legs...)
		if fmt.Sprint(got) != fmt.Sprint(x.want) {
			t.Errorf("%s: %v, want %v", x.name, got, x.want)
		}
	}
}

// TestPrompt: what ended a leg is what came first, whatever its verdict calls the ending.
func TestPrompt(t *testing.T) {
	fin, reset := &verdict.Goodbye{At: 10 * ms}, &verdict.Reset{At: 10 * ms}
	late := &verdict.Reset{At: 11 * ms}
	for _, x := range []struct {
		name  string
		ended time.Duration
		v     verdict.Verdict
		want  proxy.Prompt
	}{
		{"a FIN", 12 * ms, verdict.Verdict{Class: verdict.Graceful, PeerFin: fin}, proxy.PromptFIN},
		{"a FIN, and a RST after it", 11 * ms, verdict.Verdict{Class: verdict.Aborted, Ender: verdict.Peer, PeerFin: fin, Reset: late}, proxy.PromptFIN},
		{"a FIN, and then nothing", 12 * ms, verdict.Verdict{Class: verdict.TimedOut, PeerFin: fin}, proxy.PromptFIN},
		{"a RST", 10 * ms, verdict.Verdict{Class: verdict.Aborted, Ender: verdict.Peer, Reset: reset}, proxy.PromptReset},
		{"a RST that was not seen", 10 * ms, verdict.Verdict{Class: verdict.Aborted, Ender: verdict.Peer}, proxy.PromptReset},
		{"a forged RST", 10 * ms, verdict.Verdict{Class: verdict.Aborted, Ender: verdict.Path, Reset: reset}, proxy.PromptPath},
		{"a timeout", 10 * ms, verdict.Verdict{Class: verdict.TimedOut, Ender: verdict.LocalKernel}, proxy.PromptTimeout},
		{"ss -K", 10 * ms, verdict.Verdict{Class: verdict.Aborted, Ender: verdict.Admin}, proxy.PromptOperator},
		{"ss -K, and an answer", 10 * ms, verdict.Verdict{Class: verdict.Aborted, Ender: verdict.Admin, Reset: reset}, proxy.PromptOperator},
		{"ss -K after a FIN", 12 * ms, verdict.Verdict{Class: verdict.Aborted, Ender: verdict.Admin, PeerFin: fin}, proxy.PromptFIN},
		{"not known", 10 * ms, verdict.Verdict{Class: verdict.Unknown, Confidence: verdict.Likely}, proxy.PromptOther},
	} {
		c, _ := ends(leg{name: "u", opened: ms, act: 13 * ms})
		c.Ended = x.ended
		p := proxy.New()
		p.End(c, &x.v)
		p.End(ends(leg{name: "d", down: true, opened: ms, act: 14 * ms}))
		if all := p.Ties(); len(all) != 1 || all[0].Cause.By != x.want {
			t.Errorf("%s: %+v, want the cause's end by %q", x.name, all, x.want)
		}
	}
}

// TestWitnesses: what cannot be tied itself still speaks against "no other".
func TestWitnesses(t *testing.T) {
	var legs []leg // two that are alone, and two of another process that have the same bytes
	legs = append(legs, leg{name: "u", opened: ms, prompt: 10 * ms, act: 11 * ms}, leg{name: "d", down: true, opened: ms, act: 12 * ms})
	for i, x := range []leg{{name: "u2", prompt: 10 * ms, act: 11 * ms, in: 5, out: 6}, {name: "d2", down: true, act: 12 * ms, in: 6, out: 5}, {name: "later", act: 500 * ms, in: 3}} {
		x.pid, x.opened, x.begun, x.tid = 8, ms, uint32(20+i), uint32(30+i)
		legs = append(legs, x)
	}
	for _, x := range []struct {
		name  string
		other func(c *conn.Connection, v *verdict.Verdict)
		of    uint32
		want  string
	}{
		{"none", nil, 0, "[u>d! u2>d2!]"},
		{"older than the trace", func(c *conn.Connection, _ *verdict.Verdict) { c.Open, c.Opened = conn.OpenUnknown, 0 }, 7, "[u>d u2>d2!]"},
		{"older than the trace, and open", func(c *conn.Connection, v *verdict.Verdict) {
			c.Open, c.Opened, c.Ended, c.Last, v.Class = conn.OpenUnknown, 0, 0, 0, verdict.Open
		}, 7, "[u>d u2>d2!]"},
		{"older than the trace, where bytes tell", func(c *conn.Connection, _ *verdict.Verdict) { c.Open, c.Opened = conn.OpenUnknown, 0 }, 8, "[u>d!]"},
		{"nobody's", func(c *conn.Connection, _ *verdict.Verdict) { c.Owner = nil }, 7, "[u>d]"},
		{"with itself", func(c *conn.Connection, _ *verdict.Verdict) { c.Remote = c.Local }, 7, "[u>d u2>d2!]"},
		{"older, and over before", func(c *conn.Connection, _ *verdict.Verdict) {
			c.Open, c.Opened, c.Ended, c.Last = conn.OpenUnknown, 0, ms/2, ms/2
		}, 7, "[u>d! u2>d2!]"},
		{"refused", func(_ *conn.Connection, v *verdict.Verdict) { v.Class = verdict.Refused }, 7, "[u>d! u2>d2!]"},
	} {
		p := proxy.New()
		if x.other != nil {
			c, v := ends(leg{name: "other", pid: x.of, opened: 2 * ms, act: 400 * ms})
			x.other(c, v)
			p.End(c, v)
		}
		for _, l := range legs {
			p.End(ends(l))
		}
		if got := fmt.Sprint(told(p)); got != x.want {
			t.Errorf("%s: %s, want %s", x.name, got, x.want)
		}
	}
	// Where not all is told nobody knows that there was no other.
	p := proxy.New()
	for _, l := range legs {
		p.End(ends(l))
	}
	p.Partial()
	for _, x := range p.Ties() {
		if x.Certain || x.Alone {
			t.Errorf("%s>%s of a part is certain", x.Cause.Conn.ID, x.Effect.Conn.ID)
		}
	}
}

// TestNoRoom: once something was dropped nothing is certain.
func TestNoRoom(t *testing.T) {
	p := proxy.New()
	p.End(ends(leg{name: "u", opened: ms, prompt: 10 * ms, act: 11 * ms}))
	p.End(ends(leg{name: "d", down: true, opened: ms, act: 12 * ms}))
	c, v := ends(leg{name: "other", pid: 9, opened: ms, act: 12 * ms})
	for range 1<<17 - 2 {
		p.End(c, v)
	}
	if got := fmt.Sprint(told(p)); p.Dropped() != 0 || got != "[u>d!]" {
		t.Fatalf("%d dropped: %s", p.Dropped(), got)
	}
	p.End(c, v)
	if got := fmt.Sprint(told(p)); p.Dropped() != 1 || got != "[u>d]" {
		t.Errorf("%d dropped: %s", p.Dropped(), got)
	}
}
