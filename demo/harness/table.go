package harness

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/tcpbye/tcpbye/tracer/event"
)

// Row is a line of /proc/net/tcp or tcp6: a socket, a mini-socket or a request.
// Reading it needs no module, unlike sock_diag.
type Row struct {
	Local, Remote netip.AddrPort // IPv4-mapped addresses unmapped
	State         event.State
	Send, Receive uint64 // bytes: not acknowledged; not read. A listener's Receive is its accept queue's length
	Timer         int
	Inode         uint64 // 0: no process holds it
}

// TimeWaitTimer is the Timer of a mini-socket, in FIN_WAIT2 or TIME_WAIT.
const TimeWaitTimer = 3

// Table reads both tables of the namespace.
func (n *Netns) Table() (rows []Row, err error) {
	err = n.Do(func() (err error) { rows, err = ReadTable("thread-self"); return err })
	return rows, err
}

// ReadTable reads both tables of a process's namespace, by its name in /proc.
func ReadTable(process string) ([]Row, error) {
	var rows []Row
	for _, name := range []string{"tcp", "tcp6"} {
		b, err := os.ReadFile("/proc/" + process + "/net/" + name)
		if os.IsNotExist(err) && name == "tcp6" {
			continue // a kernel without IPv6
		}
		if err != nil {
			return nil, fmt.Errorf("read the socket table: %w", err)
		}
		r, err := parseTable(string(b))
		if err != nil {
			return nil, fmt.Errorf("read /proc/net/%s: %w", name, err)
		}
		rows = append(rows, r...)
	}
	return rows, nil
}

func parseTable(text string) ([]Row, error) {
	var rows []Row
	for i, line := range strings.Split(strings.TrimSpace(text), "\n") {
		f := strings.Fields(line)
		if i == 0 {
			continue // the header
		}
		if len(f) < 10 {
			return nil, fmt.Errorf("line %d has %d fields", i+1, len(f))
		}
		var r Row
		var err error
		if r.Local, err = parseHexAddr(f[1]); err != nil {
			return nil, err
		}
		if r.Remote, err = parseHexAddr(f[2]); err != nil {
			return nil, err
		}
		state, err := strconv.ParseUint(f[3], 16, 8)
		if err != nil {
			return nil, err
		}
		r.State = event.State(state)
		if _, err := fmt.Sscanf(f[4], "%x:%x", &r.Send, &r.Receive); err != nil {
			return nil, fmt.Errorf("queues %q: %w", f[4], err)
		}
		if _, err := fmt.Sscanf(f[5], "%x:", &r.Timer); err != nil {
			return nil, fmt.Errorf("timer %q: %w", f[5], err)
		}
		if r.Inode, err = strconv.ParseUint(f[9], 10, 64); err != nil {
			return nil, err
		}
		rows = append(rows, r)
	}
	return rows, nil
}

// parseHexAddr reads "0100007F:1F90": 32-bit words in host byte order, the port
// as a number.
func parseHexAddr(s string) (netip.AddrPort, error) {
	addr, port, ok := strings.Cut(s, ":")
	b, err := hex.DecodeString(addr)
	if !ok || err != nil || len(b) != 4 && len(b) != 16 {
		return netip.AddrPort{}, fmt.Errorf("address %q is not readable", s)
	}
	for i := 0; i < len(b); i += 4 { // every architecture here is little endian
		b[i], b[i+1], b[i+2], b[i+3] = b[i+3], b[i+2], b[i+1], b[i]
	}
	p, err := strconv.ParseUint(port, 16, 16)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("port of %q is not readable", s)
	}
	a, _ := netip.AddrFromSlice(b) // the length was checked
	return netip.AddrPortFrom(a.Unmap(), uint16(p)), nil
}

// readCounters reads the namespace's TCP counters, by the names of /proc/net/snmp's
// Tcp and /proc/net/netstat's TcpExt and MPTcpExt lines.
func (n *Netns) readCounters() (map[string]int64, error) {
	c := make(map[string]int64)
	return c, n.Do(func() error {
		for _, name := range []string{"snmp", "netstat"} {
			b, err := os.ReadFile("/proc/thread-self/net/" + name)
			if err != nil {
				return fmt.Errorf("read the counters: %w", err)
			}
			if err := parseCounters(string(b), c); err != nil {
				return fmt.Errorf("read /proc/net/%s: %w", name, err)
			}
		}
		return nil
	})
}

func parseCounters(text string, into map[string]int64) error {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	for i := 0; i+1 < len(lines); i += 2 {
		names, values := strings.Fields(lines[i]), strings.Fields(lines[i+1])
		if len(names) != len(values) || len(names) == 0 || names[0] != values[0] {
			return fmt.Errorf("lines %d and %d do not belong together", i+1, i+2)
		}
		switch names[0] {
		case "Tcp:", "TcpExt:", "MPTcpExt:":
		default:
			continue
		}
		for j := 1; j < len(names); j++ {
			v, err := strconv.ParseInt(values[j], 10, 64)
			if err != nil {
				return fmt.Errorf("counter %s: %w", names[j], err)
			}
			into[names[j]] = v
		}
	}
	return nil
}
