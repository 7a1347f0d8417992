#!/bin/sh
# Builds every artefact of a release into dist/: layers, image, bills of materials, checksums.
# An architecture that this machine cannot build is left out, said in one line; with LAYER_TOOLCHAIN=rustup, as the
# release workflow sets it, nothing but the released form is built and a missing library source is an error.
set -eu
cd "$(dirname "$0")/.."

image=dist/langfuse-extension-image.tar
mkdir -p dist
rm -rf dist/langfuse-extension-* dist/SHA256SUMS target/layer/image

for arch in x86_64 arm64; do
  zip=dist/langfuse-extension-layer-$arch.zip
  status=0
  layer/build.sh "$arch" || status=$?
  if [ "$status" = 3 ]; then
    echo "release: $arch skipped"
    continue
  fi
  [ "$status" = 0 ] || exit "$status"
  layer/pack.sh "$arch" "target/layer/$arch/langfuse-extension" "$zip"
  layer/check.sh "$zip" "$arch"
  python3 -B layer/sbom.py "$arch" "dist/langfuse-extension-$arch.cdx.json"
done

python3 -B layer/image.py "$image" target/layer/image dist/langfuse-extension-layer-*.zip
python3 -B layer/run_image.py "$image"

(cd dist && sha256sum langfuse-extension-*.zip langfuse-extension-*.tar langfuse-extension-*.json >SHA256SUMS)
cat dist/SHA256SUMS
