package verdict_test

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// BenchmarkJoinAndJudge plays one ending after another, as a live run does.
func BenchmarkJoinAndJudge(b *testing.B) {
	for _, x := range []struct {
		scenario string
		scope    verdict.Scope
	}{
		{"close-ipv4", verdict.Scope{}},
		{"close-unread-ipv4", verdict.Scope{}},
		{"linger-zero-ipv4", verdict.Scope{}},
		{"linger-zero-ipv4", verdict.Scope{Brief: true}},
	} {
		b.Run(fmt.Sprintf("%s/brief=%v", x.scenario, x.scope.Brief), func(b *testing.B) {
			plain := recorded(b, "6.1", x.scenario).events
			ends := 0
			var judger verdict.Judger
			j := conn.New(conn.Options{Reuse: x.scope.Brief, Done: func(c *conn.Connection) {
				ends++
				judger.Judge(c, x.scope)
			}})
			var used unix.Rusage
			cpu := func() time.Duration {
				if err := unix.Getrusage(unix.RUSAGE_SELF, &used); err != nil {
					b.Fatal(err)
				}
				return time.Duration(used.Utime.Nano() + used.Stime.Nano())
			}
			b.ReportAllocs()
			events, n := 0, 0
			now := time.Second
			begun := cpu()
			for b.Loop() {
				// One after the other, with addresses, sockets and numbers of its own.
				n++
				host := netip.AddrFrom4([4]byte{127, byte(n >> 16), byte(n >> 8), byte(n)})
				gen, seq := uint64(now), uint32(n)*0x01000193
				for _, e := range plain {
					if e.Local.IsValid() && e.Remote.IsValid() && e.Remote.Port() != 0 {
						e.Local, e.Remote = netip.AddrPortFrom(host, e.Local.Port()), netip.AddrPortFrom(host, e.Remote.Port())
					}
					now += 2 * time.Microsecond
					e.Time = now
					if e.Conn != 0 {
						e.Sock += uint64(n%4096) << 40
						e.Conn = gen + e.Conn%1_000_000
					}
					e.SndUna, e.SndNxt, e.WriteSeq = e.SndUna+seq, e.SndNxt+seq, e.WriteSeq+seq
					e.RcvNxt, e.CopiedSeq = e.RcvNxt+seq, e.CopiedSeq+seq
					j.Add(e)
					events++
				}
				if n%100 == 0 {
					j.Advance(now)
				}
			}
			j.Advance(now + time.Hour)
			b.ReportMetric(float64(events)/(cpu()-begun).Seconds(), "events/cpu-s")
			b.ReportMetric(float64(ends)/float64(b.N), "ends/op")
		})
	}
}
