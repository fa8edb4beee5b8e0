package verdict

import (
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
)

var (
	commands    = regexp.MustCompile("`[^`]*`")
	exclamation = regexp.MustCompile(`[\pL\pN)]!`)
	reference   = regexp.MustCompile(`^(RFC \d+( \d+(\.\d+)*)?|[a-z0-9_-]+\(\d\)|_*[a-z0-9]+(_[a-z0-9]+)+|__[a-z0-9]+)$`)
	ruleOfLaw   = regexp.MustCompile(`^(RFC \d|.*\(\d\)$)`)
	sentenceEnd = regexp.MustCompile(`\.(\s|$)`)
	lastMark    = regexp.MustCompile(`[.)"]$`)
)

// withoutCommands is a text without its commands.
func withoutCommands(s string) string { return commands.ReplaceAllString(s, "…") }

// typos says what is wrong with the form of a text that Explain wraps.
func typos(s string) []string {
	var bad []string
	if strings.ContainsAny(s, "\t\n\r\v\f") {
		bad = append(bad, "has a tab or a line break")
	}
	if strings.Contains(s, "  ") || strings.TrimSpace(s) != s {
		bad = append(bad, "has a space too many")
	}
	if strings.Count(s, "`")%2 != 0 {
		bad = append(bad, "has an odd backquote")
	}
	if strings.Count(s, `"`)%2 != 0 {
		bad = append(bad, "has an odd quotation mark")
	}
	if strings.Count(s, "(") != strings.Count(s, ")") {
		bad = append(bad, "has an odd bracket")
	}
	if exclamation.MatchString(withoutCommands(s)) {
		bad = append(bad, "exclaims")
	}
	if s != "" && !lastMark.MatchString(s) {
		bad = append(bad, "does not end as a sentence")
	}
	return bad
}

func TestTextsAreComplete(t *testing.T) {
	for _, r := range Rules() {
		if r.What == "" || r.Prove == "" || len(r.Refs) == 0 {
			t.Errorf("%s: What, Prove or Refs is missing", r.Cause)
		}
		switch r.Class {
		case Aborted, TimedOut, Refused:
			if r.Do == "" {
				t.Errorf("%s (%s) gives no advice", r.Cause, r.Class)
			}
		case Graceful:
			if r.Do != "" {
				t.Errorf("%s is a graceful end, and gives the advice %q", r.Cause, r.Do)
			}
		}
		if !commands.MatchString(r.Prove) {
			t.Errorf("%s: Prove has no command", r.Cause)
		}
	}
}

func TestTextsAreWellFormed(t *testing.T) {
	summaries := map[string]Cause{}
	for _, r := range Rules() {
		c, x := r.Cause, r
		s := x.Summary()
		if n := utf8.RuneCountInString(s); n > 90 || n == 0 {
			t.Errorf("%s: the first sentence has %d columns: %q", c, n, s)
		}
		if !strings.HasSuffix(s, ".") {
			t.Errorf("%s: the first sentence does not end: %q", c, s)
		}
		if other, ok := summaries[s]; ok {
			t.Errorf("%s and %s have the same first sentence", c, other)
		}
		summaries[s] = c
		for part, text := range map[string]string{"What": x.What, "Prove": x.Prove, "Do": x.Do, "Belief": x.Belief, "Truth": x.Truth} {
			for _, bad := range typos(text) {
				t.Errorf("%s: %s %s", c, part, bad)
			}
		}
		if n := len(sentenceEnd.FindAllString(x.Do, -1)); n > 2 {
			t.Errorf("%s: Do has %d sentences", c, n)
		}
		if n := utf8.RuneCountInString(x.Do); n > 230 {
			t.Errorf("%s: Do has %d characters, too many for a verdict", c, n)
		}
		if (x.Belief == "") != (x.Truth == "") {
			t.Errorf("%s: Belief and Truth go together", c)
		}
		if x.Belief != "" && (!strings.HasPrefix(x.Belief, `"`) || !strings.HasSuffix(x.Belief, `."`)) {
			t.Errorf("%s: a belief is not in the people's words: %s", c, x.Belief)
		}
		law := false
		for _, ref := range x.Refs {
			if !reference.MatchString(ref) {
				t.Errorf("%s: %q is neither an RFC, a man page nor a kernel function", c, ref)
			}
			law = law || ruleOfLaw.MatchString(ref)
		}
		if !law {
			t.Errorf("%s refers to no RFC and no man page", c)
		}
		if distinct := slices.Compact(slices.Sorted(slices.Values(x.Refs))); len(distinct) != len(x.Refs) {
			t.Errorf("%s: a reference stands twice", c)
		}
	}
}

