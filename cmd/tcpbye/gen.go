package main

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

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

// newGenMan is for packagers: also who has only the program can make its pages.
func newGenMan(env environment) *cobra.Command {
	return &cobra.Command{
		Use: "gen-man DIR", Hidden: true, Args: usageArgs(cobra.ExactArgs(1)),
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
			date = date.UTC() // the page shows the month, which depends on the zone
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return fmt.Errorf("write the man pages: %w", err)
			}
			// A tree of its own: the running one has cobra's completion commands.
			root := newRoot(env)
			root.DisableAutoGenTag = true
			explain, _, err := root.Find([]string{"explain"})
			if err != nil || explain == root {
				return errors.Join(errors.New("no command explain to list the causes in"), err)
			}
			root.Long = markdown(root.Long)
			for _, c := range root.Commands() {
				c.Long = markdown(c.Long)
			}
			root.Long += exitStatuses()
			explain.Long += causes()
			err = doc.GenManTreeFromOpts(root, doc.GenManTreeOptions{
				Path: args[0], CommandSeparator: "-",
				Header: &doc.GenManHeader{Section: "1", Date: &date, Source: "tcpbye " + version(), Manual: "tcpbye manual"},
			})
			if err != nil {
				return fmt.Errorf("write the man pages: %w", err)
			}
			return nil
		},
	}
}

func exitStatuses() string {
	var b strings.Builder
	b.WriteString("\n\n# EXIT STATUS\n")
	for _, s := range []struct {
		status int
		text   string
	}{
		{exitDone, "done; also after ^C or SIGHUP, or when the reader of the output has gone"},
		{exitFailure, "it failed, or a verdict of demo is not the one that is due"},
		{exitUsage, "it was called wrongly"},
		{exitDegraded, "doctor, demo --can-trace: tracing works here, but not every hook can be attached"},
		{exitCannot, "nothing can be traced here, for want of permission or of the kernel's support"},
	} {
		fmt.Fprintf(&b, "**%d**\n: %s\n\n", s.status, markdown(s.text))
	}
	b.WriteString("A run that SIGTERM, or a second signal, cuts short ends at once with 128 and the signal's number: what was not judged by then is not shown.\n\n")
	b.WriteString("With a command to run (trace, rst), its exit status: 128 and the signal's number if one killed it, 126 if it cannot be run, 127 if there is none.\n")
	return b.String()
}

func causes() string {
	var b strings.Builder
	b.WriteString("\n\n# CAUSES\n")
	for _, r := range verdict.Rules() {
		fmt.Fprintf(&b, "**%s** (%s)\n: %s\n\n", r.Cause, r.Class, markdown(r.Summary()))
	}
	return b.String()
}

// markdown escapes plain text: cobra makes pages out of Markdown.
func markdown(text string) string {
	return strings.NewReplacer(`\`, `\\`, "*", `\*`, "_", `\_`, "`", "\\`", "<", `\<`, "[", `\[`, "#", `\#`).Replace(text)
}
