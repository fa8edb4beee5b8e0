package real

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/demo/harness"
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

// kept is a client with a connection that it has used once and keeps.
func (w *World) kept() *Program {
	client := w.Python("client")
	client.Do(firstRequest)
	return client
}

// late reuses a kept connection that the server closes, once it has been idle for
// so long.
func (w *World) late(client *Program, server string, idle time.Duration) {
	w.WaitClient(8080, 1, "the server's FIN", In(event.CloseWait))
	w.WaitServer(8080, 1, "its acknowledgement", In(event.FinWait2))
	client.Do(`c.request("GET", "/again")`)
	said := client.Try(`c.getresponse()`)
	w.Check(strings.Contains(said, "RemoteDisconnected"), "http.client should have been disconnected, but: %s", said)
	client.Do(`c.close()`)
	w.WaitEnded(8080)
	retry := verdict.RetrySafe
	if idle == 0 {
		retry = "" // it could have been the rest of a request that was answered early
	}
	w.Due(Link{
		Name: "python3 > " + w.roles[server].Comm, Port: 8080,
		Ending: Ending{Class: verdict.Aborted, Cause: verdict.DataAfterClose, Act: verdict.ActClose, Actor: server, By: "server"},
		Client: Side{Unacked: len(again), Saw: []string{"EOF"}},
		Server: Side{FIN: 1, RST: 1},
		Retry:  retry,
		Idle:   idle,
		Says:   []string{fmt.Sprintf("%s (pid %d) closed both directions with close(2)", w.roles[server].Comm, w.roles[server].PID), fmt.Sprintf("%d bytes", len(again))},
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
        answer("asked")
        gate.wait()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"too late")
server = http.server.HTTPServer(("127.0.0.1", 8000), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
`

// gunicorn starts gunicorn with one worker, whose application waits for a writer
// of the fifo "gate" before it answers.
func (w *World) gunicorn(settings ...string) (master *Program, worker int) {
	if err := unix.Mkfifo(w.Dir+"/gate", 0o600); err != nil {
		w.Fail("cannot make a fifo: %w", err)
	}
	w.File("app.py", `
def app(environ, start):
    open("gate").read()
    start("200 OK", [])
    return [b"done\n"]
`)
	master = w.Start("gunicorn", "gunicorn", append(settings, "--workers", "1", "--bind", "127.0.0.1:8000", "app:app")...)
	w.WaitListen(8000)
	return master, w.Child("gunicorn worker", master.PID(), "gunicorn")
}

// deadline is curl giving up on a server whose answer comes later.
func (w *World) deadline(later func()) {
	server := w.Python("http.server")
	server.Do(slow)
	curl := w.Start("curl", "curl", "-s", "--max-time", "1", "http://127.0.0.1:8000/")
	w.Check(curl.WaitExit() == 28, "curl should have given up, but said: %s", curl.Output())
	w.WaitServer(8000, 1, "curl's FIN", In(event.CloseWait))
	later()
	server.Do(`gate.set()`)
	server.WaitOutput("BrokenPipeError")
	w.WaitEnded(8000)
	w.Due(Link{
		Name: "curl > python3", Port: 8000,
		Ending: Ending{Class: verdict.Aborted, Cause: verdict.DataAfterClose, Act: verdict.ActClose, Actor: "curl", By: "client"},
		Client: Side{FIN: 1, RST: 1},
		// Python ignores SIGPIPE; it is raised all the same.
		Server: Side{Unacked: Some, Saw: []string{"EPIPE", "SIGPIPE"}},
		Says:   []string{"curl (pid", "closed both directions with close(2)"},
	})
}

// slowReader is a client that reads nothing until nginx has lost patience.
func (w *World) slowReader(settings string) {
	const size = 64 << 20
	w.nginx("send_timeout 1s; sendfile off; " + settings)
	w.Big("www/big", size)
	client := w.Python("client")
	client.Do(`
import socket
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
s.connect(("127.0.0.1", 8080))
s.sendall(b"GET /big HTTP/1.0\r\n\r\n")
`)
	read := `
n = 0
while True:
    b = s.recv(1 << 20)
    if not b: break
    n += len(b)
s.close()
print(n)
`
	link := Link{
		Name: "python3 > nginx", Port: 8080,
		Ending: Ending{Class: verdict.Graceful, Cause: verdict.OrderlyClose, Act: verdict.ActClose, Actor: "nginx worker", By: "server"},
		Client: Side{FIN: 1, Saw: []string{"EOF"}},
		Server: Side{FIN: 1, TimeWait: true},
		Says:   []string{"nginx (pid", "closed first, with close(2)"},
	}
	if settings == "" {
		w.WaitServer(8080, 1, "the FIN behind what is queued", func(r harness.Row) bool { return r.State == event.FinWait1 && r.Inode == 0 && r.Send > 0 })
		got := strings.TrimSpace(client.Do(read))
		n, err := strconv.Atoi(got)
		w.Check(err == nil && n > 0 && n < size, "the client should have got a part, but it was %s", got)
	} else {
		w.WaitServer(8080, 0, "the reset", func(harness.Row) bool { return true })
		said := client.Try(read)
		w.Check(strings.Contains(said, "ConnectionResetError"), "the client should have been reset, but: %s", said)
		client.Do(`s.close()`)
		link.Ending.Class, link.Ending.Cause = verdict.Aborted, verdict.LingerZero
		link.Client = Side{Saw: []string{"ECONNRESET"}}
		link.Server = Side{Unsent: Some, Unacked: Any, RST: 1}
		link.Says = []string{"nginx (pid", "SO_LINGER on and a time of 0", "never left its send queue"}
	}
	w.WaitEnded(8080)
	w.Due(link)
}

var web = []Run{
	{
		Name: "nginx-keepalive-timeout", Case: "C01 C14", Programs: []string{"nginx", "python3"},
		Title: "nginx closes an idle connection; the client's next request comes a moment later",
		Play: func(w *World) {
			w.nginx("keepalive_timeout 1s;")
			w.late(w.kept(), "nginx worker", time.Second)
		},
	},
	{
		Name: "nginx-reload", Case: "C07 C72", Programs: []string{"nginx", "python3"},
		Title: "nginx is reloaded; its old worker closes the idle connections",
		Play: func(w *World) {
			master, worker := w.nginx("keepalive_timeout 1h;")
			client := w.kept()
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
		Name: "nginx-drain", Case: "C07 C72", Programs: []string{"nginx", "python3"},
		Title: "nginx is told to finish; the client's next request comes a moment after its goodbye",
		Play: func(w *World) {
			master, _ := w.nginx("keepalive_timeout 1h;")
			client := w.kept()
			w.Signal(master.PID(), unix.SIGQUIT)
			w.late(client, "nginx worker", 0)
			master.WaitExit()
		},
	},
	{
		Name: "nginx-slow-reader", Case: "C44", Programs: []string{"nginx", "python3"},
		Title: "nginx closes on a client that is too slow for send_timeout: what its kernel holds arrives, the rest never does",
		Play:  func(w *World) { w.slowReader("") },
	},
	{
		Name: "nginx-slow-reader-reset", Case: "C44 C23", Programs: []string{"nginx", "python3"},
		Title: "the same with reset_timedout_connection: what the kernel holds is lost, too",
		Play:  func(w *World) { w.slowReader("reset_timedout_connection on;") },
	},
	{
		Name: "nginx-413", Case: "C05", Programs: []string{"nginx", "curl"},
		Title: "nginx refuses an upload with 413 and reads on until curl, which stops at the answer, has closed: nothing is reset",
		Play: func(w *World) {
			master, worker := w.nginx("client_max_body_size 1k;")
			w.Stop(worker)
			curl := w.Start("curl", "curl", "-s", "-S", "-i", "-H", "Expect:", "--data-binary", "@"+w.Big("upload", 30<<20), "http://127.0.0.1:8080/")
			w.WaitServer(8080, 1, "the beginning of the upload", Holds(32<<10))
			w.Signal(worker, unix.SIGCONT)
			curl.WaitExit()
			w.Check(strings.Contains(curl.Output(), "413"), "curl should have got the 413, but said: %s", curl.Output())
			master.WaitOutput("client intended to send too large body")
			w.WaitEnded(8080)
			w.Due(Link{
				Name: "curl > nginx", Port: 8080,
				Ending: Ending{Class: verdict.Graceful, Cause: verdict.OrderlyClose, Act: verdict.ActClose, Actor: "curl", By: "client"},
				Client: Side{FIN: 1, TimeWait: true},
				Server: Side{FIN: 1, Saw: []string{"EOF"}},
				Says:   []string{"curl (pid", "closed first, with close(2)", "nothing was lost"},
			})
		},
	},
	{
		Name: "nginx-late-alert", Case: "C25", Programs: []string{"nginx", "openssl"},
		Title: "nginx has answered and closed; the client's TLS goodbye comes later and is reset",
		Play: func(w *World) {
			cert, key := w.certificate()
			_, worker := w.nginx("listen 127.0.0.1:4433 ssl; ssl_protocols TLSv1.3; ssl_certificate " + cert + "; ssl_certificate_key " + key + "; keepalive_timeout 0;")
			client := w.Start("s_client", "openssl", "s_client", "-connect", "127.0.0.1:4433")
			client.WaitOutput("Verify return code") // it is connected
			w.WaitClient(4433, 1, "the handshake's end", func(r harness.Row) bool { return r.Send == 0 })
			w.Meanwhile(worker, func() {
				client.Say("GET / HTTP/1.0\n\n")
				w.WaitServer(4433, 1, "the request", Holds(1))
				w.Stop(client.PID())
			})
			w.WaitServer(4433, 1, "the close", LetGo)
			w.Signal(client.PID(), unix.SIGCONT)
			client.WaitExit()
			w.Check(strings.Contains(client.Output(), "hello"), "s_client should have got the answer, but: %s", client.Output())
			w.WaitEnded(4433)
			w.Due(Link{
				Name: "openssl > nginx", Port: 4433,
				Ending: Ending{Class: verdict.Aborted, Cause: verdict.DataAfterClose, Act: verdict.ActClose, Actor: "nginx worker", By: "server"},
				// close_notify: a header of 5, 2 and the content type, a tag of 16. Its FIN
				// may leave before the reset comes, and is reset, too.
				Client: Side{Unacked: 24, FIN: Any, Saw: []string{"EOF"}},
				Server: Side{FIN: 1, RST: Some},
				Says:   []string{"nginx (pid", "closed both directions with close(2)", "24 bytes"},
			})
		},
	},
	{
		Name: "nginx-499", Case: "C09", Programs: []string{"nginx", "python3", "curl"},
		Title: "curl gives up on nginx, which gives up on its upstream; the upstream's answer comes later",
		Play: func(w *World) {
			server := w.Python("http.server")
			server.Do(slow)
			w.nginx("access_log /dev/stderr; location / { proxy_pass http://127.0.0.1:8000; }")
			curl := w.Start("curl", "curl", "-s", "--max-time", "1", "http://127.0.0.1:8080/")
			w.Check(curl.WaitExit() == 28, "curl should have given up, but said: %s", curl.Output())
			w.programs[1].WaitOutput(" 499 ")
			w.WaitServer(8000, 1, "nginx's FIN", In(event.CloseWait))
			server.Do(`gate.set()`)
			server.WaitOutput("BrokenPipeError")
			w.WaitEnded(8080)
			w.WaitEnded(8000)
			w.Due(
				Link{
					Name: "curl > nginx", Port: 8080,
					Ending: Ending{Class: verdict.Graceful, Cause: verdict.OrderlyClose, Act: verdict.ActClose, Actor: "curl", By: "client"},
					Client: Side{FIN: 1, TimeWait: true},
					Server: Side{FIN: 1, Or: [][]string{{"EOF"}}}, // nginx looks with MSG_PEEK
					Says:   []string{"curl (pid", "closed first, with close(2)"},
				},
				Link{
					Name: "nginx > python3", Port: 8000,
					Ending: Ending{Class: verdict.Aborted, Cause: verdict.DataAfterClose, Act: verdict.ActClose, Actor: "nginx worker", By: "client"},
					Client: Side{FIN: 1, RST: 1},
					Server: Side{Unacked: Some, Saw: []string{"EPIPE", "SIGPIPE"}},
					Says:   []string{"nginx (pid", "closed both directions with close(2)"},
				})
		},
	},
	{
		Name: "nginx-worker-killed", Case: "C08", Programs: []string{"nginx", "python3"},
		Title: "nginx's worker is killed before it has read a request",
		Play: func(w *World) {
			_, worker := w.nginx("keepalive_timeout 1h;")
			client := w.kept()
			w.Stop(worker)
			client.Do(`c.request("GET", "/again")`)
			w.WaitServer(8080, 1, "the request", Holds(len(again)))
			w.WaitClient(8080, 1, "its acknowledgement", func(r harness.Row) bool { return r.Send == 0 })
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
		Name: "http.server-answer", Case: "C05", Programs: []string{"python3", "nc.openbsd"},
		Title: "python's http.server answers, shuts down its sending side, and closes at once",
		Play: func(w *World) {
			w.File("www/index.html", "hello\n")
			w.Start("http.server", "python3", "-m", "http.server", "--bind", "127.0.0.1", "--directory", w.Dir+"/www", "8080")
			w.WaitListen(8080)
			nc := w.Start("nc", "nc.openbsd", "127.0.0.1", "8080")
			nc.Say("GET / HTTP/1.0\r\n\r\n")
			nc.WaitOutput("hello")
			w.WaitServer(8080, 1, "the close", func(r harness.Row) bool { return r.State == event.FinWait2 && r.Inode == 0 })
			nc.EndInput()
			nc.WaitExit()
			w.WaitEnded(8080)
			w.Due(Link{
				Name: "nc > python3", Port: 8080,
				Ending: Ending{Class: verdict.Graceful, Cause: verdict.OrderlyClose, Act: verdict.ActShutWr, Actor: "http.server", By: "server"},
				Client: Side{FIN: 1, Saw: []string{"EOF"}},
				Server: Side{FIN: 1, TimeWait: true},
				Says:   []string{"python3 (pid"},
			})
		},
	},
	{
		Name: "http.server-half-close", Case: "C21", Programs: []string{"python3", "nc.openbsd"},
		Title: "a client shuts down its sending side after its request; python's http.server answers all the same",
		Play: func(w *World) {
			server := w.Python("http.server")
			server.Do(slow)
			nc := w.Start("nc", "nc.openbsd", "-N", "127.0.0.1", "8000")
			nc.Say("GET / HTTP/1.0\r\n\r\n")
			server.WaitOutput("asked")
			nc.EndInput()
			w.WaitServer(8000, 1, "nc's FIN", In(event.CloseWait))
			server.Do(`gate.set()`)
			nc.WaitExit()
			w.Check(strings.Contains(nc.Output(), "too late"), "nc should have got the answer, but: %s", nc.Output())
			w.WaitEnded(8000)
			w.Due(Link{
				Name: "nc > python3", Port: 8000,
				Ending: Ending{Class: verdict.Graceful, Cause: verdict.HalfClose, Act: verdict.ActShutWr, Actor: "nc", By: "client"},
				Client: Side{FIN: 1, HalfClose: true, TimeWait: true, Saw: []string{"EOF"}},
				Server: Side{FIN: 1, HalfClose: true}, // which does not read on
				Says:   []string{"nc.openbsd (pid", "shutdown(SHUT_WR)", "nothing was lost"},
			})
		},
	},
	{
		Name: "http.server-killed", Case: "C08", Programs: []string{"python3", "curl"},
		Title: "a server is killed while it works on a request that it has read",
		Play: func(w *World) {
			server := w.Python("http.server")
			server.Do(slow)
			curl := w.Start("curl", "curl", "-s", "-S", "http://127.0.0.1:8000/")
			server.WaitOutput("asked")
			server.Kill()
			w.Check(curl.WaitExit() == 52, "curl should have got an empty reply, but said: %s", curl.Output())
			w.WaitEnded(8000)
			w.Due(Link{
				Name: "curl > python3", Port: 8000,
				Ending: Ending{Class: verdict.Graceful, Cause: verdict.OrderlyClose, Act: verdict.ActKilled, Signal: int(unix.SIGKILL), Actor: "http.server", By: "server"},
				Client: Side{FIN: 1, Saw: []string{"EOF"}},
				Server: Side{FIN: 1, TimeWait: true},
				Says:   []string{"python3 (pid", "when it was killed by SIGKILL"},
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
				Server: Side{Unread: Some, Unacked: Any, FIN: 1, RST: Some}, // curl may not have acknowledged the answer by then
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
			w.deadline(func() {})
		},
	},
	{
		Name: "curl-deadline-late", Case: "C41", Programs: []string{"python3", "curl"},
		Title: "the same, but the answer comes after curl's kernel has forgotten the connection",
		Play: func(w *World) {
			w.Sysctl("net.ipv4.tcp_fin_timeout", "1")
			w.deadline(func() {
				w.WaitClient(8000, 0, "nothing left", func(harness.Row) bool { return true })
			})
		},
	},
	{
		Name: "gunicorn-deploy", Case: "C35", Programs: []string{"gunicorn", "curl"},
		Title: "gunicorn is stopped with a request in its backlog",
		Play: func(w *World) {
			master, worker := w.gunicorn()
			served := w.Start("served", "curl", "-s", "-0", "http://127.0.0.1:8000/")
			w.WaitServer(8000, 1, "the first request read", func(r harness.Row) bool { return r.Inode != 0 && r.Receive == 0 && r.State == event.Established })
			queued := w.Start("queued", "curl", "-s", "-S", "http://127.0.0.1:8000/")
			w.WaitServer(8000, 1, "the second request in the queue", func(r harness.Row) bool { return r.Receive > 0 })
			var waits uint64
			w.WaitRows("the second request's size", func(rows []harness.Row) bool {
				for _, r := range rows {
					if r.Local.Port() == 8000 && r.State == event.Established && r.Receive > 0 {
						waits = r.Receive
					}
				}
				return waits > 0
			})
			w.Signal(master.PID(), unix.SIGTERM)
			master.WaitOutput("Handling signal: term")
			w.WaitRows("the worker alone with the listener", func([]harness.Row) bool { return !holdsListener(master.PID()) })
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
					Ending: Ending{Class: verdict.Aborted, Cause: verdict.ListenerClosed, Act: verdict.ActListener, Actor: "gunicorn worker", By: "server"},
					Client: Side{Saw: []string{"ECONNRESET"}},
					Server: Side{Unread: int(waits), RST: 1},
					Retry:  verdict.RetrySafe,
					Says:   []string{"accept queue", fmt.Sprintf("gunicorn (pid %d)", worker)},
				})
		},
	},
	{
		Name: "gunicorn-worker-timeout", Case: "C36 C08", Programs: []string{"gunicorn", "curl"},
		Title: "gunicorn's master ends a worker that is stuck in a request; the client gets nothing",
		Play: func(w *World) {
			// On a slow machine a worker takes more than a second to begin.
			w.gunicorn("--timeout", "10")
			curl := w.Start("curl", "curl", "-s", "-S", "http://127.0.0.1:8000/")
			w.Check(curl.WaitExit() == 52, "curl should have got an empty reply, but said: %s", curl.Output())
			w.programs[0].WaitOutput("WORKER TIMEOUT")
			w.WaitGone(w.roles["gunicorn worker"].PID)
			w.WaitEnded(8000)
			w.Due(Link{
				Name: "curl > gunicorn", Port: 8000,
				Ending: Ending{Class: verdict.Graceful, Cause: verdict.OrderlyClose, Act: verdict.ActClose, Actor: "gunicorn worker", By: "server"},
				Client: Side{FIN: 1, Saw: []string{"EOF"}},
				Server: Side{FIN: 1, TimeWait: true},
				Says:   []string{fmt.Sprintf("gunicorn (pid %d) closed first", w.roles["gunicorn worker"].PID)},
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
				Retry:  verdict.RetrySafe,
				Says:   []string{"Nobody listens on 127.0.0.1:8080"},
			})
		},
	},
}
