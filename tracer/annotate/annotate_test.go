package annotate_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"github.com/tcpbye/tcpbye/tracer/annotate"
	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/pcapng"
	"github.com/tcpbye/tcpbye/tracer/pcapng/tsharktest"
	"github.com/tcpbye/tcpbye/tracer/record"
	"github.com/tcpbye/tcpbye/tracer/report"
	"github.com/tcpbye/tcpbye/tracer/session"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// The testdata is of one run in a guest with Linux 6.1: five connections of a Python
// program (graceful, close-unread, data-after-close, port-closed, linger-zero over
// IPv6), traced by tcpbye and captured by tcpdump on lo and on any.

// connections is what the recording says.
func connections(t *testing.T) (all []annotate.Connection) {
	t.Helper()
	f, err := os.Open("testdata/run.tcpbye")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var sink *report.AnnotationSink
	_, err = session.Replay(f, func(m record.Meta) (session.Config, error) {
		sink = report.NewAnnotations(report.Options{Clock: report.Clock{Offset: m.Offset}}, func(c annotate.Connection) { all = append(all, c) })
		return session.Config{Show: func(c *conn.Connection, v verdict.Verdict) error {
			return sink.End(report.Judged{Conn: c, Verdict: v})
		}}, nil
	})
	if err = errors.Join(err, sink.Close()); err != nil {
		t.Fatal(err)
	}
	if len(all) != 5 {
		t.Fatalf("%d connections in the recording", len(all))
	}
	return all
}

