# What proves the core. Included by the Makefile at the root; works from there.

SIM_CRATE := langfuse-extension-core
MUTANTS_DIR := target/mutants
# Mutants are tried one in so many, so that the run stays bounded; 1 tries them all.
MUTANTS_SHARDS ?= 4

.PHONY: sim mutants mutants-by-hand

sim: ## A million simulated invocations of the core, every promise checked after every step
	cargo test --release -p $(SIM_CRATE) --test simulation a_million -- --ignored --nocapture

mutants: ## Break the core on purpose and count the faults that no test notices (docs/mutants.md)
	@command -v cargo-mutants >/dev/null || cargo install cargo-mutants --locked
	-SEEDS=300 cargo mutants -p $(SIM_CRATE) -j 2 --timeout 20 --shard 0/$(MUTANTS_SHARDS) --sharding round-robin -o $(MUTANTS_DIR) -- --lib --tests
	mkdir -p docs
	extension/core/mutants-score $(MUTANTS_DIR)/mutants.out $(MUTANTS_SHARDS) > docs/mutants.md

mutants-by-hand: ## Break what matters most, one decision at a time, and demand that each break is caught
	extension/core/hand-mutations