// The teaching that the tool stands for.
func TestDataAfterCloseTeachesTheThreeSteps(t *testing.T) {
	do := ruleOf(DataAfterClose).Do
	for _, want := range []string{"shutdown(SHUT_WR), read to the end, then close(2)", "tcpbye demo shutdown"} {
		if !strings.Contains(do, want) {
			t.Errorf("the advice does not say %q: %s", want, do)
		}
	}
}

// misconceptions are the 32 that were collected from public reports; each has
// its home in a cause.
var misconceptions = []struct {
	key           string
	cause         Cause
	belief, truth string // a phrase of each
}{
	{"M1 send succeeded", PeerAbort, "send() succeeded, so the peer got it", "reached the local kernel"},
	{"M2 close delivers", DataAfterClose, "close() delivers everything", "throw the rest away"},
	{"M3 close sends FIN", CloseUnread, "close() always sends a FIN", "sends a RST over unread data"},
	{"M4 ECONNRESET is a crash", PeerAbort, "ECONNRESET means that the peer crashed", "closed with input unread"},
	{"M5 RST wipes input", PeerAbort, "A RST wipes what I have already received", "queued bytes stay readable"},
	{"M6 always ECONNRESET", PeerGone, "A reset always shows as ECONNRESET", "end of file on read and as EPIPE on write"},
	{"M7 read 0 is complete", OrderlyClose, "so the transfer is complete", "only the protocol above can say"},
	{"M8 SHUT_RD", DataAfterShutdown, "shutdown(SHUT_RD) tells the peer to stop", "SHUT_RD alone sends nothing on Linux"},
	{"M9 SHUT_RDWR", DataAfterShutdown, "the same as close()", "the descriptor stays and must still be closed"},
	{"M10 shutdown then close", CloseUnread, "shutdown(SHUT_WR) and then close() avoids the reset", "only if the input is read to its end"},
	{"M11 SO_LINGER with time", OrphanTimeout, "SO_LINGER with a time guarantees delivery", "not for its process to read"},
	{"M12 non-blocking close", FinStuck, "never blocks in close()", "on a non-blocking socket too"},
	{"M13 linger 0 cures", LingerZero, "SO_LINGER 0 is the cure for TIME_WAIT", "destroying data in flight"},
	{"M14 tune sysctl", CloseWaitLeak, "tune the sysctls", "your process has not closed"},
	{"M15 tcp_fin_timeout", FinWait2Timeout, "tcp_fin_timeout shortens TIME_WAIT", "TIME_WAIT is a fixed 60 s"},
	{"M16 where TIME_WAIT is", SimultaneousClose, "TIME_WAIT is on the server", "whichever end closed first"},
	{"M17 tcp_tw_recycle", PortReuse, "tcp_tw_recycle is a good tuning", "removed in 4.12"},
	{"M18 SO_REUSEADDR", OrderlyClose, "SO_REUSEADDR on the new listener is enough", "only if the old listener had SO_REUSEADDR too"},
	{"M19 close wakes", DescriptorHeld, "wakes the threads that are blocked", "shutdown(2) wakes it at once"},
	{"M20 the parent closed", DescriptorHeld, "The parent closed it", "Not while a forked child holds it"},
	{"M21 full queue resets", AcceptOverflow, "A full accept queue resets the clients", "SYNs are dropped and the clients hang in SYN_SENT"},
	{"M22 connect is accept", NeverAccepted, "connect() returned, so the server has accepted me", "the application may never accept"},
	{"M23 accept fails", NeverAccepted, "accept() fails if the client has already reset", "getpeername(2) ENOTCONN"},
	{"M24 keepalive protects", KeepaliveTimeout, "Keepalive protects all connections", "off unless the program turns it on"},
	{"M25 peer is told", RetransmitTimeout, "the peer is told", "sends nothing, and the peer stays ESTABLISHED"},
	{"M26 FIN and my data", HalfClose, "no longer wants my data", "will not send any more"},
	{"M27 POLLHUP", HalfClose, "POLLHUP means that the peer closed", "POLLHUP needs both directions shut"},
	{"M28 RST is the cause", NoSocket, "The RST in the capture is the cause", "often the echo"},
	{"M29 RST's source", PathReset, "source address of the RST is the guilty host", "put the peer's address on the resets"},
	{"M30 one write fails", DataAfterClose, "Writing after the peer has closed fails", "The first write succeeds"},
	{"M31 retrying", ListenerClosed, "Retrying after a reset is never safe", "whether the request was read"},
	{"M32 TCPAbortOnData", LingerZero, "TCPAbortOnData counts unread data", "unread data at close(2) is TCPAbortOnClose"},
}

