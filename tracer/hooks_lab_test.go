//go:build lab

package tracer

import (
	"errors"
	"testing"
	"time"

	"github.com/cilium/ebpf"
)

func TestHooks(t *testing.T) {
	for _, r := range append([]Rung{""}, Rungs()...) {
		t.Run(string(r), func(t *testing.T) {
			start := time.Now()
			tr, err := Open(Options{Attach: r, Receive: true})
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("opened in %v", time.Since(start))
			for _, a := range tr.Attachments() {
				t.Logf("%-22v %-8v %v %v", a.Hook, a.Rung, a.Symbols, a.Err)
				var v *ebpf.VerifierError
				if errors.As(a.Err, &v) {
					t.Logf("%+v", v)
				}
			}
			start = time.Now()
			if err := tr.Close(); err != nil {
				t.Fatal(err)
			}
			t.Logf("closed in %v", time.Since(start))
		})
	}
}
