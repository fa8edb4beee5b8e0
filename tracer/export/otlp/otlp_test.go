package otlp

import (
	"compress/gzip"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	collogs "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	coltrace "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	logs "go.opentelemetry.io/proto/otlp/logs/v1"
	traces "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/enrich"
	"github.com/tcpbye/tcpbye/tracer/export"
	"github.com/tcpbye/tcpbye/tracer/export/queue"
	"github.com/tcpbye/tcpbye/tracer/record"
	"github.com/tcpbye/tcpbye/tracer/report"
	"github.com/tcpbye/tcpbye/tracer/session/replaytest"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// endpoint takes OTLP as a collector does.
type endpoint struct {
	mu    sync.Mutex
	logs  []*logs.LogRecord
	spans []*traces.Span
	res   map[string]string
	heads []http.Header
	asked int
	came  chan struct{} // has a value after each request
	// answer says what a request gets, by its number, before it is read; false: it is
	// taken.
	answer func(w http.ResponseWriter, n int) bool
}

func newEndpoint() *endpoint {
	return &endpoint{came: make(chan struct{}, 1), res: map[string]string{}}
}

func (p *endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer func() {
		select {
		case p.came <- struct{}{}:
		default:
		}
	}()
	p.asked++
	if p.answer != nil && p.answer(w, p.asked) {
		return
	}
	body, err := unpacked(r)
	if err != nil || r.Header.Get("Content-Type") != "application/x-protobuf" {
		http.Error(w, fmt.Sprint(err), http.StatusBadRequest)
		return
	}
	p.heads = append(p.heads, r.Header)
	switch r.URL.Path {
	case "/v1/logs":
		var req collogs.ExportLogsServiceRequest
		if err := proto.Unmarshal(body, &req); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		for _, x := range req.GetResourceLogs() {
			for _, kv := range x.GetResource().GetAttributes() {
				p.res[kv.GetKey()] = kv.GetValue().GetStringValue()
			}
			for _, y := range x.GetScopeLogs() {
				p.logs = append(p.logs, y.GetLogRecords()...)
			}
		}
	case "/v1/traces":
		var req coltrace.ExportTraceServiceRequest
		if err := proto.Unmarshal(body, &req); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		for _, x := range req.GetResourceSpans() {
			for _, y := range x.GetScopeSpans() {
				p.spans = append(p.spans, y.GetSpans()...)
			}
		}
	default:
		http.NotFound(w, r)
	}
}

func unpacked(r *http.Request) ([]byte, error) {
	in := io.Reader(r.Body)
	if r.Header.Get("Content-Encoding") == "gzip" {
		z, err := gzip.NewReader(r.Body)
		if err != nil {
			return nil, err
		}
		in = z
	}
	return io.ReadAll(in)
}

// until waits for what the endpoint was asked to make something true.
func (p *endpoint) until(t testing.TB, ok func() bool) {
	t.Helper()
	limit := time.After(30 * time.Second)
	for {
		p.mu.Lock()
		is := ok()
		p.mu.Unlock()
		if is {
			return
		}
		select {
		case <-p.came:
		case <-limit:
			t.Fatalf("it does not come: %d log records, %d spans, %d requests", len(p.logs), len(p.spans), p.asked)
		}
	}
}

// said is what people are told.
type said struct {
	mu  sync.Mutex
	all []string
}

func (s *said) say(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, text)
}

func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.all, "\n")
}

