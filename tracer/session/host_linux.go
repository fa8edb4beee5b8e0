package session

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/tracer/record"
)

// hostKey keeps the hashes apart from those of other programs, as machine-id(5) asks.
const hostKey = "tcpbye.host/1"

// thisHost names this machine. What it cannot find out is left out.
func thisHost(nodename string) *record.Host {
	return &record.Host{
		ID:   hashed("/etc/machine-id", "/var/lib/dbus/machine-id"),
		Boot: hashed("/proc/sys/kernel/random/boot_id"),
		Name: record.Text(nodename),
	}
}

// hashed is a keyed hash of the first of the files that holds anything: the numbers
// themselves are not to leave the machine.
func hashed(paths ...string) string {
	for _, path := range paths {
		b, err := os.ReadFile(path)
		id := strings.TrimSpace(string(b))
		if err != nil || id == "" || id == "uninitialized" {
			continue
		}
		h := hmac.New(sha256.New, []byte(id))
		h.Write([]byte(hostKey))
		return hex.EncodeToString(h.Sum(nil)[:8])
	}
	return ""
}

// Host names this machine, as the recordings that are made on it do.
func Host() (record.Host, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return record.Host{}, fmt.Errorf("read the host's name: %w", err)
	}
	return *thisHost(unix.ByteSliceToString(u.Nodename[:])), nil
}
