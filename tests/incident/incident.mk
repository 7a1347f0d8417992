# The incident that this was written for, end to end. Included by the root Makefile.

LWA_VERSION := 1.0.0-rc1

.PHONY: incident
incident: build target/tools/bin/lambda-adapter ## Replay the incident (FastAPI, Web Adapter, streaming) and write docs/incident.md's figures
	cargo build --locked -p lambda-emulator
	AWS_LAMBDA_RIE=$$(tests/rie/fetch.sh) \
	APP_PYTHON=$$(tests/venv.sh fastapi terraform/examples/container-fastapi/app/requirements.txt) \
	NEWER_PYTHON=$$(tests/venv.sh fastapi-newer tests/apps/fastapi-lwa/newer.txt) \
	python3 -B tests/incident/incident.py

# AWS's Web Adapter, as its image would bring it. It takes some minutes, once.
target/tools/bin/lambda-adapter:
	cargo install --locked --root target/tools --target-dir target/tools/build lambda_web_adapter --version $(LWA_VERSION)
	rm -rf target/tools/build
