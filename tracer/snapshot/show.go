package snapshot

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"

	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/report"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// Schema is the version of the JSON record. A key never changes its meaning
// under it.
const Schema = "tcpbye.socket/1"

// Row is a line of the table: one socket, or several that are marked for the
// same reason and are the same process's, of which it shows the oldest.
type Row struct {
	Socket *Socket
	Mark   Mark
	Count  int
}

// Rows puts what will not end by itself first, the oldest first. Unless each is
// asked for, alike marks of one process are one row.
func Rows(sockets []Socket, each bool) []Row {
	type alike struct {
		state event.State
		cause verdict.Cause
		pid   uint32
	}
	var marked, rest []Row
	for i := range sockets {
		s := &sockets[i]
		r := Row{s, s.Mark(), 1}
		if r.Mark.Marked() {
			marked = append(marked, r)
		} else {
			rest = append(rest, r)
		}
	}
	slices.SortStableFunc(marked, func(a, b Row) int {
		x, _ := a.Socket.Age()
		y, _ := b.Socket.Age()
		return int(y - x)
	})
	var rows []Row
	first := map[alike]int{}
	for _, r := range marked {
		k := alike{state: r.Socket.State, cause: r.Mark.Cause}
		if h := r.Socket.holder(); h != nil {
			k.pid = h.PID
			if n, ok := first[k]; ok && !each {
				rows[n].Count++
				continue
			}
			first[k] = len(rows)
		}
		rows = append(rows, r)
	}
	return append(rows, rest...)
}

// holder is the process to name: the owner, or that of the listener.
func (s *Socket) holder() *Holder {
	if o := s.Owner(); o != nil {
		return o
	}
	return s.Listener
}

// openColumns are those of what is open. Of an address the port stays when all
// else is cut.
var openColumns = []report.GridColumn{{Title: "STATE"}, {Title: "AGE", Drop: 2}, {Title: "PROCESS", Least: 12},
	{Title: "LOCAL", Least: 6}, {Title: "REMOTE", Least: 12}, {Title: "QUEUED", Drop: 1}, {Title: "NOTE", Note: true}}

// Table writes rows for a person.
func Table(w io.Writer, rows []Row, o report.Options) error {
	var cells [][]report.GridCell
	for _, r := range rows {
		note := r.Mark.Note
		if r.Count > 1 {
			note += fmt.Sprintf(" (×%d)", r.Count)
		}
		look := report.LookPlain
		if r.Mark.Marked() {
			look = report.LookWarn
		}
		s := r.Socket
		cells = append(cells, []report.GridCell{{Text: s.State.String()}, {Text: s.AgeText()}, {Text: s.process()}, {Text: s.Local.String()},
			{Text: s.Remote.String()}, {Text: short(s.Unread, "") + " / " + short(s.Unacked, "")}, {Text: note, Look: look}})
	}
	return report.WriteGrid(w, o, openColumns, cells)
}

// AgeText is Age for a person: >12m, <200ms; "-" where it is not known.
func (s *Socket) AgeText() string {
	d, bound := s.Age()
	text := strconv.FormatInt(d.Milliseconds(), 10) + "ms"
	switch {
	case bound == Unknown:
		return "-"
	case d >= 48*time.Hour:
		text = strconv.Itoa(int(d/(24*time.Hour))) + "d"
	case d >= 2*time.Hour:
		text = strconv.Itoa(int(d/time.Hour)) + "h"
	case d >= 2*time.Minute:
		text = strconv.Itoa(int(d/time.Minute)) + "m"
	case d >= 10*time.Second:
		text = strconv.Itoa(int(d/time.Second)) + "s"
	case d >= time.Second:
		text = strconv.FormatFloat(d.Seconds(), 'f', 1, 64) + "s"
	}
	if bound == AtMost {
		return "<" + text
	}
	return ">" + text
}

