package real

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/demo/harness"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// haproxy starts haproxy with the run's sections.
func (w *World) haproxy(config string) *Program {
	p := w.Start("haproxy", "haproxy", "-db", "-f", w.File("haproxy.cfg", "global\n\tnbthread 1\n\tlog stdout format raw local0\n"+config))
	return p
}

var proxies = []Run{
	{
		Name: "haproxy-nolinger", Case: "C23", Programs: []string{"haproxy", "python3"},
		Title: "haproxy with option nolinger cuts a reply that the client has not fetched yet",
		Play: func(w *World) {
			server := w.Python("backend")
			server.Do("import socket; l = socket.create_server(('127.0.0.1', 8000))")
			w.haproxy(`
	tune.sndbuf.client 2000000
defaults
	mode http
	option nolinger
	option httpclose
	timeout connect 60s
	timeout client 60s
	timeout server 60s
listen web
	bind 127.0.0.1:8080
	server s 127.0.0.1:8000
`)
			w.WaitListen(8080)
			client := w.Python("client")
			client.Do(`
import socket
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
s.connect(("127.0.0.1", 8080))
s.sendall(b"GET /file HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
`)
			server.Do(`
s, _ = l.accept()
while b"\r\n\r\n" not in s.recv(10000): pass
s.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 150000\r\n\r\n" + bytes(150000))
`)
			w.WaitClient(8080, 0, "the reset", func(harness.Row) bool { return true })
			said := client.Try("while s.recv(10000): pass")
			w.Check(strings.Contains(said, "ConnectionResetError"), "the client should have been reset, but: %s", said)
			client.Do(`s.close()`)
			said = server.Try(`s.recv(1)`)
			w.Check(strings.Contains(said, "ConnectionResetError"), "the backend should have been reset, too, but: %s", said)
			server.Do(`s.close()`)
			w.WaitEnded(8080)
			w.WaitEnded(8000)
			w.Due(
				Link{
					Name: "python3 > haproxy", Port: 8080,
					Ending: Ending{Class: verdict.Aborted, Cause: verdict.LingerZero, Act: verdict.ActClose, Actor: "haproxy", By: "server"},
					Client: Side{Saw: []string{"ECONNRESET"}},
					Server: Side{Unsent: Some, Unacked: Any, RST: 1},
					Says:   []string{"haproxy (pid", "SO_LINGER", "never left its send queue"},
				},
				Link{
					Name: "haproxy > python3", Port: 8000,
					Ending: Ending{Class: verdict.Aborted, Cause: verdict.LingerZero, Act: verdict.ActClose, Actor: "haproxy", By: "client"},
					Client: Side{RST: 1},
					Server: Side{Saw: []string{"ECONNRESET"}},
					Says:   []string{"haproxy (pid", "SO_LINGER"},
				})
		},
	},
	{
		Name: "haproxy-401", Case: "C64 C05", Programs: []string{"haproxy", "curl"},
		Title: "haproxy refuses an upload with 401 while it is still coming",
		Play: func(w *World) {
			haproxy := w.haproxy(`
defaults
	mode http
	timeout connect 60s
	timeout client 60s
	timeout server 60s
listen web
	bind 127.0.0.1:8080
	http-request deny deny_status 401
`)
			w.WaitListen(8080)
			w.Stop(haproxy.PID())
			curl := w.Start("curl", "curl", "-s", "-S", "-i", "-H", "Expect:", "--data-binary", "@"+w.Big("upload", 30<<20), "http://127.0.0.1:8080/")
			// More than its buffer of 16 KiB takes in one read.
			w.WaitServer(8080, 1, "the beginning of the upload", Holds(32<<10))
			w.Signal(haproxy.PID(), unix.SIGCONT)
			curl.WaitExit()
			w.Check(strings.Contains(curl.Output(), "401"), "curl should have got the 401, but said: %s", curl.Output())
			w.WaitEnded(8080)
			w.Due(Link{
				Name: "curl > haproxy", Port: 8080,
				Ending: Ending{Class: verdict.Aborted, Cause: verdict.CloseUnread, Act: verdict.ActClose, Actor: "haproxy", By: "server"},
				Client: Side{Unsent: Any, Unacked: Any, SawAny: true},
				Server: Side{Unread: Some, FIN: 1, RST: Some},
				Says:   []string{"haproxy (pid", "that it had received and not read"},
			})
		},
	},
	{
		Name: "haproxy-health-check", Case: "C12", Programs: []string{"haproxy", "python3"},
		Title: "haproxy checks that a server is there, and aborts the connection on purpose",
		Play: func(w *World) {
			w.Start("http.server", "python3", "-m", "http.server", "--bind", "127.0.0.1", "--directory", w.Dir, "8000")
			w.WaitListen(8000)
			p := w.haproxy(`
defaults
	mode tcp
	log global
	option log-health-checks
	timeout connect 60s
	timeout client 60s
	timeout server 60s
	timeout check 60s
listen web
	bind 127.0.0.1:8080
	server s 127.0.0.1:8000 check inter 3600s
`)
			p.WaitOutput("succeeded")
			w.WaitEnded(8000)
			w.Due(Link{
				Name: "haproxy > python3", Port: 8000,
				Ending: Ending{Class: verdict.Aborted, Cause: verdict.LingerZero, Act: verdict.ActClose, Actor: "haproxy", By: "client"},
				Client: Side{RST: 1},
				Server: Side{None: true},
				Probe:  true,
				Retry:  verdict.RetrySafe,
				Says:   []string{"haproxy (pid", "SO_LINGER"},
			})
		},
	},
	{
		Name: "haproxy-timeout", Case: "C76", Programs: []string{"haproxy", "nc.openbsd"},
		Title: "haproxy ends a quiet connection on both sides after its timeout",
		Play: func(w *World) {
			server := w.Start("server", "nc.openbsd", "-l", "127.0.0.1", "8000")
			w.WaitListen(8000)
			w.haproxy(`
defaults
	mode tcp
	timeout connect 60s
	timeout client 1s
	timeout server 60s
listen web
	bind 127.0.0.1:8080
	server s 127.0.0.1:8000
`)
			w.WaitListen(8080)
			client := w.Start("client", "nc.openbsd", "127.0.0.1", "8080")
			client.Say("hello\n")
			server.WaitOutput("hello")
			w.Meanwhile(client.PID(), func() { w.WaitServer(8080, 1, "the close", LetGo) })
			client.EndInput()
			client.WaitExit()
			server.WaitExit()
			w.WaitEnded(8080)
			w.WaitEnded(8000)
			// The server it tells first, and waits for its FIN; then it shuts its
			// sending side to the client down and closes at once, without hearing it out.
			back := Ending{Class: verdict.Graceful, Cause: verdict.HalfClose, Act: verdict.ActShutWr, Actor: "haproxy", By: "client"}
			front := Ending{Class: verdict.Graceful, Cause: verdict.OrderlyClose, Act: verdict.ActShutWr, Actor: "haproxy", By: "server"}
			w.Due(
				Link{Name: "nc > haproxy", Port: 8080, Ending: front,
					Client: Side{FIN: 1, Saw: []string{"EOF"}}, Server: Side{FIN: 1, TimeWait: true},
					Says: []string{fmt.Sprintf("haproxy (pid %d) closed first, with shutdown(SHUT_WR)", w.roles["haproxy"].PID)}},
				Link{Name: "haproxy > nc", Port: 8000, Ending: back,
					Client: Side{FIN: 1, HalfClose: true, TimeWait: true, Or: [][]string{{"EOF"}}}, Server: Side{FIN: 1, HalfClose: true, Saw: []string{"EOF"}},
					Says: []string{fmt.Sprintf("haproxy (pid %d) finished sending with shutdown(SHUT_WR)", w.roles["haproxy"].PID)}})
		},
	},
}
