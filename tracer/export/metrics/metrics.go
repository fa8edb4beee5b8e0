package metrics

import (
	"encoding/hex"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/enrich"
	"github.com/tcpbye/tcpbye/tracer/export"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// Labels that may be asked for. Each is of the process that held the socket last.
const (
	Process   = "process"   // its name
	Container = "container" // as RUNTIME/ID, or the systemd unit
	Pod       = "pod"       // its Kubernetes pod: NAMESPACE/NAME, or the UID where that is not known
)

// Other is what stands in all labels of those that came after the cap.
const Other = "other"

// Options say what is counted apart.
type Options struct {
	Labels []string // of Process, Container, Pod; none: nothing is
	// Cap is how many values, or combinations of them where there are several labels,
	// are counted apart.
	Cap     int
	Version string       // of the program
	Pods    *enrich.Pods // knows the names of pods; nil: nobody does
}

// Metrics counts ends. End is for one goroutine; everything else may run beside it.
type Metrics struct {
	registry *prometheus.Registry
	ended    *prometheus.CounterVec
	likely   *prometheus.CounterVec
	unsure   *prometheus.CounterVec
	lost     *prometheus.CounterVec
	duration prometheus.Histogram

	labels []string
	cap    int
	series map[series]*counter
	whos   map[who]who // known combinations; those beyond the cap are not in it
	kinds  map[lostKind]prometheus.Counter
	pods   map[string]string // by the path of a cgroup
	known  *enrich.Pods
	due    time.Duration // CLOCK_MONOTONIC, when the histogram may have another exemplar
}

// series is what is counted apart.
type series struct {
	class    verdict.Class
	cause    verdict.Cause
	ender    verdict.Ender
	harmless bool
	sure     bool
	who      who
}

type who [3]string // by the number of the label

type lostKind struct {
	kind  string
	cause verdict.Cause
}

type counter struct {
	c   prometheus.Counter
	due time.Duration // CLOCK_MONOTONIC, when it may have another exemplar
}

// exemplarEvery is how often a series gets a new exemplar: making one costs more than
// to count, and of a second Prometheus keeps one at most.
const exemplarEvery = time.Second

// New makes the metrics and registers them.
func New(o Options) (*Metrics, error) {
	for i, l := range o.Labels {
		if !slices.Contains([]string{Process, Container, Pod}, l) {
			return nil, fmt.Errorf("no label %q: want %s, %s or %s", l, Process, Container, Pod)
		}
		if slices.Contains(o.Labels[:i], l) {
			return nil, fmt.Errorf("the label %q is asked for twice", l)
		}
	}
	if len(o.Labels) > 0 && o.Cap < 1 {
		return nil, fmt.Errorf("a cap of %d: want the number of label values that are counted apart", o.Cap)
	}
	verdicts := append([]string{"class", "cause", "ender", "harmless"}, o.Labels...)
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		ended: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tcpbye_connections_ended_total",
			Help: "Connection ends with a certain verdict.",
		}, verdicts),
		likely: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tcpbye_connections_ended_likely_total",
			Help: "Connection ends whose verdict is likely or unknown; with those that are certain they are all.",
		}, verdicts),
		unsure: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tcpbye_unsure_total",
			Help: "Connection ends whose verdict is not certain, by what is missing: hooks, events that were lost, the other end.",
		}, []string{"missing"}),
		lost: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tcpbye_lost_bytes_total",
			Help: "Payload bytes that did not get where they should: received and never read, never sent, never acknowledged. The cause is unsure where the verdict is not certain.",
		}, []string{"kind", "cause"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:                            "tcpbye_connection_duration_seconds",
			Help:                            "Time from the SYN to the end, of connections whose SYN was seen.",
			Buckets:                         []float64{.001, .01, .1, 1, 10, 60, 600, 3600, 86400}, // for who cannot store native ones
			NativeHistogramBucketFactor:     1.1,
			NativeHistogramMaxBucketNumber:  160,
			NativeHistogramMinResetDuration: time.Hour,
		}),
		labels: o.Labels, cap: o.Cap,
		series: map[series]*counter{}, whos: map[who]who{}, kinds: map[lostKind]prometheus.Counter{}, pods: map[string]string{}, known: o.Pods,
	}
	build := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "tcpbye_build_info", Help: "Always 1; the version of tcpbye."}, []string{"version"})
	build.WithLabelValues(o.Version).Set(1)
	for _, c := range []prometheus.Collector{m.ended, m.likely, m.unsure, m.lost, m.duration, build,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})} {
		if err := m.registry.Register(c); err != nil {
			return nil, fmt.Errorf("register the metrics: %w", err)
		}
	}
	return m, nil
}

// Handler answers Prometheus. Exemplars are told to who takes OpenMetrics, native
// histograms to who takes its protobuf.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{EnableOpenMetrics: true, Registry: m.registry, MaxRequestsInFlight: 4})
}

// Gatherer has all of them.
func (m *Metrics) Gatherer() prometheus.Gatherer { return m.registry }

