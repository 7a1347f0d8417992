#!/usr/bin/env python3
"""Packs a binary into a Lambda layer that is the same byte for byte each time: fixed times, order and modes.

Usage: layer/pack.py x86_64|arm64 BINARY ZIP     (writes ZIP and ZIP.sha256; needs layer/pack.txt, see layer/pack.sh)
"""

import hashlib
import stat
import sys
import zipfile
from pathlib import Path

import zopfli

import crates
import licences

EPOCH = (1980, 1, 1, 0, 0, 0)  # The earliest time that a zip can name.


def main(arch: str, binary: str, target: str) -> None:
    # Lambda starts every file in extensions/, so the licences stand beside that folder, not in it.
    entries = [
        ("extensions/langfuse-extension", stat.S_IFREG | 0o755, Path(binary).read_bytes()),
        # The same program, which tells by this name that it is the wrapper.
        ("langfuse", stat.S_IFLNK | 0o777, b"extensions/langfuse-extension"),
        ("licenses/LICENSE", stat.S_IFREG | 0o644, (crates.ROOT / "LICENSE").read_bytes()),
        ("licenses/THIRD-PARTY.txt", stat.S_IFREG | 0o644, licences.third_party(arch).encode()),
    ]
    out = Path(target)
    out.parent.mkdir(parents=True, exist_ok=True)
    # Takes seconds, once, and makes 3 % less of it.
    with zopfli.ZipFile(out, "w") as layer:
        for name, mode, content in entries:
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.create_system = 3  # Unix: the mode below is meant.
            entry.external_attr = mode << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            layer.writestr(entry, content)
    digest = hashlib.sha256(out.read_bytes()).hexdigest()
    out.with_name(out.name + ".sha256").write_text(f"{digest}  {out.name}\n")
    print(f"layer: {out} {out.stat().st_size:,} bytes, sha256 {digest}")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
