package real

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/tcpbye/tcpbye/demo/harness"
	"github.com/tcpbye/tcpbye/demo/scenario"
	"github.com/tcpbye/tcpbye/tracer/event"
)

// TestCases: no case is missing, and each is played by what exists, or says why
// it is not.
func TestCases(t *testing.T) {
	byID := map[string]Case{}
	for _, c := range Cases() {
		if _, twice := byID[c.ID]; twice {
			t.Errorf("%s is there twice", c.ID)
		}
		byID[c.ID] = c
		if c.Title() == "" {
			t.Errorf("%s is not in testdata/cases.txt", c.ID)
		}
		played := len(c.Runs()) + len(c.Scenarios)
		if played == 0 && c.Reason == "" {
			t.Errorf("%s is played by no run and no scenario, and has no reason why", c.ID)
		}
		if played > 0 && c.Reason != "" {
			t.Errorf("%s is played, and says why it is not", c.ID)
		}
		for _, name := range c.Scenarios {
			if _, ok := scenario.Find(name); !ok {
				t.Errorf("%s names the scenario %s, which does not exist", c.ID, name)
			}
		}
	}
	n := 0
	for line := range strings.Lines(titles) {
		id, _, _ := strings.Cut(line, " ")
		if _, ok := byID[id]; !ok {
			t.Errorf("%s of testdata/cases.txt is missing", id)
		}
		n++
	}
	if n != len(byID) {
		t.Errorf("testdata/cases.txt has %d cases, the table has %d", n, len(byID))
	}
}

// TestRuns: each run can be found and installed, and plays a case of the table.
func TestRuns(t *testing.T) {
	names := map[string]bool{}
	known := map[string]bool{}
	for _, c := range Cases() {
		known[c.ID] = true
	}
	for _, r := range All() {
		switch {
		case r.Name == "" || r.Title == "" || r.Play == nil:
			t.Errorf("a run is not complete: %q, %q", r.Name, r.Title)
		case names[r.Name]:
			t.Errorf("%s is there twice", r.Name)
		}
		names[r.Name] = true
		if r.Case == "" {
			t.Errorf("%s plays no case", r.Name)
		}
		for _, id := range strings.Fields(r.Case) {
			if !known[id] {
				t.Errorf("%s plays %s, which is no case", r.Name, id)
			}
		}
		for _, p := range r.Programs {
			if tools[p] == "" {
				t.Errorf("%s needs %s, and no package is known that has it", r.Name, p)
			}
		}
	}
}

// TestFlow counts a capture in which a port is used again.
func TestFlow(t *testing.T) {
	const client, server = 40000, 80
	at := func(port uint16) netip.AddrPort { return netip.AddrPortFrom(netip.IPv4Unspecified(), port) }
	data := func(seq uint32, n int) harness.Segment {
		return harness.Segment{Src: at(client), Dst: at(server), Seq: seq, Flags: event.ACK, Len: n}
	}
	syn := func(seq uint32) harness.Segment {
		return harness.Segment{Src: at(client), Dst: at(server), Seq: seq, Flags: event.SYN}
	}
	fin := func(seq uint32) harness.Segment {
		return harness.Segment{Src: at(client), Dst: at(server), Seq: seq, Flags: event.ACK | event.FIN}
	}
	rst := harness.Segment{Src: at(server), Dst: at(client), Flags: event.RST}
	got := calls([]harness.Segment{
		syn(100), syn(100), data(101, 10), data(101, 10), data(111, 5), fin(116), fin(116), data(117, 0),
		syn(1<<32 - 3), data(1<<32-2, 7), rst,
		{Src: at(9), Dst: at(10), Flags: event.SYN},
	}, server)
	if len(got) != 2 || !got[0].again || got[1].again {
		t.Fatalf("not two connections, the first of whose ports is used again: %+v", got)
	}
	for i, want := range []harness.Flow{{FINs: 1, Sent: 15}, {Sent: 7}} {
		if f := got[i].flow(server); f.FINs != want.FINs || f.RSTs != 0 || f.Sent != want.Sent {
			t.Errorf("call %d: %+v to the server, not %+v", i, f, want)
		}
	}
	if f := got[1].flow(client); f != (harness.Flow{RSTs: 1}) {
		t.Errorf("to the client: %+v", f)
	}
}
