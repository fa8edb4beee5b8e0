//go:build lab

package crowd

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/demo/scenario"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/report"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// pair is a connection between a client and the server.
type pair struct {
	kind   *kind
	c, s   *scenario.Sock
	client string // names of the ends
	server string
}

// kind is one way in which some of the connections end.
type kind struct {
	name string // also the role of its client process
	// before is done before tcpbye starts.
	before func(p pair)
	// steps are done after that, each for all connections of all kinds before the
	// next. A step for the process as a whole is done once.
	steps          []func(p pair)
	once           func(w *scenario.World)
	client, server scenario.Expect
}

func both(x scenario.Expect, ender, other verdict.Ender) (e, o scenario.Expect) {
	e, o = x, x
	e.Ender, o.Ender = ender, other
	return e, o
}

// kinds are the endings of the connections that are older than the trace.
func kinds(w func() *scenario.World) []*kind {
	ends := func(k *kind, first string, x scenario.Expect) *kind {
		mine, theirs := both(x, verdict.LocalProcess, verdict.PeerProcess)
		if first == "client" {
			k.client, k.server = mine, theirs
		} else {
			k.client, k.server = theirs, mine
		}
		return k
	}
	graceful := func(cause verdict.Cause, act verdict.Act, actor string) scenario.Expect {
		return scenario.Expect{Class: verdict.Graceful, Cause: cause, Act: act, Actor: actor}
	}
	aborted := func(cause verdict.Cause, act verdict.Act, actor string) scenario.Expect {
		return scenario.Expect{Class: verdict.Aborted, Cause: cause, Act: act, Actor: actor}
	}
	nothing := func(pair) {}
	killed := graceful(verdict.OrderlyClose, verdict.ActKilled, "killed")
	killed.Signal = int(unix.SIGKILL)
	list := []*kind{
		ends(&kind{
			name: "client-closes",
			steps: []func(pair){
				func(p pair) { p.c.Close() },
				func(p pair) { p.s.RecvEOF(); w().WaitMini(p.c.End(), event.FinWait2) },
				func(p pair) { p.s.Close() },
				func(p pair) { w().WaitMini(p.c.End(), event.TimeWait) },
			},
		}, "client", graceful(verdict.OrderlyClose, verdict.ActClose, "client-closes")),
		ends(&kind{
			name: "server-closes",
			steps: []func(pair){
				func(p pair) { p.s.Close() },
				func(p pair) { p.c.RecvEOF(); w().WaitMini(p.s.End(), event.FinWait2) },
				func(p pair) { p.c.Close() },
				func(p pair) { w().WaitMini(p.s.End(), event.TimeWait) },
			},
		}, "server", graceful(verdict.OrderlyClose, verdict.ActClose, "server")),
		ends(&kind{
			name: "half-closes",
			steps: []func(pair){
				func(p pair) { p.c.Shutdown(unix.SHUT_WR) },
				func(p pair) { p.s.RecvEOF(); p.c.WaitState(event.FinWait2); p.s.Send(70) },
				func(p pair) { p.c.Recv(70); p.s.WaitAcked(); p.s.Close() },
				func(p pair) { p.c.RecvEOF(); w().WaitMini(p.c.End(), event.TimeWait); p.c.Close() },
			},
		}, "client", graceful(verdict.HalfClose, verdict.ActShutWr, "half-closes")),
		ends(&kind{
			name:   "lingers-not",
			before: func(p pair) { p.c.Linger(0) },
			steps: []func(pair){
				nothing,
				func(p pair) { p.c.Close() },
				func(p pair) { p.s.RecvFails(unix.ECONNRESET); p.s.Close() },
			},
		}, "client", aborted(verdict.LingerZero, verdict.ActClose, "lingers-not")),
		ends(&kind{
			name:   "is-not-read",
			before: func(p pair) { p.c.Send(60); p.c.WaitAcked() },
			steps: []func(pair){
				func(p pair) { p.s.Close() },
				func(p pair) { p.c.RecvFails(unix.ECONNRESET); p.c.Close() },
			},
		}, "server", aborted(verdict.CloseUnread, verdict.ActClose, "server")),
		ends(&kind{
			name: "writes-on",
			steps: []func(pair){
				nothing,
				func(p pair) { p.s.Close() },
				func(p pair) { w().WaitMini(p.s.End(), event.FinWait2); p.c.Send(50); p.c.WaitState(event.Close) },
				func(p pair) { p.c.RecvEOF(); p.c.SendFails(50, unix.EPIPE); p.c.Close() },
			},
		}, "server", aborted(verdict.DataAfterClose, verdict.ActClose, "server")),
		ends(&kind{
			name: "shuts-both",
			steps: []func(pair){
				func(p pair) { p.c.Shutdown(unix.SHUT_RDWR); p.c.WaitState(event.FinWait2) },
				func(p pair) { p.s.Send(50); p.s.WaitState(event.Close) },
				func(p pair) { p.s.RecvEOF(); p.s.Close(); p.c.RecvFails(unix.ECONNRESET); p.c.Close() },
			},
		}, "client", aborted(verdict.DataAfterShutdown, verdict.ActShutRdWr, "shuts-both")),
		ends(&kind{
			name: "disconnects",
			steps: []func(pair){
				nothing, nothing,
				func(p pair) { p.c.Disconnect() },
				func(p pair) { p.s.RecvFails(unix.ECONNRESET); p.s.Close(); p.c.Close() },
			},
		}, "client", aborted(verdict.Disconnect, verdict.ActDisconnect, "disconnects")),
		ends(&kind{
			name: "killed",
			once: func(w *scenario.World) { w.Puppet("killed").Kill(unix.SIGKILL) },
			steps: []func(pair){
				nothing,
				func(p pair) { p.s.RecvEOF(); w().WaitMini(p.c.End(), event.FinWait2) },
				func(p pair) { p.s.Close() },
				func(p pair) { w().WaitMini(p.c.End(), event.TimeWait) },
			},
		}, "client", killed),
		ends(&kind{
			name:   "exits-unread",
			before: func(p pair) { p.s.Send(60); p.s.WaitAcked() },
			once:   func(w *scenario.World) { w.Puppet("exits-unread").Exit(3) },
			steps: []func(pair){
				nothing,
				func(p pair) { p.s.RecvFails(unix.ECONNRESET); p.s.Close() },
			},
		}, "client", aborted(verdict.CloseUnread, verdict.ActExit, "exits-unread")),
	}
	return list
}

