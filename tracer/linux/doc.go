// Package linux has the numbers of errors, signals and address families as Linux on
// amd64 and arm64 has them.
//
// Recordings hold these numbers, and are read on other systems, too, whose own are
// different: golang.org/x/sys/unix has those of the system that it is built for. So the
// packages that read events use this one. A test holds the numbers against x/sys/unix.
package linux

// Errno is a positive number of an error.
type Errno int32

// Signal is a number of a signal.
type Signal int

// Address families.
const (
	AF_UNIX  = 1
	AF_INET  = 2
	AF_INET6 = 10
)

// ErrnoName is an error's symbol; "": there is no such error.
func ErrnoName(e Errno) string {
	if e < 0 || int(e) >= len(errnoNames) {
		return ""
	}
	return errnoNames[e]
}

// SignalName is a signal's symbol; "": there is no such signal.
func SignalName(s Signal) string {
	if s < 0 || int(s) >= len(signalNames) {
		return ""
	}
	return signalNames[s]
}

// EOPNOTSUPP is another name of the same number.
const EOPNOTSUPP = ENOTSUP
