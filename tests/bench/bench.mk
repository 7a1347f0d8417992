# Measurements. Included by the root Makefile.

# Another extension to put through the same work, its settings (NAME=value …, in which {port}, {langfuse}, {ca} and {dir}
# are filled in) and its path for OTLP over HTTP.
BASELINE ?=
BASELINE_ENV ?=
BASELINE_PATH ?= /v1/traces
# Only some groups: start, ack, memory, cost, held, slowdown, spool.
BENCH_ONLY ?=
BENCH_OUT ?= docs/benchmarks
BENCH_LAYER = $(wildcard target/layer/$(ARCH)/langfuse-extension)

.PHONY: bench
bench: ## Measure beside the bare floor, and BASELINE=path to another extension (BASELINE_ENV, BASELINE_PATH), into docs/benchmarks
	cargo build --release --locked -p langfuse-lambda-extension
	cargo build --release --locked -p bench --bin floor
	cargo build --profile driver --locked -p bench --bin bench
	target/driver/bench --out $(BENCH_OUT) --only '$(BENCH_ONLY)' --command 'make bench' \
	  $(if $(BENCH_LAYER),--layer $(BENCH_LAYER)) \
	  $(if $(BASELINE),--baseline $(BASELINE) --baseline-path $(BASELINE_PATH) $(addprefix --baseline-env ,$(BASELINE_ENV)))
	python=$$(tests/venv.sh bench tests/bench/requirements.txt) && $$python tests/bench/plot.py $(BENCH_OUT)
