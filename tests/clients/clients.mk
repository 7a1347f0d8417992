# Clients of Langfuse: what they are is in tests/clients/src/client.rs.

.PHONY: clients
clients: build ## Run every client through the extension, and write docs/clients.md
	cargo run --locked -p clients
