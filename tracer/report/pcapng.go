package report

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/pcapng"
	"github.com/tcpbye/tcpbye/tracer/segments"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// PcapngSink writes the segments that the events prove (see package segments) as a
// capture file for Wireshark and its like, with the process of each and with the
// verdict as comment on the one that ended the connection. A connection is written
// as it ends: its packets are in the order of time, those of several connections are
// not (reordercap(1) sorts them).
//
// There is an interface for each network namespace; a packet begins with its IP
// header. Payload is not recorded: it counts in a packet's length, and is not in the
// file. What no event tells has the value of Linux: a window of 65535, which is its
// largest without a scale, and a TTL of 64.
type PcapngSink struct {
	pairing
	out        output
	o          Options
	file       *pcapng.Writer
	interfaces map[place]uint32
	without    int           // connections of which no event proves a segment
	last       time.Duration // CLOCK_MONOTONIC
}

// NewPcapng is a sink for tools that read captures.
func NewPcapng(w io.Writer, o Options) *PcapngSink {
	s := &PcapngSink{out: output{w: w}, o: o, interfaces: map[place]uint32{}}
	s.show = s.write
	return s
}

const linkRaw = uint16(layers.LinkTypeRaw)

func (s *PcapngSink) begin() error {
	if s.file != nil {
		return s.out.err
	}
	var err error
	s.file, err = pcapng.NewWriter(&s.out, pcapng.Text(pcapng.OptApplication, "tcpbye"), pcapng.Text(pcapng.OptSystem, "Linux"),
		pcapng.Text(pcapng.OptComment, "Not a capture: the TCP segments that tcpbye's events prove. Payload is not recorded; other segments are not here."))
	return err
}

// Close implements Sink.
func (s *PcapngSink) Close() error {
	if err := s.flush(); err != nil {
		return err
	}
	if err := s.begin(); err != nil || s.without == 0 {
		return err
	}
	on, err := s.netns("", 0)
	if err != nil {
		return err
	}
	return s.file.Statistics(on, s.o.Clock.Wall(s.last), pcapng.Text(pcapng.OptComment, s.Note()))
}

// Note implements Noter.
func (s *PcapngSink) Note() string {
	switch s.without {
	case 0:
		return ""
	case 1:
		return "1 connection is not in the file: no event proves a segment of it (-o json tells of it)"
	}
	return fmt.Sprintf("%d connections are not in the file: no event proves a segment of theirs (-o json tells of them)", s.without)
}

// place is where segments were seen: a network namespace of a host.
type place struct {
	host  string
	netns uint32
}

// netns is the interface of a namespace.
func (s *PcapngSink) netns(host string, inode uint32) (uint32, error) {
	at := place{host, inode}
	on, ok := s.interfaces[at]
	if ok {
		return on, s.out.err
	}
	name := "netns unknown"
	if inode != 0 {
		name = fmt.Sprintf("netns %d", inode)
	}
	if host != "" {
		name += " on " + event.Quote(host)
	}
	on, err := s.file.Interface(linkRaw, 0, pcapng.Text(pcapng.OptName, name),
		pcapng.Text(pcapng.OptDescription, "segments that tcpbye's events prove"))
	s.interfaces[at] = on
	return on, err
}

func (s *PcapngSink) write(a, b *Judged) error {
	if err := s.begin(); err != nil {
		return err
	}
	s.last = max(s.last, a.Conn.Last)
	comments := commented(a, b)
	if len(comments) == 0 {
		s.without++
	}
	for i := range comments {
		if err := s.packet(&comments[i]); err != nil {
			return err
		}
	}
	return s.out.err
}

func (s *PcapngSink) packet(c *Commented) error {
	data, length, err := packet(&c.Segment)
	if err != nil {
		return err
	}
	on, err := s.netns(c.Host, c.NetNS)
	if err != nil {
		return err
	}
	direction := uint32(pcapng.Inbound)
	if c.Sent {
		direction = pcapng.Outbound
	}
	options := []pcapng.Option{pcapng.Flags(direction)}
	if c.PID != 0 {
		options = append(options, pcapng.Process(c.PID, c.TID))
	}
	texts := c.Comments
	if c.Several {
		texts = append(texts, fmt.Sprintf("tcpbye: these %s may have been several segments, sent by now: when, where each began and what it acknowledged is not known", bytesText(uint64(c.Len))))
	}
	if c.Latest {
		texts = append(texts, "tcpbye: no later than this; when exactly is not known")
	}
	for _, t := range texts {
		options = append(options, pcapng.Text(pcapng.OptComment, t))
	}
	return s.file.Packet(on, s.o.Clock.Wall(c.Time), data, length, options...)
}

