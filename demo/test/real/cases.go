package real

import (
	_ "embed"
	"fmt"
	"io"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/demo/scenario"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// Case is a kind of ending that people reported again and again, and where it is
// played again: by runs of this package, by scenarios of package scenario, or
// nowhere, for a reason.
type Case struct {
	ID        string
	Scenarios []string
	// Note says what differs from what was reported.
	Note string
	// Reason says why it is played nowhere.
	Reason string
}

//go:embed testdata/cases.txt
var titles string

// Title is the case in a line.
func (c Case) Title() string {
	for line := range strings.Lines(titles) {
		if id, title, _ := strings.Cut(strings.TrimSpace(line), " "); id == c.ID {
			return title
		}
	}
	return ""
}

// Runs are the runs that play a case again.
func (c Case) Runs() []Run {
	var list []Run
	for _, r := range All() {
		if slices.Contains(strings.Fields(r.Case), c.ID) {
			list = append(list, r)
		}
	}
	return list
}

// Cases lists them all, by ID.
func Cases() []Case { return cases }

var cases = []Case{
	{ID: "C01", Scenarios: []string{"data-to-mini-socket"}},
	{ID: "C02", Note: "node 18 answers 408 where node 10 destroyed the socket unread; the latter is played with a socket that node destroys by a timer."},
	{ID: "C03", Scenarios: []string{"vanished"}, Note: "The balancer's reset is a packet filter's here; the socket that forgets its connection (TCP_REPAIR) is the scenario's."},
	{ID: "C04", Scenarios: []string{"retransmit-timeout"}},
	{ID: "C05", Scenarios: []string{"close-unread"}},
	{ID: "C07", Scenarios: []string{"listener-close", "closed-port"}},
	{ID: "C08", Scenarios: []string{"killed-unread"}},
	{ID: "C09"},
	{ID: "C10", Scenarios: []string{"close-wait-leak"}},
	{ID: "C12", Scenarios: []string{"reset-before-accept"}},
	{ID: "C13"},
	{ID: "C14"},
	{ID: "C15"},
	{ID: "C16", Scenarios: []string{"sigpipe"}},
	{ID: "C18"},
	{ID: "C19", Note: "Debian has no Envoy. A runtime that closes at the client's FIN does the same."},
	{ID: "C20"},
	{ID: "C21"},
	{ID: "C22"},
	{ID: "C23"},
	{ID: "C25"},
	{ID: "C26"},
	{ID: "C27"},
	{ID: "C30"},
	{ID: "C31"},
	{ID: "C32", Scenarios: []string{"vanished", "user-timeout"}, Note: "The same two endings as those of a connection that a NAT forgot: a reset from where nothing is known, or silence."},
	{ID: "C33", Reason: "IPVS steers a SYN by an entry for a backend that was removed: that takes a cluster of machines behind ip_vs, and on one machine there is no other host for the stale entry to name. What the client sees is unreachable or connect-timeout."},
	{ID: "C35", Scenarios: []string{"listener-close"}},
	{ID: "C36"},
	{ID: "C37", Scenarios: []string{"accept-overflow", "accept-overflow-reset"}},
	{ID: "C39", Scenarios: []string{"fin-wait2-held"}},
	{ID: "C41", Scenarios: []string{"data-after-fin-wait2"}},
	{ID: "C42", Note: "kubectl is not in Debian; the forwarder is a Python that ends at the first error."},
	{ID: "C43", Note: "The period is a timer of node's HTTP/2 server; TCP shows who closed, and when."},
	{ID: "C44", Note: "Envoy is not in Debian; nginx's send_timeout cuts a slow reader in the same way."},
	{ID: "C45"},
	{ID: "C47"},
	{ID: "C49"},
	{ID: "C52", Scenarios: []string{"close-blocked-read", "close-blocked-read-held"}},
	{ID: "C54", Scenarios: []string{"closed-twice"}},
	{ID: "C55"},
	{ID: "C56", Note: "Redis and its client do not matter to it: data is not acknowledged, and TCP_USER_TIMEOUT ends the wait."},
	{ID: "C59", Scenarios: []string{"time-wait-reuse", "port-reuse-established"}},
	{ID: "C60", Reason: "net.ipv4.tcp_tw_recycle was removed in Linux 4.12; no kernel that tcpbye supports drops a SYN for that."},
	{ID: "C61", Note: "bind(2) ends no connection. The verdict on the one that holds the port says who closed it first, and that this end keeps the TIME_WAIT."},
	{ID: "C63", Scenarios: []string{"linger2-negative"}},
	{ID: "C64"},
	{ID: "C66", Note: "Which bytes a program had in its own memory no kernel knows; the byte counts of the two legs tell."},
	{ID: "C68"},
	{ID: "C69", Scenarios: []string{"data-to-fin-wait1"}},
	{ID: "C70", Note: "The kernel's part is the same in every runtime: the verdict says ECONNRESET where the program, here Python's ssl, takes it for an end of the stream."},
	{ID: "C72"},
	{ID: "C73"},
	{ID: "C76"},
	{ID: "C77", Scenarios: []string{"simultaneous-close"}},
	{ID: "C78", Scenarios: []string{"sock-destroy"}},
	{ID: "C79", Scenarios: []string{"nft-reject", "injected-reset"}},
	{ID: "C80", Note: "kubectl is not in Debian; the hop that cuts a half-close is socat."},
}

// kernelRelease is what uname -r says.
func kernelRelease() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "of an unknown release" // uname(2) fails for a bad address only
	}
	return unix.ByteSliceToString(u.Release[:])
}

// PrintCases writes where each case is played, and what tcpbye says of it.
func PrintCases(w io.Writer, results []Result) error {
	byName := map[string]Result{}
	for _, r := range results {
		byName[r.Run.Name] = r
	}
	var err error
	say := func(format string, args ...any) {
		if err == nil {
			_, err = fmt.Fprintf(w, format+"\n", args...)
		}
	}
	for _, c := range cases {
		say("%s  %s", c.ID, c.Title())
		for _, run := range c.Runs() {
			r, played := byName[run.Name]
			if !played {
				say("     run %s: not played this time", run.Name)
				continue
			}
			mark := "ok"
			if !r.OK() {
				mark = "WRONG"
			}
			say("     run %s, Linux %s: %s", run.Name, kernelRelease(), mark)
			for _, l := range r.Links {
				if len(l.Link.Says) == 0 {
					continue // not what the case is about
				}
				for _, s := range l.sentences() {
					say("       %s: %s", l.Link.Name, s)
				}
			}
		}
		for _, s := range c.Scenarios {
			say("     scenario %s: tcpbye demo %s", s, s)
		}
		if c.Note != "" {
			say("     %s", c.Note)
		}
		if c.Reason != "" {
			say("     not played: %s", c.Reason)
		}
	}
	return err
}

// sentences are what is said of both ends, once if it is the same.
func (l LinkResult) sentences() []string {
	var list []string
	for _, e := range []*scenario.JudgedEnd{l.Client, l.Server} {
		if e == nil {
			continue
		}
		s := e.Verdict.Sentence
		if e.Verdict.Retry == verdict.RetrySafe {
			s += " To ask again is safe: " + e.Verdict.RetryWhy + "."
		}
		if !slices.Contains(list, s) {
			list = append(list, s)
		}
	}
	return list
}
