#!/bin/sh
# Makes a Python environment once and prints the path of its interpreter: tests/venv.sh NAME requirements.txt
#
# It lives in target/venvs/NAME (or under CARGO_TARGET_DIR) and is made anew when the requirements change. Tests run beside
# one another, so a lock lets one of them install while the others wait. Exit status 3 says that python3 with venv and pip,
# or flock, is missing here; any other failure is one of the installation.
set -eu

name=$1
requirements=$2
root=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
venvs=${CARGO_TARGET_DIR:-$root/target}/venvs
venv=$venvs/$name

for tool in python3 flock; do
    command -v "$tool" >/dev/null || { echo "$tool is missing" >&2; exit 3; }
done
python3 -c 'import ensurepip, venv' 2>/dev/null || { echo "python3 has no venv or ensurepip module" >&2; exit 3; }

mkdir -p "$venvs"
exec 9>"$venvs/$name.lock"
flock 9
if ! cmp -s "$requirements" "$venv/installed.txt"; then
    rm -rf "$venv"
    python3 -m venv "$venv" >&2
    "$venv/bin/pip" install --quiet --disable-pip-version-check --requirement "$requirements" >&2
    # Last, so that an interrupted installation is never taken for a whole one.
    cp "$requirements" "$venv/installed.txt"
fi
echo "$venv/bin/python"