// WriteFile writes them to a file, as node_exporter's textfile collector reads them.
func (m *Metrics) WriteFile(name string) error {
	if err := prometheus.WriteToTextfile(name, m.registry); err != nil {
		return fmt.Errorf("write the metrics to %s: %w", filepath.Clean(name), err)
	}
	return nil
}

// End counts an end. It keeps nothing of what it gets.
func (m *Metrics) End(c *conn.Connection, v *verdict.Verdict) {
	if !export.Ended(v) {
		return
	}
	n := m.counter(c, v)
	exemplar := m.exemplar(c)
	if exemplar != nil && c.Last >= n.due {
		n.due = c.Last + exemplarEvery
		n.c.(prometheus.ExemplarAdder).AddWithExemplar(1, exemplar)
	} else {
		n.c.Inc()
	}
	if !export.Sure(v) {
		m.unsure.WithLabelValues(missing(c, v)).Inc()
	}
	m.bytes(v)
	if c.Opened == 0 || c.Ended == 0 {
		return
	}
	seconds := (c.Ended - c.Opened).Seconds()
	if exemplar != nil && c.Last >= m.due {
		m.due = c.Last + exemplarEvery
		m.duration.(prometheus.ExemplarObserver).ObserveWithExemplar(seconds, exemplar)
	} else {
		m.duration.Observe(seconds)
	}
}

// exemplar names the trace; nil: it has none, or nothing is due for one.
func (m *Metrics) exemplar(c *conn.Connection) prometheus.Labels {
	id := export.Trace(c)
	if id == (export.TraceID{}) {
		return nil
	}
	return prometheus.Labels{"trace_id": hex.EncodeToString(id[:])}
}

func (m *Metrics) counter(c *conn.Connection, v *verdict.Verdict) *counter {
	s := series{class: v.Class, cause: v.Cause, ender: v.Ender, harmless: v.Harmless, sure: export.Sure(v)}
	if len(m.labels) > 0 {
		s.who = m.who(c.Owner)
	}
	n := m.series[s]
	if n != nil {
		return n
	}
	vec := m.likely
	if s.sure {
		vec = m.ended
	}
	ender := string(s.ender)
	if ender == "" {
		ender = "unknown"
	}
	values := append([]string{string(s.class), string(s.cause), ender, strconv.FormatBool(s.harmless)}, s.who[:len(m.labels)]...)
	n = &counter{c: vec.WithLabelValues(values...)}
	m.series[s] = n
	return n
}

// who are the values of the labels. The first ones that come are counted apart.
func (m *Metrics) who(p *conn.Process) who {
	var w who
	for i, l := range m.labels {
		w[i] = m.valueOf(l, p)
	}
	if known, ok := m.whos[w]; ok {
		return known
	}
	if len(m.whos) >= m.cap {
		return m.other()
	}
	m.whos[w] = w
	return w
}

func (m *Metrics) other() (w who) {
	for i := range m.labels {
		w[i] = Other
	}
	return w
}

// valueOf is "" where it is not known, which for Prometheus is no label.
func (m *Metrics) valueOf(label string, p *conn.Process) string {
	if p == nil {
		return ""
	}
	value := ""
	switch label {
	case Process:
		if value = p.Leader; value == "" {
			value = p.Comm
		}
	case Container:
		value = p.Container
	case Pod:
		value = m.pod(p.CgroupPath)
	}
	return strings.ToValidUTF8(value, "\ufffd")
}

// maxPods bounds the cgroups whose pods are kept in mind.
const maxPods = 1 << 12

// pod is that of a cgroup. To read its path takes longer than all else.
func (m *Metrics) pod(path string) string {
	pod, ok := m.pods[path]
	if !ok {
		if len(m.pods) >= maxPods {
			clear(m.pods)
		}
		box := enrich.ContainerOf(path)
		if known := m.known.Of(box); known.Name != "" {
			pod = known.Namespace + "/" + known.Name
		} else if pod = box.Pod; pod != "" {
			return pod // its name may come yet
		}
		m.pods[path] = pod
	}
	return pod
}

// missing is a label: a few hooks by their names, or that they are many.
func missing(c *conn.Connection, v *verdict.Verdict) string {
	names := export.Missing(c, v)
	if len(names) > 3 {
		return "several-hooks"
	}
	names = slices.Clone(names)
	slices.Sort(names)
	return strings.Join(slices.Compact(names), ",")
}

// bytes counts what was lost.
func (m *Metrics) bytes(v *verdict.Verdict) {
	for _, b := range []struct {
		kind string
		n    *uint64
	}{{"unread", v.Lost.Unread}, {"unsent", v.Lost.Unsent}, {"unacked", v.Lost.Unacked}} {
		if b.n == nil || *b.n == 0 {
			continue
		}
		k := lostKind{b.kind, v.Cause}
		if !export.Sure(v) {
			k.cause = "unsure"
		}
		n := m.kinds[k]
		if n == nil {
			n = m.lost.WithLabelValues(k.kind, string(k.cause))
			m.kinds[k] = n
		}
		n.Add(float64(*b.n))
	}
}
