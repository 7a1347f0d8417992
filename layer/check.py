#!/usr/bin/env python3
"""Refuses a layer that Lambda, or a reader of its licences, would have trouble with.

Usage: layer/check.sh ZIP x86_64|arm64     (LAYER_MAX_BYTES overrides the size budget of the zip)
"""

import os
import stat
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import elf

BINARY = "extensions/langfuse-extension"
WRAPPER = "langfuse"
LICENCES = ("licenses/LICENSE", "licenses/THIRD-PARTY.txt")
# Unpacking is part of every cold start that has not cached the layer. A quarter of a megabyte is `regex`, for masking.
ZIP_MAX_BYTES = 2_250_000
GLIBC_MAX = (2, 17)  # The oldest that any Lambda runtime or base image in use brings.
GLIBC_LIBRARIES = ("libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1", "libgcc_s.so.1", "ld-linux-")


def faults(path: Path, arch: str, max_bytes: int) -> Iterator[str]:
    """Each reason to refuse the layer, as a sentence."""
    size = path.stat().st_size
    if size > max_bytes:
        yield f"is {size:,} bytes, over the budget of {max_bytes:,}"
    try:
        layer = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        yield f"is no zip file: {error}"
        return
    with layer:
        entries = {entry.filename: entry for entry in layer.infolist()}
        for name in entries:
            if name.startswith("extensions/") and name != BINARY:
                yield f"holds {name}: Lambda starts every file in extensions/, so only {BINARY} may be there"
        for name in LICENCES:
            if name not in entries or not entries[name].file_size:
                yield f"lacks the licence texts in {name}"
        if BINARY not in entries:
            yield f"lacks {BINARY}"
            return
        mode = entries[BINARY].external_attr >> 16
        if not stat.S_ISREG(mode) or stat.S_IMODE(mode) != 0o755:
            yield f"has {BINARY} as {stat.filemode(mode)}, not -rwxr-xr-x: the function would not start"
        yield from wrapper_faults(layer, entries)
        yield from binary_faults(layer.read(BINARY), arch)


def wrapper_faults(layer: zipfile.ZipFile, entries: dict[str, zipfile.ZipInfo]) -> Iterator[str]:
    if WRAPPER not in entries:
        yield f"lacks {WRAPPER}, the wrapper"
        return
    mode, target = entries[WRAPPER].external_attr >> 16, layer.read(WRAPPER)
    if not stat.S_ISLNK(mode) or target != BINARY.encode():
        yield f"has {WRAPPER} as {stat.filemode(mode)}, not a link to {BINARY}: a function that it wraps would not start"


def binary_faults(data: bytes, arch: str) -> Iterator[str]:
    try:
        binary = elf.read(data)
    except ValueError as error:
        yield f"has a {BINARY} that is no program: {error}"
        return
    if binary.arch != arch:
        yield f"has a binary for {binary.arch}, not {arch}"
    if not binary.interpreter and not binary.needed:
        return
    foreign = [library for library in binary.needed if not library.startswith(GLIBC_LIBRARIES)]
    if foreign:
        yield f"has a binary that needs {', '.join(foreign)}, which a base image may lack"
        return
    if binary.glibc is None or binary.glibc > GLIBC_MAX:
        newest = "an unknown C library" if binary.glibc is None else "glibc {}.{}".format(*binary.glibc)
        yield f"has a binary that needs {newest}: link it statically, or for glibc {GLIBC_MAX[0]}.{GLIBC_MAX[1]}"


def main(target: str, arch: str) -> int:
    max_bytes = int(os.environ.get("LAYER_MAX_BYTES") or ZIP_MAX_BYTES)
    found = list(faults(Path(target), arch, max_bytes))
    for fault in found:
        print(f"layer check: {target} {fault}", file=sys.stderr)
    if not found:
        print(f"layer check: {target} is fit for {arch}")
    return 1 if found else 0


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
