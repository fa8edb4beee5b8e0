package otlp

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/log"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/tcpbye/tcpbye/tracer/enrich"
	"github.com/tcpbye/tcpbye/tracer/export"
	"github.com/tcpbye/tcpbye/tracer/export/queue"
	"github.com/tcpbye/tcpbye/tracer/report"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// Options say what is sent, and as what.
type Options struct {
	Target Target
	// Traces: a span for each end, too.
	Traces bool
	// Gzip compresses what is sent, and what waits.
	Gzip bool
	// Host and Version are the resource: the host's name, a stable id of it that tells
	// nobody its machine id, the version of the program. OTEL_RESOURCE_ATTRIBUTES adds
	// to them.
	Host, HostID, Version string
	// Pods knows the names of Kubernetes pods; nil: nobody does.
	Pods *enrich.Pods
	// Clock gives wall times.
	Clock report.Clock
	// Queue is where batches wait. It is closed with the Exporter.
	Queue *queue.Queue
	// Say tells people of what goes wrong; it decides how often. Last tells them, at the
	// end, what was not sent; nil: Say does.
	Say, Last func(text string)
}

// Why records were dropped, besides the queue's reasons.
const (
	Busy    = "busy"    // they came faster than they could be put together
	Refused = "refused" // the endpoint can never take them, or said that it did not
)

const (
	// batch is how many records are sent at once.
	batch = 512
	// pending bounds the records that wait to be put together.
	pending = 1 << 14
	// linger is how long a record waits for others.
	linger = time.Second
)

// scope names who makes the records.
const scope = "github.com/tcpbye/tcpbye"

// Exporter sends ends. End is for one goroutine.
type Exporter struct {
	o       Options
	logs    *sdklog.LoggerProvider
	logger  log.Logger
	spans   *sdktrace.TracerProvider // nil: none are sent
	tracer  trace.Tracer
	encoder *otlptrace.Exporter // of spans
	send    *sender

	mu     sync.Mutex
	events []sdklog.Record
	ended  []sdktrace.ReadOnlySpan
	full   chan struct{} // has a value when there is enough for a batch
	stop   chan struct{}
	done   chan struct{} // closed when everything was put together
}

// New starts one.
func New(o Options) (*Exporter, error) {
	e := &Exporter{o: o, full: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{})}
	ctx := context.Background()
	what := []attribute.KeyValue{attribute.String("service.name", "tcpbye"), attribute.String("os.type", "linux")}
	for key, value := range map[string]string{"service.version": o.Version, "host.name": o.Host, "host.id": o.HostID} {
		if value != "" {
			what = append(what, attribute.String(key, value))
		}
	}
	res, err := resource.New(ctx, resource.WithFromEnv(), resource.WithAttributes(what...))
	if err != nil {
		return nil, fmt.Errorf("say what this host is (OTEL_RESOURCE_ATTRIBUTES): %w", err)
	}
	if e.send, err = newSender(o.Target, o.Queue, o.Say); err != nil {
		return nil, err
	}
	e.logs = sdklog.NewLoggerProvider(sdklog.WithResource(res), sdklog.WithProcessor(collector{e}))
	e.logger = e.logs.Logger(scope, log.WithInstrumentationVersion(o.Version))
	if o.Traces {
		e.encoder = otlptrace.NewUnstarted(spanClient{e})
		e.spans = sdktrace.NewTracerProvider(sdktrace.WithResource(res), sdktrace.WithSampler(sdktrace.AlwaysSample()),
			sdktrace.WithIDGenerator(identities{}), sdktrace.WithSpanProcessor(finished{e}))
		e.tracer = e.spans.Tracer(scope, trace.WithInstrumentationVersion(o.Version))
	}
	go e.work()
	go e.send.run()
	return e, nil
}

// Retarget sends to somewhere else from now on, also what waits.
func (e *Exporter) Retarget(t Target) error { return e.send.retarget(t) }

// Sent is how many records the endpoint took.
func (e *Exporter) Sent() uint64 { return e.send.sent.Load() }

// Waiting is what waits, and what was dropped.
func (e *Exporter) Waiting() queue.Counts {
	c := e.o.Queue.Counts()
	e.mu.Lock()
	defer e.mu.Unlock()
	c.Records += len(e.events) + len(e.ended)
	return c
}

// SetOffset says how far the wall clock is from CLOCK_MONOTONIC in the run that begins.
func (e *Exporter) SetOffset(d time.Duration) { e.o.Clock.Offset = d }

