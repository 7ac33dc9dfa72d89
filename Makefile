# What a person who works on Penstock types. `make run` and `make test` need nothing but Go and a network at first.

GO          ?= go
BIN         := bin/penstock
VERSION     ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
LDFLAGS     := -X github.com/penstockmq/penstock/node.version=$(VERSION)
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
RACE        := ./broker/... ./hooks/... ./store/... ./bridge/... ./console/... ./node/...
FUZZTIME    ?= 10s

.PHONY: help run build deps test bench lint fuzz docs clean

help: ## say what there is
	@sed -n 's/^\([a-z]*\):.*## /  make \1	/p' $(MAKEFILE_LIST)

run: build ## start a demo: loopback only, nothing kept, simulated devices
	$(BIN) serve --demo

build: ## build bin/penstock
	@mkdir -p bin
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags "$(LDFLAGS)" -o $(BIN) ./cmd/penstock

deps: ## fetch what the tests talk to: mosquitto, its clients, Kafka, mqtt.js
	@deploy/test/deps.sh

test: deps ## all tests against real servers, then those of a node's own packages under the race detector
	PENSTOCK_TEST_REQUIRE=1 $(GO) test -timeout 10m ./...
	PENSTOCK_TEST_REQUIRE=1 $(GO) test -timeout 15m -race $(RACE)

bench: build ## measure Penstock against mosquitto, in one run
	$(BIN) bench compare

lint: ## gofmt, go vet, staticcheck
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$unformatted" ]; then echo "gofmt: $$unformatted"; exit 1; fi
	$(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...

fuzz: ## every fuzz target, for FUZZTIME each
	@for package in $$($(GO) list ./...); do \
		for target in $$($(GO) test -list '^Fuzz' $$package | grep '^Fuzz' || true); do \
			echo "$$package $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) $$package || exit 1; \
		done; \
	done

docs: build ## write anew the documents that are generated from code
	$(BIN) config docs > docs/CONFIG.md
	$(GO) test ./node -run TestMetricsReference -update

clean: ## remove what was built
	rm -rf bin
