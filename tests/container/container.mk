# The container image, deployed as people deploy it. Included by the root Makefile.

.PHONY: image-run
image-run: image target/tools/bin/lambda-adapter ## Push the image, build the example's Dockerfile on it, and run that under AWS's emulator (root; else skipped)
	cargo build --locked -p lambda-emulator
	tests/container/build.py dist/langfuse-extension-image.tar target/container
	AWS_LAMBDA_RIE=$$(tests/rie/fetch.sh) APP_IMAGE=$(CURDIR)/target/container/app.json python3 -B tests/container/test_container.py
