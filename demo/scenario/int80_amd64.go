package scenario

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// int80 makes a system call in the way of 32-bit programs, by their numbers.
func int80(nr, a, b, c uintptr) uintptr

// compatDup2 is dup2(2) in the way of 32-bit programs.
func compatDup2(from, to int) error {
	const dup2 = 63
	if r := int(int80(dup2, uintptr(from), uintptr(to), 0)); r < 0 {
		return unix.Errno(-r)
	}
	return nil
}

// probeCompat: without CONFIG_IA32_EMULATION the instruction is a fault.
func probeCompat() error {
	_, err := os.Stat("/proc/sys/abi/vsyscall32")
	if errors.Is(err, os.ErrNotExist) {
		return errors.New("this kernel was built without 32-bit system calls (CONFIG_IA32_EMULATION)")
	}
	return err
}
