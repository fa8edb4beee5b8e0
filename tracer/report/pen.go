package report

import (
	"net/netip"
	"strconv"
	"strings"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
)

// ink is how a piece of text looks.
type ink uint8

const (
	plainInk ink = iota
	dim
	bold
	red
	redBold
	yellow
	green
	cyan
)

var sgr = [...]string{dim: "2", bold: "1", red: "31", redBold: "1;31", yellow: "33", green: "32", cyan: "36"}

// pen writes text for people: it knows the character set and the colour.
type pen struct {
	color, ascii bool
}

func (p pen) ink(s string, i ink) string {
	if !p.color || i == plainInk || s == "" {
		return s
	}
	return "\x1b[" + sgr[i] + "m" + s + "\x1b[0m"
}

var toASCII = strings.NewReplacer("→", "->", "←", "<-", "─", "-", "►", ">", "◄", "<", "│", "|",
	"├", "|", "┤", "|", "✗", "x", "✓", "ok", "·", "-", "×", "x", "…", "...", "±", "+/-", "’", "'", "‘", "'",
	"“", `"`, "”", `"`, "–", "-", "—", "-", "≤", "<=", "≥", ">=", "µ", "u")

// glyphs turns this package's own signs into what the terminal shows.
func (p pen) glyphs(s string) string {
	if !p.ascii {
		return s
	}
	return toASCII.Replace(s)
}

// text makes a sentence of the verdict fit: no line breaks, nothing that is
// not printable.
func (p pen) text(s string) string {
	return quote(p.glyphs(strings.Join(strings.Fields(s), " ")), p.ascii)
}

// own is a string that a process owns.
func (p pen) own(s string) string { return quote(s, p.ascii) }

func (p pen) ellipsis() string { return p.glyphs("…") }

// mark is the sign of the n-th piece of evidence, from 1.
func (p pen) mark(n int) string {
	if !p.ascii && n >= 1 && n <= 20 {
		return string(rune('①' + n - 1))
	}
	return "(" + strconv.Itoa(n) + ")"
}

func (p pen) marks(ns []int) string {
	all := make([]string, len(ns))
	for i, n := range ns {
		all[i] = p.mark(n)
	}
	return strings.Join(all, " ")
}

// process is NAME/PID, with @HOST where several hosts are told of, or "" for nobody.
func (p pen) process(who *conn.Process) string {
	if who == nil {
		return ""
	}
	pid := event.PIDText(who.PID)
	if who.Comm == "" {
		return "pid " + pid + p.at(who.Host)
	}
	return p.own(who.Comm) + "/" + pid + p.at(who.Host)
}

// at is where something is, behind its name; "" where one host only is told of.
func (p pen) at(host string) string {
	if host == "" {
		return ""
	}
	return "@" + p.own(host)
}

func addr(a netip.AddrPort) string {
	if !a.IsValid() {
		return "-"
	}
	return a.String()
}
