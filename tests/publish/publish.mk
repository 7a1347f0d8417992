# Publishing to a local AWS. Included by the root Makefile.

.PHONY: publish-test
publish-test: layer ## Publish dist/'s layers to two regions of a local AWS (moto), as a release does
	$$(tests/venv.sh publish tests/publish/requirements.txt) -B tests/publish/test_publish.py
