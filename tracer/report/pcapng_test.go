package report

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/pcapng"
	"github.com/tcpbye/tcpbye/tracer/pcapng/tsharktest"
)

// readPacket is a packet as another program reads it.
type readPacket struct {
	at       time.Time
	length   int
	kept     int
	tcp      *layers.TCP
	comments []string
	out      bool
	pid, tid uint32
}

// packets reads a capture with gopacket, and what that does not tell with our own
// reader.
func packets(t *testing.T, file []byte) (all []readPacket) {
	t.Helper()
	other, err := pcapgo.NewNgReader(bytes.NewReader(file), pcapgo.DefaultNgReaderOptions)
	if err != nil && len(file) > 200 {
		t.Fatal(err)
	}
	own := pcapng.NewReader(bytes.NewReader(file))
	for {
		b, err := own.Next()
		if errors.Is(err, io.EOF) {
			return all
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
		data, ci, opts, err := other.ReadPacketDataWithOptions()
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(data, p.Data) {
			t.Fatalf("%x and %x are read of one packet", data, p.Data)
		}
		packet := gopacket.NewPacket(data, layers.LinkTypeRaw, gopacket.Default)
		r := readPacket{at: ci.Timestamp.UTC(), length: ci.Length, kept: ci.CaptureLength, comments: opts.Comments, out: opts.Flags.Direction == pcapgo.NgEpbFlagDirectionOutbound}
		r.tcp, _ = packet.Layer(layers.LayerTypeTCP).(*layers.TCP)
		if r.tcp == nil {
			t.Fatalf("no TCP: %v", packet)
		}
		options, err := b.Options(p)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range options {
			if o.Code == pcapng.OptProcess {
				r.pid, r.tid = binary.LittleEndian.Uint32(o.Value), binary.LittleEndian.Uint32(o.Value[4:])
			}
		}
		for _, c := range r.comments {
			if !utf8.ValidString(c) || strings.ContainsAny(c, "\x1b\x00") {
				t.Errorf("a comment: %q", c)
			}
		}
		all = append(all, r)
	}
}

// withNumbers is closeDemo with the sequence numbers that its kernel would have told.
func withNumbers() (Judged, Judged) {
	a, b := closeDemo()
	ofClient := map[event.Hook][5]uint32{event.HookConnect: {1000, 0, 0, 0, 0}}
	for i := range a.Conn.Events {
		e := &a.Conn.Events[i]
		if n, ok := ofClient[e.Hook]; ok {
			e.WriteSeq = n[0]
		}
		switch {
		case e.Hook == event.HookSetState && e.ToState == event.Established:
			e.WriteSeq, e.SndUna, e.SndNxt, e.RcvNxt, e.CopiedSeq, e.BytesAcked = 1001, 1001, 1001, 2001, 2001, 1
			e.Segment, e.Has = event.Segment{Seq: 2000, Ack: 1001, Flags: event.SYN | event.ACK, TTL: 64, Window: 65483}, e.Has|event.HasSegment
		case e.Hook == event.HookSetState && e.ToState == event.FinWait2:
			e.WriteSeq, e.SndUna, e.SndNxt, e.RcvNxt, e.CopiedSeq = 1012, 1012, 1012, 2001, 2001
		}
	}
	for i := range b.Conn.Events {
		e := &b.Conn.Events[i]
		switch {
		case e.Hook == event.HookSetState && e.ToState == event.CloseWait:
			e.WriteSeq, e.SndUna, e.SndNxt, e.RcvNxt, e.CopiedSeq = 2001, 2001, 2001, 1012, 1011
		case e.Has&event.HasTCP != 0 && e.SndUna == 0:
			e.Has &^= event.HasTCP
		}
	}
	return a, b
}

func TestPcapng(t *testing.T) {
	a, b := withNumbers()
	file := shown(t, Pcapng, testOptions(), a, b)
	var got []string
	for _, p := range packets(t, file) {
		flags := ""
		for _, f := range []struct {
			is   bool
			name string
		}{{p.tcp.SYN, "S"}, {p.tcp.FIN, "F"}, {p.tcp.RST, "R"}, {p.tcp.PSH, "P"}, {p.tcp.ACK, "."}} {
			if f.is {
				flags += f.name
			}
		}
		direction := "in"
		if p.out {
			direction = "out"
		}
		comment := ""
		if len(p.comments) > 0 {
			comment = strings.SplitN(p.comments[0], "\n", 2)[0]
		}
		line := []any{p.at.Sub(wall).Microseconds(), flags, p.tcp.Seq, p.tcp.Ack, p.kept, p.length, direction, p.pid, p.tid, comment}
		got = append(got, strings.TrimSpace(fmt.Sprintln(line...)))
	}
	want := []string{
		"31 S 1000 0 40 40 out 185 185",
		"112 S. 2000 1001 40 40 in 185 0",
		"414031 F. 1011 2001 40 40 out 185 185 tcpbye: FIN of client/185, close()",
		"720104 P. 2001 1012 40 49 out 184 0",
		"720104 R 1012 0 40 40 out 185 0 tcpbye: aborted: data-after-close",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// TestPcapngNothing: of a connection without a segment the file says that it is not
// there.
func TestPcapngNothing(t *testing.T) {
	j := hostile()
	for i := range j.Conn.Events {
		j.Conn.Events[i].Has &^= event.HasTCP | event.HasSegment
	}
	file := shown(t, Pcapng, testOptions(), j)
	if n := len(packets(t, file)); n != 0 {
		t.Errorf("%d packets are made up", n)
	}
	if !bytes.Contains(file, []byte("1 connection is not in the file")) {
		t.Error("the file does not say what is missing")
	}
}

// TestWiresharkReadsPcapng: Wireshark finds the packets, the comments and the
// directions, and nothing wrong with them but what is not in the file.
func TestWiresharkReadsPcapng(t *testing.T) {
	a, b := withNumbers()
	file := shown(t, Pcapng, testOptions(), append([]Judged{a, b}, every()[2:]...)...)
	if bad := tsharktest.Run(t, file, "-Y", "_ws.malformed || tcp.analysis.retransmission || tcp.analysis.out_of_order || tcp.analysis.zero_window || tcp.checksum.status == 0 || ip.checksum.status == 0",
		"-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE"); bad != "" {
		t.Errorf("Wireshark finds fault with:\n%s", bad)
	}
	got := strings.Split(strings.TrimSpace(tsharktest.Run(t, file, "-Y", "tcp.stream == 0", "-T", "fields", "-e", "tcp.flags.str", "-e", "tcp.seq", "-e", "tcp.ack", "-e", "tcp.len", "-e", "frame.packet_flags_direction")), "\n")
	for i, l := range got {
		got[i] = strings.Join(strings.Fields(strings.ReplaceAll(l, "·", "")), " ")
	}
	want := []string{"S 0 0 0 2", "AS 0 1 0 1", "AF 11 1 0 2", "AP 1 12 9 1", "R 12 0 0 2"}
	for i := range want {
		// How the direction is printed differs between versions.
		if len(got) != len(want) || !strings.HasPrefix(got[i], strings.Join(strings.Fields(want[i])[:4], " ")) {
			t.Fatalf("Wireshark reads %q, want %q", got, want)
		}
	}
	comments := tsharktest.Run(t, file, "-Y", "tcp.flags.reset == 1", "-T", "fields", "-e", "frame.comment")
	for _, want := range []string{"tcpbye: aborted: data-after-close", "Lost: 9 bytes: sent by server, never acknowledged"} {
		if !strings.Contains(comments, want) {
			t.Errorf("%q is not in the comments that Wireshark reads: %s", want, comments)
		}
	}
	if slices.Contains(strings.Fields(comments), "\x1b") {
		t.Errorf("%q", comments)
	}
}