func start(t testing.TB, o Options, dir string, max int64) *Exporter {
	t.Helper()
	if dir != "" {
		if err := os.Chmod(dir, 0o700); err != nil { // whatever the umask is
			t.Fatal(err)
		}
	}
	q, err := queue.Open(dir, max, func(err error) { t.Log(err) })
	if err != nil {
		t.Fatal(err)
	}
	o.Queue = q
	e, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func values(all []*common.KeyValue) map[string]*common.AnyValue {
	m := map[string]*common.AnyValue{}
	for _, kv := range all {
		m[kv.GetKey()] = kv.GetValue()
	}
	return m
}

// replayed are the ends of all recordings.
func replayed(t testing.TB, show func(record.Meta, report.Judged)) {
	t.Helper()
	replaytest.Ends(t, func(m record.Meta, c *conn.Connection, v verdict.Verdict) {
		show(m, report.Judged{Conn: c, Verdict: v})
	})
}

// TestReplay sends every end of every recording and holds what arrives against them.
func TestReplay(t *testing.T) {
	p := newEndpoint()
	s := httptest.NewTLSServer(p)
	defer s.Close()
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	var words said
	e := start(t, Options{
		Target: Target{URL: s.URL + "/", Headers: http.Header{"X-Key": {"secret"}}, TLS: &tls.Config{RootCAs: roots}, Timeout: 10 * time.Second},
		Traces: true, Gzip: true, Host: "web-1", HostID: "0123", Version: "v1", Say: words.say,
	}, t.TempDir(), 1<<30)
	var ends []report.Judged
	var clocks []report.Clock
	replayed(t, func(m record.Meta, j report.Judged) {
		if !export.Ended(&j.Verdict) {
			return
		}
		e.SetOffset(m.Offset)
		ends, clocks = append(ends, j), append(clocks, report.Clock{Offset: m.Offset})
		if err := e.End(j); err != nil {
			t.Fatal(err)
		}
	})
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if len(ends) < 1000 || len(p.logs) != len(ends) || len(p.spans) != len(ends) || e.Sent() != 2*uint64(len(ends)) {
		t.Fatalf("%d ends, %d log records, %d spans, %d sent: %v", len(ends), len(p.logs), len(p.spans), e.Sent(), &words)
	}
	for name, want := range map[string]string{"service.name": "tcpbye", "service.version": "v1", "host.name": "web-1", "host.id": "0123"} {
		if p.res[name] != want {
			t.Errorf("resource %s is %q, want %q", name, p.res[name], want)
		}
	}
	for _, h := range p.heads {
		if h.Get("X-Key") != "secret" || h.Get("Content-Encoding") != "gzip" {
			t.Fatalf("headers %v", h)
		}
	}
	severities, kinds := map[logs.SeverityNumber]int{}, map[traces.Span_SpanKind]int{}
	spans := map[string]*traces.Span{}
	for _, x := range p.spans {
		spans[hex.EncodeToString(x.GetTraceId())+hex.EncodeToString(x.GetSpanId())] = x
	}
	if len(spans) != len(ends) {
		t.Errorf("%d spans have only %d identities", len(ends), len(spans))
	}
	parents := 0
	for i, j := range ends {
		r, span, v := p.logs[i], p.spans[i], &j.Verdict
		a := values(r.GetAttributes())
		if r.GetEventName() != EventName || r.GetBody().GetStringValue() != v.Sentence || a["tcpbye.cause"].GetStringValue() != string(v.Cause) ||
			a["network.local.port"].GetIntValue() != int64(j.Conn.Local.Port()) || a["network.peer.address"].GetStringValue() != j.Conn.Remote.Addr().String() {
			t.Fatalf("%s became %v", v.Sentence, r)
		}
		if j.Conn.Ended != 0 && int64(r.GetTimeUnixNano()) != clocks[i].Wall(j.Conn.Ended).UnixNano() {
			t.Errorf("it ended at %d", r.GetTimeUnixNano())
		}
		if (v.Class == verdict.Graceful) != (a["error.type"] == nil) {
			t.Errorf("%s has error.type %v", v.Class, a["error.type"])
		}
		for name, n := range map[string]*uint64{"tcpbye.lost.unread": v.Lost.Unread, "tcpbye.lost.unsent": v.Lost.Unsent, "tcpbye.lost.unacked": v.Lost.Unacked} {
			if (n == nil) != (a[name] == nil) || n != nil && a[name].GetIntValue() != int64(*n) {
				t.Errorf("%s is %v", name, a[name])
			}
		}
		severities[r.GetSeverityNumber()]++
		kinds[span.GetKind()]++
		if j.Conn.Key != ([16]byte{}) && (string(r.GetTraceId()) != string(j.Conn.Key[:]) || string(span.GetTraceId()) != string(j.Conn.Key[:]) || string(r.GetSpanId()) != string(span.GetSpanId())) {
			t.Errorf("log record and span of %s are not of its trace", j.Conn.ID)
		}
		if len(span.GetParentSpanId()) > 0 {
			up := spans[hex.EncodeToString(span.GetTraceId())+hex.EncodeToString(span.GetParentSpanId())]
			switch {
			case span.GetKind() != traces.Span_SPAN_KIND_SERVER:
				t.Errorf("a span of kind %v has a parent", span.GetKind())
			case up == nil && j.Conn.Peer != nil && j.Conn.Proven:
				t.Errorf("the parent of %s, whose opener is here, was not sent", j.Conn.ID)
			case up != nil:
				parents++
				if up.GetKind() != traces.Span_SPAN_KIND_CLIENT || len(up.GetParentSpanId()) > 0 {
					t.Errorf("the parent is %v", up)
				}
			}
		}
		bad := v.Class != verdict.Graceful && !v.Harmless
		if bad != (span.GetStatus().GetCode() == traces.Status_STATUS_CODE_ERROR) {
			t.Errorf("%s, harmless %t, has the status %v", v.Class, v.Harmless, span.GetStatus())
		}
	}
	if parents < 400 || severities[logs.SeverityNumber_SEVERITY_NUMBER_INFO] == 0 || severities[logs.SeverityNumber_SEVERITY_NUMBER_WARN] == 0 || severities[logs.SeverityNumber_SEVERITY_NUMBER_ERROR] == 0 {
		t.Errorf("%d spans have their parents; severities %v; kinds %v", parents, severities, kinds)
	}
	if words.String() != "" {
		t.Errorf("it says %s", &words)
	}
}

// some is an end with a key of its own.
func some(i int) report.Judged {
	c := &conn.Connection{Open: conn.OpenActive, Opened: 1, First: 1, Ended: time.Second, Last: time.Second, Key: conn.KeyOf(uint32(i), 1)}
	return report.Judged{Conn: c, Verdict: verdict.Verdict{Class: verdict.Aborted, Cause: verdict.CloseUnread, Sentence: fmt.Sprint(i)}}
}

// bodies are the numbers of those that came, each once.
func (p *endpoint) bodies() (all []string) {
	for _, r := range p.logs {
		all = append(all, r.GetBody().GetStringValue())
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// wire is a network whose endpoint may be down, in the time of a test.
type wire struct {
	p    *endpoint
	down func() bool
}

func (w wire) RoundTrip(r *http.Request) (*http.Response, error) {
	if w.down != nil && w.down() {
		return nil, errors.New("connect: connection refused")
	}
	rec := httptest.NewRecorder()
	w.p.ServeHTTP(rec, r)
	return rec.Result(), nil
}

// TestDownForAnHour: nothing is lost within the bound.
func TestDownForAnHour(t *testing.T) {
	for _, dir := range []string{"", t.TempDir()} {
		synctest.Test(t, func(t *testing.T) {
			p := newEndpoint()
			up := time.Now().Add(time.Hour)
			var words said
			e := start(t, Options{Target: Target{URL: "http://collector:4318", Transport: wire{p, func() bool { return time.Now().Before(up) }}}, Gzip: true, Say: words.say}, dir, 1<<30)
			n := 0
			for time.Now().Before(up) {
				for range 3 {
					_ = e.End(some(n))
					n++
				}
				time.Sleep(10 * time.Second)
			}
			waiting := e.Waiting()
			time.Sleep(2 * maxWait)
			synctest.Wait()
			if err := e.Close(); err != nil {
				t.Error(err)
			}
			if got := len(p.bodies()); waiting.Records != n || got != n || len(p.logs) != n || e.Sent() != uint64(n) || len(e.Waiting().Dropped) > 0 {
				t.Errorf("of %d records %d waited and %d arrived, %+v", n, waiting.Records, got, e.Waiting())
			}
			if tries := strings.Count(words.String(), "connection refused"); tries < 50 || tries > 75 {
				t.Errorf("it tried %d times in an hour", tries)
			}
			if !strings.Contains(words.String(), "takes records again") {
				t.Error("it does not say that it goes on")
			}
		})
	}
}

// TestBeyondTheBound: what is dropped is counted, to the record.
func TestBeyondTheBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newEndpoint()
		var up atomic.Bool
		var words said
		e := start(t, Options{Target: Target{URL: "http://collector:4318", Transport: wire{p, func() bool { return !up.Load() }}}, Say: words.say}, t.TempDir(), 20_000)
		for i := range 1000 {
			_ = e.End(some(i))
			time.Sleep(time.Second)
		}
		synctest.Wait()
		c := e.Waiting()
		up.Store(true)
		time.Sleep(2 * maxWait)
		if err := e.Close(); err != nil {
			t.Error(err)
		}
		got := p.bodies()
		if dropped := int(c.Dropped[queue.Full]); dropped == 0 || dropped+len(got) != 1000 || !slices.Contains(got, "999") {
			t.Errorf("%d arrived and %d were dropped, of 1000; %+v", len(got), dropped, c)
		}
	})
}

