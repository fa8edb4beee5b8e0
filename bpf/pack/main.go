// Command pack compresses the BPF objects in the working directory. What it writes is a
// function of them.
package main

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	if err := pack(); err != nil {
		fmt.Fprintln(os.Stderr, "pack:", err)
		os.Exit(1)
	}
}

func pack() error {
	objects, err := filepath.Glob("*_bpfel.o")
	if err != nil {
		return err
	}
	for _, name := range objects {
		object, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		var b bytes.Buffer
		z, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
		if err != nil {
			return err
		}
		if _, err := z.Write(object); err != nil {
			return err
		}
		if err := z.Close(); err != nil {
			return err
		}
		if err := os.WriteFile(name+".gz", b.Bytes(), 0o644); err != nil {
			return err
		}
	}
	return nil
}
