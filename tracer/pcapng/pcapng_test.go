package pcapng_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"github.com/tcpbye/tcpbye/tracer/pcapng"
)

var at = time.Date(2026, 3, 14, 10, 41, 7, 250_000_001, time.UTC)

// file has one packet, which carries every option that we write.
func file(t testing.TB) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := pcapng.NewWriter(&b, pcapng.Text(pcapng.OptApplication, "tcpbye"))
	if err != nil {
		t.Fatal(err)
	}
	on, err := w.Interface(1, 96, pcapng.Text(pcapng.OptName, "lo"))
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Packet(on, at, []byte{1, 2, 3, 4, 5}, 9, pcapng.Flags(pcapng.Outbound), pcapng.Process(7, 8), pcapng.Text(pcapng.OptComment, "größe")); err != nil {
		t.Fatal(err)
	}
	if err := w.Packet(5, at, nil, 0); err == nil {
		t.Error("a packet of an interface that is not described was written")
	}
	if err := w.Statistics(on, at, pcapng.Text(pcapng.OptComment, "over")); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// read is the packets of a file, with the time of each.
func read(t testing.TB, file []byte) (packets []pcapng.Packet, times []time.Time, options [][]pcapng.Option) {
	t.Helper()
	r := pcapng.NewReader(bytes.NewReader(file))
	var link pcapng.Link
	for {
		b, err := r.Next()
		if errors.Is(err, io.EOF) {
			return packets, times, options
		}
		if err != nil {
			t.Fatal(err)
		}
		if b.Type == pcapng.Interface {
			if link, err = b.Link(); err != nil {
				t.Fatal(err)
			}
		}
		p, is, err := b.Packet()
		if err != nil {
			t.Fatal(err)
		}
		if is {
			o, err := b.Options(p)
			if err != nil {
				t.Fatal(err)
			}
			p.Data = bytes.Clone(p.Data)
			packets, times, options = append(packets, p), append(times, link.Time(p.Ticks)), append(options, o)
		}
	}
}

// TestOthersRead: gopacket reads what we write.
func TestOthersRead(t *testing.T) {
	r, err := pcapgo.NewNgReader(bytes.NewReader(file(t)), pcapgo.DefaultNgReaderOptions)
	if err != nil {
		t.Fatal(err)
	}
	data, ci, opts, err := r.ReadPacketDataWithOptions()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(data, []byte{1, 2, 3, 4, 5}) || ci.Length != 9 || !ci.Timestamp.Equal(at) || r.LinkType() != layers.LinkTypeEthernet ||
		len(opts.Comments) != 1 || opts.Comments[0] != "größe" || opts.Flags.Direction != pcapgo.NgEpbFlagDirectionOutbound {
		t.Errorf("%v %v %+v", data, ci, opts)
	}
}

// TestWeReadOthers: what other programs write, in either byte order.
func TestWeReadOthers(t *testing.T) {
	for name, o := range map[string]interface {
		binary.ByteOrder
		binary.AppendByteOrder
	}{"little": binary.LittleEndian, "big": binary.BigEndian} {
		block := func(kind uint32, body ...any) []byte {
			var b bytes.Buffer
			for _, x := range body {
				if err := binary.Write(&b, o, x); err != nil {
					t.Fatal(err)
				}
			}
			for b.Len()%4 != 0 {
				b.WriteByte(0)
			}
			size := uint32(b.Len() + 12)
			return o.AppendUint32(append(o.AppendUint32(o.AppendUint32(nil, kind), size), b.Bytes()...), size)
		}
		ticks := uint64(at.UnixMicro())
		in := bytes.Join([][]byte{
			block(pcapng.SectionHeader, uint32(0x1a2b3c4d), uint16(1), uint16(0), int64(-1)),
			block(pcapng.Interface, uint16(101), uint16(0), uint32(0)),
			block(0x0bad, []byte("of another program")),
			block(pcapng.EnhancedPacket, uint32(0), uint32(ticks>>32), uint32(ticks), uint32(3), uint32(60), []byte{9, 8, 7, 0}),
			block(pcapng.OldPacket, uint16(0), uint16(0), uint32(ticks>>32), uint32(ticks), uint32(4), uint32(4), []byte{9, 8, 7, 6}, uint16(1), uint16(2), []byte("ab\x00\x00"), uint32(0)),
			block(pcapng.SimplePacket, uint32(2), []byte{5, 4, 0, 0}),
		}, nil)
		packets, times, options := read(t, in)
		if len(packets) != 3 || !bytes.Equal(packets[0].Data, []byte{9, 8, 7}) || packets[0].Length != 60 || !bytes.Equal(packets[2].Data, []byte{5, 4}) || packets[2].Timed {
			t.Fatalf("%s: %+v", name, packets)
		}
		if !times[0].Equal(at.Truncate(time.Microsecond)) || len(options[1]) != 1 || string(options[1][0].Value) != "ab" {
			t.Errorf("%s: %v %v", name, times, options)
		}
		// A comment more, and all else as it was.
		var out bytes.Buffer
		r := pcapng.NewReader(bytes.NewReader(in))
		for {
			b, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			p, is, _ := b.Packet()
			raw := b.Bytes()
			if is {
				with, can, err := b.With(p, pcapng.Text(pcapng.OptComment, "mine"))
				if err != nil || can == (b.Type == pcapng.SimplePacket) {
					t.Fatal(name, can, err)
				}
				if can {
					raw = with
				}
			}
			out.Write(raw)
		}
		again, _, options := read(t, out.Bytes())
		if len(again) != 3 || len(options[0]) != 1 || len(options[1]) != 2 || string(options[1][1].Value) != "mine" || !bytes.Equal(again[1].Data, packets[1].Data) {
			t.Errorf("%s: %v %v", name, again, options)
		}
	}
}

