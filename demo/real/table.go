package real

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/tcpbye/tcpbye/tracer/event"
)

// Row is a socket in the kernel's table, /proc/net/tcp.
type Row struct {
	Local, Remote uint16 // ports
	State         event.State
	Send, Receive int // bytes: not acknowledged; not read
	Inode         uint64
}

// readTable reads the calling thread's namespace.
func readTable() ([]Row, error) {
	text, err := os.ReadFile("/proc/thread-self/net/tcp")
	if err != nil {
		return nil, fmt.Errorf("cannot read the kernel's table of sockets: %w", err)
	}
	return parseTable(string(text))
}

func parseTable(text string) ([]Row, error) {
	var rows []Row
	for i, line := range strings.Split(strings.TrimSpace(text), "\n") {
		f := strings.Fields(line)
		if i == 0 || len(f) < 10 {
			continue
		}
		var errs [6]error
		hex := func(n int, s string) uint64 {
			v, err := strconv.ParseUint(s, 16, 64)
			errs[n] = err
			return v
		}
		_, local, _ := strings.Cut(f[1], ":")
		_, remote, _ := strings.Cut(f[2], ":")
		send, receive, _ := strings.Cut(f[4], ":")
		r := Row{
			Local: uint16(hex(0, local)), Remote: uint16(hex(1, remote)), State: event.State(hex(2, f[3])),
			Send: int(hex(3, send)), Receive: int(hex(4, receive)),
		}
		r.Inode, errs[5] = strconv.ParseUint(f[9], 10, 64)
		for _, err := range errs {
			if err != nil {
				return nil, fmt.Errorf("cannot read the line %q of the kernel's table of sockets: %w", line, err)
			}
		}
		rows = append(rows, r)
	}
	return rows, nil
}
