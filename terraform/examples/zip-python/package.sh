#!/bin/sh
# Packages the app with its dependencies for Lambda: build/function.zip. Usage: ./package.sh [x86_64|arm64]
# PYTHON_VERSION, 3.13 by default, must be the function's runtime.
set -eu
cd "$(dirname "$0")"

arch=${1:-x86_64}
case $arch in
  x86_64) cpu=x86_64 ;;
  arm64) cpu=aarch64 ;;
  *) echo "package.sh: unknown architecture '$arch'; say x86_64 or arm64" >&2; exit 2 ;;
esac

rm -rf build
mkdir -p build/function
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target build/function --only-binary=:all: --no-compile \
  --implementation cp --python-version "${PYTHON_VERSION:-3.13}" --platform "manylinux2014_$cpu" --platform "manylinux_2_28_$cpu" \
  -r app/requirements.txt
cp app/handler.py build/function/
python3 -c 'import shutil; shutil.make_archive("build/function", "zip", "build/function")'