// TestAnswers: what the endpoint answers decides when it is asked again.
func TestAnswers(t *testing.T) {
	status := func(code int, header, value string) func(http.ResponseWriter, int) bool {
		return func(w http.ResponseWriter, n int) bool {
			if n > 1 {
				return false
			}
			if header != "" {
				w.Header().Set(header, value)
			}
			http.Error(w, "no room", code)
			return true
		}
	}
	for _, c := range []struct {
		name    string
		answer  func(http.ResponseWriter, int) bool
		after   time.Duration // when it is asked again
		dropped int
		words   string
	}{
		{"429 and a time", status(429, "Retry-After", "30"), 30 * time.Second, 0, `429 Too Many Requests ("no room"); 4 records wait, and are sent again in 30s`},
		{"429 and a date", func(w http.ResponseWriter, n int) bool {
			return status(429, "Retry-After", time.Now().Add(45*time.Second).UTC().Format(http.TimeFormat))(w, n)
		}, 45 * time.Second, 0, "429 Too Many Requests"},
		{"429 and a year", status(429, "Retry-After", "31536000"), maxAsked, 0, "sent again in 10m0s"},
		{"500", status(500, "", ""), time.Second, 0, "answers 500 Internal Server Error"},
		{"503", status(503, "", ""), time.Second, 0, "answers 503 Service Unavailable"},
		{"401", status(401, "", ""), time.Second, 0, "look at --otlp-header"},
		{"404", status(404, "", ""), time.Second, 0, "is it the endpoint of OTLP over HTTP?"},
		{"400", status(400, "", ""), 0, 4, "4 of 4 records are dropped"},
		{"a part", func(w http.ResponseWriter, n int) bool {
			body, err := proto.Marshal(&collogs.ExportLogsServiceResponse{PartialSuccess: &collogs.ExportLogsPartialSuccess{RejectedLogRecords: 3, ErrorMessage: "too old"}})
			if err != nil {
				t.Error(err)
			}
			_, _ = w.Write(body)
			return true
		}, 0, 3, `took not all: "too old"; 3 of 4 records are dropped`},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newEndpoint()
				var at []time.Time
				p.answer = func(w http.ResponseWriter, n int) bool {
					at = append(at, time.Now())
					return c.answer(w, n)
				}
				var words said
				e := start(t, Options{Target: Target{URL: "http://collector:4318", Transport: wire{p: p}}, Say: words.say}, "", 1<<20)
				for i := range 4 {
					_ = e.End(some(i))
				}
				time.Sleep(20 * time.Minute)
				if err := e.Close(); err != nil {
					t.Error(err)
				}
				if c.dropped == 0 {
					if len(at) != 2 || len(p.logs) != 4 || e.Sent() != 4 {
						t.Fatalf("asked %d times, %d arrived", len(at), len(p.logs))
					}
					if d := at[1].Sub(at[0]); d < c.after-time.Second || d > c.after+c.after/4+time.Second {
						t.Errorf("asked again after %v, want %v", d, c.after)
					}
				} else if n := e.Waiting().Dropped[Refused]; len(at) != 1 || int(n) != c.dropped || int(e.Sent()) != 4-c.dropped {
					t.Errorf("asked %d times, dropped %d, sent %d", len(at), n, e.Sent())
				}
				if !strings.Contains(words.String(), c.words) {
					t.Errorf("it says %q, want %q", &words, c.words)
				}
			})
		})
	}
}

