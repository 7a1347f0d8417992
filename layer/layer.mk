# Packaging: layers, image, release. Included by the root Makefile.

ARCH ?= $(shell uname -m | sed -e s/aarch64/arm64/ -e s/amd64/x86_64/)
LAYER_ZIP = dist/langfuse-extension-layer-$(ARCH).zip

.PHONY: layer
layer: ## Build the layer's zip of this machine's architecture, or of ARCH=x86_64|arm64, into dist/
	layer/build.sh $(ARCH)
	python3 layer/pack.py $(ARCH) target/layer/$(ARCH)/langfuse-extension $(LAYER_ZIP)
	layer/check.sh $(LAYER_ZIP) $(ARCH)

.PHONY: layer-test
layer-test: ## Show what the checks of layer and image refuse
	python3 -B -m unittest discover -s layer -p 'test_*.py'
