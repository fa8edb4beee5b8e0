package bpf

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"

	"github.com/cilium/ebpf"
)

// Typed, Probe and Classic load the objects. The program holds them compressed, since
// they are a third of it otherwise; what bpf2go's Load functions read is left out of a
// program that does not call them.

// Typed loads the object of the typed rungs.
func Typed() (*ebpf.CollectionSpec, error) { return unpack("typed", typedPacked) }

// Probe loads that of the kprobes.
func Probe() (*ebpf.CollectionSpec, error) { return unpack("probe", probePacked) }

// Classic loads that of the tracepoints.
func Classic() (*ebpf.CollectionSpec, error) { return unpack("classic", classicPacked) }

func unpack(name string, packed []byte) (*ebpf.CollectionSpec, error) {
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, fmt.Errorf("unpack the BPF object %s: %w", name, err)
	}
	object, err := io.ReadAll(z)
	if err != nil {
		return nil, fmt.Errorf("unpack the BPF object %s: %w", name, err)
	}
	spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(object))
	if err != nil {
		return nil, fmt.Errorf("read the BPF object %s: %w", name, err)
	}
	return spec, nil
}
