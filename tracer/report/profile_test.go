package report

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/pprof/profile"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// closers are connections that end at two places of one program, three of them with
// bytes lost; and one of which no stack was taken.
func closers() (all []Judged) {
	handler := event.StackOf([]event.Frame{
		{Function: "net.(*conn).Close", File: "/usr/local/go/src/net/net.go", Line: 205, Module: "/srv/app", Offset: 0x1000},
		{Function: "main.(*server).handle", File: "/src/app/server.go", Line: 42, Module: "/srv/app", Offset: 0x2000},
		{Function: "main.main", File: "/src/app/main.go", Line: 7, Module: "/srv/app", Offset: 0x3000},
	})
	pool := event.StackOf([]event.Frame{
		{Function: "net.(*conn).Close", File: "/usr/local/go/src/net/net.go", Line: 205, Module: "/srv/app", Offset: 0x1000},
		{Function: "main.evil;\x1b[31m", Module: "/srv/app", Offset: 0x4000},
	})
	end := func(stack event.Stack, lost uint64, cause verdict.Cause) {
		c := &conn.Connection{First: boot, Ended: boot + 1, Owner: &conn.Process{PID: 7, Comm: "app"}}
		all = append(all, Judged{Conn: c, Verdict: verdict.Verdict{Class: verdict.Aborted, Cause: cause, Act: verdict.ActClose,
			Actor: &conn.Process{PID: 7, Comm: "app", Stack: stack}, Lost: verdict.Lost{Unread: &lost}}})
	}
	end(handler, 100, verdict.CloseUnread)
	end(handler, 200, verdict.CloseUnread)
	end(handler, 0, verdict.LingerZero)
	end(pool, 5, verdict.CloseUnread)
	end("", 9, verdict.CloseUnread)
	return all
}

func TestProfile(t *testing.T) {
	file := shown(t, Pprof, testOptions(), closers()...)
	p, err := profile.Parse(bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.CheckValid(); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range p.Sample {
		var frames []string
		for _, l := range s.Location {
			frames = append(frames, l.Line[0].Function.Name)
		}
		got = append(got, strings.Join(append(frames, s.Label["cause"]...), " < ")+" "+number(uint64(s.Value[0]))+" "+number(uint64(s.Value[1])))
	}
	want := []string{
		"net.(*conn).Close < main.(*server).handle < main.main < close-unread 2 300",
		"[no stack recorded] < close-unread 1 9",
		`net.(*conn).Close < main.evil;\x1b[31m < close-unread 1 5`,
		"net.(*conn).Close < main.(*server).handle < main.main < linger-zero 1 0",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if p.DefaultSampleType != "connections" || len(p.SampleType) != 2 || p.SampleType[1].Type != "lost" || p.SampleType[1].Unit != "bytes" {
		t.Errorf("%v, by default %s", p.SampleType, p.DefaultSampleType)
	}
}

func TestFolded(t *testing.T) {
	got := string(shown(t, Folded, testOptions(), closers()...))
	want := `app;main.main;main.(*server).handle;net.(*conn).Close 3
app;[no stack recorded] 1
app;main.evil:\x1b[31m;net.(*conn).Close 1
`
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// TestProfileNote: that there are no stacks is said.
func TestProfileNote(t *testing.T) {
	for _, x := range []struct {
		ends []Judged
		want string
	}{
		{nil, ""}, {closers()[:4], ""}, {closers(), "1 of 5 connections have no stack"}, {closers()[4:], "trace --stack takes them"},
	} {
		s := NewProfile(&bytes.Buffer{}, testOptions())
		for _, j := range x.ends {
			if err := s.End(j); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if note := s.Note(); !strings.Contains(note, x.want) || (x.want == "") != (note == "") {
			t.Errorf("%d ends: %q, want %q", len(x.ends), note, x.want)
		}
	}
}

// TestGoToolPprof: Go's own tool reads the profile, with either value.
func TestGoToolPprof(t *testing.T) {
	name := filepath.Join(t.TempDir(), "closes.pb.gz")
	if err := os.WriteFile(name, shown(t, Pprof, testOptions(), closers()...), 0o644); err != nil {
		t.Fatal(err)
	}
	for index, want := range map[string][]string{
		"connections": {"Type: connections", "4 80.00%", "net.(*conn).Close", "main.(*server).handle", "[no stack recorded]"},
		"lost":        {"Type: lost", "305B", "net.(*conn).Close"},
	} {
		cmd := exec.Command("go", "tool", "pprof", "-top", "-sample_index="+index, name)
		cmd.Env = append(os.Environ(), "PPROF_TMPDIR="+t.TempDir())
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		for _, w := range want {
			if !strings.Contains(string(out), w) {
				t.Errorf("%s: %q is not in\n%s", index, w, out)
			}
		}
	}
}
