#!/bin/sh
# Installs what builds and runs the layers of both architectures on a bare Debian: layer/toolchain.sh
#
# As root, and only what is missing. Rustup's toolchain is left as it is: where it has the source of its library (`rustup
# component add rust-src`), releases' way is open; elsewhere Debian's second Rust comes in behind it, as layer/build.sh's
# way `debian` needs it.
set -eu

packages=""
need() { # need FILE PACKAGE…: the packages, unless FILE is there
  file=$1
  shift
  [ -e "$file" ] || packages="$packages $*"
}

[ -d "$(rustc --print sysroot)/lib/rustlib/src/rust/library" ] ||
  need /usr/lib/rustlib/src/rust/library rustc-web cargo-web rust-web-src libstd-rust-web-dev
need /usr/bin/qemu-aarch64-static qemu-user-static # runs the other architecture
need /usr/sbin/debootstrap debootstrap             # makes a Debian root to build an image on,
need /usr/share/keyrings/debian-archive-keyring.gpg debian-archive-keyring
need /usr/bin/buildah buildah                      # which builds it from the example's own Dockerfile,
need /usr/bin/skopeo skopeo                        # which pushes the extension's image,
need /usr/bin/docker-registry docker-registry      # to a registry of this machine's own

if [ -z "$packages" ]; then
  echo "toolchain: everything is there"
elif [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  apt-get update -qq
  # shellcheck disable=SC2086 # a list
  DEBIAN_FRONTEND=noninteractive apt-get install --no-install-recommends -qq $packages >/dev/null
  echo "toolchain: installed$packages"
else
  echo "toolchain: what needs these will be skipped; as root on Debian they are installed:$packages"
fi
