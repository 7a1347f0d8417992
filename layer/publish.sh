#!/bin/sh
# Publishes the layers of dist/ to AWS, readable by everyone, and writes their ARNs to dist/layer-arns.txt.
#
#   REGIONS="eu-west-1 us-east-1" layer/publish.sh     (credentials as the AWS CLI finds them; CONFIRM=1)
set -eu
cd "$(dirname "$0")/.."

: "${REGIONS:?name the regions, e.g. REGIONS=\"eu-west-1 us-east-1\"}"
if [ "${CONFIRM:-}" != 1 ]; then
  echo "layer-publish: this publishes layers that cannot be taken back quietly; set CONFIRM=1 to go on" >&2
  exit 2
fi

arch_of() { # arch_of ZIP
  arch=${1#dist/langfuse-extension-layer-}
  echo "${arch%.zip}"
}

# All of them before the first is out.
for zip in dist/langfuse-extension-layer-*.zip; do
  layer/check.sh "$zip" "$(arch_of "$zip")"
done

version=$(python3 -B layer/crates.py)
: >dist/layer-arns.txt
for region in $REGIONS; do
  for zip in dist/langfuse-extension-layer-*.zip; do
    arch=$(arch_of "$zip")
    arn=$(aws lambda publish-layer-version --region "$region" --layer-name "langfuse-extension-$arch" \
      --description "langfuse-lambda-extension $version" --license-info Apache-2.0 \
      --compatible-architectures "$arch" --zip-file "fileb://$zip" --query LayerVersionArn --output text)
    aws lambda add-layer-version-permission --region "$region" --layer-name "langfuse-extension-$arch" \
      --version-number "${arn##*:}" --statement-id public --principal '*' --action lambda:GetLayerVersion >/dev/null
    echo "$arn" | tee -a dist/layer-arns.txt
  done
done
