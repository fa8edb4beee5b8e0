package report

import (
	"encoding/hex"
	"strconv"
	"time"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// Brief implements Brief. The record of a plain ending has few forms, so it is put
// together without reflection; a test holds it against that of End.
func (s *JSONSink) Brief(c *conn.Connection, v *verdict.Verdict) error {
	w := &s.brief
	w.b = w.b[:0]
	if w.record(c, v, !s.noEvents); w.strange {
		return s.End(Judged{Conn: c, Verdict: *v})
	}
	_, err := s.out.Write(w.b)
	return err
}

// Detail implements Brief.
func (s *JSONSink) Detail() verdict.Detail {
	if s.noEvents {
		return verdict.DetailVerdict
	}
	return verdict.DetailEvents
}

// jsonWriter writes a Record as encoding/json does.
type jsonWriter struct {
	b       []byte
	o       Options // Clock, and UTC
	second  secondStamp
	strange bool // there is something in it that only End can write

	owners, actors, goers memory
}

// memory keeps how the processes that were written last are spelt: most connections
// are a few processes'.
type memory struct {
	all [2]struct {
		of      conn.Process
		text    []byte
		strange bool
	}
	older uint8
}

// alike says whether two processes are spelt alike.
func alike(a, b *conn.Process) bool {
	return a.PID == b.PID && a.TID == b.TID && a.UID == b.UID && a.Cgroup == b.Cgroup && a.NSPID == b.NSPID && a.Comm == b.Comm &&
		a.Exe == b.Exe && a.Container == b.Container && a.User == b.User && a.Stack == b.Stack
}

// remembered appends what spell writes of a process.
func (w *jsonWriter) remembered(m *memory, p *conn.Process, spell func(*jsonWriter, *conn.Process)) {
	for i := range m.all {
		if k := &m.all[i]; k.text != nil && alike(&k.of, p) {
			w.b = append(w.b, k.text...)
			w.strange = w.strange || k.strange
			return
		}
	}
	k := &m.all[m.older%uint8(len(m.all))]
	m.older++
	from, was := len(w.b), w.strange
	w.strange = false
	spell(w, p)
	k.of, k.text, k.strange = *p, append(k.text[:0], w.b[from:]...), w.strange
	w.strange = w.strange || was
}

func (w *jsonWriter) raw(s string) { w.b = append(w.b, s...) }

// text writes a string, if it is plain ASCII without what JSON escapes.
func (w *jsonWriter) text(s string) {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c >= 0x7f || c == '"' || c == '\\' {
			w.strange = true
			return
		}
	}
	w.b = append(append(append(w.b, '"'), s...), '"')
}

// word writes a string of this program's own, which JSON writes as it is.
func (w *jsonWriter) word(s string) { w.b = append(append(append(w.b, '"'), s...), '"') }

// known writes a string, or null where it is empty.
func (w *jsonWriter) known(s string) {
	if s == "" {
		w.raw("null")
		return
	}
	w.text(s)
}

// knownWord writes a word, or null where it is empty.
func (w *jsonWriter) knownWord(s string) {
	if s == "" {
		w.raw("null")
		return
	}
	w.word(s)
}

func (w *jsonWriter) uint(n uint64) { w.b = strconv.AppendUint(w.b, n, 10) }

func (w *jsonWriter) knownUint(n uint64) {
	if n == 0 {
		w.raw("null")
		return
	}
	w.uint(n)
}

func (w *jsonWriter) count(n *uint64) {
	if n == nil {
		w.raw("null")
		return
	}
	w.uint(*n)
}

func (w *jsonWriter) bool(v bool) { w.b = strconv.AppendBool(w.b, v) }

func (w *jsonWriter) pid(n uint32) {
	if event.Outside(n) {
		w.raw("null")
		return
	}
	w.uint(uint64(n))
}

