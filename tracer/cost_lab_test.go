//go:build lab

package tracer

import (
	"errors"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/bpf"
)

// What a plain connection, both ends, may cost in what does not depend on the machine.
const (
	plainRuns    = 42 // runs of BPF programs; measured: 32.6 on 6.1, 37.9 on 5.10, some of them of what went on beside it
	idleSwitches = 90 // of all threads in a second, when nothing happens; measured: 45, and 125 where the reader polls
)

// TestPlainCost holds what a plain connection costs in counts: they creep up unseen
// where only times are looked at.
func TestPlainCost(t *testing.T) {
	stats, err := ebpf.EnableStats(uint32(unix.BPF_STATS_RUN_TIME))
	if err != nil {
		t.Fatal(err)
	}
	defer stats.Close()
	const n = 100
	var runs float64
	var open, ids int
	var switches float64
	count := func(tr *Tracer) (all uint64) {
		tr.mu.Lock()
		defer tr.mu.Unlock()
		for _, p := range tr.programs.loaded {
			s, err := p.Stats()
			if err != nil {
				t.Fatal(err)
			}
			all += s.RunCount
		}
		return all
	}
	h := listenIn(t, Options{}, func(tr *Tracer) {
		before := count(tr)
		plainly(t, n)
		runs = float64(count(tr)-before) / n
		var key, id uint64
		var s bpf.ProbeStory
		stories := tr.programs.maps[bpf.ProbeMapStories].Iterate()
		for stories.Next(&key, &s) {
			if s.Conn != 0 {
				open++
			}
		}
		conns := tr.programs.maps[bpf.ProbeMapConns].Iterate()
		for conns.Next(&key, &id) {
			ids++
		}
		if err := errors.Join(stories.Err(), conns.Err()); err != nil {
			t.Error(err)
		}
		// Nothing happens: the reader sleeps, and wakes up by the clock alone.
		time.Sleep(2 * awake)
		begun, slept := switched(t), 3*time.Second
		time.Sleep(slept)
		switches = (switched(t) - begun) / slept.Seconds()
	})
	t.Logf("%.1f runs of programs, %d stories and %d events for %d connections; then %d stories and %d names of sockets are kept; idle: %.1f switches a second",
		runs, len(h.stories), len(h.events), n, open, ids, switches)
	if runs > plainRuns {
		t.Errorf("%.1f runs of BPF programs for a plain connection, at most %d may be", runs, plainRuns)
	}
	// On a busy machine a segment may come so late that its connection is not plain.
	if len(h.stories) != 2*n || len(h.events) > n/2 {
		t.Errorf("%d stories and %d events of %d connections", len(h.stories), len(h.events), n)
	}
	if open > 0 || ids > 0 {
		t.Errorf("when all are closed the maps keep %d stories and %d names", open, ids)
	}
	if switches > idleSwitches {
		t.Errorf("%.1f switches a second when nothing happens", switches)
	}
}

// switched is how often this process has given up a CPU by itself.
func switched(t *testing.T) float64 {
	t.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return float64(u.Nvcsw)
}
