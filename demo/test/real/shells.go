package real

import (
	"errors"
	"io/fs"
	"os"
	"strings"

	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// sshd starts sshd with a host key and a user's key of its own.
func (w *World) sshd(settings string) *Program {
	for _, name := range []string{"host", "id"} {
		p := w.Start("ssh-keygen "+name, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", w.Dir+"/"+name)
		w.Check(p.WaitExit() == 0, "ssh-keygen failed: %s", p.Output())
	}
	// Where sshd's unprivileged part is locked in; its service makes it.
	if err := os.Mkdir("/run/sshd", 0o755); err == nil {
		w.OnClose(func() error { return os.Remove("/run/sshd") })
	} else if !errors.Is(err, fs.ErrExist) {
		w.Fail("%w", err)
	}
	conf := w.File("sshd_config", "Port 2222\nListenAddress 127.0.0.1\nHostKey "+w.Dir+"/host\nAuthorizedKeysFile "+w.Dir+
		"/id.pub\nStrictModes no\nPermitRootLogin yes\nPidFile none\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"+settings)
	p := w.Start("sshd", "sshd", "-D", "-e", "-f", conf)
	w.WaitListen(2222)
	return p
}

var shells = []Run{
	{
		Name: "ssh-session-end", Case: "C73", Programs: []string{"sshd", "ssh", "ssh-keygen"},
		Title: "a remote command ends, and ssh with it",
		Play: func(w *World) {
			w.sshd("")
			ssh := w.Start("ssh", "ssh", "-F", "none", "-p", "2222", "-i", w.Dir+"/id", "-o", "StrictHostKeyChecking=no",
				"-o", "UserKnownHostsFile=/dev/null", "-o", "BatchMode=yes", "root@127.0.0.1", "echo here; exit 7")
			w.Check(ssh.WaitExit() == 7 && strings.Contains(ssh.Output(), "here"), "ssh should have run the command, but said: %s", ssh.Output())
			w.WaitEnded(2222)
			w.Due(Link{
				Name: "ssh > sshd", Port: 2222,
				Ending: Ending{Class: verdict.Graceful, Cause: verdict.OrderlyClose, Act: verdict.ActClose, Actor: "ssh", By: "client"},
				Client: Side{FIN: 1, TimeWait: true},
				Server: Side{FIN: 1, Or: [][]string{{"EOF"}}},
				Says:   []string{"ssh (pid"},
			})
		},
	},
	{
		Name: "sshd-login-grace", Case: "C76", Programs: []string{"sshd", "ssh-keygen", "nc.openbsd"},
		Title: "sshd gives a client that does not log in a second, and ends",
		Play: func(w *World) {
			sshd := w.sshd("LoginGraceTime 1\n")
			nc := w.Start("nc", "nc.openbsd", "127.0.0.1", "2222")
			nc.WaitOutput("SSH-2.0-")
			session := w.Child("sshd session", sshd.PID(), "sshd")
			w.WaitGone(session)
			nc.EndInput()
			nc.WaitExit()
			w.WaitEnded(2222)
			w.Due(Link{
				Name: "nc > sshd", Port: 2222,
				Ending: Ending{Class: verdict.Graceful, Cause: verdict.OrderlyClose, Act: verdict.ActExit, Actor: "sshd session", By: "server"},
				Client: Side{FIN: 1, Saw: []string{"EOF"}},
				Server: Side{FIN: 1, TimeWait: true},
				Says:   []string{"sshd (pid", "by exiting"},
			})
		},
	},
}
