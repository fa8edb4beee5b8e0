//go:build amd64 || arm64

package echo

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// kernelSigaction is struct sigaction as rt_sigaction(2) takes it, which is not
// the C library's. Both architectures define SA_RESTORER and thus have the
// restorer field (include/linux/signal_types.h); those that do not, such as
// riscv64, have no such field, hence the build constraint.
type kernelSigaction struct {
	handler  uintptr
	flags    uint64
	restorer uintptr
	mask     uint64
}

// setDefaultAction sets the process's disposition of sig to SIG_DFL, without
// the Go runtime knowing. SIG_DFL runs no user code, so it needs neither an
// alternate stack nor a restorer.
func setDefaultAction(sig unix.Signal) error {
	action := kernelSigaction{handler: 0} // SIG_DFL
	_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig),
		uintptr(unsafe.Pointer(&action)), 0, unsafe.Sizeof(action.mask), 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}
