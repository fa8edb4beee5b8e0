package report

import (
	"encoding/hex"
	"io"
	"strings"
	"time"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/export"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// ocsfVersion is that of the Open Cybersecurity Schema Framework whose class Network
// Activity (4001) these documents are.
const ocsfVersion = "1.9.0"

// NewOCSF is a sink for what takes OCSF: a document a line and end.
func NewOCSF(w io.Writer, o Options) Sink { return newDocuments(w, o, ocsfDocument) }

// ocsf is a document.
type ocsf struct {
	ActivityID   int          `json:"activity_id"`
	ActivityName string       `json:"activity_name"`
	CategoryUID  int          `json:"category_uid"`
	CategoryName string       `json:"category_name"`
	ClassUID     int          `json:"class_uid"`
	ClassName    string       `json:"class_name"`
	TypeUID      int          `json:"type_uid"`
	TypeName     string       `json:"type_name"`
	Time         int64        `json:"time"` // ms since 1970, as all times
	StartTime    *int64       `json:"start_time,omitempty"`
	EndTime      *int64       `json:"end_time,omitempty"`
	Duration     *int64       `json:"duration,omitempty"` // ms
	SeverityID   int          `json:"severity_id"`
	Severity     string       `json:"severity"`
	StatusID     int          `json:"status_id"`
	Status       string       `json:"status"`
	StatusCode   string       `json:"status_code"`
	StatusDetail string       `json:"status_detail,omitempty"`
	Message      string       `json:"message,omitempty"`
	Metadata     ocsfMetadata `json:"metadata"`
	Connection   ocsfConn     `json:"connection_info"`
	Source       *endpoint    `json:"src_endpoint,omitempty"`
	Destination  *endpoint    `json:"dst_endpoint,omitempty"`
	Traffic      ocsfTraffic  `json:"cumulative_traffic"`
	PointID      int          `json:"observation_point_id"`
	Point        string       `json:"observation_point"`
	Actor        *ocsfActor   `json:"actor,omitempty"`
	Device       *ocsfDevice  `json:"device,omitempty"`
	Unmapped     ocsfUnmapped `json:"unmapped"`
}

type ocsfMetadata struct {
	Version string      `json:"version"`
	Product ocsfProduct `json:"product"`
}

type ocsfProduct struct {
	Name   string `json:"name"`
	Vendor string `json:"vendor_name"`
}

type ocsfConn struct {
	UID          string `json:"uid,omitempty"`
	CommunityUID string `json:"community_uid,omitempty"`
	DirectionID  int    `json:"direction_id"`
	Direction    string `json:"direction"`
	ProtocolName string `json:"protocol_name"`
	ProtocolNum  int    `json:"protocol_num"`
	ProtocolVer  string `json:"protocol_ver,omitempty"`
	VerID        int    `json:"protocol_ver_id"`
	TCPFlags     *int   `json:"tcp_flags,omitempty"`
}

// ocsfTraffic counts payload from the source's view.
type ocsfTraffic struct {
	Bytes  *uint64 `json:"bytes,omitempty"`
	In     *uint64 `json:"bytes_in,omitempty"`
	Out    *uint64 `json:"bytes_out,omitempty"`
	Missed *uint64 `json:"bytes_missed,omitempty"`
}

type ocsfActor struct {
	Process ocsfProcess `json:"process"`
}

type ocsfProcess struct {
	PID       *uint32        `json:"pid,omitempty"`
	Name      string         `json:"name"`
	File      *ocsfFile      `json:"file,omitempty"`
	User      *ecsUser       `json:"user,omitempty"`
	Container *ocsfContainer `json:"container,omitempty"`
}

type ocsfFile struct {
	Name   string `json:"name"`
	Path   string `json:"path"`
	TypeID int    `json:"type_id"`
}

type ocsfContainer struct {
	UID string `json:"uid"`
}

type ocsfDevice struct {
	Hostname string `json:"hostname"`
	TypeID   int    `json:"type_id"`
}

// ocsfUnmapped is what the schema has no names for.
type ocsfUnmapped struct {
	Class      string   `json:"class"`
	Ender      *string  `json:"ender,omitempty"`
	Act        *string  `json:"act,omitempty"`
	Confidence string   `json:"confidence"`
	Missing    []string `json:"missing,omitempty"`
	Harmless   bool     `json:"harmless"`
	Advice     *string  `json:"advice,omitempty"`
	Retry      *string  `json:"retry,omitempty"`
	Lost       ecsLost  `json:"lost"`
	ConnState  string   `json:"conn_state"`
	TraceID    string   `json:"trace_id,omitempty"`
	SpanID     string   `json:"span_id,omitempty"`
}

// activity is how OCSF sees the end of a connection.
func activity(v *verdict.Verdict) (id int, name string) {
	switch v.Class {
	case verdict.Graceful:
		return 2, "Close"
	case verdict.Aborted:
		return 3, "Reset"
	case verdict.TimedOut:
		return 4, "Fail"
	case verdict.Refused:
		if v.Cause == verdict.Unreachable {
			return 4, "Fail"
		}
		return 5, "Refuse"
	case verdict.Open:
		return 1, "Open"
	}
	return 0, "Unknown"
}

func ocsfDocument(j Judged, o Options) any {
	r := newRecord(j, o.Clock, false)
	c, v, f := j.Conn, &j.Verdict, flowOf(j)
	id, name := activity(v)
	d := &ocsf{
		ActivityID: id, ActivityName: name, CategoryUID: 4, CategoryName: "Network Activity", ClassUID: 4001, ClassName: "Network Activity",
		TypeUID: 400100 + id, TypeName: "Network Activity: " + name, Time: o.Clock.Wall(whenEnded(c)).UnixMilli(),
		StartTime: milli(c.Opened, o.Clock), EndTime: milli(c.Ended, o.Clock),
		SeverityID: 1, Severity: "Informational", StatusCode: r.Verdict.Cause, StatusDetail: v.Sentence, Message: v.Sentence,
		Metadata: ocsfMetadata{ocsfVersion, ocsfProduct{"tcpbye", "tcpbye"}},
		Connection: ocsfConn{UID: deref(r.Connection), CommunityUID: communityID(c.Local, c.Remote), DirectionID: 1, Direction: "Inbound",
			ProtocolName: "tcp", ProtocolNum: 6, TCPFlags: flags(c, v)},
		Traffic: ocsfTraffic{Bytes: f.bytes(), In: f.destinationBytes, Out: f.sourceBytes, Missed: missed(r.Lost)},
		PointID: 2, Point: "Destination",
		Unmapped: ocsfUnmapped{Class: r.Verdict.Class, Ender: r.Verdict.Ender, Act: r.Verdict.Act, Confidence: r.Verdict.Confidence,
			Missing: export.Missing(c, v), Harmless: v.Harmless, Advice: r.Verdict.Advice, Retry: r.Verdict.Retry, Lost: ecsLost(r.Lost), ConnState: connState(c, v)},
	}
	switch export.SeverityOf(v) {
	case export.Warn:
		d.SeverityID, d.Severity = 3, "Medium"
	case export.Error:
		d.SeverityID, d.Severity = 4, "High"
	}
	switch outcome(v) {
	case "success":
		d.StatusID, d.Status = 1, "Success"
	case "failure":
		d.StatusID, d.Status = 2, "Failure"
	default:
		d.StatusID, d.Status = 0, "Unknown"
	}
	switch c.Family {
	case event.IPv4:
		d.Connection.VerID, d.Connection.ProtocolVer = 4, "Internet Protocol version 4 (IPv4)"
	case event.IPv6:
		d.Connection.VerID, d.Connection.ProtocolVer = 6, "Internet Protocol version 6 (IPv6)"
	}
	if f.initiated {
		d.PointID, d.Point, d.Connection.DirectionID, d.Connection.Direction = 1, "Source", 2, "Outbound"
	}
	if c.Opened != 0 && c.Ended != 0 {
		ms := (c.Ended - c.Opened).Milliseconds()
		d.Duration = &ms
	}
	if f.source != (endpoint{}) {
		d.Source = &f.source
	}
	if f.destination != (endpoint{}) {
		d.Destination = &f.destination
	}
	actor := v.Actor // who did it, or else whose connection it was
	if actor == nil {
		actor = c.Owner
	}
	if actor != nil {
		d.Actor = &ocsfActor{ocsfProcessOf(actor)}
	}
	if name := hostOf(c, o); name != "" {
		d.Device = &ocsfDevice{Hostname: name}
	}
	if j.Joint != nil {
		d.PointID, d.Point = 4, "Both"
	}
	d.Unmapped.TraceID, d.Unmapped.SpanID = identity(c)
	return d
}

func ocsfProcessOf(p *conn.Process) ocsfProcess {
	x := ocsfProcess{PID: event.PIDHere(p.PID), Name: strings.ToValidUTF8(program(p), "\ufffd")}
	if p.Exe != "" {
		x.File = &ocsfFile{x.Name, strings.ToValidUTF8(p.Exe, "\ufffd"), 1} // a regular file
	}
	if p.User != "" {
		x.User = &ecsUser{known(p.User)}
	}
	if id := containerID(p); id != "" {
		x.Container = &ocsfContainer{id}
	}
	return x
}

// whenEnded is when it ended, or where that was not seen when something was last heard of it.
func whenEnded(c *conn.Connection) time.Duration {
	if c.Ended == 0 {
		return c.Last
	}
	return c.Ended
}

func milli(at time.Duration, clock Clock) *int64 {
	if at == 0 {
		return nil
	}
	ms := clock.Wall(at).UnixMilli()
	return &ms
}

// missed is what was lost; nil: not known.
func missed(l LostRecord) *uint64 {
	if l.Unread == nil || l.Unsent == nil || l.Unacked == nil {
		return nil
	}
	n := *l.Unread + *l.Unsent + *l.Unacked
	return &n
}

// flags are the TCP flags that were seen of both ends, as far as the verdict tells; nil
// where the beginning was not seen.
func flags(c *conn.Connection, v *verdict.Verdict) *int {
	if c.Open == conn.OpenUnknown {
		return nil
	}
	n := int(event.SYN)
	if c.Established != 0 {
		n |= int(event.ACK)
	}
	if v.LocalFin != nil || v.PeerFin != nil {
		n |= int(event.FIN)
	}
	if v.Reset != nil {
		n |= int(event.RST)
	}
	return &n
}

// identity are the trace and the span that the end is for OpenTelemetry; "" none.
func identity(c *conn.Connection) (trace, span string) {
	id := export.Trace(c)
	if id == (export.TraceID{}) {
		return "", ""
	}
	s, _ := export.Span(c)
	return hex.EncodeToString(id[:]), hex.EncodeToString(s[:])
}
