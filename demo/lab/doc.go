// Package lab boots Debian kernels under QEMU and runs commands in them.
//
// tcpbye must give the same verdict on every kernel that it supports, with and
// without certain hooks. The lab makes those kernels available on any Linux
// machine, as commands: what runs in the guest is the host's own programs on
// the host's own files, and what it prints and returns comes back.
package lab
