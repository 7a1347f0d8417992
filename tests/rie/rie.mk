# The oracle: AWS's own Runtime Interface Emulator. Included by the root Makefile.

.PHONY: rie
rie: build ## Run the core scenarios on AWS's own emulator and on ours (root; else skipped)
	cargo build --locked -p lambda-emulator
	AWS_LAMBDA_RIE=$$(tests/rie/fetch.sh) python3 -B tests/rie/test_rie.py

.PHONY: resolver
resolver: build ## Find Langfuse by a name that only the test's own DNS server knows, denies, or is mute about (root; else skipped)
	cargo build --locked -p lambda-emulator
	AWS_LAMBDA_RIE=$$(tests/rie/fetch.sh) $$(tests/venv.sh resolver tests/rie/requirements.txt) -B tests/rie/test_resolver.py
