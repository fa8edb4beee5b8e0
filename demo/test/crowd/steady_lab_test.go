//go:build lab

package crowd

import (
	"bytes"
	"encoding/csv"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/tracer/verdict"
)

var (
	soak   = flag.Duration("crowd.soak", time.Minute, "how long TestSoak plays")
	within = flag.Duration("crowd.within", 2*time.Second, "how long tcpbye may take to end under load, beside what it had fallen behind, which it says once a second")
)

// load is connections that end in known ways, one after the other in each namespace,
// from when it is started until it is stopped. Which way is told by the server's
// port.
type load struct {
	spaces []*netns
	ways   []*manner
	stop   chan struct{}
	done   sync.WaitGroup

	mu     sync.Mutex
	played map[verdict.Cause]int // connections that were played to their end
	err    error
}

const firstPort = 9000

// startLoad plays so many connections a second in each namespace; 0: as many as it can.
func startLoad(t testing.TB, spaces, rate int, causes ...verdict.Cause) *load {
	t.Helper()
	l := &load{stop: make(chan struct{}), played: map[verdict.Cause]int{}}
	for i := range manners {
		for _, c := range causes {
			if manners[i].cause == c && manners[i].name != "server closes" {
				l.ways = append(l.ways, &manners[i])
			}
		}
	}
	for range spaces {
		l.spaces = append(l.spaces, newNetns(t))
	}
	for _, r := range l.spaces {
		l.done.Add(1)
		go func() {
			defer l.done.Done()
			if err := r.Do(func() error { return l.play(rate) }); err != nil {
				l.mu.Lock()
				defer l.mu.Unlock()
				l.err = err
			}
		}()
	}
	t.Cleanup(func() { l.end() })
	return l
}

// end stops it, when the connection that is being played has ended.
func (l *load) end() error {
	select {
	case <-l.stop:
	default:
		close(l.stop)
	}
	l.done.Wait()
	return l.err
}

func (l *load) total() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, x := range l.played {
		n += x
	}
	return n
}

func (l *load) play(rate int) error {
	loopback := [4]byte{127, 0, 0, 1}
	var listeners []int
	defer func() {
		for _, fd := range listeners {
			unix.Close(fd)
		}
	}()
	for i, m := range l.ways {
		if m.play == nil {
			listeners = append(listeners, -1)
			continue
		}
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		listeners = append(listeners, fd)
		if err := do(func() error { return unix.Bind(fd, &unix.SockaddrInet4{Port: firstPort + i, Addr: loopback}) }, func() error { return unix.Listen(fd, 16) }); err != nil {
			return err
		}
	}
	begin := time.Now()
	for n := 0; ; n++ {
		if rate > 0 {
			select {
			case <-l.stop:
				return nil
			case <-time.After(time.Until(begin.Add(time.Duration(n) * time.Second / time.Duration(rate)))):
			}
		}
		select {
		case <-l.stop:
			return nil
		default:
		}
		i := n % len(l.ways)
		if err := playOne(l.ways[i], listeners[i], &unix.SockaddrInet4{Port: firstPort + i, Addr: loopback}); err != nil {
			return fmt.Errorf("connection %d (%s): %w", n, l.ways[i].name, err)
		}
		l.mu.Lock()
		l.played[l.ways[i].cause]++
		l.mu.Unlock()
	}
}

// playOne plays a connection from its beginning to its end.
func playOne(m *manner, listener int, to *unix.SockaddrInet4) error {
	d := &duo{-1, -1}
	defer func() {
		for _, fd := range []int{d.client, d.server} {
			if fd >= 0 {
				unix.Close(fd)
			}
		}
	}()
	var err error
	if d.client, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return err
	}
	switch err = unix.Connect(d.client, to); {
	case m.play == nil && err == unix.ECONNREFUSED:
		return nil
	case err != nil:
		return err
	}
	if d.server, _, err = unix.Accept4(listener, unix.SOCK_CLOEXEC); err != nil {
		return err
	}
	return do(func() error { return send(d.client) }, func() error { return receive(d.server) },
		func() error { return send(d.server) }, func() error { return receive(d.client) },
		func() error { return m.play(d) })
}

// tally is what tcpbye says of a load.
type tally struct {
	ends, certain  map[verdict.Cause]int // rightly judged
	wrong, unknown int
	open, sure     int // shown as open; and certainly so
}

var portOf = regexp.MustCompile(`:(\d+)$`)

