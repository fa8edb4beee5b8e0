package verdict

import (
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestSymptomsAreComplete(t *testing.T) {
	kinds := []string{"errno", "signal", "message", "reset reason", "counter", "state", "status", "setting", "segment"}
	seen := map[string]string{}
	for _, s := range symptoms {
		name := s.Names[0]
		if !slices.Contains(kinds, s.Kind) {
			t.Errorf("%s is of the unknown kind %q", name, s.Kind)
		}
		if s.Meaning == "" || s.Note == "" || len(s.Causes) == 0 {
			t.Errorf("%s: Meaning, Note or Causes is missing", name)
		}
		for part, text := range map[string]string{"Meaning": s.Meaning, "Note": s.Note} {
			for _, bad := range typos(text) {
				t.Errorf("%s: %s %s", name, part, bad)
			}
		}
		for i, c := range s.Causes {
			if ruleOf(c) == nil {
				t.Errorf("%s: there is no cause %q", name, c)
			}
			if slices.Contains(s.Causes[:i], c) {
				t.Errorf("%s names %s twice", name, c)
			}
		}
		for _, n := range s.Names {
			w := words(n)
			if other, ok := seen[w]; ok && other != name {
				t.Errorf("%q is a name of %s and of %s", n, other, name)
			}
			seen[w] = name
		}
	}
}

// Every name finds its own symptom, in any case and with an error's usual
// surroundings.
func TestEveryNameFindsItsSymptom(t *testing.T) {
	for _, s := range symptoms {
		for _, n := range s.Names {
			for _, q := range []string{n, strings.ToUpper(n), strings.ToLower(n), "error: " + n, "java.net.SocketException: " + n, "  " + n + ".\n", `"` + n + `"`} {
				got, ok := FindSymptom(q)
				if !ok || got.Names[0] != s.Names[0] {
					t.Errorf("FindSymptom(%q) = %v, %t, not %s", q, first(got.Names), ok, s.Names[0])
				}
			}
		}
	}
}

func first(s []string) string {
	if len(s) == 0 {
		return ""
	}
	return s[0]
}

// What a rule says it can be behind is the first name of a symptom, and no two causes
// have one place there.
func TestRulesNameSymptoms(t *testing.T) {
	places := map[string]map[int]Cause{}
	for _, s := range symptoms {
		places[s.Names[0]] = map[int]Cause{}
	}
	for _, r := range rules {
		for name, place := range r.symptoms {
			if places[name] == nil {
				t.Errorf("%s: no symptom has the first name %q", r.Cause, name)
			} else if other, taken := places[name][place]; taken || place < 1 {
				t.Errorf("%s: place %d of %s is no place, or that of %s", r.Cause, place, name, other)
			} else {
				places[name][place] = r.Cause
			}
		}
	}
}

func TestEveryCauseHasASymptom(t *testing.T) {
	// Every cause shows somehow; an exception would stand here with its reason.
	shown := map[Cause]bool{}
	for _, s := range symptoms {
		for _, c := range s.Causes {
			shown[c] = true
		}
	}
	for _, r := range Rules() {
		if !shown[r.Cause] {
			t.Errorf("no symptom leads to %s", r.Cause)
		}
	}
}

func TestFindSymptom(t *testing.T) {
	for query, want := range map[string]string{
		// As programs print it.
		"read: connection reset by peer":                                 "ECONNRESET",
		"write tcp 10.0.0.1:80->10.0.0.2:5: write: broken pipe":          "EPIPE",
		"read tcp [::1]:40104->[::1]:80: read: connection reset by peer": "ECONNRESET",
		"exit status 141":     "SIGPIPE",
		"signal: broken pipe": "SIGPIPE",
		"dial tcp 10.0.0.9:443: connect: connection refused":          "ECONNREFUSED",
		"dial tcp 10.0.0.9:443: connect: connection timed out":        "ETIMEDOUT",
		"dial tcp 10.0.0.9:443: i/o timeout":                          "i/o timeout",
		"dial tcp 10.0.0.9:443: connect: no route to host":            "EHOSTUNREACH",
		"listen tcp :80: bind: address already in use":                "EADDRINUSE",
		"connect: cannot assign requested address":                    "EADDRNOTAVAIL",
		"java.net.SocketException: Connection reset":                  "ECONNRESET",
		"java.net.SocketException: Broken pipe (Write failed)":        "EPIPE",
		"java.net.ConnectException: Connection refused":               "ECONNREFUSED",
		"java.net.SocketTimeoutException: Read timed out":             "i/o timeout",
		"Software caused connection abort: socket write error":        "ECONNABORTED",
		"ConnectionResetError: [Errno 104] Connection reset by peer":  "ECONNRESET",
		"BrokenPipeError: [Errno 32] Broken pipe":                     "EPIPE",
		"TimeoutError: [Errno 110] Connection timed out":              "ETIMEDOUT",
		"Error: read ECONNRESET":                                      "ECONNRESET",
		"Error: socket hang up":                                       "EOF",
		"Error: Premature close":                                      "EOF",
		"unexpected EOF":                                              "EOF",
		"curl: (52) Empty reply from server":                          UnansweredName,
		"curl: (56) Recv failure: Connection reset by peer":           "ECONNRESET",
		"curl: (18) transfer closed with 812 bytes remaining to read": "EOF",
		"Connection reset by peer (os error 104)":                     "ECONNRESET",
		"client_loop: send disconnect: Broken pipe":                   "EPIPE",
		"getpeername: Transport endpoint is not connected":            "ENOTCONN",
		"read() == 0": "read() = 0",
		"errno 104":   "ECONNRESET",
		"errno=32":    "EPIPE",
		"104":         "ECONNRESET",
		"error: 110":  "ETIMEDOUT",
		"111 ":        "ECONNREFUSED",
		"connect() failed (111: Connection refused) while connecting to upstream":            "ECONNREFUSED",
		"upstream prematurely closed connection while reading response header from upstream": "upstream prematurely closed connection",
		"recv() failed (104: Connection reset by peer) while reading response header":        "recv() failed (104",
		"recv() failed (104": "recv() failed (104",
		"upstream timed out (110: Connection timed out) while reading response header":                          "upstream timed out",
		"writev() failed (32: Broken pipe) while sending request to upstream":                                   "EPIPE",
		"epoll_wait() reported that client prematurely closed connection, so upstream connection is closed too": "client prematurely closed connection",

		// As the kernel and its tools print it.
		"TcpExtTCPAbortOnData            12                 0.0":          "TCPAbortOnData",
		"    45 connections reset due to early user close":                "TCPAbortOnClose",
		"    7 connection resets received":                                "EstabResets",
		"reason=TCP_ABORT_ON_DATA":                                        "TCP_ABORT_ON_DATA",
		"tcp_send_reset: reason=SK_RST_REASON_NO_SOCKET state=TCP_LISTEN": "NO_SOCKET",
		"reason 14":            "TCP_STATE",
		"mptcp_rst_emiddlebox": "MPTCP_RST",
		"CLOSE-WAIT 1 0 10.0.0.5:2379 10.0.0.8:40022":        "CLOSE_WAIT",
		"FIN-WAIT-1 0 3782145 10.0.0.5:443 10.0.0.9:51811":   "FIN_WAIT1",
		"too many connections in fin_wait_2":                 "FIN_WAIT2",
		"thousands of TIME_WAIT":                             "TIME_WAIT",
		"ESTAB":                                              "ESTABLISHED",
		"connection established, then: Connection timed out": "ETIMEDOUT",
	} {
		got, ok := FindSymptom(query)
		if !ok || got.Names[0] != want {
			t.Errorf("FindSymptom(%q) = %q, %t, not %s", query, first(got.Names), ok, want)
		}
	}
}

// A number or an everyday word inside something else is not a symptom.
func TestFindSymptomNotFound(t *testing.T) {
	for _, query := range []string{"", "   ", "error:", ":", "read 104 bytes from 10.0.0.104:110", "pid 32 exited", "an error of another kind", "closing the door",
		"connection established", "TCPAbortOnDataX", "MYEPIPE", "close-unread", "errno 1045"} {
		got, ok := FindSymptom(query)
		if want := query == "error:"; ok != want {
			t.Errorf("FindSymptom(%q) = %q, %t", query, first(got.Names), ok)
		}
	}
}

// Everything that the kernel names for these endings is known by that name.
func TestKernelNamesResolve(t *testing.T) {
	for kind, names := range map[string]string{
		"errno":  "ECONNRESET EPIPE ETIMEDOUT ECONNREFUSED ECONNABORTED EHOSTUNREACH ENETUNREACH EADDRINUSE EADDRNOTAVAIL ENOTCONN 104 32 110 111 103 113 101 98 99 107",
		"signal": "SIGPIPE 141",
		"reset reason": "NOT_SPECIFIED NO_SOCKET TCP_INVALID_ACK_SEQUENCE TCP_RFC7323_PAWS TCP_TOO_OLD_ACK TCP_ACK_UNSENT_DATA TCP_FLAGS TCP_OLD_ACK TCP_ABORT_ON_DATA " +
			"TCP_TIMEWAIT_SOCKET INVALID_SYN TCP_ABORT_ON_CLOSE TCP_ABORT_ON_LINGER TCP_ABORT_ON_MEMORY TCP_STATE TCP_KEEPALIVE_TIMEOUT TCP_DISCONNECT_WITH_DATA " +
			"MPTCP_RST_EUNSPEC MPTCP_RST_EMPTCP MPTCP_RST_ERESOURCE MPTCP_RST_EPROHIBIT MPTCP_RST_EWQ2BIG MPTCP_RST_EBADPERF MPTCP_RST_EMIDDLEBOX ERROR",
		"counter": "TCPAbortOnData TCPAbortOnClose TCPAbortOnMemory TCPAbortOnTimeout TCPAbortOnLinger TCPAbortFailed EstabResets OutRsts AttemptFails ListenOverflows ListenDrops " +
			"TCPTimeWaitOverflow EmbryonicRsts TCPChallengeACK TCPSYNChallenge TCPKeepAlive TCPTimeouts PAWSActive PAWSEstab PAWSOldAck PAWSTimewait PAWS RetransSegs TCPSynRetrans TCPWinProbe " +
			"TCPReqQFullDrop TCPReqQFullDoCookies SyncookiesSent SyncookiesFailed TCPMigrateReqSuccess TCPMigrateReqFailure TCPToZeroWindowAdv TCPFromZeroWindowAdv TCPWantZeroWindowAdv " +
			"TCPBacklogDrop TCPRcvQDrop TCPZeroWindowDrop PruneCalled RcvPruned TCPMemoryPressures TCPRetransFail OutOfWindowIcmps LockDroppedIcmps TCPMD5NotFound TCPAOBad TW TWRecycled TWKilled",
		"state": "CLOSE_WAIT FIN_WAIT2 TIME_WAIT FIN_WAIT1 LAST_ACK CLOSING SYN_SENT SYN_RECV ESTABLISHED CLOSE-WAIT FIN-WAIT-2 TIME-WAIT FIN-WAIT-1 LAST-ACK SYN-SENT SYN-RECV ESTAB",
	} {
		for _, name := range strings.Fields(names) {
			queries := []string{name}
			if kind == "reset reason" {
				queries = append(queries, "SK_RST_REASON_"+name)
			}
			for _, q := range queries {
				if got, ok := FindSymptom(q); !ok || got.Kind != kind {
					t.Errorf("FindSymptom(%q) = %q (%s), %t, not of kind %s", q, first(got.Names), got.Kind, ok, kind)
				}
			}
		}
	}
	// In the kernel's order, which has no gap.
	n := 0
	for _, s := range symptoms {
		for _, name := range s.Names {
			if number, ok := strings.CutPrefix(name, "reset reason "); ok {
				if number != strconv.Itoa(n) {
					t.Errorf("reset reason %s comes where %d should", number, n)
				}
				n++
			}
		}
	}
	if n != 25 {
		t.Errorf("%d reset reasons, not 25", n)
	}
}

func TestSymptomExplain(t *testing.T) {
	for _, s := range symptoms {
		text := s.Explain()
		if !strings.HasPrefix(text, s.Names[0]+" ("+s.Kind+")\n") {
			t.Errorf("%s: the title is not its name and kind", s.Names[0])
		}
		for line := range strings.Lines(text) {
			if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > 80 && !command(line) {
				t.Errorf("%s: a line of %d columns: %q", s.Names[0], n, line)
			}
		}
		at := 0
		flat := strings.Join(strings.Fields(text), " ")
		for _, c := range s.Causes {
			i := strings.Index(flat[at:], string(c)+" "+ruleOf(c).Summary())
			if i < 0 {
				t.Errorf("%s: %s and its first sentence do not stand in their place", s.Names[0], c)
				continue
			}
			at += i
		}
		for _, part := range []string{s.Meaning, s.Note} {
			if !strings.Contains(flat, part) {
				t.Errorf("%s: Explain does not say %q", s.Names[0], part)
			}
		}
	}
}
