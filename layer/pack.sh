#!/bin/sh
# Packs a binary into a layer: layer/pack.sh x86_64|arm64 BINARY ZIP
set -eu
cd "$(dirname "$0")/.."
python=$(tests/venv.sh pack layer/pack.txt)
exec "$python" -B layer/pack.py "$@"
