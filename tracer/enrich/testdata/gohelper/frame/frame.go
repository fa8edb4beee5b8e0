// Package frame reads the frame pointer.
package frame

// Pointer is the frame pointer of the function that calls it.
func Pointer() uintptr