// packet makes the packet of a segment, from the IP header on; length is what it
// would be with its payload.
func packet(s *segments.Segment) (data []byte, length uint32, err error) {
	tcp := &layers.TCP{SrcPort: layers.TCPPort(s.From.Port()), DstPort: layers.TCPPort(s.To.Port()), Seq: s.Seq, Window: 65535,
		FIN: s.Is(event.FIN), SYN: s.Is(event.SYN), RST: s.Is(event.RST), PSH: s.Is(event.PSH), ACK: s.Is(event.ACK), URG: s.Is(event.URG)}
	if tcp.ACK {
		tcp.Ack = s.Ack
	}
	ttl := uint8(64)
	switch {
	case s.Seen:
		tcp.Window, ttl = s.Window, s.TTL
	case tcp.RST && !tcp.ACK, tcp.RST && s.Seq == 0:
		tcp.Window = 0 // tcp_v4_send_reset
	}
	text := s.Text[:min(len(s.Text), int(s.Len))]
	whole := len(text) == int(s.Len)
	buf := gopacket.NewSerializeBuffer()
	opts := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: whole}
	from, to := s.From.Addr().Unmap(), s.To.Addr().Unmap()
	total := func(n uint64) uint16 { return uint16(min(n, 1<<16-1)) } // of a BIG TCP packet
	var ip gopacket.SerializableLayer
	var network gopacket.NetworkLayer
	if from.Is4() && to.Is4() {
		l := &layers.IPv4{Version: 4, IHL: 5, TTL: ttl, Id: s.IPID, Protocol: layers.IPProtocolTCP, SrcIP: from.AsSlice(), DstIP: to.AsSlice()}
		ip, network = l, l
	} else {
		from16, to16 := from.As16(), to.As16()
		l := &layers.IPv6{Version: 6, HopLimit: ttl, NextHeader: layers.IPProtocolTCP, SrcIP: from16[:], DstIP: to16[:]}
		ip, network = l, l
	}
	if err := tcp.SetNetworkLayerForChecksum(network); err != nil {
		return nil, 0, err
	}
	if err := gopacket.SerializeLayers(buf, opts, tcp, gopacket.Payload(text)); err != nil {
		return nil, 0, fmt.Errorf("make a packet: %w", err)
	}
	payload := uint64(s.Len) - uint64(len(text)) // that is not there
	opts.FixLengths, opts.ComputeChecksums = false, true
	size := uint64(len(buf.Bytes())) + payload
	switch l := ip.(type) {
	case *layers.IPv4:
		l.Length = total(size + 20)
	case *layers.IPv6:
		l.Length = total(size)
	}
	if err := ip.SerializeTo(buf, opts); err != nil {
		return nil, 0, fmt.Errorf("make a packet: %w", err)
	}
	data = buf.Bytes()
	return data, uint32(uint64(len(data)) + payload), nil
}

// Commented is a segment of a connection and what there is to say of it.
type Commented struct {
	segments.Segment
	Comments []string
	Ended    bool // it ended the connection, or is the last that is known of it
}

// commented are the segments of a connection; none where the events prove none.
func commented(a, b *Judged) []Commented {
	st := newStory(a, b, pen{})
	st.proofs = nil // there are no rows that carry their numbers
	main := st.main()
	other := st.other(main)
	var there = a.Conn.Peer
	if b != nil {
		there = b.Conn
	}
	proven := segments.Of(a.Conn, there)
	if len(proven) == 0 {
		return nil
	}
	all := make([]Commented, len(proven))
	for i, s := range proven {
		all[i].Segment = s
	}
	last := ending(main, other, proven)
	for i := range all {
		switch s := &all[i]; {
		case i == last:
			s.Ended = true
			s.Comments = append(s.Comments, comment(st))
		case s.Is(event.RST):
			s.Comments = append(s.Comments, inBrief(main))
		}
		if all[i].Is(event.FIN) {
			if text := whoseFin(a, b, &all[i].Segment); text != "" {
				all[i].Comments = append(all[i].Comments, "tcpbye: "+text)
			}
		}
	}
	return all
}

// ending is the index of the segment that ended a connection; where none did, of the
// last.
func ending(main, other *Judged, all []segments.Segment) int {
	wanted := event.RST
	if main.Verdict.Class == verdict.Graceful {
		wanted = event.FIN // also before a harmless RST
	}
	at, best := endedAt(main, other), -1
	for i := range all {
		if !all[i].Is(wanted) {
			continue
		}
		if best < 0 || wanted == event.FIN || (all[i].Time-at).Abs() < (all[best].Time-at).Abs() {
			best = i
		}
	}
	if best < 0 || main.Verdict.Class == verdict.Open || main.Verdict.Class == verdict.TimedOut {
		return len(all) - 1
	}
	return best
}

// inBrief is a verdict in a few words, for a RST that is not what ended the connection.
func inBrief(j *Judged) string {
	v := &j.Verdict
	text := "tcpbye: a RST of a connection that ended so: " + classText(v.Class) + ", " + pen{}.text(string(v.Cause))
	if v.Harmless {
		text += ", harmless"
	}
	return text
}

// comment is the verdict as text.
func comment(st *story) string {
	f := st.findings(pen{})
	var doc strings.Builder
	doc.WriteString("tcpbye: " + f.class + ": " + f.cause + f.tail + "\n")
	for _, s := range f.sentences {
		doc.WriteString(s + "\n")
	}
	for _, fd := range f.fields {
		doc.WriteString(fd.label + ": " + strings.Join(fd.lines, "; ") + "\n")
	}
	return strings.TrimSuffix(doc.String(), "\n")
}

// whoseFin says who sent a FIN, and how; "" not known.
func whoseFin(a, b *Judged, s *segments.Segment) string {
	for _, j := range []*Judged{a, b} {
		if j == nil {
			continue
		}
		fin := j.Verdict.PeerFin
		if s.From == j.Conn.Local {
			fin = j.Verdict.LocalFin
		}
		if fin != nil && fin.Actor != nil {
			return "FIN of " + pen{}.process(fin.Actor) + ", " + goodbyeText(fin)
		}
	}
	return ""
}
