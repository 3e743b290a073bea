# fettle: build, test, run. `make help` lists the targets.
SHELL       := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := build

PREFIX      ?= /usr/local
VERSION     ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS     := -s -w -X github.com/fettle-hpc/fettle/proto/version.Version=$(VERSION)
GO          ?= go
BUF         := $(GO) run github.com/bufbuild/buf/cmd/buf@v1.75.0
STATICCHECK := $(GO) run honnef.co/go/tools/cmd/staticcheck@v0.8.2
TESTFLAGS   ?= -timeout 15m
export FETTLE_BIN := $(CURDIR)/bin

# raft-boltdb reports its metrics through hashicorp's fork; the others leave out what the commands never use, for a quicker start.
export GOFLAGS := -buildvcs=false -tags=hashicorpmetrics,grpcnotrace,urfave_cli_no_docs
# NVML's header marks functions that we do not use as deprecated.
export CGO_CFLAGS := -Wno-deprecated-declarations

COMMANDS := ./ctld/cmd/... ./noded/cmd/fettle-noded ./noded/cmd/fettle-shim ./plugins/cmd/... ./client/cmd/...
LINKS    := fsubmit fqueue fcancel finfo flog fctl

.PHONY: help
help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

.PHONY: build
build: ## every binary, in bin/
	@mkdir -p bin
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/ $(COMMANDS)
	@if command -v $${CC:-cc} >/dev/null; then \
	  CGO_ENABLED=1 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./noded/cmd/fettle-nvml; \
	else echo 'fettle-nvml not built: it needs a C compiler (cc); GPUs can then only be declared, not detected' >&2; fi
	@for l in $(LINKS); do ln -sf fettle bin/$$l; done

.PHONY: quickstart
quickstart: build ## a cluster on this machine and a real fine-tuning job
	@packaging/quickstart/quickstart.sh

.PHONY: test
test: build ## all tests
	$(GO) test $(TESTFLAGS) ./...

.PHONY: race
race: ## all tests under the race detector
	$(GO) test -race $(TESTFLAGS) ./...

.PHONY: e2e
e2e: build ## the quickstart's job and the kill tests, with the real trainer
	packaging/e2e/run.sh

.PHONY: bench
bench: build ## the figures of docs/design.md §12, measured here
	$(GO) run ./packaging/fbench -bin bin

.PHONY: generate
generate: ## Go code from the .proto files
	cd proto && $(BUF) generate

.PHONY: lint
lint: ## formatting, vet, staticcheck
	@out=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$out" ]; then echo "gofmt: run gofmt -w on:"; echo "$$out"; exit 1; fi
	$(GO) vet ./...
	$(STATICCHECK) ./...

.PHONY: lint-proto
lint-proto: ## style of the .proto files
	cd proto && $(BUF) lint

.PHONY: install
install: build ## binaries to PREFIX/bin
	install -d $(DESTDIR)$(PREFIX)/bin
	for b in bin/fettle* bin/fsim; do install -m 0755 $$b $(DESTDIR)$(PREFIX)/bin/; done
	for l in $(LINKS); do ln -sf fettle $(DESTDIR)$(PREFIX)/bin/$$l; done

.PHONY: clean
clean: ## what build made
	rm -rf bin
