package otlp

import (
	"net/netip"
	"path/filepath"
	"strings"

	"go.opentelemetry.io/otel/attribute"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/enrich"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/export"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// EventName names the log record of an end, and its span.
const EventName = "tcpbye.connection.end"

// attributes are what is known of an end. What is not known is left out. Strings are
// copies: a plain end's sentence is valid for this moment only.
func attributes(c *conn.Connection, v *verdict.Verdict, pods *enrich.Pods) []attribute.KeyValue {
	a := make([]attribute.KeyValue, 0, 40)
	text := func(key, value string) {
		if value != "" {
			a = append(a, attribute.String(key, strings.ToValidUTF8(value, "\ufffd")))
		}
	}
	number := func(key string, n *uint64) {
		if n != nil {
			a = append(a, attribute.Int64(key, int64(*n)))
		}
	}
	address := func(prefix string, at netip.AddrPort) {
		if at.IsValid() {
			a = append(a, attribute.String(prefix+".address", at.Addr().WithZone("").String()), attribute.Int(prefix+".port", int(at.Port())))
		}
	}
	text("network.transport", "tcp")
	switch c.Family {
	case event.IPv4:
		text("network.type", "ipv4")
	case event.IPv6:
		text("network.type", "ipv6")
	}
	address("network.local", c.Local)
	address("network.peer", c.Remote)
	switch c.Service() {
	case conn.ThisSide:
		address("client", c.Remote)
		address("server", c.Local)
	case conn.OtherSide:
		address("client", c.Local)
		address("server", c.Remote)
	}
	if v.Class != verdict.Graceful {
		text("error.type", string(v.Cause))
	}
	if p := v.Actor; p != nil {
		process(text, &a, "process", p)
	}
	if p := c.Owner; p != nil {
		process(text, &a, "tcpbye.owner", p)
		box := enrich.ContainerOf(p.CgroupPath)
		if box.Runtime != enrich.Systemd {
			text("container.id", box.ID)
		}
		text("k8s.pod.uid", box.Pod)
		pod := pods.Of(box)
		text("k8s.namespace.name", pod.Namespace)
		text("k8s.pod.name", pod.Name)
		text("k8s.container.name", pod.Container)
		text("tcpbye.container", p.Container)
	}
	text("tcpbye.class", string(v.Class))
	text("tcpbye.cause", string(v.Cause))
	text("tcpbye.ender", string(v.Ender))
	text("tcpbye.act", string(v.Act))
	text("tcpbye.confidence", string(v.Confidence))
	if missing := export.Missing(c, v); len(missing) > 0 {
		a = append(a, attribute.StringSlice("tcpbye.missing", missing))
	}
	a = append(a, attribute.Bool("tcpbye.harmless", v.Harmless))
	if c.Open != conn.OpenUnknown {
		text("tcpbye.open", c.Open.String())
	}
	number("tcpbye.lost.unread", v.Lost.Unread)
	number("tcpbye.lost.unsent", v.Lost.Unsent)
	number("tcpbye.lost.unacked", v.Lost.Unacked)
	number("tcpbye.bytes.sent", v.Bytes.Sent)
	number("tcpbye.bytes.received", v.Bytes.Received)
	if c.Opened != 0 && c.Ended != 0 {
		a = append(a, attribute.Float64("tcpbye.duration", (c.Ended-c.Opened).Seconds()))
	}
	if len(v.AppSaw) > 0 {
		a = append(a, attribute.StringSlice("tcpbye.app_saw", v.AppSaw))
	}
	if v.Unanswered != nil {
		a = append(a, attribute.Bool("tcpbye.unanswered", true))
	}
	text("tcpbye.retry", string(v.Retry))
	text("tcpbye.retry_why", v.RetryWhy)
	text("tcpbye.advice", v.Advice)
	return a
}

// process is a task: OpenTelemetry's names of one below another prefix for the owner.
func process(text func(key, value string), a *[]attribute.KeyValue, prefix string, p *conn.Process) {
	if pid := event.PIDHere(p.PID); pid != nil {
		*a = append(*a, attribute.Int(prefix+".pid", int(*pid)))
	}
	name := p.Leader
	if name == "" {
		name = p.Comm
	}
	if p.Exe != "" {
		text(prefix+".executable.path", p.Exe)
		name = filepath.Base(p.Exe)
	}
	text(prefix+".executable.name", name)
	text(prefix+".user.name", p.User)
}
