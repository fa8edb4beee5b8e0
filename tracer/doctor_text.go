package tracer

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// WriteJSON writes the examination as one indented JSON object.
func (x *Examination) WriteJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(x)
}

// textWidth is how many columns the text takes at most.
const textWidth = 80

// layout writes lines of cells and keeps the first error.
type layout struct {
	w   io.Writer
	err error
}

// line writes a lead and then text, which goes on below itself.
func (l *layout) line(lead, text string) {
	room := textWidth - len(lead)
	var b strings.Builder
	b.WriteString(lead)
	used := 0
	for _, word := range strings.Fields(text) {
		switch {
		case used == 0:
		case used+1+len(word) > room:
			b.WriteString("\n" + strings.Repeat(" ", len(lead)))
			used = 0
		default:
			b.WriteByte(' ')
			used++
		}
		b.WriteString(word)
		used += len(word)
	}
	l.print(strings.TrimRight(b.String(), " ") + "\n")
}

func (l *layout) print(s string) {
	if l.err == nil {
		_, l.err = io.WriteString(l.w, s)
	}
}

func (l *layout) title(s string) { l.print("\n" + s + "\n") }

// sign marks the lines to look at.
func sign(ok bool) string {
	if ok {
		return "  "
	}
	return "! "
}

// WriteText writes the examination for a person, at most 80 columns wide.
func (x *Examination) WriteText(w io.Writer) error {
	l := &layout{w: w}
	way := ""
	if x.Attach != "" {
		way = ", every hook by " + string(x.Attach)
	}
	l.line("", fmt.Sprintf("%s on Linux %s (%s)%s", map[Health]string{
		Full:     "tcpbye can tell everything",
		Degraded: "tcpbye works, but cannot tell everything,",
		Cannot:   "tcpbye cannot trace",
	}[x.Health], x.Kernel, x.Arch, way))
	if x.Reason != "" {
		l.line("! ", x.Reason)
	}
	group := ""
	for _, f := range x.Facts {
		if f.Group != group {
			group = f.Group
			l.title(group)
		}
		l.line(fmt.Sprintf("%s%-32s ", sign(f.OK), f.Name), f.Value)
	}
	if len(x.Hooks) > 0 {
		l.title(fmt.Sprintf("hooks%-18s %-10s %5s", "", "way", "fired"))
	}
	for _, h := range x.Hooks {
		lead := func(way string, fired string) string {
			return fmt.Sprintf("%s%-21s %-10s %5s  ", sign(h.State == Fires || h.State == Unproven || h.State == NotInTree), h.Name, way, fired)
		}
		switch h.State {
		case Fires:
			l.line(lead(string(h.Rung), fmt.Sprint(h.Fired)), h.Reason)
		case Unproven:
			l.line(lead(string(h.Rung), "-"), "attached, not exercised: "+h.Reason)
		case Silent:
			l.line(lead(string(h.Rung), "0"), h.Reason)
		case NotInTree:
			l.line(lead("none", ""), "not in this kernel; no verdict rests on it")
		default:
			l.line(lead("missing", ""), "cannot tell "+h.Lost)
		}
	}
	if len(x.Missing) > 0 {
		l.title("why hooks are missing")
		for _, m := range x.Missing {
			l.line("  - ", m)
		}
	}
	if x.Health != Cannot {
		l.title("ring buffer")
		lost := "nothing lost"
		if x.Lost != (Losses{}) {
			lost = fmt.Sprintf("lost: %d for want of room, %d not understood, %d inside another program; %d without a connection, %d without a field",
				x.Lost.Ring, x.Lost.Decode, x.Lost.Skipped, x.Lost.Map, x.Lost.Read)
		}
		l.line("  ", fmt.Sprintf("%d KiB, %d events during the self-test, %s", x.Ring>>10, x.Events, lost))
	}
	if len(x.Next) > 0 {
		l.title("what to do")
		for i, n := range x.Next {
			l.line(fmt.Sprintf("  %d. ", i+1), n)
		}
	}
	return l.err
}
