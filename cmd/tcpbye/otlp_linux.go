package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/pflag"

	"github.com/tcpbye/tcpbye/tracer/export/otlp"
	"github.com/tcpbye/tcpbye/tracer/session"
)

// otlpFlags are the settings of OTLP.
type otlpFlags struct {
	url       string
	traces    bool
	gzip      bool
	headers   []string
	ca        string
	cert, key string
	timeout   time.Duration
	queue     string
	queueSize string
}

func (o *otlpFlags) flags(f *pflag.FlagSet) {
	f.StringVar(&o.url, "otlp", "", "send events by OTLP over HTTP to `URL`: https://collector:4318")
	f.BoolVar(&o.traces, "otlp-traces", false, "send a span for each event, too: both ends of a connection are one trace")
	f.BoolVar(&o.gzip, "otlp-gzip", true, "compress what is sent")
	f.StringArrayVar(&o.headers, "otlp-header", nil, "send this `HEADER`, too: Authorization: Bearer …")
	f.StringVar(&o.ca, "otlp-ca", "", "trust the endpoint if a certificate in `FILE` (PEM) signed its own, and no others")
	f.StringVar(&o.cert, "otlp-cert", "", "show the endpoint the certificate in `FILE` (PEM)")
	f.StringVar(&o.key, "otlp-key", "", "its key is in `FILE` (PEM)")
	f.DurationVar(&o.timeout, "otlp-timeout", 10*time.Second, "give the endpoint so long to answer")
	f.StringVar(&o.queue, "otlp-queue", "", "what waits to be sent is kept in this `DIRECTORY`; by default in otlp below systemd's $STATE_DIRECTORY, or else in memory")
	f.StringVar(&o.queueSize, "otlp-queue-size", "100m", "keep so much, a `SIZE` such as 100m; beyond it the oldest goes")
}

// otlpPlan is what the settings of OTLP come to.
type otlpPlan struct {
	target otlp.Target
	queue  string // directory; "": memory
	bytes  int64
}

func (o *otlpFlags) plan(getenv func(string) string) (*otlpPlan, error) {
	if o.url == "" {
		return nil, nil
	}
	p := &otlpPlan{target: otlp.Target{URL: o.url, Headers: http.Header{}, Timeout: o.timeout}, queue: o.queue}
	var err error
	if p.bytes, err = size(o.queueSize); err != nil {
		return nil, fmt.Errorf("--otlp-queue-size %s: %w", o.queueSize, err)
	}
	if o.timeout <= 0 {
		return nil, fmt.Errorf("--otlp-timeout %v: want a time to come", o.timeout)
	}
	if dir, _, _ := strings.Cut(getenv("STATE_DIRECTORY"), ":"); p.queue == "" && dir != "" {
		p.queue = filepath.Join(dir, "otlp")
	}
	for _, h := range o.headers {
		name, value, ok := strings.Cut(h, ":")
		if !ok || strings.TrimSpace(name) == "" {
			return nil, errors.New("--otlp-header: want NAME: VALUE") // it may be a secret
		}
		p.target.Headers.Add(strings.TrimSpace(name), strings.TrimSpace(value))
	}
	if p.target.TLS, err = o.tls(); err != nil {
		return nil, err
	}
	if err := p.target.Check(); err != nil {
		return nil, fmt.Errorf("--otlp %w", err)
	}
	return p, nil
}

// tls reads the certificates; nil: there are none.
func (o *otlpFlags) tls() (*tls.Config, error) {
	if (o.cert == "") != (o.key == "") {
		return nil, errors.New("--otlp-cert and --otlp-key go together")
	}
	if o.ca == "" && o.cert == "" {
		return nil, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if o.ca != "" {
		pem, err := os.ReadFile(o.ca)
		if err != nil {
			return nil, fmt.Errorf("--otlp-ca: %w", err)
		}
		if c.RootCAs = x509.NewCertPool(); !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("--otlp-ca %s: there is no certificate in it", o.ca)
		}
	}
	if o.cert != "" {
		pair, err := tls.LoadX509KeyPair(o.cert, o.key)
		if err != nil {
			return nil, fmt.Errorf("--otlp-cert, --otlp-key: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// hostOf is the name of this host, and its identity, as recordings have it, which does
// not tell its machine id. A recording that is read may come from another one.
func hostOf(recorded bool) (name, id string, err error) {
	if recorded {
		return "", "", nil
	}
	h, err := session.Host()
	return string(h.Name), h.ID, err
}

// notify tells systemd, if it asked to be told.
func notify(state string) error {
	if _, err := daemon.SdNotify(false, state); err != nil {
		return fmt.Errorf("tell systemd %s: %w", state, err)
	}
	return nil
}