// tally holds the rows that are of the load against what was played.
func (l *load) tally(t testing.TB, rows []row) tally {
	t.Helper()
	of := map[string]bool{}
	for _, r := range l.spaces {
		of[strconv.FormatUint(uint64(r.Inode), 10)] = true
	}
	n := tally{ends: map[verdict.Cause]int{}, certain: map[verdict.Cause]int{}}
	shown := 0
	for _, x := range rows {
		untold := x["netns"] == "" || x["netns"] == "-" // classic tracepoints do not tell
		if !untold && !of[x["netns"]] {
			continue
		}
		var want *manner
		for _, end := range []string{x["local"], x["remote"]} {
			if m := portOf.FindStringSubmatch(end); m != nil {
				if p, _ := strconv.Atoi(m[1]); p >= firstPort && p < firstPort+len(l.ways) {
					want = l.ways[p-firstPort]
				}
			}
		}
		if want == nil && untold {
			continue
		}
		certain := x["confidence"] == string(verdict.Certain)
		if want == nil && !certain && (strings.HasSuffix(x["local"], ":0") || strings.HasSuffix(x["remote"], ":0")) {
			n.unknown++ // what told its port was lost
			continue
		}
		if want == nil {
			t.Errorf("tcpbye shows a connection that there was not: %v", x)
			continue
		}
		switch {
		case x["class"] == string(verdict.Open):
			n.open++
			if certain {
				n.sure++
			}
			continue
		case x["cause"] == string(want.cause):
			n.ends[want.cause]++
			if certain {
				n.certain[want.cause]++
			}
			continue
		case x["confidence"] == string(verdict.NotKnown):
			n.unknown++
		case certain:
			n.wrong++
		}
		if shown++; shown <= 10 || certain && n.wrong <= 10 {
			t.Logf("%s: judged %s %s, %s: %s", want.name, x["class"], x["cause"], x["confidence"], x["sentence"])
		}
	}
	return n
}

// TestAttachWindow: load that began before the trace and goes on after it. What is
// shown is right, and nothing is open but what is.
func TestAttachWindow(t *testing.T) {
	l := startLoad(t, 1, 20, verdict.CloseUnread)
	for i := range 2 {
		eventually(t, "the load to begin", func() (bool, string) { n := l.total(); return n > 20, fmt.Sprint(n) })
		b := launchBye(t, "trace", "-o", "csv", "--duration", "6s")
		select {
		case <-b.exited:
		case <-time.After(patience):
			t.Fatalf("tcpbye does not end\n%s", b.said())
		}
		noneLost(t, b)
		n := l.tally(t, b.rows())
		t.Logf("trace %d: %+v", i, n)
		if n.ends[verdict.CloseUnread] == 0 || n.wrong > 0 || n.unknown > 0 {
			t.Errorf("trace %d: %d right, %d wrong, %d unknown", i, n.ends[verdict.CloseUnread], n.wrong, n.unknown)
		}
		if n.open > 2 {
			t.Errorf("trace %d: %d ends are shown as open; there were never more than two", i, n.open)
		}
	}
	if err := l.end(); err != nil {
		t.Fatal(err)
	}
}

// TestFlood: as many connections as the machine makes, and ^C in the middle. tcpbye
// ends in time, is certain of nothing that is wrong, and its recording says the same.
func TestFlood(t *testing.T) {
	for _, rung := range []string{"", "kprobe", "fentry", "tp_btf", "tracepoint"} {
		t.Run("rung "+rung, func(t *testing.T) {
			const spaces = 4
			recording := filepath.Join(t.TempDir(), "flood.tcpbye")
			args := []string{"trace", "-o", "csv", "-w", recording}
			if rung != "" {
				args = append(args, "--attach", rung)
			}
			b := launchBye(t, args...)
			eventually(t, "tcpbye to be ready", func() (bool, string) {
				_, err := os.Stat(b.ready)
				return err == nil || b.gone(), b.said()
			})
			if b.gone() {
				const cannot = 4 // its exit status where this machine cannot trace in that way
				if status := b.cmd.ProcessState.ExitCode(); inLab() || status != cannot {
					t.Fatalf("exit status %d: %s", status, b.said())
				}
				t.Skipf("not here: %s", b.said())
			}
			l := startLoad(t, spaces, 0, verdict.HalfClose, verdict.LingerZero, verdict.CloseUnread, verdict.PortClosed)
			eventually(t, "the flood", func() (bool, string) { n := l.total(); return n > 2*many, fmt.Sprint(n) })
			begin := time.Now()
			b.stop()
			took := time.Since(begin)
			played := l.total()
			if err := l.end(); err != nil {
				t.Fatal(err)
			}
			n := l.tally(t, b.rows())
			t.Logf("ended %v after ^C, %d connections were played; %+v, %+v\n%s", took.Round(time.Millisecond), played, b.counts(), n, b.said())
			// What waits to be taken is bounded in bytes, in the ring and as much in the
			// queue. How long the latter takes on this machine beside this load it says
			// itself: so far it fell behind.
			if most := *within + 2*b.behind(); took > most {
				t.Errorf("it took %v to end, not %v", took, most)
			}
			if n.wrong > 0 || n.sure > 2*spaces {
				t.Errorf("%d verdicts are certain and wrong, and %d ends are certainly open; %d can be", n.wrong, n.sure, 2*spaces)
			}
			again, err := exec.Command(byeProgram(t), "trace", "-o", "csv", "-r", recording).Output()
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(again, []byte(text(t, b.stdout))) {
				t.Error("the recording does not show the same")
			}
			if t.Failed() {
				keep(t, b, recording)
			}
		})
	}
}

var behindLine = regexp.MustCompile(`(?m)^tcpbye: ([0-9.]+) s behind`)

