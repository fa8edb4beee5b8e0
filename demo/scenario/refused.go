package scenario

import (
	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/tracer/verdict"
)

var refused = []Scenario{
	{
		Name:     "closed-port",
		Title:    "nobody listens on the port",
		Story:    "The client connects to a port whose listener has just gone. The kernel answers the SYN with a reset: ECONNREFUSED.",
		Groups:   []string{"refused"},
		Families: everyFamily,
		Run: func(w *World) {
			l := w.Puppet("server").Listen(16)
			l.Close()
			w.Puppet("client").ConnectFails("client", l.at, unix.ECONNREFUSED).Close()
		},
		Ends: map[string]Expect{
			"client": ending{class: verdict.Refused, cause: verdict.PortClosed, kernel: true}.remote(
				Expect{AppSaw: []string{"ECONNREFUSED"}}),
		},
		Counters: map[string]int64{"OutRsts": 1, "AttemptFails": 1},
	},
}
