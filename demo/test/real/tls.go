package real

import (
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/demo/harness"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// certificate makes a key and a certificate for it.
func (w *World) certificate() (cert, key string) {
	cert, key = w.Dir+"/cert.pem", w.Dir+"/key.pem"
	p := w.Start("openssl req", "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", key, "-out", cert, "-subj", "/CN=localhost")
	w.Check(p.WaitExit() == 0, "openssl req failed: %s", p.Output())
	return cert, key
}

// sServer starts openssl s_server, which prints what it gets.
func (w *World) sServer() *Program {
	cert, key := w.certificate()
	p := w.Start("s_server", "openssl", "s_server", "-accept", "127.0.0.1:4433", "-cert", cert, "-key", key, "-quiet")
	w.WaitListen(4433)
	return p
}

var tls = []Run{
	{
		Name: "openssl-no-close-notify", Case: "C13", Programs: []string{"openssl", "python3"},
		Title: "openssl s_server is ended by SIGTERM: TCP says goodbye, TLS does not",
		Play: func(w *World) {
			server := w.sServer()
			client := w.Python("client")
			client.Do(`
import socket, ssl
x = ssl.create_default_context()
x.check_hostname = False
x.verify_mode = ssl.CERT_NONE
s = x.wrap_socket(socket.create_connection(("127.0.0.1", 4433)))
s.sendall(b"hello\n")
`)
			server.WaitOutput("hello")
			client.Begin(`assert s.recv(1) == b""`) // which takes the tickets, too
			w.WaitClient(4433, 1, "all read", func(r harness.Row) bool { return r.Receive == 0 })
			w.WaitServer(4433, 1, "all read", func(r harness.Row) bool { return r.State == event.Established && r.Receive == 0 })
			w.Signal(server.PID(), unix.SIGTERM)
			said := client.End()
			w.Check(said == "", "Python should have taken it for the end of the stream, but: %s", said)
			client.Do(`s.close()`)
			w.WaitEnded(4433)
			w.Due(Link{
				Name: "python3 > openssl", Port: 4433,
				Ending: Ending{Class: verdict.Graceful, Cause: verdict.OrderlyClose, Act: verdict.ActKilled, Signal: int(unix.SIGTERM), Actor: "s_server", By: "server"},
				Client: Side{FIN: 1, Saw: []string{"EOF"}},
				Server: Side{FIN: 1, TimeWait: true},
				Says:   []string{"SIGTERM", "openssl (pid " + strconv.Itoa(server.PID()) + ")"},
			})
		},
	},
	{
		Name: "openssl-alert-after-eof", Case: "C13 C25", Programs: []string{"openssl"},
		Title: "OpenSSL 3 misses the close_notify, and its alert to a server that is gone is answered with a reset",
		Play: func(w *World) {
			server := w.sServer()
			client := w.Start("s_client", "openssl", "s_client", "-connect", "127.0.0.1:4433", "-quiet")
			client.Say("hello\n")
			server.WaitOutput("hello")
			w.WaitServer(4433, 1, "all read", func(r harness.Row) bool { return r.State == event.Established && r.Receive == 0 })
			w.WaitClient(4433, 1, "all read", func(r harness.Row) bool { return r.Receive == 0 })
			w.Signal(server.PID(), unix.SIGTERM)
			client.WaitExit()
			w.Check(strings.Contains(client.Output(), "unexpected eof"), "s_client should have missed the close_notify, but said: %s", client.Output())
			w.WaitEnded(4433)
			w.Due(Link{
				Name: "openssl > openssl", Port: 4433,
				Ending: Ending{Class: verdict.Aborted, Cause: verdict.DataAfterClose, Act: verdict.ActKilled, Signal: int(unix.SIGTERM), Actor: "s_server", By: "server"},
				// A TLS 1.3 alert, decode_error: a header of 5, 2 and the content type, a tag of 16.
				// Its own FIN may leave before the reset comes, and is reset, too.
				Client: Side{Unacked: 24, FIN: Any, Saw: []string{"EOF"}},
				Server: Side{FIN: 1, RST: Some},
				Says:   []string{"SIGTERM", "24 bytes", "openssl (pid " + strconv.Itoa(server.PID()) + ")"},
			})
		},
	},
	{
		Name: "tls13-unread-tickets", Case: "C47 C70", Programs: []string{"openssl", "python3"},
		Title: "a TLS 1.3 client uploads and closes; the session tickets that it never read reset its upload",
		Play: func(w *World) {
			cert, key := w.certificate()
			server := w.Python("server")
			server.Do(`
import socket, ssl
x = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
x.minimum_version = ssl.TLSVersion.TLSv1_3
x.load_cert_chain("` + cert + `", "` + key + `")
l = socket.create_server(("127.0.0.1", 4433))
`)
			server.Begin(`
t, _ = l.accept()
s = x.wrap_socket(t, server_side=True)
`)
			client := w.Python("client")
			client.Do(`
import array, fcntl, select, socket, ssl, termios
x = ssl.create_default_context()
x.check_hostname = False
x.verify_mode = ssl.CERT_NONE
s = x.wrap_socket(socket.create_connection(("127.0.0.1", 4433)))
assert s.version() == "TLSv1.3"
`)
			server.End()
			said := strings.Fields(client.Do(`
select.select([s], [], []) # the tickets
s.setblocking(False)
sent = 0
try:
    while True: sent += s.send(bytes(16384))
except (ssl.SSLWantWriteError, BlockingIOError):
    pass
n = array.array("i", [0])
fcntl.ioctl(s.fileno(), termios.FIONREAD, n)
print(sent, n[0])
s.close()
`))
			if len(said) != 2 {
				w.Fail("the client said %q", said)
				return
			}
			unread, err := strconv.Atoi(said[1])
			w.Check(err == nil && unread > 0, "there should have been tickets to leave unread: %v", err)
			sent, err := strconv.Atoi(said[0])
			w.Check(err == nil, "the client said %v", said)
			// Python takes the reset for an end of the stream.
			got, err := strconv.Atoi(strings.TrimSpace(server.Do(`
n = 0
while True:
    b = s.recv(1 << 20)
    if not b: break
    n += len(b)
s.close()
print(n)
`)))
			w.Check(err == nil && got < sent, "the server should have missed something of %d bytes, but got %d", sent, got)
			w.WaitEnded(4433)
			w.Due(Link{
				Name: "python3 > python3", Port: 4433,
				Ending: Ending{Class: verdict.Aborted, Cause: verdict.CloseUnread, Act: verdict.ActClose, Actor: "client", By: "client"},
				Client: Side{Unread: unread, Unsent: Some, Unacked: Any, RST: 1},
				Server: Side{Saw: []string{"ECONNRESET"}},
				Says:   []string{strconv.Itoa(unread) + " bytes that it had received and not read", "never left its send queue"},
			})
		},
	},
	{
		Name: "tls-both-wait", Case: "C49", Programs: []string{"openssl"},
		Title: "both ends of a TLS connection wait for the other's goodbye",
		Play: func(w *World) {
			server := w.sServer()
			client := w.Start("s_client", "openssl", "s_client", "-connect", "127.0.0.1:4433", "-quiet")
			client.Say("hello\n")
			server.WaitOutput("hello")
			w.WaitClient(4433, 1, "all read", func(r harness.Row) bool { return r.Receive == 0 && r.Send == 0 })
			w.Due(Link{
				Name: "openssl > openssl", Port: 4433,
				Ending: Ending{Class: verdict.Open},
				Client: Side{Open: verdict.StillOpen},
				Server: Side{Open: verdict.StillOpen},
				Says:   []string{"openssl (pid", "is open"},
			})
		},
	},
}
