package bpf

//go:generate go tool bpf2go -cc clang-14 -strip llvm-strip-14 -target amd64,arm64 -go-package bpf -type event -type stack -type text -type icmp -type story Probe probe.bpf.c -- -O2 -g -mcpu=v3 -Wall -Werror -Iheaders
//go:generate go tool bpf2go -cc clang-14 -strip llvm-strip-14 -target amd64,arm64 -go-package bpf Typed typed.bpf.c -- -O2 -g -mcpu=v3 -Wall -Werror -Iheaders
//go:generate go tool bpf2go -cc clang-14 -strip llvm-strip-14 -target amd64,arm64 -go-package bpf Classic classic.bpf.c -- -O2 -g -mcpu=v3 -Wall -Werror -Iheaders
//go:generate go run ./pack
