package report

import (
	"io"
	"strings"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/export"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// ecsVersion is that of the Elastic Common Schema whose names these are.
const ecsVersion = "9.5.0"

// NewECS is a sink for what takes the Elastic Common Schema: a document a line and end.
// process is the one that held the socket; who ended it is tcpbye.actor.
func NewECS(w io.Writer, o Options) Sink { return newDocuments(w, o, ecsDocument) }

// ecs is a document. What the schema has no name for is below tcpbye.
type ecs struct {
	Timestamp string `json:"@timestamp"`
	ECS       struct {
		Version string `json:"version"`
	} `json:"ecs"`
	Message     string        `json:"message,omitempty"`
	Log         ecsLog        `json:"log"`
	Event       ecsEvent      `json:"event"`
	Network     ecsNetwork    `json:"network"`
	Source      *ecsSide      `json:"source,omitempty"`
	Destination *ecsSide      `json:"destination,omitempty"`
	Process     *ecsProcess   `json:"process,omitempty"`
	User        *ecsUser      `json:"user,omitempty"`
	Container   *ecsContainer `json:"container,omitempty"`
	Host        *ecsHost      `json:"host,omitempty"`
	Trace       *ecsTrace     `json:"trace,omitempty"`
	Span        *ecsTrace     `json:"span,omitempty"`
	Tcpbye      ecsOwn        `json:"tcpbye"`
}

type ecsLog struct {
	Level string `json:"level"`
}

type ecsEvent struct {
	Kind     string   `json:"kind"`
	Category []string `json:"category"`
	Type     []string `json:"type"`
	Dataset  string   `json:"dataset"`
	Action   string   `json:"action"`
	Outcome  string   `json:"outcome"`
	Reason   string   `json:"reason,omitempty"`
	Duration *int64   `json:"duration,omitempty"` // ns
	Start    *string  `json:"start,omitempty"`
	End      *string  `json:"end,omitempty"`
}

type ecsNetwork struct {
	Transport   string  `json:"transport"`
	Type        string  `json:"type,omitempty"`
	IANA        string  `json:"iana_number"`
	CommunityID string  `json:"community_id,omitempty"`
	Bytes       *uint64 `json:"bytes,omitempty"`
	Direction   string  `json:"direction"`
}

type ecsSide struct {
	endpoint
	Address string  `json:"address"`
	Bytes   *uint64 `json:"bytes,omitempty"`
}

type ecsProcess struct {
	PID        *uint32 `json:"pid,omitempty"`
	Name       string  `json:"name"`
	Executable *string `json:"executable,omitempty"`
}

type ecsUser struct {
	Name *string `json:"name,omitempty"`
}

type ecsContainer struct {
	ID string `json:"id"`
}

type ecsHost struct {
	Name string `json:"name"`
}

type ecsTrace struct {
	ID string `json:"id"`
}

// ecsOwn is what the schema has no names for.
type ecsOwn struct {
	Class      string      `json:"class"`
	Cause      string      `json:"cause"`
	Ender      *string     `json:"ender,omitempty"`
	Act        *string     `json:"act,omitempty"`
	Actor      *ecsProcess `json:"actor,omitempty"`
	Advice     *string     `json:"advice,omitempty"`
	Confidence string      `json:"confidence"`
	Missing    []string    `json:"missing,omitempty"`
	Harmless   bool        `json:"harmless"`
	Retry      *string     `json:"retry,omitempty"`
	AppSaw     []string    `json:"app_saw,omitempty"`
	Lost       ecsLost     `json:"lost"`
	Connection *string     `json:"connection,omitempty"`
	ConnState  string      `json:"conn_state"`
}

type ecsLost struct {
	Unread  *uint64 `json:"unread,omitempty"`
	Unsent  *uint64 `json:"unsent,omitempty"`
	Unacked *uint64 `json:"unacked,omitempty"`
}

func ecsDocument(j Judged, o Options) any {
	r := newRecord(j, o.Clock, false)
	c, v, f := j.Conn, &j.Verdict, flowOf(j)
	d := &ecs{
		Timestamp: o.Clock.Wall(whenEnded(c)).Format(wallFormat), Message: v.Sentence,
		Log: ecsLog{levels[export.SeverityOf(v)]},
		Event: ecsEvent{Kind: "event", Category: []string{"network"}, Type: []string{"connection", "end"}, Dataset: "tcpbye.connection",
			Action: r.Verdict.Cause, Outcome: outcome(v), Reason: v.Sentence, Start: r.Opened, End: r.Ended},
		Network: ecsNetwork{Transport: "tcp", Type: family(c), IANA: "6", CommunityID: communityID(c.Local, c.Remote), Bytes: f.bytes(), Direction: "ingress"},
		Tcpbye: ecsOwn{Class: r.Verdict.Class, Cause: r.Verdict.Cause, Ender: r.Verdict.Ender, Act: r.Verdict.Act, Advice: r.Verdict.Advice,
			Confidence: r.Verdict.Confidence, Missing: export.Missing(c, v), Harmless: v.Harmless, Retry: r.Verdict.Retry, AppSaw: v.AppSaw,
			Lost: ecsLost(r.Lost), Connection: r.Connection, ConnState: connState(c, v)},
	}
	d.ECS.Version = ecsVersion
	if f.initiated {
		d.Network.Direction = "egress"
	}
	if c.Opened != 0 && c.Ended != 0 {
		ns := int64(c.Ended - c.Opened)
		d.Event.Duration = &ns
	}
	d.Source, d.Destination = ecsSideOf(f.source, f.sourceBytes), ecsSideOf(f.destination, f.destinationBytes)
	if p := c.Owner; p != nil {
		d.Process = ecsProcessOf(p)
		if p.User != "" {
			d.User = &ecsUser{known(p.User)}
		}
		if id := containerID(p); id != "" {
			d.Container = &ecsContainer{id}
		}
	}
	if v.Actor != nil {
		d.Tcpbye.Actor = ecsProcessOf(v.Actor)
	}
	if name := hostOf(c, o); name != "" {
		d.Host = &ecsHost{name}
	}
	if id, span := identity(c); id != "" {
		d.Trace, d.Span = &ecsTrace{id}, &ecsTrace{span}
	}
	return d
}

func ecsSideOf(s endpoint, bytes *uint64) *ecsSide {
	if s == (endpoint{}) {
		return nil
	}
	return &ecsSide{s, s.IP, bytes}
}

func ecsProcessOf(p *conn.Process) *ecsProcess {
	return &ecsProcess{PID: event.PIDHere(p.PID), Name: strings.ToValidUTF8(program(p), "\ufffd"), Executable: known(strings.ToValidUTF8(p.Exe, "\ufffd"))}
}

// outcome is whether the connection did what it was for, as far as TCP can tell.
func outcome(v *verdict.Verdict) string {
	switch {
	case v.Class == verdict.Unknown || v.Class == verdict.Open:
		return "unknown"
	case v.Class == verdict.Graceful || v.Harmless:
		return "success"
	}
	return "failure"
}
