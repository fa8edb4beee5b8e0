package report

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/container"
	"github.com/tcpbye/tcpbye/tracer/event"
)

// documentSink writes one JSON document a line and end, by somebody else's schema.
type documentSink struct {
	out  output
	o    Options
	make func(Judged, Options) any
	buf  bytes.Buffer
	safe []byte
	enc  *json.Encoder
}

func newDocuments(w io.Writer, o Options, document func(Judged, Options) any) *documentSink {
	s := &documentSink{out: output{w: w}, o: o, make: document}
	s.enc = json.NewEncoder(&s.buf)
	s.enc.SetEscapeHTML(false)
	return s
}

// End implements Sink.
func (s *documentSink) End(j Judged) error {
	if j.Conn == nil {
		return errNoConn
	}
	s.buf.Reset()
	if err := s.enc.Encode(s.make(j, s.o)); err != nil {
		return fmt.Errorf("write connection %s as JSON: %w", event.Quote(j.Conn.ID), err)
	}
	s.safe = escapeUnprintable(s.safe[:0], s.buf.Bytes())
	_, err := s.out.Write(s.safe)
	return err
}

// Close implements Sink.
func (s *documentSink) Close() error { return s.out.err }

// flow is a connection from its originator: who opened it, as far as that is known.
type flow struct {
	source, destination           endpoint
	initiated                     bool // by this end
	sourceBytes, destinationBytes *uint64
}

// endpoint is one of the two.
type endpoint struct {
	IP   string `json:"ip,omitempty"`
	Port uint16 `json:"port,omitempty"`
}

func flowOf(j Judged) flow {
	c := j.Conn
	f := flow{initiated: !servedHere(c)}
	local, remote := endpointOf(c, true), endpointOf(c, false)
	if f.initiated {
		f.source, f.destination, f.sourceBytes, f.destinationBytes = local, remote, j.Verdict.Bytes.Sent, j.Verdict.Bytes.Received
	} else {
		f.source, f.destination, f.sourceBytes, f.destinationBytes = remote, local, j.Verdict.Bytes.Received, j.Verdict.Bytes.Sent
	}
	return f
}

func endpointOf(c *conn.Connection, here bool) endpoint {
	at := c.Local
	if !here {
		at = c.Remote
	}
	if !at.IsValid() {
		return endpoint{}
	}
	return endpoint{at.Addr().WithZone("").String(), at.Port()}
}

// bytes are those of both directions; nil: not known.
func (f flow) bytes() *uint64 {
	if f.sourceBytes == nil || f.destinationBytes == nil {
		return nil
	}
	n := *f.sourceBytes + *f.destinationBytes
	return &n
}

// hostOf names the host of an end; "" not known.
func hostOf(c *conn.Connection, o Options) string {
	if c.Host != "" {
		return c.Host
	}
	return o.Host
}

// program is how others call a process: by its executable, or else by its name.
func program(p *conn.Process) string {
	switch {
	case p.Exe != "":
		return filepath.Base(p.Exe)
	case p.Leader != "":
		return p.Leader
	}
	return p.Comm
}

// containerID is the whole of it; "" none: a systemd unit is no container.
func containerID(p *conn.Process) string {
	if box := container.Of(p.CgroupPath); box.Runtime != container.Systemd {
		return box.ID
	}
	return ""
}

func family(c *conn.Connection) string {
	if c.Family == event.IPv4 || c.Family == event.IPv6 {
		return c.Family.String()
	}
	return ""
}
