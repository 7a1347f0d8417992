#!/bin/sh
# Installs a Node app once and prints the directory to run it from: tests/node.sh APP_DIR
#
# It lives in target/node/NAME (or under CARGO_TARGET_DIR), because Node looks for packages beside the app, and the
# repository is no place for them. Nothing is run or compiled on installing. Exit status 3 says that npm or flock is
# missing here; any other failure is one of the installation.
set -eu

app=$1
root=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
apps=${CARGO_TARGET_DIR:-$root/target}/node
dir=$apps/$(basename "$app")

for tool in npm flock; do
    command -v "$tool" >/dev/null || { echo "$tool is missing" >&2; exit 3; }
done

mkdir -p "$dir"
exec 9>"$dir.lock"
flock 9
cp "$app/app.mjs" "$dir/"
if ! cmp -s "$app/package-lock.json" "$dir/installed.json"; then
    rm -rf "$dir/node_modules"
    cp "$app/package.json" "$app/package-lock.json" "$dir/"
    npm ci --prefix "$dir" --ignore-scripts --no-audit --no-fund >&2
    # Last, so that an interrupted installation is never taken for a whole one.
    cp "$app/package-lock.json" "$dir/installed.json"
fi
echo "$dir"