func (w *jsonWriter) milliseconds(d *time.Duration) {
	if d == nil {
		w.raw("null")
		return
	}
	if *d < 0 || *d >= 1e15 {
		w.b = strconv.AppendFloat(w.b, float64(*d)/float64(time.Millisecond), 'f', -1, 64) // never so small or large that JSON wants an exponent
		return
	}
	// With so few digits the shortest number that is read as the same is all of them.
	w.b = strconv.AppendInt(w.b, int64(*d/time.Millisecond), 10)
	n := *d % time.Millisecond
	if n == 0 {
		return
	}
	w.b = append(w.b, '.')
	for div := time.Millisecond / 10; n > 0; div /= 10 {
		w.b = append(w.b, byte('0'+n/div))
		n %= div
	}
}

func (w *jsonWriter) wall(t time.Duration) {
	if t == 0 {
		w.raw("null")
		return
	}
	// As wallFormat, whose fraction AppendFormat would write anew with the rest.
	w.b = append(w.b, '"')
	w.b = w.second.append(w.b, &w.o, t)
	n := uint32(t - w.second.begun)
	for i := range 9 {
		w.b = append(w.b, byte('0'+n/powers[i]))
		n %= powers[i]
	}
	w.b = append(w.b, "Z\""...)
}

// powers are those of ten, of nanoseconds in a second.
var powers = [...]uint32{1e8, 1e7, 1e6, 1e5, 1e4, 1e3, 1e2, 1e1, 1}

func (w *jsonWriter) owner(p *conn.Process) {
	if p == nil {
		w.raw("null")
		return
	}
	w.remembered(&w.owners, p, (*jsonWriter).spellOwner)
}

func (w *jsonWriter) spellOwner(p *conn.Process) {
	w.raw(`{"pid":`)
	w.pid(p.PID)
	w.raw(`,"comm":`)
	w.text(p.Comm)
	w.raw(`,"exe":`)
	w.known(p.Exe)
	w.raw(`,"uid":`)
	w.uint(uint64(p.UID))
	w.raw(`,"cgroup":`)
	w.knownUint(p.Cgroup)
	w.raw(`,"container":`)
	w.known(p.Container)
	w.raw(`,"ns_pid":`)
	w.knownUint(uint64(p.NSPID))
	w.raw(`,"user":`)
	w.known(p.User)
	w.raw(`}`)
}

func (w *jsonWriter) goodbye(g *verdict.Goodbye) {
	if g == nil {
		w.raw("null")
		return
	}
	w.raw(`{"act":`)
	w.knownWord(string(g.Act))
	w.raw(`,"signal":`)
	w.knownWord(event.SignalName(g.Signal))
	if a := g.Actor; a != nil {
		w.remembered(&w.goers, a, (*jsonWriter).spellGoer)
	} else {
		w.raw(`,"pid":null,"comm":null`)
	}
	w.raw(`,"acked":`)
	w.bool(g.Acked)
	w.raw(`}`)
}

func (w *jsonWriter) spellGoer(a *conn.Process) {
	w.strange = w.strange || a.Stack != ""
	w.raw(`,"pid":`)
	w.pid(a.PID)
	w.raw(`,"comm":`)
	w.text(a.Comm)
}

func (w *jsonWriter) spellActor(a *conn.Process) {
	w.strange = w.strange || a.Stack != ""
	w.raw(`{"pid":`)
	w.pid(a.PID)
	w.raw(`,"tid":`)
	w.pid(a.TID)
	w.raw(`,"comm":`)
	w.text(a.Comm)
	w.raw(`,"stack":null,"ns_pid":`)
	w.knownUint(uint64(a.NSPID))
	w.raw(`,"exe":`)
	w.known(a.Exe)
	w.raw(`,"user":`)
	w.known(a.User)
	w.raw(`,"container":`)
	w.known(a.Container)
	w.raw(`}`)
}

