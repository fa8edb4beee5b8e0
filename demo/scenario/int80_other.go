//go:build !amd64

package scenario

import "errors"

var errNoCompat = errors.New("only x86 has 32-bit system calls in a 64-bit process")

func compatDup2(from, to int) error { return errNoCompat }

func probeCompat() error { return errNoCompat }
