package session

import (
	"io"
	"time"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/filter"
	"github.com/tcpbye/tcpbye/tracer/hosts"
	"github.com/tcpbye/tcpbye/tracer/record"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// Gather reads a recording for the join with those of other hosts. unnamed is the name of
// its host where the recording does not tell one, and then no other recording's host is
// the same. A damaged tail is an error after everything before it was taken.
func Gather(r io.Reader, unnamed string) (traces []*hosts.Trace, counts Counts, err error) {
	counts, err = Replay(r, func(m record.Meta) (Config, error) {
		t := &hosts.Trace{Host: hostOf(m, unnamed), Scenario: m.Scenario, Scope: verdict.ScopeOf(m), Offset: m.Offset}
		traces = append(traces, t)
		var command filter.Filter
		return Config{
			Join: conn.Options{
				Hold: m.Scenario != "",
				Stray: func(e *event.Event, own *conn.Connection) {
					t.Strays = append(t.Strays, hosts.Stray{Event: *e, Own: own})
				},
			},
			// What a command's run showed its recording shows again.
			Chosen: func(c record.Choice) {
				if c.Command != 0 {
					command.PIDs, command.Follow = []uint32{c.Command}, true
				}
			},
			Keep: func(c *conn.Connection, v verdict.Verdict) bool { return command.Match(c, v) },
			Show: func(c *conn.Connection, v verdict.Verdict) error {
				t.Ends = append(t.Ends, hosts.End{Conn: c, Verdict: v})
				return nil
			},
			Wall: func(w record.Wall) {
				t.Set = append(t.Set, hosts.Setting{From: w.Time, Offset: w.Offset})
			},
			Covers: func(from, to time.Duration) { t.From, t.To = from, to },
		}, nil
	})
	return traces, counts, err
}

func hostOf(m record.Meta, unnamed string) hosts.Host {
	if m.Host == nil {
		return hosts.Host{ID: "file " + unnamed, Name: unnamed}
	}
	h := hosts.Host{ID: m.Host.ID, Boot: m.Host.Boot, Name: string(m.Host.Name)}
	switch {
	case h.ID != "":
	case h.Boot != "":
		h.ID = "boot " + h.Boot
	default:
		h.ID = "file " + unnamed
	}
	if h.Name == "" {
		h.Name = unnamed
	}
	return h
}
