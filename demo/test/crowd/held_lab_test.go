//go:build lab

package crowd

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/demo/scenario"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/report"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// holding is a story in which the client closes its descriptor, and the
// connection stays open since somebody has another hold on it.
type holding struct {
	name string
	// play gives the other hold. What it returns lets it go, which ends the
	// connection.
	play   func(w *scenario.World, c, s *scenario.Sock) (letGo func())
	holder string // the role
	inCall bool   // it is a thread inside a call: there is no descriptor
}

var holdings = []holding{
	{name: "fork", holder: "child", play: func(_ *scenario.World, c, _ *scenario.Sock) func() {
		return c.Fork("child").Close
	}},
	{name: "dup", holder: "client", play: func(_ *scenario.World, c, _ *scenario.Sock) func() {
		return c.Dup().Close
	}},
	{name: "scm-rights", holder: "heir", play: func(w *scenario.World, c, _ *scenario.Sock) func() {
		heir := w.Puppet("heir")
		from, to := w.Link(w.Puppet("client"), heir)
		c.SendOver(from)
		return heir.ReceiveOver(to, c).Close
	}},
	{name: "thread", holder: "client", inCall: true, play: func(_ *scenario.World, c, s *scenario.Sock) func() {
		c.RecvThread(100)
		return func() { s.Send(50) } // the call returns
	}},
}

// openRecord is a line of trace --open -o json, as far as it says who holds what.
type openRecord struct {
	Local, Remote string
	NetNS         uint32
	Inode         uint64
	Owner         *openHolder
	Holders       []openHolder
}

type openHolder struct {
	PID, TID, FD int
	InCall       bool `json:"in_call"`
	Comm         string
	Exe          *string
}

func (h *openHolder) String() string {
	if h == nil {
		return "nobody"
	}
	return fmt.Sprintf("%q (%d, thread %d, fd %d, in a call %v, %s)", h.Comm, h.PID, h.TID, h.FD, h.InCall, value(h.Exe))
}

// TestHolders: a connection that its process has closed in vain, since a forked
// child, another descriptor, another process that got it over a unix socket, or a
// thread inside a call still holds it. trace --open names the holder, as /proc
// has it; a trace that saw the close says who closed in vain; and when the holder
// lets go at last, it is the holder who has ended the connection.
func TestHolders(t *testing.T) {
	for _, h := range holdings {
		t.Run(h.name, func(t *testing.T) {
			t.Run("held", func(t *testing.T) { h.test(t, false) })
			t.Run("let go", func(t *testing.T) { h.test(t, true) })
		})
	}
}

func (h holding) test(t *testing.T, ends bool) {
	var b *bye
	var open []openRecord
	story := scenario.Scenario{Name: h.name, Run: func(w *scenario.World) {
		b = startBye(t, "trace", "-o", "json")
		c, s := w.Pair()
		c.Exchange(s, 100, 200)
		letGo := h.play(w, c, s)
		c.Close()
		w.WaitOrphan(c.End(), event.Established) // nothing has ended
		if !ends {
			return
		}
		letGo()
		s.RecvEOF()
		w.WaitMini(c.End(), event.FinWait2)
		s.Close()
		w.WaitMini(c.End(), event.TimeWait)
	}}
	var held map[string][]openHolder // by the name of the end: what /proc says
	var readers []int
	o, err := scenario.Execute(t.Context(), story, scenario.Options{Patience: patience, Stderr: os.Stderr,
		Hold: func(_ context.Context, o *scenario.Outcome) error {
			if !ends {
				open = openNow(t)
				held = map[string][]openHolder{}
				for name, e := range o.Ends {
					held[name] = holdersOf(t, o, e)
				}
				readers = readersOf(t, o.Processes["client"].PID)
			}
			b.stop()
			return nil
		}})
	if err != nil {
		t.Fatal(err)
	}
	noneLost(t, b)
	client := o.Ends["client"]
	r := byEnd(t, b.records(), o.NetNS[0])[endKey{client.NetNS, client.Local.String(), client.Remote.String()}]
	if r == nil {
		t.Fatal("no record of the client's end")
	}
	t.Logf("the verdict: %s", about(r))
	var errs []error
	if ends {
		errs = checkActor(r, verdict.Graceful, verdict.OrderlyClose, o.Processes[h.holder])
		if w := r.Owner; w == nil || int(value(w.PID)) != o.Processes[h.holder].PID {
			errs = append(errs, fmt.Errorf("the owner is not %s", h.holder))
		}
	} else {
		errs = checkActor(r, verdict.Open, verdict.DescriptorHeld, o.Processes["client"])
		if len(held["client"]) != 1 && !h.inCall || h.inCall && len(held["client"]) != 0 {
			t.Fatalf("/proc has the holders %v", held["client"])
		}
		errs = append(errs, h.checkOpen(&o, held, readers, open)...)
		// What the trace says at its end, when the holder still is there. It has
		// given CAP_SYS_ADMIN up by then, without which x86 before 5.16 tells of no
		// thread in which call it sleeps.
		if release, err := os.ReadFile("/proc/sys/kernel/osrelease"); err != nil {
			t.Fatal(err)
		} else if h.inCall && strings.HasPrefix(string(release), "5.10.") {
			if due := "1 more reference(s) to the socket exist"; !strings.Contains(r.Verdict.Sentence, due) {
				t.Errorf("%q is not in: %s", due, r.Verdict.Sentence)
			}
			for _, err := range errs {
				t.Error(err)
			}
			return
		}
		who := o.Processes[h.holder]
		if due := fmt.Sprintf("but %s (pid %d) still held the socket when the trace ended", who.Comm, who.PID); !unsure(r) && !strings.Contains(r.Verdict.Sentence, due) {
			errs = append(errs, fmt.Errorf("%q is not in: %s", due, r.Verdict.Sentence))
		}
	}
	for _, err := range errs {
		t.Error(err)
	}
}

