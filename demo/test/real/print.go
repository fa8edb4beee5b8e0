package real

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/tcpbye/tcpbye/demo/scenario"
	"github.com/tcpbye/tcpbye/demo/stage"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// Print writes the table of runs and verdicts.
func Print(w io.Writer, results []Result) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "RUN\tCASE\tCONNECTION\tVERDICT\tLOST\tCLIENT SAW\tSERVER SAW\t")
	wrong := 0
	for _, r := range results {
		for i, l := range r.Links {
			name, cases := r.Run.Name, r.Run.Case
			if i > 0 {
				name, cases = "", ""
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", name, cases, l.Link.Name, l.verdict(), l.lost(), saw(l.Client), saw(l.Server), l.mark())
		}
		if len(r.Wrong) > 0 {
			fmt.Fprintf(t, "%s\t%s\t\t\t\t\t\tWRONG: the run as a whole\n", r.Run.Name, r.Run.Case)
		}
		if !r.OK() {
			wrong++
		}
	}
	fmt.Fprintf(t, "%d runs, %d wrong\n", len(results), wrong)
	return t.Flush()
}

// verdict is the verdict on the end whose doing it was, or on both where they
// differ.
func (l LinkResult) verdict() string {
	var list []string
	for _, e := range []*scenario.JudgedEnd{l.Client, l.Server} {
		if e == nil {
			continue
		}
		s := stage.Summary(e.Verdict)
		if len(list) == 0 || list[0] != s {
			list = append(list, s)
		}
	}
	return strings.Join(list, " | ")
}

// lost are the bytes that did not get there, by end.
func (l LinkResult) lost() string {
	var list []string
	for i, e := range []*scenario.JudgedEnd{l.Client, l.Server} {
		if e == nil {
			continue
		}
		for k, n := range []*uint64{e.Verdict.Lost.Unread, e.Verdict.Lost.Unacked, e.Verdict.Lost.Unsent} {
			if n != nil && *n > 0 {
				list = append(list, fmt.Sprintf("%s %d %s", []string{"client", "server"}[i], *n, []string{"unread", "unacked", "unsent"}[k]))
			}
		}
	}
	return strings.Join(list, ", ")
}

func saw(e *scenario.JudgedEnd) string {
	switch {
	case e == nil:
		return "-"
	case len(e.Verdict.AppSaw) == 0 && e.Verdict.Confidence != verdict.Certain:
		return "-"
	}
	return strings.Join(e.Verdict.AppSaw, " ")
}

func (l LinkResult) mark() string {
	switch {
	case len(l.Wrong) > 0:
		return "WRONG"
	case l.Unsure:
		return "partly"
	}
	return "ok"
}