// behind is how far tcpbye fell behind at most, as it said.
func (b *bye) behind() (most time.Duration) {
	b.t.Helper()
	for _, m := range behindLine.FindAllStringSubmatch(b.said(), -1) {
		d, err := time.ParseDuration(m[1] + "s")
		if err != nil {
			b.t.Fatal(err)
		}
		most = max(most, d)
	}
	return most
}

// TestSoak: a steady load for long. Every end is counted, as what it was, and
// nothing grows.
func TestSoak(t *testing.T) {
	b := startBye(t, "trace", "-o", "csv")
	l := startLoad(t, 2, 25, verdict.OrderlyClose, verdict.HalfClose, verdict.LingerZero, verdict.CloseUnread, verdict.DataAfterClose, verdict.PortClosed)
	type size struct{ rss, threads, files int }
	look := func() size {
		var s size
		for line := range strings.Lines(text(t, fmt.Sprintf("/proc/%d/status", b.cmd.Process.Pid))) {
			fmt.Sscanf(line, "VmRSS: %d", &s.rss)
			fmt.Sscanf(line, "Threads: %d", &s.threads)
		}
		all, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", b.cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		s.files = len(all)
		return s
	}
	var early, late size
	begin := time.Now()
	for tick := range time.Tick(*soak / 20) {
		s := look()
		t.Logf("%v: %d connections; tcpbye: %d kB, %d threads, %d files", tick.Sub(begin).Round(time.Second), l.total(), s.rss, s.threads, s.files)
		to := &late
		if tick.Sub(begin) < *soak/2 {
			to = &early
		}
		to.rss, to.threads, to.files = max(to.rss, s.rss), max(to.threads, s.threads), max(to.files, s.files)
		if tick.Sub(begin) >= *soak {
			break
		}
	}
	if err := l.end(); err != nil {
		t.Fatal(err)
	}
	b.stop()
	noneLost(t, b)
	n := l.tally(t, b.rows())
	for cause, played := range l.played {
		ends := 2 * played
		if cause == verdict.PortClosed {
			ends = played
		}
		if n.ends[cause] != ends {
			t.Errorf("%s: %d ends are shown, there were %d", cause, n.ends[cause], ends)
		}
	}
	t.Logf("%d connections in %v: %+v; the first half had at most %+v, the second %+v", l.total(), time.Since(begin).Round(time.Second), n, early, late)
	if n.wrong+n.unknown+n.open > 0 {
		t.Errorf("%d wrong, %d unknown, %d open", n.wrong, n.unknown, n.open)
	}
	// A look may meet a file of /proc that is being read.
	if late.rss > early.rss*5/4 || late.threads > early.threads+2 || late.files > early.files+2 {
		t.Errorf("it grows: from %+v to %+v", early, late)
	}
}

// TestClockSet: the wall clock is set in the middle of a trace. Each ending has the
// time of day of its own moment, and the recording shows the same.
func TestClockSet(t *testing.T) {
	if !inLab() {
		t.Skip("the clock of this machine is not ours to set")
	}
	recording := filepath.Join(t.TempDir(), "clock.tcpbye")
	b := startBye(t, "trace", "-o", "csv", "-w", recording)
	for _, by := range []time.Duration{0, 3 * time.Hour, -5 * time.Hour} {
		tv := unix.NsecToTimeval(time.Now().Add(by).UnixNano())
		if err := unix.Settimeofday(&tv); err != nil {
			t.Fatal(err)
		}
		begin := time.Now().Round(0) // as the wall has it
		shown := len(b.ended())
		l := startLoad(t, 1, 20, verdict.CloseUnread)
		eventually(t, "connections", func() (bool, string) { n := l.total(); return n > 20, fmt.Sprint(n) })
		if err := l.end(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "their ends to be shown", func() (bool, string) {
			n := len(b.ended())
			return n >= shown+2*l.total(), fmt.Sprint(n)
		})
		// What was noticed within a moment of the setting may have either time.
		for _, at := range b.ended()[shown+10:] {
			if at.Before(begin) || at.After(time.Now().Round(0)) {
				t.Errorf("the clock was set by %v to %v, and an ending is shown at %v", by, begin, at)
			}
		}
	}
	b.stop()
	again, err := exec.Command(byeProgram(t), "trace", "-o", "csv", "-r", recording).Output()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(again, []byte(text(t, b.stdout))) {
		t.Error("the recording does not show the same")
	}
}

// ended is when each ending that was shown so far was.
func (b *bye) ended() []time.Time {
	b.t.Helper()
	s := text(b.t, b.stdout)
	if s = s[:strings.LastIndexByte(s, '\n')+1]; s == "" {
		return nil
	}
	all, err := csv.NewReader(strings.NewReader(s)).ReadAll()
	if err != nil {
		b.t.Fatal(err)
	}
	at := slices.Index(all[0], "ended")
	var times []time.Time
	for _, fields := range all[1:] {
		ended, err := time.Parse(time.RFC3339Nano, fields[at])
		if err != nil {
			b.t.Fatal(err)
		}
		times = append(times, ended)
	}
	return times
}
