package event

import (
	"strconv"
	"strings"
	"unicode/utf8"

	unix "github.com/tcpbye/tcpbye/tracer/linux"
)

// SignalName is the name of a signal, such as SIGPIPE; "signal N" where it has none,
// and "" for 0.
func SignalName(n int) string {
	if n == 0 {
		return ""
	}
	if name := unix.SignalName(unix.Signal(n)); name != "" {
		return name
	}
	return "signal " + strconv.Itoa(n)
}

// Quote makes a string that a process owns fit for a terminal: whatever is not
// printable (control characters, escape sequences, direction overrides, bytes
// that are not UTF-8) is shown as Go would write it, \x1b for example. Letters
// of any script and spaces stay. What is printable already comes back as it is,
// so quoting twice does no harm.
func Quote(s string) string { return quote(s, false) }

// QuoteASCII is like Quote, and letters beyond ASCII are shown by their numbers, too.
func QuoteASCII(s string) string { return quote(s, true) }

func quote(s string, ascii bool) string {
	if printable(s, ascii) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			b.WriteString(`\x`)
			b.WriteByte("0123456789abcdef"[s[i]>>4])
			b.WriteByte("0123456789abcdef"[s[i]&15])
		case strconv.IsPrint(r) && (!ascii || r < utf8.RuneSelf):
			b.WriteString(s[i : i+n])
		case ascii:
			q := strconv.QuoteRuneToASCII(r)
			b.WriteString(q[1 : len(q)-1])
		default:
			q := strconv.QuoteRune(r)
			b.WriteString(q[1 : len(q)-1])
		}
		i += n
	}
	return b.String()
}

func printable(s string, ascii bool) bool {
	for _, r := range s {
		if r < ' ' || r == 0x7f || r >= utf8.RuneSelf && (ascii || r == utf8.RuneError || !strconv.IsPrint(r)) {
			return false
		}
	}
	return true
}
