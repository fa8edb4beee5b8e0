package real

import (
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// deaf makes a Python's connection s drop all that comes: a socket filter that
// takes nothing. To the peer the machine is gone.
const deaf = `
import ctypes, struct
drop = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0)) # ret #0
s.setsockopt(socket.SOL_SOCKET, 26, struct.pack("HP", 1, ctypes.addressof(drop))) # SO_ATTACH_FILTER
`

// silence is a socat whose peer goes silent.
func (w *World) silence(options string) (socat *Program) {
	server := w.Python("server")
	server.Do(listener)
	socat = w.Start("socat", "socat", "-", "TCP:127.0.0.1:7000,"+options)
	socat.Say("hello\n")
	server.Do(`s, _ = l.accept(); assert s.recv(100) == b"hello\n"`)
	server.Do(deaf)
	return socat
}

var silences = []Run{
	{
		Name: "socat-user-timeout", Case: "C04 C56", Programs: []string{"socat", "python3"},
		Title: "the path swallows everything; TCP_USER_TIMEOUT ends the wait",
		Play: func(w *World) {
			socat := w.silence("setsockopt-int=6:18:1500") // TCP_USER_TIMEOUT, ms
			socat.Say("lost\n")
			socat.WaitOutput("Connection timed out")
			socat.WaitExit()
			w.Due(Link{
				Name: "socat > python3", Port: 7000,
				Ending: Ending{Class: verdict.TimedOut, Cause: verdict.UserTimeout, By: "client", Kernel: true},
				Client: Side{Unacked: 5, Saw: []string{"ETIMEDOUT"}},
				Server: Side{Open: verdict.StillOpen},
				Says:   []string{"TCP_USER_TIMEOUT"},
			})
		},
	},
	{
		Name: "socat-keepalive", Case: "C55", Programs: []string{"socat", "python3"},
		Title: "the peer is gone; two keepalive probes find out",
		Play: func(w *World) {
			socat := w.silence("keepalive,keepidle=1,keepintvl=1,keepcnt=2")
			socat.WaitOutput("Connection timed out")
			socat.WaitExit()
			w.Due(Link{
				Name: "socat > python3", Port: 7000,
				Ending: Ending{Class: verdict.TimedOut, Cause: verdict.KeepaliveTimeout, By: "client", Kernel: true},
				Client: Side{RST: 1, Saw: []string{"ETIMEDOUT"}},
				Server: Side{Open: verdict.StillOpen},
				Says:   []string{"keepalive"},
			})
		},
	},
}
