package report

import (
	"fmt"
	"slices"
	"strings"
	"time"

	unix "github.com/tcpbye/tcpbye/tracer/linux"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// together is how near events must be to be told as one: a system call, the
// state it changes and the segment it sends are microseconds apart, and so are
// sender and receiver over loopback. In one task one event follows from the
// other even where the machine is emulated, or stops the task in between.
const (
	together     = time.Millisecond
	togetherTask = 250 * time.Millisecond
)

// side is where an end stands: left is the active opener.
type side int

const (
	left side = iota
	right
)

func (s side) other() side { return 1 - s }

// segment is what goes over the wire, as far as a story needs it.
type segment struct {
	kind  segmentKind
	bytes uint32
}

type segmentKind uint8

const (
	noSegment segmentKind = iota
	segSyn
	segSynAck
	segFin
	segAck
	segRst
	segData
)

func (s segment) String() string {
	switch s.kind {
	case segSyn:
		return "SYN"
	case segSynAck:
		return "SYN ACK"
	case segFin:
		return "FIN"
	case segAck:
		return "ACK"
	case segRst:
		return "RST"
	case segData:
		return fmt.Sprintf("%d B", s.bytes)
	}
	return ""
}

// segmentOf is the segment of an event, by what matters most in it.
func segmentOf(s event.Segment) segment {
	switch {
	case s.Flags&event.RST != 0:
		return segment{kind: segRst}
	case s.Flags&event.SYN != 0 && s.Flags&event.ACK != 0:
		return segment{kind: segSynAck}
	case s.Flags&event.SYN != 0:
		return segment{kind: segSyn}
	case s.Len > 0:
		return segment{kind: segData, bytes: s.Len}
	case s.Flags&event.FIN != 0:
		return segment{kind: segFin}
	}
	return segment{kind: segAck}
}

// phase is how much of a segment's way one row shows.
type phase uint8

const (
	whole    phase = iota // sent and received within the row, or only one end is known
	departed              // sent here, received in a later row
	arrived               // sent in an earlier row
)

// wire is what goes over the wire in a row.
type wire struct {
	segment
	from  side
	phase phase
}

// cell is what happens at one end in a row.
type cell struct {
	act    string        // what is done, or who does it: close(), kernel, timer
	states []event.State // the way the state goes; at least two, or none
	text   string        // what else happens, where no state changes
	note   string        // an addition
	marks  []int         // numbers of evidence
}

// row is one moment.
type row struct {
	at    time.Duration // since the first event
	fatal bool          // what ended the connection, where it did not end well
	wire  *wire
	items [2]*item // by side; nil: nothing happens there
}

// story is what happened to a connection, told from both ends where both are
// known.
type story struct {
	ends   [2]*Judged // the second is nil where one end only is known
	zero   time.Duration
	rows   []row
	proofs []proof // in the order of their numbers
}

// proof is a numbered piece of evidence.
type proof struct {
	n    int
	side side
	hook event.Hook
}

// itemKind says what can still join an item.
type itemKind uint8

const (
	kOther itemKind = iota
	kOpening
	kAct       // close, shutdown, exit, listener closed, …: waits for its state change
	kHeld      // a close that leaves other references: an act if a close follows after all
	kExit      // like kAct
	kActiveRst // a RST sent before the state changes
	kReset     // a RST came, or data that makes this end reset itself
	kTimeWait
	kError // send(2) failed: SIGPIPE may follow
	kClosed
)

// item is what happens at one end at one moment: events that belong together.
type item struct {
	cell
	kind       itemKind
	side       side
	at, last   time.Duration // CLOCK_MONOTONIC
	task       uint32        // on the CPU at the last event
	cpu        uint32
	times      int // how often it came again
	send, recv segment
	inferred   bool // from the other end's answer
	perhaps    bool // recv was received only if the other end is seen to send it
	rst        bool // kReset: a RST was seen to come
	fatal      bool
	events     []*event.Event
}

type builder struct {
	pen
	ends     [2]*Judged
	items    []*item
	halfWait [2]bool // the end is a mini-socket in FIN_WAIT2
}

// newStory tells what happened. b is nil where one end only is known.
func newStory(a, b *Judged, p pen) *story {
	t := &builder{pen: p, ends: [2]*Judged{a, b}}
	for s, j := range t.ends {
		if j == nil {
			continue
		}
		var cur *item
		for _, o := range observations(j.Conn) {
			cur = t.step(side(s), j, cur, o)
		}
	}
	st := &story{ends: t.ends}
	wanted := st.wanted()
	t.show(wanted)
	t.prune()
	st.zero = a.Conn.First
	if b != nil {
		st.zero = min(st.zero, b.Conn.First)
	}
	slices.SortStableFunc(t.items, func(x, y *item) int { return cmpTime(x.at, y.at) })
	st.join(combine(t.items))
	st.prove(wanted)
	st.markFatal()
	return st
}

// show sees to it that every event that is evidence is told: one that is said
// already by another joins it, one that is not gets a place of its own.
func (b *builder) show(wanted map[*event.Event]side) {
	told := map[*event.Event]bool{}
	for _, i := range b.items {
		for _, e := range i.events {
			told[e] = true
		}
	}
	for s, j := range b.ends {
		if j == nil {
			continue
		}
		for _, o := range observations(j.Conn) {
			if _, ok := wanted[o.Event]; !ok || told[o.Event] {
				continue
			}
			n := slices.IndexFunc(b.items, func(i *item) bool {
				return i.side == side(s) && i.events != nil && near(i.last, o.Time)
			})
			if n >= 0 {
				b.items[n].events = append(b.items[n].events, o.Event)
				continue
			}
			b.add(side(s), o, item{cell: cell{text: proofText(o.Event)}, fatal: j.Verdict.Cause == verdict.FinWait2Timeout})
		}
	}
}

func cmpTime(a, b time.Duration) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func (b *builder) add(s side, o observation, i item) *item {
	i.side = s
	i.at, i.last = o.Time, o.Time
	i.task, i.cpu = o.TID, o.CPU
	i.events = append(i.events, o.Event)
	b.items = append(b.items, &i)
	return &i
}

// take joins an event to an item.
func (i *item) take(o observation) *item {
	i.last, i.task, i.cpu = o.Time, o.TID, o.CPU
	i.events = append(i.events, o.Event)
	return i
}

// near says whether the event comes right after the item.
func (i *item) near(o observation) bool {
	return i != nil && (o.Time-i.last <= together || o.Time-i.last <= togetherTask && sameTask(i.task, o.TID, i.cpu, o.CPU))
}

// sameTask says whether two events had the same task on the CPU. The idle
// tasks, one a CPU, share the number 0.
func sameTask(task, other, cpu, otherCPU uint32) bool {
	return task == other && (task != 0 || cpu == otherCPU)
}

func (i *item) is(kinds ...itemKind) bool { return i != nil && slices.Contains(kinds, i.kind) }

// acting says whether the item waits for the state change that it causes.
func (i *item) acting() bool {
	return i.is(kAct, kExit, kHeld, kActiveRst) && i.states == nil
}

// step tells one more event of one end, as a part of the current item or as a
// new one.
func (b *builder) step(s side, j *Judged, cur *item, o observation) *item {
	near := cur.near(o)
	if o.Has&event.HasTuple != 0 && o.State == event.Listen && o.Hook != event.HookSetState {
		if i, ok := b.listener(s, j, cur, o); ok {
			return i
		}
	}
	switch o.Hook {
	case event.HookSetState:
		return b.setState(s, j, cur, o)

	case event.HookConnect:
		if near && cur.is(kOpening) {
			return cur.take(o)
		}
		return b.add(s, o, item{kind: kOpening, cell: cell{act: b.by(j, o, "connect()")}})

	case event.HookAccept:
		if near && cur.is(kOpening) {
			return cur.take(o)
		}
		return b.add(s, o, item{cell: cell{act: b.by(j, o, "accept()")}})

	case event.HookFileClose:
		if o.Has&event.HasRefs == 0 || o.Refs < 2 {
			if cur.is(kHeld) {
				cur.kind = kOther // this is another descriptor's close
			}
			return cur
		}
		left := "1 reference left"
		if o.Refs > 2 {
			left = fmt.Sprintf("%d references left", o.Refs-1)
		}
		act, note := b.by(j, o, "close()"), left+", nothing sent"
		if cur.is(kHeld) && cur.act == act {
			cur.times++
			cur.note = fmt.Sprintf("%s  ×%d", note, cur.times+1)
			return cur.take(o)
		}
		return b.add(s, o, item{kind: kHeld, cell: cell{act: act, note: note}})

	case event.HookCloseEntry, event.HookClose:
		return b.close(s, j, cur, o)

	case event.HookShutdown:
		i := item{kind: kAct, cell: cell{act: b.by(j, o, shutdownName(o.Arg))}}
		if o.Arg == 1 {
			i.note = "nothing is sent"
		}
		return b.add(s, o, i)

	case event.HookSendFin:
		if near && (cur.send.kind == noSegment || cur.send.kind == segFin) && !cur.is(kTimeWait) {
			cur.send = segment{kind: segFin}
			return cur.take(o)
		}
		return b.add(s, o, item{cell: cell{text: "FIN"}, send: segment{kind: segFin}})

	case event.HookSendActiveReset:
		return b.sendActiveReset(s, j, cur, o)

	case event.HookSendReset:
		return b.sendReset(s, j, cur, o)

	case event.HookReset:
		seg, seen := segment{kind: segRst}, o.Has&event.HasSegment != 0
		if seen {
			seg = segmentOf(o.Segment)
		}
		if seg.kind == segRst {
			// Without the segment (5.10: tcp_reset has one argument) it may still
			// turn out that none came.
			i := item{kind: kReset, recv: seg, rst: seen, fatal: true}
			if j.Verdict.Ender == verdict.Path {
				if i.note = "not sent by the peer"; j.Verdict.Confidence != verdict.Certain {
					i.note = "hardly sent by the peer"
				}
			}
			return b.add(s, o, i)
		}
		// tcp_reset() without a RST: data came for a socket that nobody reads,
		// and this end is about to answer with one.
		b.incoming(s, o, seg)
		return b.add(s, o, item{kind: kReset, cell: cell{act: "kernel"}, fatal: true})

	case event.HookDisconnect:
		if near && cur.acting() {
			return cur.take(o)
		}
		if o.Has&event.HasTuple != 0 && o.State == event.Close {
			return cur // connect(2) failed and tidies up
		}
		act := "disconnect"
		switch o.Call {
		case event.CallConnect:
			act = "connect(AF_UNSPEC)"
		case event.CallShutdown:
			act = "shutdown()"
		}
		return b.add(s, o, item{kind: kAct, cell: cell{act: b.by(j, o, act)}, fatal: true})

	case event.HookAbort:
		return b.add(s, o, item{kind: kAct, cell: cell{act: b.by(j, o, "SOCK_DESTROY")}, fatal: true})

	case event.HookChildForget:
		if near && cur.acting() {
			cur.fatal = true
			return cur.take(o)
		}
		return b.add(s, o, item{kind: kAct, cell: cell{act: b.by(j, o, "listener closed")}, fatal: true})

	case event.HookTimeWait:
		return b.timeWait(s, cur, o)

	case event.HookTwskSchedule:
		// The FIN found the mini-socket, which now waits in TIME_WAIT. Any
		// further one only makes it wait longer.
		if event.State(o.Arg) == event.TimeWait && b.halfWait[s] {
			b.halfWait[s] = false
			b.add(s, o, item{kind: kTimeWait, cell: cell{states: []event.State{event.FinWait2, event.TimeWait},
				note: "keeps the port"}, recv: segment{kind: segFin}})
		}
		return cur

	case event.HookStreamError:
		text := "send() = " + event.Errno(-o.Arg).String()
		if o.Arg2 == event.PipeDelivered {
			text += ", SIGPIPE"
		}
		return b.told(s, j, cur, o, text)

	case event.HookReceive:
		if o.Peeked() {
			return b.told(s, j, cur, o, fmt.Sprintf("recv(MSG_PEEK) = %d", o.Arg))
		}
		text := "recv() = 0 (EOF)"
		if o.Arg != 0 {
			text = "recv() = " + event.Errno(-o.Arg).String()
		}
		return b.told(s, j, cur, o, text)

	case event.HookSignal:
		if near && cur.is(kError) {
			return cur.take(o)
		}
		return b.add(s, o, item{cell: cell{act: b.by(j, o, event.SignalName(int(o.Arg)))}})

	case event.HookExit:
		return b.add(s, o, item{kind: kExit, cell: cell{act: b.by(j, o, exitName(o.Event))}})

	case event.HookSynDrop:
		text := "SYN dropped: the accept queue is full"
		if o.Has&event.HasSocket != 0 {
			text += fmt.Sprintf(" (%d of %d)", o.AckBacklog, o.MaxAckBacklog)
		}
		i := item{cell: cell{text: text}, recv: segment{kind: segSyn}}
		if o.elsewhere { // the listener stands where this end's peer would be
			b.add(s.other(), o, i)
			return cur
		}
		return b.add(s, o, i)

	case event.HookDestroy, event.HookErrorReport, event.HookTwskKill, event.HookExec:
		// Said already by what they follow.
		if near {
			return cur.take(o)
		}
	}
	return cur
}

func (b *builder) setState(s side, j *Judged, cur *item, o observation) *item {
	from, to := o.State, o.ToState
	near := cur.near(o)
	change := []event.State{from, to}
	switch {
	case from == to:
		// close(2) in FIN_WAIT2 passes through itself; ss -K on a listener too.
		if near {
			cur.take(o)
		}
		return cur

	case to == event.SynSent:
		if near && cur.is(kOpening) {
			cur.states, cur.send = change, segment{kind: segSyn}
			return cur.take(o)
		}
		return b.add(s, o, item{kind: kOpening, cell: cell{act: b.by(j, o, "connect()"), states: change},
			send: segment{kind: segSyn}})

	case from == event.SynSent && to == event.Established, from == event.SynSent && to == event.SynRecv:
		if near && cur.is(kOpening) {
			cur.states = change
			return cur.take(o)
		}
		return b.add(s, o, item{kind: kOpening, cell: cell{states: change}, recv: segment{kind: segSynAck}})

	case from == event.Listen:
		// The child is born with the third segment; with TCP Fast Open, with
		// the first, and then waits in SYN_RECV.
		return b.add(s, o, item{kind: kOpening, cell: cell{states: change}, recv: segment{kind: segSyn}})

	case from == event.SynRecv && to == event.Established:
		if near && cur.is(kOpening) && cur.states != nil {
			if cur.states[0] == event.Listen {
				cur.states, cur.recv = change, segment{kind: segAck}
			} else {
				cur.states = append(cur.states, to)
			}
			return cur.take(o)
		}
		return b.add(s, o, item{kind: kOpening, cell: cell{states: change}, recv: segment{kind: segAck}})

	case to == event.FinWait1, to == event.LastAck:
		fin := segment{kind: segFin}
		if near && cur.acting() {
			cur.states, cur.send, cur.note = change, fin, ""
			return cur.take(o)
		}
		act := ""
		if o.ByProcess() {
			act = b.actName(j, o)
		}
		return b.add(s, o, item{kind: kAct, cell: cell{act: act, states: change}, send: fin})

	case to == event.FinWait2:
		return b.add(s, o, item{cell: cell{states: change}, recv: segment{kind: segAck}})

	case to == event.CloseWait, to == event.Closing:
		return b.add(s, o, item{cell: cell{states: change}, recv: segment{kind: segFin}})

	case to == event.Close:
		return b.closed(s, j, cur, o)
	}
	return b.add(s, o, item{cell: cell{states: change}})
}

// closed is the last state change.
func (b *builder) closed(s side, j *Judged, cur *item, o observation) *item {
	near := cur.near(o)
	change := []event.State{o.State, event.Close}
	switch {
	case near && cur.is(kTimeWait):
		// The mini-socket lives on in the state that tcp_time_wait gave it.
		return cur.take(o)

	case near && (cur.acting() || cur.is(kReset) && cur.states == nil):
		cur.states = change
		if !cur.is(kReset) {
			cur.note = ""
		}
		if cur.is(kActiveRst) && cur.act == "timer" {
			cur.note = gaveUp(o.Event)
		}
		cur.fatal = true
		return cur.take(o)

	case o.State == event.LastAck && o.Err == 0 && !lingerZero(o.Event):
		// Also where an exit or a close is on the CPU: over loopback the last
		// ACK comes while the FIN is being sent.
		return b.add(s, o, item{kind: kClosed, cell: cell{states: change}, recv: segment{kind: segAck}})

	case (o.State == event.FinWait2 || o.State == event.Closing) && o.Err == 0:
		// Without the tcp_time_wait hook this is all there is to see of it.
		return b.add(s, o, item{kind: kClosed, cell: cell{states: change}, recv: segment{kind: segFin}, perhaps: true})
	}
	i := item{kind: kClosed, cell: cell{states: change}, fatal: true}
	note := gaveUp(o.Event)
	if j.Verdict.Cause == verdict.Unreachable {
		note = "" // an ICMP message ended it, whatever the timers had tried
	}
	if o.Err == econnreset || o.Err == epipe || o.Err == econnrefused {
		// Without the tcp_reset hook the errno tells that a RST may have come.
		i.recv, i.perhaps = segment{kind: segRst}, true
	}
	// On an unmeasured context an end without an error is the process's own.
	own := o.Context == event.ContextUnknown && o.Err == 0 && (o.Call.Ends() || o.Exiting())
	switch {
	case o.ByProcess() || own:
		i.act = b.actName(j, o)
	case note != "":
		i.act, i.note = "timer", note
	default:
		i.act = "kernel"
		if o.Has&event.HasSocket != 0 && o.Err != 0 {
			i.note = o.Err.String()
			if j.Verdict.Cause == verdict.Unreachable {
				i.note += " (ICMP)"
			}
		}
	}
	return b.add(s, o, i)
}

// lingerZero says whether SO_LINGER is on with time 0.
func lingerZero(e *event.Event) bool {
	return e.Has&event.HasSocket != 0 && e.SkFlags&event.SockLinger != 0 && e.LingerTime == 0
}

// gaveUp says what a timer tried before it ended a connection; "" where no
// timer did.
func gaveUp(e *event.Event) string {
	if e.Has&event.HasTCP == 0 || e.Context == event.ContextProcess {
		return ""
	}
	// A timer reports ETIMEDOUT, or the ICMP error that came before; an ICMP
	// error that ends the connection itself is no timer's.
	if e.Has&event.HasSocket != 0 && e.Err != 0 && e.Err != etimedout && e.Err != e.ErrSoft {
		return ""
	}
	count := func(n uint8, one, many string) string {
		if n == 1 {
			return "1 " + one
		}
		return fmt.Sprintf("%d %s", n, many)
	}
	switch {
	case e.ProbesOut > 0:
		return count(e.ProbesOut, "probe unanswered", "probes unanswered")
	case e.Retransmits > 0:
		return count(e.Retransmits, "retransmission unanswered", "retransmissions unanswered")
	}
	return ""
}

// close is close(2), or whatever else drops the last reference.
func (b *builder) close(s side, j *Judged, cur *item, o observation) *item {
	near := cur.near(o)
	switch {
	case near && cur.acting() && cur.is(kAct, kHeld) && cur.task == o.TID && cur.act == b.actName(j, o):
		// tcp_close, then __tcp_close; or the file's reference count was up
		// for a moment only.
		cur.kind, cur.note = kAct, ""
		cur.take(o)
	case near && cur.is(kExit) && o.Exiting():
		cur.take(o)
	case o.Has&event.HasTuple != 0 && o.State == event.Close && o.Exiting():
		return cur
	default:
		cur = b.add(s, o, item{kind: kAct, cell: cell{act: b.actName(j, o)}})
	}
	if o.Has&event.HasTuple != 0 && o.State == event.Close && cur.kind == kAct {
		cur.note = "closed already"
	}
	return cur
}

func (b *builder) timeWait(s side, cur *item, o observation) *item {
	if event.State(o.Arg) != event.TimeWait {
		b.halfWait[s] = true
		text := "FIN_WAIT2 kept by the kernel, no process any more"
		if cur.near(o) && cur.acting() {
			cur.kind, cur.text, cur.note = kTimeWait, text, ""
			return cur.take(o)
		}
		return b.add(s, o, item{kind: kTimeWait, cell: cell{text: text}})
	}
	i := item{kind: kTimeWait, cell: cell{states: []event.State{o.State, event.TimeWait}, note: "keeps the port"},
		recv: segment{kind: segFin}}
	if o.State == event.Closing {
		i.recv = segment{kind: segAck}
	}
	return b.add(s, o, i)
}

// sendActiveReset is a RST that answers nothing.
func (b *builder) sendActiveReset(s side, j *Judged, cur *item, o observation) *item {
	rst := segment{kind: segRst}
	if cur.near(o) && (cur.is(kAct, kExit, kHeld) || cur.is(kTimeWait, kClosed) && cur.fatal) && cur.send.kind == noSegment {
		cur.send, cur.fatal, cur.note = rst, true, ""
		return cur.take(o)
	}
	act := "kernel"
	if o.ByProcess() {
		act = b.actName(j, o)
	} else if o.Context == event.ContextSoftirq {
		act = "timer"
	}
	return b.add(s, o, item{kind: kActiveRst, cell: cell{act: act}, send: rst, fatal: true})
}

// sendReset is a RST in answer to a segment.
func (b *builder) sendReset(s side, j *Judged, cur *item, o observation) *item {
	seen := o.Has&event.HasSegment != 0
	if seen && o.Segment.Flags&event.RST != 0 {
		return cur // the hook is at the function's entry: a RST is never answered
	}
	rst := segment{kind: segRst}
	if o.elsewhere {
		// This machine's kernel answered this end: it stands for the other one.
		if seen {
			i := b.sender(s, o, segmentOf(o.Segment))
			b.items = append(b.items, &i)
		}
		text := "no socket: RST"
		if o.Sock != 0 && o.Has&event.HasTuple != 0 && o.State != 0 {
			text = "RST from a socket in " + o.State.String()
		}
		b.add(s.other(), o, item{cell: cell{act: "kernel", text: text}, send: rst, fatal: true})
		return cur
	}
	if !seen && cur.near(o) && cur.send == rst {
		return cur.take(o) // tcp_send_active_reset told it
	}
	if cur.near(o) && cur.send.kind == noSegment && (cur.is(kReset) && !cur.rst || cur.is(kClosed) && cur.states[0] == event.FinWait2) {
		if seen && (cur.is(kClosed) || cur.recv.kind != noSegment) {
			b.incomingAt(s, o, segmentOf(o.Segment), cur)
		}
		cur.recv = segment{}
		cur.send, cur.fatal, cur.act, cur.note = rst, true, "kernel", ""
		return cur.take(o)
	}
	if !seen && o.Has&event.HasTuple != 0 && o.State != event.TimeWait && o.State != event.NewSynRecv && o.State != event.SynSent {
		// tcp:tcp_send_reset tells of resets that answer nothing, too.
		return b.sendActiveReset(s, j, cur, o)
	}
	if seen {
		b.incoming(s, o, segmentOf(o.Segment))
	}
	// A socket in SYN_SENT refuses an answer so and waits for a better one.
	return b.add(s, o, item{cell: cell{act: "kernel", text: "answers RST"}, send: rst, fatal: o.State != event.SynSent})
}

// incoming tells of the segment that made an end answer, at the end that sent
// it: over loopback the sender is still on the CPU.
func (b *builder) incoming(s side, o observation, seg segment) { b.incomingAt(s, o, seg, nil) }

// incomingAt is incoming for an answer that is told already.
func (b *builder) incomingAt(s side, o observation, seg segment, answer *item) {
	i := b.sender(s.other(), o, seg)
	if n := slices.Index(b.items, answer); answer != nil && n >= 0 {
		i.at, i.last = answer.at, answer.at
		b.items = slices.Insert(b.items, n, &i)
		return
	}
	b.items = append(b.items, &i)
}

// by puts the actor's name before an act when it is not the process that the
// column's head names.
func (b *builder) by(j *Judged, o observation, act string) string {
	head := headOf(j)
	if head != nil && head.PID == o.PID || !o.ByProcess() || o.PID == 0 {
		return act
	}
	return b.process(&conn.Process{PID: o.PID, Comm: o.Comm.String()}) + ": " + act
}

// headOf is the process that stands for an end.
func headOf(j *Judged) *conn.Process {
	switch {
	case j.Conn.Owner != nil:
		return j.Conn.Owner
	case j.Conn.Opener != nil:
		return j.Conn.Opener
	case j.Verdict.LocalFin != nil:
		return j.Verdict.LocalFin.Actor // it held the socket at least then
	}
	return nil
}

// actName is what a process did at an event that ends its direction.
func (b *builder) actName(j *Judged, o observation) string {
	if o.Exiting() {
		return b.by(j, o, exitName(o.Event))
	}
	act := "close()"
	switch o.Call {
	case event.CallCloseRange:
		act = "close_range()"
	case event.CallDup2:
		act = "dup2()"
	case event.CallExec:
		act = "exec"
	case event.CallShutdown:
		act = "shutdown()"
	case event.CallUnknown:
		if fin := j.Verdict.LocalFin; fin != nil && fin.Act != verdict.NoAct && near(fin.At, o.Time) {
			act = actText(fin.Act, fin.Signal)
		}
	}
	return b.by(j, o, act)
}

// told is what a call told the process; the same again adds to the count.
func (b *builder) told(s side, j *Judged, cur *item, o observation, text string) *item {
	text = b.by(j, o, text)
	if cur.is(kError) && cur.act == text {
		cur.times++
		cur.note = fmt.Sprintf("×%d", cur.times+1)
		return cur.take(o)
	}
	return b.add(s, o, item{kind: kError, cell: cell{act: text}})
}

func near(a, b time.Duration) bool { return a-b <= together && b-a <= together }

func exitName(e *event.Event) string {
	switch {
	case e.Has&event.HasTask == 0:
		return "exit"
	case e.Signal() != 0:
		return "killed by " + event.SignalName(e.Signal())
	}
	return fmt.Sprintf("exit %d", e.ExitCode>>8)
}

func shutdownName(mask int32) string {
	switch mask {
	case 1:
		return "shutdown(RD)"
	case 2:
		return "shutdown(WR)"
	}
	return "shutdown(RDWR)"
}

// actText is an act as a person writes it.
func actText(a verdict.Act, signal int) string {
	switch a {
	case verdict.ActClose:
		return "close()"
	case verdict.ActShutRd:
		return shutdownName(1)
	case verdict.ActShutWr:
		return shutdownName(2)
	case verdict.ActShutRdWr:
		return shutdownName(3)
	case verdict.ActKilled:
		if signal != 0 {
			return "killed by " + event.SignalName(signal)
		}
	case verdict.ActDup2:
		return "dup2()"
	case verdict.ActThread:
		return "exit of a thread"
	case verdict.ActDiscard:
		return "thrown away in recvmsg()"
	case verdict.ActDisconnect:
		return "connect(AF_UNSPEC)"
	case verdict.ActListener:
		return "listener closed"
	case verdict.ActDestroy:
		return "SOCK_DESTROY"
	}
	return string(a)
}

// actOf is the act of an item; an exit that changed no state says that it is
// one.
func actOf(i *item) string {
	if i.kind == kExit && i.states == nil {
		return strings.Replace(i.act, "killed by", "exit, killed by", 1)
	}
	return i.act
}

const (
	etimedout    = event.Errno(unix.ETIMEDOUT)
	econnreset   = event.Errno(unix.ECONNRESET)
	epipe        = event.Errno(unix.EPIPE)
	econnrefused = event.Errno(unix.ECONNREFUSED)
)

// listener is what is done to the listener that a connection still waits at.
func (b *builder) listener(s side, j *Judged, cur *item, o observation) (*item, bool) {
	act := "listener closed"
	switch o.Hook {
	case event.HookCloseEntry, event.HookClose:
		if o.Exiting() {
			act = exitName(o.Event)
		}
	case event.HookShutdown, event.HookDisconnect:
		act = "listener shut down"
	case event.HookAbort:
		act = "SOCK_DESTROY of the listener"
	default:
		return nil, false
	}
	if cur.near(o) && cur.acting() {
		return cur.take(o), true
	}
	return b.add(s, o, item{kind: kAct, cell: cell{act: b.by(j, o, act)}}), true
}

// apart says whether the ends are on two hosts, where equal PIDs mean nothing.
func (b *builder) apart() bool {
	l, r := b.ends[left], b.ends[right]
	return l != nil && r != nil && l.Conn.Host != r.Conn.Host
}

// sender is the item of an end whose segment made the other one answer: over
// loopback it is still on the CPU.
func (b *builder) sender(s side, o observation, seg segment) item {
	i := item{side: s, at: o.Time, last: o.Time, send: seg, inferred: true}
	if to := b.ends[s]; to != nil && seg.kind == segData && o.Context == event.ContextSoftirq && !o.KernelThread() {
		if head := headOf(to); head != nil && head.PID == o.PID && !b.apart() {
			i.act = "send()"
		}
	}
	return i
}

// prune drops what was inferred from an answer and is told by the sender, too.
func (b *builder) prune() {
	b.items = slices.DeleteFunc(b.items, func(i *item) bool {
		return i.inferred && i.send.kind != segData && slices.ContainsFunc(b.items, func(k *item) bool {
			return !k.inferred && k.side == i.side && k.send.kind == i.send.kind && near(k.last, i.at)
		})
	})
}

// proofText tells an event that is told only where it proves something.
func proofText(e *event.Event) string {
	switch e.Hook {
	case event.HookTwskKill:
		if event.TwskEnd(e.Arg2) == event.TwskEarly {
			return event.State(e.Arg).String() + " ends before its time"
		}
		return event.State(e.Arg).String() + " ends: the kernel forgets the connection"
	case event.HookErrorReport:
		return "the process can learn of " + e.Err.String()
	case event.HookDestroy:
		return "the socket is freed"
	case event.HookExec:
		return "exec"
	case event.HookICMP:
		if e.Loopback {
			return verdict.ICMPText(e) + ", from this host itself"
		}
		return verdict.ICMPText(e) + " from " + e.From.Addr().String()
	case event.HookNeighbor:
		return "a segment is thrown away: the next hop does not answer"
	case event.HookAddress:
		return "the address " + e.Local.Addr().String() + " is taken away"
	}
	return e.Hook.String()
}
