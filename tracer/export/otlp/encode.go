package otlp

import (
	"bytes"
	"compress/gzip"
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	logs "go.opentelemetry.io/proto/otlp/logs/v1"
	res "go.opentelemetry.io/proto/otlp/resource/v1"
	traces "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/tcpbye/tcpbye/tracer/export/queue"
)

// The SDK's exporters over HTTP would bring gRPC into the program, with several
// megabytes, for its message types alone; and they send, where here a queue does. LogsData
// and TracesData are on the wire what the two requests are.

// putLogs puts log records into the queue. All are of one resource and one scope.
func (e *Exporter) putLogs(records []sdklog.Record) error {
	first := records[0].InstrumentationScope()
	scope := &logs.ScopeLogs{Scope: &common.InstrumentationScope{Name: first.Name, Version: first.Version}}
	for i := range records {
		scope.LogRecords = append(scope.LogRecords, logRecord(&records[i]))
	}
	all := &logs.ResourceLogs{Resource: &res.Resource{}, SchemaUrl: records[0].Resource().SchemaURL(), ScopeLogs: []*logs.ScopeLogs{scope}}
	for it := records[0].Resource().Iter(); it.Next(); {
		all.Resource.Attributes = append(all.Resource.Attributes, keyValue(it.Attribute()))
	}
	return e.put("logs", len(records), &logs.LogsData{ResourceLogs: []*logs.ResourceLogs{all}})
}

func logRecord(r *sdklog.Record) *logs.LogRecord {
	l := &logs.LogRecord{
		TimeUnixNano: uint64(r.Timestamp().UnixNano()), ObservedTimeUnixNano: uint64(r.ObservedTimestamp().UnixNano()), EventName: r.EventName(),
		SeverityNumber: logs.SeverityNumber(r.Severity()), SeverityText: r.SeverityText(), // both number as the data model does
		Body: anyValue(r.Body()), Flags: uint32(r.TraceFlags()), DroppedAttributesCount: uint32(r.DroppedAttributes()),
	}
	r.WalkAttributes(func(kv attribute.KeyValue) bool {
		l.Attributes = append(l.Attributes, keyValue(kv))
		return true
	})
	if id := r.TraceID(); id.IsValid() {
		l.TraceId = id[:]
	}
	if id := r.SpanID(); id.IsValid() {
		l.SpanId = id[:]
	}
	return l
}

func keyValue(kv attribute.KeyValue) *common.KeyValue {
	return &common.KeyValue{Key: string(kv.Key), Value: anyValue(kv.Value)}
}

// anyValue is a value of the types that attributes makes, and any other as a text.
func anyValue(v attribute.Value) *common.AnyValue {
	switch v.Type() {
	case attribute.BOOL:
		return &common.AnyValue{Value: &common.AnyValue_BoolValue{BoolValue: v.AsBool()}}
	case attribute.INT64:
		return &common.AnyValue{Value: &common.AnyValue_IntValue{IntValue: v.AsInt64()}}
	case attribute.FLOAT64:
		return &common.AnyValue{Value: &common.AnyValue_DoubleValue{DoubleValue: v.AsFloat64()}}
	case attribute.STRINGSLICE:
		list := &common.ArrayValue{}
		for _, s := range v.AsStringSlice() {
			list.Values = append(list.Values, anyValue(attribute.StringValue(s)))
		}
		return &common.AnyValue{Value: &common.AnyValue_ArrayValue{ArrayValue: list}}
	}
	return &common.AnyValue{Value: &common.AnyValue_StringValue{StringValue: v.String()}}
}

// spanClient is the way of the SDK's exporter of spans to the queue.
type spanClient struct{ e *Exporter }

var _ otlptrace.Client = spanClient{}

func (c spanClient) UploadTraces(_ context.Context, spans []*traces.ResourceSpans) error {
	n := 0
	for _, r := range spans {
		for _, s := range r.GetScopeSpans() {
			n += len(s.GetSpans())
		}
	}
	return c.e.put("traces", n, &traces.TracesData{ResourceSpans: spans})
}

func (spanClient) Start(context.Context) error { return nil }
func (spanClient) Stop(context.Context) error  { return nil }

// put puts a request into the queue.
func (e *Exporter) put(kind string, records int, m proto.Message) error {
	body, err := proto.Marshal(m)
	if err != nil {
		return err
	}
	if e.o.Gzip {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		if _, err := z.Write(body); err != nil {
			return err
		}
		if err := z.Close(); err != nil {
			return err
		}
		body = b.Bytes()
	}
	e.o.Queue.Put(queue.Batch{Kind: kind, Gzip: e.o.Gzip, Records: records, Body: body})
	return nil
}

// rejected reads an answer, which says how many records of those that were taken were
// not (partial_success, the same for logs and spans), and why.
func rejected(body []byte) (n int, why string) {
	partial, ok := field(body, 1)
	if !ok {
		return 0, ""
	}
	if v, ok := field(partial, 1); ok {
		count, size := protowire.ConsumeVarint(v)
		if size > 0 && count < 1<<31 {
			n = int(count)
		}
	}
	text, _ := field(partial, 2)
	return n, string(text)
}

// field is the last value of a message's field: the bytes of it, or the varint as it is
// encoded. An answer that is not understood has none.
func field(b []byte, want protowire.Number) (value []byte, ok bool) {
	for len(b) > 0 {
		num, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return nil, false
		}
		b = b[n:]
		if n = protowire.ConsumeFieldValue(num, kind, b); n < 0 {
			return nil, false
		}
		if num == want {
			if value, ok = b[:n], true; kind == protowire.BytesType {
				value, _ = protowire.ConsumeBytes(b)
			}
		}
		b = b[n:]
	}
	return value, ok
}
