package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/filter"
	"github.com/tcpbye/tcpbye/tracer/hosts"
	"github.com/tcpbye/tcpbye/tracer/record"
	"github.com/tcpbye/tcpbye/tracer/report"
	"github.com/tcpbye/tcpbye/tracer/session"
)

// newJoin is the command that joins what several hosts recorded: nothing to do with the
// join of one host's events, which every command does.
func newJoin(env environment) *cobra.Command {
	t := &tracing{output: output{env: env}}
	cmd := &cobra.Command{
		Use:   "join RECORDING…",
		Short: "judge connections with what both their hosts recorded",
		Long: `    tcpbye trace -w web1.tcpbye           # on one host, and on the other:
    tcpbye trace -w db1.tcpbye            # while it happens
    tcpbye join web1.tcpbye db1.tcpbye    # then, anywhere: a row for each end
    tcpbye join -v --class aborted web1.tcpbye db1.tcpbye
    ssh db1 cat db1.tcpbye | tcpbye join web1.tcpbye -
    tcpbye join -o json recordings/       # all that a directory holds

Reads the recordings of any number of hosts, finds the two ends of each connection,
also through an address translation, and judges each end with what both hosts saw.
Ends are paired by their initial sequence numbers, and the hosts' clocks set against
each other by what was sent and received, so neither addresses nor the time of day
have to agree.

A RECORDING is a file that -w made, a directory (all of its recordings), or - for
standard input. What only one host recorded is judged as trace -r does. All
conditions must hold; each may be given several times, or have a list with commas, of
which one must. Both ends of a connection are shown when one of them is wanted. The
last line says of how many connections the verdict of one host alone became certain,
was refuted, or is disputed: it was certain, and so is the other one of both.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usage(errors.New("which recordings? name those of two hosts, such as tcpbye join web1.tcpbye db1.tcpbye"))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if t.verbose && !cmd.Flags().Changed("output") {
				t.format, t.verbose = string(report.Timeline), false
			}
			return t.join(cmd, args)
		},
	}
	t.showFlags(cmd, report.Table)
	t.chooseFlags(cmd)
	cmd.Flags().Lookup("count").Usage = "stop after showing so many endings; 0: all"
	cmd.Flags().Lookup("verbose").Usage = "show what happened at both ends, in time (as -o timeline does); with -o timeline, also every event"
	return cmd
}

func (t *tracing) join(cmd *cobra.Command, args []string) error {
	t.read = args // a recording comes from another machine
	choice, err := t.check(cmd, nil)
	if err != nil {
		return err
	}
	traces, counts, readErr := t.gather(cmd.Context(), args)
	if len(traces) == 0 && readErr != nil {
		return readErr
	}
	res := hosts.Join(traces)
	s, err := t.output.open(cmd.Context(), record.Meta{}, nil, t.sink)
	if err != nil {
		return errors.Join(readErr, err)
	}
	shown, err := t.showEnds(res, choice, s)
	err = errors.Join(readErr, err, s.close(), t.output.close())
	joinedLine(t.env.stderr, res, shown, counts.Lost)
	if err == nil {
		err = t.failOn.failed()
	}
	return err
}

// showEnds shows the ends that are wanted, and their peers, and counts them.
func (t *tracing) showEnds(res *hosts.Result, choice *filter.Filter, s *printer) (shown int, err error) {
	kept := map[*conn.Connection]bool{}
	for i := range res.Ends {
		if e := &res.Ends[i]; choice.Match(e.Conn, e.Verdict) {
			kept[e.Conn] = true
			if e.Conn.Peer != nil {
				kept[e.Conn.Peer] = true
			}
		}
	}
	for i := range res.Ends {
		e := &res.Ends[i]
		if !kept[e.Conn] {
			continue
		}
		if t.count > 0 && uint64(shown) >= t.count {
			break
		}
		shown++
		t.failOn.see(e.Conn, e.Verdict)
		if err := s.end(report.Judged{Conn: e.Conn, Verdict: e.Verdict, Scenario: e.Scenario, Joint: e.Joint}); err != nil {
			return shown, err
		}
	}
	return shown, nil
}

// joinedLine is the closing line.
func joinedLine(w io.Writer, res *hosts.Result, shown int, lost uint64) {
	var of []string
	for _, h := range res.Hosts {
		s := "s"
		if h.Connections == 1 {
			s = ""
		}
		if len(of) > 0 {
			of = append(of, fmt.Sprintf("%d of %s", h.Connections, event.Quote(h.Name)))
			continue
		}
		of = append(of, fmt.Sprintf("%d connection%s of %s", h.Connections, s, event.Quote(h.Name)))
	}
	list := strings.Join(of, ", ")
	if n := len(of); n > 1 {
		list = strings.Join(of[:n-1], ", ") + " and " + of[n-1]
	}
	fmt.Fprintf(w, "%s: %d joined, %d confirmed, %d refuted, %d disputed, %d not covered, %d with losses on the path; %d ends shown, %d filtered, %d events lost\n",
		list, res.Joined, res.Confirmed, res.Refuted, res.Disputed, res.Uncovered, res.Lost, shown, len(res.Ends)-shown, lost)
	if len(res.Hosts) == 1 {
		fmt.Fprintln(w, "tcpbye: all of it was recorded on one host; another's recording is missing")
	}
}

// recordings are files that hold one run, in parts.
type recordings struct {
	names []string
	run   string // "" one file that is read as it is
}

// gather reads the recordings. What can be read is returned beside the error.
func (t *tracing) gather(ctx context.Context, args []string) (all []*hosts.Trace, counts session.Counts, err error) {
	files, err := recordingsOf(args)
	if err != nil {
		return nil, counts, err
	}
	for _, r := range files {
		traces, c, e := t.gatherRun(ctx, r.names)
		if e != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w", strings.Join(r.names, ", "), e))
		}
		all = append(all, traces...)
		counts.Lost += c.Lost
	}
	if len(all) == 0 && err == nil {
		err = errors.New("there is no run in these recordings")
	}
	return all, counts, err
}

func (t *tracing) gatherRun(ctx context.Context, names []string) ([]*hosts.Trace, session.Counts, error) {
	var in []io.Reader
	for _, name := range names {
		if name == "-" {
			in = append(in, session.Input(ctx, t.env.stdin))
			continue
		}
		f, err := os.Open(name)
		if err != nil {
			return nil, session.Counts{}, err
		}
		defer f.Close()
		in = append(in, session.Input(ctx, f))
	}
	unnamed := strings.TrimSuffix(filepath.Base(names[0]), filepath.Ext(names[0]))
	if names[0] == "-" {
		unnamed = "stdin"
	}
	return session.Gather(io.MultiReader(in...), unnamed)
}

// recordingsOf lists the files, with the parts of a run together and in their order.
func recordingsOf(args []string) (all []recordings, err error) {
	var names []string
	for i, name := range args {
		if name == "-" {
			if slices.Contains(args[:i], "-") {
				return nil, usage(errors.New("standard input (-) can be read once"))
			}
			names = append(names, name)
			continue
		}
		st, err := os.Stat(name)
		switch {
		case err != nil:
			return nil, fmt.Errorf("open the recording: %w", err)
		case !st.IsDir():
			names = append(names, name)
			continue
		}
		inside, err := within(name)
		if err != nil {
			return nil, err
		}
		names = append(names, inside...)
	}
	type part struct {
		name string
		n    int
	}
	parts := map[string][]part{}
	for _, name := range names {
		m, _ := headOf(name) // what is wrong with it is said when it is read
		if m.Run == "" {
			all = append(all, recordings{names: []string{name}})
			continue
		}
		if parts[m.Run] == nil {
			all = append(all, recordings{run: m.Run})
		}
		parts[m.Run] = append(parts[m.Run], part{name, m.Part})
	}
	for i := range all {
		list := parts[all[i].run]
		slices.SortStableFunc(list, func(a, b part) int { return cmp.Compare(a.n, b.n) })
		for _, p := range list {
			all[i].names = append(all[i].names, p.name)
		}
	}
	return all, nil
}

// within lists the recordings in a directory.
func within(dir string) (names []string, err error) {
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("look for recordings in %s: %w", dir, err)
		}
		if d.Type().IsRegular() {
			if _, ok := headOf(path); ok {
				names = append(names, path)
			}
		}
		return nil
	})
	if err == nil && len(names) == 0 {
		err = fmt.Errorf("%s: there is no recording in this directory", dir)
	}
	return names, err
}

// headOf is the first head in a file; false: it is no recording. Standard input has none
// that can be read twice.
func headOf(name string) (m record.Meta, ok bool) {
	if st, err := os.Stat(name); name == "-" || err != nil || !st.Mode().IsRegular() {
		return m, false
	}
	f, err := os.Open(name)
	if err != nil {
		return m, false
	}
	defer f.Close()
	enough := errors.New("enough")
	err = record.Read(f, record.Handler{Meta: func(head record.Meta) error {
		m, ok = head, true
		return enough
	}})
	var damaged *record.DamageError
	return m, ok || errors.As(err, &damaged)
}
