package snapshot

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/tracer/event"
)

// readText reads the tables tcp and tcp6 of a /proc/PID/net.
func readText(dir string) ([]Socket, error) {
	var all []Socket
	for _, t := range []struct {
		name   string
		family event.Family
	}{{"tcp", unix.AF_INET}, {"tcp6", unix.AF_INET6}} {
		f, err := os.Open(dir + "/" + t.name)
		if err != nil {
			if t.family == unix.AF_INET6 && errors.Is(err, fs.ErrNotExist) {
				continue // a kernel without IPv6
			}
			return nil, err
		}
		found, err := parseText(f, t.family)
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("read %s/%s: %w", dir, t.name, err)
		}
		all = append(all, found...)
	}
	return all, nil
}

// parseText reads the lines that get_tcp4_sock, get_openreq4 and
// get_timewait4_sock write (net/ipv4/tcp_ipv4.c), or those of tcp_ipv6.c.
func parseText(r io.Reader, family event.Family) ([]Socket, error) {
	var all []Socket
	lines := bufio.NewScanner(r)
	lines.Scan() // the titles
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) < 10 {
			continue
		}
		s := Socket{Family: family}
		var err error
		if s.Local, err = parseEnd(f[1]); err != nil {
			return nil, err
		}
		if s.Remote, err = parseEnd(f[2]); err != nil {
			return nil, err
		}
		state, err := strconv.ParseUint(f[3], 16, 8)
		if err != nil {
			return nil, fmt.Errorf("a state %q", f[3])
		}
		s.State = event.State(state)
		sent, received, ok := strings.Cut(f[4], ":")
		tx, err1 := strconv.ParseUint(sent, 16, 32)
		rx, err2 := strconv.ParseUint(received, 16, 32)
		if !ok || err1 != nil || err2 != nil {
			return nil, fmt.Errorf("queues %q", f[4])
		}
		s.queues(uint32(rx), uint32(tx))
		if timer, _, ok := strings.Cut(f[5], ":"); ok {
			n, _ := strconv.ParseUint(timer, 16, 8)
			s.Timer = Timer(n)
		}
		s.Mini = s.Timer == TimerTimeWait
		if n, err := strconv.ParseUint(f[6], 16, 32); err == nil {
			s.Tries = uint8(min(n, 255))
		}
		if n, err := strconv.ParseUint(f[7], 10, 32); err == nil {
			s.UID = uint32(n)
		}
		if s.Inode, err = strconv.ParseUint(f[9], 10, 64); err != nil {
			return nil, fmt.Errorf("an inode %q", f[9])
		}
		all = append(all, s)
	}
	return all, lines.Err()
}

// parseEnd reads an address, in words of the machine's byte order, and a port.
func parseEnd(s string) (netip.AddrPort, error) {
	bad := fmt.Errorf("an address %q", s)
	addr, port, ok := strings.Cut(s, ":")
	p, err := strconv.ParseUint(port, 16, 16)
	if !ok || err != nil || len(addr) != 8 && len(addr) != 32 {
		return netip.AddrPort{}, bad
	}
	var raw []byte
	for ; len(addr) > 0; addr = addr[8:] {
		word, err := strconv.ParseUint(addr[:8], 16, 32)
		if err != nil {
			return netip.AddrPort{}, bad
		}
		raw = binary.NativeEndian.AppendUint32(raw, uint32(word))
	}
	a, _ := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(a.Unmap(), uint16(p)), nil
}
