.PHONY: demo
demo: build ## Show the incident and its end: the same function straight and through the extension
	cargo run --quiet --locked -p demo

.PHONY: demo-picture
demo-picture: demo ## Draw the README's animation from a run of the demo: docs/demo.svg
	cp $(or $(CARGO_TARGET_DIR),target)/demo/animation.svg docs/demo.svg
