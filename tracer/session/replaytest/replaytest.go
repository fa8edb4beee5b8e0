package replaytest

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/tcpbye/tcpbye/tracer/conn"
	"github.com/tcpbye/tcpbye/tracer/record"
	"github.com/tcpbye/tcpbye/tracer/session"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// Ends shows every judged end of the recordings of four kernels, as a replay does, with
// the head of its run.
func Ends(t testing.TB, show func(record.Meta, *conn.Connection, verdict.Verdict)) {
	t.Helper()
	_, here, _, ok := runtime.Caller(0)
	if !ok {
		t.Fatal("where this file is is not known")
	}
	paths, err := filepath.Glob(filepath.Join(filepath.Dir(here), "../../verdict/testdata/*.tcpbye"))
	if err != nil || len(paths) < 4 {
		t.Fatalf("%d recordings, %v", len(paths), err)
	}
	for _, path := range paths {
		replay(t, path, show)
	}
}

func replay(t testing.TB, path string, show func(record.Meta, *conn.Connection, verdict.Verdict)) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	_, err = session.Replay(f, func(m record.Meta) (session.Config, error) {
		return session.Config{Join: conn.Options{Hold: true}, Show: func(c *conn.Connection, v verdict.Verdict) error {
			show(m, c, v)
			return nil
		}}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
