package linux

import (
	"testing"

	"golang.org/x/sys/unix"
)

// TestNumbers: they are those of the kernel.
func TestNumbers(t *testing.T) {
	for n := range 4096 {
		if got, want := ErrnoName(Errno(n)), unix.ErrnoName(unix.Errno(n)); got != want {
			t.Errorf("errno %d is %q, not %q", n, got, want)
		}
	}
	for n := range 65 {
		if got, want := SignalName(Signal(n)), unix.SignalName(unix.Signal(n)); got != want {
			t.Errorf("signal %d is %q, not %q", n, got, want)
		}
	}
	if AF_UNIX != unix.AF_UNIX || AF_INET != unix.AF_INET || AF_INET6 != unix.AF_INET6 {
		t.Error("the families are others")
	}
	if ErrnoName(-1) != "" || SignalName(-1) != "" {
		t.Error("a number below zero has a name")
	}
}