// End implements report.Sink. It never fails: what cannot be sent is counted.
func (e *Exporter) End(j report.Judged) error {
	c, v := j.Conn, &j.Verdict
	all := attributes(c, v, e.o.Pods)
	ids := identity{trace: trace.TraceID(export.Trace(c))}
	span, parent := export.Span(c)
	ids.span = trace.SpanID(span)
	ended := e.o.Clock.Wall(c.Ended)
	if c.Ended == 0 {
		ended = e.o.Clock.Wall(c.Last) // how it ended was not seen
	}
	sentence := strings.ToValidUTF8(v.Sentence, "\ufffd")
	if sentence == v.Sentence {
		sentence = strings.Clone(sentence) // a plain end's is valid for this moment only
	}
	ctx := context.Background()
	var r log.Record
	r.SetEventName(EventName)
	r.SetTimestamp(ended)
	switch export.SeverityOf(v) {
	case export.Info:
		r.SetSeverity(log.SeverityInfo)
		r.SetSeverityText("INFO")
	case export.Warn:
		r.SetSeverity(log.SeverityWarn)
		r.SetSeverityText("WARN")
	case export.Error:
		r.SetSeverity(log.SeverityError)
		r.SetSeverityText("ERROR")
	}
	r.SetBody(attribute.StringValue(sentence))
	r.AddAttributes(all...)
	e.logger.Emit(trace.ContextWithSpanContext(ctx, trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: ids.trace, SpanID: ids.span, TraceFlags: trace.FlagsSampled})), r)
	if e.tracer == nil {
		return nil
	}
	// A span needs a trace: where nothing identifies the connection it is one of its own.
	if !ids.trace.IsValid() {
		ids = anonymous(c, ended)
	}
	ctx = context.WithValue(ctx, identity{}, ids)
	if p := trace.SpanID(parent); p.IsValid() {
		ctx = trace.ContextWithRemoteSpanContext(ctx, trace.NewSpanContext(trace.SpanContextConfig{
			TraceID: ids.trace, SpanID: p, TraceFlags: trace.FlagsSampled, Remote: true}))
	}
	began := e.o.Clock.Wall(c.First)
	if c.Opened != 0 {
		began = e.o.Clock.Wall(c.Opened)
	}
	_, s := e.tracer.Start(ctx, EventName, trace.WithTimestamp(began), trace.WithAttributes(all...), trace.WithSpanKind(kindOf(c)))
	if v.Class != verdict.Graceful && !v.Harmless {
		s.SetStatus(codes.Error, sentence)
	}
	said := []attribute.KeyValue{attribute.String("tcpbye.sentence", sentence)}
	if v.Advice != "" {
		said = append(said, attribute.String("tcpbye.advice", v.Advice))
	}
	s.AddEvent("verdict", trace.WithTimestamp(ended), trace.WithAttributes(said...))
	s.End(trace.WithTimestamp(ended))
	return nil
}

// Close puts together what waits and gives it a few seconds to be sent. What is on disk
// then stays there.
func (e *Exporter) Close() error {
	close(e.stop)
	<-e.done
	left := e.send.end()
	ctx := context.Background()
	err := e.logs.Shutdown(ctx)
	if e.spans != nil {
		err = errors.Join(err, e.spans.Shutdown(ctx))
	}
	last := e.o.Last
	if last == nil {
		last = e.o.Say
	}
	if left.Records > 0 && left.Kept {
		last(fmt.Sprintf("%d records wait in the queue for the next start", left.Records))
	} else if left.Records > 0 {
		last(fmt.Sprintf("%d records are lost: they could not be sent, and no directory keeps them", left.Records))
	}
	return errors.Join(err, e.o.Queue.Close())
}

// add takes a record that the SDK has made.
func (e *Exporter) add(record *sdklog.Record, span sdktrace.ReadOnlySpan) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.events)+len(e.ended) >= pending {
		e.o.Queue.Drop(Busy, 1)
		return
	}
	if record != nil {
		e.events = append(e.events, record.Clone())
	} else {
		e.ended = append(e.ended, span)
	}
	if len(e.events) >= batch || len(e.ended) >= batch {
		select {
		case e.full <- struct{}{}:
		default:
		}
	}
}

// work puts batches together.
func (e *Exporter) work() {
	defer close(e.done)
	tick := time.NewTicker(linger)
	defer tick.Stop()
	for over := false; !over; {
		select {
		case <-e.full:
		case <-tick.C:
		case <-e.stop:
			over = true
		}
		e.mu.Lock()
		events, ended := e.events, e.ended
		e.events, e.ended = nil, nil
		e.mu.Unlock()
		for ; len(events) > 0; events = events[min(batch, len(events)):] {
			part := events[:min(batch, len(events))]
			e.made("log records", len(part), e.putLogs(part))
		}
		for ; len(ended) > 0; ended = ended[min(batch, len(ended)):] {
			part := ended[:min(batch, len(ended))]
			e.made("spans", len(part), e.encoder.ExportSpans(context.Background(), part))
		}
	}
}

// made looks whether records are in the queue.
func (e *Exporter) made(what string, n int, err error) {
	if err != nil {
		e.o.Queue.Drop(Refused, n)
		e.o.Say(fmt.Sprintf("%d %s cannot be encoded: %v", n, what, err))
	}
}

// collector takes log records from the SDK.
type collector struct{ e *Exporter }

func (collector) Enabled(context.Context, sdklog.EnabledParameters) bool { return true }

func (c collector) OnEmit(_ context.Context, r *sdklog.Record) error {
	c.e.add(r, nil)
	return nil
}

func (collector) Shutdown(context.Context) error   { return nil }
func (collector) ForceFlush(context.Context) error { return nil }

// finished takes spans from the SDK.
type finished struct{ e *Exporter }

func (finished) OnStart(context.Context, sdktrace.ReadWriteSpan) {}
func (f finished) OnEnd(s sdktrace.ReadOnlySpan)                 { f.e.add(nil, s) }
func (finished) Shutdown(context.Context) error                  { return nil }
func (finished) ForceFlush(context.Context) error                { return nil }
