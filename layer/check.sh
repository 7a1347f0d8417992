#!/bin/sh
# Refuses a layer that Lambda could not use. Usage: layer/check.sh ZIP x86_64|arm64
exec python3 -B "$(dirname "$0")/check.py" "$@"
