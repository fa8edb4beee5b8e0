package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/charmbracelet/x/ansi"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// version is the module's, as the go command stamped it: a tag, a pseudo-version
// with the commit's time (UTC) and hash, with +dirty if files were changed, or
// (devel) outside of a repository.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

// newMan is for packagers, and for who has only the program.
func newMan(env environment) *cobra.Command {
	return &cobra.Command{
		Use: "man DIR", Aliases: []string{"gen-man"}, Args: usageArgs(cobra.ExactArgs(1)),
		Short: "write the man pages into a directory",
		Long: `Write a man page of section 1 for each command into DIR. Their date is
SOURCE_DATE_EPOCH (seconds since 1970) if it is set, else today.`,
		RunE: func(_ *cobra.Command, args []string) error {
			date := time.Now()
			if text := env.getenv("SOURCE_DATE_EPOCH"); text != "" {
				seconds, err := strconv.ParseInt(text, 10, 64)
				if err != nil {
					return usage(fmt.Errorf("SOURCE_DATE_EPOCH %q: want seconds since 1970", text))
				}
				date = time.Unix(seconds, 0)
			}
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return fmt.Errorf("write the man pages: %w", err)
			}
			// A tree of its own: the running one has cobra's completion commands.
			root := newRoot(env)
			var err error
			for _, c := range append(root.Commands(), root) {
				if c.Hidden {
					continue
				}
				name := strings.ReplaceAll(c.CommandPath(), " ", "-")
				err = errors.Join(err, os.WriteFile(filepath.Join(args[0], name+".1"), page(root, c, name, date.UTC()), 0o644))
			}
			if err != nil {
				return fmt.Errorf("write the man pages: %w", err)
			}
			return nil
		},
	}
}

// roff writes a page in the macros of man(7), in lines that are not longer than they
// should be.
type roff struct{ bytes.Buffer }

// escape makes text of roff's own signs, and of lines that would be requests.
func escape(text string) string {
	return strings.NewReplacer(`\`, `\e`, "-", `\-`, "^", `\(ha`, "~", `\(ti`, "`", `\(ga`, "…", `...`, "→", "->", "←", "<-", "µ", `\(mc`, "±", `\(+-`, "≥", `\(>=`, "×", "x").Replace(text)
}

// text is a paragraph's worth of text.
func (r *roff) text(text string) {
	for line := range strings.SplitSeq(ansi.Wordwrap(strings.Join(strings.Fields(text), " "), 62, ""), "\n") {
		if line = escape(strings.TrimSpace(line)); strings.HasPrefix(line, ".") || strings.HasPrefix(line, "'") {
			line = `\&` + line
		}
		r.WriteString(line + "\n")
	}
}

// term is an item of a list.
func (r *roff) term(name, text string) {
	fmt.Fprintf(r, ".TP\n%s\n", name)
	r.text(text)
}

func bold(text string) string { return `\fB` + escape(text) + `\fR` }

// page is the man page of a command.
func page(root, c *cobra.Command, name string, date time.Time) []byte {
	r := &roff{}
	fmt.Fprintf(r, ".TH %s 1 %s \"tcpbye %s\" \"tcpbye manual\"\n", strings.ToUpper(name), date.Format(time.DateOnly), escape(version()))
	fmt.Fprintf(r, ".SH NAME\n")
	r.text(name + " - " + c.Short)
	fmt.Fprintf(r, ".SH SYNOPSIS\n%s\n", bold(useLine(c)))
	if c.Example != "" {
		r.WriteString(".SH EXAMPLES\n")
		for line := range strings.SplitSeq(c.Example, "\n") {
			command, comment, _ := strings.Cut(line, " # ")
			r.term(bold(strings.TrimSpace(command)), comment)
		}
	}
	r.WriteString(".SH DESCRIPTION\n")
	for i, paragraph := range strings.Split(c.Long, "\n\n") {
		if i > 0 {
			r.WriteString(".PP\n")
		}
		if strings.TrimSpace(paragraph) == "" {
			paragraph = strings.ToUpper(c.Short[:1]) + c.Short[1:] + "."
		}
		r.text(paragraph)
	}
	if c == root {
		r.WriteString(".SH COMMANDS\n")
		for _, sub := range c.Commands() {
			if !sub.Hidden {
				r.term(bold(sub.UseLine()), sub.Short)
			}
		}
	}
	for i, g := range flagsOf(c) {
		if i == 0 {
			r.WriteString(".SH OPTIONS\n")
		}
		fmt.Fprintf(r, ".SS %s\n", escape(g.title))
		g.flags.VisitAll(r.flag)
	}
	if c.Name() == "explain" {
		r.WriteString(".SH CAUSES\n")
		for _, rule := range verdict.Rules() {
			r.term(bold(string(rule.Cause))+" ("+escape(string(rule.Class))+")", rule.Summary())
		}
	}
	r.WriteString(".SH \"EXIT STATUS\"\n")
	for _, s := range statuses {
		r.term(bold(s.status), s.text)
	}
	if runsCommand(c) {
		r.WriteString(".PP\n")
		r.text(ofCommand)
	}
	r.WriteString(".SH \"SEE ALSO\"\n")
	var others []string
	for _, o := range append(root.Commands(), root) {
		if o != c && !o.Hidden {
			others = append(others, ".BR "+escape(strings.ReplaceAll(o.CommandPath(), " ", "-"))+" (1)")
		}
	}
	r.WriteString(strings.Join(others, ",\n") + "\n")
	return r.Bytes()
}

// flag is an option with what it takes and what it is by default.
func (r *roff) flag(f *pflag.Flag) {
	value, text := pflag.UnquoteUsage(f)
	name := bold("--" + f.Name)
	if f.Shorthand != "" {
		name = bold("-"+f.Shorthand) + ", " + name
	}
	if value != "" {
		name += ` \fI` + escape(value) + `\fR`
	}
	switch f.DefValue {
	case "", "[]", "false", "0", "0s":
	default:
		text += " (default " + f.DefValue + ")"
	}
	r.term(name, text)
}
