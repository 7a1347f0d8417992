# Packaging: layers, image, release. Included by the root Makefile.

ARCH ?= $(shell uname -m | sed -e s/aarch64/arm64/ -e s/amd64/x86_64/)
LAYER_ZIP = dist/langfuse-extension-layer-$(ARCH).zip
IMAGE_TAR = dist/langfuse-extension-image.tar

.PHONY: layer
layer: ## Build the layer's zip for this machine's architecture, or ARCH=x86_64|arm64, into dist/
	layer/build.sh $(ARCH)
	layer/pack.sh $(ARCH) target/layer/$(ARCH)/langfuse-extension $(LAYER_ZIP)
	@# glibc linked in statically, which is never released, weighs half a megabyte more than musl.
	if grep -q crt-static target/layer/$(ARCH)/toolchain; then export LAYER_MAX_BYTES=$${LAYER_MAX_BYTES:-2600000}; fi; \
	  layer/check.sh $(LAYER_ZIP) $(ARCH)
	@if grep -q crt-static target/layer/$(ARCH)/toolchain; then \
	  echo "layer: $(LAYER_ZIP) is for trying out, and may not be published: glibc is linked in statically, which carries the LGPL's duties."; \
	  echo "layer: 'rustup component add rust-src' and 'make layer' again give the released form, static musl."; fi

.PHONY: layer-tools
layer-tools: ## Install what builds and runs the layers of both architectures here (Debian, root)
	layer/toolchain.sh

.PHONY: layer-run
layer-run: ## Run the layer's own binary: end to end, under AWS's emulator, by name; another ARCH under qemu
	layer/run.sh $(ARCH)

.PHONY: image
image: layer ## Build the image to COPY --from, of every layer in dist/, and run it
	python3 -B layer/image.py $(IMAGE_TAR) target/layer/image dist/langfuse-extension-layer-*.zip
	python3 -B layer/run_image.py $(IMAGE_TAR)

.PHONY: layer-test
layer-test: ## Show what the checks of layer and image refuse
	python=$$(tests/venv.sh pack layer/pack.txt) && $$python -B -m unittest discover -s layer -p 'test_*.py'

.PHONY: release
release: ## Build all artefacts of a release, with checksums and bills of materials, into dist/
	layer/release.sh

.PHONY: layer-publish
layer-publish: ## Publish dist/'s layers to REGIONS="…" with your AWS credentials (CONFIRM=1)
	layer/publish.sh

.PHONY: image-push
image-push: ## Push dist/'s image to IMAGE=registry/name:tag (needs skopeo; PUSH_OPTIONS are its own)
	skopeo copy --all $(PUSH_OPTIONS) oci-archive:$(IMAGE_TAR) docker://$(or $(IMAGE),$(error say IMAGE=registry/name:tag))

.PHONY: release-tag-check
release-tag-check: # The tag that a release is made from must name the version in Cargo.toml.
	@test "v$$(python3 -B layer/crates.py)" = "$(TAG)" || { echo "release: tag $(TAG) is not the version $$(python3 -B layer/crates.py) of Cargo.toml"; exit 1; }

.PHONY: deny
deny: ## Check licences, sources and bans of all dependencies (needs cargo-deny)
	cargo deny check

.PHONY: lint-workflows
lint-workflows: ## Lint the GitHub workflows
	.github/lint.sh