func TestEveryMisconceptionIsAnswered(t *testing.T) {
	if len(misconceptions) != 32 {
		t.Errorf("there are %d misconceptions, not 32", len(misconceptions))
	}
	seen := map[string]bool{}
	for _, m := range misconceptions {
		number, _, _ := strings.Cut(m.key, " ")
		if seen[number] {
			t.Errorf("%s stands twice", number)
		}
		seen[number] = true
		x := ruleOf(m.cause)
		if !strings.Contains(x.Belief, m.belief) {
			t.Errorf("%s: the belief of %s does not say %q", m.key, m.cause, m.belief)
		}
		if !strings.Contains(x.Truth, m.truth) {
			t.Errorf("%s: the truth of %s does not say %q", m.key, m.cause, m.truth)
		}
	}
}

// Where a cause has several beliefs, their answers stand in the same order.
func TestTruthAnswersInOrder(t *testing.T) {
	type place struct{ belief, truth int }
	last := map[Cause]place{}
	for _, m := range misconceptions {
		x := ruleOf(m.cause)
		p := place{strings.Index(x.Belief, m.belief), strings.Index(x.Truth, m.truth)}
		if q, ok := last[m.cause]; ok && (p.belief > q.belief) != (p.truth > q.truth) {
			t.Errorf("%s: %s is answered out of order", m.cause, m.key)
		}
		last[m.cause] = p
	}
}

func TestExplainFitsATerminal(t *testing.T) {
	for _, r := range Rules() {
		for line := range strings.Lines(r.Explain()) {
			if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > 80 && !command(line) {
				t.Errorf("%s: a line of %d columns: %q", r.Cause, n, line)
			}
		}
	}
}

// command says whether a line is one command, which stays whole so that it can
// be copied.
func command(line string) bool {
	line = strings.TrimRight(strings.TrimSpace(line), ".,;:")
	return strings.HasPrefix(line, "`") && strings.HasSuffix(line, "`")
}

// A sentence names processes and signals as every other output does.
func TestNamesAreQuotedOnce(t *testing.T) {
	hostile := "a\"b\\c\x1b[0m"
	if got, want := named(&conn.Process{PID: 7, Comm: hostile}), event.Quote(hostile)+" (pid 7)"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got, want := string(appendNamed(nil, &conn.Process{PID: 7, Comm: hostile})), event.Quote(hostile)+" (pid 7)"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got, want := how(ActKilled, 10), "when it was killed by SIGUSR1"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
