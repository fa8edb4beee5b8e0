package verdict

import (
	"slices"
	"time"
)

// Span is what a timeout limits.
type Span uint8

const (
	SpanIdle    Span = iota // no payload goes either way
	SpanAge                 // since the connection was opened, busy or not
	SpanConnect             // from the SYN to its answer
)

// Timeout is what a well-known program or service does by default. Where the
// number is seen it may be that program's; it never proves it.
type Timeout struct {
	Span    Span
	Period  time.Duration
	Program string
	Setting string // as the program spells it
}

const (
	second = time.Second
	minute = time.Minute
	hour   = time.Hour
)

// timeouts, by program, as its documentation or its source has them.
var timeouts = []Timeout{
	{SpanIdle, 5 * second, "Apache httpd", "KeepAliveTimeout"},
	{SpanIdle, 130 * second, "ASP.NET Kestrel", "Limits.KeepAliveTimeout"},
	{SpanIdle, 60 * second, "AWS Application and Classic Load Balancer", "idle timeout"},
	{SpanIdle, 350 * second, "AWS Network Load Balancer", "tcp.idle_timeout.seconds"},
	{SpanIdle, 350 * second, "AWS Network Firewall", "TcpIdleTimeoutSeconds"},
	{SpanIdle, 4 * minute, "Azure Load Balancer", "idle timeout"},
	{SpanIdle, hour, "Envoy", "idle_timeout of HTTP connections and of tcp_proxy"},
	{SpanIdle, 90 * second, "Go net/http client", "Transport.IdleConnTimeout"},
	{SpanIdle, 10 * minute, "Google Cloud load balancer", "backend keepalive timeout"},
	{SpanIdle, 610 * second, "Google Cloud load balancer", "client HTTP keepalive timeout"},
	{SpanIdle, 1200 * second, "Google Cloud NAT", "tcpEstablishedIdleTimeoutSec"},
	{SpanIdle, 2 * second, "gunicorn", "keepalive"},
	{SpanIdle, 90 * second, "Heroku router", "keep-alive"},
	{SpanIdle, 10 * minute, "HikariCP", "idleTimeout"},
	{SpanIdle, 90 * second, "hyper, reqwest", "pool_idle_timeout"},
	{SpanIdle, 30 * second, "Jetty", "idleTimeout"},
	{SpanIdle, 15 * minute, "Linux IPVS", "ipvsadm --set, tcp"},
	{SpanIdle, 432000 * second, "Linux conntrack", "nf_conntrack_tcp_timeout_established"},
	{SpanIdle, 7875 * second, "Linux keepalive", "tcp_keepalive_time + tcp_keepalive_probes × tcp_keepalive_intvl"},
	{SpanIdle, 8 * hour, "MySQL", "wait_timeout"},
	{SpanIdle, 75 * second, "nginx", "keepalive_timeout"},
	{SpanIdle, 60 * second, "nginx", "proxy_read_timeout, or keepalive_timeout of an upstream"},
	{SpanIdle, 5 * second, "Node.js up to 25", "server.keepAliveTimeout"},
	{SpanIdle, 65 * second, "Node.js, newer", "server.keepAliveTimeout"},
	{SpanIdle, 65 * second, "Oracle Cloud load balancer", "keep-alive to clients"},
	{SpanIdle, 5 * minute, "Oracle Cloud load balancer", "keep-alive to backends"},
	{SpanIdle, 10 * minute, "PgBouncer", "server_idle_timeout"},
	{SpanIdle, 20 * second, "Puma", "persistent_timeout"},
	{SpanIdle, 20 * second, "Tomcat, as shipped", "connectionTimeout"},
	{SpanIdle, 3 * minute, "Traefik", "respondingTimeouts.idleTimeout"},
	{SpanIdle, 5 * second, "uvicorn", "--timeout-keep-alive"},

	{SpanAge, 30 * minute, "HikariCP", "maxLifetime"},
	{SpanAge, hour, "PgBouncer", "server_lifetime"},

	{SpanConnect, 30 * second, "Go net/http client", "the dialer's Timeout"},
	{SpanConnect, 127 * second, "Linux before 6.5", "tcp_syn_retries"},
	{SpanConnect, 131 * second, "Linux from 6.5", "tcp_syn_retries, tcp_syn_linear_timeouts"},
	{SpanConnect, 60 * second, "nginx", "proxy_connect_timeout"},
}

// Timeouts lists all of them.
func Timeouts() []Timeout { return slices.Clone(timeouts) }

// FindTimeouts lists those that a measured time can be. A timer is never early,
// but for the jiffies with which silence is measured, and may be late.
func FindTimeouts(span Span, d time.Duration) []Timeout {
	var found []Timeout
	for _, t := range timeouts {
		late := max(100*time.Millisecond, min(second, t.Period/100))
		if t.Span == span && d >= t.Period-20*time.Millisecond && d <= t.Period+late {
			found = append(found, t)
		}
	}
	return found
}
