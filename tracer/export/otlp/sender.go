package otlp

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tcpbye/tcpbye/tracer/export/queue"
)

// Target is an endpoint.
type Target struct {
	// URL is where OTLP over HTTP is taken: https://collector:4318. /v1/logs and
	// /v1/traces are added.
	URL     string
	Headers http.Header
	TLS     *tls.Config // nil: the system's authorities
	Timeout time.Duration
	// Transport takes the place of a network; nil: there is one. For tests.
	Transport http.RoundTripper
}

const (
	firstWait = time.Second
	maxWait   = time.Minute
	// maxAsked bounds what an endpoint may ask to wait.
	maxAsked = 10 * time.Minute
	// goodbye is how long what waits may be sent when the agent ends.
	goodbye = 5 * time.Second
)

// sender takes batches from the queue to the endpoint.
type sender struct {
	queue *queue.Queue
	say   func(string)
	sent  atomic.Uint64

	mu     sync.Mutex
	target Target
	client *http.Client
	again  chan struct{} // has a value when there is another target

	stop  chan struct{}
	ended chan struct{}
	quit  context.CancelFunc
	ctx   context.Context
}

func newSender(t Target, q *queue.Queue, say func(string)) (*sender, error) {
	s := &sender{queue: q, say: say, again: make(chan struct{}, 1), stop: make(chan struct{}), ended: make(chan struct{})}
	s.ctx, s.quit = context.WithCancel(context.Background())
	return s, s.retarget(t)
}

// Check says what is wrong with a target.
func (t Target) Check() error {
	u, err := url.Parse(t.URL)
	switch {
	case err != nil:
		if strings.Contains(t.URL, "@") { // the error may show a part of it
			err = errors.New("it cannot be read")
		}
		var inner *url.Error
		if errors.As(err, &inner) {
			err = inner.Err // which does not repeat the URL
		}
		return fmt.Errorf("%q: %w", safe(t.URL), err)
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return fmt.Errorf("%q: want a URL such as https://collector:4318", safe(t.URL))
	case u.Scheme == "http" && t.TLS != nil:
		return fmt.Errorf("%q: http is without TLS; want https, or no certificates", safe(t.URL))
	}
	return nil
}

