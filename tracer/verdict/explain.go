package verdict

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// Summary is the first sentence of What: the cause in one line.
func (r Rule) Summary() string {
	if i := strings.Index(r.What, ". "); i >= 0 {
		return r.What[:i+1]
	}
	return r.What
}

// Explain is the whole of what is known of a rule's cause, as plain text.
func (r Rule) Explain() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s (%s)\n", r.Cause, r.Class)
	section := func(title, text string) {
		if text != "" {
			fmt.Fprintf(&b, "\n%s\n%s\n", title, wrap(text, 76, "  "))
		}
	}
	section("What happens", r.What)
	section("How to prove it", r.Prove)
	section("What to do", r.Do)
	if r.Belief != "" {
		section("What people believe", r.Belief)
		section("What is true", r.Truth)
	}
	section("See also", strings.Join(r.Refs, "; "))
	return b.String()
}

// wrap breaks text into lines of at most width columns, each after indent.
func wrap(text string, width int, indent string) string {
	var b strings.Builder
	column := 0
	for _, word := range pieces(text) {
		n := utf8.RuneCountInString(word)
		switch {
		case column == 0:
			b.WriteString(indent)
			column = len(indent)
		case column+1+n > width:
			b.WriteString("\n" + indent)
			column = len(indent)
		default:
			b.WriteString(" ")
			column++
		}
		b.WriteString(word)
		column += n
	}
	return b.String()
}

// pieces splits at spaces, but keeps a command in backquotes together, so that
// it can be copied.
func pieces(text string) []string {
	var out []string
	open := false
	for _, w := range strings.Fields(text) {
		if open {
			out[len(out)-1] += " " + w
		} else {
			out = append(out, w)
		}
		if strings.Count(w, "`")%2 == 1 {
			open = !open
		}
	}
	return out
}
