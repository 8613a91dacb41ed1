# The commands of developers and CI. They need a Rust toolchain (rustup reads rust-toolchain.toml), a C
# compiler, and Python 3.11 with pip; each target installs the rest below .cache, or through apt.
#
# LARDER_PYTHON=/path/to/python   use an interpreter that has vLLM, LMCache and pytest
#                                 instead of building .cache/venv

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON := $(if $(LARDER_PYTHON),$(LARDER_PYTHON),.cache/venv/bin/python)
TARGET_DIR := $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),target)
export LARDER_BIN := $(if $(LARDER_BIN),$(LARDER_BIN),$(abspath $(TARGET_DIR))/release/larder)
PYTEST := $(PYTHON) -m pytest --quiet --color=auto -p no:cacheprovider

# How much the long tests do.
SEEDS ?= 100000
CASES ?= 20000
KILLS ?= 1000
FUZZ_SECONDS ?= 600
# The crates with property tests of decoders and of the core.
PROPERTIES := $(addprefix -p larder-,types policy wire zmtp core l2 lab)
BENCHES := $(addprefix -p larder-,wire zmtp core l2 lab)
MIRI_TOOLCHAIN ?= nightly

.PHONY: help demo build wheel venv lint clean test test-rust test-interop test-engines test-wheel test-deploy \
	test-dashboards test-torture test-matrix test-properties test-clients test-pressure sim torture fuzz miri bench bench-micro

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: build venv ## Serve a real vLLM (CPU) from the cache, step by step
	@$(PYTHON) scripts/demo

build: ## Build the release server: target/release/larder
	@cargo build --release --locked --bin larder

wheel: ## Build the Python package that carries the server, in dist/
	@scripts/wheel

venv: ## Build .cache/venv: vLLM for the CPU, LMCache, pytest (about 5 GB, once)
	@scripts/venv

lint: ## Check format, clippy, files, layering, licences and documentation
	@.ci/run format clippy files layering licences docs

test: test-rust test-interop test-engines test-wheel test-deploy test-dashboards test-torture ## Run all tests that CI runs

test-rust: venv ## Unit, property and simulation tests; wire and ZMTP against LMCache and libzmq
	LARDER_PYTHON=$(abspath $(PYTHON)) cargo test --workspace --locked \
		--features larder-wire/interop,larder-zmtp/interop

test-interop: build venv ## The unmodified LMCache client and tools, and recorded conversations
	scripts/interop $(PYTEST)

test-engines: build venv ## Two real vLLM engines that share a server, L2 after a restart, KV events
	$(PYTHON) bench/e2e_two_engines
	$(PYTHON) bench/e2e_kv_events

test-wheel: wheel venv ## The Python package, and a vLLM that starts the server through it
	$(PYTEST) packaging/python/tests
	$(PYTHON) bench/e2e_autostart

test-deploy: build ## Manifests, the systemd unit and every command line in deploy/
	scripts/check-deploy

test-dashboards: build venv ## Every expression of the Grafana dashboard, in a real Prometheus
	scripts/check-dashboards

test-torture: build venv ## A short torture: clients and servers killed, invalid messages, L2 failures
	$(PYTHON) tests/torture/run.py --short

test-clients: build venv ## Nine versions of the LMCache client, each reading what each other stores
	LARDER_CLIENTS=0.4.7,0.5.0,0.5.1,0.5.2,0.5.3,0.5.4,0.5.5,0.5.6,0.5.7rc2 $(PYTEST) tests/interop/test_client_versions.py

test-matrix: test-clients test-properties sim fuzz torture test-pressure ## The long tests, hours in all: properties, client versions, simulation, fuzzing, torture

test-pressure: build venv ## A real vLLM with requests that compete for a small L1, and its default policy for failed loads
	$(PYTHON) bench/e2e_pressure
	$(PYTHON) bench/e2e_pressure --prefetch-policy retain --seed 2

test-properties: ## Property tests with many cases (CASES=20000)
	PROPTEST_CASES=$(CASES) cargo test --release --locked $(PROPERTIES)

sim: ## The deterministic simulation of the core over many seeds (SEEDS=100000)
	cargo run --release --locked --package larder-sim -- run --seeds 0..$(SEEDS) --threads $$(nproc)

torture: build venv ## The full torture (KILLS=1000)
	$(PYTHON) tests/torture/run.py --kills $(KILLS)

fuzz: ## Fuzz every decoder (FUZZ_SECONDS=600 for each)
	scripts/fuzz $(FUZZ_SECONDS)

miri: ## Undefined behaviour and leaks in the pure crates, under Miri (needs a nightly toolchain with Miri)
	scripts/miri $(MIRI_TOOLCHAIN)

bench: build venv ## Compare Larder with the Python reference, side by side
	@scripts/bench
	@scripts/bench-scale

bench-micro: ## Criterion benchmarks of the hot paths
	cargo bench --locked $(BENCHES) --bench '*'

clean: ## Remove everything that the targets built
	cargo clean
	rm -rf .cache dist
