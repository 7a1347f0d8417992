#!/bin/sh
# Builds the release binary of one architecture, linked statically, and says which toolchain did it.
#
#   layer/build.sh x86_64|arm64        → target/layer/<arch>/langfuse-extension
#
# LAYER_TOOLCHAIN chooses the way; `auto`, the default, takes the first that this machine has:
#   rustup      musl, with `rustup target add <target>` and cargo-zigbuild: what releases use
#   debian      musl, with Debian's second Rust, which brings the library's source (no rustup target needed):
#               layer/toolchain.sh installs it
#   crt-static  glibc, this machine's own architecture only, no extra tool: for development and CI. A static
#               glibc carries the LGPL's duties, so it is never released.
set -eu

arch=${1:?usage: layer/build.sh x86_64|arm64}
case $arch in
  x86_64) cpu=x86_64 ;;
  arm64) cpu=aarch64 ;;
  *) echo "layer/build.sh: unknown architecture '$arch'; say x86_64 or arm64" >&2; exit 2 ;;
esac

root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
musl=$cpu-unknown-linux-musl
debian_source=/usr/lib/rustlib/src/rust/library
target_dir=${CARGO_TARGET_DIR:-$root/target}
venv=$target_dir/layer/venv

has_rustup_target() { [ -d "$(rustc --print sysroot 2>/dev/null)/lib/rustlib/$musl" ]; }
has_debian_rust() { [ -x /usr/bin/rustc ] && [ -x /usr/bin/cargo ] && [ -d "$debian_source" ]; }
is_own_architecture() { [ "$(uname -s)-$(uname -m)" = "Linux-$cpu" ]; }

choose_toolchain() {
  if has_rustup_target; then echo rustup
  elif has_debian_rust; then echo debian
  elif is_own_architecture; then echo crt-static
  else
    echo "layer/build.sh: nothing here can build for $arch. Run: rustup target add $musl" >&2
    exit 3
  fi
}

# cargo-zigbuild brings its own linker and C compiler (zig) for any target, from PyPI.
with_zigbuild() {
  if ! cmp -s layer/requirements.txt "$venv/requirements.txt"; then
    python3 -m venv --clear "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r layer/requirements.txt
    cp layer/requirements.txt "$venv/requirements.txt"
  fi
  PATH=$venv/bin:$PATH
  export PATH
}

build() { # build COMMAND [OPTION…]: one cargo call, the same for every way but for target and linker
  "$@" --release --locked -p langfuse-lambda-extension --target "$target"
}

way=${LAYER_TOOLCHAIN:-auto}
[ "$way" != auto ] || way=$(choose_toolchain)

# The same binary from every directory: no path of this machine may reach it.
flags="--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo --remap-path-prefix=$root=/source"
target=$musl
case $way in
  rustup)
    echo "layer: $arch by rustup's $musl and cargo-zigbuild (static musl)"
    with_zigbuild
    export RUSTFLAGS="$flags"
    build cargo-zigbuild zigbuild
    ;;
  debian)
    echo "layer: $arch by Debian's Rust, its library built for $musl, and cargo-zigbuild (static musl)"
    PATH=/usr/bin:$PATH
    with_zigbuild
    # Its own directory, so that two compilers do not overwrite each other's work; the bootstrap flag
    # permits building the library, and zig brings the C start-up files that the target would link by itself.
    export CARGO_TARGET_DIR="$target_dir/layer/debian" RUSTC_BOOTSTRAP=1
    export RUSTFLAGS="$flags -C link-self-contained=no"
    build cargo-zigbuild zigbuild -Zbuild-std=std,panic_unwind
    target_dir=$CARGO_TARGET_DIR
    ;;
  crt-static)
    target=$cpu-unknown-linux-gnu
    echo "layer: $arch by this machine's own glibc (static, for development; 'rustup target add $musl' gives the released form)"
    export RUSTFLAGS="$flags -C target-feature=+crt-static"
    build cargo build
    ;;
  *) echo "layer/build.sh: unknown LAYER_TOOLCHAIN '$way'; say auto, rustup, debian or crt-static" >&2; exit 2 ;;
esac

out=$root/target/layer/$arch
mkdir -p "$out"
cp "$target_dir/$target/release/langfuse-extension" "$out/langfuse-extension"
printf '%s\n' "$way" >"$out/toolchain"
