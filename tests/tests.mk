# The project's tests. CI reads the runner's closing summary, so the runner comes last.

# nextest runs every test in a process of its own, several at once; without it cargo's own runner does.
TEST_RUNNER := $(if $(shell command -v cargo-nextest 2>/dev/null),cargo nextest run --no-fail-fast,cargo test --no-fail-fast)

.PHONY: test
test: build ## Run all tests, those on the release binary included
	$(TEST_RUNNER) --workspace --locked

.PHONY: e2e
e2e: build ## Run the end-to-end tests alone, on the binary that EXTENSION_BINARY names, if it does
	$(TEST_RUNNER) -p e2e --locked

.PHONY: faults
faults: build ## Run the fault matrix on the release binary and write docs/faults.md
	cargo run --locked -p e2e --bin faults -- docs/faults.md
