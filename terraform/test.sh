#!/bin/sh
# Format, validation and mocked tests of the module and its examples, then a real apply and destroy of both against moto.
# Skips with one line where terraform is not installed.
set -eu

if ! command -v terraform >/dev/null; then
  echo "tf-test: skipped, terraform is not installed: https://developer.hashicorp.com/terraform/install"
  exit 0
fi

here=$(cd "$(dirname "$0")" && pwd)
work=$(cd "$here/.." && pwd)/target/terraform
mkdir -p "$work"

# An offline mirror of the provider, where the machine has one; otherwise `terraform init` downloads it.
mirror=$(find /opt /usr/share/terraform /usr/local/share/terraform "$HOME/.terraform.d" -maxdepth 5 -type d \
  -path '*/registry.terraform.io/hashicorp/aws' 2>/dev/null | head -n 1)
[ -z "$mirror" ] || export TF_CLI_ARGS_init="-plugin-dir=${mirror%/registry.terraform.io/*}"
export TF_IN_AUTOMATION=1 TF_INPUT=0 TF_CLI_ARGS="-no-color" CHECKPOINT_DISABLE=1

terraform fmt -check -recursive "$here"

sed -n 's/^\(variable\|output\) "\(.*\)" {$/\2/p' "$here/variables.tf" "$here/outputs.tf" | while read -r name; do
  grep -q "^| \`$name\` |" "$here/README.md" || { echo "tf-test: terraform/README.md lacks $name" >&2; exit 1; }
done

for module in . examples/zip-python examples/container-fastapi; do
  export TF_DATA_DIR="$work/data/$module"
  echo "tf-test: $module"
  terraform -chdir="$here/$module" init -backend=false >/dev/null
  terraform -chdir="$here/$module" validate
done

export TF_DATA_DIR="$work/data/."
terraform -chdir="$here" test

if ! cmp -s "$here/tests/requirements.txt" "$work/venv/requirements.txt"; then
  python3 -m venv --clear "$work/venv"
  "$work/venv/bin/pip" install --quiet --disable-pip-version-check -r "$here/tests/requirements.txt"
  cp "$here/tests/requirements.txt" "$work/venv/requirements.txt"
fi
exec "$work/venv/bin/python" "$here/tests/deploy.py"