func (w *jsonWriter) verdict(v *verdict.Verdict) {
	w.raw(`{"class":`)
	w.word(string(v.Class))
	w.raw(`,"cause":`)
	w.word(string(v.Cause))
	w.raw(`,"ender":`)
	w.knownWord(string(v.Ender))
	w.raw(`,"act":`)
	w.knownWord(string(v.Act))
	w.raw(`,"actor":`)
	if a := v.Actor; a != nil {
		w.remembered(&w.actors, a, (*jsonWriter).spellActor)
	} else {
		w.raw("null")
	}
	// Its names stand in the record, too, and were looked at there.
	w.raw(`,"sentence":`)
	w.word(v.Sentence)
	w.raw(`,"advice":`)
	w.known(v.Advice)
	w.raw(`,"app_saw":`)
	if v.AppSaw == nil {
		w.raw("null")
	} else {
		w.texts(v.AppSaw)
	}
	w.raw(`,"harmless":`)
	w.bool(v.Harmless)
	w.raw(`,"confidence":`)
	w.word(string(v.Confidence))
	w.raw(`,"missing":`)
	w.texts(v.Missing)
	w.raw(`,"signal":`)
	w.knownWord(event.SignalName(v.Signal))
	w.raw(`,"retry":`)
	w.knownWord(string(v.Retry))
	w.raw(`,"retry_why":`)
	w.known(v.RetryWhy)
	w.raw(`,"probe":`)
	w.bool(v.Probe)
	w.raw(`,"unseen":`)
	w.known(v.Unseen)
	w.raw(`}`)
}

func (w *jsonWriter) texts(all []string) {
	w.b = append(w.b, '[')
	for i, s := range all {
		if i > 0 {
			w.b = append(w.b, ',')
		}
		w.text(s)
	}
	w.b = append(w.b, ']')
}

// event writes an event of the kind that stories stand for.
func (w *jsonWriter) event(e *event.Event, first time.Duration) {
	w.raw(`{"t_ns":`)
	w.b = strconv.AppendInt(w.b, int64(e.Time-first), 10)
	w.raw(`,"hook":`)
	w.word(e.Hook.String())
	w.raw(`,"context":`)
	w.word(e.Context.String())
	w.raw(`,"pid":`)
	w.pid(e.PID)
	w.raw(`,"tid":`)
	w.pid(e.TID)
	w.raw(`,"comm":"`)
	for _, c := range e.Comm {
		if c == 0 {
			break
		}
		if c < ' ' || c >= 0x7f || c == '"' || c == '\\' {
			w.strange = true
		}
		w.b = append(w.b, c)
	}
	w.raw(`","state":`)
	w.state(e.State, e.Has&event.HasTuple != 0)
	w.raw(`,"to_state":`)
	w.state(e.ToState, e.Hook == event.HookSetState)
	switch e.Call {
	case event.CallUnknown, event.CallNone, event.CallOther:
	default:
		w.raw(`,"call":`)
		w.word(e.Call.String())
	}
	numbers := false
	switch e.Hook {
	case event.HookSetState:
		numbers = e.ToState == event.Close
	case event.HookClose:
		numbers = true
	case event.HookTimeWait:
		w.raw(`,"substate":`)
		w.word(event.State(e.Arg).String())
	case event.HookAccept, event.HookCloseEntry, event.HookSendFin, event.HookDestroy:
	default:
		w.strange = true
	}
	if numbers && e.Has&event.HasTCP != 0 && e.Hook == event.HookClose {
		w.raw(`,"unread":`)
		w.uint(uint64(unread(e)))
	}
	if e.Has&event.HasSegment != 0 {
		s := &e.Segment
		w.raw(`,"segment":{"flags":`)
		w.word(s.Flags.String())
		w.raw(`,"seq":`)
		w.uint(uint64(s.Seq))
		w.raw(`,"ack":`)
		w.uint(uint64(s.Ack))
		w.raw(`,"len":`)
		w.uint(uint64(s.Len))
		w.raw(`,"ttl":`)
		w.uint(uint64(s.TTL))
		w.raw(`,"ip_id":`)
		w.uint(uint64(s.IPID))
		w.raw(`,"window":`)
		w.uint(uint64(s.Window))
		w.raw(`}`)
	}
	if numbers && e.Has&event.HasTCP != 0 {
		w.raw(`,"tcp":{"write_seq":`)
		w.uint(uint64(e.WriteSeq))
		w.raw(`,"snd_una":`)
		w.uint(uint64(e.SndUna))
		w.raw(`,"snd_nxt":`)
		w.uint(uint64(e.SndNxt))
		w.raw(`,"rcv_nxt":`)
		w.uint(uint64(e.RcvNxt))
		w.raw(`,"copied_seq":`)
		w.uint(uint64(e.CopiedSeq))
		w.raw(`,"retransmits":`)
		w.uint(uint64(e.Retransmits))
		w.raw(`,"probes_out":`)
		w.uint(uint64(e.ProbesOut))
		if e.WindowKnown {
			w.raw(`,"snd_wnd":`)
			w.uint(uint64(e.SndWnd))
			w.raw(`,"mss":`)
			w.uint(uint64(e.MSS))
		}
		w.strange = w.strange || e.UnsentTries != 0
		w.raw(`}`)
	}
	w.strange = w.strange || e.Err != 0
	w.raw(`}`)
}

