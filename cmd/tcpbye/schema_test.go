package main

import (
	"bytes"
	"net"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/tcpbye/tcpbye/tracer/schematest"
)

// TestSchemas: what the commands write as JSON is what tcpbye schema says, each by its
// own name.
func TestSchemas(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	port := strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
	run := func(args ...string) []byte {
		var stdout, stderr bytes.Buffer
		cmd := exec.Command("tcpbye", args...)
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		// The doctor's status says how this kernel and user fare.
		if err := cmd.Run(); err != nil && args[0] != "doctor" {
			t.Fatalf("%v: %v\n%s", args, err, stderr.Bytes())
		}
		return stdout.Bytes()
	}
	for _, x := range []struct {
		name string
		args []string
		line bool // an object a line
		rows int  // at least
	}{
		{"connection", []string{"trace", "-o", "json", "-r", filepath.Join("testdata", "busy.tcpbye")}, true, 9},
		{"socket", []string{"trace", "--open", "--all", "-o", "json", "--port", port}, true, 2},
		{"doctor", []string{"doctor", "-o", "json"}, false, 1},
	} {
		schema := schematest.Compile(t, run("schema", x.name))
		out := run(x.args...)
		rows := [][]byte{out}
		if x.line {
			rows = bytes.Split(bytes.TrimSpace(out), []byte("\n"))
		}
		if len(rows) < x.rows {
			t.Errorf("%s: %d objects", x.name, len(rows))
		}
		for _, r := range rows {
			if err := schematest.Validate(schema, r); err != nil {
				t.Errorf("%s: %v\n%s", x.name, err, r)
			}
		}
	}
}
