package real

import (
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/demo/harness"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// redis starts redis-server.
func (w *World) redis(settings ...string) *Program {
	p := w.Start("redis", "redis-server", append([]string{"--port", "6379", "--bind", "127.0.0.1", "--dir", w.Dir, "--save", ""}, settings...)...)
	p.WaitOutput("Ready to accept connections")
	return p
}

// cli runs redis-cli, whose connection is one of the run's.
func (w *World) cli(role string, args ...string) (said string, its Link) {
	p := w.Start(role, "redis-cli", append([]string{"-p", "6379"}, args...)...)
	p.EndInput()
	w.Check(p.WaitExit() == 0, "redis-cli failed: %s", p.Output())
	return p.Output(), Link{
		Name: "redis-cli > redis", Port: 6379,
		Ending: Ending{Class: verdict.Graceful, Cause: verdict.OrderlyClose, Act: verdict.ActExit, Actor: role, By: "client"},
		Client: Side{FIN: 1, TimeWait: true},
		Server: Side{FIN: 1, Saw: []string{"EOF"}},
	}
}

var redis = []Run{
	{
		Name: "redis-client-kill", Case: "C78", Programs: []string{"redis-server", "redis-cli", "nc.openbsd"},
		Title: "an operator closes a connection with CLIENT KILL",
		Play: func(w *World) {
			w.redis()
			nc := w.Start("nc", "nc.openbsd", "127.0.0.1", "6379")
			nc.Say("PING\r\n")
			nc.WaitOutput("+PONG")
			said, cli := w.cli("redis-cli", "client", "kill", "type", "normal")
			w.Check(strings.TrimSpace(said) == "1", "CLIENT KILL should have killed 1, but: %s", said)
			w.WaitClient(6379, 1, "redis's FIN", In(event.CloseWait))
			nc.EndInput()
			nc.WaitExit()
			w.WaitEnded(6379)
			w.Due(Link{
				Name: "nc > redis", Port: 6379,
				Ending: Ending{Class: verdict.Graceful, Cause: verdict.OrderlyClose, Act: verdict.ActClose, Actor: "redis", By: "server"},
				Client: Side{FIN: 1, Saw: []string{"EOF"}},
				Server: Side{FIN: 1, TimeWait: true},
				Says:   []string{"redis-server (pid", "close(2)"},
			}, cli)
		},
	},
	{
		Name: "redis-idle-timeout", Case: "C01", Programs: []string{"redis-server", "socat"},
		Title: "redis closes a connection that has been idle for its timeout",
		Play: func(w *World) {
			w.redis("--timeout", "1")
			socat := w.Start("socat", "socat", "-", "TCP:127.0.0.1:6379")
			socat.Say("PING\r\n")
			socat.WaitOutput("+PONG")
			socat.WaitExit()
			w.WaitEnded(6379)
			w.Due(Link{
				Name: "socat > redis", Port: 6379,
				Ending: Ending{Class: verdict.Graceful, Cause: verdict.OrderlyClose, Act: verdict.ActClose, Actor: "redis", By: "server"},
				Client: Side{FIN: 1, Saw: []string{"EOF"}},
				Server: Side{FIN: 1, TimeWait: true},
				Says:   []string{"redis-server (pid", "close(2)"},
			})
		},
	},
	{
		Name: "redis-output-limit", Case: "C45", Programs: []string{"redis-server", "redis-cli", "python3", "bash"},
		Title: "redis drops a subscriber that does not read; the last message is cut",
		Play: func(w *World) {
			const message = 6 << 20
			server := w.redis("--client-output-buffer-limit", "pubsub 8mb 8mb 60")
			client := w.Python("subscriber")
			client.Do(`
import socket
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
s.connect(("127.0.0.1", 6379))
s.sendall(b"SUBSCRIBE news\r\n")
assert b":1\r\n" in s.recv(1000)
`)
			big := w.Big("message", message)
			var links []Link
			for i, role := range []string{"first", "second"} {
				p := w.Start(role, "bash", "-c", "exec redis-cli -p 6379 -x publish news < "+big)
				w.Check(p.WaitExit() == 0, "redis-cli failed: %s", p.Output())
				w.Check(strings.TrimSpace(p.Output()) == "1", "message %d should have had one receiver, but: %s", i, p.Output())
				w.roles[role] = Process{PID: p.PID(), Comm: "redis-cli"} // bash became it
				links = append(links, Link{
					Name: "redis-cli > redis", Port: 6379,
					Ending: Ending{Class: verdict.Graceful, Cause: verdict.OrderlyClose, Act: verdict.ActExit, Actor: role, By: "client"},
					Client: Side{FIN: 1, TimeWait: true},
					Server: Side{FIN: 1, Saw: []string{"EOF"}},
				})
			}
			server.WaitOutput("overcoming of output buffer limits")
			w.WaitServer(6379, 1, "the FIN behind what is queued", func(r harness.Row) bool { return r.State == event.FinWait1 && r.Send > 0 })
			got := strings.TrimSpace(client.Do(`
n = 0
while True:
    b = s.recv(1 << 20)
    if not b: break
    n += len(b)
s.close()
print(n)
`))
			n, err := strconv.Atoi(got)
			w.Check(err == nil && n > 0 && n < 2*message, "the subscriber should have got a part, but it was %s", got)
			w.WaitEnded(6379)
			w.Due(Link{
				Name: "python3 > redis", Port: 6379,
				Ending: Ending{Class: verdict.Graceful, Cause: verdict.OrderlyClose, Act: verdict.ActClose, Actor: "redis", By: "server"},
				Client: Side{FIN: 1, Saw: []string{"EOF"}},
				Server: Side{FIN: 1, TimeWait: true},
				Says:   []string{"redis-server (pid", "close(2)"},
			})
			w.Due(links...)
		},
	},
	{
		Name: "redis-bgsave-holds", Case: "C27", Programs: []string{"redis-server", "redis-cli", "nc.openbsd"},
		Title: "redis closes a client while its BGSAVE child holds a copy: the FIN comes when the child exits",
		Play: func(w *World) {
			server := w.redis("--rdb-key-save-delay", "1000000")
			nc := w.Start("nc", "nc.openbsd", "127.0.0.1", "6379")
			nc.Say("SET key value\r\n")
			nc.WaitOutput("+OK")
			said, save := w.cli("redis-cli save", "bgsave")
			w.Check(strings.Contains(said, "Background saving started"), "BGSAVE should have started, but: %s", said)
			child := w.Child("redis child", server.PID(), "redis-server")
			w.Stop(child)
			said, kill := w.cli("redis-cli kill", "client", "kill", "type", "normal")
			w.Check(strings.TrimSpace(said) == "1", "CLIENT KILL should have killed 1, but: %s", said)
			w.WaitServer(6379, 1, "a connection that stands", In(event.Established))
			w.Signal(child, unix.SIGCONT)
			w.WaitClient(6379, 1, "the FIN", In(event.CloseWait))
			server.WaitOutput("Background saving terminated with success")
			nc.EndInput()
			nc.WaitExit()
			w.WaitEnded(6379)
			w.Due(Link{
				Name: "nc > redis", Port: 6379,
				Ending: Ending{Class: verdict.Graceful, Cause: verdict.OrderlyClose, Act: verdict.ActExit, Actor: "redis child", By: "server"},
				Client: Side{FIN: 1, Saw: []string{"EOF"}},
				Server: Side{FIN: 1, TimeWait: true},
				Says:   []string{"by exiting", "redis-server (pid " + strconv.Itoa(child) + ")"},
			}, save, kill)
		},
	},
}
