//go:build arm64

package bpf

import _ "embed"

//go:embed typed_arm64_bpfel.o.gz
var typedPacked []byte

//go:embed probe_arm64_bpfel.o.gz
var probePacked []byte

//go:embed classic_arm64_bpfel.o.gz
var classicPacked []byte
