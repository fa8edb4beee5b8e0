package bench

import (
	"os"
	"os/exec"
	"testing"
	"time"
)

// TestTalk: each ending comes to its end, whatever the number of connections.
func TestTalk(t *testing.T) {
	if how := os.Getenv("BENCH_SERVE"); how != "" {
		if err := Serve(3, 20, Ending(how)); err != nil {
			t.Fatal(err)
		}
		return
	}
	for _, how := range []Ending{Plain, Reset} {
		server := exec.Command(os.Args[0], "-test.run=^TestTalk$")
		server.Env = append(os.Environ(), "BENCH_SERVE="+string(how))
		if d, err := Talk(20, how, server); err != nil || d <= 0 {
			t.Errorf("%s: %v, %v", how, d, err)
		}
	}
}

// TestUsed: what a process uses is seen, and that of one that is gone is nothing.
func TestUsed(t *testing.T) {
	before, err := Used(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for start := time.Now(); time.Since(start) < 20*time.Millisecond; {
	}
	after, err := Used(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if after.CPU <= before.CPU || after.RSS == 0 {
		t.Errorf("before %+v, after %+v", before, after)
	}
	if u, err := Used(1 << 30); err != nil || u != (Use{}) {
		t.Errorf("no process: %+v, %v", u, err)
	}
}

// TestProgram: a BPF program counts once, and another descriptor not at all.
func TestProgram(t *testing.T) {
	var u Use
	seen := map[string]bool{}
	const program = "pos:\t0\nflags:\t02000002\nprog_type:\t26\nprog_id:\t7\nrun_time_ns:\t1500\nrun_cnt:\t3\n"
	u.program(program, seen)
	u.program(program, seen)
	u.program("pos:\t0\nlink_type:\ttracing\nlink_id:\t4\nprog_id:\t9\n", seen)
	u.program("pos:\t0\nmap_type:\t27\n", seen)
	if u.BPF != 1500 || u.Runs != 3 {
		t.Errorf("%+v", u)
	}
}
