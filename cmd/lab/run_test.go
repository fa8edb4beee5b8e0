package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/tcpbye/tcpbye/demo/test/lab"
)

func TestUsageErrors(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{nil, "say with -k which kernel"},
		{[]string{"-k", "6.1"}, "which command"},
		{[]string{"-k", "4.19", "--no-build", "--", "true"}, `knows no kernel "4.19"`},
		{[]string{"-k", "6.1", "--arch", "vax", "--no-build", "--", "true"}, "no kernels for vax"},
		{[]string{"-k", "6.1", "--no-build", "--add", "f", "--", "true"}, "another architecture only"},
		{[]string{"-k", "4.19", "--prepare"}, `knows no kernel "4.19"`},
		{[]string{"--nonsense"}, "unknown flag"},
	} {
		var stdout, stderr bytes.Buffer
		code := run(t.Context(), c.args, strings.NewReader(""), &stdout, &stderr)
		if code != exitLab || stdout.Len() > 0 || !strings.Contains(stderr.String(), c.want) {
			t.Errorf("lab %q: exit status %d, output %q, errors %q; want errors with %q", c.args, code, &stdout, &stderr, c.want)
		}
	}
}

func TestHelp(t *testing.T) {
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), []string{"-h"}, strings.NewReader(""), &stdout, &stderr); code != 0 || stderr.Len() > 0 {
		t.Errorf("exit status %d, errors %q", code, &stderr)
	}
	for _, want := range append(lab.Kernels(), "LAB_OUT", "--icount", "--prepare", "125") {
		if !strings.Contains(stdout.String(), want) {
			t.Errorf("the help does not mention %s", want)
		}
	}
}

func TestExitCode(t *testing.T) {
	for _, c := range []struct {
		err  error
		want int
	}{
		{errors.New("x"), exitLab},
		{fmt.Errorf("kernel: %w", lab.ErrTimeout), exitLab},
		{&lab.StartError{Errno: syscall.ENOENT}, exitNotFound},
		{fmt.Errorf("kernel: %w", &lab.StartError{Errno: syscall.EACCES}), exitNoExec},
		{fmt.Errorf("kernel: %w", context.Canceled), exitInterrupt},
	} {
		if got := exitCode(c.err); got != c.want {
			t.Errorf("%v: exit status %d, want %d", c.err, got, c.want)
		}
	}
}

func TestPrefixed(t *testing.T) {
	var b bytes.Buffer
	n, err := prefixed{&b}.Write([]byte("one\ntwo\n"))
	if n != 8 || err != nil || b.String() != "lab: one\nlab: two\n" {
		t.Errorf("%d, %v, %q", n, err, &b)
	}
}