// older are the connections that the server has open when tcpbye starts.
const older = 200

// TestOlderServer: a server that was started before tcpbye, with two hundred
// connections open, which end in ten ways. Each end is judged, once, and is its
// owner's.
func TestOlderServer(t *testing.T) {
	var b *bye
	var world *scenario.World
	all := kinds(func() *scenario.World { return world })
	story := scenario.Scenario{Name: "older server", Run: func(w *scenario.World) {
		world = w
		l := w.Puppet("server").Listen(older)
		var pairs []pair
		for i := range older {
			k := all[i%len(all)]
			p := pair{kind: k, client: fmt.Sprintf("%s client#%d", k.name, i), server: fmt.Sprintf("%s server#%d", k.name, i)}
			p.c = w.Puppet(k.name).Connect(p.client, l)
			p.s = l.Accept(p.server)
			p.c.Exchange(p.s, 100, 200)
			if k.before != nil {
				k.before(p)
			}
			pairs = append(pairs, p)
		}
		b = startBye(t, "trace", "-o", "json", "--receive")
		// One ends after the other: what a process reads long after the end is
		// told of as nothing yet.
		for _, k := range all {
			if k.once != nil {
				k.once(w)
			}
		}
		for _, p := range pairs {
			for _, step := range p.kind.steps {
				step(p)
			}
		}
	}}
	o, err := scenario.Execute(t.Context(), story, scenario.Options{Patience: patience, Stderr: os.Stderr,
		Hold: func(context.Context, *scenario.Outcome) error { b.stop(); return nil }})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range o.Problems {
		t.Errorf("the oracle is incomplete: %s", p)
	}
	noneLost(t, b)
	if len(o.Ends) != 2*older {
		t.Fatalf("there were %d ends, not %d", len(o.Ends), 2*older)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	records := byEnd(t, b.records(), o.NetNS[0])
	exact, open, wrong := 0, 0, 0
	for name, e := range o.Ends {
		kindName, rest, _ := strings.Cut(name, " ")
		side, _, _ := strings.Cut(rest, "#")
		k := all[slices.IndexFunc(all, func(k *kind) bool { return k.name == kindName })]
		x, owner := k.client, k.name
		if side == "server" {
			x, owner = k.server, "server"
		}
		r := records[endKey{e.NetNS, e.Local.String(), e.Remote.String()}]
		errs := checkOlder(&o, e, x, o.Processes[owner], exe, k.once != nil, r)
		switch {
		case len(errs) == 0 && unsure(r):
			open++
		case len(errs) == 0:
			exact++
		case wrong < 20: // what follows is more of the same
			t.Errorf("%s: %s\n\tthe record: %s", name, strings.Join(errs, "; "), about(r))
			fallthrough
		default:
			wrong++
		}
	}
	t.Logf("of %d ends %d judged as is due, and %d honestly unsure; each with its owner", 2*older, exact, open)
	if wrong > 0 {
		t.Errorf("%d are wrong", wrong)
		keep(t, b)
	}
}

// checkOlder holds a record against what is due to the end of an older
// connection.
func checkOlder(o *scenario.Outcome, e *scenario.End, x scenario.Expect, owner scenario.Process, exe string, late bool, r *report.Record) (errs []string) {
	bad := func(format string, args ...any) { errs = append(errs, fmt.Sprintf(format, args...)) }
	if r == nil {
		return []string{"no record"}
	}
	if r.Opened != nil || r.Open != nil {
		bad("it was opened %q, %q, before anybody looked", value(r.Opened), value(r.Open))
	}
	switch w := r.Owner; {
	case w == nil:
		bad("nobody owns it, not %s", owner.Comm)
	case int(value(w.PID)) != owner.PID || w.Comm != owner.Comm:
		bad("it is owned by %q (%d), not %q (%d)", w.Comm, value(w.PID), owner.Comm, owner.PID)
	case value(w.Exe) != exe:
		bad("its owner executes %q, not %q", value(w.Exe), exe)
	}
	if unsure(r) {
		return errs
	}
	v := r.Verdict
	if v.Class != string(x.Class) || v.Cause != string(x.Cause) {
		bad("judged %s %s, not %s %s", v.Class, v.Cause, x.Class, x.Cause)
	}
	if r.Ended == nil {
		bad("it has not ended")
	}
	if value(v.Ender) != string(x.Ender) || value(v.Act) != string(x.Act) {
		bad("ender %s, act %s, not %s, %s", value(v.Ender), value(v.Act), x.Ender, x.Act)
	}
	signal := ""
	if x.Signal != 0 {
		signal = unix.SignalName(unix.Signal(x.Signal))
	}
	if value(v.Signal) != signal {
		bad("signal %q, not %q", value(v.Signal), signal)
	}
	actor := o.Processes[x.Actor]
	if v.Actor == nil || int(value(v.Actor.PID)) != actor.PID || v.Actor.Comm != actor.Comm {
		bad("the actor is not %q (%d)", actor.Comm, actor.PID)
	}
	// What is told where hooks are missing is so, but need not be all.
	invented := slices.ContainsFunc(v.AppSaw, func(s string) bool { return !slices.Contains(e.AppSaw, s) })
	if invented || inLab() && len(v.AppSaw) != len(e.AppSaw) && !(late && len(v.AppSaw) == 0) {
		bad("its process saw %v, not %v", v.AppSaw, e.AppSaw)
	}
	if v.Harmless {
		bad("called harmless")
	}
	lost := o.Lost(e)
	for _, c := range []struct {
		what string
		got  *uint64
		want int64
	}{{"unread", r.Lost.Unread, lost.Unread}, {"unsent", r.Lost.Unsent, lost.Unsent}, {"unacked", r.Lost.Unacked, lost.Unacked}} {
		if c.got == nil || int64(*c.got) != c.want {
			bad("%s is %d, not %d", c.what, value(c.got), c.want)
		}
	}
	return errs
}

// keep leaves what tcpbye printed where whoever looks for the mistake finds it:
// LAB_OUT in a guest.
func keep(t testing.TB, b *bye, recordings ...string) {
	t.Helper()
	dir := os.Getenv("LAB_OUT")
	if dir == "" {
		return
	}
	name := strings.ReplaceAll(t.Name(), "/", "-")
	type file struct{ from, to string }
	files := []file{{b.stdout, name + ".out"}, {b.stderr, name + ".err"}}
	for _, r := range recordings {
		files = append(files, file{r, name + "-" + filepath.Base(r)})
	}
	for _, f := range files {
		if err := os.WriteFile(dir+"/"+f.to, []byte(text(t, f.from)), 0o644); err != nil {
			t.Log(err)
		}
	}
}
