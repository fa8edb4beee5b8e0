package report

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// findings is a verdict on a connection as text, from both ends where both are
// known.
type findings struct {
	class, cause, tail string
	ink                ink
	sentences          []string
	fields             []field
}

type field struct {
	label string
	lines []string
}

func (st *story) findings(p pen) *findings {
	main := st.main()
	v := &main.Verdict
	f := &findings{class: classText(v.Class), cause: p.text(string(v.Cause)), ink: classInk(v)}
	if v.Harmless {
		f.tail = ", harmless"
	}
	switch v.Confidence {
	case verdict.Likely:
		f.tail += " (likely)"
	case verdict.NotKnown:
		f.tail += " (not certain)"
	}

	sentence := p.text(v.Sentence)
	if proofs := st.proofsOf(func(pr proof) bool { return !told(pr.hook) }); len(proofs) > 0 && sentence != "" {
		body, stop := strings.CutSuffix(sentence, ".")
		if sentence = body + " " + p.marks(proofs); stop {
			sentence += "."
		}
	}
	if sentence != "" {
		f.sentences = append(f.sentences, sentence)
	}
	other := st.other(main)
	if other != nil && other.Verdict.Cause != v.Cause {
		f.sentences = append(f.sentences, "Seen from "+p.short(other)+": "+classText(other.Verdict.Class)+", "+
			p.text(string(other.Verdict.Cause))+". "+p.text(other.Verdict.Sentence))
	}

	add := func(label string, lines ...string) {
		if len(lines) > 0 {
			f.fields = append(f.fields, field{label, lines})
		}
	}
	if v.Class != verdict.Open || st.lostKnown() {
		add("Lost", st.lost(p)...)
	}
	add("Saw", st.saw(p)...)
	add("Where", st.where(p)...)
	advice, label := v.Advice, "Do"
	if advice == "" && other != nil {
		advice = other.Verdict.Advice
	}
	if v.Act != verdict.NoAct && v.Class != verdict.Graceful {
		label = "Instead"
	}
	if advice != "" {
		add(label, p.text(advice))
	}
	add("Alone", st.alone(p)...)
	add("Clocks", st.clocks(p)...)
	if missing := st.missing(); len(missing) > 0 {
		are := " was"
		if len(missing) > 1 {
			are = " were"
		}
		add("Missing", p.text(strings.Join(missing, ", "))+are+" not attached")
	}
	if st.lossy() {
		add("Missing", "events were lost while this connection lived")
	}
	return f
}

func (st *story) lossy() bool {
	for _, j := range st.ends {
		if j != nil && j.Conn.Lossy {
			return true
		}
	}
	return false
}

// block writes the verdict for a terminal.
func (f *findings) block(doc *strings.Builder, p pen, limit int) {
	room := measure
	if limit > 0 {
		room = min(room, max(limit, 20))
	}
	doc.WriteString(" " + p.ink("VERDICT", bold) + "   " + p.ink(f.class, f.ink) + ": " + f.cause + f.tail + "\n")
	for _, s := range f.sentences {
		for _, l := range wrap(s, room-3) {
			doc.WriteString("   " + l + "\n")
		}
	}
	for _, fd := range f.fields {
		lines := fd.lines
		if one := strings.Join(lines, "      "); fd.label == "Saw" && width(one) <= room-13 {
			lines = []string{one}
		}
		label := fd.label
		for _, l := range lines {
			parts := []string{l}
			if width(l) > room-13 {
				parts = wrap(l, room-13)
			}
			for _, part := range parts {
				doc.WriteString("   " + p.ink(pad(label, 10), dim) + part + "\n")
				label = ""
			}
		}
	}
}

// told says whether evidence of a hook belongs to what the application saw.
func told(h event.Hook) bool {
	switch h {
	case event.HookStreamError, event.HookSignal, event.HookErrorReport, event.HookExit, event.HookReceive:
		return true
	}
	return false
}

// main is the end whose verdict speaks for both: the one where it was done, and
// of two the more certain.
func (st *story) main() *Judged {
	a, b := st.ends[left], st.ends[right]
	if b == nil || rank(a) >= rank(b) {
		return a
	}
	return b
}

func rank(j *Judged) int {
	r := 0
	switch j.Verdict.Confidence {
	case verdict.Certain:
		r = 20
	case verdict.Likely:
		r = 10
	}
	switch j.Verdict.Ender {
	case verdict.LocalProcess:
		r += 2
	case verdict.LocalKernel, verdict.Admin:
		r++
	}
	return r
}