func (s *sender) retarget(t Target) error {
	if err := t.Check(); err != nil {
		return err
	}
	transport := t.Transport
	if transport == nil {
		own := http.DefaultTransport.(*http.Transport).Clone()
		own.TLSClientConfig, own.MaxIdleConns = t.TLS, 2
		transport = own
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.client
	s.target, s.client = t, &http.Client{Transport: transport, Timeout: t.Timeout, CheckRedirect: stay}
	if before == nil {
		return nil
	}
	before.CloseIdleConnections()
	select {
	case s.again <- struct{}{}:
	default:
	}
	return nil
}

// stay follows no redirect, which may make a GET without the records of a POST, and takes
// the headers to another host.
func stay(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// run sends until it is stopped.
func (s *sender) run() {
	defer close(s.ended)
	wait, failing := firstWait, false
	for {
		b, number, ok := s.queue.First(s.ctx, s.stop)
		if !ok {
			return
		}
		err := s.post(&b)
		var f *failure
		switch {
		case err == nil:
			s.queue.Done(number, "", 0)
			s.sent.Add(uint64(b.Records))
			if failing {
				s.say(fmt.Sprintf("%s takes records again; %d wait", safe(s.url(b.Kind)), s.queue.Counts().Records))
			}
			wait, failing = firstWait, false
			continue
		case errors.As(err, &f) && f.never:
			s.queue.Done(number, Refused, f.records)
			s.sent.Add(uint64(b.Records - f.records))
			s.say(fmt.Sprintf("%v; %d of %d records are dropped", err, f.records, b.Records))
			continue
		}
		failing = true
		pause := wait + rand.N(wait/4)
		if f != nil && f.after > 0 {
			pause = min(f.after, maxAsked)
		}
		s.say(fmt.Sprintf("%v; %d records wait, and are sent again in %v", err, s.queue.Counts().Records, pause.Round(time.Second/10)))
		wait = min(2*wait, maxWait)
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-s.again:
			wait = firstWait
		case <-s.stop:
			t.Stop()
			return
		}
		t.Stop()
	}
}

// end stops it, once what waits was sent or a few seconds have passed, and says what is
// left.
func (s *sender) end() queue.Counts {
	close(s.stop)
	t := time.AfterFunc(goodbye, s.quit)
	<-s.ended
	t.Stop()
	s.quit()
	s.client.CloseIdleConnections()
	return s.queue.Counts()
}

func (s *sender) url(kind string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.TrimSuffix(s.target.URL, "/") + "/v1/" + kind
}

// safe is the text of a URL, which may be none, for people.
func safe(text string) string {
	if u, err := url.Parse(text); err == nil && u.Host != "" {
		return shown(u)
	}
	if i := strings.LastIndex(text, "@"); i >= 0 {
		return "…" + text[i:]
	}
	return text
}

// shown is a URL for people, without what may be a secret in it.
func shown(u *url.URL) string {
	s := *u
	if _, password := u.User.Password(); u.User != nil && !password {
		s.User = url.User("xxxxx") // a token alone
	}
	if u.RawQuery != "" {
		s.RawQuery = "xxxxx"
	}
	s.Fragment, s.RawFragment = "", ""
	return s.Redacted()
}

// failure is an answer that is none.
type failure struct {
	text    string
	after   time.Duration // that the endpoint asks to wait; 0: it does not
	never   bool          // it is of no use to ask again
	records int           // that were not taken, where that is so
}

func (f *failure) Error() string { return f.text }

// post sends a batch.
func (s *sender) post(b *queue.Batch) error {
	to := s.url(b.Kind)
	at := safe(to)
	s.mu.Lock()
	t, client := s.target, s.client
	s.mu.Unlock()
	req, err := http.NewRequestWithContext(s.ctx, http.MethodPost, to, bytes.NewReader(b.Body))
	if err != nil {
		return unreachable(at, err)
	}
	for k, v := range t.Headers {
		req.Header[k] = v
	}
	req.Header.Set("Content-Type", "application/x-protobuf")
	req.Header.Set("User-Agent", "tcpbye")
	if b.Gzip {
		req.Header.Set("Content-Encoding", "gzip")
	}
	resp, err := client.Do(req)
	if err != nil {
		return unreachable(at, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return unreachable(at, err)
	}
	return answered(at, b, resp, body)
}

// unreachable says in words why nobody answered.
func unreachable(at string, err error) error {
	var cert *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	var timeout net.Error
	var inner *url.Error
	if errors.As(err, &inner) {
		err = inner.Err // which does not repeat the URL
	}
	switch {
	case errors.As(err, &cert):
		return fmt.Errorf("the certificate of %s is not trusted: %w; name who signed it with --otlp-ca", at, cert.Err)
	case errors.As(err, &record):
		return fmt.Errorf("%s does not speak TLS: %w; is it http?", at, err)
	case errors.As(err, &timeout) && timeout.Timeout():
		return fmt.Errorf("%s does not answer in time: %w", at, err)
	}
	return fmt.Errorf("%s cannot be reached: %w", at, err)
}

// answered reads the answer.
func answered(at string, b *queue.Batch, resp *http.Response, body []byte) error {
	status := resp.StatusCode
	text := at + " answers " + resp.Status
	if said := strings.TrimSpace(string(body)); said != "" && status >= 400 && len(said) < 300 {
		text += fmt.Sprintf(" (%q)", said)
	}
	f := &failure{text: text, after: retryAfter(resp.Header.Get("Retry-After")), records: b.Records}
	switch {
	case status >= 200 && status < 300:
		n, why := rejected(body)
		if n == 0 {
			return nil
		}
		return &failure{text: fmt.Sprintf("%s took not all: %q", at, why), never: true, records: min(n, b.Records)}
	case status == http.StatusTooManyRequests, status == http.StatusRequestTimeout, status >= 500:
		return f
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		f.text += "; look at --otlp-header"
		return f
	case status < 400:
		if to, err := resp.Location(); err == nil {
			f.text += fmt.Sprintf(" and points to %q, which is not followed", shown(to))
		}
		f.text += "; is it the endpoint of OTLP over HTTP?"
		return f
	case status == http.StatusNotFound, status == http.StatusMethodNotAllowed:
		f.text += "; is it the endpoint of OTLP over HTTP?"
		return f
	}
	f.never = true
	return f
}

// retryAfter reads the header: seconds, or a date.
func retryAfter(text string) time.Duration {
	if n, err := strconv.ParseUint(text, 10, 31); err == nil {
		return time.Duration(n) * time.Second
	}
	if at, err := http.ParseTime(text); err == nil {
		return max(0, time.Until(at))
	}
	return 0
}
