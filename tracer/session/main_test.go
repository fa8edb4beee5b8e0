package session_test

import (
	"os"
	"testing"

	"github.com/tcpbye/tcpbye/tracer/enrich"
)

func TestMain(m *testing.M) {
	if status, ok := enrich.ServeSymbols(); ok {
		os.Exit(status)
	}
	os.Exit(m.Run())
}
