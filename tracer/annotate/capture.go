package annotate

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/pcapng"
)

// source is a capture in one of the two formats.
type source interface {
	// next is what comes next; io.EOF after the last.
	next() (item, error)
	// write writes it as pcapng, with more options if it is a packet.
	write(to io.Writer, x item, more []pcapng.Option) error
}

// item is a part of a capture. Its data is valid until the next one is read.
type item struct {
	packet bool
	simple bool // it has no room for a comment
	link   uint16
	at     time.Time
	data   []byte

	block pcapng.Block // of a pcapng file
	in    pcapng.Packet
	info  gopacket.CaptureInfo // of a pcap file
}

// open finds out which format a capture has.
func open(capture io.Reader) (source, error) {
	r := bufio.NewReaderSize(capture, 1<<16)
	head, err := r.Peek(4)
	if err != nil {
		if errors.Is(err, io.EOF) {
			return nil, errors.New("the capture is empty")
		}
		return nil, fmt.Errorf("read the capture: %w", err)
	}
	switch string(head) {
	case "\x0a\x0d\x0d\x0a":
		return &ngSource{r: pcapng.NewReader(r)}, nil
	case "\xa1\xb2\xc3\xd4", "\xd4\xc3\xb2\xa1", "\xa1\xb2\x3c\x4d", "\x4d\x3c\xb2\xa1":
		p, err := pcapgo.NewReader(r)
		if err != nil {
			return nil, fmt.Errorf("read the capture: %w", err)
		}
		return &pcapSource{r: p}, nil
	case "\xa1\xb2\xcd\x34", "\x34\xcd\xb2\xa1":
		return nil, errors.New("the capture is in the modified pcap format of Kuznetsov; editcap -F pcapng makes one that can be read")
	}
	if head[0] == 0x1f && head[1] == 0x8b || string(head) == "\x28\xb5\x2f\xfd" || string(head) == "\x04\x22\x4d\x18" {
		return nil, errors.New("the capture is compressed: unpack it first")
	}
	return nil, errors.New("it is no capture: want a file in the format pcap or pcapng")
}

// ngSource is a pcapng file.
type ngSource struct {
	r     *pcapng.Reader
	links []pcapng.Link // of the section
}

func (s *ngSource) next() (x item, err error) {
	if x.block, err = s.r.Next(); err != nil {
		return x, err
	}
	switch x.block.Type {
	case pcapng.SectionHeader:
		s.links = nil
		return x, nil
	case pcapng.Interface:
		link, err := x.block.Link()
		if err != nil {
			return x, fmt.Errorf("read the capture: %w", err)
		}
		s.links = append(s.links, link)
		return x, nil
	}
	if x.in, x.packet, err = x.block.Packet(); err != nil {
		return x, fmt.Errorf("read the capture: %w", err)
	}
	if !x.packet {
		return x, nil
	}
	if int64(x.in.Interface) >= int64(len(s.links)) {
		return x, fmt.Errorf("read the capture: a packet is of interface %d, and only %d are described before it", x.in.Interface, len(s.links))
	}
	link := s.links[x.in.Interface]
	x.link, x.data, x.simple = link.Type, x.in.Data, x.block.Type == pcapng.SimplePacket
	if x.in.Timed {
		x.at = link.Time(x.in.Ticks)
	}
	return x, nil
}

func (s *ngSource) write(to io.Writer, x item, more []pcapng.Option) error {
	raw := x.block.Bytes()
	switch {
	case x.block.Type == pcapng.SectionHeader:
		raw = x.block.Unsized() // its packets get longer
	case len(more) > 0:
		with, can, err := x.block.With(x.in, more...)
		if err != nil {
			return fmt.Errorf("read the capture: %w", err)
		}
		if can {
			raw = with
		}
	}
	_, err := to.Write(raw)
	return err
}

// pcapSource is a file in the older format.
type pcapSource struct {
	r  *pcapgo.Reader
	to *pcapng.Writer
}

