package real

import (
	"strings"

	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// relay is a Python that takes connections on port 7001 and opens one to port
// 7000 for each.
const relay = `
import socket
front = socket.create_server(("127.0.0.1", 7001))
def take():
    a, _ = front.accept()
    return a, socket.create_connection(("127.0.0.1", 7000))
`

var relays = []Run{
	{
		Name: "socat-cuts-half-close", Case: "C18 C20 C80", Programs: []string{"nc.openbsd", "socat", "python3"},
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
					Says:   []string{"nc.openbsd (pid", "shutdown(SHUT_WR)", "socat (pid"},
				},
				Link{
					Name: "socat > python3", Port: 7000,
					Ending: Ending{Class: verdict.Aborted, Cause: verdict.DataAfterClose, Act: verdict.ActExit, Actor: "socat", By: "client"},
					Client: Side{FIN: 1, RST: 1},
					Server: Side{Unacked: len("the answer"), Saw: []string{"EOF", "EPIPE", "SIGPIPE"}}, // which Python ignores
					Says:   []string{"socat (pid", "10 bytes"},
				})
		},
	},
	{
		Name: "socat-keeps-half-close", Case: "C20", Programs: []string{"nc.openbsd", "socat", "python3"},
		Title: "a forwarder that passes no FIN on: the backend waits for the end of its input for ever",
		Play: func(w *World) {
			backend := w.Python("backend")
			backend.Do(listener)
			w.Start("socat", "socat", "-t", "3600", "TCP-LISTEN:7001,bind=127.0.0.1", "TCP:127.0.0.1:7000,shut-none")
			w.WaitListen(7001)
			nc := w.Start("nc", "nc.openbsd", "-N", "127.0.0.1", "7001")
			nc.Say("question\n")
			backend.Do(`s, _ = l.accept(); assert s.recv(100) == b"question\n"`)
			nc.EndInput()
			w.WaitServer(7001, 1, "the FIN", In(event.CloseWait))
			w.WaitClient(7001, 1, "its acknowledgement", In(event.FinWait2))
			w.Due(
				Link{
					Name: "nc > socat", Port: 7001,
					Ending: Ending{Class: verdict.Open, Act: verdict.ActShutWr, Actor: "nc"},
					Client: Side{FIN: 1, Open: verdict.FinWait2Held},
					Server: Side{Open: verdict.FinWait2Held, Or: [][]string{{"EOF"}}},
					Says:   []string{"nc.openbsd (pid", "has not sent its FIN", "socat (pid"},
				},
				Link{
					Name: "socat > python3", Port: 7000,
					Ending: Ending{Class: verdict.Open},
					Client: Side{Open: verdict.StillOpen},
					Server: Side{Open: verdict.StillOpen},
					Says:   []string{"is open"},
				})
		},
	},
	{
		Name: "relay-takes-all-down", Case: "C42", Programs: []string{"nc.openbsd", "python3"},
		Title: "a backend resets one stream, and the forwarder takes that for its own end: it closes the others",
		Play: func(w *World) {
			backend := w.Python("backend")
			backend.Do(listener)
			r := w.Python("relay")
			r.Do(relay)
			var streams []string
			for _, name := range []string{"a", "b"} {
				nc := w.Start("nc "+name, "nc.openbsd", "127.0.0.1", "7001")
				nc.Say("question " + name + "\n")
				r.Do(name + ", up_" + name + " = take(); up_" + name + ".sendall(" + name + ".recv(100))")
				backend.Do(name + ", _ = l.accept()")
				streams = append(streams, name)
			}
			w.WaitServer(7000, 2, "the questions", Holds(len("question a\n")))
			backend.Do(`a.close()`) // which it has not read
			r.Begin(`
try:
    up_a.recv(100)
except OSError:
    import os
    os._exit(1) # as a forwarder that dies of the first error
`)
			w.Check(r.WaitExit() == 1, "the relay should have ended, but: %s", r.Output())
			backend.Do(`assert b.recv(100) == b"question b\n" and b.recv(100) == b""; b.close()`)
			for _, p := range w.programs {
				if strings.HasPrefix(p.role, "nc ") {
					w.WaitClient(7001, 2, "the relay's FIN", In(event.CloseWait, event.Close))
				}
			}
			for _, p := range w.programs {
				if strings.HasPrefix(p.role, "nc ") {
					p.EndInput()
					p.WaitExit()
				}
			}
			w.WaitEnded(7000)
			w.WaitEnded(7001)
			exit := Ending{Class: verdict.Graceful, Cause: verdict.OrderlyClose, Act: verdict.ActExit, Actor: "relay"}
			for range streams {
				end := exit
				end.By = "server"
				w.Due(Link{
					Name: "nc > python3", Port: 7001, Ending: end,
					Client: Side{FIN: 1, Saw: []string{"EOF"}},
					Server: Side{FIN: 1, TimeWait: true},
					Says:   []string{"python3 (pid", "closed first, by exiting"},
				})
			}
			exit.By = "client"
			w.Due(
				Link{
					Name: "relay > backend", Port: 7000,
					Ending: Ending{Class: verdict.Aborted, Cause: verdict.CloseUnread, Act: verdict.ActClose, Actor: "backend", By: "server"},
					Client: Side{Saw: []string{"ECONNRESET"}},
					Server: Side{Unread: len("question a\n"), RST: 1},
					Says:   []string{"python3 (pid", "threw away 11 bytes that it had received and not read"},
				},
				Link{
					Name: "relay > backend", Port: 7000, Ending: exit,
					Client: Side{FIN: 1, TimeWait: true},
					Server: Side{FIN: 1, Saw: []string{"EOF"}},
					Says:   []string{"python3 (pid", "closed first, by exiting"},
				})
		},
	},
	{
		Name: "relay-drops-tail", Case: "C66", Programs: []string{"nc.openbsd", "python3"},
		Title: "a forwarder closes its client's leg when the backend has finished, with a tail still in its own memory",
		Play: func(w *World) {
			backend := w.Python("backend")
			backend.Do(listener)
			r := w.Python("relay")
			r.Do(relay)
			nc := w.Start("nc", "nc.openbsd", "-d", "127.0.0.1", "7001")
			r.Do(`a, up = take()`)
			backend.Do(`s, _ = l.accept(); s.sendall(bytes(5000)); s.close()`)
			r.Do(`
n = 0
while True:
    b = up.recv(100000)
    if not b: break
    n += len(b)
assert n == 5000
a.sendall(bytes(3400))
up.close()
a.close()
`)
			nc.WaitExit()
			w.WaitEnded(7000)
			w.WaitEnded(7001)
			w.Due(
				Link{
					Name: "nc > relay", Port: 7001,
					Ending: Ending{Class: verdict.Graceful, Cause: verdict.OrderlyClose, Act: verdict.ActClose, Actor: "relay", By: "server"},
					Client: Side{FIN: 1, Received: 3400, Saw: []string{"EOF"}},
					Server: Side{FIN: 1, Sent: 3400, TimeWait: true},
					Says:   []string{"python3 (pid", "closed first, with close(2)"},
				},
				Link{
					Name: "relay > backend", Port: 7000,
					Ending: Ending{Class: verdict.Graceful, Cause: verdict.OrderlyClose, Act: verdict.ActClose, Actor: "backend", By: "server"},
					Client: Side{FIN: 1, Received: 5000, Saw: []string{"EOF"}},
					Server: Side{FIN: 1, Sent: 5000, TimeWait: true},
					Says:   []string{"python3 (pid", "closed first, with close(2)"},
				})
		},
	},
}
