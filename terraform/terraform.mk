# The Terraform module's tests. Included by the root Makefile.

.PHONY: tf-test
tf-test: ## Check the Terraform module, and apply and destroy its examples against a local AWS (moto)
	terraform/test.sh

.PHONY: smoke-aws
smoke-aws: ## Try both examples on AWS with your credentials: apply, invoke, freeze, time out, compare, destroy (CONFIRM=1)
	python3 -B terraform/smoke_aws.py
