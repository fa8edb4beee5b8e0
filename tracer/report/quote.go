package report

import (
	"net/netip"
	"strings"
	"unicode/utf8"

	"github.com/clipperhouse/displaywidth"
	"github.com/tcpbye/tcpbye/tracer/event"
)

// quote is event.Quote, or what a terminal takes that knows ASCII only.
func quote(s string, ascii bool) string {
	if ascii {
		return event.QuoteASCII(s)
	}
	return event.Quote(s)
}

// width is how many columns of a terminal s takes; s is free of escapes.
func width(s string) int {
	for i := range len(s) {
		if s[i] < ' ' || s[i] >= 0x7f {
			return displaywidth.String(s)
		}
	}
	return len(s) // nearly always
}

// cut shortens s to n columns, with an ellipsis where something is gone.
func cut(s string, n int, ellipsis string) string {
	if width(s) <= n {
		return s
	}
	if n < width(ellipsis) {
		return ""
	}
	return displaywidth.TruncateString(s, n, ellipsis)
}

// cutMiddle shortens s to n columns and keeps its end, as an address's port.
func cutMiddle(s string, n int, ellipsis string) string {
	if width(s) <= n {
		return s
	}
	tail := s[strings.LastIndexByte(s, ':')+1:]
	if i := strings.LastIndexByte(s, ':'); i >= 0 {
		tail = s[i:]
		if i > 0 && s[i-1] == ']' {
			tail = s[i-1:]
		}
	}
	room := n - width(tail) - width(ellipsis)
	if room < 1 {
		return cut(s, n, ellipsis)
	}
	if _, err := netip.ParseAddrPort(s); err == nil {
		return cutHost(strings.TrimSuffix(s, tail), n-width(tail), ellipsis) + tail
	}
	return displaywidth.TruncateString(s, room, "") + ellipsis + tail
}

// cutHost shortens an address, which may begin with a bracket, to n columns: in the
// middle, as its end tells machines of one network apart.
func cutHost(s string, n int, ellipsis string) string {
	room := n - width(ellipsis)
	if len(s) <= n || room < 1 {
		return cut(s, n, ellipsis)
	}
	head := room / 2
	return s[:head] + ellipsis + s[len(s)-(room-head):]
}

// cutAddr shortens an address to n columns; the port is never cut.
func cutAddr(s string, n int, ellipsis string) string {
	i := strings.LastIndexByte(s, ':')
	bracket := 0
	if i > 0 && s[i-1] == ']' {
		bracket = 1
	}
	if tail := s[i+1:]; i >= 0 && width(s) > n && n <= width(tail)+1+bracket+width(ellipsis) {
		return ":" + tail
	}
	return cutMiddle(s, n, ellipsis)
}

// pad fills s with spaces up to n columns.
func pad(s string, n int) string {
	if w := width(s); w < n {
		return s + strings.Repeat(" ", n-w)
	}
	return s
}

// padLeft is pad with the spaces before s.
func padLeft(s string, n int) string {
	if w := width(s); w < n {
		return strings.Repeat(" ", n-w) + s
	}
	return s
}

// isMark says whether a word is a number of evidence, see pen.mark.
func isMark(w string) bool {
	w = strings.TrimSuffix(w, ".")
	if r, n := utf8.DecodeRuneInString(w); r >= '①' && r <= '⑳' && n == len(w) {
		return true
	}
	digits := strings.TrimSuffix(strings.TrimPrefix(w, "("), ")")
	return len(digits) == len(w)-2 && digits != "" && strings.Trim(digits, "0123456789") == ""
}

// wrap breaks text at spaces into lines of at most n columns. A word that is
// wider keeps a line of its own. n <= 0: no limit.
func wrap(text string, n int) []string {
	var words []string
	for _, w := range strings.Fields(text) {
		if n := len(words) - 1; n >= 0 && isMark(w) { // stays with what it proves
			words[n] += " " + w
			continue
		}
		words = append(words, w)
	}
	if len(words) == 0 {
		return nil
	}
	var lines []string
	line, used := words[0], width(words[0])
	for _, w := range words[1:] {
		if n > 0 && used+1+width(w) > n {
			lines = append(lines, line)
			line, used = w, width(w)
			continue
		}
		line += " " + w
		used += 1 + width(w)
	}
	return append(lines, line)
}
