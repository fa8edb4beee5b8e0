package report

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tcpbye/tcpbye/tracer/conn"
)

// raw writes every event of both ends as the kernel gave it, in time order.
func (st *story) raw(doc *strings.Builder, p pen, limit int) {
	type entry struct {
		observation
		side side
	}
	var all []entry
	for s, j := range st.ends {
		if j != nil {
			for _, o := range observations(j.Conn) {
				all = append(all, entry{o, side(s)})
			}
		}
	}
	slices.SortStableFunc(all, func(a, b entry) int { return cmpTime(a.Time, b.Time) })
	rows := [][]string{{"TIME", "END", "HOOK", "CONTEXT", "TASK ON CPU", "STATE", ""}}
	for _, e := range all {
		var r EventRecord
		r.fill(e.observation, st.zero)
		state := ""
		if r.State != nil {
			state = *r.State
		}
		if r.ToState != nil {
			state += " → " + *r.ToState
		}
		end := st.label(p, st.ends[e.side])
		if e.elsewhere {
			end = "-"
		}
		rows = append(rows, []string{
			fmt.Sprintf("%.6f", (e.Time - st.zero).Seconds()), end, r.Hook, r.Context,
			p.process(&conn.Process{PID: e.PID, Comm: r.Comm}), p.glyphs(state), r.detail(),
		})
	}
	widths := make([]int, len(rows[0])-1)
	for _, cells := range rows {
		for c := range widths {
			widths[c] = max(widths[c], width(cells[c]))
		}
	}
	doc.WriteByte('\n')
	for _, cells := range rows {
		out := "   " + fmt.Sprintf("%*s", widths[0], cells[0])
		for c, cell := range cells[1:len(widths)] {
			out += "  " + pad(cell, widths[c+1])
		}
		detail, last := cells[len(widths)], "  "
		if limit > 0 && width(out)+2+width(detail) > limit {
			// Its own lines, under the hook.
			indent := strings.Repeat(" ", min(3+widths[0]+4, limit/2))
			for _, l := range wrap(detail, limit-len(indent)) {
				last += "\n" + indent + l
			}
			out = cut(strings.TrimRight(out, " "), limit, p.ellipsis())
		} else {
			last += detail
		}
		for l := range strings.Lines(out + last) {
			doc.WriteString(p.ink(strings.TrimRight(l, " \n"), dim) + "\n")
		}
	}
}

// detail are an event's own facts, as in JSON, for the eye.
func (r *EventRecord) detail() string {
	var b strings.Builder
	add := func(key, value string) {
		if value != "" {
			b.WriteString(" " + key + "=" + value)
		}
	}
	number := func(key string, n *int32) {
		if n != nil {
			add(key, fmt.Sprint(*n))
		}
	}
	add("call", r.Call)
	add("how", r.How)
	number("reason", r.Reason)
	add("substate", r.Substate)
	add("errno", r.Errno)
	add("sk_err", r.SkErr)
	add("signal", r.Signal)
	number("target_pid", r.TargetPID)
	if r.Status != nil {
		add("status", fmt.Sprint(*r.Status))
	}
	number("refs", r.Refs)
	if r.Unread != nil {
		add("unread", fmt.Sprint(*r.Unread))
	}
	if s := r.Segment; s != nil {
		add("segment", fmt.Sprintf("%s seq=%d ack=%d len=%d ttl=%d ip_id=%d window=%d", s.Flags, s.Seq, s.Ack, s.Len,
			s.TTL, s.IPID, s.Window))
	}
	if t := r.TCP; t != nil {
		add("write_seq", fmt.Sprintf("%d snd_una=%d snd_nxt=%d rcv_nxt=%d copied_seq=%d retransmits=%d probes_out=%d",
			t.WriteSeq, t.SndUna, t.SndNxt, t.RcvNxt, t.CopiedSeq, t.Retransmits, t.ProbesOut))
	}
	return strings.TrimPrefix(b.String(), " ")
}