func (st *story) other(j *Judged) *Judged {
	if st.ends[left] == j {
		return st.ends[right]
	}
	return st.ends[left]
}

func (st *story) proofsOf(which func(proof) bool) []int {
	var ns []int
	for _, pr := range st.proofs {
		if which(pr) {
			ns = append(ns, pr.n)
		}
	}
	return ns
}

func (st *story) lostKnown() bool {
	for _, j := range st.ends {
		if j != nil && st.lostPart(j) {
			return true
		}
	}
	return false
}

// lostPart says whether anything is known of what was lost at an end.
func (st *story) lostPart(j *Judged) bool {
	l := j.Verdict.Lost
	return l.Unread != nil || l.Unsent != nil || l.Unacked != nil
}

// lost is a line for each kind of loss at each end.
func (st *story) lost(p pen) []string {
	var lines, unknown, partly []string
	for _, j := range st.ends {
		if j == nil {
			continue
		}
		l, name := j.Verdict.Lost, st.label(p, j)
		for _, part := range []struct {
			n    *uint64
			text string
		}{
			{l.Unread, "received by " + name + ", never read"},
			{l.Unsent, "written by " + name + ", never sent"},
			{l.Unacked, "sent by " + name + ", never acknowledged"},
		} {
			if part.n != nil && *part.n > 0 {
				lines = append(lines, bytesText(*part.n)+": "+part.text)
			}
			if part.n == nil && st.lostPart(j) {
				partly = append(partly, "not known: "+part.text)
			}
		}
		if !st.lostPart(j) {
			unknown = append(unknown, name)
		}
	}
	lines = append(lines, partly...)
	if len(unknown) > 0 {
		lines = append(lines, "not known at "+strings.Join(unknown, " and "))
	}
	if len(lines) == 0 {
		return []string{"nothing"}
	}
	return lines
}

// saw is what each process was told.
func (st *story) saw(p pen) []string {
	var parts []string
	for s, j := range st.ends {
		if j == nil || headOf(j) == nil && len(j.Verdict.AppSaw) == 0 {
			continue // nobody was there to see anything
		}
		text := "nothing"
		switch {
		case len(j.Verdict.AppSaw) > 0:
			text = p.text(strings.Join(j.Verdict.AppSaw, ", "))
		case j.Verdict.AppSaw == nil:
			text = "not known"
		}
		if diedOfPipe(j.Conn) {
			text += " (it died of it)"
		}
		if marks := st.proofsOf(func(pr proof) bool { return pr.side == side(s) && told(pr.hook) }); len(marks) > 0 {
			text += " " + p.marks(marks)
		}
		parts = append(parts, st.label(p, j)+": "+text)
	}
	slices.SortStableFunc(parts, func(a, b string) int {
		less := func(s string) int {
			return btoi(strings.HasSuffix(s, ": nothing") || strings.HasSuffix(s, ": not known"))
		}
		return less(a) - less(b)
	})
	return parts
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// diedOfPipe says whether the process that got SIGPIPE for this connection was
// killed by it.
func diedOfPipe(c *conn.Connection) bool {
	for _, o := range observations(c) {
		if o.Hook == event.HookExit && o.Event.Signal() == 13 {
			return true
		}
	}
	return false
}

// label is a short name of an end that the other one does not have.
func (st *story) label(p pen, j *Judged) string {
	who := headOf(j)
	if who == nil || who.Comm == "" {
		return p.short(j)
	}
	if j.Conn.Host != "" {
		return p.own(who.Comm) + p.at(j.Conn.Host)
	}
	if other := st.other(j); other != nil {
		if o := headOf(other); o != nil && o.Comm == who.Comm {
			if o.PID != who.PID {
				return p.short(j)
			}
			return addr(j.Conn.Local)
		}
	}
	return p.own(who.Comm)
}

func (st *story) missing() []string {
	var all []string
	for _, j := range st.ends {
		if j == nil {
			continue
		}
		for _, m := range j.Verdict.Missing {
			if !slices.Contains(all, m) {
				all = append(all, m)
			}
		}
	}
	return all
}

func bytesText(n uint64) string {
	if n == 1 {
		return "1 byte"
	}
	return fmt.Sprintf("%d bytes", n)
}

// classText is a class in words.
func classText(c verdict.Class) string {
	return strings.ReplaceAll(string(c), "-", " ")
}

func classInk(v *verdict.Verdict) ink {
	switch {
	case v.Class == verdict.Graceful || v.Harmless:
		return green
	case v.Class == verdict.Aborted:
		return redBold
	}
	return yellow
}
