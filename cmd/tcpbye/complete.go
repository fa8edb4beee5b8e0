package main

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/report"
	"github.com/tcpbye/tcpbye/tracer/session"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// values are what a flag can be: each a value, or a value, a tab and what it is.
var values = map[string]func() []string{
	"class":     classNames,
	"cause":     causeNames,
	"fail-on":   func() []string { return slices.Concat(classNames(), []string{verdict.UnansweredName}, causeNames()) },
	"color":     func() []string { return []string{"auto", "always", "never"} },
	"attach":    func() []string { return append([]string{"auto\tthe best for each hook"}, wayNames()...) },
	"pid":       processIDs,
	"comm":      processNames,
	"container": containerNames,
	"sort":      report.FieldNames,
	"fields":    report.FieldNames,
	"netns":     func() []string { return entries("/run/netns") },
	"port":      func() []string { return []string{"http\t80", "https\t443", "ssh\t22", "domain\t53"} },
}

// completed gives the flags of all commands, and explain's words, their values.
func completed(root *cobra.Command) {
	for _, c := range root.Commands() {
		for name, list := range values {
			if c.Flags().Lookup(name) != nil {
				c.RegisterFlagCompletionFunc(name, listed(list))
			}
		}
		for _, port := range []string{"lport", "rport"} {
			if c.Flags().Lookup(port) != nil {
				c.RegisterFlagCompletionFunc(port, listed(values["port"]))
			}
		}
		if f := c.Flags().Lookup("output"); f != nil {
			c.RegisterFlagCompletionFunc("output", listed(func() []string { return formatNames(c.Name()) }))
		}
		if c.Name() == "explain" {
			c.ValidArgsFunction = func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
				if len(args) > 0 {
					return nil, cobra.ShellCompDirectiveNoFileComp
				}
				return explainWords(), cobra.ShellCompDirectiveNoFileComp
			}
		}
	}
}

// listed completes the last value of a list with commas.
func listed(list func() []string) cobra.CompletionFunc {
	return func(_ *cobra.Command, _ []string, toComplete string) ([]string, cobra.ShellCompDirective) {
		before := toComplete[:strings.LastIndexByte(toComplete, ',')+1]
		var all []string
		for _, v := range list() {
			if before != "" {
				// cobra's completion for bash finds no comma in what has a description.
				v, _, _ = strings.Cut(v, "\t")
			}
			if strings.HasPrefix(before+v, toComplete) {
				all = append(all, before+v)
			}
		}
		return all, cobra.ShellCompDirectiveNoFileComp
	}
}

func classNames() []string {
	var names []string
	for _, r := range verdict.Rules() {
		if name := string(r.Class); !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

func causeNames() []string {
	var names []string
	for _, r := range verdict.Rules() {
		names = append(names, string(r.Cause)+"\t"+r.Summary())
	}
	return names
}

// formatNames are the output formats of a command.
func formatNames(command string) []string {
	switch command {
	case "doctor":
		return []string{"text", "json"}
	case "trace", "rst", "demo", "top":
	default:
		return nil
	}
	var names []string
	if command == "rst" {
		names = append(names, formatResets)
	}
	for _, f := range report.Formats() {
		names = append(names, string(f))
	}
	return names
}

// explainWords are the words that explain knows, without those that a shell would break.
func explainWords() []string {
	words := causeNames()
	for _, s := range verdict.Symptoms() {
		for _, name := range s.Names[:1] {
			if !strings.ContainsAny(name, " :()/'") {
				words = append(words, name+"\t"+s.Kind)
			}
		}
	}
	return words
}

// entries are the names in a directory; none where it cannot be read.
func entries(dir string) []string {
	all, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var names []string
	for _, e := range all {
		names = append(names, e.Name())
	}
	return names
}

// processIDs are the processes with their names.
func processIDs() []string {
	var all []string
	for _, pid := range entries("/proc") {
		if _, err := strconv.Atoi(pid); err == nil {
			if name := nameOf(pid); name != "" {
				all = append(all, pid+"\t"+name)
			}
		}
	}
	return all
}

// nameOf is what a process calls itself; a shell must not do what it says.
func nameOf(pid string) string {
	b, err := os.ReadFile(filepath.Join("/proc", pid, "comm"))
	if err != nil {
		return ""
	}
	return event.Quote(strings.TrimSpace(string(b)))
}

// processNames are those that can be typed as they are.
func processNames() []string {
	found := map[string]bool{}
	for _, pid := range entries("/proc") {
		if name := nameOf(pid); name != "" && strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == "" {
			found[name] = true
		}
	}
	var names []string
	for name := range found {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func containerNames() []string {
	names, err := session.Containers()
	if err != nil {
		return nil
	}
	return names
}
