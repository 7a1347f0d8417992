# The Terraform module's tests. Included by the root Makefile.

.PHONY: tf-test
tf-test: ## Check the Terraform module, and apply and destroy its examples against a local AWS (moto)
	terraform/test.sh
