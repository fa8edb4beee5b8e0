package report

import (
	"encoding/hex"
	"net/netip"
	"slices"
	"time"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	unix "github.com/tcpbye/tcpbye/tracer/linux"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// Schema is the version of Record. A key never changes its meaning under it.
const Schema = "tcpbye.connection/1"

// Record is the JSON record of one end. A nil is a value that is not known.
type Record struct {
	Schema    string        `json:"schema"`
	ID        string        `json:"id"`
	PeerID    *string       `json:"peer_id"`
	Family    *string       `json:"family"`
	Local     *string       `json:"local"`
	Remote    *string       `json:"remote"`
	NetNS     *uint32       `json:"netns"`
	Open      *string       `json:"open"`
	Opened    *string       `json:"opened"` // RFC 3339, ns, UTC
	Ended     *string       `json:"ended"`
	Opener    *OwnerRecord  `json:"opener"`
	Owner     *OwnerRecord  `json:"owner"`
	Verdict   VerdictRecord `json:"verdict"`
	Lost      LostRecord    `json:"lost"`
	Bytes     BytesRecord   `json:"bytes"`
	HalfClose *float64      `json:"half_close_ms"`
	// Unanswered: the service ended it without an answer; nil: it did not.
	Unanswered *UnansweredRecord `json:"unanswered"`
	TimeWait   bool              `json:"time_wait"`
	Events     []EventRecord     `json:"events"`
	Scenario   string            `json:"scenario,omitempty"`
	// Host is the name of this end's host, where several are told of, and Joint what the
	// recording of the other end's added; nil: there is none.
	Host  string       `json:"host,omitempty"`
	Joint *JointRecord `json:"joint,omitempty"`
	Fin   FinRecord    `json:"fin"`
	Age   *float64     `json:"age_ms"`
	Idle  *float64     `json:"idle_ms"`
	Reset *ResetRecord `json:"reset"`
	// Connection is the same at both ends, on whatever hosts they are.
	Connection *string `json:"connection"`
}

// OwnerRecord is the process that called connect(2), or that held the socket last.
type OwnerRecord struct {
	PID       *uint32 `json:"pid"` // null: outside the PID namespace of tcpbye
	Comm      string  `json:"comm"`
	Exe       *string `json:"exe"`
	UID       uint32  `json:"uid"`
	Cgroup    *uint64 `json:"cgroup"`
	Container *string `json:"container"`
	NSPID     *uint32 `json:"ns_pid"` // in its own PID namespace
	User      *string `json:"user"`   // by the passwd that it sees
}

// VerdictRecord is the verdict.
type VerdictRecord struct {
	Class      string       `json:"class"`
	Cause      string       `json:"cause"`
	Ender      *string      `json:"ender"`
	Act        *string      `json:"act"`
	Actor      *ActorRecord `json:"actor"`
	Sentence   string       `json:"sentence"`
	Advice     *string      `json:"advice"`
	AppSaw     []string     `json:"app_saw"` // nil: not known
	Harmless   bool         `json:"harmless"`
	Confidence string       `json:"confidence"`
	Missing    []string     `json:"missing"`
	Signal     *string      `json:"signal"` // that killed the actor
	Retry      *string      `json:"retry"`
	RetryWhy   *string      `json:"retry_why"`
	Probe      bool         `json:"probe"`
	Unseen     *string      `json:"unseen"` // what must have been and was not told
}

// UnansweredRecord is how the service ended without an answer.
type UnansweredRecord struct {
	Received *uint64 `json:"received"` // since it sent last
	Sent     *uint64 `json:"sent"`     // before
	Act      *string `json:"act"`
	Signal   *string `json:"signal"`
	Status   *int    `json:"status"` // of its exit
	OOM      bool    `json:"oom"`
	PID      *uint32 `json:"pid"`
	Comm     *string `json:"comm"`
}

func unansweredRecord(u *verdict.Unanswered) *UnansweredRecord {
	if u == nil {
		return nil
	}
	r := &UnansweredRecord{Received: u.Received, Sent: u.Sent, Act: known(string(u.Act)), Signal: known(signalName(u.Signal)), Status: u.Status, OOM: u.OOM}
	if u.Actor != nil {
		r.PID, r.Comm = event.PIDHere(u.Actor.PID), &u.Actor.Comm
	}
	return r
}

// ActorRecord is the task that did the act.
type ActorRecord struct {
	PID   *uint32  `json:"pid"`
	TID   *uint32  `json:"tid"`
	Comm  string   `json:"comm"`
	Stack []string `json:"stack"` // null: not taken

	NSPID     *uint32 `json:"ns_pid"` // in its own PID namespace
	Exe       *string `json:"exe"`
	User      *string `json:"user"`
	Container *string `json:"container"`
	Host      string  `json:"host,omitempty"` // where several are told of
}

// LostRecord counts payload bytes that did not get where they should.
type LostRecord struct {
	Unread  *uint64 `json:"unread"`
	Unsent  *uint64 `json:"unsent"`
	Unacked *uint64 `json:"unacked"`
}

// BytesRecord counts payload bytes.
type BytesRecord struct {
	Sent     *uint64 `json:"sent"`
	Acked    *uint64 `json:"acked"`
	Received *uint64 `json:"received"`
}

// FinRecord is how each direction ended; null: no FIN.
type FinRecord struct {
	Local *GoodbyeRecord `json:"local"`
	Peer  *GoodbyeRecord `json:"peer"`
}

// GoodbyeRecord is one FIN.
type GoodbyeRecord struct {
	Act    *string `json:"act"`
	Signal *string `json:"signal"`
	PID    *uint32 `json:"pid"`
	Comm   *string `json:"comm"`
	Acked  bool    `json:"acked"`
	// Stack is the calls of the act, the innermost first; left out: not taken.
	Stack []string `json:"stack,omitempty"`
}

// ResetRecord is the RST that came in. What stands in the segment is nil where
// that was not seen.
type ResetRecord struct {
	T            int64    `json:"t_ns"`         // since the connection's first event
	AfterFin     *float64 `json:"after_fin_ms"` // nil: the peer had sent no FIN
	Flags        *string  `json:"flags"`
	Seq          *uint32  `json:"seq"`
	Ack          *uint32  `json:"ack"`
	TTL          *uint8   `json:"ttl"`
	HandshakeTTL *uint8   `json:"handshake_ttl"`
	IPID         *uint16  `json:"ip_id"`
	Window       *uint16  `json:"window"`
	Timestamp    *uint32  `json:"timestamp"`      // RFC 7323; nil: it has none, or the connection has not
	LastStamp    *uint32  `json:"last_timestamp"` // the peer's last before it; nil: the connection has none
	Answers      *string  `json:"answers"`
	After        *float64 `json:"after_ms"` // what it answers
	Offset       *int32   `json:"seq_offset"`
	Behind       *uint32  `json:"ack_behind"`
	Text         *string  `json:"text"`
}

// EventRecord is one event. PID, TID and Comm are of the task on the CPU, which
// is the actor only where Context is "process".
type EventRecord struct {
	T       int64   `json:"t_ns"` // since the connection's first event
	Hook    string  `json:"hook"`
	Context string  `json:"context"`
	PID     *uint32 `json:"pid"`
	TID     *uint32 `json:"tid"`
	Comm    string  `json:"comm"`
	State   *string `json:"state"`
	ToState *string `json:"to_state"`

	Elsewhere bool           `json:"elsewhere,omitempty"` // belongs to no socket of this connection
	Call      string         `json:"call,omitempty"`      // system call that the task was in
	How       string         `json:"how,omitempty"`       // shutdown: rd, wr, rdwr
	Reason    *int32         `json:"reason,omitempty"`    // enum sk_rst_reason of that kernel
	Substate  string         `json:"substate,omitempty"`  // of the mini-socket
	Errno     string         `json:"errno,omitempty"`     // that send(2) or recv(2) returned, or tcp_abort set; EOF: recv(2) returned 0
	SkErr     string         `json:"sk_err,omitempty"`
	Signal    string         `json:"signal,omitempty"`
	TargetPID *int32         `json:"target_pid,omitempty"`
	Status    *uint32        `json:"status,omitempty"` // exit status
	Refs      *int32         `json:"refs,omitempty"`   // references to the file, this one included
	Unread    *uint32        `json:"unread,omitempty"` // bytes
	Segment   *SegmentRecord `json:"segment,omitempty"`
	TCP       *TCPRecord     `json:"tcp,omitempty"`
	ICMP      *ICMPRecord    `json:"icmp,omitempty"`
}

// ICMPRecord is an ICMP error about a segment of the connection.
type ICMPRecord struct {
	Type int32  `json:"type"`
	Code int32  `json:"code"`
	From string `json:"from"`
	Own  bool   `json:"own"` // this host's kernel made it
}

// SegmentRecord is the segment that was received or answered.
type SegmentRecord struct {
	Flags  string `json:"flags"`
	Seq    uint32 `json:"seq"`
	Ack    uint32 `json:"ack"`
	Len    uint32 `json:"len"`
	TTL    uint8  `json:"ttl"`
	IPID   uint16 `json:"ip_id"`
	Window uint16 `json:"window"`
}

// TCPRecord are the socket's own numbers, where the judge used them.
type TCPRecord struct {
	WriteSeq    uint32 `json:"write_seq"`
	SndUna      uint32 `json:"snd_una"`
	SndNxt      uint32 `json:"snd_nxt"`
	RcvNxt      uint32 `json:"rcv_nxt"`
	CopiedSeq   uint32 `json:"copied_seq"`
	Retransmits uint8  `json:"retransmits"`
	ProbesOut   uint8  `json:"probes_out"`

	SndWnd     *uint32 `json:"snd_wnd,omitempty"`       // the peer's window, bytes
	MSS        *uint32 `json:"mss,omitempty"`           // payload of a full-size segment, bytes
	Refused    uint32  `json:"refused,omitempty"`       // tries in a row that this host's own layers refused to send
	RefusedErr int32   `json:"refused_error,omitempty"` // the last refusal: a negative errno, or a positive NET_XMIT_*
}

// wallFormat is how JSON spells a time, in UTC.
const (
	wallSeconds = "2006-01-02T15:04:05."
	wallFormat  = wallSeconds + "000000000Z07:00"
)

// NewRecord is the record of a judged end.
func NewRecord(j Judged, clock Clock) *Record { return newRecord(j, clock, true) }

func newRecord(j Judged, clock Clock, events bool) *Record {
	c, v := j.Conn, &j.Verdict
	r := &Record{
		Schema:   Schema,
		ID:       c.ID,
		Local:    addrRecord(c.Local),
		Remote:   addrRecord(c.Remote),
		NetNS:    known(c.NetNS),
		Opened:   wallRecord(c.Opened, clock),
		Ended:    wallRecord(c.Ended, clock),
		Lost:     LostRecord(v.Lost),
		Bytes:    BytesRecord(v.Bytes),
		TimeWait: v.TimeWait,
		Scenario: j.Scenario,
		Fin:      FinRecord{Local: goodbyeRecord(v.LocalFin), Peer: goodbyeRecord(v.PeerFin)},
		Verdict: VerdictRecord{
			Class: string(v.Class), Cause: string(v.Cause), Ender: known(string(v.Ender)),
			Act: known(string(v.Act)), Sentence: v.Sentence, Advice: known(v.Advice),
			AppSaw: v.AppSaw, Harmless: v.Harmless, Confidence: string(v.Confidence),
			Missing: list(v.Missing), Signal: known(signalName(v.Signal)),
			Retry: known(string(v.Retry)), RetryWhy: known(v.RetryWhy), Probe: v.Probe, Unseen: known(v.Unseen),
		},
		Age: milliseconds(v.Age), Idle: milliseconds(v.Idle), Reset: resetRecord(v.Reset, c.First),
	}
	if c.Peer != nil {
		r.PeerID = &c.Peer.ID
	}
	if c.Key != [16]byte{} {
		r.Connection = known(hex.EncodeToString(c.Key[:8]))
	}
	if c.Family != 0 {
		r.Family = known(c.Family.String())
	}
	if c.Open != conn.OpenUnknown {
		r.Open = known(c.Open.String())
	}
	r.Opener, r.Owner = ownerRecord(c.Opener), ownerRecord(c.Owner)
	if a := v.Actor; a != nil {
		r.Verdict.Actor = &ActorRecord{PID: event.PIDHere(a.PID), TID: event.PIDHere(a.TID), Comm: a.Comm, Stack: frames(a),
			NSPID: known(a.NSPID), Exe: known(a.Exe), User: known(a.User), Container: known(a.Container), Host: a.Host}
	}
	r.Host, r.Joint = c.Host, jointRecord(j.Joint)
	r.HalfClose = milliseconds(v.HalfClose)
	r.Unanswered = unansweredRecord(v.Unanswered)
	if !events {
		return r
	}
	seen := observations(c)
	r.Events = make([]EventRecord, len(seen))
	for i, s := range seen {
		r.Events[i].fill(s, c.First)
	}
	return r
}

// observation is an event with its place in the connection.
type observation struct {
	*event.Event
	elsewhere bool
	index     int
}

// observations are all events that concern c, in time order.
func observations(c *conn.Connection) []observation {
	all := make([]observation, 0, len(c.Events)+len(c.Elsewhere))
	for i := range c.Events {
		all = append(all, observation{&c.Events[i], false, i})
	}
	for i := range c.Elsewhere {
		all = append(all, observation{&c.Elsewhere[i], true, i})
	}
	slices.SortStableFunc(all, func(a, b observation) int {
		switch {
		case a.Time < b.Time:
			return -1
		case a.Time > b.Time:
			return 1
		}
		return 0
	})
	return all
}

func (r *EventRecord) fill(o observation, first time.Duration) {
	e := o.Event
	*r = EventRecord{
		T: int64(e.Time - first), Hook: e.Hook.String(), Context: e.Context.String(),
		PID: event.PIDHere(e.PID), TID: event.PIDHere(e.TID), Comm: e.Comm.String(), Elsewhere: o.elsewhere,
	}
	if e.Has&event.HasTuple != 0 {
		r.State = stateRecord(e.State)
	}
	if e.Hook == event.HookSetState {
		r.ToState = stateRecord(e.ToState)
	}
	switch e.Call {
	case event.CallUnknown, event.CallNone, event.CallOther:
	default:
		r.Call = e.Call.String()
	}
	if e.Has&event.HasSocket != 0 && e.Err != 0 {
		r.SkErr = e.Err.String()
	}
	if e.Has&event.HasSegment != 0 {
		s := e.Segment
		r.Segment = &SegmentRecord{Flags: s.Flags.String(), Seq: s.Seq, Ack: s.Ack, Len: s.Len,
			TTL: s.TTL, IPID: s.IPID, Window: s.Window}
	}
	numbers := false
	switch e.Hook {
	case event.HookSetState:
		numbers = e.ToState == event.Close
	case event.HookClose, event.HookReset:
		numbers = true
	case event.HookICMP:
		r.ICMP = &ICMPRecord{Type: e.Arg, Code: e.Arg2, From: e.From.Addr().String(), Own: e.Loopback}
	case event.HookShutdown:
		r.How = howName(e.Arg)
	case event.HookSendActiveReset:
		numbers = true
		r.Reason = reason(e.Arg)
	case event.HookSendReset:
		r.Reason = reason(e.Arg)
		if e.Arg2 > 0 {
			r.Substate = event.State(e.Arg2).String()
		}
	case event.HookAbort:
		if e.Arg != 0 {
			r.Errno = event.Errno(e.Arg).String()
		}
	case event.HookTimeWait, event.HookTwskKill, event.HookTwskSchedule:
		r.Substate = event.State(e.Arg).String()
	case event.HookStreamError:
		r.Errno = event.Errno(-e.Arg).String()
		if e.Arg2 == event.PipeDelivered {
			r.Signal = "SIGPIPE"
		}
	case event.HookReceive:
		if e.Peeked() {
			break
		}
		if r.Errno = "EOF"; e.Arg != 0 {
			r.Errno = event.Errno(-e.Arg).String()
		}
	case event.HookSignal:
		r.Signal = signalName(int(e.Arg))
		if target := e.Arg2; !event.Outside(uint32(target)) {
			r.TargetPID = &target
		}
	case event.HookExit:
		if e.Has&event.HasTask != 0 {
			if r.Signal = signalName(e.Signal()); r.Signal == "" {
				status := e.ExitCode >> 8
				r.Status = &status
			}
		}
	case event.HookFileClose:
		if e.Has&event.HasRefs != 0 {
			refs := e.Refs
			r.Refs = &refs
		}
	}
	if numbers && e.Has&event.HasTCP != 0 {
		r.TCP = &TCPRecord{WriteSeq: e.WriteSeq, SndUna: e.SndUna, SndNxt: e.SndNxt, RcvNxt: e.RcvNxt,
			CopiedSeq: e.CopiedSeq, Retransmits: e.Retransmits, ProbesOut: e.ProbesOut}
		if e.WindowKnown {
			window, mss := e.SndWnd, e.MSS
			r.TCP.SndWnd, r.TCP.MSS = &window, &mss
		}
		if e.UnsentTries != 0 {
			r.TCP.Refused, r.TCP.RefusedErr = e.UnsentTries, e.UnsentErr
		}
		if e.Hook == event.HookClose {
			n := unread(e)
			r.Unread = &n
		}
	}
}

// unread is how many bytes wait for the process; the peer's FIN takes a place
// in the sequence, but is no byte.
func unread(e *event.Event) uint32 {
	n := e.RcvNxt - e.CopiedSeq
	if n > 0 && e.Has&event.HasSocket != 0 && e.SkFlags&event.SockDone != 0 {
		n--
	}
	return n
}

func resetRecord(x *verdict.Reset, first time.Duration) *ResetRecord {
	if x == nil {
		return nil
	}
	r := &ResetRecord{T: int64(x.At - first), AfterFin: milliseconds(x.AfterFin), Answers: known(string(x.Answers)),
		After: milliseconds(x.After), Offset: x.Offset, Behind: x.Behind, Text: known(x.Text)}
	if t := x.Timestamps; t.Agreed {
		r.LastStamp = &t.Recent
		if t.Carried {
			r.Timestamp = &t.Value
		}
	}
	if x.Seen {
		s := x.Segment
		r.Flags, r.Seq, r.Window, r.TTL = known(s.Flags.String()), &s.Seq, &s.Window, known(s.TTL)
		if s.Flags&event.ACK != 0 {
			r.Ack = &s.Ack
		}
		if x.Handshake.TTL != 0 {
			r.HandshakeTTL = &x.Handshake.TTL
		}
		r.IPID = &s.IPID
	}
	return r
}

func milliseconds(d *time.Duration) *float64 {
	if d == nil {
		return nil
	}
	ms := float64(*d) / float64(time.Millisecond)
	return &ms
}

func known[T comparable](v T) *T {
	var zero T
	if v == zero {
		return nil
	}
	return &v
}

func list(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}

func addrRecord(a netip.AddrPort) *string {
	if !a.IsValid() {
		return nil
	}
	s := a.String()
	return &s
}

func wallRecord(t time.Duration, clock Clock) *string {
	if t == 0 {
		return nil
	}
	s := clock.Wall(t).Format(wallFormat)
	return &s
}

func ownerRecord(o *conn.Process) *OwnerRecord {
	if o == nil {
		return nil
	}
	return &OwnerRecord{PID: event.PIDHere(o.PID), Comm: o.Comm, Exe: known(o.Exe), UID: o.UID, Cgroup: known(o.Cgroup), Container: known(o.Container),
		NSPID: known(o.NSPID), User: known(o.User)}
}

func goodbyeRecord(g *verdict.Goodbye) *GoodbyeRecord {
	if g == nil {
		return nil
	}
	r := &GoodbyeRecord{Act: known(string(g.Act)), Signal: known(signalName(g.Signal)), Acked: g.Acked}
	if g.Actor != nil {
		r.PID, r.Comm, r.Stack = event.PIDHere(g.Actor.PID), &g.Actor.Comm, frames(g.Actor)
	}
	return r
}

func reason(arg int32) *int32 {
	if arg < 0 {
		return nil
	}
	return &arg
}

var stateTexts = func() (texts [event.NewSynRecv + 1]string) {
	for s := range texts {
		texts[s] = event.State(s).String()
	}
	return texts
}()

func stateRecord(s event.State) *string {
	if s == 0 {
		return nil
	}
	if int(s) < len(stateTexts) {
		return &stateTexts[s]
	}
	return known(s.String())
}

// signalName is "SIGPIPE"; "" for 0.
func signalName(n int) string {
	if n == 0 {
		return ""
	}
	if name := unix.SignalName(unix.Signal(n)); name != "" {
		return name
	}
	return "signal " + itoa(n)
}

func howName(mask int32) string {
	switch mask {
	case 1:
		return "rd"
	case 2:
		return "wr"
	case 3:
		return "rdwr"
	}
	return ""
}
