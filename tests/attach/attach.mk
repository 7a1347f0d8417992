# terraform/attach on a local AWS. Included by the root Makefile.

.PHONY: attach-test
attach-test: ## Give functions of a local AWS (moto) the extension with terraform/attach, and take it away again
	$$(tests/venv.sh publish tests/publish/requirements.txt) -B tests/attach/test_attach.py
