package scenario

import (
	"os"
	"testing"
)

func TestMain(m *testing.M) {
	if exit, ok := MaybePuppet(); ok {
		os.Exit(exit)
	}
	os.Exit(m.Run())
}
