package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/coreos/go-systemd/v22/journal"
	"golang.org/x/sys/unix"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/export"
	"github.com/tcpbye/tcpbye/tracer/record"
	"github.com/tcpbye/tcpbye/tracer/report"
	"github.com/tcpbye/tcpbye/tracer/session/replaytest"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

var fieldName = regexp.MustCompile(`^[A-Z][A-Z0-9_]{0,63}$`)

func replayed(t testing.TB, show func(report.Judged, report.Clock)) {
	t.Helper()
	replaytest.Ends(t, func(m record.Meta, c *conn.Connection, v verdict.Verdict) {
		show(report.Judged{Conn: c, Verdict: v}, report.Clock{Offset: m.Offset})
	})
}

// TestEntries makes an entry of every recorded end.
func TestEntries(t *testing.T) {
	priorities := map[journal.Priority]int{}
	replayed(t, func(j report.Judged, clock report.Clock) {
		e, v := NewEntry(j, clock), &j.Verdict
		priorities[e.Priority]++
		for name, value := range e.Fields {
			if !fieldName.MatchString(name) || value == "" {
				t.Errorf("the field %s=%q", name, value)
			}
		}
		if e.Message == "" || e.Fields["TCPBYE_CAUSE"] != string(v.Cause) || e.Fields["TCPBYE_CLASS"] != string(v.Class) || e.Fields["MESSAGE_ID"] != MessageID(v.Cause) {
			t.Errorf("%+v of %+v", e, v)
		}
		if n := v.Lost.Unread; (n == nil) != (e.Fields["TCPBYE_LOST_UNREAD"] == "") || n != nil && e.Fields["TCPBYE_LOST_UNREAD"] != fmt.Sprint(*n) {
			t.Errorf("TCPBYE_LOST_UNREAD=%s", e.Fields["TCPBYE_LOST_UNREAD"])
		}
		want := map[export.Severity]journal.Priority{export.Info: 6, export.Warn: 4, export.Error: 3}[export.SeverityOf(v)]
		if e.Priority != want {
			t.Errorf("priority %d of %s", e.Priority, v.Cause)
		}
	})
	if len(priorities) != 3 {
		t.Errorf("priorities %v", priorities)
	}
}

var variable = regexp.MustCompile(`@[^@\s]+@`)

// TestCatalog holds the catalog against systemd's rules for one.
func TestCatalog(t *testing.T) {
	text := Catalog()
	ids := map[string]bool{}
	for _, entry := range strings.Split(text, "\n-- ")[1:] {
		id, rest, _ := strings.Cut(entry, "\n")
		if !regexp.MustCompile(`^[0-9a-f]{32}$`).MatchString(id) || ids[id] {
			t.Errorf("the id %q", id)
		}
		ids[id] = true
		head, body, ok := strings.Cut(rest, "\n\n")
		if !ok || body == "" || !strings.HasPrefix(head, "Subject: ") || !strings.Contains(head, "\nDefined-By: tcpbye\n") {
			t.Errorf("the entry %s", entry)
		}
		for _, v := range variable.FindAllString(rest, -1) {
			if !slices.Contains(explained, strings.Trim(v, "@")) {
				t.Errorf("%s has %s, which no entry has a field for", head, v)
			}
		}
	}
	for _, r := range verdict.Rules() {
		if !ids[MessageID(r.Cause)] {
			t.Errorf("%s is not in the catalog", r.Cause)
		}
	}
	// It stands in journals: it must never change.
	if got := MessageID(verdict.CloseUnread); got != "fb89f40b94398d53ab340d4f2e3a0c3b" {
		t.Errorf("close-unread is %s", got)
	}
}

// TestBusy: a journal that does not read costs entries, and no time.
func TestBusy(t *testing.T) {
	begun, release := make(chan struct{}), make(chan struct{})
	first := true
	w := start(report.Clock{}, func(string) {}, func(Entry) error {
		if first {
			first = false
			close(begun)
			<-release
			return errors.New("no room")
		}
		return nil
	})
	j := report.Judged{Conn: &conn.Connection{}, Verdict: verdict.Verdict{Cause: verdict.CloseUnread}}
	_ = w.End(j)
	<-begun
	for range waiting + 7 {
		if err := w.End(j); err != nil {
			t.Fatal(err)
		}
	}
	close(release)
	_ = w.Close()
	if sent, dropped := w.Counts(); sent != waiting || dropped["busy"] != 7 || dropped["refused"] != 1 {
		t.Errorf("%d sent, dropped %v", sent, dropped)
	}
}

const inside = "TCPBYE_TEST_JOURNAL"

// TestSocket writes every recorded end to a socket where systemd's journal has its own,
// in a mount namespace of its own, and reads the protocol.
func TestSocket(t *testing.T) {
	if os.Getenv(inside) == "" {
		child := exec.Command(os.Args[0], "-test.run=^TestSocket$", "-test.v")
		child.Env = append(os.Environ(), inside+"=1")
		child.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNS,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		}
		out, err := child.CombinedOutput()
		if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSPC) {
			t.Skipf("no user namespaces here: %v", err)
		}
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := New(report.Clock{}, func(string) {}); !errors.Is(err, ErrNone) {
		t.Errorf("without a journal: %v", err)
	}
	if err := os.MkdirAll("/run/systemd/journal", 0o755); err != nil {
		t.Fatal(err)
	}
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: "/run/systemd/journal/socket", Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	var want []Entry
	got := make(chan map[string]string, 1<<12)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		buf := make([]byte, 1<<18)
		for {
			n, err := socket.Read(buf)
			if err != nil {
				return
			}
			if string(buf[:n]) == "end" {
				return
			}
			got <- parsed(t, bytes.Clone(buf[:n]))
		}
	}()
	w, err := New(report.Clock{}, func(text string) { t.Error(text) })
	if err != nil {
		t.Fatal(err)
	}
	replayed(t, func(j report.Judged, clock report.Clock) {
		w.SetOffset(clock.Offset)
		want = append(want, NewEntry(j, clock))
		_ = w.End(j)
	})
	_ = w.Close()
	end, err := net.Dial("unixgram", "/run/systemd/journal/socket")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := end.Write([]byte("end")); err != nil {
		t.Fatal(err)
	}
	<-ended
	close(got)
	n := 0
	for fields := range got {
		e := want[n]
		n++
		if fields["MESSAGE"] != e.Message || fields["PRIORITY"] != fmt.Sprint(int(e.Priority)) || len(fields) != len(e.Fields)+2 {
			t.Fatalf("entry %d is %v, want %+v", n, fields, e)
		}
		for name, value := range e.Fields {
			if fields[name] != value {
				t.Errorf("%s=%q, want %q", name, fields[name], value)
			}
		}
	}
	if n != len(want) || n < 1000 {
		t.Errorf("%d entries came of %d", n, len(want))
	}
}

// parsed reads an entry as systemd's native protocol writes it.
func parsed(t *testing.T, b []byte) map[string]string {
	fields := map[string]string{}
	for len(b) > 0 {
		line, rest, ok := bytes.Cut(b, []byte("\n"))
		if !ok {
			t.Errorf("a field does not end: %q", b)
			break
		}
		if name, value, text := bytes.Cut(line, []byte("=")); text {
			fields[string(name)], b = string(value), rest
			continue
		}
		n := binary.LittleEndian.Uint64(rest)
		fields[string(line)], b = string(rest[8:8+n]), rest[8+n+1:]
	}
	return fields
}
