package otlp

import (
	"context"
	"crypto/sha256"
	"fmt"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/tcpbye/tcpbye/tracer/conn"
)

// identity is what a span is to have, in a context.
type identity struct {
	trace trace.TraceID
	span  trace.SpanID
}

// identities gives the SDK the identities that stand in the context.
type identities struct{}

var _ sdktrace.IDGenerator = identities{}

func (identities) NewIDs(ctx context.Context) (trace.TraceID, trace.SpanID) {
	id, _ := ctx.Value(identity{}).(identity)
	return id.trace, id.span
}

func (identities) NewSpanID(ctx context.Context, _ trace.TraceID) trace.SpanID {
	id, _ := ctx.Value(identity{}).(identity)
	return id.span
}

// anonymous are identities for an end of which no initial sequence numbers are known.
func anonymous(c *conn.Connection, ended time.Time) (id identity) {
	sum := sha256.Sum256(fmt.Appendf(nil, "tcpbye.anonymous/1\x00%d %d %s %s %d", c.NetNS, c.Sock, c.Local, c.Remote, ended.UnixNano()))
	copy(id.trace[:], sum[:])
	copy(id.span[:], sum[16:])
	return id
}

// kindOf is who asked and who was asked.
func kindOf(c *conn.Connection) trace.SpanKind {
	switch c.Service() {
	case conn.OtherSide:
		return trace.SpanKindClient
	case conn.ThisSide:
		return trace.SpanKindServer
	}
	return trace.SpanKindInternal
}
