#!/bin/sh
# Builds the release binary of one architecture, linked statically, and says which toolchain did it.
#
#   layer/build.sh x86_64|arm64        → target/layer/<arch>/langfuse-extension
#
# LAYER_TOOLCHAIN chooses the way; `auto`, the default, takes the first that this machine has:
#   rustup      musl, with rustup's Rust and the source of its library (`rustup component add rust-src`): for releases
#   debian      musl, with Debian's second Rust, which brings that source; layer/toolchain.sh installs it
#   crt-static  glibc, this machine's own architecture only, no extra tool: for development and CI. A static
#               glibc carries the LGPL's duties, so it is never released.
#
# The musl ways build the library, too: for size, and without what gives the frames of a backtrace their names, which a
# stripped program has none of. That is a tenth of the zip, and needs no target of rustup's.
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
target_dir=${CARGO_TARGET_DIR:-$root/target}

has_library_source() { [ -d "$("$1" --print sysroot 2>/dev/null)/lib/rustlib/src/rust/library" ]; }
is_own_architecture() { [ "$(uname -s)-$(uname -m)" = "Linux-$cpu" ]; }

choose_toolchain() {
  if has_library_source rustc; then echo rustup
  elif [ -x /usr/bin/cargo ] && has_library_source /usr/bin/rustc; then echo debian
  elif is_own_architecture; then echo crt-static
  else
    echo "layer/build.sh: nothing here can build for $arch. Run: rustup component add rust-src" >&2
    exit 3
  fi
}

build() { # build COMMAND [OPTION…]: one cargo call, the same for every way but for target and linker
  "$@" --release --locked -p langfuse-lambda-extension --target "$target"
}

# cargo-zigbuild brings its own linker and C compiler (zig) for any target, from PyPI. Zig also brings the C start-up
# files that the target would link by itself. The bootstrap flag permits building the library.
build_musl() {
  PATH=$(dirname "$(tests/venv.sh layer layer/requirements.txt)"):$PATH
  # Its own directory, so that two compilers do not overwrite each other's work.
  export PATH CARGO_TARGET_DIR="$target_dir/layer/$way" RUSTC_BOOTSTRAP=1
  export RUSTFLAGS="$flags -C link-self-contained=no"
  build cargo-zigbuild zigbuild -Zbuild-std=std,panic_unwind -Zbuild-std-features=panic-unwind,optimize_for_size
  target_dir=$CARGO_TARGET_DIR
}

way=${LAYER_TOOLCHAIN:-auto}
[ "$way" != auto ] || way=$(choose_toolchain)

# The same binary from every directory: no path of this machine may reach it.
flags="--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo --remap-path-prefix=$root=/source"
target=$musl
case $way in
  rustup)
    echo "layer: $arch by rustup's Rust, its library built for $musl, and cargo-zigbuild (static musl)"
    build_musl
    ;;
  debian)
    echo "layer: $arch by Debian's Rust, its library built for $musl, and cargo-zigbuild (static musl)"
    PATH=/usr/bin:$PATH
    build_musl
    ;;
  crt-static)
    target=$cpu-unknown-linux-gnu
    echo "layer: $arch by this machine's own glibc (static, for development; 'rustup component add rust-src' gives the released form)"
    export RUSTFLAGS="$flags -C target-feature=+crt-static"
    build cargo build
    ;;
  *) echo "layer/build.sh: unknown LAYER_TOOLCHAIN '$way'; say auto, rustup, debian or crt-static" >&2; exit 2 ;;
esac

out=$root/target/layer/$arch
mkdir -p "$out"
cp "$target_dir/$target/release/langfuse-extension" "$out/langfuse-extension"
printf '%s\n' "$way" >"$out/toolchain"