// TestRedirect: none is followed. The records wait, no other host sees the headers, and the
// words tell where it points without its secrets.
func TestRedirect(t *testing.T) {
	for _, code := range []int{301, 302, 303, 307, 308} {
		synctest.Test(t, func(t *testing.T) {
			p := newEndpoint()
			var methods []string
			p.answer = func(w http.ResponseWriter, n int) bool {
				if n > 1 {
					return false
				}
				w.Header().Set("Location", "https://me:S3CRET@elsewhere:4318/login?token=S3CRET#S3CRET")
				w.WriteHeader(code)
				_, _ = io.WriteString(w, "S3CRET")
				return true
			}
			seen := roundTrip(func(r *http.Request) (*http.Response, error) {
				methods = append(methods, r.Method+" "+r.URL.Host)
				if r.Body == nil {
					r.Body = http.NoBody // of a GET
				}
				resp, err := wire{p: p}.RoundTrip(r)
				resp.Request = r
				return resp, err
			})
			var words said
			e := start(t, Options{Target: Target{URL: "http://collector:4318", Headers: http.Header{"X-Key": {"S3CRET"}}, Transport: seen}, Say: words.say}, "", 1<<20)
			_ = e.End(some(1))
			time.Sleep(time.Minute)
			if err := e.Close(); err != nil {
				t.Error(err)
			}
			if got := strings.Join(methods, ", "); got != "POST collector:4318, POST collector:4318" {
				t.Errorf("%d: it asks %s", code, got)
			}
			if len(p.logs) != 1 || e.Sent() != 1 {
				t.Errorf("%d: %d arrived, and %d count as sent", code, len(p.logs), e.Sent())
			}
			if !strings.Contains(words.String(), `points to "https://me:xxxxx@elsewhere:4318/login?xxxxx", which is not followed; is it the endpoint`) || strings.Contains(words.String(), "S3CRET") {
				t.Errorf("%d: it says %s", code, &words)
			}
		})
	}
}

