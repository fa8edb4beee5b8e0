package bpf

import (
	"bytes"
	"compress/gzip"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// TestPacked: what the program holds is what bpf2go made.
func TestPacked(t *testing.T) {
	objects, err := filepath.Glob("*_bpfel.o")
	if err != nil || len(objects) != 6 {
		t.Fatalf("%d objects, %v", len(objects), err)
	}
	for _, name := range objects {
		want, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(name + ".gz")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		z, err := gzip.NewReader(f)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(z)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s.gz is not %s: make generate (%v)", name, name, err)
		}
	}
	for _, load := range []func() error{
		func() error { _, err := Typed(); return err }, func() error { _, err := Probe(); return err }, func() error { _, err := Classic(); return err },
	} {
		if err := load(); err != nil {
			t.Error(err)
		}
	}
}