func (w *jsonWriter) state(s event.State, known bool) {
	if !known || s == 0 {
		w.raw("null")
		return
	}
	w.word(s.String())
}

func (w *jsonWriter) record(c *conn.Connection, v *verdict.Verdict, events bool) {
	w.strange = v.Reset != nil || v.Unanswered != nil || v.HalfClose != nil || len(c.Elsewhere) > 0 || c.Open == conn.OpenUnknown || c.Family == 0 ||
		!c.Local.IsValid() || !c.Remote.IsValid() || c.Local.Addr().Zone() != "" || c.Remote.Addr().Zone() != ""
	w.raw(`{"schema":"` + Schema + `","id":`)
	w.word(c.ID)
	w.raw(`,"peer_id":`)
	if c.Peer != nil {
		w.word(c.Peer.ID)
	} else {
		w.raw("null")
	}
	w.raw(`,"family":`)
	w.word(c.Family.String())
	w.raw(`,"local":"`)
	w.b = c.Local.AppendTo(w.b)
	w.raw(`","remote":"`)
	w.b = c.Remote.AppendTo(w.b)
	w.raw(`","netns":`)
	w.knownUint(uint64(c.NetNS))
	w.raw(`,"open":`)
	w.word(c.Open.String())
	w.raw(`,"opened":`)
	w.wall(c.Opened)
	w.raw(`,"ended":`)
	w.wall(c.Ended)
	w.raw(`,"opener":`)
	w.owner(c.Opener)
	w.raw(`,"owner":`)
	w.owner(c.Owner)
	w.raw(`,"verdict":`)
	w.verdict(v)
	w.raw(`,"lost":{"unread":`)
	w.count(v.Lost.Unread)
	w.raw(`,"unsent":`)
	w.count(v.Lost.Unsent)
	w.raw(`,"unacked":`)
	w.count(v.Lost.Unacked)
	w.raw(`},"bytes":{"sent":`)
	w.count(v.Bytes.Sent)
	w.raw(`,"acked":`)
	w.count(v.Bytes.Acked)
	w.raw(`,"received":`)
	w.count(v.Bytes.Received)
	w.raw(`},"half_close_ms":null,"unanswered":null,"time_wait":`)
	w.bool(v.TimeWait)
	if events {
		w.raw(`,"events":[`)
		for i := range c.Events {
			if i > 0 {
				w.b = append(w.b, ',')
			}
			w.event(&c.Events[i], c.First)
		}
		w.raw(`]`)
	} else {
		w.raw(`,"events":null`)
	}
	w.raw(`,"fin":{"local":`)
	w.goodbye(v.LocalFin)
	w.raw(`,"peer":`)
	w.goodbye(v.PeerFin)
	w.raw(`},"age_ms":`)
	w.milliseconds(v.Age)
	w.raw(`,"idle_ms":`)
	w.milliseconds(v.Idle)
	w.raw(`,"reset":null,"connection":`)
	if c.Key != [16]byte{} {
		w.b = append(w.b, '"')
		w.b = hex.AppendEncode(w.b, c.Key[:8])
		w.b = append(w.b, '"')
	} else {
		w.raw("null")
	}
	w.raw("}\n")
}
