.PHONY: demo
demo: build ## Show the incident and its end: the same function straight and through the extension
	cargo run --quiet --locked -p demo