// TestSecrets: what is said of a URL has no password in it; the request has.
func TestSecrets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newEndpoint()
		p.answer = func(w http.ResponseWriter, n int) bool {
			if n < 3 {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
			return n < 3
		}
		n := 0
		down := func() bool { n++; return n == 1 }
		var words said
		e := start(t, Options{Target: Target{URL: "http://me:S3CRET@collector:4318", Transport: wire{p, down}}, Say: words.say}, "", 1<<20)
		_ = e.End(some(1))
		time.Sleep(time.Minute)
		if err := e.Close(); err != nil {
			t.Error(err)
		}
		for _, want := range []string{"cannot be reached", "answers 503", "takes records again"} {
			if !strings.Contains(words.String(), "http://me:xxxxx@collector:4318/v1/logs "+want) {
				t.Errorf("it does not say %q", want)
			}
		}
		if strings.Contains(words.String(), "S3CRET") {
			t.Errorf("it says %s", &words)
		}
		for _, h := range p.heads {
			if h.Get("Authorization") != "Basic bWU6UzNDUkVU" {
				t.Errorf("it sends %v", h)
			}
		}
	})
	for url, want := range map[string]string{
		"ftp://me:S3CRET@collector":    `"ftp://me:xxxxx@collector": want a URL`,
		"me:S3CRET@collector":          `"…@collector": want a URL`,
		"https://me:S3CRET/x@host":     `"…@host": it cannot be read`,
		"https://S3CRET@host:x":        `"…@host:x": it cannot be read`,
		"ftp://S3CRET@host?key=S3CRET": `"ftp://xxxxx@host?xxxxx": want a URL`,
		"https://collector:43x18":      `"https://collector:43x18": invalid port ":43x18" after host`,
	} {
		if err := (Target{URL: url}).Check(); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v, want %s", url, err, want)
		}
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestCertificate: one that is wrong costs nothing, and the words say what to do.
func TestCertificate(t *testing.T) {
	p := newEndpoint()
	s := httptest.NewUnstartedServer(p)
	s.Config.ErrorLog = nil
	s.StartTLS()
	defer s.Close()
	told := make(chan string, 100)
	e := start(t, Options{Target: Target{URL: s.URL, Timeout: 10 * time.Second}, Say: func(text string) { told <- text }}, t.TempDir(), 1<<20)
	_ = e.End(some(1))
	select {
	case text := <-told:
		if !strings.Contains(text, "is not trusted: x509: certificate signed by unknown authority; name who signed it with --otlp-ca") {
			t.Errorf("it says %s", text)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("it says nothing")
	}
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	if err := e.Retarget(Target{URL: s.URL, TLS: &tls.Config{RootCAs: roots}, Timeout: 10 * time.Second}); err != nil {
		t.Fatal(err)
	}
	p.until(t, func() bool { return len(p.logs) == 1 })
	if err := e.Close(); err != nil {
		t.Error(err)
	}
}

// TestNextStart: what one process could not send the next one sends.
func TestNextStart(t *testing.T) {
	dir, p := t.TempDir(), newEndpoint()
	synctest.Test(t, func(t *testing.T) {
		var words said
		e := start(t, Options{Target: Target{URL: "http://collector:4318", Transport: wire{p, func() bool { return true }}}, Say: words.say}, dir, 1<<20)
		for i := range 10 {
			_ = e.End(some(i))
		}
		if err := e.Close(); err != nil {
			t.Error(err)
		}
		if !strings.Contains(words.String(), "10 records wait in the queue for the next start") {
			t.Errorf("it says %q", &words)
		}
		e = start(t, Options{Target: Target{URL: "http://collector:4318", Transport: wire{p: p}}, Say: words.say}, dir, 1<<20)
		if err := e.Close(); err != nil {
			t.Error(err)
		}
		if got := p.bodies(); len(got) != 10 {
			t.Errorf("%d arrived", len(got))
		}
	})
}

func TestTargets(t *testing.T) {
	for _, url := range []string{"", "collector:4318", "ftp://collector", "http://"} {
		if err := (Target{URL: url}).Check(); err == nil {
			t.Errorf("%q is taken", url)
		}
	}
	if err := (Target{URL: "http://collector:4318", TLS: &tls.Config{}}).Check(); err == nil {
		t.Error("certificates without TLS are taken")
	}
}

// TestNames holds the attributes of every recorded end against OpenTelemetry's semantic
// conventions: what is not in them begins with tcpbye.
func TestNames(t *testing.T) {
	conventions := map[attribute.Key]attribute.Type{
		semconv.NetworkTransportKey: attribute.STRING, semconv.NetworkTypeKey: attribute.STRING,
		semconv.NetworkLocalAddressKey: attribute.STRING, semconv.NetworkLocalPortKey: attribute.INT64,
		semconv.NetworkPeerAddressKey: attribute.STRING, semconv.NetworkPeerPortKey: attribute.INT64,
		semconv.ClientAddressKey: attribute.STRING, semconv.ClientPortKey: attribute.INT64,
		semconv.ServerAddressKey: attribute.STRING, semconv.ServerPortKey: attribute.INT64,
		semconv.ErrorTypeKey: attribute.STRING, semconv.ProcessPIDKey: attribute.INT64,
		semconv.ProcessExecutableNameKey: attribute.STRING, semconv.ProcessExecutablePathKey: attribute.STRING,
		"process.user.name":    attribute.STRING, // which this version of the package does not list
		semconv.ContainerIDKey: attribute.STRING, semconv.K8SPodUIDKey: attribute.STRING, semconv.K8SPodNameKey: attribute.STRING,
		semconv.K8SNamespaceNameKey: attribute.STRING, semconv.K8SContainerNameKey: attribute.STRING,
	}
	own := map[attribute.Key]attribute.Type{
		"tcpbye.class": attribute.STRING, "tcpbye.cause": attribute.STRING, "tcpbye.ender": attribute.STRING, "tcpbye.act": attribute.STRING,
		"tcpbye.confidence": attribute.STRING, "tcpbye.missing": attribute.STRINGSLICE, "tcpbye.harmless": attribute.BOOL, "tcpbye.open": attribute.STRING,
		"tcpbye.lost.unread": attribute.INT64, "tcpbye.lost.unsent": attribute.INT64, "tcpbye.lost.unacked": attribute.INT64,
		"tcpbye.bytes.sent": attribute.INT64, "tcpbye.bytes.received": attribute.INT64, "tcpbye.duration": attribute.FLOAT64,
		"tcpbye.app_saw": attribute.STRINGSLICE, "tcpbye.unanswered": attribute.BOOL, "tcpbye.retry": attribute.STRING,
		"tcpbye.retry_why": attribute.STRING, "tcpbye.advice": attribute.STRING, "tcpbye.container": attribute.STRING,
		"tcpbye.owner.pid": attribute.INT64, "tcpbye.owner.executable.name": attribute.STRING, "tcpbye.owner.executable.path": attribute.STRING,
		"tcpbye.owner.user.name": attribute.STRING,
	}
	used := map[attribute.Key]bool{}
	logs := t.TempDir()
	if err := os.WriteFile(filepath.Join(logs, "web_shop_nginx-"+strings.Repeat("ab", 32)+".log"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	pods := enrich.NewPods(logs)
	see := func(j report.Judged) {
		for _, kv := range attributes(j.Conn, &j.Verdict, pods) {
			want, known := conventions[kv.Key]
			if !known {
				want, known = own[kv.Key]
			}
			if !known || kv.Value.Type() != want {
				t.Errorf("%s is a %v, in a table %t a %v", kv.Key, kv.Value.Type(), known, want)
			}
			used[kv.Key] = true
		}
	}
	replayed(t, func(_ record.Meta, j report.Judged) { see(j) })
	boxed := some(1) // containers are in no recording
	who := &conn.Process{PID: 7, Comm: "x", Exe: "/usr/bin/x", User: "www-data", Container: "containerd/ab",
		CgroupPath: "/kubepods/burstable/pod7c9d2f60-8a41-4b7e-9c55-0f6f3c1d2e3b/" + strings.Repeat("ab", 32)}
	boxed.Conn.Owner, boxed.Verdict.Actor = who, who
	see(boxed)
	for _, names := range []map[attribute.Key]attribute.Type{conventions, own} {
		for name := range names {
			if !used[name] {
				t.Errorf("no end has %s", name)
			}
		}
	}
}