func TestTimes(t *testing.T) {
	for _, x := range []struct {
		resolution byte
		ticks      uint64
		want       time.Time
	}{
		{6, 1_700_000_000_123_456, time.Unix(1_700_000_000, 123_456_000)},
		{9, 1_700_000_000_123_456_789, time.Unix(1_700_000_000, 123_456_789)},
		{0, 1_700_000_000, time.Unix(1_700_000_000, 0)},
		{3, 1_700_000_000_123, time.Unix(1_700_000_000, 123_000_000)},
		{0x80 | 20, 1_700_000_000<<20 | 1<<19, time.Unix(1_700_000_000, 500_000_000)},
		{0x80 | 32, 1_700_000_000<<32 | 1<<31, time.Unix(1_700_000_000, 500_000_000)},
	} {
		var b bytes.Buffer
		w, err := pcapng.NewWriter(&b)
		if err != nil {
			t.Fatal(err)
		}
		// The first of the same option is what Interface writes: this one is read.
		if _, err := w.Interface(1, 0, pcapng.Option{Code: pcapng.OptResolution, Value: []byte{x.resolution}}); err != nil {
			t.Fatal(err)
		}
		r := pcapng.NewReader(&b)
		if _, err := r.Next(); err != nil {
			t.Fatal(err)
		}
		block, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		link, err := block.Link()
		if err != nil {
			t.Fatal(err)
		}
		if got := link.Time(x.ticks); !got.Equal(x.want) {
			t.Errorf("resolution %#x, %d ticks: %v, want %v", x.resolution, x.ticks, got, x.want.UTC())
		}
	}
}

func TestDamaged(t *testing.T) {
	whole := file(t)
	for n := range whole {
		if n == 0 {
			continue
		}
		r := pcapng.NewReader(bytes.NewReader(whole[:n]))
		var err error
		for err == nil {
			_, err = r.Next()
		}
		if errors.Is(err, io.EOF) && n%4 != 0 {
			t.Errorf("cut after %d bytes: it seems to be whole", n)
		}
	}
	for _, x := range []struct{ file, want string }{
		{"not a capture at all, sorry", "no section header"},
		{"\x0a\x0d\x0d\x0a\x1c\x00\x00\x00\x00\x00\x00\x00", "byte order"},
		{"\x0a\x0d\x0d\x0a\x00\x00\x00\xff\x4d\x3c\x2b\x1a", "claims to have"},
		{string(whole[:4]) + "\x20\x00\x00\x00" + string(whole[8:]), "at the end"},
	} {
		if _, err := pcapng.NewReader(strings.NewReader(x.file)).Next(); err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%q: %v, want %q", x.file, err, x.want)
		}
	}
}

func TestLongText(t *testing.T) {
	o := pcapng.Text(pcapng.OptComment, strings.Repeat("ä", 40000))
	if len(o.Value) > 1<<16-1 || !strings.HasSuffix(string(o.Value), "ä") {
		t.Errorf("%d bytes", len(o.Value))
	}
}

func FuzzReader(f *testing.F) {
	f.Add(file(f))
	f.Fuzz(func(t *testing.T, in []byte) {
		r := pcapng.NewReader(bytes.NewReader(in))
		for {
			b, err := r.Next()
			if err != nil {
				return
			}
			if link, err := b.Link(); err == nil {
				_ = link.Time(1 << 63)
			}
			if p, is, err := b.Packet(); is && err == nil {
				if _, err := b.Options(p); err == nil {
					if _, _, err := b.With(p, pcapng.Text(pcapng.OptComment, "x")); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
	})
}
