package scenario

import (
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/demo/harness"
	"github.com/tcpbye/tcpbye/tracer/event"
)

// wire is a capture of one connection whose sequence numbers wrap: the client
// sends 600 of 1000 bytes, the server acknowledges 400 and reads 250; a FIN and
// its repetition; a reset whose acknowledgement does not count.
func wire() Outcome {
	const c, s = 0xffffff00, 0x10
	seg := func(ms int, fromClient bool, flags event.TCPFlags, seq, ack uint32, n int) harness.Segment {
		x := harness.Segment{Time: time.Duration(ms) * time.Millisecond, Src: v4a, Dst: v4b, Flags: flags, Seq: seq, Ack: ack, Len: n}
		if !fromClient {
			x.Src, x.Dst = v4b, v4a
		}
		return x
	}
	first := uint32(c)
	return Outcome{
		Segments: []harness.Segment{
			seg(1, true, event.SYN, c, 0, 0),
			seg(2, false, event.SYN|event.ACK, s, c+1, 0),
			seg(3, true, event.ACK, c+1, s+1, 0),
			seg(4, true, event.ACK, c+1, s+1, 400),
			seg(5, false, event.ACK, s+1, first+401, 0),
			seg(6, true, event.ACK, first+401, s+1, 200),
			seg(7, true, event.ACK, first+401, s+1, 200), // again
			seg(8, false, event.ACK|event.FIN, s+1, first+401, 0),
			seg(9, false, event.ACK|event.FIN, s+1, first+401, 0), // again
			seg(10, true, event.ACK, first+601, s+2, 0),
			seg(11, false, event.ACK|event.RST, s+2, first+601, 0),
		},
		Ends: map[string]*End{
			"client": {Name: "client", Local: v4a, Remote: v4b},
			"server": {Name: "server", Local: v4b, Remote: v4a},
		},
		Calls: []Call{
			{Conn: "client", Op: opSend, N: 1000, End: 4},
			{Conn: "server", Op: opRecv, N: 250, wanted: 250, End: 5},
			{Conn: "client", Op: opRecv, N: 0, wanted: 10, End: 10},
			{Conn: "client", Op: opSend, N: -1, Errno: unix.EPIPE, End: 12},
		},
	}
}

func TestFlowAndLost(t *testing.T) {
	o := wire()
	for _, e := range o.Ends {
		o.tell(e)
	}
	client, server := o.Ends["client"], o.Ends["server"]
	if f := o.Flow(client); f.Sent != 600 || f.Acked != 400 || f.FINs != 0 || f.RSTs != 0 || f.FinAcked {
		t.Errorf("the client's flow is %+v", f)
	}
	if f := o.Flow(server); f.Sent != 0 || f.Acked != 0 || f.FINs != 1 || f.RSTs != 1 || !f.FinAcked || f.FirstFIN != 8*time.Millisecond {
		t.Errorf("the server's flow is %+v", f)
	}
	if got, want := o.Lost(client), (Lost{Unsent: 400, Unacked: 200}); got != want {
		t.Errorf("the client lost %+v, not %+v", got, want)
	}
	if got, want := o.Lost(server), (Lost{Unread: 150}); got != want {
		t.Errorf("the server lost %+v, not %+v", got, want)
	}
	if !slices.Equal(client.AppSaw, []string{"EOF", "EPIPE"}) || server.AppSaw != nil {
		t.Errorf("the applications saw %v and %v", client.AppSaw, server.AppSaw)
	}
}

func TestTell(t *testing.T) {
	for _, c := range []struct {
		name          string
		calls         []Call
		want          []string
		written, read int64
	}{
		{"a read until the end", []Call{{Op: opDrain, N: 10}}, []string{"EOF"}, 0, 10},
		{"a read until an error", []Call{{Op: opDrain, N: 10, Errno: unix.ECONNRESET}}, []string{"ECONNRESET"}, 0, 10},
		{"SIGPIPE", []Call{{Op: opSend, Signal: unix.SIGPIPE}}, []string{"EPIPE", "SIGPIPE"}, 0, 0},
		{"what is no ending", []Call{{Op: opRecv, N: -1, wanted: 1, Errno: unix.EAGAIN}, {Op: opConnect, Errno: unix.EINPROGRESS}}, nil, 0, 0},
		{"in the order of returning, each once", []Call{
			{Op: opSend, N: -1, Errno: unix.EPIPE, End: 3}, {Op: opRecv, N: 0, wanted: 1, End: 1}, {Op: opRecv, N: 0, wanted: 1, End: 2},
		}, []string{"EOF", "EPIPE"}, 0, 0},
		{"bytes", []Call{{Op: opSend, N: 5}, {Op: opFill, N: 7}, {Op: opRecv, N: 3, wanted: 9}}, nil, 12, 3},
		{"a killed process's read is no end of the stream", []Call{{Op: opRecv, wanted: 9, Signal: unix.SIGKILL}}, nil, 0, 0},
	} {
		o := Outcome{Calls: c.calls}
		for i := range o.Calls {
			o.Calls[i].Conn = "x"
		}
		e := &End{Name: "x", Local: v4a, Remote: v4b}
		o.tell(e)
		if !slices.Equal(e.AppSaw, c.want) || e.Written != c.written || e.Read != c.read {
			t.Errorf("%s: saw %v, wrote %d, read %d", c.name, e.AppSaw, e.Written, e.Read)
		}
	}
}

func TestTellFindsTheAddressOfAFailedConnect(t *testing.T) {
	o := wire()
	o.Ends = map[string]*End{"client": {Name: "client", Remote: v4b}}
	o.tell(o.Ends["client"])
	if o.Ends["client"].Local != v4a {
		t.Errorf("the address is %v", o.Ends["client"].Local)
	}
}