// process is NAME/PID and the descriptor, where there is one; a listener's process
// is in brackets, as it may yet take the connection.
func (s *Socket) process() string {
	h := s.holder()
	if h == nil {
		return "-"
	}
	name := event.Quote(h.Comm) + "/" + strconv.FormatUint(uint64(h.PID), 10)
	if s.Owner() == nil {
		return "(" + name + ")"
	}
	if h.InCall {
		return name + " in a call"
	}
	name += " fd" + strconv.Itoa(h.FD)
	if n := len(s.Holders); n > 1 {
		name += fmt.Sprintf(" +%d", n-1)
	}
	return name
}

type socketRecord struct {
	Schema   string         `json:"schema"`
	State    string         `json:"state"`
	AgeMS    *int64         `json:"age_ms"`    // of the state; null: not known
	AgeBound *string        `json:"age_bound"` // "at-least", "at-most"
	Family   string         `json:"family"`
	Local    string         `json:"local"`
	Remote   string         `json:"remote"`
	NetNS    *uint32        `json:"netns"`
	Inode    *uint64        `json:"inode"`
	Owner    *holderRecord  `json:"owner"`
	Holders  []holderRecord `json:"holders"`
	Listener *holderRecord  `json:"listener"` // in whose queue it waits to be accepted
	Unread   uint32         `json:"unread"`
	Unacked  uint32         `json:"unacked"`
	Cause    string         `json:"cause"` // class is open
	Note     *string        `json:"note"`

	LastDataSent     *int64 `json:"last_data_sent_ms"` // ago
	LastDataReceived *int64 `json:"last_data_received_ms"`
	LastAckReceived  *int64 `json:"last_ack_received_ms"`
}

type holderRecord struct {
	PID       uint32  `json:"pid"`
	TID       uint32  `json:"tid"`     // the thread in the call; else that of the process
	FD        int     `json:"fd"`      // -1: none
	InCall    bool    `json:"in_call"` // a thread holds it inside a call; there is no descriptor any more
	Comm      string  `json:"comm"`
	Exe       *string `json:"exe"`
	UID       uint32  `json:"uid"`
	User      *string `json:"user"`
	Container *string `json:"container"`
	Halt      *string `json:"halt"` // "stopped", "traced", "frozen"; null: it runs
}

// JSON writes one object a line and socket.
func JSON(w io.Writer, sockets []Socket) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	for i := range sockets {
		s := &sockets[i]
		b.Reset()
		if err := enc.Encode(s.record()); err != nil {
			return fmt.Errorf("write a socket as JSON: %w", err)
		}
		if _, err := w.Write(b.Bytes()); err != nil {
			return err
		}
	}
	return nil
}

func (s *Socket) record() socketRecord {
	m := s.Mark()
	r := socketRecord{Schema: Schema, State: s.State.String(), Family: s.Family.String(),
		Local: s.Local.String(), Remote: s.Remote.String(), NetNS: known(s.NetNS), Inode: known(s.Inode),
		Owner: recordOf(s.Owner()), Holders: []holderRecord{}, Listener: recordOf(s.Listener),
		Unread: s.Unread, Unacked: s.Unacked, Cause: string(m.Cause), Note: known(m.Note)}
	for i := range s.Holders {
		r.Holders = append(r.Holders, *recordOf(&s.Holders[i]))
	}
	ms := func(d time.Duration) *int64 { n := d.Milliseconds(); return &n }
	if d, bound := s.Age(); bound != Unknown {
		r.AgeMS = ms(d)
		r.AgeBound = known(map[Bound]string{AtLeast: "at-least", AtMost: "at-most"}[bound])
	}
	if i := s.Info; i != nil {
		r.LastDataSent, r.LastDataReceived, r.LastAckReceived = ms(i.LastDataSent), ms(i.LastDataReceived), ms(i.LastAckReceived)
	}
	return r
}

func recordOf(h *Holder) *holderRecord {
	if h == nil {
		return nil
	}
	return &holderRecord{PID: h.PID, TID: h.TID, FD: h.FD, InCall: h.InCall, Comm: h.Comm, Exe: known(h.Exe), UID: h.UID,
		User: known(h.User), Container: known(h.Container),
		Halt: known([...]string{Stopped: "stopped", Traced: "traced", Frozen: "frozen"}[h.Halt])}
}

func known[T comparable](v T) *T {
	var zero T
	if v == zero {
		return nil
	}
	return &v
}
