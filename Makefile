# Everything a person or CI runs. A fresh machine needs a Rust toolchain (rustup reads
# rust-toolchain.toml) and Python 3.11 with pip; each target brings the rest it needs.
#
# LARDER_PYTHON=/path/to/python   use an interpreter that has vLLM, LMCache and pytest
#                                 instead of making .cache/venv

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON := $(if $(LARDER_PYTHON),$(LARDER_PYTHON),.cache/venv/bin/python)
TARGET_DIR := $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),target)
export LARDER_BIN := $(if $(LARDER_BIN),$(LARDER_BIN),$(abspath $(TARGET_DIR))/release/larder)
PYTEST := $(PYTHON) -m pytest --quiet --color=auto -p no:cacheprovider

SEEDS ?= 100000
CASES ?= 20000
KILLS ?= 1000

.PHONY: help demo build wheel venv test test-rust test-interop test-engines test-wheel test-deploy \
	test-dashboards test-torture lint bench torture fuzz-smoke sim clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: build venv ## A real vLLM (CPU) served from the cache, step by step
	@$(PYTHON) scripts/demo

build: ## Build the release server: target/release/larder
	@cargo build --release --locked --bin larder

wheel: ## A Python package that carries the server, in dist/
	@scripts/wheel

venv: ## Make .cache/venv: vLLM for the CPU, LMCache, pytest (about 5 GB, once)
	@scripts/venv

test: test-rust test-interop test-engines test-wheel test-deploy test-dashboards test-torture ## All tests: Rust, stock client, vLLM, package, deploy, dashboard, short torture

test-rust: venv ## Unit, property and simulation tests; wire and ZMTP against LMCache and libzmq
	LARDER_PYTHON=$(abspath $(PYTHON)) cargo test --workspace --locked \
		--features larder-wire/interop,larder-zmtp/interop

test-interop: build venv ## The unmodified LMCache client and recorded conversations
	scripts/interop $(PYTEST)

test-engines: build venv ## Two real vLLM engines share a server, come back from L2, and publish KV events
	$(PYTHON) bench/e2e_two_engines
	$(PYTHON) bench/e2e_kv_events

test-wheel: wheel venv ## The Python package, and a vLLM that starts the server through it
	$(PYTEST) packaging/python/tests
	$(PYTHON) bench/e2e_autostart

test-deploy: build ## What is in deploy/: manifests, the systemd unit, every command line
	scripts/check-deploy

test-dashboards: build venv ## Every expression of the Grafana dashboard, put to a real Prometheus
	scripts/check-dashboards

test-torture: build venv ## The short torture: clients and servers killed, garbage sent, L2 failing
	$(PYTHON) tests/torture/run.py --short

torture: build venv ## The full torture (KILLS=1000); prints counters
	$(PYTHON) tests/torture/run.py --kills $(KILLS)

lint: ## Formatting, clippy, documentation, layering and licences
	@.ci/run format clippy files layering licences docs

bench: build venv ## Compare Larder with the Python reference, side by side
	@scripts/bench

fuzz-smoke: ## Random-input tests of codecs and the store, many cases (CASES=20000)
	PROPTEST_CASES=$(CASES) cargo test --release --locked -p larder-wire -p larder-zmtp -p larder-core -p larder-policy -p larder-types

sim: ## The deterministic simulation of the core over many seeds (SEEDS=100000)
	cargo run --release --locked --package larder-sim -- run --seeds 0..$(SEEDS) --threads $$(nproc)

clean: ## Remove what the targets made
	cargo clean
	rm -rf .cache dist
