# terraform/attach on a local AWS. Included by the root Makefile.

.PHONY: attach-test
attach-test: ## Give functions of a local AWS (moto) the extension with terraform/attach, and take it away again
	$$(tests/venv.sh publish tests/publish/requirements.txt) -B tests/attach/test_attach.py

.PHONY: exec-bench
exec-bench: build ## Measure what /opt/langfuse adds to a start, with a whole processor and with a 128 MB function's share
	python3 -B tests/attach/bench_exec.py
