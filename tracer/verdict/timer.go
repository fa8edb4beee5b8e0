package verdict

import (
	"maps"
	"slices"
	"strings"
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

// owners are the names that a process with a program's timer may have. A program that
// is not here is a library in any program (Go's, Rust's), or no process at all: a
// kernel, a service of a cloud.
var owners = map[string][]string{
	"Apache httpd":       {"apache2", "httpd"},
	"ASP.NET Kestrel":    {"dotnet", ".NET"},
	"Envoy":              {"envoy", "wrk:"},
	"gunicorn":           {"gunicorn", "python"},
	"HikariCP":           {"java"},
	"Jetty":              {"java"},
	"MySQL":              {"mysqld", "mariadbd", "connection"},
	"nginx":              {"nginx", "openresty", "angie"},
	"Node.js up to 25":   {"node", "MainThread"},
	"Node.js, newer":     {"node", "MainThread"},
	"PgBouncer":          {"pgbouncer"},
	"Puma":               {"puma", "ruby", "bundle"},
	"Tomcat, as shipped": {"java", "http-nio", "tomcat"},
	"Traefik":            {"traefik"},
	"uvicorn":            {"uvicorn", "python"},
}

// kernels have timers on any machine that a connection comes through, its own
// included.
var kernels = map[string]bool{"Linux IPVS": true, "Linux conntrack": true, "Linux keepalive": true, "Linux before 6.5": true, "Linux from 6.5": true}

// libraries are parts of any program that is not known to be another.
var libraries = map[string]bool{"Go net/http client": true, "hyper, reqwest": true}

// CanBe says whether a timer can be that of a connection whose ends have processes of
// these names, "" one that is not known. all: these are both ends, on one machine, and
// nothing but its kernel is between them.
func (t Timeout) CanBe(all bool, names ...string) bool {
	if kernels[t.Program] {
		return true
	}
	mine, library := owners[t.Program], libraries[t.Program]
	if mine == nil && !library {
		return !all // a service between the ends
	}
	for _, name := range names {
		switch {
		case name == "" || slices.ContainsFunc(mine, func(own string) bool { return strings.HasPrefix(name, own) }):
			return true
		case library && !slices.ContainsFunc(slices.Concat(slices.Collect(maps.Values(owners))...), func(own string) bool { return strings.HasPrefix(name, own) }):
			return true
		}
	}
	return !all
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

// FindTimeouts lists the timers that a measured time can be. A timer is never early,
// except by the jiffies in which silence is measured, and may be late.
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
