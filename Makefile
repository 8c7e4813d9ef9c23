# Each target does all the set-up it needs: on a new machine `make up` is the first command.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

REVEILLE := target/release/reveille
# Flags of `reveille up` to add: make up UP="--http 127.0.0.1:9090"
UP ?=

.PHONY: help up demo test model simulation storm torture bench lint doctor setup build clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 16

setup:
	@deploy/setup.sh

build: setup
	@cargo build --release --bin reveille

up: build ## run everything on this machine, with the demo's actors
	@exec $(REVEILLE) up --apply deploy/demo/demo.yaml $(UP)

demo: build ## play the story: cold start, warm, suspend, wake, 1,000 at once
	@cargo bench --quiet --bench demo

test: setup ## every test, with real Envoy, runsc and CRIU
	@deploy/setup.sh programs registry prometheus chromium kubernetes
	@cargo test --workspace --locked --no-fail-fast

model: ## the protocol's model in larger sizes, some minutes
	@cargo test --release --locked -p reveille-model -- --ignored --nocapture

simulation: ## routers, control plane and fake nodes on a simulated network that loses, delays and repeats: SEEDS=…
	@SIMULATION_SEEDS=$(or $(SEEDS),1000) cargo test --release --locked -p reveille-simulation -- --nocapture whatever

storm: build ## kill everything for 1,000,000 requests and prove that none was lost: REQUESTS=… SEED=… (a seed replays its plan)
	@$(if $(SEED),STORM_SEED=$(SEED)) STORM_REQUESTS=$(or $(REQUESTS),1000000) \
	  cargo test --release --locked --quiet --test storm -- --ignored --nocapture nor_in_a_long_one

torture: build ## kill everything of a node in the middle of everything it does, 2,000 times: ROUNDS=… SEED=… (a seed replays its plan)
	@$(if $(SEED),TORTURE_SEED=$(SEED)) $(if $(ROUNDS),TORTURE_ROUNDS=$(ROUNDS)) \
	  cargo test --release --locked --quiet --test torture -- --ignored --nocapture also_in_the_long_form

# Those of the table in its documentation.
FIGURES := $(shell sed -n 's@^//! | `\([a-z]*\)` .*@\1@p' tests/bench/main.rs)
ifneq ($(filter-out $(FIGURES),$(ONLY)),)
$(error there is no figure $(filter-out $(FIGURES),$(ONLY)); ONLY may have $(FIGURES))
endif

bench: build ## measure beside plain Envoy and bare runsc; ONLY="warm crowd" for some figures, JSON=FILE for programs
	@deploy/setup.sh wrk resolvers
	@cargo bench --quiet --bench bench -- $(ONLY) $(if $(JSON),--json $(JSON))

lint: ## formats and lints, as in CI
	@cargo fmt --all --check
	@cargo clippy --workspace --all-targets --locked -- -D warnings

doctor: build ## what this machine can do
	@$(REVEILLE) doctor

clean: ## remove what was built and fetched
	@rm -rf target .deps
