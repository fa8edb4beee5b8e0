//go:build 386 || amd64

package bpf

import _ "embed"

//go:embed typed_x86_bpfel.o.gz
var typedPacked []byte

//go:embed probe_x86_bpfel.o.gz
var probePacked []byte

//go:embed classic_x86_bpfel.o.gz
var classicPacked []byte
