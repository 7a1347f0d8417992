# Fuzzing of everything that reads bytes of clients, bounded in time. Needs cargo-fuzz and a nightly compiler.
FUZZ_SECONDS ?= 60
FUZZ_TARGETS := otlp_protobuf otlp_json gzip ingestion

.PHONY: fuzz
fuzz: ## Fuzz the wire code, FUZZ_SECONDS per target
	@for target in $(FUZZ_TARGETS); do \
	  mkdir -p fuzz/corpus/$$target && cp -u fuzz/seeds/$$target/* fuzz/corpus/$$target/ && \
	  cargo +nightly fuzz run $$target -- -max_total_time=$(FUZZ_SECONDS) -max_len=65536 -rss_limit_mb=1024 -timeout=10 \
	    || exit 1; \
	done