func testdata(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// captured are the packets of tcpdump's capture of lo.
func captured(t *testing.T) (data [][]byte, infos []gopacket.CaptureInfo) {
	t.Helper()
	r, err := pcapgo.NewReader(bytes.NewReader(testdata(t, "lo.pcap")))
	if err != nil {
		t.Fatal(err)
	}
	for {
		d, ci, err := r.ReadPacketData()
		if errors.Is(err, io.EOF) {
			return data, infos
		}
		if err != nil {
			t.Fatal(err)
		}
		data, infos = append(data, d), append(infos, ci)
	}
}

// again is the capture of lo with other link layers, or in another format.
func again(t *testing.T, link layers.LinkType, header func(ip []byte) []byte) []byte {
	var b bytes.Buffer
	w := pcapgo.NewWriterNanos(&b)
	if err := w.WriteFileHeader(0, link); err != nil {
		t.Fatal(err)
	}
	data, infos := captured(t)
	for i, d := range data {
		ip := d[14:]
		d = append(header(ip), ip...)
		ci := infos[i]
		ci.Length, ci.CaptureLength = len(d), len(d)
		if err := w.WritePacket(ci, d); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

func etherType(ip []byte) []byte {
	if ip[0]>>4 == 6 {
		return []byte{0x86, 0xdd}
	}
	return []byte{0x08, 0x00}
}

// bigEndian is the capture as pcapng in the other byte order, with a block of another
// program, a comment that was there, and a section that says how long it is.
func bigEndian(t *testing.T) []byte {
	o := binary.BigEndian
	block := func(kind uint32, body []byte) []byte {
		for len(body)%4 != 0 {
			body = append(body, 0)
		}
		size := uint32(len(body) + 12)
		return o.AppendUint32(append(o.AppendUint32(o.AppendUint32(nil, kind), size), body...), size)
	}
	var rest []byte
	rest = append(rest, block(pcapng.Interface, []byte{0, 1, 0, 0, 0, 0, 0, 0})...)
	data, infos := captured(t)
	for i, d := range data {
		us := uint64(infos[i].Timestamp.UnixMicro())
		body := o.AppendUint32(nil, 0)
		for _, n := range []uint32{uint32(us >> 32), uint32(us), uint32(len(d)), uint32(infos[i].Length)} {
			body = o.AppendUint32(body, n)
		}
		body = append(body, d...)
		for len(body)%4 != 0 {
			body = append(body, 0)
		}
		body = append(body, 0, 1, 0, 4, 'm', 'i', 'n', 'e', 0, 0, 0, 0)
		rest = append(rest, block(pcapng.EnhancedPacket, body)...)
		if i == 3 {
			rest = append(rest, block(0x0bad, []byte("of another program"))...)
		}
	}
	head := o.AppendUint32(nil, 0x1a2b3c4d)
	head = append(head, 0, 1, 0, 0)
	head = o.AppendUint64(head, uint64(len(rest)))
	return append(block(pcapng.SectionHeader, head), rest...)
}

// commented are the packets that got comments of ours: their numbers and the first
// line of each.
func commented(t *testing.T, file []byte) (all []string, packets int) {
	t.Helper()
	r := pcapng.NewReader(bytes.NewReader(file))
	for {
		b, err := r.Next()
		if errors.Is(err, io.EOF) {
			return all, packets
		}
		if err != nil {
			t.Fatal(err)
		}
		p, is, err := b.Packet()
		if err != nil {
			t.Fatal(err)
		}
		if !is {
			continue
		}
		packets++
		options, err := b.Options(p)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range options {
			if line, _, _ := strings.Cut(string(o.Value), "\n"); o.Code == pcapng.OptComment && line != "mine" {
				all = append(all, fmt.Sprint(packets, " ", line))
			}
		}
	}
}

var want = []string{
	"8 tcpbye: FIN of python3/115, close()",
	"9 tcpbye: graceful: orderly-close",
	"9 tcpbye: FIN of python3/115, close()",
	"16 tcpbye: aborted: close-unread",
	"20 tcpbye: FIN of python3/115, close()",
	"22 tcpbye: aborted: data-after-close",
	"24 tcpbye: refused: port-closed",
	"30 tcpbye: aborted: linger-zero",
}

func annotated(t *testing.T, capture []byte, all []annotate.Connection) (*annotate.Plan, []byte) {
	t.Helper()
	plan, err := annotate.Match(bytes.NewReader(capture), all)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := plan.Write(bytes.NewReader(capture), &out); err != nil {
		t.Fatal(err)
	}
	return plan, out.Bytes()
}

// TestCaptures: the same packets get the same comments whatever the capture is like.
func TestCaptures(t *testing.T) {
	all := connections(t)
	for _, x := range []struct {
		name    string
		capture []byte
	}{
		{"Ethernet", testdata(t, "lo.pcap")},
		{"Linux cooked", testdata(t, "sll.pcap")},
		{"Linux cooked v2, cut at 96 bytes", testdata(t, "sll2.pcap")},
		{"raw IP", again(t, layers.LinkTypeRaw, func([]byte) []byte { return nil })},
		{"BSD loopback", again(t, layers.LinkTypeNull, func(ip []byte) []byte {
			if ip[0]>>4 == 6 {
				return []byte{30, 0, 0, 0}
			}
			return []byte{2, 0, 0, 0}
		})},
		{"OpenBSD loopback", again(t, layers.LinkTypeLoop, func(ip []byte) []byte {
			if ip[0]>>4 == 6 {
				return []byte{0, 0, 0, 24}
			}
			return []byte{0, 0, 0, 2}
		})},
		{"VLAN", again(t, layers.LinkTypeEthernet, func(ip []byte) []byte {
			return append(append(make([]byte, 12), 0x81, 0x00, 0x00, 0x07), etherType(ip)...)
		})},
		{"two VLANs", again(t, layers.LinkTypeEthernet, func(ip []byte) []byte {
			return append(append(make([]byte, 12), 0x88, 0xa8, 0x00, 0x07, 0x81, 0x00, 0x00, 0x08), etherType(ip)...)
		})},
		{"pcapng, big-endian", bigEndian(t)},
	} {
		t.Run(x.name, func(t *testing.T) {
			plan, out := annotated(t, x.capture, all)
			got, packets := commented(t, out)
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
			if plan.Found != 5 || plan.Commented != 7 || packets != 30 {
				t.Errorf("%d connections, %d of %d packets", plan.Found, plan.Commented, packets)
			}
			// Its packets are as they were, to the byte and the microsecond.
			in, out2 := packetsOf(t, x.capture), packetsOf(t, out)
			if d := cmp.Diff(in, out2); d != "" {
				t.Errorf("packets are not what they were (-in +out):\n%s", d)
			}
			// What is annotated can be annotated again.
			if plan, _ := annotated(t, out, all); plan.Commented != 7 {
				t.Errorf("annotated again: %d packets", plan.Commented)
			}
		})
	}
}

// packetsOf are a capture's packets as gopacket reads them.
func packetsOf(t *testing.T, capture []byte) (all []string) {
	t.Helper()
	var next func() ([]byte, gopacket.CaptureInfo, error)
	if bytes.HasPrefix(capture, []byte{0x0a, 0x0d, 0x0d, 0x0a}) {
		r, err := pcapgo.NewNgReader(bytes.NewReader(capture), pcapgo.DefaultNgReaderOptions)
		if err != nil {
			t.Fatal(err)
		}
		next = r.ReadPacketData
	} else {
		r, err := pcapgo.NewReader(bytes.NewReader(capture))
		if err != nil {
			t.Fatal(err)
		}
		next = r.ReadPacketData
	}
	for {
		d, ci, err := next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, fmt.Sprintf("%v %d %x", ci.Timestamp.UTC(), ci.Length, d))
	}
}

// TestMarksAreCaptured: every segment that the events prove, but for runs of payload
// that they do not cut, is in the capture with these numbers.
func TestMarksAreCaptured(t *testing.T) {
	seen := map[string]bool{}
	data, _ := captured(t)
	for _, d := range data {
		p := gopacket.NewPacket(d, layers.LinkTypeEthernet, gopacket.Default)
		tcp, _ := p.TransportLayer().(*layers.TCP)
		if tcp == nil {
			t.Fatal(p)
		}
		flags := event.TCPFlags(0)
		for f, is := range map[event.TCPFlags]bool{event.FIN: tcp.FIN, event.SYN: tcp.SYN, event.RST: tcp.RST, event.PSH: tcp.PSH, event.ACK: tcp.ACK} {
			if is {
				flags |= f
			}
		}
		seen[fmt.Sprint(uint16(tcp.SrcPort), uint16(tcp.DstPort), tcp.Seq, tcp.Ack, flags, len(tcp.Payload))] = true
	}
	n := 0
	for _, c := range connections(t) {
		for _, m := range c.Marks {
			if m.Cut {
				continue
			}
			n++
			if !seen[fmt.Sprint(m.From.Port(), m.To.Port(), m.Seq, m.Ack, m.Flags, m.Len)] {
				t.Errorf("%v > %v: %v %d %d, %d bytes: not captured", m.From, m.To, m.Flags, m.Seq, m.Ack, m.Len)
			}
		}
	}
	if n < 20 {
		t.Errorf("only %d segments", n)
	}
}

// TestOthersStay: what is not a packet is there as it was, and the header no longer
// says how long a section is that has got longer.
func TestOthersStay(t *testing.T) {
	_, out := annotated(t, bigEndian(t), connections(t))
	if !bytes.Contains(out, []byte("of another program")) {
		t.Error("the block of another program is gone")
	}
	if n := bytes.Count(out, []byte("mine")); n != 30 {
		t.Errorf("%d of 30 comments that were there are left", n)
	}
	if size := binary.BigEndian.Uint64(out[16:]); size != 1<<64-1 {
		t.Errorf("the section claims to have %d bytes", size)
	}
}

// fields are what tshark says of each packet.
func fields(t *testing.T, capture []byte, names ...string) string {
	t.Helper()
	args := []string{"-T", "fields"}
	for _, n := range names {
		args = append(args, "-e", n)
	}
	return tsharktest.Run(t, capture, args...)
}

// TestWireshark: Wireshark reads the comments, and thinks of the packets what it
// thought before.
func TestWireshark(t *testing.T) {
	capture := testdata(t, "lo.pcap")
	_, out := annotated(t, capture, connections(t))
	same := []string{"frame.number", "frame.time_epoch", "frame.len", "tcp.stream", "tcp.seq", "tcp.ack", "tcp.flags", "tcp.len", "tcp.analysis.flags"}
	before := fields(t, capture, same...)
	if d := cmp.Diff(before, fields(t, out, same...)); d != "" {
		t.Errorf("Wireshark thinks otherwise of the packets (-before +after):\n%s", d)
	}
	lines := strings.Split(fields(t, out, "frame.number", "frame.comment"), "\n")
	for _, w := range want {
		number, text, _ := strings.Cut(w, " ")
		if !slices.ContainsFunc(lines, func(l string) bool {
			return strings.HasPrefix(l, number+"\t") && strings.Contains(l, text)
		}) {
			t.Errorf("Wireshark does not read %q in packet %s:\n%s", text, number, strings.Join(lines, "\n"))
		}
	}
}

// TestWithoutTheEnd: a verdict whose packet was not captured goes to the last packet
// of its connection, and says so.
func TestWithoutTheEnd(t *testing.T) {
	var b bytes.Buffer
	w := pcapgo.NewWriter(&b)
	if err := w.WriteFileHeader(0, layers.LinkTypeEthernet); err != nil {
		t.Fatal(err)
	}
	data, infos := captured(t)
	for i, d := range data[:15] { // the RST of close-unread is the 16th
		if err := w.WritePacket(infos[i], d); err != nil {
			t.Fatal(err)
		}
	}
	plan, out := annotated(t, b.Bytes(), connections(t))
	got, _ := commented(t, out)
	if !slices.Contains(got, "15 tcpbye: aborted: close-unread") || plan.Found != 2 {
		t.Errorf("%d found: %q", plan.Found, got)
	}
	if !bytes.Contains(out, []byte("is not in this capture")) {
		t.Error("the comment does not say that the end is missing")
	}
}

// TestSameAddresses: of two connections with the same addresses and ports each packet
// finds its own, by its numbers, and where these could be of both, by its time.
func TestSameAddresses(t *testing.T) {
	a, b := netip.MustParseAddrPort("10.0.0.1:4000"), netip.MustParseAddrPort("10.0.0.2:80")
	at := time.Date(2026, 3, 14, 10, 0, 0, 0, time.UTC)
	var all []annotate.Connection
	for i, x := range []struct {
		isn   uint32
		after time.Duration
	}{{1000, 0}, {2_000_000_000, time.Minute}, {1000, time.Hour}} {
		first := at.Add(x.after)
		all = append(all, annotate.Connection{A: a, B: b, First: first, Last: first.Add(time.Second), Verdict: fmt.Sprint("verdict ", i), Brief: "reset",
			Marks: []annotate.Mark{
				{From: a, To: b, Seq: x.isn, Flags: event.SYN, Time: first},
				{From: b, To: a, Seq: 5000, Ack: x.isn + 1, Flags: event.RST | event.ACK, Time: first.Add(time.Second), Ended: true},
			}})
	}
	var file bytes.Buffer
	w, err := pcapng.NewWriter(&file)
	if err != nil {
		t.Fatal(err)
	}
	on, err := w.Interface(101, 0)
	if err != nil {
		t.Fatal(err)
	}
	send := func(at time.Time, ack uint32) {
		buf := gopacket.NewSerializeBuffer()
		ip := &layers.IPv4{Version: 4, IHL: 5, TTL: 64, Protocol: layers.IPProtocolTCP, SrcIP: b.Addr().AsSlice(), DstIP: a.Addr().AsSlice()}
		tcp := &layers.TCP{SrcPort: layers.TCPPort(b.Port()), DstPort: layers.TCPPort(a.Port()), Seq: 5000, Ack: ack, ACK: true, RST: true}
		if err := tcp.SetNetworkLayerForChecksum(ip); err != nil {
			t.Fatal(err)
		}
		if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, ip, tcp); err != nil {
			t.Fatal(err)
		}
		if err := w.Packet(on, at, buf.Bytes(), uint32(len(buf.Bytes()))); err != nil {
			t.Fatal(err)
		}
	}
	send(at.Add(time.Hour+time.Second), 1001)
	send(at.Add(time.Second), 1001)
	send(at.Add(time.Hour+2*time.Second), 2_000_000_001) // its clock is wrong, its number is not
	send(at.Add(time.Second), 3_900_000_000)             // nobody's
	_, out := annotated(t, file.Bytes(), all)
	got, _ := commented(t, out)
	if d := cmp.Diff([]string{"1 verdict 2", "2 verdict 0", "3 verdict 1"}, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// TestRefused: what cannot be read is named, and what to do.
func TestRefused(t *testing.T) {
	lo := testdata(t, "lo.pcap")
	wireless := bytes.Clone(lo)
	wireless[20] = 127
	for _, x := range []struct{ name, file, want string }{
		{"empty", "", "empty"},
		{"a text", "once upon a time", "no capture"},
		{"gzip", "\x1f\x8b\x08\x00aaaa", "unpack"},
		{"zstd", "\x28\xb5\x2f\xfdaaaa", "unpack"},
		{"Kuznetsov's", "\x34\xcd\xb2\xa1aaaaaaaaaaaaaaaaaaaa", "editcap"},
		{"radio", string(wireless), "link type 127 (RadioTap), which cannot be read here: want Ethernet"},
		{"cut at once", string(lo[:30]), "cut short"},
	} {
		_, err := annotate.Match(strings.NewReader(x.file), nil)
		if err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%s: %v, want %q", x.name, err, x.want)
		}
	}
}

// TestCut: of a capture that is cut, as when tcpdump was killed, what there is gets its
// comments.
func TestCut(t *testing.T) {
	lo := testdata(t, "lo.pcap")
	_, whole := annotated(t, lo, nil)
	for name, file := range map[string][]byte{"pcap": lo, "pcapng": whole} {
		plan, out := annotated(t, file[:len(file)-5], connections(t))
		got, packets := commented(t, out)
		if !plan.Cut || packets != 29 || !slices.Contains(got, "24 tcpbye: refused: port-closed") || plan.Found != 5 {
			t.Errorf("%s: %+v, %d packets, %q", name, plan, packets, got)
		}
		if plan, _ := annotated(t, file, nil); plan.Cut {
			t.Errorf("%s: a whole one is said to be cut", name)
		}
	}
}

func FuzzMatch(f *testing.F) {
	f.Add(testdata(f, "lo.pcap"))
	f.Add(testdata(f, "sll2.pcap"))
	a, b := netip.MustParseAddrPort("127.0.0.1:36056"), netip.MustParseAddrPort("127.0.0.1:41715")
	all := []annotate.Connection{{A: a, B: b, Verdict: "v", Brief: "b"}}
	f.Fuzz(func(t *testing.T, in []byte) {
		plan, err := annotate.Match(bytes.NewReader(in), all)
		if err != nil {
			return
		}
		if err := plan.Write(bytes.NewReader(in), io.Discard); err != nil {
			t.Fatal(err)
		}
	})
}
