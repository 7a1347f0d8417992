#!/bin/sh
# Runs the tests of the platform on a layer's own binary: layer/run.sh x86_64|arm64
#
# Another architecture's runs under qemu, and without the end-to-end tests, whose bounds are those of a real processor.
# What cannot be built or run here is skipped with one line.
set -eu

arch=${1:?usage: layer/run.sh x86_64|arm64}
cd "$(dirname "$0")/.."

skip() {
  echo "layer-run: $arch skipped: $1"
  exit 0
}

status=0
layer/build.sh "$arch" || status=$?
[ "$status" != 3 ] || skip "it cannot be built here"
[ "$status" = 0 ] || exit "$status"

case $arch in
  x86_64) cpu=x86_64 ;;
  *) cpu=aarch64 ;;
esac
export EXTENSION_BINARY="$PWD/target/layer/$arch/langfuse-extension"
if [ "$(uname -m)" = "$cpu" ]; then
  exec make rie resolver e2e
fi

# The wrapper's file must bear the extension's name, and so must what the program is told to be called: Lambda's API takes
# no other name than the file's.
qemu=$(command -v "qemu-$cpu-static") || skip "no qemu-$cpu-static (Debian: qemu-user-static)"
wrapper=$PWD/target/layer/$arch/qemu/langfuse-extension
mkdir -p "$(dirname "$wrapper")"
# shellcheck disable=SC2016 # for the wrapper to expand
printf '#!/bin/sh\nexec %s -0 "$0" %s "$@"\n' "$qemu" "$EXTENSION_BINARY" >"$wrapper"
chmod 755 "$wrapper"
EXTENSION_BINARY=$wrapper exec make rie resolver
