// Command init is process 1 of a lab guest: it makes the machine that a command
// expects, runs the command, sends its output and its end to the host over a
// virtio-serial port, and waits to be switched off. See package lab.
package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "init is process 1 of a lab guest and does nothing elsewhere; use cmd/lab")
		os.Exit(2)
	}
	if err := run(); err != nil {
		// The console is what the host shows when a guest ends without an answer.
		fmt.Fprintln(os.Stderr, "init:", err)
	}
	unix.Sync()
	// With -no-reboot this ends QEMU.
	unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	select {}
}