func (s *pcapSource) next() (x item, err error) {
	x.data, x.info, err = s.r.ZeroCopyReadPacketData()
	if err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = fmt.Errorf("read the capture, which is cut short: %w", err)
		} else if !errors.Is(err, io.EOF) {
			err = fmt.Errorf("read the capture: %w", err)
		}
		return x, err
	}
	x.packet, x.link, x.at = true, uint16(s.r.LinkType()), x.info.Timestamp
	return x, nil
}

func (s *pcapSource) write(to io.Writer, x item, more []pcapng.Option) error {
	if s.to == nil {
		var err error
		if s.to, err = pcapng.NewWriter(to); err != nil {
			return err
		}
		if _, err = s.to.Interface(uint16(s.r.LinkType()), s.r.Snaplen()); err != nil {
			return err
		}
	}
	return s.to.Packet(0, x.at, x.data, uint32(x.info.Length), more...)
}

// packet is what is looked at in one.
type packet struct {
	from, to      netip.AddrPort
	seq, ack, len uint32
	flags         event.TCPFlags
}

// The link types that are read, as LINKTYPE_* numbers them.
var decoders = map[uint16]struct {
	name  string
	first gopacket.Decoder
}{
	0:   {"BSD loopback", layers.LinkTypeNull},
	1:   {"Ethernet", layers.LinkTypeEthernet},
	12:  {"raw IP", layers.LinkTypeRaw},
	14:  {"raw IP", layers.LinkTypeRaw},
	101: {"raw IP", layers.LinkTypeRaw},
	108: {"OpenBSD loopback", layers.LinkTypeLoop},
	113: {"Linux cooked", layers.LinkTypeLinuxSLL},
	228: {"raw IP", layers.LayerTypeIPv4},
	229: {"raw IP", layers.LayerTypeIPv6},
	276: {"Linux cooked v2", layers.LinkTypeLinuxSLL2},
}

const readableNames = "Ethernet, Linux cooked (-i any), raw IP or loopback"

func readable(link uint16) bool {
	_, ok := decoders[link]
	return ok
}

// links names link types.
func links(all map[uint16]int) string {
	var names []string
	for l := range all {
		name := fmt.Sprintf("link type %d", l)
		if known := layers.LinkType(l).String(); !strings.HasPrefix(known, "Unknown") {
			name += " (" + known + ")"
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// Others names the link types that could not be read; "" there are none.
func (p *Plan) Others() string { return links(p.Other) }

// decode finds the TCP segments in a packet: more than one where it is of a tunnel.
func decode(link uint16, data []byte) (all []packet) {
	// A malformed packet ends the decoding, with what was found until then.
	p := gopacket.NewPacket(data, decoders[link].first, gopacket.DecodeOptions{NoCopy: true, Lazy: false})
	var from, to netip.Addr
	var payload int
	for _, l := range p.Layers() {
		switch l := l.(type) {
		case *layers.IPv4:
			from, to = addr(l.SrcIP), addr(l.DstIP)
			payload = int(l.Length) - int(l.IHL)*4
			if l.Length == 0 { // TSO
				payload = len(l.Payload)
			}
			if l.FragOffset != 0 {
				return all
			}
		case *layers.IPv6:
			from, to = addr(l.SrcIP), addr(l.DstIP)
			if payload = int(l.Length); payload == 0 {
				payload = len(l.Payload)
			}
		case *layers.TCP:
			if !from.IsValid() {
				continue
			}
			s := packet{from: netip.AddrPortFrom(from, uint16(l.SrcPort)), to: netip.AddrPortFrom(to, uint16(l.DstPort)),
				seq: l.Seq, ack: l.Ack, len: uint32(max(0, payload-int(l.DataOffset)*4))}
			for f, is := range map[event.TCPFlags]bool{event.FIN: l.FIN, event.SYN: l.SYN, event.RST: l.RST, event.PSH: l.PSH, event.ACK: l.ACK, event.URG: l.URG} {
				if is {
					s.flags |= f
				}
			}
			all = append(all, s)
		}
	}
	return all
}

func addr(ip []byte) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}
