// Gohelper prints the return addresses of its stack, as the kernel finds them by
// frame pointers, and what its own runtime says they are. Then it waits for its
// input to end.
package main

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"unsafe"

	"example.com/gohelper/frame"
	"example.com/gohelper/inner"
)

type server[T any] struct{ name T }

//go:noinline
func (s *server[T]) drop() {
	fp := frame.Pointer()
	var addresses []uintptr
	for fp != 0 && len(addresses) < 16 {
		addresses = append(addresses, *(*uintptr)(unsafe.Pointer(fp + 8)))
		fp = *(*uintptr)(unsafe.Pointer(fp))
	}
	for _, a := range addresses {
		fmt.Printf("address %x\n", a)
	}
	pcs := make([]uintptr, 32)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(2, pcs)])
	for {
		f, more := frames.Next()
		fmt.Printf("frame %s %s %d\n", f.Function, f.File, f.Line)
		if !more {
			break
		}
	}
}

//go:noinline
func handle(s *server[string]) {
	inner.Twice(s.drop)
	os.Stdout.WriteString("") // so that the call above is not the last instruction
}

func main() {
	handle(&server[string]{"x"})
	fmt.Println("ready")
	io.Copy(io.Discard, os.Stdin)
}
