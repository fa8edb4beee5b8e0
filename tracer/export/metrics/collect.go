package metrics

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tcpbye/tcpbye/tracer/event"
)

// Reading is one value of a metric that is read when somebody asks for it.
type Reading struct {
	Label string
	Value float64
}

// read is a metric with one label whose values somebody else counts.
type read struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	ask  func() ([]Reading, error)
	wait time.Duration // how long an answer holds

	mu    sync.Mutex
	last  []Reading
	asked time.Time
}

func (r *read) Describe(ch chan<- *prometheus.Desc) { ch <- r.desc }

func (r *read) Collect(ch chan<- prometheus.Metric) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.last == nil || time.Since(r.asked) >= r.wait {
		readings, err := r.ask()
		if err != nil && r.last == nil {
			ch <- prometheus.NewInvalidMetric(r.desc, err)
			return
		}
		if err == nil {
			r.last, r.asked = readings, time.Now()
		}
	}
	for _, x := range r.last {
		ch <- prometheus.MustNewConstMetric(r.desc, r.kind, x.Value, x.Label)
	}
}

// Lost adds the counters of events that the tracer lost, by why. ask must be safe for
// any goroutine; after an error the values of before are told.
func (m *Metrics) Lost(ask func() ([]Reading, error)) error {
	return m.registry.Register(&read{
		desc: prometheus.NewDesc("tcpbye_events_lost_total", "Events of the kernel that were lost. No verdict about a connection that lived through one is certain.", []string{"why"}, nil),
		kind: prometheus.CounterValue, ask: ask,
	})
}

// Open adds the number of sockets by their state. What it costs to ask is borne at most
// once in five seconds.
func (m *Metrics) Open(ask func() ([]event.State, error)) error {
	return m.registry.Register(&read{
		desc: prometheus.NewDesc("tcpbye_open_connections", "Connections that are open now in tcpbye's network namespace, by their state.", []string{"state"}, nil),
		kind: prometheus.GaugeValue, wait: 5 * time.Second,
		ask: func() ([]Reading, error) {
			states, err := ask()
			if err != nil {
				return nil, err
			}
			all := map[string]float64{}
			for _, name := range stateNames {
				all[name] = 0
			}
			for _, s := range states {
				if name := stateNames[s]; name != "" {
					all[name]++
				}
			}
			readings := []Reading{}
			for _, name := range slices.Sorted(maps.Keys(all)) {
				readings = append(readings, Reading{name, all[name]})
			}
			return readings, nil
		},
	})
}

// stateNames are RFC 9293's, as OpenTelemetry spells them; a listener is no connection.
var stateNames = map[event.State]string{
	event.Established: "established", event.SynSent: "syn_sent", event.SynRecv: "syn_received", event.NewSynRecv: "syn_received",
	event.FinWait1: "fin_wait_1", event.FinWait2: "fin_wait_2", event.TimeWait: "time_wait", event.CloseWait: "close_wait",
	event.LastAck: "last_ack", event.Closing: "closing",
}

// Output is what became of the events of one output.
type Output struct {
	Name    string
	Sent    uint64
	Dropped map[string]uint64 // by why
	Queued  *int              // records that wait; nil: it has no queue
	Bytes   int64             // that they take
}

// outputs tells of the outputs there are.
type outputs struct {
	ask                          func() []Output
	sent, dropped, queued, bytes *prometheus.Desc
}

// Outputs adds what becomes of events. ask must be safe for any goroutine.
func (m *Metrics) Outputs(ask func() []Output) error {
	return m.registry.Register(&outputs{
		ask:     ask,
		sent:    prometheus.NewDesc("tcpbye_export_sent_total", "Events, or spans, that an output took.", []string{"output"}, nil),
		dropped: prometheus.NewDesc("tcpbye_export_dropped_total", "Events, or spans, that were lost on their way to an output.", []string{"output", "why"}, nil),
		queued:  prometheus.NewDesc("tcpbye_export_queued", "Events, or spans, that wait to be sent.", []string{"output"}, nil),
		bytes:   prometheus.NewDesc("tcpbye_export_queued_bytes", "Bytes that wait to be sent.", []string{"output"}, nil),
	})
}

func (o *outputs) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{o.sent, o.dropped, o.queued, o.bytes} {
		ch <- d
	}
}

func (o *outputs) Collect(ch chan<- prometheus.Metric) {
	for _, x := range o.ask() {
		ch <- prometheus.MustNewConstMetric(o.sent, prometheus.CounterValue, float64(x.Sent), x.Name)
		for why, n := range x.Dropped {
			ch <- prometheus.MustNewConstMetric(o.dropped, prometheus.CounterValue, float64(n), x.Name, why)
		}
		if x.Queued != nil {
			ch <- prometheus.MustNewConstMetric(o.queued, prometheus.GaugeValue, float64(*x.Queued), x.Name)
			ch <- prometheus.MustNewConstMetric(o.bytes, prometheus.GaugeValue, float64(x.Bytes), x.Name)
		}
	}
}
