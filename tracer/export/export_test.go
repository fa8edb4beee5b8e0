package export_test

import (
	"encoding/hex"
	"math"
	"testing"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/export"
	"github.com/tcpbye/tcpbye/tracer/record"
	"github.com/tcpbye/tcpbye/tracer/session/replaytest"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// TestTwoHosts: an end whose other end was never heard of, as on another host, has the
// same trace, the same span, the same parent, and the same place in or out of a sample.
func TestTwoHosts(t *testing.T) {
	sample, err := export.NewSample(0.3)
	if err != nil {
		t.Fatal(err)
	}
	pairs, alone, in := 0, 0, 0
	var ends []*conn.Connection // a peer has its key once it is judged itself
	replaytest.Ends(t, func(_ record.Meta, c *conn.Connection, _ verdict.Verdict) { ends = append(ends, c) })
	for _, c := range ends {
		if c.Key == ([16]byte{}) {
			continue
		}
		trace := export.Trace(c)
		span, parent := export.Span(c)
		if p := c.Peer; p != nil && c.Proven && p.Key != ([16]byte{}) {
			pairs++
			other, up := export.Span(p)
			if export.Trace(p) != trace || other == span {
				t.Errorf("%s and its peer: traces %x and %x, spans %x and %x", c.ID, trace, export.Trace(p), span, other)
			}
			if c.Open == conn.OpenActive && p.Open == conn.OpenPassive && (parent != export.SpanID{} || up != span) {
				t.Errorf("%s opened, has the parent %x, and is %x; its peer's parent is %x", c.ID, parent, span, up)
			}
			if c.Open == conn.OpenUnknown && p.Open == conn.OpenUnknown && (parent != export.SpanID{} || up != export.SpanID{}) && c.Service() == conn.NoSide {
				t.Errorf("nobody knows who opened %s, and it has a parent", c.ID)
			}
		}
		if c.Open == conn.OpenUnknown {
			continue
		}
		j := conn.New(conn.Options{Hold: true})
		for _, e := range c.Events {
			j.Add(e)
		}
		for _, one := range j.Flush() {
			if one.Local != c.Local || one.Remote != c.Remote || one.Open != c.Open || one.Key == ([16]byte{}) {
				continue
			}
			alone++
			s, p := export.Span(one)
			if export.Trace(one) != trace || s != span || p != parent {
				t.Errorf("%s alone is %x/%x below %x; with its peer %x/%x below %x", c.ID, export.Trace(one), s, p, trace, span, parent)
			}
			if sample.Has(export.Trace(one)) != sample.Has(trace) {
				t.Errorf("%s is in the sample of one host only", c.ID)
			}
		}
		if sample.Has(trace) {
			in++
		}
	}
	if pairs < 600 || alone < 600 || in < 150 {
		t.Errorf("%d ends with a peer, %d alone, %d in the sample", pairs, alone, in)
	}
}

// TestRecordID: the connection of a JSON record is the beginning of the trace.
func TestRecordID(t *testing.T) {
	c := &conn.Connection{Key: conn.KeyOf(1, 2)}
	id := export.Trace(c)
	// It stands in stores: it must never change.
	if got := hex.EncodeToString(id[:]); got != "75c69d6cba3e6a43e7c971a2dac0e0c9" {
		t.Errorf("the trace of the numbers 1 and 2 is %s", got)
	}
	c.Open = conn.OpenPassive
	span, parent := export.Span(c)
	if got := hex.EncodeToString(span[:]) + " " + hex.EncodeToString(parent[:]); got != "636dbd1d3f5d2d6b 127beab70c88a522" {
		t.Errorf("its passive end is %s", got)
	}
}

func TestSample(t *testing.T) {
	for _, share := range []float64{-0.1, 1.1, math.NaN(), math.Inf(1)} {
		if _, err := export.NewSample(share); err == nil {
			t.Errorf("a share of %v is taken", share)
		}
	}
	for _, share := range []float64{0, 0.01, 0.5, 1} {
		s, err := export.NewSample(share)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for i := range 20000 {
			if s.Has(conn.KeyOf(uint32(i), 7)) {
				n++
			}
		}
		if got := float64(n) / 20000; math.Abs(got-share) > 0.01 {
			t.Errorf("of a share of %v %v are taken", share, got)
		}
		if s.Empty() != (share == 0) || s.Has(export.TraceID{}) != (share == 1) {
			t.Errorf("a share of %v: empty %t, without a trace %t", share, s.Empty(), s.Has(export.TraceID{}))
		}
	}
}

func TestSeverity(t *testing.T) {
	n := uint64(5)
	lost := verdict.Lost{Unread: &n}
	for _, c := range []struct {
		v       verdict.Verdict
		want    export.Severity
		notable bool
	}{
		{verdict.Verdict{Class: verdict.Graceful}, export.Info, false},
		{verdict.Verdict{Class: verdict.Graceful, Unanswered: &verdict.Unanswered{}}, export.Warn, true},
		{verdict.Verdict{Class: verdict.Aborted, Harmless: true}, export.Info, true},
		{verdict.Verdict{Class: verdict.Aborted, Probe: true}, export.Info, true},
		{verdict.Verdict{Class: verdict.Aborted}, export.Warn, true},
		{verdict.Verdict{Class: verdict.Refused}, export.Warn, true},
		{verdict.Verdict{Class: verdict.TimedOut}, export.Warn, true},
		{verdict.Verdict{Class: verdict.Unknown}, export.Warn, true},
		{verdict.Verdict{Class: verdict.Aborted, Lost: lost, Retry: verdict.RetrySafe}, export.Warn, true},
		{verdict.Verdict{Class: verdict.Aborted, Lost: lost, Retry: verdict.RetryUnsafe}, export.Error, true},
		{verdict.Verdict{Class: verdict.Aborted, Lost: lost}, export.Error, true},
	} {
		if got := export.SeverityOf(&c.v); got != c.want || export.Notable(&c.v) != c.notable {
			t.Errorf("%+v: severity %d, notable %t; want %d, %t", c.v, got, export.Notable(&c.v), c.want, c.notable)
		}
	}
}
