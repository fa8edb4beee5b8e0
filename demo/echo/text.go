package echo

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// printable returns b for a terminal: what strconv.Quote would escape because
// it is not printable (control and format characters, bytes that are not
// UTF-8) is escaped in the same way, everything else stays as it is.
func printable(b []byte) string {
	var sb strings.Builder
	for len(b) > 0 {
		r, size := utf8.DecodeRune(b)
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&sb, `\x%02x`, b[0])
		case strconv.IsPrint(r):
			sb.WriteRune(r)
		default:
			quoted := strconv.QuoteRune(r)
			sb.WriteString(quoted[1 : len(quoted)-1])
		}
		b = b[size:]
	}
	return sb.String()
}

// printer writes lines, each with a single Write, and remembers the first
// failure so that lost output does not end in exit status 0.
type printer struct {
	w   io.Writer
	err error
}

func newPrinter(w io.Writer) *printer {
	if w == nil {
		w = io.Discard
	}
	return &printer{w: w}
}

func (p *printer) printf(format string, args ...any) {
	if _, err := io.WriteString(p.w, fmt.Sprintf(format, args...)+"\n"); err != nil && p.err == nil {
		p.err = err
	}
}

// exitStatus returns code, or 1 where code would report success although a
// line of out was lost.
func exitStatus(code int, out, errs *printer) int {
	if code == 0 && out.err != nil {
		errs.printf("write to the output: %v", out.err)
		return 1
	}
	return code
}

// callError is a system call that failed, as the two programs print it:
// "send: broken pipe (EPIPE)".
type callError struct {
	call string
	err  error
}

func (e *callError) Error() string { return e.call + ": " + errnoText(e.err) }
func (e *callError) Unwrap() error { return e.err }

// callFailed wraps a failed call's error; nil stays nil.
func callFailed(call string, err error) error {
	if err == nil {
		return nil
	}
	return &callError{call: call, err: err}
}

// errnoText returns the system's words for err followed by the errno's name,
// which is the part that one can look up.
func errnoText(err error) string {
	if errno, ok := errors.AsType[unix.Errno](err); ok {
		return fmt.Sprintf("%v (%s)", errno, unix.ErrnoName(errno))
	}
	return err.Error()
}
