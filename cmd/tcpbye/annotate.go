package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/charmbracelet/x/term"
	"github.com/spf13/cobra"

	"github.com/tcpbye/tcpbye/tracer/annotate"
	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/record"
	"github.com/tcpbye/tcpbye/tracer/report"
	"github.com/tcpbye/tcpbye/tracer/session"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

func newAnnotate(env environment) *cobra.Command {
	t := &tracing{output: output{env: env}}
	cmd := &cobra.Command{
		Use:   "annotate -r RECORDING CAPTURE OUTPUT",
		Short: "put the verdicts of a recording into a capture of the same time",
		Long: `Read a capture (pcap or pcapng) that tcpdump or another program made while tcpbye
recorded, and write it as pcapng with comments, which Wireshark shows: the verdict on
the packet that ended each connection, or, where that is not in the capture, on the
last one of the connection; on each FIN, who closed and how; on each other RST, which
verdict it belongs to. Everything else stays as it is. Packets are found by their
addresses, ports and sequence numbers. OUTPUT may be - for standard output.`,
		Example: `  tcpbye trace -w run.tcpbye &  tcpdump -i any -w run.pcap
  tcpbye annotate -r run.tcpbye run.pcap run.pcapng && wireshark run.pcapng`,
		Args: usageArgs(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(t.read) == 0 {
				return usage(errors.New("which recording? -r FILE names it (tcpbye trace -w FILE makes one)"))
			}
			return t.annotate(cmd, args[0], args[1])
		},
	}
	cmd.Flags().StringArrayVarP(&t.read, "read", "r", nil, "the recording is in `FILE` (- for standard input); several are read in their order")
	return cmd
}

func (t *tracing) annotate(cmd *cobra.Command, from, to string) error {
	capture, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("open the capture: %w", err)
	}
	defer capture.Close()
	if st, err := capture.Stat(); err == nil {
		if !st.Mode().IsRegular() {
			return usage(fmt.Errorf("%s is no file: a capture is read twice", from))
		}
		if there, err := os.Stat(to); err == nil && os.SameFile(st, there) {
			return usage(fmt.Errorf("%s would be overwritten before it is read", from))
		}
	}
	all, err := t.connections(cmd)
	if err != nil {
		return err
	}
	plan, err := annotate.Match(capture, all)
	if err != nil {
		return fmt.Errorf("%s: %w", from, err)
	}
	if _, err := capture.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("read the capture again: %w", err)
	}
	var out io.WriteCloser
	switch f, isFile := t.env.stdout.(*os.File); {
	case to == "-" && isFile:
		if term.IsTerminal(f.Fd()) {
			return usage(errors.New("a capture is not for a terminal: name a file, or pipe it to a program that reads it"))
		}
		quietPipes()
		out = record.Own(cmd.Context(), f)
	case to == "-":
		out = unclosed{t.env.stdout}
	default:
		if out, err = record.Create(cmd.Context(), to); err != nil {
			return fmt.Errorf("create %s: %w", to, err)
		}
	}
	buf := bufio.NewWriterSize(out, 1<<16)
	if err := errors.Join(plan.Write(capture, buf), buf.Flush(), out.Close()); err != nil {
		return fmt.Errorf("write %s: %w", to, err)
	}
	w := t.env.stderr
	if len(plan.Other) > 0 {
		fmt.Fprintf(w, "tcpbye: packets of %s were not looked at\n", plan.Others())
	}
	if plan.Cut {
		fmt.Fprintf(w, "tcpbye: %s is cut short in the middle of a packet; what comes before it is in %s\n", from, to)
	}
	if plan.Simple > 0 {
		fmt.Fprintf(w, "tcpbye: %d packets were to get a comment and cannot: they are in Simple Packet Blocks\n", plan.Simple)
	}
	if plan.Found == 0 && len(all) > 0 {
		fmt.Fprintln(w, "tcpbye: no connection of the recording is in the capture: is it of another time or place, or are its addresses translated on the way (NAT)?")
	}
	fmt.Fprintf(w, "%d connections in the recording, %d in the capture, %d packets commented\n", len(all), plan.Found, plan.Commented)
	return nil
}

// connections reads what the recordings say.
func (t *tracing) connections(cmd *cobra.Command) (all []annotate.Connection, err error) {
	var sink *report.AnnotationSink
	end := func() error {
		if sink == nil {
			return nil
		}
		return sink.Close()
	}
	_, err = t.replay(cmd.Context(), func(m record.Meta) (session.Config, error) {
		if err := end(); err != nil {
			return session.Config{}, err
		}
		clock := report.Clock{Offset: m.Offset, Set: &report.Settings{}}
		sink = report.NewAnnotations(report.Options{Clock: clock}, func(c annotate.Connection) { all = append(all, c) })
		c := session.Config{
			Show: func(c *conn.Connection, v verdict.Verdict) error {
				return sink.End(report.Judged{Conn: c, Verdict: v, Scenario: m.Scenario})
			},
			Wall: func(w record.Wall) { clock.Set.Add(w.Time, w.Offset) },
			Cut:  t.env.signals.cut,
		}
		// A demo was judged at its end, with the whole story at hand.
		c.Join.Hold = m.Scenario != ""
		return c, nil
	})
	if err == nil {
		err = end()
	}
	if errors.Is(err, session.ErrCut) {
		err = t.env.signals.short()
	}
	return all, err
}
