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
				Server: Side{Saw: []string{"ECONNRESET"}},
				Says:   []string{"SO_LINGER"},
			})
		},
	},
	{
		Name: "socat-cuts-half-close", Case: "C18 C20", Programs: []string{"nc.openbsd", "socat", "python3"},
		Title: "a forwarder that waits half a second after the client's FIN cuts the answer off",
		Play: func(w *World) {
			backend := w.Python("backend")
			backend.Do(listener)
			socat := w.Start("socat", "socat", "TCP-LISTEN:7001,bind=127.0.0.1", "TCP:127.0.0.1:7000")
			w.WaitListen(7001)
			nc := w.Start("nc", "nc.openbsd", "-N", "127.0.0.1", "7001")
			nc.Say("question\n")
			backend.Do(`s, _ = l.accept()`)
			nc.EndInput()
			backend.Do(`while s.recv(100): pass`)
			socat.WaitExit()
			nc.WaitExit()
			said := backend.Try("s.sendall(b'the answer')\nwhile True: s.sendall(b'more')")
			w.Check(strings.Contains(said, "BrokenPipeError"), "the backend should have met a closed socket, but: %s", said)
			backend.Do(`s.close()`)
			w.WaitEnded(7000)
			w.WaitEnded(7001)
			w.Due(
				Link{
					Name: "nc > socat", Port: 7001,
					Ending: Ending{Class: verdict.Graceful, Cause: verdict.HalfClose, Act: verdict.ActShutWr, Actor: "nc", By: "client"},
					Client: Side{FIN: 1, HalfClose: true, TimeWait: true, Saw: []string{"EOF"}},
					Server: Side{FIN: 1, HalfClose: true, Saw: []string{"EOF"}},
				},
				Link{
					Name: "socat > python3", Port: 7000,
					Ending: Ending{Class: verdict.Aborted, Cause: verdict.DataAfterClose, Act: verdict.ActExit, Actor: "socat", By: "client"},
					Client: Side{FIN: 1, RST: 1},
					Server: Side{Unacked: len("the answer"), Saw: []string{"EOF", "EPIPE"}},
					Says:   []string{"socat (pid", "10 bytes"},
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
		Name: "ss-kill", Case: "C78", Programs: []string{"nc.openbsd", "ss"},
		Title: "an administrator destroys a connection with ss -K",
		Play: func(w *World) {
			server := w.Start("server", "nc.openbsd", "-l", "127.0.0.1", "7000")
			w.WaitListen(7000)
			client := w.Start("client", "nc.openbsd", "127.0.0.1", "7000")
			client.Say("hello\n")
			server.WaitOutput("hello")
			ss := w.Start("ss", "ss", "-K", "-n", "-t", "dport", "=", "7000")
			ss.WaitExit()
			server.WaitExit()
			client.WaitExit()
			w.WaitEnded(7000)
			w.Due(Link{
				Name: "nc > nc", Port: 7000,
				Ending: Ending{Class: verdict.Aborted, Cause: verdict.SockDestroy, Act: verdict.ActDestroy, Actor: "ss", Admin: true},
				Client: Side{RST: 1, Saw: []string{"ECONNABORTED"}},
				Server: Side{Saw: []string{"ECONNRESET"}},
				Says:   []string{"ss (pid"},
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
