package verdict

import (
	"slices"
	"testing"
)

// TestWhatPeopleType: what is in logs and what people ask finds its symptom.
func TestWhatPeopleType(t *testing.T) {
	for query, want := range map[string]string{
		"RST": "RST", "why RST": "RST", "tcp reset": "RST", "FIN": "FIN", "half-close": "FIN", "keepalive": "keepalive", "keep-alive": "keepalive",
		"net.ipv4.tcp_keepalive_time": "keepalive", "SO_KEEPALIVE": "keepalive", "tcp_retries2": "tcp_retries2", "net.ipv4.tcp_retries2 = 15": "tcp_retries2",
		"tcp_fin_timeout": "tcp_fin_timeout", "tcp_syn_retries": "tcp_syn_retries", "tcp_tw_reuse": "tcp_tw_reuse", "TCP_USER_TIMEOUT": "TCP_USER_TIMEOUT",
		"SO_LINGER": "SO_LINGER", "somaxconn": "somaxconn", "tcp_abort_on_overflow": "somaxconn", "tcp_max_orphans": "tcp_orphan_retries",
		"502": "502", "HTTP/1.1 502 Bad Gateway": "502", "504": "504", "504 Gateway Time-out": "504", "503 Service Unavailable": "503",
		"upstream connect error or disconnect/reset before headers. reset reason: connection termination": "503",
		"ERROR 2006 (HY000): MySQL server has gone away":                                                  "MySQL server has gone away",
		"(2013, 'Lost connection to MySQL server during query')":                                          "Lost connection to MySQL server",
		"kex_exchange_identification: Connection closed by remote host":                                   "kex_exchange_identification",
		"kex_exchange_identification: read: Connection reset by peer":                                     "kex_exchange_identification",
		"curl: (35) OpenSSL SSL_connect: SSL_ERROR_SYSCALL in connection to example.org:443":              "SSL_ERROR_SYSCALL",
		"read tcp 10.0.0.1:80->10.0.0.2:5: use of closed network connection":                              "use of closed network connection",
		"('Connection aborted.', RemoteDisconnected('Remote end closed connection without response'))":    "Connection aborted",
		"Connection aborted": "Connection aborted",
		"rpc error: code = Unavailable desc = transport is closing": "transport is closing",
		"socket hang up": "EOF", "net::ERR_EMPTY_RESPONSE": UnansweredName, "ERR_CONNECTION_RESET": "ECONNRESET", "net::ERR_CONNECTION_REFUSED": "ECONNREFUSED",
		"nf_conntrack": "nf_conntrack", "nf_conntrack: nf_conntrack: table full, dropping packet": "nf_conntrack",
		"org.apache.http.NoHttpResponseException: example.org:80 failed to respond": UnansweredName,
		"http: server closed idle connection":                                       "server closed idle connection", "accept4: too many open files": "too many open files",
		"TCP: request_sock_TCP: Possible SYN flooding on port 80. Sending cookies.": "possible SYN flooding", "half-open": "half-open",
	} {
		if got, ok := FindSymptom(query); !ok || got.Names[0] != want {
			t.Errorf("FindSymptom(%q) = %q, %t, not %s", query, first(got.Names), ok, want)
		}
	}
}

// TestNearest: a slip of the finger is understood, and what has nothing to do with it
// finds nothing.
func TestNearest(t *testing.T) {
	for query, want := range map[string]string{
		"close-unred": "close-unread", "tcp_retires2": "tcp_retries2", "ECONRESET": "ECONNRESET", "keepalve": "keepalive", "TIMEWAIT2": "TIMEWAIT",
		"mysql gone away": "MySQL server has gone away", "linger-zeroes": "linger-zero", "conection refused": "connection refused", "tcp_fin_timeouts": "tcp_fin_timeout",
	} {
		if got := Nearest(query, 3); !slices.Contains(got, want) {
			t.Errorf("Nearest(%q) = %q, without %s", query, got, want)
		}
	}
	for _, query := range []string{"", "  ", "no-such-cause-at-all", "what is the weather like", "xyzzy"} {
		if got := Nearest(query, 3); got != nil {
			t.Errorf("Nearest(%q) = %q", query, got)
		}
	}
	if got := Nearest("wait", 2); len(got) > 2 {
		t.Errorf("%d names, want two at most", len(got))
	}
}
