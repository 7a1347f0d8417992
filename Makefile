# What a person types. Everything sets itself up; CI calls the same targets.

.DEFAULT_GOAL := help
SHELL := /bin/bash

include extension/core/core.mk
include fuzz/fuzz.mk
include layer/layer.mk
include terraform/terraform.mk
include tests/tests.mk
include $(wildcard tests/*/*.mk)

.PHONY: help
help: ## Show this
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{ printf "  %-14s %s\n", $$1, $$2 }'

.PHONY: build
build: ## Build the release binary for this machine: target/release/langfuse-extension
	cargo build --release --locked -p langfuse-lambda-extension

.PHONY: lint
lint: ## Formatting and clippy, warnings denied
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings

.PHONY: ci
ci: lint test ## What CI runs
