package real

import (
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/demo/harness"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// node starts node with a script that listens on port 8080.
func (w *World) node(script string) *Program {
	p := w.Start("node", "node", "-e", script)
	w.WaitListen(8080)
	return p
}

// fullQueue is a curl that comes to a node that is busy and has two connections in
// its accept queue, whose backlog is 1.
func (w *World) fullQueue(third Link, options ...string) {
	node := w.node(`require("net").createServer(s => s.resume()).listen(8080, "127.0.0.1", 1);`)
	w.Stop(node.PID())
	first := w.Start("first", "nc.openbsd", "127.0.0.1", "8080")
	w.WaitServer(8080, 1, "the first in the queue", In(event.Established))
	second := w.Start("second", "nc.openbsd", "127.0.0.1", "8080")
	w.WaitServer(8080, 2, "the second in the queue", In(event.Established))
	curl := w.Start("curl", "curl", append(options, "-s", "-S", "http://127.0.0.1:8080/")...)
	w.Check(curl.WaitExit() == 28, "curl's connect should have timed out, but said: %s", curl.Output())
	w.Signal(node.PID(), unix.SIGCONT)
	w.WaitServer(8080, 2, "both accepted", func(r harness.Row) bool { return r.Inode != 0 })
	first.Kill()
	second.Kill()
	w.WaitEnded(8080)
	for _, nc := range []string{"first", "second"} {
		w.Due(Link{
			Name: "nc > node", Port: 8080,
			Ending: Ending{Class: verdict.Graceful, Cause: verdict.OrderlyClose, Act: verdict.ActKilled, Signal: int(unix.SIGKILL), Actor: nc, By: "client"},
			Client: Side{FIN: 1, TimeWait: true},
			Server: Side{FIN: 1, Saw: []string{"EOF"}},
		})
	}
	w.Due(third)
}

var nodes = []Run{
	{
		Name: "node-keepalive-timeout", Case: "C01 C14", Programs: []string{"node", "python3"},
		Title: "node's http server closes after keepAliveTimeout; the pool reuses the connection",
		Play: func(w *World) {
			w.node(`
const s = require("http").createServer((q, a) => a.end("hello"));
s.keepAliveTimeout = 1000;
s.listen(8080, "127.0.0.1");
`)
			w.late(w.kept(), "node", time.Second)
		},
	},
	{
		Name: "node-headers-timeout", Case: "C02", Programs: []string{"node", "python3"},
		Title: "node's headersTimeout cuts a kept connection in the middle of a request's header",
		Play: func(w *World) {
			w.node(`
const s = require("http").createServer({connectionsCheckingInterval: 100}, (q, a) => a.end("hello"));
s.keepAliveTimeout = 3600000;
s.headersTimeout = 1000;
s.listen(8080, "127.0.0.1");
`)
			client := w.kept()
			client.Do(`
c.sock.sendall(b"GET /again HTTP/1.1\r\n")
r = c.sock.recv(1000)
assert b" 408 " in r, r
assert c.sock.recv(1000) == b""
c.close()
`)
			w.WaitEnded(8080)
			w.Due(Link{
				Name: "python3 > node", Port: 8080,
				Ending: Ending{Class: verdict.Graceful, Cause: verdict.OrderlyClose, Act: verdict.ActClose, Actor: "node", By: "server"},
				Client: Side{FIN: 1, Saw: []string{"EOF"}},
				Server: Side{FIN: 1, TimeWait: true},
				Says:   []string{"node (pid", "closed first, with close(2)"},
			})
		},
	},
	{
		Name: "node-destroys-unread", Case: "C02", Programs: []string{"node", "python3"},
		Title: "a timer of node's destroys a socket whose request nobody has read",
		Play: func(w *World) {
			w.node(`
require("net").createServer({pauseOnConnect: true}, s => {
	process.on("SIGUSR2", () => setTimeout(() => s.destroy(), 1000));
	console.log("accepted");
}).listen(8080, "127.0.0.1");
`)
			client := w.Python("client")
			client.Do(`
import socket
s = socket.create_connection(("127.0.0.1", 8080))
s.sendall(b"request")
`)
			node := w.programs[0]
			node.WaitOutput("accepted")
			w.WaitServer(8080, 1, "the request", Holds(len("request")))
			w.Signal(node.PID(), unix.SIGUSR2)
			said := client.Try(`s.recv(100)`)
			w.Check(strings.Contains(said, "ConnectionResetError"), "the client should have been reset, but: %s", said)
			client.Do(`s.close()`)
			w.WaitEnded(8080)
			w.Due(Link{
				Name: "python3 > node", Port: 8080,
				Ending: Ending{Class: verdict.Aborted, Cause: verdict.CloseUnread, Act: verdict.ActClose, Actor: "node", By: "server"},
				Client: Side{Saw: []string{"ECONNRESET"}},
				Server: Side{Unread: len("request"), RST: 1},
				Retry:  verdict.RetrySafe,
				Says:   []string{"node (pid", "threw away 7 bytes that it had received and not read", "RST instead of a FIN"},
			})
		},
	},
	{
		Name: "node-stalls-upload", Case: "C26", Programs: []string{"node", "curl"},
		Title: "a server does not read an upload until the window is shut, and then gives up",
		Play: func(w *World) {
			node := w.node(`
require("net").createServer({pauseOnConnect: true}, s => {
	process.on("SIGUSR2", () => s.destroy());
	console.log("accepted");
}).listen(8080, "127.0.0.1");
`)
			curl := w.Start("curl", "curl", "-s", "-S", "-H", "Expect:", "--data-binary", "@"+w.Big("upload", 30<<20), "http://127.0.0.1:8080/")
			node.WaitOutput("accepted")
			var before uint64
			w.WaitRows("the upload to stall", func(rows []harness.Row) bool {
				for _, r := range rows {
					if r.Local.Port() == 8080 && r.State == event.Established && r.Inode != 0 {
						stalled := r.Receive > 0 && r.Receive == before && count(rows, func(r harness.Row) bool { return r.Remote.Port() == 8080 && r.Send > 0 }) == 1
						before = r.Receive
						return stalled
					}
				}
				return false
			})
			w.Signal(node.PID(), unix.SIGUSR2)
			curl.WaitExit()
			w.Check(strings.Contains(curl.Output(), "reset by peer") || strings.Contains(curl.Output(), "Broken pipe"), "curl should have been reset, but said: %s", curl.Output())
			w.WaitEnded(8080)
			w.Due(Link{
				Name: "curl > node", Port: 8080,
				Ending: Ending{Class: verdict.Aborted, Cause: verdict.CloseUnread, Act: verdict.ActClose, Actor: "node", By: "server"},
				Client: Side{Unsent: Some, Unacked: Any, SawAny: true},
				Server: Side{Unread: Some, RST: Some},
				Says:   []string{"node (pid", "that it had received and not read"},
			})
		},
	},
	{
		Name: "node-half-open", Case: "C19 C22", Programs: []string{"node", "nc.openbsd"},
		Title: "a client shuts down its sending side; node, which would answer later, closes at once",
		Play: func(w *World) {
			node := w.node(`
require("net").createServer(s => {
	s.on("data", d => console.log(d.toString()));
	s.on("end", () => setTimeout(() => { if (s.writable) s.write("answer"); }, 100));
}).listen(8080, "127.0.0.1");
`)
			nc := w.Start("nc", "nc.openbsd", "-N", "127.0.0.1", "8080")
			nc.Say("question\n")
			node.WaitOutput("question")
			nc.EndInput()
			nc.WaitExit()
			w.Check(!strings.Contains(nc.Output(), "answer"), "there was an answer: %s", nc.Output())
			w.WaitEnded(8080)
			w.Due(Link{
				Name: "nc > node", Port: 8080,
				Ending: Ending{Class: verdict.Graceful, Cause: verdict.HalfClose, Act: verdict.ActShutWr, Actor: "nc", By: "client"},
				Client: Side{FIN: 1, HalfClose: true, TimeWait: true, Saw: []string{"EOF"}},
				Server: Side{FIN: 1, HalfClose: true, Saw: []string{"EOF"}},
				Says:   []string{"nc.openbsd (pid", "shutdown(SHUT_WR)", "node (pid"},
			})
		},
	},
	{
		Name: "node-http-half-open", Case: "C21", Programs: []string{"node", "nc.openbsd"},
		Title: "node's http server takes the end of the client's input for the end of its interest",
		Play: func(w *World) {
			node := w.node(`
require("http").createServer((q, a) => {
	setTimeout(() => a.end("answer"), 3600000);
	console.log("asked");
}).listen(8080, "127.0.0.1");
`)
			nc := w.Start("nc", "nc.openbsd", "-N", "127.0.0.1", "8080")
			nc.Say("GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
			node.WaitOutput("asked")
			nc.EndInput()
			nc.WaitExit()
			w.Check(nc.Output() == "", "there was an answer: %s", nc.Output())
			w.WaitEnded(8080)
			w.Due(Link{
				Name: "nc > node", Port: 8080,
				Ending: Ending{Class: verdict.Graceful, Cause: verdict.HalfClose, Act: verdict.ActShutWr, Actor: "nc", By: "client"},
				Client: Side{FIN: 1, HalfClose: true, TimeWait: true, Saw: []string{"EOF"}},
				Server: Side{FIN: 1, HalfClose: true, Saw: []string{"EOF"}},
				Says:   []string{"nc.openbsd (pid", "shutdown(SHUT_WR)", "node (pid"},
			})
		},
	},
	{
		Name: "node-http2-age", Case: "C43", Programs: []string{"node", "curl"},
		Title: "an HTTP/2 server ends a session that is old enough, with a stream still open",
		Play: func(w *World) {
			node := w.node(`
const s = require("http2").createServer();
s.on("session", x => setTimeout(() => x.destroy(), 1000));
s.on("stream", (t, h) => { console.log("asked"); t.respond({":status": 200}); t.write("the beginning"); t.on("error", () => {}); });
s.listen(8080, "127.0.0.1");
`)
			curl := w.Start("curl", "curl", "-s", "-S", "--http2-prior-knowledge", "http://127.0.0.1:8080/")
			node.WaitOutput("asked")
			w.Meanwhile(curl.PID(), func() { w.WaitServer(8080, 1, "the close", LetGo) })
			w.Check(curl.WaitExit() != 0, "curl should have missed the end, but said: %s", curl.Output())
			w.WaitEnded(8080)
			w.Due(Link{
				Name: "curl > node", Port: 8080,
				// It shuts its sending side down and closes at once.
				Ending: Ending{Class: verdict.Graceful, Cause: verdict.OrderlyClose, Act: verdict.ActShutWr, Actor: "node", By: "server"},
				Client: Side{FIN: 1, Saw: []string{"EOF"}},
				Server: Side{FIN: 1, TimeWait: true},
				Says:   []string{"node (pid", "closed first"},
			})
		},
	},
	{
		Name: "node-accept-queue", Case: "C37", Programs: []string{"node", "nc.openbsd", "curl"},
		Title: "node is busy and its accept queue is full: the SYN of the third client is dropped",
		Play: func(w *World) {
			w.Sysctl("net.ipv4.tcp_syn_retries", "1")
			w.fullQueue(Link{
				Name: "curl > node", Port: 8080,
				Ending: Ending{Class: verdict.TimedOut, Cause: verdict.AcceptOverflow, By: "client", Kernel: true},
				Client: Side{Saw: []string{"ETIMEDOUT"}},
				Server: Side{None: true},
				Retry:  verdict.RetrySafe,
				Says:   []string{"The SYN of curl (pid", "the accept queue of the listener at 127.0.0.1:8080 was full"},
			})
		},
	},
	{
		Name: "node-accept-queue-impatient", Case: "C37", Programs: []string{"node", "nc.openbsd", "curl"},
		Title: "the same, but curl loses patience before its kernel does",
		Play: func(w *World) {
			w.fullQueue(Link{
				Name: "curl > node", Port: 8080,
				Ending: Ending{Class: verdict.Refused, Cause: verdict.ConnectCancelled, Act: verdict.ActClose, Actor: "curl", By: "client"},
				Client: Side{},
				Server: Side{None: true},
				Retry:  verdict.RetrySafe,
				Says:   []string{"curl (pid", "gave up connecting", "the accept queue of the listener at 127.0.0.1:8080 was full"},
			}, "--connect-timeout", "2")
		},
	},
}
