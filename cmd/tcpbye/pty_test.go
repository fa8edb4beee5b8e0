package main

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/clipperhouse/displaywidth"
	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/tracer/report"
)

// terminal opens a pseudo-terminal of so many columns.
func terminal(t *testing.T, columns int) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatalf("open a pseudo-terminal: %v", err)
	}
	t.Cleanup(func() { master.Close() })
	fd := int(master.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatalf("unlock the pseudo-terminal: %v", err)
	}
	n, err := unix.IoctlGetUint32(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatalf("name the pseudo-terminal: %v", err)
	}
	slave, err = os.OpenFile("/dev/pts/"+strconv.Itoa(int(n)), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatalf("open the pseudo-terminal's end: %v", err)
	}
	if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 50, Col: uint16(columns)}); err != nil {
		t.Fatalf("set the terminal's width: %v", err)
	}
	return master, slave
}

// onTerminal is what a terminal of so many columns gets from tcpbye. Its stderr is
// not the terminal.
func onTerminal(t *testing.T, columns int, args ...string) string {
	t.Helper()
	master, slave := terminal(t, columns)
	const end = "\x00" // tcpbye never writes it
	read := make(chan string)
	go func() {
		shown, err := bufio.NewReader(master).ReadString(end[0])
		if err != nil {
			t.Errorf("read the terminal: %v", err)
		}
		read <- strings.TrimSuffix(shown, end)
	}()
	var talk bytes.Buffer
	cmd := exec.Command("tcpbye", args...)
	cmd.Stdout, cmd.Stderr = slave, &talk
	cmd.Env = append(os.Environ(), "TZ=UTC", "LC_ALL=C.UTF-8", "TERM=xterm", "NO_COLOR=")
	err := cmd.Run()
	// What is read after the last to write has closed may be less than was written.
	_, werr := slave.WriteString(end)
	shown := <-read
	slave.Close()
	if err != nil {
		t.Fatalf("%v: %v\n%s", args, err, talk.String())
	}
	if werr != nil {
		t.Fatalf("write to the terminal: %v", werr)
	}
	return strings.ReplaceAll(shown, "\r\n", "\n")
}

var colours = regexp.MustCompile("\x1b\\[[0-9;]*m")

// TestTerminal: in a terminal no line of a table is wider than the terminal, where
// it would be broken, or is as good as empty; with colour as without.
func TestTerminal(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for range 3 {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		s, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		s.Close() // one end in CLOSE_WAIT, the other in FIN_WAIT2
	}
	port := strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
	recording := filepath.Join("testdata", "busy.tcpbye")
	for _, tt := range []struct {
		name  string
		args  []string
		blank int // empty lines that are meant
		rows  int // at least so many
	}{
		{"live", []string{"trace", "-r", recording}, 0, 9},
		{"live, one ending", []string{"trace", "-r", filepath.Join("testdata", "close.tcpbye")}, 0, 3},
		{"what stays open", []string{"trace", "--open", "--port", port}, 0, 2},
		{"open", []string{"trace", "--open", "--all", "--port", port}, 0, 4},
		{"open, each", []string{"trace", "--open", "--all", "-v", "--port", port}, 0, 7},
		{"summary", []string{"rst", "--class", "aborted", "-r", recording}, -1, 3},
		{"demo", []string{"demo", "--list"}, 0, 60},
	} {
		for _, columns := range []int{60, 80, 100, 120, 200} {
			var plain string
			for _, color := range []string{"never", "auto"} {
				out := onTerminal(t, columns, append([]string{"--color", color}, tt.args...)...)
				t.Run(fmt.Sprintf("%s, %d, colour %s", tt.name, columns, color), func(t *testing.T) {
					if coloured := strings.Contains(out, "\x1b"); coloured != (color == "auto") {
						t.Errorf("it is coloured: %v", coloured)
					}
					bare := colours.ReplaceAllString(out, "")
					lines := strings.Split(strings.TrimSuffix(bare, "\n"), "\n")
					if len(lines) < tt.rows {
						t.Errorf("%d lines, want at least %d:\n%s", len(lines), tt.rows, bare)
					}
					for n, line := range lines {
						if w := displaywidth.String(line); w > columns {
							t.Errorf("line %d takes %d columns: %q", n, w, line)
						}
						if tt.blank >= 0 && strings.TrimSpace(line) == "" {
							t.Errorf("line %d is empty", n)
						}
						if line != strings.TrimRight(line, " ") {
							t.Errorf("line %d ends with spaces: %q", n, line)
						}
					}
					if color == "never" {
						plain = bare
					} else if bare != plain && !slices.Contains(tt.args, "--open") { // that has ages
						t.Errorf("the colours change the text:\n%s\n%s", plain, bare)
					}
				})
			}
		}
	}
}

// TestBinaryOnATerminal: what a terminal cannot show does not get there.
func TestBinaryOnATerminal(t *testing.T) {
	for _, f := range report.Formats() {
		if !f.Binary() {
			continue
		}
		_, slave := terminal(t, 80)
		cmd := exec.Command("tcpbye", "trace", "-r", filepath.Join("testdata", "close.tcpbye"), "-o", string(f))
		var talk bytes.Buffer
		cmd.Stdout, cmd.Stderr = slave, &talk
		err := cmd.Run()
		slave.Close()
		if cmd.ProcessState.ExitCode() != exitUsage || !strings.Contains(talk.String(), "not for a terminal") {
			t.Errorf("-o %s on a terminal: %v, %s", f, err, talk.String())
		}
	}
}
