# Fuzzing of everything that reads bytes of others, bounded in time. Sets up what it needs, but for the compiler: a
# nightly one where rustup has it, and otherwise the installed one, told to behave like it.
FUZZ_SECONDS ?= 30
FUZZ_TARGETS := otlp_protobuf otlp_json gzip ingestion telemetry spool headers paths egress
CARGO_FUZZ := target/tools/bin/cargo-fuzz

$(CARGO_FUZZ):
	cargo install cargo-fuzz --locked --version '^0.13' --root target/tools

.PHONY: fuzz
fuzz: $(CARGO_FUZZ) ## Fuzz every parser, FUZZ_SECONDS for each
	@if rustup toolchain list 2>/dev/null | grep -q '^nightly'; then export RUSTUP_TOOLCHAIN=nightly; \
	else export RUSTC_BOOTSTRAP=1; fi; \
	for target in $(FUZZ_TARGETS); do \
	  mkdir -p fuzz/corpus/$$target && cp -u fuzz/seeds/$$target/* fuzz/corpus/$$target/ && \
	  $(CARGO_FUZZ) run $$target -- -max_total_time=$(FUZZ_SECONDS) -max_len=65536 -rss_limit_mb=1024 -timeout=10 \
	    -verbosity=0 -print_final_stats=1 || exit 1; \
	done
