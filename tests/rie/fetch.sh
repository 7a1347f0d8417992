#!/bin/sh
# Fetches AWS's Runtime Interface Emulator once, and prints its path: tests/rie/fetch.sh
#
# AWS publishes the binary inside the wheel of its SAM command line.
set -eu

root=$(CDPATH= cd -- "$(dirname -- "$0")/../.." && pwd)
tools=${CARGO_TARGET_DIR:-$root/target}/tools
version=1.170.0
case $(uname -m) in
    x86_64) architecture=x86_64 ;;
    *) architecture=arm64 ;;
esac
rie=$tools/aws-lambda-rie-$version-$architecture

if ! [ -x "$rie" ]; then
    mkdir -p "$tools"
    scratch=$(mktemp -d "$tools/rie.XXXXXX")
    trap 'rm -rf "$scratch"' EXIT
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$scratch" "aws-sam-cli==$version" >&2
    python3 - "$scratch" "samcli/local/rapid/aws-lambda-rie-$architecture" <<'PYTHON'
import pathlib, sys, zipfile
scratch = pathlib.Path(sys.argv[1])
(wheel,) = scratch.glob("*.whl")
(scratch / "rie").write_bytes(zipfile.ZipFile(wheel).read(sys.argv[2]))
PYTHON
    chmod 755 "$scratch/rie"
    mv "$scratch/rie" "$rie" # Last, so that an interrupted download is never taken for a whole one.
fi
echo "$rie"
