package real

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// nginx starts nginx with one worker, and http and server settings of the run's.
func (w *World) nginx(settings string) (master *Program, worker int) {
	conf := w.File("nginx.conf", fmt.Sprintf(`
daemon off;
user root;
worker_processes 1;
pid %[1]s/nginx.pid;
error_log stderr info;
events {}
http {
	access_log off;
	client_body_temp_path %[1]s/body;
	proxy_temp_path %[1]s/proxy;
	fastcgi_temp_path %[1]s/fastcgi;
	uwsgi_temp_path %[1]s/uwsgi;
	scgi_temp_path %[1]s/scgi;
	server {
		listen 127.0.0.1:8080;
		root %[1]s/www;
		%[2]s
	}
}
`, w.Dir, settings))
	w.File("www/index.html", "hello\n")
	master = w.Start("nginx", "nginx", "-e", "stderr", "-p", w.Dir, "-c", conf)
	w.WaitListen(8080)
	return master, w.Child("nginx worker", master.PID(), "nginx")
}

// again is the request that http.client sends for /again.
const again = "GET /again HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nAccept-Encoding: identity\r\n\r\n"

// firstRequest opens a connection that is kept, and uses it once.
const firstRequest = `
import http.client
c = http.client.HTTPConnection("127.0.0.1", 8080)
c.request("GET", "/")
c.getresponse().read()
`

// late is a client that reuses a connection that the server has just closed.
func (w *World) late(server string) {
	client := w.Python("client")
	client.Do(firstRequest)
	w.WaitClient(8080, 1, "the server's FIN", In(event.CloseWait))
	w.WaitServer(8080, 1, "its acknowledgement", In(event.FinWait2))
	client.Do(`c.request("GET", "/again")`)
	said := client.Try(`c.getresponse()`)
	w.Check(strings.Contains(said, "RemoteDisconnected"), "http.client should have been disconnected, but: %s", said)
	client.Do(`c.close()`)
	w.WaitEnded(8080)
	w.Due(Link{
		Name: "python3 > " + w.roles[server].Comm, Port: 8080,
		Ending: Ending{Class: verdict.Aborted, Cause: verdict.DataAfterClose, Act: verdict.ActClose, Actor: server, By: "server"},
		Client: Side{Unacked: len(again), Saw: []string{"EOF"}},
		Server: Side{FIN: 1, RST: 1},
		Says:   []string{"closed both directions with close(2)", fmt.Sprintf("%d bytes", len(again))},
	})
}

// uploads is a Python that refuses an upload without reading it.
const uploads = `
import http.server, select, threading
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        select.select([self.connection], [], []) # there must be something to leave unread
        self.send_error(413)
server = http.server.HTTPServer(("127.0.0.1", 8080), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
`

// slow is a Python that answers when it is told to.
const slow = `
import http.server, threading
gate = threading.Event()
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        gate.wait()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"too late")
server = http.server.HTTPServer(("127.0.0.1", 8080), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
`

