package real

import (
	"strings"

	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// listener is a Python that accepts one connection on port 7000.
const listener = `
import socket
l = socket.create_server(("127.0.0.1", 7000))
`

var pipes = []Run{
	{
		Name: "nc-half-close", Case: "C20", Programs: []string{"nc.openbsd", "socat", "bash"},
		Title: "nc says that it is done sending; socat answers, and closes",
		Play: func(w *World) {
			w.Start("socat", "socat", "-t", "60", "TCP-LISTEN:7000,bind=127.0.0.1", "SYSTEM:cat >&2; echo answer")
			w.WaitListen(7000)
			nc := w.Start("nc", "nc.openbsd", "-N", "127.0.0.1", "7000")
			nc.Say("question\n")
			nc.EndInput()
			nc.WaitExit()
			w.Check(strings.Contains(nc.Output(), "answer"), "nc should have got the answer, but: %s", nc.Output())
			w.WaitEnded(7000)
			w.Due(Link{
				Name: "nc > socat", Port: 7000,
				Ending: Ending{Class: verdict.Graceful, Cause: verdict.HalfClose, Act: verdict.ActShutWr, Actor: "nc", By: "client"},
				Client: Side{FIN: 1, HalfClose: true, TimeWait: true, Saw: []string{"EOF"}},
				Server: Side{FIN: 1, HalfClose: true, Saw: []string{"EOF"}},
				Says:   []string{"nc.openbsd (pid", "shutdown(SHUT_WR)"},
			})
		},
	},
	{
		Name: "socat-linger-zero", Case: "C23", Programs: []string{"nc.openbsd", "socat"},
		Title: "socat closes with linger=0",
		Play: func(w *World) {
			nc := w.Start("nc", "nc.openbsd", "-l", "127.0.0.1", "7000")
			w.WaitListen(7000)
			socat := w.Start("socat", "socat", "-u", "-", "TCP:127.0.0.1:7000,linger=0,shut-close")
			socat.Say("hello\n")
			nc.WaitOutput("hello")
			socat.EndInput()
			socat.WaitExit()
			nc.WaitExit()
			w.WaitEnded(7000)
			w.Due(Link{
				Name: "socat > nc", Port: 7000,
				Ending: Ending{Class: verdict.Aborted, Cause: verdict.LingerZero, Act: verdict.ActClose, Actor: "socat", By: "client"},
				Client: Side{RST: 1},
				Server: Side{}, // nc closes at POLLERR and never asks which error it is
				Says:   []string{"socat (pid", "SO_LINGER"},
			})
		},
	},
	{
		Name: "cat-sigpipe", Case: "C16", Programs: []string{"bash", "cat", "python3"},
		Title: "cat writes on after the server has closed, and dies of SIGPIPE",
		Play: func(w *World) {
			server := w.Python("server")
			server.Do(listener)
			bash := w.Start("bash", "bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/7000; read; cat "+w.Big("big", 8<<20)+" >&3; echo status $?")
			server.Do(`s, _ = l.accept(); s.close()`)
			w.WaitClient(7000, 1, "the server's FIN", In(event.CloseWait))
			bash.Say("\n")
			bash.WaitOutput("status 141") // 128 and SIGPIPE
			bash.WaitExit()
			w.WaitEnded(7000)
			w.Due(Link{
				Name: "cat > python3", Port: 7000,
				Ending: Ending{Class: verdict.Aborted, Cause: verdict.DataAfterClose, Act: verdict.ActClose, Actor: "server", By: "server"},
				Client: Side{Unsent: Any, Unacked: Some, Saw: []string{"EPIPE", "SIGPIPE"}},
				Server: Side{FIN: 1, RST: Some},
				Says:   []string{"python3 (pid"},
			})
		},
	},
	{
		Name: "ss-kill", Case: "C78", Programs: []string{"redis-server", "socat", "ss"},
		Title: "an administrator destroys a connection with ss -K",
		Play: func(w *World) {
			w.redis()
			socat := w.Start("socat", "socat", "-", "TCP:127.0.0.1:6379")
			socat.Say("PING\r\n")
			socat.WaitOutput("+PONG")
			w.Start("ss", "ss", "-K", "-n", "-t", "dport", "=", "6379").WaitExit()
			socat.WaitExit()
			w.Check(strings.Contains(socat.Output(), "Software caused connection abort"), "socat should have been told, but said: %s", socat.Output())
			w.WaitEnded(6379)
			w.Due(Link{
				Name: "socat > redis", Port: 6379,
				Ending: Ending{Class: verdict.Aborted, Cause: verdict.SockDestroy, Act: verdict.ActDestroy, Actor: "ss", Admin: true},
				Client: Side{RST: 1, Saw: []string{"ECONNABORTED"}},
				Server: Side{Saw: []string{"ECONNRESET"}},
				Says:   []string{"ss (pid", "Neither application closed it."},
			})
		},
	},
	{
		Name: "curl-close-wait", Case: "C10", Programs: []string{"python3", "curl"},
		Title: "curl gives up; the server reads its goodbye and forgets to close",
		Play: func(w *World) {
			server := w.Python("server")
			server.Do(listener)
			curl := w.Start("curl", "curl", "-s", "--max-time", "1", "http://127.0.0.1:7000/")
			server.Do(`
s, _ = l.accept()
while s.recv(1000): pass
`)
			w.Check(curl.WaitExit() == 28, "curl should have given up, but said: %s", curl.Output())
			w.WaitClient(7000, 1, "the FIN acknowledged", In(event.FinWait2))
			w.Due(Link{
				Name: "curl > python3", Port: 7000,
				Ending: Ending{Class: verdict.Open},
				Client: Side{FIN: 1, Open: verdict.CloseWaitLeak},
				Server: Side{Open: verdict.CloseWaitLeak, Saw: []string{"EOF"}},
				Says:   []string{"curl (pid", "has finished (FIN), and python3 (pid", "No timer will: only the process can"},
			})
		},
	},
	{
		Name: "nc-fin-wait2", Case: "C39", Programs: []string{"nc.openbsd", "python3"},
		Title: "nc is done and waits for the server's FIN; the server never closes",
		Play: func(w *World) {
			server := w.Python("server")
			server.Do(listener)
			nc := w.Start("nc", "nc.openbsd", "-N", "127.0.0.1", "7000")
			nc.Say("hello\n")
			server.Do(`s, _ = l.accept(); s.recv(100)`)
			nc.EndInput()
			server.Do(`s.recv(100)`)
			w.WaitClient(7000, 1, "the FIN acknowledged", In(event.FinWait2))
			w.Due(Link{
				Name: "nc > python3", Port: 7000,
				Ending: Ending{Class: verdict.Open, Act: verdict.ActShutWr, Actor: "nc"},
				Client: Side{FIN: 1, Open: verdict.FinWait2Held},
				Server: Side{Open: verdict.FinWait2Held, Saw: []string{"EOF"}},
				Says:   []string{"nc.openbsd (pid"},
			})
		},
	},
}
