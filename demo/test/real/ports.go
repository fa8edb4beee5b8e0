package real

import (
	"strings"

	"github.com/tcpbye/tcpbye/demo/harness"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

var ports = []Run{
	{
		Name: "curl-ports-exhausted", Case: "C15", Programs: []string{"nginx", "curl"},
		Title: "every local port waits in TIME_WAIT on the client's side: the next connect fails without a packet",
		Play: func(w *World) {
			w.Sysctl("net.ipv4.ip_local_port_range", "40000 40001")
			w.Sysctl("net.ipv4.tcp_tw_reuse", "0")
			w.nginx("")
			for _, role := range []string{"first", "second"} {
				curl := w.Start(role, "curl", "-s", "-S", "http://127.0.0.1:8080/")
				w.Check(curl.WaitExit() == 0, "curl failed: %s", curl.Output())
				w.WaitEnded(8080)
				w.Due(Link{
					Name: "curl > nginx", Port: 8080,
					Ending: Ending{Class: verdict.Graceful, Cause: verdict.OrderlyClose, Act: verdict.ActClose, Actor: role, By: "client"},
					Client: Side{FIN: 1, TimeWait: true},
					Server: Side{FIN: 1, Saw: []string{"EOF"}},
					Says:   []string{"curl (pid", "closed first, with close(2)"},
				})
			}
			third := w.Start("third", "curl", "-s", "-S", "http://127.0.0.1:8080/")
			w.Check(third.WaitExit() == 7, "curl should have found no port, but said: %s", third.Output())
			w.Due(Link{
				Name: "curl > nobody", Port: 8080, NoPacket: true,
				Ending: Ending{Class: verdict.Refused, Cause: verdict.Unreachable, By: "client", Kernel: true},
				Client: Side{}, // connect(2) fails without any error at the socket
				Retry:  verdict.RetrySafe,
				Says:   []string{"curl (pid", "no local port"},
			})
		},
	},
	{
		Name: "curl-port-again", Case: "C59", Programs: []string{"nginx", "curl"},
		Title: "a client comes again from the same port while the server still has it in TIME_WAIT",
		Play: func(w *World) {
			w.nginx("keepalive_timeout 0;")
			for _, role := range []string{"first", "second"} {
				curl := w.Start(role, "curl", "-s", "-S", "--local-port", "41000", "http://127.0.0.1:8080/")
				w.Check(curl.WaitExit() == 0, "curl failed: %s", curl.Output())
				w.WaitEnded(8080)
				w.Due(Link{
					Name: "curl > nginx", Port: 8080,
					Ending: Ending{Class: verdict.Graceful, Cause: verdict.OrderlyClose, Act: verdict.ActClose, Actor: "nginx worker", By: "server"},
					Client: Side{FIN: 1, Or: [][]string{{"EOF"}}}, // curl has all it wants before
					Server: Side{FIN: 1, TimeWait: true},
					Says:   []string{"nginx (pid", "closed first, with close(2)", "nothing was lost"},
				})
			}
		},
	},
	{
		Name: "socat-address-in-use", Case: "C61", Programs: []string{"socat", "nc.openbsd"},
		Title: "a server that closed first cannot have its port again: its TIME_WAIT has it",
		Play: func(w *World) {
			socat := w.Start("socat", "socat", "-u", "-", "TCP-LISTEN:7000,bind=127.0.0.1")
			w.WaitListen(7000)
			nc := w.Start("nc", "nc.openbsd", "-d", "127.0.0.1", "7000")
			w.WaitServer(7000, 1, "nc accepted", func(r harness.Row) bool { return r.Inode != 0 })
			socat.Say("hello\n")
			nc.WaitOutput("hello")
			w.Meanwhile(nc.PID(), func() {
				socat.EndInput()
				socat.WaitExit()
				w.WaitServer(7000, 1, "the close", LetGo)
			})
			nc.WaitExit()
			w.WaitEnded(7000)
			again := w.Start("again", "socat", "-u", "-", "TCP-LISTEN:7000,bind=127.0.0.1")
			again.WaitExit()
			w.Check(strings.Contains(again.Output(), "Address already in use"), "socat should have been refused, but said: %s", again.Output())
			w.Due(Link{
				Name: "nc > socat", Port: 7000,
				// It shuts its sending side down and goes, without hearing the other end out.
				Ending: Ending{Class: verdict.Graceful, Cause: verdict.OrderlyClose, Act: verdict.ActShutWr, Actor: "socat", By: "server"},
				Client: Side{FIN: 1, Saw: []string{"EOF"}},
				Server: Side{FIN: 1, TimeWait: true},
				Says:   []string{"socat (pid", "closed first, with shutdown(SHUT_WR)"},
			})
		},
	},
	{
		Name: "socat-linger2", Case: "C63", Programs: []string{"socat", "nc.openbsd"},
		Title: "socat closes with linger2=-1: a reset follows an exchange that was complete",
		Play: func(w *World) {
			nc := w.Start("nc", "nc.openbsd", "-l", "127.0.0.1", "7000")
			w.WaitListen(7000)
			socat := w.Start("socat", "socat", "-u", "-", "TCP:127.0.0.1:7000,linger2=-1,shut-close")
			socat.Say("hello\n")
			nc.WaitOutput("hello")
			w.Meanwhile(nc.PID(), func() { // so that the FIN is acknowledged before it is answered
				socat.EndInput()
				socat.WaitExit()
				w.WaitServer(7000, 0, "the reset", func(harness.Row) bool { return true })
			})
			nc.WaitExit()
			w.WaitEnded(7000)
			w.Due(Link{
				Name: "socat > nc", Port: 7000,
				Ending: Ending{Class: verdict.Aborted, Cause: verdict.Linger2Negative, Act: verdict.ActClose, Actor: "socat", By: "client"},
				Client: Side{FIN: 1, RST: 1},
				Server: Side{Or: [][]string{{"EOF"}}}, // nc closes at POLLERR
				Says:   []string{"socat (pid", "TCP_LINGER2 below zero"},
			})
		},
	},
	{
		Name: "nft-reject", Case: "C79 C03", Programs: []string{"nginx", "python3", "nft"},
		Title: "a packet filter resets a connection in nginx's name; nginx never hears of it",
		Play: func(w *World) {
			w.nginx("keepalive_timeout 1h;")
			client := w.kept()
			nft := w.Start("nft", "nft", "-f", w.File("rules", `
table inet real {
	chain in {
		type filter hook input priority 0;
		tcp dport 8080 reject with tcp reset
	}
}
`))
			w.Check(nft.WaitExit() == 0, "nft failed: %s", nft.Output())
			client.Do(`c.request("GET", "/again")`)
			said := client.Try(`c.getresponse()`)
			w.Check(strings.Contains(said, "ConnectionResetError"), "http.client should have been reset, but: %s", said)
			client.Do(`c.close()`)
			w.WaitClient(8080, 0, "the end", func(harness.Row) bool { return true })
			w.WaitServer(8080, 1, "nginx knowing nothing", In(event.Established))
			w.Due(Link{
				Name: "python3 > nginx", Port: 8080,
				Ending: Ending{Class: verdict.Aborted, Cause: verdict.PathReset, Path: true},
				Client: Side{Unacked: len(again), Saw: []string{"ECONNRESET"}},
				Server: Side{Open: verdict.StillOpen, RST: 1},
				Says:   []string{"python3 (pid", "never sent it", "a packet filter"},
			})
		},
	},
}
