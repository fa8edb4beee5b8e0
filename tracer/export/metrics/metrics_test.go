package metrics_test

import (
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/enrich"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/export/metrics"
	"github.com/tcpbye/tcpbye/tracer/record"
	"github.com/tcpbye/tcpbye/tracer/session/replaytest"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

func newMetrics(t testing.TB, o metrics.Options) *metrics.Metrics {
	t.Helper()
	m, err := metrics.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// counted are the values of a metric by its labels.
func counted(t *testing.T, m *metrics.Metrics, name string) map[string]float64 {
	t.Helper()
	families, err := m.Gatherer().Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]float64{}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, x := range f.GetMetric() {
			var labels []string
			for _, l := range x.GetLabel() {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			switch f.GetType() {
			case dto.MetricType_COUNTER:
				all[strings.Join(labels, " ")] = x.GetCounter().GetValue()
			case dto.MetricType_GAUGE:
				all[strings.Join(labels, " ")] = x.GetGauge().GetValue()
			case dto.MetricType_HISTOGRAM:
				all[strings.Join(labels, " ")] = float64(x.GetHistogram().GetSampleCount())
			}
		}
	}
	return all
}

// replayed shows every end of the recordings of four kernels.
func replayed(t testing.TB, show func(*conn.Connection, *verdict.Verdict)) {
	t.Helper()
	replaytest.Ends(t, func(_ record.Meta, c *conn.Connection, v verdict.Verdict) { show(c, &v) })
}

// TestCounts counts all recordings in another way and compares.
func TestCounts(t *testing.T) {
	m := newMetrics(t, metrics.Options{Version: "v1"})
	sure, likely, bytes := map[string]float64{}, map[string]float64{}, map[string]float64{}
	var ends, unsure, lived float64
	replayed(t, func(c *conn.Connection, v *verdict.Verdict) {
		m.End(c, v)
		if v.Class == verdict.Open {
			return
		}
		ends++
		ender := string(v.Ender)
		if ender == "" {
			ender = "unknown"
		}
		labels := fmt.Sprintf("cause=%s class=%s ender=%s harmless=%t", v.Cause, v.Class, ender, v.Harmless)
		cause := v.Cause
		if v.Confidence == verdict.Certain {
			sure[labels]++
		} else {
			likely[labels]++
			unsure++
			cause = "unsure"
		}
		for kind, n := range map[string]*uint64{"unread": v.Lost.Unread, "unsent": v.Lost.Unsent, "unacked": v.Lost.Unacked} {
			if n != nil && *n > 0 {
				bytes[fmt.Sprintf("cause=%s kind=%s", cause, kind)] += float64(*n)
			}
		}
		if c.Opened != 0 && c.Ended != 0 {
			lived++
		}
	})
	for name, want := range map[string]map[string]float64{
		"tcpbye_connections_ended_total": sure, "tcpbye_connections_ended_likely_total": likely,
		"tcpbye_lost_bytes_total": bytes, "tcpbye_connection_duration_seconds": {"": lived},
	} {
		if d := cmp.Diff(want, counted(t, m, name)); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
	sum := 0.0
	for _, n := range counted(t, m, "tcpbye_unsure_total") {
		sum += n
	}
	if sum != unsure {
		t.Errorf("%v ends lacked something, want %v", sum, unsure)
	}
	if len(sure) < 20 || len(likely) < 5 || ends < 1000 {
		t.Errorf("the recordings have only %v ends, %d kinds of certain ones and %d of others", ends, len(sure), len(likely))
	}
}

// TestLint holds the names against Prometheus's own rules, with every metric there is.
func TestLint(t *testing.T) {
	m := newMetrics(t, metrics.Options{Labels: []string{metrics.Process, metrics.Container, metrics.Pod}, Cap: 10, Version: "v1"})
	if err := m.Lost(func() ([]metrics.Reading, error) { return []metrics.Reading{{Label: "ring-full", Value: 3}}, nil }); err != nil {
		t.Fatal(err)
	}
	if err := m.Open(func() ([]event.State, error) {
		return []event.State{event.Established, event.Established, event.FinWait2, event.Listen}, nil
	}); err != nil {
		t.Fatal(err)
	}
	waiting := 5
	if err := m.Outputs(func() []metrics.Output {
		return []metrics.Output{{Name: "otlp", Sent: 7, Dropped: map[string]uint64{"busy": 2}, Queued: &waiting, Bytes: 99}}
	}); err != nil {
		t.Fatal(err)
	}
	replayed(t, m.End)
	problems, err := testutil.GatherAndLint(m.Gatherer())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	open := counted(t, m, "tcpbye_open_connections")
	if open["state=established"] != 2 || open["state=fin_wait_2"] != 1 || open["state=close_wait"] != 0 || len(open) != 9 {
		t.Errorf("open connections: %v", open)
	}
	if lost := counted(t, m, "tcpbye_events_lost_total"); lost["why=ring-full"] != 3 {
		t.Errorf("lost events: %v", lost)
	}
	// These are the names that dashboards rest on.
	want := map[string][]string{
		"tcpbye_build_info":                     {"version"},
		"tcpbye_connection_duration_seconds":    nil,
		"tcpbye_connections_ended_likely_total": {"cause", "class", "container", "ender", "harmless", "pod", "process"},
		"tcpbye_connections_ended_total":        {"cause", "class", "container", "ender", "harmless", "pod", "process"},
		"tcpbye_events_lost_total":              {"why"},
		"tcpbye_export_dropped_total":           {"output", "why"},
		"tcpbye_export_queued":                  {"output"},
		"tcpbye_export_queued_bytes":            {"output"},
		"tcpbye_export_sent_total":              {"output"},
		"tcpbye_lost_bytes_total":               {"cause", "kind"},
		"tcpbye_open_connections":               {"state"},
		"tcpbye_unsure_total":                   {"missing"},
	}
	families, err := m.Gatherer().Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string][]string{}
	for _, f := range families {
		if name := f.GetName(); strings.HasPrefix(name, "tcpbye_") {
			got[name] = nil
			for _, l := range f.GetMetric()[0].GetLabel() {
				got[name] = append(got[name], l.GetName())
			}
		}
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("names (-want +got):\n%s", d)
	}
}

// end is one that a process held.
func end(comm string, key byte, at time.Duration) (*conn.Connection, *verdict.Verdict) {
	c := &conn.Connection{Owner: &conn.Process{Comm: comm, Container: "docker/" + comm}, Opened: at, Ended: at + time.Second, Last: at + time.Second}
	c.Key[15] = key
	return c, &verdict.Verdict{Class: verdict.Aborted, Cause: verdict.CloseUnread, Ender: verdict.LocalProcess, Confidence: verdict.Certain}
}

func TestCap(t *testing.T) {
	m := newMetrics(t, metrics.Options{Labels: []string{metrics.Process, metrics.Container}, Cap: 3})
	for i := range 1000 {
		m.End(end(fmt.Sprintf("p%d", i%7), 1, 0))
	}
	m.End(end("bad\xff", 1, 0))
	got := counted(t, m, "tcpbye_connections_ended_total")
	total, names := 0.0, map[string]bool{}
	for labels, n := range got {
		total += n
		for l := range strings.FieldsSeq(labels) {
			if strings.HasPrefix(l, "process=") {
				names[l] = true
			}
		}
	}
	if want := []string{"process=other", "process=p0", "process=p1", "process=p2"}; total != 1001 || !slices.Equal(slices.Sorted(maps.Keys(names)), want) {
		t.Errorf("%v ends of %v; want 1001 of %v", total, slices.Sorted(maps.Keys(names)), want)
	}
	for _, o := range []metrics.Options{{Labels: []string{"pid"}, Cap: 1}, {Labels: []string{metrics.Pod}}, {Labels: []string{metrics.Pod, metrics.Pod}, Cap: 1}} {
		if _, err := metrics.New(o); err == nil {
			t.Errorf("%+v is taken", o)
		}
	}
}

// TestPod names pods as the kubelet does, or by their UID.
func TestPod(t *testing.T) {
	dir, id := t.TempDir(), strings.Repeat("ab", 32)
	if err := os.WriteFile(filepath.Join(dir, "web_shop_nginx-"+id+".log"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	m := newMetrics(t, metrics.Options{Labels: []string{metrics.Pod}, Cap: 10, Pods: enrich.NewPods(dir)})
	for _, box := range []string{id, id, strings.Repeat("cd", 32)} {
		c, v := end("nginx", 1, 0)
		c.Owner.CgroupPath = "/kubepods/burstable/pod7c9d2f60-8a41-4b7e-9c55-0f6f3c1d2e3b/" + box
		m.End(c, v)
	}
	for pod, want := range map[string]float64{"shop/web": 2, "7c9d2f60-8a41-4b7e-9c55-0f6f3c1d2e3b": 1} {
		if got := counted(t, m, "tcpbye_connections_ended_total")["cause=close-unread class=aborted ender=local-process harmless=false pod="+pod]; got != want {
			t.Errorf("%s has %v ends, want %v", pod, got, want)
		}
	}
}

// TestServed looks at what Prometheus gets: exemplars in OpenMetrics, native buckets in
// its protobuf.
func TestServed(t *testing.T) {
	m := newMetrics(t, metrics.Options{})
	for i := range 3 {
		m.End(end("p", byte(i+1), time.Duration(i)*100*time.Millisecond))
	}
	s := httptest.NewServer(m.Handler())
	defer s.Close()
	ask := func(accept string) string {
		req, err := http.NewRequest(http.MethodGet, s.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept", accept)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.Header.Get("Content-Type") + "\n" + string(b)
	}
	text := ask("text/plain")
	if want := `tcpbye_connections_ended_total{cause="close-unread",class="aborted",ender="local-process",harmless="false"} 3`; !strings.Contains(text, want) {
		t.Errorf("no %s in\n%s", want, text)
	}
	open := ask("application/openmetrics-text; version=1.0.0")
	// Of one second a series has one exemplar, the first.
	if want := `# {trace_id="` + hex.EncodeToString(append(make([]byte, 15), 1)) + `"}`; !strings.Contains(open, want) {
		t.Errorf("no exemplar %s in\n%s", want, open)
	}
	families, err := m.Gatherer().Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "tcpbye_connection_duration_seconds" {
			if h := f.GetMetric()[0].GetHistogram(); h.Schema == nil || len(h.GetPositiveSpan()) == 0 {
				t.Errorf("the histogram has no native buckets: %v", h)
			}
		}
	}
	if b := ask("application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"); !strings.HasPrefix(b, "application/vnd.google.protobuf") {
		t.Errorf("Prometheus asks for protobuf and gets %.60q", b)
	}
}

func BenchmarkEnd(b *testing.B) {
	m := newMetrics(b, metrics.Options{})
	c, v := end("p", 0, 0)
	c.Key = [16]byte{}
	b.ReportAllocs()
	for b.Loop() {
		m.End(c, v)
	}
}
