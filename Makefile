# tcpbye: two commands do everything, make demo and make test.
# The rest is listed by make help.

GO      ?= go
KERNEL  ?= 6.1
RUNGS   ?= 6.1,7
GOFLAGS ?=
BUILD   := CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w'
# staticcheck knows no language version newer than itself: pinned.
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
DEADCODE    := golang.org/x/tools/cmd/deadcode@v0.52.0
GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@v1.2.0

.PHONY: help demo test compilers test-unit test-native test-lab test-matrix test-rungs test-arm64 test-real test-crowd test-race vuln trust bench lint check-objects generate record build elsewhere dist test-dist clean

help:
	@echo 'make demo         both experiments, traced here or in the lab'
	@echo 'make test         unit tests, the catalogue on this machine, and the lab tests on Linux $(KERNEL)'
	@echo 'make test-matrix  the lab tests on Linux 5.10, 6.1, 6.12, 7.x, and one that is locked down'
	@echo 'make test-rungs   the catalogue in each forced rung, on Linux $(RUNGS)'
	@echo 'make test-arm64   the demo, a part of the catalogue and each rung on arm64, emulated'
	@echo 'make test-real    nginx, redis, haproxy, curl, ...: real programs, on Linux $(KERNEL)'
	@echo 'make test-crowd   hundreds of processes, thousands of connections, at once, on Linux $(KERNEL)'
	@echo 'make trust        recordings damaged in every way, 1,000 seeds: how many verdicts are certain and wrong'
	@echo 'make bench        what tracing costs a connection, in instructions, beside other tools, on Linux $(RUNGS)'
	@echo 'make test-race    the unit tests under the race detector'
	@echo 'make lint         gofmt, go vet, staticcheck, unused code, go.mod'
	@echo 'make vuln         known vulnerabilities, by the Go project'"'"'s database'
	@echo 'make generate     the BPF objects, again, from the C sources'
	@echo 'make check-objects  are the committed BPF objects what the sources make?'
	@echo 'make record       the recordings in testdata, again, from the lab'
	@echo 'make build        bin/tcpbye, for this machine'
	@echo 'make elsewhere    does what reads recordings build on macOS, Windows and FreeBSD?'
	@echo 'make dist         the commit as tar.gz, deb and rpm, in dist/'
	@echo 'make test-dist    makes them, twice, and installs and removes them in the lab'

build:
	$(BUILD) -o bin/tcpbye ./cmd/tcpbye

# Traces here where kprobes attach and the user may; else in the lab.
demo: build
	@if bin/tcpbye demo --can-trace; then \
		echo 'tracing on this machine'; \
		bin/tcpbye demo close shutdown; \
	else \
		echo 'the lab boots Linux $(KERNEL) instead'; \
		$(GO) run ./cmd/lab -k $(KERNEL) -- tcpbye demo close shutdown; \
	fi

test: compilers test-unit test-native test-lab

# Without these, tests that build C and C++ programs to name their stacks, those of
# completions and man pages, and those in which Wireshark reads what we write would be
# left out.
compilers:
	@bpf/need gcc g++ libc6-dev tshark zsh fish bash-completion mandoc

test-unit:
	$(GO) test ./...

# What this machine's own kernel shows, each rung that it has; for root only.
test-native: build
	@if [ "$$(id -u)" != 0 ]; then \
		echo 'not root: nothing is traced on this machine itself, only in the lab'; exit 0; \
	fi; \
	bin/tcpbye demo --can-trace; status=$$?; \
	if [ $$status != 0 ] && [ $$status != 3 ]; then \
		echo 'this machine itself cannot be traced, only the lab'; exit 0; \
	fi; \
	$(GO) test -tags lab -count=1 -v -timeout 60m -run '^TestSuite$$' ./demo/test/lab -suite.kernels=here

test-lab: compilers
	$(GO) test -tags lab -count=1 -v -timeout 180m -run '^TestSuite$$' ./demo/test/lab -suite.kernels=$(KERNEL) $(LONG)

test-matrix:
	$(MAKE) test-lab KERNEL=all LONG=-suite.long

test-rungs:
	$(GO) test -tags lab -count=1 -v -timeout 120m -run '^TestRungs$$' ./demo/test/lab -suite.kernels=$(RUNGS)

test-arm64:
	$(GO) test -tags lab -count=1 -v -timeout 120m -run '^TestArm64$$' ./demo/test/lab

test-real:
	$(GO) test -tags lab -count=1 -v -timeout 60m -run TestRealInLab ./demo/test/real -real.kernel=$(KERNEL)

test-crowd:
	$(GO) test -tags lab -count=1 -v -timeout 180m -run TestCrowdInLab ./demo/test/crowd -crowd.kernel=$(KERNEL)

# A row again, or one seed of it: -trust.row='silent' -trust.first=17 -trust.seeds=1
trust:
	$(GO) test ./tracer/verdict -count=1 -v -timeout 60m -run '^TestTrust$$' -trust.seeds=1000 $(TRUST)

bench:
	@bpf/need libbpf-tools tcpdump
	$(GO) test -tags lab -count=1 -v -timeout 300m -run '^TestBench$$' ./demo/test/bench -bench.kernel=$(RUNGS) $(LONG)

lint:
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -l $$(git ls-files '*.go'); exit 1; }
	$(GO) vet ./...
	$(GO) vet -tags lab ./...
	$(GO) run $(STATICCHECK) ./...
	$(GO) run $(STATICCHECK) -tags lab ./...
	$(GO) mod tidy -diff
	@dead=$$($(GO) run $(DEADCODE) -test -tags lab ./...) && test -z "$$dead" || { echo "$$dead"; exit 1; }

# The unit tests of all but the commands under the race detector, which needs a C
# compiler. Tests of the commands start them by the hundred, seconds each then.
test-race: compilers
	$(GO) test -race -short ./bpf/... ./demo/... ./tracer/...

# Known vulnerabilities in what tcpbye links in. Needs their database, so it is no
# part of the tests.
vuln:
	$(GO) run $(GOVULNCHECK) ./...

generate:
	@bpf/need clang-14 llvm-14
	$(GO) generate ./bpf

# Builds them in another directory and compares byte by byte.
check-objects:
	@bpf/need clang-14 llvm-14
	bpf/check

record:
	$(GO) test -tags lab -count=1 -v -timeout 90m -run '^TestSuite$$' ./demo/test/lab -suite.kernels=5.10,6.1,6.12,7 -suite.record=$(CURDIR)/tracer/verdict/testdata
	$(GO) test ./tracer/verdict -run TestRecordings -update

# There only recordings are read.
elsewhere:
	@for os in darwin windows freebsd; do GOOS=$$os $(GO) build -o /dev/null ./cmd/tcpbye || exit; done

# Of the commit, not of the files as they are.
dist:
	$(GO) run ./cmd/dist

test-dist:
	@bpf/need rpm rpm2cpio man-db systemd bash-completion
	$(GO) test -tags lab -count=1 -v -timeout 60m -run TestPackages ./cmd/dist

clean:
	rm -rf bin dist
