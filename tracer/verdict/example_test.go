package verdict_test

import (
	"fmt"
	"os"

	"github.com/tcpbye/tcpbye/tracer/event"
	"github.com/tcpbye/tcpbye/tracer/record"
	"github.com/tcpbye/tcpbye/tracer/verdict"
)

// A recording holds the events of a trace, and its head says what that could see.
func ExampleJudgeAll() {
	f, err := os.Open("../../cmd/tcpbye/testdata/close.tcpbye")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer f.Close()
	var events []event.Event
	var scope verdict.Scope
	err = record.Read(f, record.Handler{
		Meta:  func(m record.Meta) error { scope = verdict.ScopeOf(m); return nil },
		Event: func(e event.Event) error { events = append(events, e); return nil },
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	for c, v := range verdict.JudgeAll(events, scope) {
		fmt.Printf("%v: %s, %s, ended by %s (%s)\n", c.Open, v.Class, v.Cause, v.Ender, v.Confidence)
	}
	// Output:
	// active: aborted, data-after-close, ended by local-process (certain)
	// passive: aborted, data-after-close, ended by peer-process (certain)
}