var web = []Run{
	{
		Name: "nginx-keepalive-timeout", Case: "C01 C14", Programs: []string{"nginx", "python3"},
		Title: "nginx closes an idle connection; the client's next request comes a moment later",
		Play: func(w *World) {
			w.nginx("keepalive_timeout 1s;")
			w.late("nginx worker")
		},
	},
	{
		Name: "node-keepalive-timeout", Case: "C01", Programs: []string{"node", "python3"},
		Title: "node's http server closes after keepAliveTimeout; the pool reuses the connection",
		Play: func(w *World) {
			w.Start("node", "node", "-e", `
const s = require("http").createServer((q, a) => a.end("hello"));
s.keepAliveTimeout = 1000;
s.listen(8080, "127.0.0.1");
`)
			w.WaitListen(8080)
			w.late("node")
		},
	},
	{
		Name: "nginx-reload", Case: "C07 C72", Programs: []string{"nginx", "python3"},
		Title: "nginx is reloaded; its old worker closes the idle connections",
		Play: func(w *World) {
			master, worker := w.nginx("keepalive_timeout 1h;")
			client := w.Python("client")
			client.Do(firstRequest)
			w.Signal(master.PID(), unix.SIGHUP)
			w.WaitClient(8080, 1, "the server's FIN", In(event.CloseWait))
			client.Do(`c.sock.recv(1); c.close()`)
			w.WaitEnded(8080)
			w.WaitGone(worker)
			w.Due(Link{
				Name: "python3 > nginx", Port: 8080,
				Ending: Ending{Class: verdict.Graceful, Cause: verdict.OrderlyClose, Act: verdict.ActClose, Actor: "nginx worker", By: "server"},
				Client: Side{FIN: 1, Saw: []string{"EOF"}},
				Server: Side{FIN: 1, TimeWait: true},
				Says:   []string{"close(2)", fmt.Sprintf("nginx (pid %d)", worker)},
			})
		},
	},
	{
		Name: "nginx-worker-killed", Case: "C08", Programs: []string{"nginx", "python3"},
		Title: "nginx's worker is killed before it has read a request",
		Play: func(w *World) {
			_, worker := w.nginx("keepalive_timeout 1h;")
			client := w.Python("client")
			client.Do(firstRequest)
			w.Stop(worker)
			client.Do(`c.request("GET", "/again")`)
			w.WaitServer(8080, 1, "the request", Holds(len(again)))
			w.WaitClient(8080, 1, "its acknowledgement", func(r Row) bool { return r.Send == 0 })
			w.Signal(worker, unix.SIGKILL)
			said := client.Try(`c.getresponse()`)
			w.Check(strings.Contains(said, "ConnectionResetError"), "http.client should have been reset, but: %s", said)
			client.Do(`c.close()`)
			w.WaitEnded(8080)
			w.Due(Link{
				Name: "python3 > nginx", Port: 8080,
				Ending: Ending{Class: verdict.Aborted, Cause: verdict.CloseUnread, Act: verdict.ActKilled, Signal: int(unix.SIGKILL), Actor: "nginx worker", By: "server"},
				Client: Side{Saw: []string{"ECONNRESET"}},
				Server: Side{Unread: len(again), RST: 1},
				Says:   []string{"SIGKILL", fmt.Sprintf("%d bytes", len(again)), fmt.Sprintf("nginx (pid %d)", worker)},
			})
		},
	},
	{
		Name: "http.server-413", Case: "C05", Programs: []string{"python3", "curl"},
		Title: "python's http.server answers 413 and closes while the upload is still coming",
		Play: func(w *World) {
			server := w.Python("http.server")
			server.Do(uploads)
			curl := w.Start("curl", "curl", "-s", "-S", "-i", "-H", "Expect:", "--data-binary", "@"+w.Big("upload", 30<<20), "http://127.0.0.1:8080/")
			curl.WaitExit()
			w.Check(strings.Contains(curl.Output(), "413"), "curl should have got the 413, but said: %s", curl.Output())
			w.WaitEnded(8080)
			w.Due(Link{
				Name: "curl > python3", Port: 8080,
				Ending: Ending{Class: verdict.Aborted, Cause: verdict.CloseUnread, Act: verdict.ActClose, Actor: "http.server", By: "server"},
				Client: Side{Unsent: Any, Unacked: Any, SawAny: true},
				Server: Side{Unread: Some, FIN: 1, RST: Some},
				Says:   []string{"that it had received and not read", "shutdown(SHUT_WR), read on"},
			})
		},
	},
	{
		Name: "curl-leaves-reply", Case: "C68 C09", Programs: []string{"nginx", "curl"},
		Title: "curl gives up in the middle of a download, with much of it unread",
		Play: func(w *World) {
			master, _ := w.nginx("")
			w.Big("www/big", 64<<20)
			curl := w.Start("curl", "curl", "-s", "-S", "-o", "/dev/null", "--limit-rate", "1000", "--max-time", "2", "http://127.0.0.1:8080/big")
			w.Check(curl.WaitExit() == 28, "curl should have given up, but said: %s", curl.Output())
			w.WaitEnded(8080)
			master.WaitOutput("104: Connection reset by peer")
			w.Due(Link{
				Name: "curl > nginx", Port: 8080,
				Ending: Ending{Class: verdict.Aborted, Cause: verdict.CloseUnread, Act: verdict.ActClose, Actor: "curl", By: "client"},
				Client: Side{Unread: Some, RST: Some},
				Server: Side{Unsent: Some, Unacked: Any, Saw: []string{"ECONNRESET"}},
				Says:   []string{"that it had received and not read"},
			})
		},
	},
	{
		Name: "curl-deadline", Case: "C09", Programs: []string{"python3", "curl"},
		Title: "curl gives up after a second; the server's answer comes later",
		Play: func(w *World) {
			server := w.Python("http.server")
			server.Do(slow)
			curl := w.Start("curl", "curl", "-s", "--max-time", "1", "http://127.0.0.1:8080/")
			w.Check(curl.WaitExit() == 28, "curl should have given up, but said: %s", curl.Output())
			w.WaitServer(8080, 1, "curl's FIN", In(event.CloseWait))
			server.Do(`gate.set()`)
			server.WaitOutput("BrokenPipeError")
			w.WaitEnded(8080)
			w.Due(Link{
				Name: "curl > python3", Port: 8080,
				Ending: Ending{Class: verdict.Aborted, Cause: verdict.DataAfterClose, Act: verdict.ActClose, Actor: "curl", By: "client"},
				Client: Side{FIN: 1, RST: 1},
				Server: Side{Unacked: Some, Saw: []string{"EPIPE"}},
				Says:   []string{"curl (pid", "closed both directions with close(2)"},
			})
		},
	},
	{
		Name: "gunicorn-deploy", Case: "C35", Programs: []string{"gunicorn", "curl"},
		Title: "gunicorn is stopped with a request in its backlog",
		Play: func(w *World) {
			if err := unix.Mkfifo(w.Dir+"/gate", 0o600); err != nil {
				w.Fail("cannot make a fifo: %w", err)
			}
			w.File("app.py", `
def app(environ, start):
    open("gate").read()
    start("200 OK", [])
    return [b"done\n"]
`)
			master := w.Start("gunicorn", "gunicorn", "--workers", "1", "--bind", "127.0.0.1:8000", "app:app")
			w.WaitListen(8000)
			worker := w.Child("gunicorn worker", master.PID(), "gunicorn")
			served := w.Start("served", "curl", "-s", "-0", "http://127.0.0.1:8000/")
			w.WaitServer(8000, 1, "the first request read", func(r Row) bool { return r.Inode != 0 && r.Receive == 0 && r.State == event.Established })
			queued := w.Start("queued", "curl", "-s", "-S", "http://127.0.0.1:8000/")
			w.WaitServer(8000, 1, "the second request in the queue", func(r Row) bool { return r.Receive > 0 })
			waits := 0
			w.WaitRows("the second request's size", func(rows []Row) bool {
				for _, r := range rows {
					if r.Local == 8000 && r.State == event.Established && r.Receive > 0 {
						waits = r.Receive
					}
				}
				return waits > 0
			})
			w.Signal(master.PID(), unix.SIGTERM)
			master.WaitOutput("Handling signal: term")
			w.WaitRows("the worker alone with the listener", func([]Row) bool { return !holdsListener(master.PID()) })
			gate := w.Start("gate", "bash", "-c", "echo > gate")
			gate.WaitExit()
			served.WaitExit()
			queued.WaitExit()
			w.WaitGone(worker)
			w.Check(strings.Contains(queued.Output(), "reset by peer"), "the queued curl should have been reset, but said: %s", queued.Output())
			w.WaitEnded(8000)
			w.Due(
				Link{
					Name: "curl > gunicorn", Port: 8000,
					Ending: Ending{Class: verdict.Graceful, Cause: verdict.OrderlyClose, Act: verdict.ActClose, Actor: "gunicorn worker", By: "server"},
					Client: Side{FIN: 1, Saw: []string{"EOF"}},
					Server: Side{FIN: 1, TimeWait: true},
				},
				Link{
					Name: "curl > backlog", Port: 8000,
					Ending: Ending{Class: verdict.Aborted, Cause: verdict.ListenerClosed, Act: verdict.ActExit, Actor: "gunicorn worker", By: "server"},
					Client: Side{Saw: []string{"ECONNRESET"}},
					Server: Side{Unread: waits, RST: 1},
					Says:   []string{"accept queue", fmt.Sprintf("gunicorn (pid %d)", worker)},
				})
		},
	},
	{
		Name: "curl-refused", Case: "C07", Programs: []string{"curl", "nginx"},
		Title: "nginx has quit; the next client finds nobody there",
		Play: func(w *World) {
			master, _ := w.nginx("")
			w.Signal(master.PID(), unix.SIGTERM)
			master.WaitExit()
			curl := w.Start("curl", "curl", "-s", "-S", "http://127.0.0.1:8080/")
			w.Check(curl.WaitExit() == 7, "curl should have been refused, but said: %s", curl.Output())
			w.Due(Link{
				Name: "curl > nobody", Port: 8080,
				Ending: Ending{Class: verdict.Refused, Cause: verdict.PortClosed, By: "server", Kernel: true},
				Client: Side{Saw: []string{"ECONNREFUSED"}},
				Server: Side{None: true, RST: 1},
				Says:   []string{"Nobody listens on 127.0.0.1:8080"},
			})
		},
	},
	{
		Name: "node-half-open", Case: "C21 C22", Programs: []string{"node", "nc.openbsd"},
		Title: "a client shuts down its sending side; node, which would answer later, closes at once",
		Play: func(w *World) {
			w.Start("node", "node", "-e", `
require("net").createServer(s => { s.resume(); s.on("end", () => setTimeout(() => { if (s.writable) s.write("answer"); }, 100)); }).listen(8080, "127.0.0.1");
`)
			w.WaitListen(8080)
			nc := w.Start("nc", "nc.openbsd", "-N", "127.0.0.1", "8080")
			nc.Say("question\n")
			w.WaitServer(8080, 1, "the question read", func(r Row) bool { return r.State == event.Established && r.Receive == 0 })
			nc.EndInput()
			nc.WaitExit()
			w.Check(!strings.Contains(nc.Output(), "answer"), "there was an answer: %s", nc.Output())
			w.WaitEnded(8080)
			w.Due(Link{
				Name: "nc > node", Port: 8080,
				Ending: Ending{Class: verdict.Graceful, Cause: verdict.HalfClose, Act: verdict.ActShutWr, Actor: "nc", By: "client"},
				Client: Side{FIN: 1, HalfClose: true, TimeWait: true, Saw: []string{"EOF"}},
				Server: Side{FIN: 1, HalfClose: true, Saw: []string{"EOF"}},
				Says:   []string{"shutdown(SHUT_WR)"},
			})
		},
	},
}