// checkActor holds a verdict against what happened and who did it.
func checkActor(r *report.Record, class verdict.Class, cause verdict.Cause, who scenario.Process) (errs []error) {
	v := r.Verdict
	if unsure(r) {
		return nil
	}
	if v.Class != string(class) || v.Cause != string(cause) {
		errs = append(errs, fmt.Errorf("judged %s %s, not %s %s", v.Class, v.Cause, class, cause))
	}
	if v.Actor == nil || int(value(v.Actor.PID)) != who.PID || v.Actor.Comm != who.Comm || value(v.Act) != string(verdict.ActClose) {
		errs = append(errs, fmt.Errorf("the actor is not %q (%d), by close", who.Comm, who.PID))
	}
	return errs
}

// openNow is what trace --open shows.
func openNow(t testing.TB) []openRecord {
	t.Helper()
	out, err := exec.Command(byeProgram(t), "trace", "--open", "-o", "json").Output()
	if err != nil {
		t.Fatalf("tcpbye trace --open: %v", err)
	}
	var all []openRecord
	for line := range strings.Lines(string(out)) {
		var r openRecord
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("not a record: %v\n%s", err, line)
		}
		all = append(all, r)
	}
	return all
}

// holdersOf asks /proc, of all processes, who has a descriptor of an end.
func holdersOf(t testing.TB, o *scenario.Outcome, e *scenario.End) []openHolder {
	t.Helper()
	inode := inodeOf(t, o.Processes["client"].PID, e)
	links, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	var all []openHolder
	for _, link := range links {
		if to, err := os.Readlink(link); err != nil || to != fmt.Sprintf("socket:[%d]", inode) {
			continue // another file, or its process is gone by now
		}
		part := strings.Split(link, "/")
		pid, err := strconv.Atoi(part[2])
		if err != nil {
			t.Fatal(err)
		}
		fd, err := strconv.Atoi(part[4])
		if err != nil {
			t.Fatal(err)
		}
		comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		if err != nil {
			t.Fatal(err)
		}
		exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, openHolder{PID: pid, TID: pid, FD: fd, Comm: strings.TrimSuffix(string(comm), "\n"), Exe: &exe})
	}
	return all
}

// inodeOf finds the inode of an end's socket in the table of a process's network
// namespace.
func inodeOf(t testing.TB, pid int, e *scenario.End) uint64 {
	t.Helper()
	row := func(a netip.AddrPort) string {
		b := a.Addr().As4()
		return fmt.Sprintf("%02X%02X%02X%02X:%04X", b[3], b[2], b[1], b[0], a.Port())
	}
	for line := range strings.Lines(text(t, fmt.Sprintf("/proc/%d/net/tcp", pid))) {
		f := strings.Fields(line)
		if len(f) > 9 && f[1] == row(e.Local) && f[2] == row(e.Remote) {
			n, err := strconv.ParseUint(f[9], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("%s is not in the table", e.Name)
	return 0
}

// readersOf are the threads of a process that sleep in recvfrom(2).
func readersOf(t testing.TB, pid int) (all []int) {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/syscall", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !strings.HasPrefix(text(t, f), fmt.Sprintf("%d ", unix.SYS_RECVFROM)) {
			continue
		}
		tid, err := strconv.Atoi(strings.Split(f, "/")[4])
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, tid)
	}
	return all
}

// checkOpen holds what trace --open shows against /proc.
func (h holding) checkOpen(o *scenario.Outcome, held map[string][]openHolder, readers []int, all []openRecord) (errs []error) {
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	for name, e := range o.Ends {
		i := slices.IndexFunc(all, func(r openRecord) bool {
			return r.NetNS == e.NetNS && r.Local == e.Local.String() && r.Remote == e.Remote.String()
		})
		if i < 0 {
			bad("trace --open does not show the end of the %s", name)
			continue
		}
		r := all[i]
		want := held[name]
		role := "server"
		if name == "client" {
			role = h.holder
		}
		if name == "client" && h.inCall {
			w := r.Owner
			if w == nil || !w.InCall || w.PID != o.Processes[role].PID || w.Comm != o.Processes[role].Comm || len(r.Holders) != 1 {
				bad("%s: trace --open names %v, not a thread of %s (%d)", name, w, role, o.Processes[role].PID)
				continue
			}
			if !slices.Equal(readers, []int{w.TID}) {
				bad("%s: trace --open names the thread %d, but those that read are %v", name, w.TID, readers)
			}
			continue
		}
		if !slices.EqualFunc(r.Holders, want, func(a, b openHolder) bool { return a.String() == b.String() }) {
			bad("%s: trace --open says that %v hold it, /proc %v", name, r.Holders, want)
		}
		if r.Owner == nil || r.Owner.PID != o.Processes[role].PID || r.Owner.Comm != o.Processes[role].Comm {
			bad("%s: trace --open names %v, not %q (%d)", name, r.Owner, o.Processes[role].Comm, o.Processes[role].PID)
		}
	}
	return errs
}
