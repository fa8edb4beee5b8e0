// Package test holds what only tests run, and nothing of its own: package lab boots
// Debian's kernels under QEMU; real plays endings with programs as Debian ships
// them; crowd plays thousands of connections before the finished program; bench
// counts what tracing costs.
//
// What people run is beside it: the echo pair, and the catalogue of endings
// (package scenario) with what it is played by (harness, stage). No package
// outside of this one imports anything below it, except cmd/lab and the tests of
// a main.
package test
