package report

import (
	"fmt"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// maxFrames is how many calls of a stack a text shows; JSON has all.
const maxFrames = 16

// frames are the calls of a process's act, the innermost first; nil: not taken.
func frames(who *conn.Process) []string {
	if who == nil {
		return nil
	}
	calls, err := who.Stack.Frames()
	if err != nil {
		return nil
	}
	var out []string
	for i := range calls {
		out = append(out, frame(&calls[i]))
	}
	return out
}

// frame is one call in words. Names are the program's: quote them.
func frame(f *event.Frame) string {
	at := ""
	switch {
	case f.Module != "":
		at = fmt.Sprintf("%s+%#x", f.Module, f.Offset)
	case f.Addr != 0:
		at = fmt.Sprintf("%#x", f.Addr)
	}
	switch {
	case f.Function != "" && f.File != "":
		return fmt.Sprintf("%s  %s:%d", f.Function, f.File, f.Line)
	case f.Function != "":
		return f.Function + "  " + at
	}
	return at
}

// where tells at which place in their programs the ends were ended: the act that
// the verdict is about, and each FIN that was another act.
func (st *story) where(p pen) []string {
	type doing struct {
		who *conn.Process
		act verdict.Act
		sig int
	}
	v := &st.main().Verdict
	var all []doing
	add := func(d doing) {
		if d.who == nil || d.who.Stack == "" {
			return
		}
		for _, x := range all {
			if x.who.PID == d.who.PID && x.act == d.act {
				return
			}
		}
		all = append(all, d)
	}
	add(doing{v.Actor, v.Act, v.Signal})
	fins := []*verdict.Goodbye{v.LocalFin, v.PeerFin}
	if v.LocalFin != nil && v.PeerFin != nil && v.PeerFin.At < v.LocalFin.At {
		fins[0], fins[1] = fins[1], fins[0]
	}
	for _, g := range fins {
		if g != nil {
			add(doing{g.Actor, g.Act, g.Signal})
		}
	}
	var lines []string
	for _, d := range all {
		lines = append(lines, p.process(d.who)+", "+actText(d.act, d.sig)+":")
		calls := frames(d.who)
		for i, c := range calls {
			if i == maxFrames {
				lines = append(lines, fmt.Sprintf("%s %d more", p.ellipsis(), len(calls)-i))
				break
			}
			lines = append(lines, "  "+p.own(c))
		}
	}
	return lines
}
